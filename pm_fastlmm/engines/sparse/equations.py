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
from pm_fastlmm.sparse.cholesky import Analysis, Factor

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
        rows = ends[i] + row.astype(np.int32)[:, None, None] * ci + np.arange(ci, dtype=np.int32)[:, None]
        columns = ends[j] + column.astype(np.int32)[:, None, None] * cj + np.arange(cj, dtype=np.int32)
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


class Traced(NamedTuple):
    """Entries of C within one term: their places, what they are weighted by, and their columns within the levels."""

    place: IntArray
    weight: FloatArray
    cell: IntArray
    width: int

    @classmethod
    def of(cls, place: IntArray, lower: Any, width: int) -> Self:
        """Return the entries of a lower triangle, which stand for both, at these places."""
        weight = lower.data * np.where(lower.row == lower.col, 1.0, 2.0)
        return cls(place, weight, (lower.row % width) * width + lower.col % width, width)

    def sums(self, inverse: FloatArray) -> FloatArray:
        """Return T[a, b] = Σ_ij Q_ij C⁻¹[(i, a), (j, b)], (width, width)."""
        c = self.width
        if c == 1:
            return np.array([[self.weight @ inverse[self.place]]])
        half = np.bincount(self.cell, self.weight * inverse[self.place], minlength=c * c).reshape(c, c)
        return (half + half.T) / 2


