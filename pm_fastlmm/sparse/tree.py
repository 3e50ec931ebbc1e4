"""
The elimination tree of a symmetric matrix: which column of its Cholesky factor waits for which, and how long they are.

The parent of column j is the row of the first entry below the diagonal of column j of L. Postordered, the columns of a
subtree follow each other, and neighbours with the same rows are worked on as one dense block, a supernode.

References
----------
Liu (1990), doi:10.1137/0611010; Ashcraft & Grimes (1989), doi:10.1145/76909.76910 (relaxed supernodes).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import Int32Array, Int64Array

compiled = njit(cache=True, nogil=True)

_NARROW = 16  # columns of a narrow block
_ZEROS, _ZEROS_NARROW = 0.1, 0.25  # the share of zeros up to which blocks are joined


class Tree(NamedTuple):
    """The elimination tree, postordered."""

    order: Int32Array  # the column of the caller for each of the factor
    position: Int32Array  # the column of the factor for each of the caller
    parent: Int32Array  # -1 for a root
    below: Int32Array  # entries of L below the diagonal

    @classmethod
    def of(cls, indptr: Int64Array, indices: Int32Array, order: Int32Array) -> "Tree":
        """Return the tree of a symmetric pattern, both triangles by columns, in an order that is then postordered."""
        return cls(*_tree(indptr, indices, order))


@compiled
def _tree(indptr: Any, indices: Any, order: Any) -> Any:
    position = _inverse(order)
    parent, count = _parents(indptr, indices, order, position)
    post = _postorder(parent)
    rank = _inverse(post)
    above, below, final = np.empty_like(post), np.empty_like(post), np.empty_like(post)
    for k in range(len(post)):
        j = post[k]
        above[k] = rank[parent[j]] if parent[j] >= 0 else -1
        below[k], final[k], position[order[j]] = count[j], order[j], k
    return final, position, above, below


@compiled
def _inverse(order: Any) -> Any:
    position = np.empty(len(order), np.int32)
    for k in range(len(order)):
        position[order[k]] = k
    return position


@compiled
def _parents(indptr: Any, indices: Any, order: Any, position: Any) -> Any:
    """Return parents and counts: row k of L holds the paths from the entries of row k of the matrix up to k."""
    n = len(order)
    parent, seen, count = np.full(n, -1, np.int32), np.full(n, -1, np.int32), np.zeros(n, np.int32)
    for k in range(n):
        seen[k] = k
        for a in range(indptr[order[k]], indptr[order[k] + 1]):
            j = position[indices[a]]
            while j < k and seen[j] != k:
                if parent[j] < 0:
                    parent[j] = k
                count[j] += 1
                seen[j] = k
                j = parent[j]
    return parent, count


@compiled
def _postorder(parent: Any) -> Any:
    """Return the nodes with children before parents, each subtree in one piece."""
    n = len(parent)
    child, sibling = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    for j in range(n - 1, -1, -1):
        if parent[j] >= 0:
            sibling[j] = child[parent[j]]
            child[parent[j]] = j
    post, stack = np.empty(n, np.int32), np.empty(n, np.int32)
    k = 0
    for root in range(n):
        if parent[root] >= 0:
            continue
        top, stack[0] = 0, root
        while top >= 0:
            j = stack[top]
            if child[j] < 0:
                post[k] = j
                k += 1
                top -= 1
            else:
                top += 1
                stack[top] = child[j]
                child[j] = sibling[child[j]]
    return post


@compiled
def supernodes(parent: Any, count: Any) -> Any:
    """
    Return the first column of each supernode, and n behind the last.

    A column joins the one before it where that is its only child and has the same rows. A supernode then takes the one
    before it, where that is its child and few zeros come into the block.
    """
    n = len(parent)
    children = np.zeros(n, np.int32)
    for j in range(n):
        if parent[j] >= 0:
            children[parent[j]] += 1
    first, zeros = np.empty(n + 1, np.int32), np.zeros(n + 1)
    m = start = 0
    for stop in range(1, n + 1):
        if stop < n and children[stop] == 1 and parent[stop - 1] == stop and count[stop - 1] == count[stop] + 1:
            continue
        begin, zero = start, 0.0
        while m > 0 and begin <= parent[begin - 1] < stop:
            before = first[m - 1]
            width, length = stop - before, stop - before + count[stop - 1]
            more = zero + zeros[m - 1] + (begin - before) * (stop - begin + count[stop - 1] - count[begin - 1])
            if more >= (_ZEROS_NARROW if width <= _NARROW else _ZEROS) * width * length:
                break
            begin, zero = before, more
            m -= 1
        first[m], zeros[m] = begin, zero
        m += 1
        start = stop
    first[m] = n
    return first[: m + 1].copy()
