"""The mixed-model equations with a weight for each row, C = ΛᵀWᵀDWΛ + P, in as few products as they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.sparse.equations import Equations


@dataclass(frozen=True, eq=False)
class WeightedEquations(Equations):
    """Equations whose R⁻¹ is diag(D): where each level has one effect, all entries of WᵀDW are one product with D."""

    @cached_property
    def single(self) -> bool:
        """Whether each level of each term has one effect."""
        return all(block.width == 1 for block in self.blocks)

    @cached_property
    def rows_of_data(self) -> sp.csr_array:
        """W = [Z₁ … Z_K X]."""
        return sp.csr_array(sp.hstack([*(block.Z for block in self.blocks), self.basis], format="csr"))

    @cached_property
    def _products(self) -> sp.csr_array:
        """Entries of WᵀDW by rows of the data."""
        stacked = sp.vstack([sp.csr_array(pair.products) for pair in self._analysed.crossed], format="csr")
        return sp.csr_array(stacked[self._analysed.cell])

    @cached_property
    def _products_t(self) -> Any:
        return self._products.T

    def _factors(self, roots: Sequence[FloatArray]) -> FloatArray:
        """Return the diagonal of Λ."""
        own = [np.full(block.levels, root[0, 0]) for block, root in zip(self.blocks, roots, strict=True)]
        return np.concatenate([*own, np.ones(self.basis.shape[1])])

    def scaled_rows(self, roots: Sequence[FloatArray]) -> Any:
        """Return WΛ (n, N)."""
        W = self.rows_of_data
        if not self.single:
            return self.rows(roots, [*(block.Z for block in self.blocks), self.basis])
        return sp.csr_array((W.data * self._factors(roots)[W.indices], W.indices, W.indptr), shape=W.shape)

    def factorise(self, roots: Sequence[FloatArray], coefficients: FloatArray) -> Any:
        """Return C factored, of weights (n,)."""
        if not self.single:
            return super().factorise(roots, coefficients)
        a, f = self._analysed, self._factors(roots)
        values = a.prior.copy()
        values[a.place] += (self._products @ coefficients) * (f[a.row] * f[a.column])
        return a.analysis.factorise(values)

    def of_rows(self, rows: Any, roots: Sequence[FloatArray], coefficients: FloatArray) -> Any:
        """Return the same where WΛ is at hand, which an array is made of."""
        return self.factorise(roots, coefficients)

    def residual_traces(self, roots: Sequence[FloatArray], inverse: FloatArray) -> FloatArray:
        """Return the diagonal of WΛC⁻¹ΛᵀWᵀ, (n,)."""
        if not self.single:
            return super().residual_traces(roots, inverse)
        a, f = self._analysed, self._factors(roots)
        weight = np.where(a.row == a.column, 1.0, 2.0) * f[a.row] * f[a.column]
        return np.asarray(self._products_t @ (inverse[a.place] * weight))