class Analysed(NamedTuple):
    """
    What the pattern of C gives.

    Attributes
    ----------
    analysis : Analysis
    crossed : list of Crossed
        WᵀE_κW by pairs of terms; the entries of ΛᵀWᵀR⁻¹WΛ are some of their cells, or all of them.
    starts : list of int
        Where the cells of each pair begin, and the end.
    cell, place, row, column : arrays
        Which cell each entry is, its place, and where it stands in the lower triangle.
    prior : array
        The values of blockdiag(Q_k ⊗ I, 0).
    traced : list of Traced
        Q_k of each term, spread over the columns within a level.
    """

    analysis: Analysis
    crossed: list[Crossed]
    starts: list[int]
    cell: Any
    place: IntArray
    row: npt.NDArray[np.int32]
    column: npt.NDArray[np.int32]
    prior: FloatArray
    traced: list[Traced]


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

    def along(self, x: FloatArray) -> FloatArray:
        """Return Wx, W = [Z₁ … Z_K X]."""
        parts = [block.Z @ x[self.part(k)] for k, block in enumerate(self.blocks)]
        return np.asarray(sum(parts, self.basis @ x[self.part(-1)]))

    def across(self, r: FloatArray) -> FloatArray:
        """Return Wᵀr, r (n,) or (n, k)."""
        return np.concatenate([Zt @ r for Zt in self._transposed])

    @cached_property
    def _transposed(self) -> list[Any]:
        return [*(block.Z.T for block in self.blocks), self.basis.T]

    def penalised(self, v: FloatArray) -> FloatArray:
        """Return blockdiag(Q_k ⊗ I, 0)v."""
        out = np.zeros_like(v)
        for k, block in enumerate(self.blocks):
            own = v[self.part(k)].reshape(block.levels, block.width)
            out[self.part(k)] = (own if block.precision is None else block.precision.Q @ own).ravel()
        return out

    def scaled(self, roots: Sequence[FloatArray], x: FloatArray) -> FloatArray:
        """Return Λx, x (N,) or (N, k); Λᵀx for the transposed roots."""
        out = np.array(x)
        for k, (root, block) in enumerate(zip(roots, self.blocks, strict=True)):
            own = out[self.part(k)].reshape(block.levels, block.width, -1)
            out[self.part(k)] = (own * root if root.size == 1 else root @ own).reshape(-1, *out.shape[1:])
        return out

    def rows(self, roots: Sequence[FloatArray], parts: Sequence[Any]) -> sp.csr_array:
        """Return [Z₁ … Z_K X]Λ, sparse, of the parts of some rows; there is none of X where β is not integrated out."""
        pairs = zip(parts, self.blocks, roots, strict=False)
        scaled = [sp.csr_array(Z) @ sp.kron(sp.eye_array(b.levels), root, format="csr") for Z, b, root in pairs]
        return sp.csr_array(sp.hstack([*scaled, *map(sp.csr_array, parts[len(scaled) :])], format="csr"))

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
        row, column = (np.concatenate([np.zeros(0, np.int32), *(pair[k] for pair in crossed)]) for k in (1, 2))
        starts = np.cumsum([0, *(len(pair[1]) for pair in crossed)]).tolist()
        below = row >= column
        cell: Any = slice(None) if below.all() else np.flatnonzero(below)
        row, column = row[cell], column[cell]
        within = [_lower(_within(b, np.ones((b.width, b.width)))) for b in self.blocks]
        own = [(w.row + start, w.col + start) for w, start in zip(within, self.ends, strict=False)]
        analysis = Analysis.of(_pattern([(row, column), *own], self.ends[-1]))
        traced, prior = [], np.zeros(analysis.size)
        for block, lower, at in zip(self.blocks, within, own, strict=True):
            place = analysis.places(*at)
            same = lower.row % block.width == lower.col % block.width
            prior[place[same]] += lower.data[same]
            traced.append(Traced.of(place, lower, block.width))
        data = analysis.places(row, column)
        return Analysed(analysis, [pair[0] for pair in crossed], starts, cell, data, row, column, prior, traced)

    def factorise(self, roots: Sequence[FloatArray], coefficients: FloatArray) -> Factor:
        """Return C factored, of t_κ (K,); `NotPositiveDefinite` where it is not definite."""
        analysed = self._analysed
        own, values = [*roots, np.ones((1, 1))], analysed.prior.copy()
        cells = np.concatenate([np.zeros(0), *(pair.scaled(own, coefficients) for pair in analysed.crossed)])
        values[analysed.place] += cells[analysed.cell]
        return analysed.analysis.factorise(values)

    def residual_traces(self, roots: Sequence[FloatArray], inverse: FloatArray) -> FloatArray:
        """Return tr(C⁻¹ΛᵀWᵀE_κWΛ) = ∂log|C|/∂t_κ, (K,), of C⁻¹ at the places of its pattern."""
        own, a = [*roots, np.ones((1, 1))], self._analysed
        cells = np.zeros(a.starts[-1])
        cells[a.cell] = inverse[a.place] * np.where(a.row == a.column, 1.0, 2.0)
        parts = zip(a.crossed, a.starts[:-1], a.starts[1:], strict=True)
        return np.asarray(sum(pair.traces(own, cells[start:stop]) for pair, start, stop in parts))

    def traces(self, inverse: FloatArray) -> list[FloatArray]:
        """Return T_k = [tr(Q_kC^ab)], C^ab the blocks of C⁻¹, for each term."""
        return [traced.sums(inverse) for traced in self._analysed.traced]

    def level_blocks(self, k: int, inverse: FloatArray) -> FloatArray:
        """Return the blocks of C⁻¹ of each level of a term, (levels, width, width)."""
        levels, c = self.blocks[k].levels, self.blocks[k].width
        first, (a, b) = self.ends[k] + c * np.arange(levels)[:, None], np.tril_indices(c)
        place = self.analysis.places(*((first + part).ravel().astype(np.int32) for part in (a, b)))
        out = np.empty((levels, c, c))
        out[:, a, b] = out[:, b, a] = inverse[place].reshape(levels, -1)
        return out

    def inverse_matrix(self, inverse: FloatArray, start: int = 0) -> sp.csr_array:
        """Return C⁻¹ at the places of ΛᵀWᵀR⁻¹WΛ as a symmetric sparse matrix, of the unknowns from `start` on."""
        e, size = self._analysed, self.ends[-1] - start
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
    if records.by_row:
        return _weighted_by_row(Zi, ci, Zj, cj)
    if records.width == 1:  # R⁻¹ is I but for a factor
        blocks = _blocks(_product(Zi, Zj), ci, cj)
        return *_places(blocks), blocks.data.reshape(-1, 1)
    pairs = list(records.pairs())
    rows, others = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    K = pairs[-1][2] + 1
    A, B = Zi[rows], Zj[others]
    blocks = _blocks(sp.csr_array(_ones(A).T @ _ones(B)), ci, cj)
    blocks.sort_indices()
    row, column = _places(blocks)
    # the columns of each κ beside each other, so that it is one product
    factor = np.repeat(np.concatenate([np.full(len(i), k) for i, _, k in pairs]), np.diff(B.indptr))
    columns = B.indices.astype(np.int64) * K + factor
    B = sp.csr_array((B.data, columns, B.indptr), shape=(B.shape[0], B.shape[1] * K))
    gram = sp.coo_array(A.T @ B)
    r, (s, k) = gram.row.astype(np.int64), divmod(gram.col.astype(np.int64), K)
    width = Zj.shape[1] // cj
    block = np.searchsorted(row.astype(np.int64) * width + column, (r // ci) * width + s // cj)
    cell = (block * ci + r % ci) * cj + s % cj
    size = len(row) * ci * cj
    return row, column, sp.csr_array((gram.data, (cell, k)), shape=(size, K))


def _weighted_by_row(Zi: Any, ci: int, Zj: Any, cj: int) -> tuple[Any, Any, Any]:
    """Return the same of R⁻¹ = diag(t), one coefficient for each row: each pair of entries of a row is a product."""
    count = np.diff(Zj.indptr)[np.repeat(np.arange(Zi.shape[0]), np.diff(Zi.indptr))]  # for each entry of Zi
    first = np.repeat(np.arange(Zi.nnz), count)
    row = np.repeat(np.arange(Zi.shape[0]), np.diff(Zi.indptr))[first]
    within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    second = Zj.indptr[row] + within
    (r, a), (s, b) = divmod(Zi.indices[first].astype(np.int64), ci), divmod(Zj.indices[second].astype(np.int64), cj)
    levels = max(Zj.shape[1] // cj, 1)
    met, block = np.unique(r * levels + s, return_inverse=True)
    cell = (block.ravel() * ci + a) * cj + b
    products = sp.csr_array((Zi.data[first] * Zj.data[second], (cell, row)), shape=(len(met) * ci * cj, Zi.shape[0]))
    return *divmod(met, levels), products


def _blocks(gram: sp.csr_array, ci: int, cj: int) -> Any:
    return sp.bsr_array(gram, blocksize=(ci, cj)) if ci * cj > 1 else gram


def _places(blocks: Any) -> tuple[Any, Any]:
    return np.repeat(np.arange(len(blocks.indptr) - 1), np.diff(blocks.indptr)), blocks.indices


def _product(Zi: Any, Zj: Any) -> sp.csr_array:
    """
    Return Z_iᵀZ_j with an entry for each pair of columns that a row has both of, though their products cancel.

    SciPy leaves out what is 0. Variances of rows are sums over all pairs, of which C⁻¹ is not 0 where WᵀW is.
    """
    gram = sp.csr_array(Zi.T @ Zj)
    if min(Zi.data.min(initial=0.0), Zj.data.min(initial=0.0)) >= 0:
        return gram
    met = sp.csr_array(_ones(Zi).T @ _ones(Zj))
    if met.nnz == gram.nnz:
        return gram
    met.sort_indices()
    gram.sort_indices()
    places = [np.repeat(np.arange(M.shape[0]), np.diff(M.indptr)) * M.shape[1] + M.indices for M in (met, gram)]
    met.data = np.zeros(met.nnz)
    met.data[np.searchsorted(*places)] = gram.data
    return met


def _ones(Z: Any) -> sp.csr_array:
    return sp.csr_array((np.ones(Z.nnz), Z.indices, Z.indptr), shape=Z.shape)


def _lower(M: Any) -> sp.coo_array:
    M = sp.coo_array(M)
    below = M.row >= M.col
    return sp.coo_array((M.data[below], (M.row[below], M.col[below])), shape=M.shape)


def _pattern(entries: Sequence[Any], size: int) -> sp.csc_array:
    """Return the symmetric pattern that has these entries of its lower triangle."""
    row, column = (np.concatenate([pair[k] for pair in entries]) for k in (0, 1))
    off = row != column
    places = np.concatenate([row, column[off]]), np.concatenate([column, row[off]])
    return sp.csc_array((np.ones(len(places[0]), np.int8), places), shape=(size, size))
