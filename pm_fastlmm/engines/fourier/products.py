"""Products of the features with each other and with other columns, from the sums of a nonuniform FFT."""

import math
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.fourier.grid import Grid
from pm_fastlmm.engines.fourier.nufft import ComplexArray

_SQRT2 = math.sqrt(2.0)


def feature_gram(toeplitz: ComplexArray, grid: Grid, n: int) -> FloatArray:
    """
    Return ZᵀZ from t_k = Σ_i exp(-2πi (h∘k)ᵀx_i).

    With t∓ = t at j ∓ k: cos·cos Re(t₋ + t₊), sin·sin Re(t₋ - t₊), cos·sin Im(t₋ - t₊), j the cosine's index.
    """
    P, j = len(grid.j), grid.j
    box = 2 * np.array(grid.largest)

    def at(k: Any) -> ComplexArray:
        return np.asarray(toeplitz[tuple(np.moveaxis(k + box, -1, 0))])

    minus, plus = at(j[:, None] - j), at(j[:, None] + j)
    G = np.empty((grid.size, grid.size))
    cos, sin = slice(1, P + 1), slice(P + 1, None)
    own = at(j)
    G[0, 0] = n
    G[0, cos] = G[cos, 0] = _SQRT2 * own.real
    G[0, sin] = G[sin, 0] = -_SQRT2 * own.imag
    G[cos, cos] = (minus + plus).real
    G[sin, sin] = (minus - plus).real
    G[cos, sin] = (minus - plus).imag
    G[sin, cos] = G[cos, sin].T
    return G


def feature_sums(modes: ComplexArray, grid: Grid) -> FloatArray:
    """Return Zᵀv, (M,), from Σ_i v_i exp(-2πi (h∘k)ᵀx_i)."""
    box = np.array(grid.largest)
    own = modes[tuple((grid.j + box).T)]
    return np.concatenate([[modes[tuple(box)].real], _SQRT2 * own.real, -_SQRT2 * own.imag])
