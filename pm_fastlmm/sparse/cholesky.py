"""
Cholesky factors of sparse symmetric positive definite matrices that share a pattern: analysed once, factorised often.

    P C Pᵀ = L Lᵀ,   log|C| = 2 Σ log L_jj

The permutation P keeps the fill of L small (ordering.py). What is compiled is imported where it is first needed.
"""

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, Int32Array, Int64Array, slices

_NOTHING = 1e-8  # of the largest entry of a vector, what rounding leaves of those that are 0
_BUDGET = 4_000_000  # numbers of vectors at a time
if TYPE_CHECKING:
    from pm_fastlmm.sparse.symbolic import Blocks
    from pm_fastlmm.sparse.tree import Tree

_OWN: list[Literal["C", "W"]] = ["C", "W"]  # arrays that compiled loops take: without gaps and not read-only


class NotPositiveDefinite(np.linalg.LinAlgError):
    """A matrix has no Cholesky factor: its pivot in the column `index` is not positive."""

    def __init__(self, index: int) -> None:
        super().__init__(
            f"The matrix is not positive definite: what is left of column {index}, when columns before it are taken "
            "out, is not positive. Leave out columns that depend on others, or make the variances positive."
        )
        self.index = index


class Entries(NamedTuple):
    """
    A symmetric matrix M at the places of an analysis, one entry for each of its lower triangle.

    Rows and columns are numbered as the caller does, row ≥ column. C = Σ_k t_k M_k has the values

        values = np.zeros(analysis.size)
        values[entries.place] += t * entries.value
    """

    place: Int64Array
    value: FloatArray
    row: Int32Array
    column: Int32Array

    def trace(self, inverse: FloatArray) -> float:
        """Return tr(M C⁻¹) = Σ_ij M_ij (C⁻¹)_ij from the selected inverse."""
        at = inverse[self.place]
        diagonal = self.row == self.column
        return float(2 * self.value @ at - self.value[diagonal] @ at[diagonal])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Analysis:
    """
    What the Cholesky factor of a symmetric pattern needs, whatever the values: order, elimination tree, blocks.

    Its members predict what a factorisation will take, before any memory is taken for it.

    Examples
    --------
    A chain, C = 4 I - neighbours: its log-determinant, and the diagonal of its inverse without the rest.

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> C = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5))
    >>> analysis = Analysis.of(C)
    >>> entries = analysis.entries(C)
    >>> values = np.zeros(analysis.size)
    >>> values[entries.place] += entries.value
    >>> factor = analysis.factorise(values)
    >>> round(factor.logdet, 6), round(float(np.linalg.slogdet(C.toarray())[1]), 6)
    (6.659294, 6.659294)
    >>> variances = np.zeros(5)
    >>> diagonal = entries.row == entries.column
    >>> variances[entries.row[diagonal]] = factor.inverse()[entries.place[diagonal]]
    >>> np.round(variances, 4)
    array([0.2679, 0.2872, 0.2885, 0.2872, 0.2679])
    """

    tree: "Tree"
    blocks: "Blocks"
    start: Int64Array  # where each column of the factor begins among the values
    row: Int32Array  # the caller's row of each value
    place: Int64Array  # its place in the blocks

    @classmethod
    def of(cls, pattern: Any) -> Self:
        """
        Return the analysis of a symmetric pattern.

        Parameters
        ----------
        pattern
            A sparse matrix with both triangles. Its values are ignored; the diagonal is always in the pattern.
        """
        indptr, indices, _ = _columns(pattern)
        from pm_fastlmm.sparse import symbolic
        from pm_fastlmm.sparse.ordering import minimum_degree
        from pm_fastlmm.sparse.symbolic import Blocks
        from pm_fastlmm.sparse.tree import Tree

        tree = Tree.of(indptr, indices, minimum_degree(indptr, indices))
        blocks = Blocks.of(indptr, indices, tree)
        start, row, place = symbolic.places(
            indptr, indices, tree.order, tree.position, blocks.first, blocks.begin, blocks.rows, blocks.block
        )
        _require_both_triangles(len(indices), int((indices == _column(indptr)).sum()), len(row) - len(indptr) + 1)
        return cls(tree, blocks, start, row, place)

    @property
    def n(self) -> int:
        """The order of the matrix."""
        return len(self.tree.order)

    @property
    def size(self) -> int:
        """The length of a vector of values: entries of the lower triangle of the pattern, the diagonal included."""
        return len(self.row)

    @property
    def nnz(self) -> int:
        """Entries of L."""
        return int(self.tree.below.sum(dtype=np.int64)) + self.n

    @property
    def stored(self) -> int:
        """Numbers of 8 bytes that L takes, with the zeros in the blocks of columns that are worked on together."""
        return int(self.blocks.block[-1])

    @property
    def flops(self) -> float:
        """Multiplications and additions of a factorisation."""
        return float(((self.tree.below + 1.0) ** 2).sum())

    def entries(self, M: Any) -> Entries:
        """
        Return a symmetric matrix, given by both triangles, at the places of the analysis.

        Raises
        ------
        ValueError
            If the pattern of M does not lie within that of the analysis.
        """
        indptr, indices, data = _columns(M)
        if len(indptr) != self.n + 1:
            raise ValueError(f"M has {len(indptr) - 1} columns, but the analysis is of {self.n}: give M of that order.")
        row, column = indices, _column(indptr)
        lower = row >= column
        row, column = row[lower], column[lower]
        place = self.places(row, column)
        diagonal = int((row == column).sum())
        _require_both_triangles(len(indices), diagonal, len(row) - diagonal)
        return Entries(place, data[lower], row, column)

    def places(self, row: Int32Array, column: Int32Array) -> Int64Array:
        """Return the places of entries, given by either triangle; a ValueError where the pattern lacks one."""
        from pm_fastlmm.sparse import symbolic

        place, missing = symbolic.locate(row, column, self.tree.position, self.start, self.row)
        if missing >= 0:
            raise ValueError(
                f"M has an entry in row {row[missing]}, column {column[missing]}, which the pattern of the analysis "
                "lacks: analyse a pattern that has the entries of every matrix of the sum."
            )
        return np.asarray(place)

    def factorise(self, values: FloatArray) -> "Factor":
        """
        Return the Cholesky factor of the matrix with these values, in the order of `Entries.place`.

        Raises
        ------
        NotPositiveDefinite
            With the index of a column whose pivot is not positive.
        """
        none = np.zeros(0)
        L, logdet, bad = self._eliminate(values, none, np.zeros(0, bool))
        if bad >= 0:
            raise NotPositiveDefinite(int(self.tree.order[bad]))
        return Factor(self, L, logdet)

    def _eliminate(
        self, values: FloatArray, floor: FloatArray, dependent: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> tuple[FloatArray, float, int]:
        L = np.zeros(self.stored)
        L[self.place] = values
        from pm_fastlmm.sparse import loops

        logdet, bad = loops.factorise(*self.blocks, L, floor, dependent)
        return L, logdet, bad


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Factor:
    """
    The Cholesky factor L of a matrix C, P C Pᵀ = LLᵀ, with its log-determinant log|C|.

    Vectors are numbered as the caller does, except for what `half` returns and `draw` takes.
    """

    analysis: Analysis
    L: FloatArray
    logdet: float

    def solve(self, b: FloatArray) -> FloatArray:
        """Return C⁻¹b; b is (n,) or (n, k)."""
        return self.draw(self.half(b))

    def half(self, b: FloatArray) -> FloatArray:
        """Return L⁻¹Pb, whose rows are in the order of the factor: ‖L⁻¹Pb‖² = bᵀC⁻¹b."""
        x = np.ascontiguousarray(np.asarray(b, float)[self.analysis.tree.order])
        first, _, *rest = self.analysis.blocks
        from pm_fastlmm.sparse import loops

        loops.forward(first, *rest, self.L, x[:, None] if x.ndim == 1 else x)
        return x

    def reached(self, B: Any) -> FloatArray:
        """
        Return H, the rows of L⁻¹PB, B sparse (n, k), that are not 0, and maybe some that are: HᵀH = BᵀC⁻¹B.

        The work is that of the columns of L on the way from the entries of B to the root of the elimination tree.
        """
        indptr, indices, data = _arrays(sp.csc_array(B))
        from pm_fastlmm.sparse import loops

        place = self.analysis.tree.position[indices]
        return np.asarray(loops.forward_reached(*self.analysis.blocks, self.L, indptr, place, data))

    def draw(self, z: FloatArray) -> FloatArray:
        """Return PᵀL⁻ᵀz: for white noise z, a draw with covariance C⁻¹."""
        x = np.array(z, float, order="C")
        first, _, *rest = self.analysis.blocks
        from pm_fastlmm.sparse import loops

        loops.backward(first, *rest, self.L, x[:, None] if x.ndim == 1 else x)
        return x[self.analysis.tree.position]

    def inverse(self) -> FloatArray:
        """Return C⁻¹ at the entries of the pattern, in the order of `Entries.place` (the selected inverse)."""
        Z = np.empty_like(self.L)
        from pm_fastlmm.sparse import loops

        loops.selected_inverse(*self.analysis.blocks, self.L, Z)
        return Z[self.analysis.place]


def factorised(M: Any) -> Factor:
    """Return the Cholesky factor of one sparse matrix, both triangles given, that shares its pattern with no other."""
    analysis = Analysis.of(M)
    entries, values = analysis.entries(M), np.zeros(analysis.size)
    values[entries.place] = entries.value
    return analysis.factorise(values)


def dependent_columns(A: Any, tolerance: float) -> Int64Array:
    """
    Return the columns of X that are linear combinations of earlier ones, from A = XᵀX.

    Pivots up to `tolerance` times their diagonal count as 0. They are sought in the order that keeps fill small; each
    gives a vector of the null space, and the last entries of a basis of that space name the columns.

    Parameters
    ----------
    A
        A sparse Gram matrix, both triangles.
    tolerance
        The share of a column's square that may be left when the other columns are taken out.
    """
    analysis = Analysis.of(A)
    entries = analysis.entries(A)
    values = np.zeros(analysis.size)
    values[entries.place] = entries.value
    diagonal = values[analysis.start[:-1]]
    dependent = np.zeros(analysis.n, bool)
    L, logdet, _ = analysis._eliminate(values, tolerance * diagonal, dependent)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))[analysis.tree.position]
    factor, found = Factor(analysis, L, logdet), np.flatnonzero(dependent)
    vectors: list[_Vector] = []
    for some in slices(len(found), max(1, _BUDGET // max(1, analysis.n))):
        units = np.zeros((analysis.n, len(found[some])))
        units[found[some], np.arange(units.shape[1])] = 1.0
        vectors += map(_Vector.of, (factor.draw(units) * scale[:, None]).T)
    return _last_entries(vectors)


class _Vector(NamedTuple):
    """A vector by its entries that are not 0, in the order of their places."""

    place: Int64Array
    value: FloatArray

    @classmethod
    def of(cls, dense: FloatArray) -> Self:
        """Return a vector with a largest entry of 1."""
        dense = dense / np.abs(dense).max()
        place = np.flatnonzero(np.abs(dense) > _NOTHING)
        return cls(place, dense[place])

    def less(self, other: Self) -> Self:
        """Return this vector less a multiple of another with the same last place, without that place."""
        factor = self.value[-1] / other.value[-1]
        place = np.union1d(self.place[:-1], other.place[:-1])
        value = np.zeros(len(place))
        value[np.searchsorted(place, self.place[:-1])] = self.value[:-1]
        value[np.searchsorted(place, other.place[:-1])] -= factor * other.value[:-1]
        some = np.abs(value) > _NOTHING
        return type(self)(place[some], value[some])


def _last_entries(null: list[_Vector]) -> Int64Array:
    """Return the last places of a basis of the space of some vectors, in which they differ, in order."""
    ending: dict[int, list[_Vector]] = {}
    for vector in null:
        ending.setdefault(int(vector.place[-1]), []).append(vector)
    places, left = [], [-place for place in ending]
    heapq.heapify(left)
    while left:
        place = -heapq.heappop(left)
        same = ending.pop(place)
        pivot = max(range(len(same)), key=lambda k: abs(same[k].value[-1]))
        places.append(place)
        for other in (same[k].less(same[pivot]) for k in range(len(same)) if k != pivot):
            last = int(other.place[-1])
            if last not in ending:
                heapq.heappush(left, -last)
            ending.setdefault(last, []).append(other)
    return np.array(sorted(places), np.int64)


def _columns(M: Any) -> tuple[Int64Array, Int32Array, FloatArray]:
    """Return a square sparse matrix by columns, entries that stand twice summed, as `_arrays`."""
    M = sp.csc_array(M)
    if M.shape[0] != M.shape[1]:
        raise ValueError(
            f"A symmetric matrix has as many rows as columns, but this one is {M.shape}: give a square one."
        )
    if not M.has_canonical_format:
        M = M.copy()
        M.sum_duplicates()
    return _arrays(M)


def _arrays(M: Any) -> tuple[Int64Array, Int32Array, FloatArray]:
    """Return what a matrix by columns is made of, in the types of compiled loops."""
    indptr, indices = np.require(M.indptr, np.int64, _OWN), np.require(M.indices, np.int32, _OWN)
    return indptr, indices, np.require(M.data, np.float64, _OWN)


def _column(indptr: Int64Array) -> Int32Array:
    """Return the column of each entry."""
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))


def _require_both_triangles(entries: int, diagonal: int, below: int) -> None:
    if entries != diagonal + 2 * below:
        raise ValueError("There are entries without their mirror image: give both triangles, as M + M.T - diag(M).")
