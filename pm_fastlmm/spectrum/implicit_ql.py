"""The eigenvalues of a symmetric tridiagonal matrix, and the coordinates of a few vectors, without its eigenvectors."""

import math

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import FloatArray

_EPS = float(np.finfo(np.float64).eps)
_SWEEPS = 60


@njit(cache=True, nogil=True, error_model="numpy")
def implicit_ql(d: FloatArray, e: FloatArray, B: FloatArray) -> bool:
    """
    Diagonalise T = S diag(d) Sᵀ in place by QL with implicit shifts, and turn B (n, c) into SᵀB.

    d (n,) is the diagonal, e (n,) the subdiagonal and one more entry. Every rotation is applied to two rows of B alone:
    O(n²c) instead of O(n³) (Golub & Welsch 1969, doi:10.1090/S0025-5718-69-99647-1, for any rows instead of the first
    one). Returns whether it converged.
    """
    n = d.size
    norm = 0.0
    for i in range(n):
        norm = max(norm, abs(d[i]) + abs(e[i]))
    for low in range(n):
        for sweep in range(_SWEEPS + 1):
            high = low
            while high < n - 1:
                # the first is LAPACK's criterion; the second drops what is rounding, in a null space or a graded matrix
                small = abs(e[high]) <= _EPS * (abs(d[high]) + abs(d[high + 1])) or abs(e[high]) <= _EPS * norm
                if small:
                    break
                high += 1
            if high == low:
                break
            if sweep == _SWEEPS:
                return False
            _sweep(d, e, B, low, high)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _sweep(d: FloatArray, e: FloatArray, B: FloatArray, low: int, high: int) -> None:
    """Chase one bulge from the bottom of an unreduced block to its top, with Wilkinson's shift."""
    g = (d[low + 1] - d[low]) / (2.0 * e[low])
    r = math.hypot(g, 1.0)
    g = d[high] - d[low] + e[low] / (g + (r if g >= 0.0 else -r))
    s, c, p = 1.0, 1.0, 0.0
    for i in range(high - 1, low - 1, -1):
        f, b = s * e[i], c * e[i]
        r = math.sqrt(f * f + g * g)
        e[i + 1] = r
        if r == 0.0:
            d[i + 1] -= p
            e[high] = 0.0
            return
        s, c = f / r, g / r
        g = d[i + 1] - p
        r = (d[i] - g) * s + 2.0 * c * b
        p = s * r
        d[i + 1] = g + p
        g = c * r - b
        for k in range(B.shape[1]):
            f = B[i + 1, k]
            B[i + 1, k] = s * B[i, k] + c * f
            B[i, k] = c * B[i, k] - s * f
    d[low] -= p
    e[low] = g
    e[high] = 0.0
