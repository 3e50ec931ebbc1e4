"""Which eigenvalues of K count as zero, and the root of the part of K along X that no singular vector shares."""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Negative, require_choice
from pm_fastlmm.base.semidefinite import indefinite_kernel


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


def factor_corner_root(W1: FloatArray, Vt: FloatArray, tolerance: float) -> FloatArray:
    """Return a root of S₀: the part of W₁ = Q₁ᵀW that the right singular vectors of Q₂ᵀW do not share."""
    left = W1 - (W1 @ Vt.T) @ Vt
    if not left.shape[0]:
        return np.zeros((0, 0))
    vectors, roots, _ = np.linalg.svd(left)  # not of the Gram matrix, which would lose half of the digits
    roots = np.append(roots, np.zeros(left.shape[0] - roots.size))
    return np.asarray(vectors * np.where(roots**2 > tolerance, roots, 0.0))
