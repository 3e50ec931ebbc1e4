"""Which eigenvalues of K count as zero, and roots of the part of K along X that no eigenvector shares."""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import eigen_root, indefinite, zero_tolerance


def positive_eigenvalues(
    values: FloatArray, K11: FloatArray, rtol: float | None, K: Any, n: int
) -> tuple[int, float, float]:
    """
    Return how many of the ascending eigenvalues count as zero, the tolerance, and the scale that it is relative to.

    Raises
    ------
    ValueError
        If one is negative beyond the tolerance.
    """
    scale = max(float(np.abs(values).max()), float(np.abs(K11).max(initial=0.0)))
    tolerance = _relative_tolerance(rtol, K, n) * scale
    if values[0] < -tolerance:
        raise indefinite("K", float(values[0]), scale, rtol=True)
    return int(np.searchsorted(values, tolerance, side="right")), tolerance, scale


def _relative_tolerance(rtol: float | None, K: Any, n: int) -> float:
    if rtol is None:
        dtype = np.asarray(getattr(K, "values", K)).dtype
        return n * float(np.finfo(dtype if dtype in (np.float16, np.float32) else np.float64).eps)
    if not (isinstance(rtol, int | float) and 0 <= rtol < 1):
        raise ValueError(f"rtol must be a number between 0 and 1, got {rtol!r}.")
    return float(rtol)


def corner_root(K11: FloatArray, C: FloatArray, eigvals: FloatArray, tolerance: float, scale: float) -> FloatArray:
    """Return a root of S₀ = K₁₁ - CᵀΛ⁻¹C, which is positive semi-definite if and only if K is (K₂₂ being so)."""
    if not C.shape[1]:
        return np.zeros((0, 0))
    amplified = C / eigvals[:, None]
    schur = K11 - C.T @ amplified
    # an error of the size of the tolerance in K is one of (I, -Λ⁻¹C)ᵀ(·)(I, -Λ⁻¹C) here
    allowed = tolerance * (1 + float(np.linalg.eigvalsh(amplified.T @ amplified)[-1]))
    values, vectors = np.linalg.eigh(schur)
    if values[0] < -10 * allowed:
        raise indefinite("K", float(values[0]), scale, rtol=True)
    return eigen_root(values, vectors, max(allowed, zero_tolerance(values)))


def factor_corner_root(W1: FloatArray, Vt: FloatArray, tolerance: float) -> FloatArray:
    """Return a root of S₀: the part of W₁ = Q₁ᵀW that the right singular vectors of Q₂ᵀW do not share."""
    left = W1 - (W1 @ Vt.T) @ Vt
    if not left.shape[0]:
        return np.zeros((0, 0))
    vectors, roots, _ = np.linalg.svd(left)  # not of the Gram matrix, which would lose half of the digits
    roots = np.append(roots, np.zeros(left.shape[0] - roots.size))
    return np.asarray(vectors * np.where(roots**2 > tolerance, roots, 0.0))
