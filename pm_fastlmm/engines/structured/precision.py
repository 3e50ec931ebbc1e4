"""
P and Py of several random-effects terms at one θ, from cross-products and the rows: O(rows · dense block).

With N = (Z₁G₁Z₁ᵀ + σ²_eI)⁻¹ = (I - OOᵀ)/σ²_e + O M⁻¹Oᵀ, the eliminated term block by block, and the rest of V in the
dense block W (`likelihood.crossproduct`),

    P = N - σ²_eYYᵀ,   Y = NWΛL⁻ᵀ,   Py = N(y₂ - Wb)

V itself, n × n, is never formed.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.kernel.likelihood.leave_out import Rows

_DENSE = 0.25  # share of entries that are not 0 above which arrays are faster than sparse matrices


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRows:
    """
    What the rows are to the cross-products, once for all θ: each belongs to one level of the eliminated term.

    Attributes
    ----------
    level : (n,) int array
    O : (n, width) array
        The entries of O, in the columns of the level; of no columns without an eliminated term.
    W, B : arrays or sparse matrices
        The dense block, and OᵀW.
    """

    level: npt.NDArray[np.intp]
    O: FloatArray  # noqa: E741 - the orthonormal factor of the formula
    W: Any
    B: Any

    @classmethod
    def of(cls, p: MixedProducts) -> Self:
        """Take the rows of O apart."""
        c = p.C.shape[1] if p.eliminated else 0
        level, O = np.zeros(p.rows, dtype=np.intp), np.zeros((p.rows, c))  # noqa: E741
        entries = p.O.tocoo()
        if c:
            level[entries.row] = entries.col // c
            O[entries.row, entries.col % c] = entries.data
        return cls(level, O, _filled(p.W), _filled(p.B))

    def along(self, v: FloatArray, levels: int) -> FloatArray:
        """Return Oᵀv, (levels, width)."""
        columns = [np.bincount(self.level, own * v, levels) for own in self.O.T]
        return np.stack(columns, axis=-1) if columns else np.zeros((levels, 0))


def _filled(M: Any) -> Any:
    """Return a sparse matrix as an array, if most of it is filled."""
    return M.toarray() if M.nnz > _DENSE * M.shape[0] * M.shape[1] else M


@dataclass(frozen=True, eq=False)
class MixedPrecision:
    """
    P and Py at the θ of a state.

    Attributes
    ----------
    state : MixedState
        V factored, with the response.
    rows : PrecisionRows
    y : (n,) array
        y₂ for a flat β, y less its mean otherwise.
    budget : int
        How many numbers of Y are formed at a time.
    """

    state: Any
    rows: PrecisionRows
    y: FloatArray
    budget: int

    @classmethod
    def of(cls, state: Any, y: FloatArray, *, budget: int = 4_000_000) -> Self:
        """Take the rows of the response, y less its mean besides a β that is integrated out."""
        p = state.products
        Q1 = p.projection.Q1
        return cls(state, p.by_row, y - Q1 @ (Q1.T @ y) if p.flat else y, budget)

    @cached_property
    def _within(self) -> FloatArray:
        """O(M⁻¹ - I/σ²_e), (n, width) in the columns of the level of a row, so that N = I/σ²_e + O(M⁻¹ - I/σ²_e)Oᵀ."""
        r, c = self.rows, self.rows.O.shape[1]
        if not c:
            return r.O
        difference = self.state.factor[1] - np.eye(c) / self.state.sigma2_e
        return np.asarray(np.einsum("ia,iab->ib", r.O, difference[r.level]))

    @property
    def weighted(self) -> FloatArray:
        """Py, (n,)."""
        r, Minv = self.rows, self.state.factor[1]
        residual = self.y - r.W @ self.state.factor[7]
        along = r.along(residual, len(Minv))
        if not along.size:
            return np.asarray(residual / self.state.sigma2_e)
        inside = residual - (r.O * along[r.level]).sum(-1)
        between = np.einsum("jab,jb->ja", Minv, along)
        return np.asarray(inside / self.state.sigma2_e + (r.O * between[r.level]).sum(-1))

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of P, (n,)."""
        r, e, m = self.rows, self.state.sigma2_e, self.state.products.columns
        out = 1 / e + (self._within * r.O).sum(-1)
        size = max(1, self.budget // max(1, (1 + r.O.shape[1]) * m))
        for part in slices(len(out), size):
            out[part] -= e * (self._whitened(part) ** 2).sum(-1)
        return np.asarray(out)

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS (s, s)."""
        r, e, Y = self.rows, self.state.sigma2_e, self._whitened(rows)
        same = r.level[rows, None] == r.level[rows]
        N = np.eye(len(rows)) / e + same * (self._within[rows] @ r.O[rows].T)
        return np.asarray((N + N.T) / 2 - e * Y @ Y.T)

    def _whitened(self, rows: Any) -> FloatArray:
        """Return rows of Y, (W/σ²_e + O(M⁻¹ - I/σ²_e)B)ΛL⁻ᵀ."""
        r, scaled = self.rows, self.state.scaled.T
        Y = r.W[rows] @ (scaled / self.state.sigma2_e)
        if r.O.shape[1]:
            Y = Y + np.einsum("ia,iam->im", self._within[rows], self._between[r.level[rows]])
        return np.asarray(Y)

    @cached_property
    def _between(self) -> FloatArray:
        """B ΛL⁻ᵀ, (levels, width, m)."""
        scaled = self.state.scaled.T
        return np.asarray(self.rows.B @ scaled).reshape(*self.state.products.C.shape[:2], scaled.shape[1])
