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
from scipy.sparse import coo_array, csc_array, diags_array

from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.base.copies import ReadOnlyArrays

type IntArray = npt.NDArray[np.intp]
type SparseMatrix = csc_array[np.float64]


def parents_first(parents: IntArray) -> tuple[IntArray, IntArray]:
    """
    Return everybody, parents before offspring, and a loop of somebody who descends from itself.

    The loop goes from parent to offspring, beginning with its first member. It is empty where there is none; where
    there is one, the order ends before it.
    """
    if (own := np.flatnonzero((parents == np.arange(len(parents))[:, None]).any(axis=1))).size:
        return own[:0], own[:1]
    from pm_fastlmm.sparse.descent import ordered

    order, stack, depth, again = ordered(np.ascontiguousarray(parents))
    if again < 0:
        return order, order[:0]
    path = stack[: depth + 1]  # from a descendant to its ancestors, of whom the last is an offspring of `again`
    loop = path[int(np.flatnonzero(path == again)[0]) :][::-1]
    return order, np.roll(loop, -int(loop.argmin()))


def inbreeding(parents: IntArray, order: IntArray) -> FloatArray:
    """
    Return F, half the relationship of the parents, 0 where one is unknown; `parents` is (n, 2), founders are unrelated.

    By sires (Sargolzaei, Iwaisaki & Colleau 2005, doi:10.1111/j.1439-0388.2005.00538.x): D Tᵀe_s over the ancestors of
    a sire is found once, and its relationships a(s, m) = Σ_j T_mj (D Tᵀe_s)_j by descending to each of its mates.
    """
    both = parents[(parents >= 0).all(axis=1)]
    sires, dams = (np.count_nonzero(np.bincount(column)) for column in both.T)
    fewer_first = parents if sires <= dams else parents[:, ::-1]  # relationships to a dam do as well
    from pm_fastlmm.sparse.descent import inbreeding_of

    return np.asarray(inbreeding_of(np.ascontiguousarray(fewer_first), order))


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
        from pm_fastlmm.sparse.descent import depths

        return cls(parents[:, None], order, 1.0, lengths, depths(parents, order, lengths))

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
        from pm_fastlmm.sparse.descent import columns, line_of

        line = line_of(np.ascontiguousarray(self.parents), self.order, rows)
        place = np.full(len(self.parents) + 1, -1, dtype=np.intp)
        place[line] = np.arange(len(line))
        A = np.asarray(columns(place[self.parents[line]], self.weight, self.own[line], place[rows]))
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
