"""Nodes of log δ that many responses share, and the weights there, whose products with squares yield f' and f''."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import qr, solve_triangular

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.kernel.likelihood.few import SEARCH, loops_for

# The derivative is a sum of logistic functions of log δ with poles at distance π from the real axis: on cells of ½ its
# cubic Hermite model is wrong by less than 1e-3 of their height, and shows two roots where a cell hides them.
_SPACING = 0.5
_MARGIN = math.log(1e3)
_MANY = 200  # rows from which on a mixture saves more than it costs
_WIDEST = -12.0  # log of the smallest eigenvalue down to which it is precise
_SAMPLES = 10  # for a unit of log λ
_RANK_RTOL = 1e-12


class Table(NamedTuple):
    """
    What responses share at nodes of log δ.

    The weights hw, (1-h)w and h(1-h)w there, (k, 3G), are `weights` (k, R) @ `mix` (R, 3G). `shared` (6, G) is what no
    response enters: Σh, Σ(1-h), Σh(1-h), and for ML the slope of log|S|, r minus it, and its curvature.
    """

    nodes: FloatArray
    weights: FloatArray
    mix: FloatArray | None
    shared: FloatArray

    def products(self, squares: FloatArray) -> FloatArray:
        """Return the products of squares (T, k) with the weights, (T, 3G)."""
        products = squares @ self.weights
        return products if self.mix is None else products @ self.mix


type TableOf = Callable[[FloatArray, FloatArray], Table]


def tables(model: Any, rows: int) -> TableOf:
    """Return what returns the table for a block of so many rows from their squares and rss; blocks share theirs."""

    @cache
    def table(first: int) -> Table:
        nodes = _SPACING * np.arange(first, math.ceil(_MARGIN / _SPACING) + 1, dtype=np.float64)
        delta = np.exp(nodes)
        weights, h = weights_at(model.eigvals, delta)
        shared = np.zeros((6, nodes.size))
        shared[:3] = h.sum(0), (1 - h).sum(0), (h * (1 - h)).sum(0)
        if model.schur.size:
            corner_terms, arrays = loops_for(SEARCH * rows).corner_terms, (model.eigvals, model.C, model.schur)
            shared[3:] = np.transpose([corner_terms(*arrays, d)[1:] for d in delta])
        low = math.log(model.eigvals.min())
        if rows < _MANY or low < _WIDEST:
            return Table(nodes, weights, None, shared)
        chosen, mix = mixture(low, delta)
        return Table(nodes, np.ascontiguousarray(weights[:, chosen]), mix, shared)

    return lambda squares, rss: table(_first(model, squares, rss))


def _first(model: Any, squares: FloatArray, rss: FloatArray) -> int:
    """Return the first node, as a multiple of the spacing."""
    low = math.log(model.eigvals.min())
    if model.nullity:
        # far below this point rss/δ dominates Q and f falls with slope ν - m < 0 no more
        with np.errstate(all="ignore"):
            lowest = np.log(rss / (squares @ model.inverse) * (model.eigvals.size / model.nullity))
        low = min(low, float(np.min(lowest[np.isfinite(lowest)], initial=low)))
    return math.floor((low - _MARGIN) / _SPACING)


def weights_at(eigvals: FloatArray, delta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return hw, (1-h)w and h(1-h)w, (k, 3G), and h, (k, G)."""
    w = 1 / (eigvals[:, None] + delta)
    h, c = eigvals[:, None] * w, delta * w
    return np.hstack([h * w, c * w, h * c * w]), h


def mixture(low: float, delta: FloatArray) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """
    Return some of the 3G weights, and the mixtures (R, 3G) of them that all are, for eigenvalues from exp(low) to 1.

    As functions of log λ they are analytic within π of the real axis, and so depend on each other: an interpolative
    decomposition (pivoted QR of the weights on a grid of λ) finds R of them, for all spectra in that range. What it
    leaves in f' is below 1e-9 of Σh or Σ(1-h).
    """
    eigvals = np.exp(np.linspace(low, 0.0, 40 + math.ceil(-low * _SAMPLES)))
    weights = weights_at(eigvals, delta)[0] * np.sqrt(eigvals)[:, None]
    size = weights.max(0)
    R, order = qr(weights / size, mode="r", pivoting=True)
    rank = int(np.count_nonzero(np.abs(np.diag(R)) > _RANK_RTOL * abs(R[0, 0])))
    rank = min(-(-rank // 8) * 8, size.size)  # products of matrices are in eights
    mix, chosen = np.empty((rank, size.size)), order[:rank]
    mix[:, chosen], mix[:, order[rank:]] = np.eye(rank), solve_triangular(R[:rank, :rank], R[:rank, rank:])
    return chosen, mix * (size / size[chosen, None])
