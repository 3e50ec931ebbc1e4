r"""
The mixed-model equations of several terms, in a form that singular Σ_k do not break.

With Σ_k = L_kL_kᵀ and u_k = (I ⊗ L_k)v_k, v_k ~ N(0, A_k ⊗ I), A_k⁻¹ = Q_k sparse and known, and W = [Z₁ … Z_K X],

    C = ΛᵀWᵀR⁻¹WΛ + blockdiag(Q_k ⊗ I, 0),   Λ = blockdiag(I ⊗ L_k, I),   R⁻¹ = Σ_κ t_κE_κ

has one pattern at every θ, and no inverse of Σ_k in it. R is the covariance of the residuals: E_κ are known matrices of
0 and 1, t_κ elements of inverse blocks of Σ_e (`records`), I and 1/σ²_e where residuals have one variance. So WᵀR⁻¹W is
a sum of known products, and what depends on the pattern is done once: the order of elimination and the places of all
entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.covariance.precision import Precision
from pm_fastlmm.engines.records import Records
from pm_fastlmm.sparse.cholesky import Analysis, Entries, Factor

type IntArray = npt.NDArray[np.int64]


class SparseBlock(NamedTuple):
    """
    One term: Z (n, levels · width), vec u ~ N(0, A ⊗ Σ), A⁻¹ of a known `precision`, the identity without one.

    `root` is the R of another known covariance, which was moved into Z.
    """

    Z: sp.csr_array
    levels: int
    width: int
    precision: Precision | None = None
    root: FloatArray | None = None


class Crossed(NamedTuple):
    """
    Z_iᵀE_κZ_j of two terms in blocks of their levels, one cell of a block after the other.

    Attributes
    ----------
    i, j : int
    shape : (int, int)
        Widths of the terms, those of a block.
    products : (cells, K) array, dense or sparse
        Cells by κ.
    """

    i: int
    j: int
    shape: tuple[int, int]
    products: Any

    @classmethod
    def of(
        cls, i: int, j: int, parts: Sequence[tuple[Any, int]], ends: list[int], records: Records
    ) -> tuple[Self, IntArray, IntArray]:
        """
        Return the products, and the row and the column of each cell in C.

        Blocks of one term are those of levels of which the first is not before the second.
        """
        (Zi, ci), (Zj, cj) = parts[i], parts[j]
        row, column, products = _products(Zi, ci, Zj, cj, records)
        if i == j:
            lower = row >= column
            row, column, products = row[lower], column[lower], products[np.repeat(lower, ci * cj)]
        rows = ends[i] + row.astype(np.int64)[:, None, None] * ci + np.arange(ci)[:, None]
        columns = ends[j] + column.astype(np.int64)[:, None, None] * cj + np.arange(cj)
        shape = len(row), ci, cj
        row_of, column_of = (np.broadcast_to(part, shape).ravel() for part in (rows, columns))
        return cls(i, j, (ci, cj), products), row_of, column_of

    def scaled(self, roots: Sequence[FloatArray], coefficients: FloatArray) -> FloatArray:
        """Return L_iᵀ(Z_iᵀR⁻¹Z_j)L_j of all cells."""
        left, right, values = roots[self.i], roots[self.j], self.products @ coefficients
        if left.size == right.size == 1:
            return np.asarray(values * (left[0, 0] * right[0, 0]))
        return np.asarray((left.T @ values.reshape(-1, *self.shape) @ right).ravel())

    def traces(self, roots: Sequence[FloatArray], cells: FloatArray) -> FloatArray:
        """Return Σ_cells (·)L_iᵀ(Z_iᵀE_κZ_j)L_j for each κ, (K,): the transpose of `scaled`."""
        inner = roots[self.i] @ cells.reshape(-1, *self.shape) @ roots[self.j].T
        return np.asarray(self.products.T @ inner.ravel())


class Analysed(NamedTuple):
    """
    WᵀR⁻¹W by pairs of terms, where their cells begin, the analysis, and the entries of ΛᵀWᵀR⁻¹WΛ.

    Values of these are 1 + the number of a cell of pairs.
    """

    crossed: list[Crossed]
    starts: list[int]
    analysis: Analysis
    data: Entries


class Traced(NamedTuple):
    """Entries of C within one term: their places, what they are weighted by, their levels and columns in these."""

    place: IntArray
    weight: FloatArray
    level: IntArray
    cell: IntArray
    width: int

    def sums(self, inverse: FloatArray) -> FloatArray:
        """Return T[a, b] = Σ_ij Q_ij C⁻¹[(i, a), (j, b)], (width, width)."""
        c = self.width
        half = np.bincount(self.cell, self.weight * inverse[self.place], minlength=c * c).reshape(c, c)
        return (half + half.T) / 2


@dataclass(frozen=True, eq=False)
class Equations:
    """
    C of terms and the basis of X, analysed.

    Attributes
    ----------
    blocks : tuple of SparseBlock
    basis : sparse (n, r) array
        The columns of the fixed effects, none where β is not integrated out.
    records : Records
        Which residuals covary.
    """

    blocks: tuple[SparseBlock, ...]
    basis: sp.csr_array
    records: Records

    @cached_property
    def ends(self) -> list[int]:
        """Where the effects of each term begin, then those of X, then the end."""
        sizes = [block.Z.shape[1] for block in self.blocks]
        return np.cumsum([0, *sizes, self.basis.shape[1]]).tolist()

    def part(self, k: int) -> slice:
        """Return which unknowns are those of term k; of X for k = -1."""
        return slice(self.ends[k], self.ends[k + 1]) if k >= 0 else slice(self.ends[-2], self.ends[-1])

    @cached_property
    def W(self) -> sp.csr_array:
        """[Z₁ … Z_K X]."""
        return sp.csr_array(sp.hstack([*(block.Z for block in self.blocks), self.basis], format="csr"))

    @cached_property
    def Wt(self) -> sp.csr_array:
        """Wᵀ by rows, for products."""
        return sp.csr_array(self.W.T.tocsr())

    @cached_property
    def Q(self) -> sp.csc_array:
        """blockdiag(Q_k ⊗ I, 0)."""
        parts = [_within(block, sp.eye_array(block.width)) for block in self.blocks]
        none = sp.csc_array((self.basis.shape[1],) * 2)
        return sp.csc_array(sp.block_diag([*parts, none], format="csc"))

    def scale(self, roots: Sequence[FloatArray]) -> sp.csc_array:
        """Return Λ."""
        pairs = zip(roots, self.blocks, strict=True)
        parts = [sp.kron(sp.eye_array(block.levels), root, format="csc") for root, block in pairs]
        return sp.csc_array(sp.block_diag([*parts, sp.eye_array(self.basis.shape[1])], format="csc"))

    @property
    def analysis(self) -> Analysis:
        """The order of elimination, and the pattern of the factor."""
        return self._analysed.analysis

    @cached_property
    def _analysed(self) -> Analysed:
        parts = [(block.Z, block.width) for block in self.blocks] + [(self.basis, 1)]
        present = [i for i, (Z, _) in enumerate(parts) if Z.shape[1]]
        pairs = [(i, j) for i in present for j in present if j <= i]
        crossed = [Crossed.of(i, j, parts, self.ends, self.records) for i, j in pairs]
        row, column = _joined([pair[1] for pair in crossed]), _joined([pair[2] for pair in crossed])
        numbered = _symmetric(row, column, np.arange(1.0, len(row) + 1), self.ends[-1])
        full = [_within(block, np.ones((block.width, block.width))) for block in self.blocks]
        none = sp.csc_array((self.basis.shape[1],) * 2)
        analysis = Analysis.of(numbered + abs(sp.block_diag([*full, none], format="csc")))
        starts = np.cumsum([0, *(len(pair[1]) for pair in crossed)]).tolist()
        return Analysed([pair[0] for pair in crossed], starts, analysis, analysis.entries(numbered))

    @cached_property
    def _prior(self) -> FloatArray:
        entries, out = self.analysis.entries(self.Q), np.zeros(self.analysis.size)
        out[entries.place] = entries.value
        return out

    def factorise(self, roots: Sequence[FloatArray], coefficients: FloatArray) -> Factor:
        """Return C factored, of t_κ (K,); `NotPositiveDefinite` where it is not definite."""
        own, values = [*roots, np.ones((1, 1))], self._prior.copy()
        crossed, _, analysis, data = self._analysed
        cells = np.concatenate([np.zeros(0), *(pair.scaled(own, coefficients) for pair in crossed)])
        values[data.place] += cells[data.value.astype(np.int64) - 1]
        return analysis.factorise(values)

    def traces(self, roots: Sequence[FloatArray], inverse: FloatArray) -> FloatArray:
        """Return tr(C⁻¹ΛᵀWᵀE_κWΛ) = ∂log|C|/∂t_κ, (K,), of C⁻¹ at the places of its pattern."""
        own = [*roots, np.ones((1, 1))]
        crossed, starts, _, data = self._analysed
        cells = np.zeros(starts[-1])
        cells[data.value.astype(np.int64) - 1] = inverse[data.place] * np.where(data.row == data.column, 1.0, 2.0)
        parts = zip(crossed, starts[:-1], starts[1:], strict=True)
        return np.asarray(sum(pair.traces(own, cells[start:stop]) for pair, start, stop in parts))

    @cached_property
    def traced(self) -> list[Traced]:
        """Q_k of each term, spread over the columns within a level."""
        return [self._traced(k, _within(b, np.ones((b.width, b.width)))) for k, b in enumerate(self.blocks)]

    @cached_property
    def own(self) -> list[Traced]:
        """The blocks of each level along the diagonal of C."""
        ones = [sp.kron(sp.eye_array(b.levels), np.ones((b.width, b.width)), format="csc") for b in self.blocks]
        return [self._traced(k, one) for k, one in enumerate(ones)]

    def _traced(self, k: int, M: Any) -> Traced:
        c, start, size = self.blocks[k].width, self.ends[k], self.ends[-1]
        M = sp.coo_array(M)
        placed = sp.coo_array((M.data, (M.row + start, M.col + start)), shape=(size, size))
        e = self.analysis.entries(sp.csc_array(placed))
        row, column = e.row.astype(np.int64) - start, e.column.astype(np.int64) - start
        weight = e.value * np.where(row == column, 1.0, 2.0)
        return Traced(e.place, weight, row // c, (row % c) * c + column % c, c)

    def level_blocks(self, k: int, inverse: FloatArray) -> FloatArray:
        """Return the blocks of C⁻¹ of each level of a term, (levels, width, width)."""
        own, c = self.own[k], self.blocks[k].width
        out, values = np.empty((self.blocks[k].levels, c, c)), inverse[own.place]
        out[own.level, own.cell // c, own.cell % c] = values
        out[own.level, own.cell % c, own.cell // c] = values
        return out

    def inverse_matrix(self, inverse: FloatArray, start: int = 0) -> sp.csr_array:
        """Return C⁻¹ at the places of ΛᵀWᵀR⁻¹WΛ as a symmetric sparse matrix, of the unknowns from `start` on."""
        e, size = self._analysed.data, self.ends[-1] - start
        own = e.column >= start  # the smaller of the two
        row, column, values = e.row[own] - start, e.column[own] - start, inverse[e.place[own]]
        off = row != column
        rows, columns = np.concatenate([row, column[off]]), np.concatenate([column, row[off]])
        return sp.csr_array((np.concatenate([values, values[off]]), (rows, columns)), shape=(size, size))

    @classmethod
    def of(cls, blocks: Sequence[SparseBlock], basis: Any, records: Records) -> Self:
        """Return the equations of these terms, a basis of X, and residuals of these records."""
        return cls(tuple(blocks), sp.csr_array(basis), records)


def _within(block: SparseBlock, within: Any) -> Any:
    between = sp.eye_array(block.levels, format="csc") if block.precision is None else block.precision.Q
    return sp.csc_array(between) if block.width == 1 else sp.kron(between, within, format="csc")


def _products(Zi: Any, ci: int, Zj: Any, cj: int, records: Records) -> tuple[Any, Any, Any]:
    """
    Return the row and column of each block of Z_iᵀR⁻¹Z_j, and its cells by κ.

    There is one for each pair of levels that rows of a record have, though their products cancel: SciPy leaves out what
    is 0, but variances of rows are sums over all pairs, of which C⁻¹ is not 0 where WᵀR⁻¹W is.
    """
    pairs = list(records.pairs())
    rows, others = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    K = pairs[-1][2] + 1
    if K == 1:  # the rows are those of the data
        A, B, factor = Zi, Zj, np.zeros(0, dtype=np.int64)
    else:
        A, B = Zi[rows], Zj[others]
        factor = np.repeat(np.concatenate([np.full(len(i), k) for i, _, k in pairs]), np.diff(B.indptr))
    met = sp.csr_array(_ones(A).T @ _ones(B))
    blocks = sp.bsr_array(met, blocksize=(ci, cj)) if ci * cj > 1 else met
    blocks.sort_indices()
    row, column = np.repeat(np.arange(len(blocks.indptr) - 1), np.diff(blocks.indptr)), blocks.indices
    if K > 1:  # the columns of each κ beside each other, so that it is one product
        columns = B.indices.astype(np.int64) * K + factor
        B = sp.csr_array((B.data, columns, B.indptr), shape=(B.shape[0], B.shape[1] * K))
    gram = sp.coo_array(A.T @ B)
    r, (s, k) = gram.row.astype(np.int64), divmod(gram.col.astype(np.int64), K)
    width = Zj.shape[1] // cj
    block = np.searchsorted(row.astype(np.int64) * width + column, (r // ci) * width + s // cj)
    cell = (block * ci + r % ci) * cj + s % cj
    size = len(row) * ci * cj
    if K > 1:
        return row, column, sp.csr_array((gram.data, (cell, k)), shape=(size, K))
    products = np.zeros((size, 1))
    products[cell, 0] = gram.data
    return row, column, products


def _ones(Z: Any) -> sp.csr_array:
    return sp.csr_array((np.ones(Z.nnz), Z.indices, Z.indptr), shape=Z.shape)


def _joined(parts: list[IntArray]) -> IntArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _symmetric(row: IntArray, column: IntArray, value: FloatArray, size: int) -> sp.csc_array:
    """Return the symmetric matrix whose lower triangle has these entries; others above the diagonal are left out."""
    kept = row >= column
    row, column, value = row[kept], column[kept], value[kept]
    off = row > column
    places = np.concatenate([row, column[off]]), np.concatenate([column, row[off]])
    return sp.csc_array((np.concatenate([value, value[off]]), places), shape=(size, size))
