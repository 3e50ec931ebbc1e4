"""
Loops over who descends from whom, compiled: what `genealogy` needs.

The module is imported where it is first needed, as Numba takes half a second to load.
"""

from typing import Any

import numpy as np
from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")
_inner = njit(error_model="numpy")  # called by what is compiled for one model, and not kept
_BLOCK = 64  # columns of the covariance at a time


@compiled
def ordered(parents):  # type: ignore[no-untyped-def]
    """Return an order with parents first; of a loop the path to it, its end, and who is met again (or -1)."""
    n = len(parents)
    order, stack = np.empty(n, dtype=np.intp), np.empty(n, dtype=np.intp)
    state = np.zeros(n, dtype=np.int8)  # 1 on the way to its ancestors, 2 in the order
    count = 0
    for start in range(n):
        if state[start]:
            continue
        top = 0
        stack[0], state[start] = start, 1
        while top >= 0:
            i = stack[top]
            deeper = -1
            for p in parents[i]:
                if p >= 0 and state[p] == 1:
                    return order[:count], stack, top, p
                if p >= 0 and not state[p]:
                    deeper = p
                    break
            if deeper >= 0:
                top += 1
                stack[top], state[deeper] = deeper, 1
            else:
                top -= 1
                order[count], state[i] = i, 2
                count += 1
    return order, stack, -1, -1


@compiled
def ancestors(start, parents, seen, mark, stack, out):  # type: ignore[no-untyped-def]
    """Write an individual and its ancestors that are not marked yet to `out`, parents first; return how many."""
    count = 0
    if seen[start] == mark:
        return count
    top = 0
    stack[0], seen[start] = start, mark
    while top >= 0:
        i = stack[top]
        deeper = -1
        for p in parents[i]:
            if p >= 0 and seen[p] != mark:
                deeper = p
                break
        if deeper >= 0:
            top += 1
            stack[top], seen[deeper] = deeper, mark
        else:
            top -= 1
            out[count] = i
            count += 1
    return count


@compiled
def offspring(parents):  # type: ignore[no-untyped-def]
    """Return where the offspring of each sire by known dams begin in a list, and the list."""
    n = len(parents)
    begin = np.zeros(n + 1, dtype=np.intp)
    for i in range(n):
        if parents[i, 0] >= 0 and parents[i, 1] >= 0:
            begin[parents[i, 0] + 1] += 1
    for i in range(n):
        begin[i + 1] += begin[i]
    place, child = begin.copy(), np.empty(begin[n], dtype=np.intp)
    for i in range(n):
        s = parents[i, 0]
        if s >= 0 and parents[i, 1] >= 0:
            child[place[s]] = i
            place[s] += 1
    return begin, child


@compiled
def inbreeding_of(parents, order):  # type: ignore[no-untyped-def]
    """Return F of everybody, parents (n, 2) and an order with parents first."""
    n = len(parents)
    F = np.zeros(n + 1)
    F[n] = -1.0  # at position -1, an unknown parent
    begin, child = offspring(parents)
    share, related = np.zeros(n), np.zeros(n + 1)  # (Tᵀe_s), then D Tᵀe_s; a(s, j)
    above, below = np.full(n, -1, dtype=np.intp), np.full(n, -1, dtype=np.intp)  # for which sire it was reached
    stack, line, found = np.empty(n, dtype=np.intp), np.empty(n, dtype=np.intp), np.empty(n, dtype=np.intp)
    for s in order:  # F of all ancestors of s is known: their sires came before
        if begin[s] == begin[s + 1]:
            continue
        count = ancestors(s, parents, above, s, stack, line)
        share[s] = 1.0
        for k in range(count - 1, -1, -1):
            i = line[k]
            for p in parents[i]:
                if p >= 0:
                    share[p] += 0.5 * share[i]
            share[i] *= 0.5 - 0.25 * (F[parents[i, 0]] + F[parents[i, 1]])
        for c in child[begin[s] : begin[s + 1]]:
            dam = parents[c, 1]
            for k in range(ancestors(dam, parents, below, s, stack, found)):
                j = found[k]
                related[j] = share[j] + 0.5 * (related[parents[j, 0]] + related[parents[j, 1]])
            F[c] = 0.5 * related[dam]
        for k in range(count):
            share[line[k]] = 0.0
    return F[:n]


@compiled
def depths(parents, order, lengths):  # type: ignore[no-untyped-def]
    """Return the length of the path from the root to each node."""
    depth = np.zeros(len(parents) + 1)  # 0 at position -1, the root
    for i in order:
        depth[i] = lengths[i] + depth[parents[i]]
    return depth[:-1]


@compiled
def line_of(parents, order, rows):  # type: ignore[no-untyped-def]
    """Return some individuals with all their ancestors, in an order with parents first."""
    kept = np.zeros(len(parents), dtype=np.bool_)
    kept[rows] = True
    for k in range(len(order) - 1, -1, -1):
        if kept[order[k]]:
            for p in parents[order[k]]:
                if p >= 0:
                    kept[p] = True
    return order[kept[order]]


@compiled
def columns(parents, weight, variances, rows):  # type: ignore[no-untyped-def]
    """Return A of some rows: columns of the covariance, some at a time, by descending from their ancestors."""
    m, k = len(parents), len(rows)
    A = np.empty((k, k))
    for start in range(0, k, _BLOCK):
        width = min(_BLOCK, k - start)
        W = np.zeros((m, width))
        for c in range(width):
            W[rows[start + c], c] = 1.0
        for i in range(m - 1, -1, -1):
            for p in parents[i]:
                if p >= 0:
                    for c in range(width):
                        W[p, c] += weight * W[i, c]
        for i in range(m):
            for c in range(width):
                W[i, c] *= variances[i]
            for p in parents[i]:
                if p >= 0:
                    for c in range(width):
                        W[i, c] += weight * W[p, c]
        for c in range(width):
            for r in range(start + c, k):  # the lower triangle alone, so that A is symmetric to the last digit
                A[r, start + c] = A[start + c, r] = W[rows[r], c]
    return A


@compiled
def descend(parents, order, weight, roots, z):  # type: ignore[no-untyped-def]
    """Return u_i = w Σ_p u_p + √d_i z_i, from the √d of everybody and z (n, c)."""
    n, c = z.shape
    u = np.empty((n, c))
    for i in order:
        for k in range(c):
            total = roots[i] * z[i, k]
            for j in range(parents.shape[1]):
                if parents[i, j] >= 0:
                    total += weight * u[parents[i, j], k]
            u[i, k] = total
    return u


@compiled
def ascend(parents, order, weight, roots, g):  # type: ignore[no-untyped-def]
    """Return Rᵀg, R the matrix by which z descends: what offspring have goes to their parents, the youngest first."""
    n, c = g.shape
    out = np.empty((n, c))
    out[:] = g
    for m in range(n - 1, -1, -1):
        i = order[m]
        for k in range(c):
            for j in range(parents.shape[1]):
                if parents[i, j] >= 0:
                    out[parents[i, j], k] += weight * out[i, k]
            out[i, k] *= roots[i]
    return out


def descending(*genealogy: Any) -> tuple[Any, Any]:
    """Return `descend` and `ascend` of one genealogy, compiled functions of z or g alone for compiled code."""

    @_inner
    def down(z):  # type: ignore[no-untyped-def]
        return descend(*genealogy, z)

    @_inner
    def up(g):  # type: ignore[no-untyped-def]
        return ascend(*genealogy, g)

    return down, up
