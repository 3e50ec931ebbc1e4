"""
Products of the features with each other and with other columns, and functions of them as trigonometric polynomials.

Nonuniform FFTs give the sums that the products are read from, and evaluate the polynomials at any points.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.fourier.grid import Grid
from pm_fastlmm.spectrum.projection import Projection

type ComplexArray = npt.NDArray[np.complex128]

_SQRT2 = math.sqrt(2.0)
_TOLERANCE = 1e-14  # of nonuniform FFTs


@dataclass(frozen=True, slots=True, eq=False)
class FourierProducts:
    """
    What features of any kind and y are to each other, once X is projected out.

    G̃ = ZᵀMZ, b̃ = ZᵀMy, c̃ = yᵀMy with M = I - QQᵀ, X = QR.

    Attributes
    ----------
    gram : (M, M) array
        G̃.
    cross : (M,) array
        b̃.
    square : float
        c̃.
    n, df : int
        n, and p = n - r.
    projection : Projection
        R and the names of the columns of X, without rows.
    fixed : (M, r) array
        ZᵀQ.
    along : (r,) array
        Qᵀy.
    log_flat : float
        -½log|XᵀX|, and Σ log √w of prior weights: rows, and with them all products, are times √w then.
    mean_weight : float
        w̄, 1 without weights. The noise ratio of an observation of mean weight is δ/w̄.
    """

    gram: FloatArray
    cross: FloatArray
    square: float
    n: int
    df: int
    projection: Projection
    fixed: FloatArray
    along: FloatArray
    log_flat: float
    mean_weight: float


def feature_gram(toeplitz: ComplexArray, grid: Grid, n: float) -> FloatArray:
    """
    Return ZᵀWZ from t_k = Σ_i w_i exp(-2πi (h∘k)ᵀx_i) and t_0, the n rows that there are without weights.

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


def to_modes(angles: FloatArray, strengths: npt.NDArray[Any], shape: tuple[int, ...]) -> ComplexArray:
    """Return Σ_n c_n exp(-i jᵀθ_n) for |j| ≤ (shape - 1)/2, strengths (n,)."""
    return _transform(angles, 1, np.ascontiguousarray(strengths, dtype=np.complex128), shape, isign=-1)


def at_points(angles: FloatArray, modes: ComplexArray) -> ComplexArray:
    """Return Σ_j f_j exp(i jᵀθ) at points, for modes of shape (*shape,) or (T, *shape); (n,) or (T, n)."""
    return _transform(angles, 2, np.ascontiguousarray(modes), isign=1)


def _transform(angles: FloatArray, kind: int, *args: Any, isign: int) -> ComplexArray:
    try:
        import finufft
    except ImportError as error:
        raise ImportError("Fourier bases need finufft: pip install 'pm_fastlmm[fourier]'.") from error
    points = [np.ascontiguousarray(column) for column in angles.T]
    return np.asarray(getattr(finufft, f"nufft{len(points)}d{kind}")(*points, *args, isign=isign, eps=_TOLERANCE))
