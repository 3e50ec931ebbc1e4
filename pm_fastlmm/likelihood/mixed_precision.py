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

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.likelihood.leave_out import Rows
from pm_fastlmm.likelihood.mixed import MixedState, block_diagonal


@dataclass(frozen=True, eq=False)
class MixedPrecision:
    """
    P and Py at the θ of a state.

    Attributes
    ----------
    state : MixedState
        V factored, with the response.
    y : (n,) array
        y₂ for a flat β, y less its mean otherwise.
    budget : int
        How many numbers of Y are formed at a time.
    """

    state: MixedState
    y: FloatArray
    budget: int

    @classmethod
    def of(cls, state: MixedState, y: FloatArray, *, budget: int = 4_000_000) -> Self:
        """Take the rows of the response, y less its mean besides a β that is integrated out."""
        p = state.products
        Q1 = p.projection.Q1
        return cls(state, y - Q1 @ (Q1.T @ y) if p.flat else y, budget)

    @cached_property
    def _eliminated(self) -> Any:
        """O M⁻¹, sparse (n, levels · width)."""
        Minv = self.state.factor[1]
        O = self.state.products.O  # noqa: E741 - the orthonormal factor of the formula
        return O @ block_diagonal(Minv) if len(Minv) else O

    @property
    def weighted(self) -> FloatArray:
        """Py, (n,)."""
        p, e = self.state.products, self.state.sigma2_e
        residual = self.y - p.W @ self.state.factor[7]
        along = p.O.T @ residual
        return np.asarray((residual - p.O @ along) / e + self._eliminated @ along)

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of P, (n,)."""
        p, e = self.state.products, self.state.sigma2_e
        O = p.O  # noqa: E741
        explained = np.asarray(O.multiply(O).sum(axis=1)).ravel()
        out = (1 - explained) / e + np.asarray(self._eliminated.multiply(O).sum(axis=1)).ravel()
        size = max(1, self.budget // max(1, p.W.shape[1]))
        for start in range(0, p.rows, size):
            rows = slice(start, min(start + size, p.rows))
            out[rows] -= e * (self._whitened(rows) ** 2).sum(-1)
        return out

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS (s, s)."""
        p, e = self.state.products, self.state.sigma2_e
        O = p.O[rows]  # noqa: E741
        Y = self._whitened(rows)
        N = (np.eye(len(rows)) - (O @ O.T).toarray()) / e + (self._eliminated[rows] @ O.T).toarray()
        return np.asarray((N + N.T) / 2 - e * Y @ Y.T)

    def _whitened(self, rows: Any) -> FloatArray:
        """Return rows of Y."""
        p, e, scaled = self.state.products, self.state.sigma2_e, self.state.scaled.T
        return np.asarray((p.W[rows] @ scaled - p.O[rows] @ self._between) / e + self._eliminated[rows] @ self._between)

    @cached_property
    def _between(self) -> FloatArray:
        """B ΛL⁻ᵀ, (levels · width, m)."""
        return np.asarray(self.state.products.B @ self.state.scaled.T)
