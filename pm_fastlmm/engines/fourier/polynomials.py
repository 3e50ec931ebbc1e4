"""Functions of the features as trigonometric polynomials, which nonuniform FFTs evaluate at any points."""

import math

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.fourier.grid import Grid
from pm_fastlmm.engines.fourier.nufft import ComplexArray

_SQRT2 = math.sqrt(2.0)


def function_modes(w: FloatArray, grid: Grid) -> ComplexArray:
    """Return coefficients a, (T, 2m₁ + 1, …), with Re Σ_k a_k exp(ikᵀθ(x)) = Z(x)w for each row of w (T, M)."""
    P, box = len(grid.j), np.array(grid.largest)
    out = np.zeros((len(w), *(2 * box + 1)), dtype=complex)
    out[:, *box] = w[:, 0]
    out[:, *(grid.j + box).T] = _SQRT2 * (w[:, 1 : P + 1] - 1j * w[:, P + 1 :])
    return out


def square_modes(C: FloatArray, grid: Grid) -> ComplexArray:
    """
    Return coefficients a, (4m₁ + 1, …), with Re Σ_k a_k exp(ikᵀθ(x)) = Z(x)CZ(x)ᵀ for a symmetric C (M, M).

    Z(x)ᵀZ(x) is the Gram matrix of one row, `feature_gram`; this is the transpose of that map, conjugated.
    """
    P, j, box = len(grid.j), grid.j, 2 * np.array(grid.largest)
    cos, sin = slice(1, P + 1), slice(P + 1, None)
    cc, ss, cs = C[cos, cos], C[sin, sin], C[cos, sin]
    out = np.zeros(tuple(2 * box + 1), dtype=complex)
    minus, plus = (np.moveaxis(k + box, -1, 0) for k in (j[:, None] - j, j[:, None] + j))
    np.add.at(out, tuple(minus), cc + ss + 2j * cs)
    np.add.at(out, tuple(plus), cc - ss - 2j * cs)
    np.add.at(out, tuple((j + box).T), 2 * _SQRT2 * (C[0, cos] - 1j * C[0, sin]))
    out[tuple(box)] += C[0, 0]
    return out
