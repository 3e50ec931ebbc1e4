"""A few rows with the inner products of many: what a likelihood of [X W y] cannot tell from the data."""

import warnings
from typing import NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, outside
from pm_fastlmm.spectrum.streams.factor import resolve_gram, rounding_of
from pm_fastlmm.spectrum.streams.inner_products import InnerProducts


class Equivalent(NamedTuple):
    """Rows of X, W and one response: X (k, d), W (k, m) and y (k,), k ≤ d + m + 1."""

    X: FloatArray
    W: FloatArray
    y: FloatArray


def reduce_rows(c: InnerProducts, t: int) -> Equivalent:
    """
    Return rows with [X W y]ᵀ[X W y] of all rows, y the response with number t.

    They are coordinates of the data in an orthonormal basis: along X, then along W, and last the length of what y has
    in all other directions, where X and W are 0.
    """
    d, m, _ = c.sizes
    X, W, y = _along(c, t)
    below, z, rss = _below(c, t, c.n - X.shape[0])
    rows = X.shape[0] + below.shape[0]
    last = min(c.n - rows, 1)  # none where X and W have as many directions as there are rows
    return Equivalent(
        np.vstack([X, np.zeros((rows + last - X.shape[0], d))]),
        np.vstack([W, below, np.zeros((last, m))]),
        np.r_[y, z, np.full(last, np.sqrt(rss))],
    )


def _along(c: InnerProducts, t: int) -> Equivalent:
    """Return the rows of the triangle: those along X, and for "tsqr" those along W."""
    d, m, _ = c.sizes
    triangle = c.shifted(np.zeros_like(c.shift)).triangle
    whole = np.hstack([triangle.R, triangle.C])[: c.n]
    return Equivalent(whole[:, :d], whole[:, d : d + m], whole[:, d + m + t])


def _below(c: InnerProducts, t: int, left: int) -> tuple[FloatArray, FloatArray, float]:
    """
    Return rows of W and y orthogonal to the triangle, at most `left`, and the squared length of y beyond them.

    The columns of W may be those of terms in different units, so that each is scaled before its rank is judged.
    """
    m = c.sizes[1]
    if c.method == "tsqr":
        return np.zeros((0, m)), np.zeros(0), float(c.squares[t]) if left else 0.0
    size = np.sqrt((c.triangle.C[:, :m] ** 2).sum(0) + np.diag(c.gram))
    size = np.where(size > 0, size, 1.0)
    found = resolve_gram(
        c.gram / np.outer(size, size), c.cross[:, t : t + 1] / size[:, None], c.squares[t : t + 1],
        c.squares[t : t + 1],
        size=1.0, rounding=rounding_of(c), df=max(left, 0),
    )  # fmt: skip
    rss = float(found.rss[0])
    if left > found.eigvals.size and c.squares[t] > 0 and not rss:
        warnings.warn(
            "what X and W leave of y is below the rounding of cross-products: collect them again with method='tsqr'.",
            UserWarning,
            stacklevel=outside(),
        )
    return np.sqrt(found.eigvals)[:, None] * found.Vt * size, found.z[:, 0], rss
