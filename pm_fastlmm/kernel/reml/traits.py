"""Several traits on one kernel, without candidates: their likelihood in the units of a scan, and its maximum."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import solve_triangular

from pm_fastlmm.base.arrays import EPS, FloatArray, lower_triangle
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.semidefinite import lower_root, require_semidefinite
from pm_fastlmm.kernel.likelihood.profile import maximise
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI
from pm_fastlmm.kernel.reml.candidates import RotatedCandidates
from pm_fastlmm.kernel.reml.few_traits import few
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_STARTS = (0.5, 0.1, 0.9)  # shares of the kernel
_INSIDE = 0.01  # share of either part from which covariances are looked for: in its root one of 0 has no slope
_DIFFERENCE = 1e-5
_ROUNDS = 8
_FLOOR = 1e-4  # of the largest curvature
_NONE: FloatArray = np.zeros(0)


class Likelihood(NamedTuple):
    """The arguments of `trait_loops.evaluate` before the point: -2ℓ of the traits, with or without a candidate."""

    model: Any
    g: FloatArray
    candidate: bool
    h: FloatArray

    @classmethod
    def without_candidate(cls, model: Any) -> Self:
        """Return that of the traits alone."""
        return cls(model, np.zeros(model.z.shape[1]), False, _NONE)

    def value(self, point: FloatArray) -> tuple[float, FloatArray]:
        """Return -2ℓ and its gradient."""
        gradient = np.empty_like(point)
        return float(few().evaluate(*self, point, gradient)), gradient

    def climb(self, point: FloatArray, inverse: FloatArray) -> tuple[float, bool]:
        """Move a point to the maximum, given the inverse of the curvature there; return -2ℓ and success."""
        f, reached = few().climb(*self, point, inverse)
        for _ in range(_ROUNDS):  # towards singular matrices whose factors are far from those at the start
            if reached:
                break
            f, reached = few().climb(*self, point, self.inverse_curvature(point))
        return f, reached

    def curvature(self, point: FloatArray) -> FloatArray:
        """Return the second derivatives of -2ℓ, by differences of the gradient."""
        steps = _DIFFERENCE * np.maximum(np.abs(point), 0.1)
        moves = np.diag(steps)
        differences = [self.value(point + move)[1] - self.value(point - move)[1] for move in moves]
        H = np.stack(differences) / (2 * steps[:, None])
        return np.asarray((H + H.T) / 2)

    def inverse_curvature(self, point: FloatArray) -> FloatArray:
        """Return the inverse of the curvature, made positive definite."""
        values, vectors = np.linalg.eigh(self.curvature(point))
        values = np.maximum(np.abs(values), _FLOOR * np.abs(values).max())
        return np.ascontiguousarray((vectors / values) @ vectors.T)

    def polished(self, point: FloatArray, f: float) -> tuple[FloatArray, float]:
        """Return the point after a step by Newton's method, which leaves the error of rounding."""
        H = self.curvature(point)
        if np.linalg.eigvalsh(H)[0] <= 0:
            return point, f
        moved = point - np.linalg.solve(H, self.value(point)[1])
        value = self.value(moved)[0]
        return (moved, value) if value <= f + 1e-12 * abs(f) else (point, f)


class Start(NamedTuple):
    """Where the covariances of a candidate are looked for: a point, and the inverse of the curvature of -2ℓ there."""

    point: FloatArray
    inverse: FloatArray


