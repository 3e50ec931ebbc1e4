"""Products of the features with each other and with y, X projected out: all that the likelihood needs of the data."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pm_fastlmm._arrays import EPS, FloatArray, frozen
from pm_fastlmm.covariance.fourier.grid import Grid
from pm_fastlmm.covariance.fourier.nufft import ComplexArray
from pm_fastlmm.linalg.columns import DesignColumns
from pm_fastlmm.linalg.feature_products import FourierProducts
from pm_fastlmm.linalg.projection import Projection

if TYPE_CHECKING:
    from pm_fastlmm.covariance.fourier.statistics import FourierStatistics

_SQRT2 = math.sqrt(2.0)


def project(s: "FourierStatistics") -> FourierProducts:
    """Return the products of statistics, X projected out."""
    grid, r = s.basis.grid, s.frame.size
    gram, inner = feature_gram(s.toeplitz, grid, s.n), s.gram[:r, :r]
    cross = np.stack([feature_sums(column, grid) for column in s.modes], axis=1)  # Zᵀ[X̃ ỹ]
    values, vectors = np.linalg.eigh(inner) if r else (np.zeros(0), np.zeros((0, 0)))
    present = values > r * EPS * values.max(initial=0.0)
    root = np.sqrt(values[present])[:, None] * vectors[:, present].T  # rootᵀroot = X̃ᵀX̃
    original = np.linalg.solve(s.frame.transform.T, root.T).T if r else root  # of X, with the same inner products
    columns = DesignColumns.of(original, s.coef, s.n)
    Q, R = np.linalg.qr(original[:, columns.kept])
    signs = np.where(np.diag(R) < 0, -1.0, 1.0)
    Q, R = Q * signs, R * signs[:, None]
    A = (vectors[:, present] / np.sqrt(values[present])) @ Q  # X̃A is orthonormal, a basis of the columns of X
    fixed, along = cross[:, :r] @ A, A.T @ s.gram[:r, r]
    gram -= fixed @ fixed.T
    return FourierProducts(
        gram=frozen((gram + gram.T) / 2),
        cross=frozen(cross[:, r] - fixed @ along),
        square=float(s.gram[r, r] - along @ along),
        n=s.n,
        df=s.n - len(columns.kept),
        projection=Projection(None, frozen(R), columns),
        fixed=frozen(fixed),
        along=frozen(along + Q.T @ (original @ s.frame.offset)),
    )


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
