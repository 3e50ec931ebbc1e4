"""
Steps among positive semi-definite matrices: the best step of the quadratic model of ℓ that keeps them so.

V is linear in the elements of an unstructured Σ, and a step is best taken in these. What is not linear is their space,
a cone. Coordinates that know the cone, such as factors of Σ, bend the likelihood where Σ becomes singular, and steps in
them crawl. Here the likelihood keeps its coordinates, and its quadratic model is maximised over the cone:

    max_δ sᵀδ - ½ δᵀIδ   subject to   Σ_k + δ_k positive semi-definite, lower ≤ ω + δ ≤ upper

This problem is convex and small, no likelihood is evaluated for it, and at its solution δ = 0 the conditions of Kuhn
and Tucker hold for ℓ itself: no direction out of a singular matrix is missed. It is solved by a primal–dual interior
point method with the scaling of Nesterov & Todd (1997, doi:10.1287/moor.22.1.1) and the correction of Mehrotra (1992,
doi:10.1137/0802028). An eigenvalue that ends as good as 0 is made exactly 0.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import EPS, FloatArray, lower_triangle, packed_places
from pm_fastlmm.base.display import listed

_ITERATIONS = 60
_INSIDE = 0.99  # of the way to where a matrix becomes singular
_FLOOR = 1e-8  # smallest eigenvalue of the information, scaled to unit diagonal, that a step divides by
_GAP = 1e-15  # complementarity in the scaled model at which the method ends
_SMALL = 1e-10  # complementarity below which the method ends as soon as it falls no longer
_STUCK = 1e-3  # length of a step below which rounding has the last word
_ROUNDING = 1e-14  # of a correlation matrix: its eigenvalues may be so far below 0
SINGULAR = 1e-9  # smallest eigenvalue, beside variances of 1, below which a matrix is singular


class PackedMatrix(NamedTuple):
    """A symmetric matrix among coordinates: where its lower triangle stands, row by row, its size and its name."""

    place: slice
    size: int
    called: str = ""

    def read(self, values: FloatArray) -> FloatArray:
        """Return the matrix (size, size)."""
        return np.asarray(values[self.place][packed_places(self.size)])

    @property
    def directions(self) -> FloatArray:
        """∂Σ/∂ω for each of its elements, (elements, size, size)."""
        rows, columns = lower_triangle(self.size, self.size)
        out = np.zeros((len(rows), self.size, self.size))
        out[np.arange(len(rows)), rows, columns] = out[np.arange(len(rows)), columns, rows] = 1.0
        return out

    def unit(self, values: FloatArray, error: FloatArray) -> FloatArray:
        """Return the sizes of its effects: roots of its variances, or of their errors where these are larger."""
        variances = np.maximum(np.diag(self.read(values)), np.diag(self.read(error)))
        return np.asarray(np.sqrt(np.where(variances > 0, variances, 1.0)))


def pack(matrix: FloatArray) -> FloatArray:
    """Return the lower triangle of a matrix row by row."""
    return np.asarray(matrix[lower_triangle(*matrix.shape)])


def read_matrix(given: Any, names: Sequence[str], called: str, what: str) -> FloatArray:
    """
    Return the lower triangle of a matrix that a user gives; the names of its elements tell the order of labelled ones.

    Raises
    ------
    ValueError
        If it is not a symmetric matrix of that size, or has other labels.
    """
    size = math.isqrt(2 * len(names))  # of size (size + 1)/2 elements
    labels = [names[k * (k + 3) // 2].removeprefix(called)[1:-1] for k in range(size)]
    if hasattr(given, "loc") and list(given.index) != labels:
        if {*given.index} != {*labels} or {*given.columns} != {*labels}:
            raise ValueError(f"{what} of {called!r} has the labels {listed(given.index)}: expected {listed(labels)}.")
        given = given.loc[labels, labels]
    matrix = np.asarray(given, dtype=float)
    if matrix.shape != (size, size) or not np.allclose(matrix, matrix.T, rtol=1e-9, atol=0, equal_nan=True):
        raise ValueError(
            f"{what} of {called!r} must be a symmetric ({size}, {size}) matrix over {listed(labels)}, got "
            f"{'one that is not symmetric' if matrix.shape == (size, size) else f'shape {matrix.shape}'}."
        )
    return pack(matrix)


def smallest_eigenvalue(matrix: FloatArray) -> float:
    """Return the smallest eigenvalue of a symmetric matrix whose variances are made 1; 0 if one of them is 0."""
    variances = np.diag(matrix)
    if (variances < 0).any() or matrix[variances == 0].any():
        return -np.inf
    if not matrix.any():
        return 0.0
    kept = variances > 0
    scale = 1 / np.sqrt(variances[kept])
    smallest = float(np.linalg.eigvalsh(matrix[np.ix_(kept, kept)] * scale[:, None] * scale)[0])
    return smallest if kept.all() else min(smallest, 0.0)


def all_semidefinite(omega: FloatArray, matrices: Sequence[PackedMatrix]) -> bool:
    """Whether all matrices among the coordinates are positive semi-definite, but for rounding."""
    return all(smallest_eigenvalue(m.read(omega)) >= -_ROUNDING * m.size for m in matrices)


def errors(information: FloatArray) -> FloatArray:
    """Return 1/√I_ii, and 0 where there is no information."""
    diagonal = information.diagonal()
    return np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)


def positive(information: FloatArray) -> FloatArray:
    """Return the information with the eigenvalues of its correlations kept positive."""
    diagonal = information.diagonal()
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(information / scale[:, None] / scale)
    return np.asarray((vectors * np.maximum(values, _FLOOR * values.max())) @ vectors.T * np.outer(scale, scale))


def best_step(
    score: FloatArray,
    information: FloatArray,
    omega: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    matrices: Sequence[PackedMatrix],
    free: Any,
) -> FloatArray:
    """
    Return the step δ of the free coordinates that the quadratic model likes best, 0 for the others.

    Coordinates are measured in standard errors, matrices
    in units that give them variances of the order of 1, so that neither units nor columns matter.
    """
    error = errors(information)
    unit = np.where(error > 0, error, 1.0)
    moving = [m for m in matrices if free[m.place].all()]
    units = [m.unit(omega, error) for m in moving]
    single = np.array(free)
    for m, t in zip(moving, units, strict=True):
        unit[m.place], single[m.place] = pack(np.outer(t, t)), False
    B, S = _constraints(omega, lower, upper, unit, moving, single)
    index = np.flatnonzero(free)
    scaled = positive(information[np.ix_(index, index)] * np.outer(unit[index], unit[index]))
    z, X, Z = _maximise(score[index] * unit[index], scaled, B[index], S)
    step = np.zeros_like(omega)
    step[index] = z * unit[index]
    start = 0
    for m, t in zip(moving, units, strict=True):
        own = slice(start, start + m.size)
        step[m.place] = pack(_rounded(X[own, own], Z[own, own]) * np.outer(t, t)) - omega[m.place]
        start += m.size
    touched = (np.diag(X) < SINGULAR) & (np.diag(X) < np.diag(Z))
    for k in np.flatnonzero(touched[start:]) + start:
        i = int(np.flatnonzero(B[:, k, k])[0])
        step[i] = (lower if B[i, k, k] > 0 else upper)[i] - omega[i]
    return step


def _constraints(
    omega: FloatArray, lower: FloatArray, upper: FloatArray, unit: FloatArray, moving: Sequence[PackedMatrix],
    single: Any,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Return B and S of S + Σ z_iB_i ⪰ 0: the matrices along the diagonal, then the distance from each bound."""
    bounds = [(i, 1.0, omega[i] - lower[i]) for i in np.flatnonzero(single & np.isfinite(lower))]
    bounds += [(i, -1.0, upper[i] - omega[i]) for i in np.flatnonzero(single & np.isfinite(upper))]
    size = sum(m.size for m in moving) + len(bounds)
    B, S = np.zeros((len(omega), size, size)), np.zeros((size, size))
    start = 0
    for m in moving:
        own = slice(start, start + m.size)
        B[m.place, own, own], S[own, own] = m.directions, m.read(omega / unit)
        start += m.size
    for k, (i, sign, room) in enumerate(bounds, start):
        B[i, k, k], S[k, k] = sign, room / unit[i]
    return B, S


