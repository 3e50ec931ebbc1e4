"""Which eigenvalues of K count as zero, and roots of the part of K along X that no eigenvector shares."""

from typing import Any, Literal

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.semidefinite import eigen_root, indefinite_kernel, zero_tolerance

type Negative = Literal["error", "zero"]


def positive_eigenvalues(
    values: FloatArray, K11: FloatArray, rtol: float | None, K: Any, n: int, negative: Negative = "error"
) -> tuple[int, float]:
    """
    Return how many of the ascending eigenvalues of Q₂ᵀKQ₂ count as zero, and the tolerance.

    Raises
    ------
    ValueError
        If one is negative beyond the tolerance, and negative ones are not taken to be 0.
    """
    require_choice("negative", negative, Negative)
    scale = max(float(np.abs(values).max()), float(np.abs(K11).max(initial=0.0)))
    tolerance = _relative_tolerance(rtol, K, n) * scale
    if values[0] < -tolerance and negative == "error":
        raise indefinite_kernel(values, scale, rtol=True)
    return int(np.searchsorted(values, tolerance, side="right")), tolerance


def _relative_tolerance(rtol: float | None, K: Any, n: int) -> float:
    if rtol is None:
        dtype = np.asarray(getattr(K, "values", K)).dtype
        return n * float(np.finfo(dtype if dtype in (np.float16, np.float32) else np.float64).eps)
    if not (isinstance(rtol, int | float) and 0 <= rtol < 1):
        raise ValueError(f"rtol must be a number between 0 and 1, got {rtol!r}.")
    return float(rtol)


def corner_root(K11: FloatArray, C: FloatArray, eigvals: FloatArray, tolerance: float) -> FloatArray:
    """
    Return a root of S₀ = K₁₁ - CᵀΛ⁻¹C, or of the nearest matrix that has one.

    S₀ is positive semi-definite if and only if K is (K₂₂ being so). Where it is not, K is negative along X alone, as
    where each pair of a relationship matrix was divided by its own number of markers: K + XAXᵀ with a large enough A is
    a covariance, with the same likelihood of the error contrasts and the same differences between effects, and it is
    taken in place of K. Only standard errors of those coefficients that A is along depend on it.
    """
    if not C.shape[1]:
        return np.zeros((0, 0))
    amplified = C / eigvals[:, None]
    schur = K11 - C.T @ amplified
    # an error of the size of the tolerance in K is one of (I, -Λ⁻¹C)ᵀ(·)(I, -Λ⁻¹C) here
    allowed = tolerance * (1 + float(np.linalg.eigvalsh(amplified.T @ amplified)[-1]))
    values, vectors = np.linalg.eigh(schur)
    return eigen_root(values, vectors, max(allowed, zero_tolerance(values)))


def factor_corner_root(W1: FloatArray, Vt: FloatArray, tolerance: float) -> FloatArray:
    """Return a root of S₀: the part of W₁ = Q₁ᵀW that the right singular vectors of Q₂ᵀW do not share."""
    left = W1 - (W1 @ Vt.T) @ Vt
    if not left.shape[0]:
        return np.zeros((0, 0))
    vectors, roots, _ = np.linalg.svd(left)  # not of the Gram matrix, which would lose half of the digits
    roots = np.append(roots, np.zeros(left.shape[0] - roots.size))
    return np.asarray(vectors * np.where(roots**2 > tolerance, roots, 0.0))
