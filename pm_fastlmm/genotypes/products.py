"""
Z Zᵀ of many variants, added up block by block: memory for one triangle, in whatever precision the blocks have.

A lower triangle is a list of panels: rows from `start` on, and the columns up to their last. Panels may be parts of one
matrix, or stand alone, in half of its memory.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

type Panels = list[Any]

_PANEL = 512  # rows at a time: they stay in the cache, and are enough for a fast product


def _rows(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _PANEL, n)) for start in range(0, n, _PANEL))


def panels_of(K: FloatArray) -> Panels:
    """Return the panels of a matrix, which are parts of it."""
    return [K[rows, : rows.stop] for rows in _rows(len(K))]


def triangle(n: int, dtype: Any) -> Panels:
    """Return the panels of a lower triangle of zeros."""
    return [np.zeros((rows.stop - rows.start, rows.stop), dtype=dtype) for rows in _rows(n)]


def add_products(total: Panels, Z: Any) -> None:
    """
    Add Z Zᵀ of a block (n, m) to a lower triangle.

    Where the sum is in double precision, what is lost of products in single is that of one block.
    """
    product = np.empty(_PANEL * len(Z), dtype=Z.dtype)  # one for all panels: fresh memory takes as long as the sum
    for panel, rows in zip(total, _rows(len(Z)), strict=True):
        own, left = Z[rows], rows.start
        panel[:, left:] += own @ own.T
        if left:
            before = product[: len(own) * left].reshape(len(own), left)
            panel[:, :left] += np.matmul(own, Z[:left].T, out=before)


def symmetric(K: FloatArray) -> FloatArray:
    """Copy the lower triangle to the upper, in place, in squares that stay in the cache."""
    for rows in _rows(len(K)):
        for columns in _rows(rows.start):
            K[columns, rows] = K[rows, columns].T
        own = K[rows, rows]
        own[...] = np.where(_upper(len(own)), own.T, own)
    return K


def rest(everything: Panels, total: Panels, divisor: float) -> FloatArray:
    """Return (everything - total)/divisor, a symmetric matrix."""
    n = everything[-1].shape[1]
    K = np.empty((n, n))
    for out, whole, part in zip(panels_of(K), everything, total, strict=True):
        np.subtract(whole, part, out=out)
        out *= 1 / divisor
    return symmetric(K)


@cache
def _upper(size: int) -> Any:
    return np.triu(np.ones((size, size), dtype=bool), 1)
