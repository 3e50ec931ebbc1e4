"""
Known covariances that are negative along fixed effects alone, and what is taken in their place.

Where each pair of a relationship matrix was divided by its own number of markers, K is no covariance; its negative
eigenvalue often belongs to the mean. K + FAFᵀ with a large enough A is one, and where the effects F lie in X it has the
same likelihood of the error contrasts, the same estimates of the variances and the same differences between effects.
Only standard errors of those coefficients that A is along depend on it.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Negative
from pm_fastlmm.base.semidefinite import eigen_root, indefinite_kernel, zero_tolerance

_OUTSIDE = 1e-10  # share of its squared length that an effect may have outside X and is still said to lie in it


def corner_root(K11: FloatArray, C: FloatArray, eigvals: FloatArray, tolerance: float) -> FloatArray:
    """
    Return a root of S₀ = K₁₁ - CᵀΛ⁻¹C, or of the nearest matrix that has one.

    S₀ is positive semi-definite if and only if K is (K₂₂ being so). Where it is not, K is negative along X alone, and
    K + XAXᵀ is taken in its place.
    """
    if not C.shape[1]:
        return np.zeros((0, 0))
    amplified = C / eigvals[:, None]
    schur = K11 - C.T @ amplified
    # an error of the size of the tolerance in K is one of (I, -Λ⁻¹C)ᵀ(·)(I, -Λ⁻¹C) here
    allowed = tolerance * (1 + float(np.linalg.eigvalsh(amplified.T @ amplified)[-1]))
    values, vectors = np.linalg.eigh(schur)
    return eigen_root(values, vectors, max(allowed, zero_tolerance(values)))


def root_across(
    K: FloatArray, F: FloatArray, negative: Negative, *, rtol: float | None = None, takes_rtol: bool = False
) -> FloatArray:
    """
    Return a root R of K + FAFᵀ, with the A that makes it a covariance.

    Parameters
    ----------
    K : (q, q) array
    F : (q, k) array
        Orthonormal columns; none for K itself.
    negative : {"error", "zero"}
        What becomes of eigenvalues below zero across F.
    rtol : float, optional
        As in `Spectrum.from_covariance`.
    takes_rtol : bool
        Whether the user may give it.

    Raises
    ------
    ValueError
        If K is negative across F, and such eigenvalues are not taken to be 0.
    """
    k = F.shape[1]
    Q = np.linalg.qr(F, mode="complete")[0] if k else np.eye(len(K))
    inner = Q.T @ K @ Q
    K11, K21 = inner[:k, :k], inner[k:, :k]
    values, U = np.linalg.eigh(inner[k:, k:])
    largest = max(float(np.abs(values).max(initial=0.0)), float(np.abs(K11).max(initial=0.0)))
    tolerance = largest * (len(K) * float(np.finfo(float).eps) if rtol is None else rtol)
    if values.min(initial=0.0) < -tolerance and negative == "error":
        raise indefinite_kernel(values, largest, rtol=takes_rtol)
    kept = values > tolerance
    eigvals, C = values[kept], (U.T @ K21)[kept]
    roots = np.sqrt(eigvals)
    across = Q[:, k:] @ (U[:, kept] * roots) + Q[:, :k] @ (C / roots[:, None]).T
    return np.hstack([across, Q[:, :k] @ corner_root(K11, C, eigvals, tolerance)])


def effects_in(Q1: FloatArray, place: npt.NDArray[np.intp], columns: FloatArray, q: int) -> FloatArray:
    """
    Return an orthonormal basis F (q, k) of the effects of q levels that lie in the fixed effects.

    Parameters
    ----------
    Q1 : (n, r) array
        An orthonormal basis of X.
    place : (n,) array of int
        The level of each row, -1 where it has none.
    columns : (n, c) array
        By which the effects of a level are multiplied in its rows: ones, and slopes.
    q : int

    Notes
    -----
    With Z_j = diag(column j) Z, effects f lie in X if Σ_j ‖Q₁ᵀZ_jf‖² = Σ_j ‖Z_jf‖²: where a singular value of
    D^-½ (Z₁ᵀQ₁, Z₂ᵀQ₁, …), D = Σ_j Z_jᵀZ_j, is 1. Levels without rows have the effect 0 there, but for the mean of all.
    """
    rows = np.flatnonzero(place >= 0)
    Z = [csr_array((column[rows], (rows, place[rows])), shape=(len(place), q)) for column in columns.T]
    length = np.sqrt(sum(np.asarray(part.power(2).sum(axis=0)) for part in Z))
    over = np.divide(1.0, length, out=np.zeros(q), where=length > 0)
    U, s, _ = np.linalg.svd(over[:, None] * np.hstack([part.T @ Q1 for part in Z]), full_matrices=False)
    U = U[:, s**2 > 1 - _OUTSIDE]
    F = over[:, None] * U
    if not (length > 0).all() and (length**2).sum() - ((length @ U) ** 2).sum() <= _OUTSIDE * (length**2).sum():
        F = np.column_stack([F, np.ones(q)])
    return np.linalg.qr(F)[0]
