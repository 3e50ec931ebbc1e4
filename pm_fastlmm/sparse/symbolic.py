"""
Where the entries of the Cholesky factor lie: the rows of each supernode and its dense block in one long vector.

A supernode s has the columns first[s] to first[s + 1] of L. Its rows, its own columns first, are rows[begin[s]] to
rows[begin[s + 1]], in order; its block, (rows, columns) and row-major, starts at block[s].
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import Int32Array, Int64Array
from pm_fastlmm.sparse.tree import Tree, supernodes

compiled = njit(cache=True, nogil=True)


class Blocks(NamedTuple):
    """The blocks of all supernodes."""

    first: Int32Array  # (supernodes + 1,)
    owner: Int32Array  # the supernode of each column
    begin: Int64Array
    rows: Int32Array
    block: Int64Array

    @classmethod
    def of(cls, indptr: Int64Array, indices: Int32Array, tree: Tree) -> "Blocks":
        """Return the blocks of a symmetric pattern, both triangles by columns of the caller."""
        first = supernodes(tree.parent, tree.below)
        width = np.diff(first).astype(np.int64)
        length = width + tree.below[first[1:] - 1]
        begin, block = (np.concatenate([[0], np.cumsum(v)]) for v in (length, width * length))
        owner = np.repeat(np.arange(len(width), dtype=np.int32), width)
        return cls(first, owner, begin, _rows(indptr, indices, *tree[:3], first, owner, begin), block)


@compiled
def _rows(indptr: Any, indices: Any, order: Any, position: Any, parent: Any, first: Any, owner: Any, begin: Any) -> Any:
    """Return the rows of each supernode: row k belongs to those on the paths from its entries up the tree."""
    m = len(first) - 1
    rows, free, seen = np.empty(begin[m], np.int32), begin[:m].copy(), np.full(m, -1, np.int32)
    for k in range(len(order)):
        own = owner[k]
        rows[free[own]] = k
        free[own] += 1
        seen[own] = k
        for a in range(indptr[order[k]], indptr[order[k] + 1]):
            j = position[indices[a]]
            if j >= k:
                continue
            s = owner[j]
            while seen[s] != k:
                rows[free[s]] = k
                free[s] += 1
                seen[s] = k
                s = owner[parent[first[s + 1] - 1]]
    return rows


@compiled
def places(indptr: Any, indices: Any, order: Any, position: Any, first: Any, begin: Any, rows: Any, block: Any) -> Any:
    """
    Return the entries of the lower triangle in the order of the factor's columns, the diagonal first in each.

    The others are sorted by row as the caller numbers them.
    These are where each column begins, the rows in the caller's numbering, and the place of each entry in the blocks.
    """
    n = len(order)
    start = np.empty(n + 1, np.int64)
    start[0] = 0
    for k in range(n):
        start[k + 1] = start[k] + 1
        for a in range(indptr[order[k]], indptr[order[k] + 1]):
            if position[indices[a]] > k:
                start[k + 1] += 1
    row, place, local = np.empty(start[n], np.int32), np.empty(start[n], np.int64), np.empty(n, np.int32)
    for s in range(len(first) - 1):
        width = first[s + 1] - first[s]
        for a in range(begin[s], begin[s + 1]):
            local[rows[a]] = a - begin[s]
        for k in range(first[s], first[s + 1]):
            at = start[k]
            row[at], place[at] = order[k], block[s] + (k - first[s]) * (width + 1)
            for a in range(indptr[order[k]], indptr[order[k] + 1]):
                i = position[indices[a]]
                if i > k:
                    at += 1
                    row[at], place[at] = indices[a], block[s] + local[i] * width + k - first[s]
    return start, row, place


@compiled
def locate(row: Any, column: Any, position: Any, start: Any, rows: Any) -> Any:
    """
    Return the place of each entry among those of the pattern, and the first entry that the pattern lacks, or -1.

    An entry may be given by either triangle.
    """
    place = np.empty(len(row), np.int64)
    for e in range(len(row)):
        i, j = row[e], column[e]
        if position[i] < position[j]:
            i, j = j, i
        low, end = start[position[j]], start[position[j] + 1]
        if i != j:
            low, high = low + 1, end
            while low < high:
                middle = (low + high) // 2
                if rows[middle] < i:
                    low = middle + 1
                else:
                    high = middle
            if low == end or rows[low] != i:
                return place, np.int64(e)
        place[e] = low
    return place, np.int64(-1)