@dataclass(frozen=True, eq=False)
class TraitsNull:
    """
    The model of t traits without a candidate, vec Y ~ N(vec XB, Σ_g ⊗ K + Σ_e ⊗ I), on one spectrum.

    Attributes
    ----------
    spectrum : Spectrum
    model : trait_loops.Model
        In units in which the traits, X projected out, have the covariance I, and eigenvalues the mean 1.
    root : (t, t) array
        Lower triangular; the traits are `root` times those in the units of the model.
    unit : float
        The mean eigenvalue.
    directions : (n, t) array or None
        Orthonormal ones in which the traits lie in the null directions of K.
    point : (t(t + 1),) array
        The factors of Σ_g and Σ_e in the units of the model.
    objective : float
        -2ℓ there, without constants.
    """

    spectrum: Spectrum
    model: Any
    root: FloatArray
    unit: float
    directions: FloatArray | None
    point: FloatArray
    objective: float

    @classmethod
    def from_values(
        cls, spectrum: Spectrum, values: FloatArray, names: tuple[str, ...], method: Method, known: Any = None
    ) -> Self:
        """
        Maximise the (restricted) likelihood of traits (n, t); `known` are Σ_g and Σ_e that are kept.

        Raises
        ------
        ValueError
            If a trait alone has no estimate, traits are collinear, X leaves too few degrees of freedom, or the
            likelihood has no maximum.
        """
        t, p = len(names), spectrum.df
        if p < t + 2:
            raise ValueError(
                f"{spectrum.n} observations and {spectrum.projection.rank} columns of X leave {p} degrees of freedom, "
                f"and {t} traits with a candidate need {t + 2}: use fewer traits, fewer columns or more observations."
            )
        rotated = Rotated.from_values(spectrum, values, names)
        alone = maximise(rotated, method)
        for name, loglik, problem in zip(names, alone.loglik, alone.problem, strict=True):
            if not math.isfinite(loglik):
                raise ValueError(f"the model of {name} without candidates has no estimate: {problem}.")
        z, directions = _with_null_directions(rotated, values)
        root = _root(z @ z.T / p, names)
        unit = spectrum.mean_eigval
        model = _model(spectrum, solve_triangular(root, z, lower=True), unit, method)
        if known is None:
            point, f = _highest(model, alone.sigma2_g * unit / (alone.sigma2_g * unit + alone.sigma2_e))
        else:
            inner = [solve_triangular(root, lower_root(S), lower=True) for S in (known[0] * unit, known[1])]
            point = _packed([lower_root(R @ R.T) for R in inner])
            f = Likelihood.without_candidate(model).value(point)[0]
        return cls(spectrum, model, root, unit, directions, point, float(f))

    def covariances(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Σ_g and Σ_e (…, t, t) at points (…, t(t + 1)), in the units of the traits."""
        L = np.zeros((*points.shape[:-1], 2, *self.root.shape))
        rows, columns = lower_triangle(*self.root.shape)
        L[..., rows, columns] = points.reshape(*points.shape[:-1], 2, len(rows))
        R = self.root @ L
        S = R @ R.swapaxes(-1, -2)
        return S[..., 0, :, :] / self.unit, S[..., 1, :, :]

    @property
    def loglik(self) -> float:
        """The maximum of the (restricted) log-likelihood, in the form of Patterson and Thompson."""
        s, m, t = self.spectrum, self.model.size, len(self.root)
        constant = m * (t * LOG_2PI + 2 * float(np.log(np.diag(self.root)).sum()))
        flat = s.log_flat if self.model.restricted else s.weights.logdet
        return float(t * flat - 0.5 * (self.objective + constant))

    @property
    def axes(self) -> Any:
        """The basis of the traits at the point, `trait_loops.Axes`."""
        return few().axes_of(few().factors(self.point, len(self.root)))

    @cached_property
    def start(self) -> Start:
        """Where to start from with a candidate."""
        axes = self.axes
        kept = np.clip(axes.shares / axes.shares.sum(axis=0), _INSIDE, 1 - _INSIDE)
        inverse = np.linalg.inv(axes.T)
        point = _packed([lower_root((inverse * share) @ inverse.T) for share in kept])
        return Start(point, Likelihood.without_candidate(self.model).inverse_curvature(point))

    def rows_of(self, rotated: RotatedCandidates) -> FloatArray:
        """Return candidates (m, K), those of which all is known, with their null directions at the end."""
        fine = rotated.reason == ""
        if self.directions is None:
            return np.ascontiguousarray(rotated.g[fine])
        along, whole = rotated.null[fine, :-1], rotated.null[fine, -1]
        rest = np.sqrt(np.maximum(whole - (along**2).sum(axis=1), 0.0))
        return np.ascontiguousarray(np.column_stack([rotated.g[fine], along, rest]))


def _with_null_directions(rotated: Rotated, values: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """Return the rotated traits (t, K), in the null directions of K too, and these."""
    spectrum, z = rotated.spectrum, rotated.z
    if not spectrum.nullity:
        return z, None
    projection, left = spectrum.projection, spectrum.weights.rows(values)
    left = left - projection.Q1 @ (projection.Q1.T @ left)
    left -= spectrum.basis @ z.T
    directions = np.linalg.svd(left / np.sqrt(rotated.norm2), full_matrices=False)[0]
    return np.column_stack([z, left.T @ directions, np.zeros(len(z))]), directions


def _root(S: FloatArray, names: tuple[str, ...]) -> FloatArray:
    """Return the root of the covariance of the traits."""
    scale = np.sqrt(np.diag(S))
    values, vectors = np.linalg.eigh(S / scale / scale[:, None])
    if values[0] <= len(S) * 100 * EPS:
        involved = [name for name, v in zip(names, vectors[:, 0], strict=True) if abs(v) > 1e-3]
        raise ValueError(
            f"the traits {listed(involved)} are collinear, X projected out: one of them follows from the others, so "
            "that it says nothing of its own. Leave it out."
        )
    return scale[:, None] * np.linalg.cholesky(S / scale / scale[:, None])


def _model(spectrum: Spectrum, z: FloatArray, unit: float, method: Method) -> Any:
    C, schur = spectrum.corner_axes() if method == "ML" else (spectrum.C[:, :0], spectrum.schur[:0, :0])
    eigvals = np.concatenate([spectrum.eigvals / unit, np.zeros(z.shape[1] - spectrum.rank)])
    size = float(spectrum.df + len(schur))
    parts = np.ascontiguousarray(C / unit), np.ascontiguousarray(schur / unit)
    z = np.ascontiguousarray(z)
    return few().Model(eigvals, z, spectrum.rank, spectrum.nullity, size, method == "REML", *parts)


def _highest(model: Any, shares: FloatArray) -> tuple[FloatArray, float]:
    """Return the highest of the maxima that are reached from several starts, and -2ℓ there."""
    t, of, found = len(model.z), Likelihood.without_candidate(model), []
    inverse = np.eye(t * (t + 1)) / (2 * model.size)
    others = _STARTS if t > 1 else ()  # the maximum of one trait is global
    for start in (np.clip(shares, _INSIDE, 1 - _INSIDE), *(np.full(t, share) for share in others)):
        point = _packed([np.diag(np.sqrt(start)), np.diag(np.sqrt(1 - start))])
        f, reached = of.climb(point, inverse)
        found.append((not reached, f, point))
    failed, f, point = min(found, key=lambda one: one[:2])
    if failed:
        raise ValueError(
            "the model without candidates has no estimate: the likelihood of the traits together could not be "
            "maximised. Use fewer traits, or give covariances as null=(sigma_g, sigma_e)."
        )
    return of.polished(point, f)


def _packed(roots: list[FloatArray]) -> FloatArray:
    return np.concatenate([root[lower_triangle(*root.shape)] for root in roots])


def read_covariances(known: Any, names: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
    """
    Return Σ_g and Σ_e that a user gives, in the order of the traits.

    Raises
    ------
    ValueError
        If these are not two (t, t) covariance matrices.
    """
    t = len(names)
    try:
        pair = [_ordered(part, names) for part in known]
    except TypeError:
        pair = []
    if len(pair) != 2 or any(part.shape != (t, t) for part in pair):
        raise ValueError(
            f"null must be (sigma_g, sigma_e), two ({t}, {t}) covariance matrices of {listed(names)}, got "
            f"{', '.join(str(part.shape) for part in pair) or type(known).__name__}."
        )
    for called, part in zip(("sigma_g", "sigma_e"), pair, strict=True):
        if not np.allclose(part, part.T, rtol=1e-8, atol=0):
            raise ValueError(f"{called} of null is not symmetric.")
        require_semidefinite(np.linalg.eigvalsh(part), f"{called} of null")
    return pair[0], pair[1]


def _ordered(part: Any, names: tuple[str, ...]) -> FloatArray:
    labels = getattr(part, "index", None)
    if labels is not None and {*labels} == {*names}:
        part = part.loc[list(names), list(names)]
    return np.asarray(part, dtype=float)