def _maximise(g: FloatArray, H: FloatArray, B: FloatArray, S: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """
    Return z that maximises gᵀz - ½zᵀHz where X = S + Σ z_iB_i ⪰ 0, with X and its multiplier Z, XZ = 0.

    In the basis R with R⁻¹XR⁻ᵀ = RᵀZR = diag(d), a step solves a least-squares problem, which keeps its digits where
    X and Z become singular.
    """
    values, vectors = np.linalg.eigh(H)
    values = np.maximum(values, EPS * values[-1])  # of a matrix whose elements are rounded
    F, Finv = np.sqrt(values)[:, None] * vectors.T, vectors.T / np.sqrt(values)[:, None]
    c = len(S)
    z, X, Z = np.zeros(len(g)), S + np.eye(c), max(1.0, float(np.abs(g).max())) * np.eye(c)
    before = np.inf
    for _ in range(_ITERATIONS):
        try:
            left, right = np.linalg.cholesky(X), np.linalg.cholesky(Z)
        except np.linalg.LinAlgError:
            break
        U, d, Vt = np.linalg.svd(right.T @ left)
        mu = float(d @ d) / c
        if mu < _GAP or (mu < _SMALL and mu > before / 2):
            break
        before = mu
        R, inverse = left @ Vt.T / np.sqrt(d), (U / np.sqrt(d)).T @ right.T
        slopes = inverse @ B @ inverse.T
        gap = inverse @ (S + np.tensordot(z, B, 1) - X) @ inverse.T
        Q, T = np.linalg.qr(np.vstack([F, slopes.reshape(len(g), -1).T]))
        residual = Finv @ g - F @ z

        def direction(aim: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            target = 2 * aim / (d[:, None] + d)  # noqa: B023
            known = np.concatenate([residual, (np.diag(d) + target - gap).ravel()])  # noqa: B023
            dz = np.linalg.solve(T, Q.T @ known)  # noqa: B023
            dX = np.tensordot(dz, slopes, 1) + gap  # noqa: B023
            return dz, dX, target - dX

        _, dX, dZ = direction(-np.diag(d**2))
        t = min(_room(d, dX), _room(d, dZ))
        after = float(np.sum((np.diag(d) + t * dX) * (np.diag(d) + t * dZ))) / c
        centre = min(1.0, max(after / mu, 0.0) ** 3) * mu
        dz, dX, dZ = direction(centre * np.eye(c) - np.diag(d**2) - (dX @ dZ + dZ @ dX) / 2)
        t = min(_room(d, dX), _room(d, dZ))
        if t < _STUCK:
            break
        z, X, Z = z + t * dz, X + t * R @ dX @ R.T, Z + t * inverse.T @ dZ @ inverse
        X, Z = (X + X.T) / 2, (Z + Z.T) / 2
    return z, X, Z


def _room(d: FloatArray, change: FloatArray) -> float:
    """Return how far diag(d) + t · change may go, at most 1."""
    root = np.sqrt(d)
    lowest = float(np.linalg.eigvalsh((change + change.T) / 2 / root[:, None] / root)[0])
    return 1.0 if lowest > -_INSIDE else -_INSIDE / lowest


def _rounded(X: FloatArray, Z: FloatArray) -> FloatArray:
    """Return X without the eigenvalues that are as good as 0, those with a multiplier."""
    values, vectors = np.linalg.eigh(X)
    multipliers = np.einsum("ai,ab,bi->i", vectors, Z, vectors)
    kept = np.where((values < SINGULAR) & (values < multipliers), 0.0, values)
    return np.asarray((vectors * kept) @ vectors.T)
