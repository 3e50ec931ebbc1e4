"""
Effects that descend from parents: their order, inbreeding, covariance and its sparse inverse.

u_i = w Σ_p u_p + e_i over the known parents p of i, with independent e_i ~ N(0, d_i): of a pedigree w = ½ and there are
two parents, of a tree w = 1 and there is one. With T⁻¹ = I - w Σ_p, the covariance is A = T D Tᵀ, its inverse
A⁻¹ = Σ_i t_i t_iᵀ/d_i with t_i = e_i - w Σ_p e_p (Henderson 1976, doi:10.2307/2529339; Quaas 1976,
doi:10.2307/2529279), and log|A| = Σ log d_i.

Parents are an array (n, 2) or (n, 1) of positions, -1 where unknown; the same parent may stand twice (selfing).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.sparse import coo_array, csc_array, diags_array

from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.base.copies import ReadOnlyArrays

type IntArray = npt.NDArray[np.intp]
type SparseMatrix = csc_array[np.float64]

compiled = njit(cache=True, nogil=True, error_model="numpy")
_BLOCK = 64  # columns of the covariance at a time


def parents_first(parents: IntArray) -> tuple[IntArray, IntArray]:
    """
    Return everybody, parents before offspring, and a loop of somebody who descends from itself.

    The loop goes from parent to offspring, beginning with its first member. It is empty where there is none; where
    there is one, the order ends before it.
    """
    if (own := np.flatnonzero((parents == np.arange(len(parents))[:, None]).any(axis=1))).size:
        return own[:0], own[:1]
    order, stack, depth, again = _parents_first(np.ascontiguousarray(parents))
    if again < 0:
        return order, order[:0]
    path = stack[: depth + 1]  # from a descendant to its ancestors, of whom the last is an offspring of `again`
    loop = path[int(np.flatnonzero(path == again)[0]) :][::-1]
    return order, np.roll(loop, -int(loop.argmin()))


@compiled
def _parents_first(parents):  # type: ignore[no-untyped-def]
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


def inbreeding(parents: IntArray, order: IntArray) -> FloatArray:
    """
    Return F, half the relationship of the parents, 0 where one is unknown; `parents` is (n, 2), founders are unrelated.

    By sires (Sargolzaei, Iwaisaki & Colleau 2005, doi:10.1111/j.1439-0388.2005.00538.x): D Tᵀe_s over the ancestors of
    a sire is found once, and its relationships a(s, m) = Σ_j T_mj (D Tᵀe_s)_j by descending to each of its mates.
    """
    both = parents[(parents >= 0).all(axis=1)]
    sires, dams = (np.count_nonzero(np.bincount(column)) for column in both.T)
    fewer_first = parents if sires <= dams else parents[:, ::-1]  # relationships to a dam do as well
    return np.asarray(_inbreeding(np.ascontiguousarray(fewer_first), order))


@compiled
def _ancestors(start, parents, seen, mark, stack, out):  # type: ignore[no-untyped-def]
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
def _offspring(parents):  # type: ignore[no-untyped-def]
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
def _inbreeding(parents, order):  # type: ignore[no-untyped-def]
    n = len(parents)
    F = np.zeros(n + 1)
    F[n] = -1.0  # at position -1, an unknown parent
    begin, child = _offspring(parents)
    share, related = np.zeros(n), np.zeros(n + 1)  # (Tᵀe_s), then D Tᵀe_s; a(s, j)
    above, below = np.full(n, -1, dtype=np.intp), np.full(n, -1, dtype=np.intp)  # for which sire it was reached
    stack, line, found = np.empty(n, dtype=np.intp), np.empty(n, dtype=np.intp), np.empty(n, dtype=np.intp)
    for s in order:  # F of all ancestors of s is known: their sires came before
        if begin[s] == begin[s + 1]:
            continue
        count = _ancestors(s, parents, above, s, stack, line)
        share[s] = 1.0
        for k in range(count - 1, -1, -1):
            i = line[k]
            for p in parents[i]:
                if p >= 0:
                    share[p] += 0.5 * share[i]
            share[i] *= 0.5 - 0.25 * (F[parents[i, 0]] + F[parents[i, 1]])
        for c in child[begin[s] : begin[s + 1]]:
            dam = parents[c, 1]
            for k in range(_ancestors(dam, parents, below, s, stack, found)):
                j = found[k]
                related[j] = share[j] + 0.5 * (related[parents[j, 0]] + related[parents[j, 1]])
            F[c] = 0.5 * related[dam]
        for k in range(count):
            share[line[k]] = 0.0
    return F[:n]


@dataclass(frozen=True, slots=True, eq=False)
class Genealogy(ReadOnlyArrays):
    """
    Who descends from whom, and how variable everybody is.

    Attributes
    ----------
    parents : (n, 1) or (n, 2) array of int
    order : (n,) array of int
        Parents before offspring.
    weight : float
        w.
    own : (n,) array
        d.
    variances : (n,) array
        Diagonal of A.
    """

    parents: IntArray
    order: IntArray
    weight: float
    own: FloatArray
    variances: FloatArray

    def __post_init__(self) -> None:
        for array in (self.parents, self.order, self.own, self.variances):
            frozen(array)

    @classmethod
    def of_pedigree(cls, parents: IntArray, order: IntArray) -> Self:
        """Return that of sires and dams (n, 2): d_i = ½ - (F_s + F_d)/4, where an unknown parent counts as F = -1."""
        F = inbreeding(parents, order)
        own = 0.5 - np.append(F, -1.0)[parents].sum(axis=1) / 4
        return cls(parents, order, 0.5, own, 1 + F)

    @classmethod
    def of_tree(cls, parents: IntArray, order: IntArray, lengths: FloatArray) -> Self:
        """Return that of the nodes of a tree below its root, whose children have the parent -1: d_i is a length."""
        return cls(parents[:, None], order, 1.0, lengths, _depths(parents, order, lengths))

    def logdet(self) -> float:
        """Return log|A| = Σ log d_i."""
        return float(np.log(self.own).sum())

    def precision(self) -> SparseMatrix:
        """Return A⁻¹, both triangles; every d_i must be positive."""
        n, parents, weight = len(self.parents), self.parents, self.weight
        inverse = 1 / self.own
        diagonal, entries = inverse.copy(), []
        for parent in parents.T:
            of = np.flatnonzero(parent >= 0)
            diagonal += np.bincount(parent[of], weight**2 * inverse[of], minlength=n)
            entries.append((of, parent[of], -weight * inverse[of]))
        if parents.shape[1] == 2:
            of = np.flatnonzero((parents >= 0).all(axis=1))
            (sire, dam), cross = parents[of].T, weight**2 * inverse[of]
            selfed = sire == dam
            diagonal += np.bincount(sire[selfed], 2 * cross[selfed], minlength=n)
            entries.append((sire[~selfed], dam[~selfed], cross[~selfed]))
        row, column, value = map(np.concatenate, zip(*entries, strict=True))
        return _symmetric(diagonal, row, column, value)

    def covariance(self, rows: IntArray) -> FloatArray:
        """Return A of some individuals, (k, k), by columns A e_j = T(D(Tᵀe_j)) over their ancestors."""
        line = _line(np.ascontiguousarray(self.parents), self.order, rows)
        place = np.full(len(self.parents) + 1, -1, dtype=np.intp)
        place[line] = np.arange(len(line))
        A = np.asarray(_columns(place[self.parents[line]], self.weight, self.own[line], place[rows]))
        np.fill_diagonal(A, self.variances[rows])
        return A


def _symmetric(diagonal: FloatArray, row: IntArray, column: IntArray, value: FloatArray) -> SparseMatrix:
    """Return the symmetric matrix of these entries, each given once off the diagonal; repeated ones add up."""
    n = len(diagonal)
    low, high = (pick(row, column).astype(np.int32) for pick in (np.maximum, np.minimum))
    lower = csc_array(coo_array((value, (low, high)), shape=(n, n)))
    whole: SparseMatrix = csc_array(lower + lower.T + diags_array(diagonal))
    whole.sort_indices()
    return whole


@compiled
def _depths(parents, order, lengths):  # type: ignore[no-untyped-def]
    depth = np.zeros(len(parents) + 1)  # 0 at position -1, the root
    for i in order:
        depth[i] = lengths[i] + depth[parents[i]]
    return depth[:-1]


@compiled
def _line(parents, order, rows):  # type: ignore[no-untyped-def]
    """Return these individuals and their ancestors, parents first."""
    kept = np.zeros(len(parents), dtype=np.bool_)
    kept[rows] = True
    for k in range(len(order) - 1, -1, -1):
        if kept[order[k]]:
            for p in parents[order[k]]:
                if p >= 0:
                    kept[p] = True
    return order[kept[order]]


@compiled
def _columns(parents, weight, variances, rows):  # type: ignore[no-untyped-def]
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
