"""Z Zᵀ of many variants, added up block by block: memory for one matrix, in whatever precision the blocks have."""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

_PANEL = 1024  # columns at a time: what a product in single precision takes beside the sum


def add_products(total: FloatArray, Z: Any) -> None:
    """
    Add Z Zᵀ of a block (n, m) to the lower triangle of a sum (n, n).

    Products in single precision are added in double: what is lost is that of one block.
    """
    for start in range(0, len(Z), _PANEL):
        own = Z[start : start + _PANEL]
        stop = start + len(own)
        total[start:stop, start:stop] += own @ own.T
        total[stop:, start:stop] += Z[stop:] @ own.T


def symmetric(total: FloatArray) -> FloatArray:
    """Copy the lower triangle to the upper, in place."""
    for start in range(0, len(total), _PANEL):
        stop = min(start + _PANEL, len(total))
        total[start:stop, stop:] = total[stop:, start:stop].T
        own = total[start:stop, start:stop]
        upper = np.triu_indices(len(own), 1)
        own[upper] = own.T[upper]
    return total
