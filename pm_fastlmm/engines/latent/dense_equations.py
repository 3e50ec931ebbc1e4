"""The same equations where they are not sparse: a K of markers, or so few effects that arrays are faster."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack, solve_triangular

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.weighted_equations import WeightedEquations
from pm_fastlmm.sparse.cholesky import NotPositiveDefinite


@dataclass(frozen=True, eq=False)
class DenseFactorised:
    """C = LLᵀ as an array, with what `Factor` has."""

    L: FloatArray

    @classmethod
    def of(cls, C: FloatArray) -> "DenseFactorised":
        """Factorise; `NotPositiveDefinite` where C is not."""
        L, info = lapack.dpotrf(C, lower=True, clean=True, overwrite_a=True)
        if info:
            raise NotPositiveDefinite(int(info) - 1)
        return cls(L)

    @property
    def logdet(self) -> float:
        """log|C|."""
        return 2 * float(np.log(np.diag(self.L)).sum())

    def half(self, b: FloatArray) -> FloatArray:
        """Return L⁻¹b."""
        return np.asarray(solve_triangular(self.L, b, lower=True, check_finite=False)) if len(self.L) else np.array(b)

    def draw(self, z: FloatArray) -> FloatArray:
        """Return L⁻ᵀz, of covariance C⁻¹ for white noise."""
        if not len(self.L):
            return np.array(z)
        return np.asarray(solve_triangular(self.L, z, lower=True, trans="T", check_finite=False))

    def solve(self, b: FloatArray) -> FloatArray:
        """Return C⁻¹b."""
        return self.draw(self.half(b))

    def reached(self, B: Any) -> FloatArray:
        """Return L⁻¹B of sparse columns."""
        return self.half(sp.csr_array(B).toarray())

    def inverse(self) -> FloatArray:
        """Return C⁻¹ whole."""
        if not len(self.L):
            return np.zeros((0, 0))
        lower, _ = lapack.dpotri(self.L, lower=True)
        return np.asarray(np.tril(lower) + np.tril(lower, -1).T)


@dataclass(frozen=True, eq=False)
class DenseEquations(WeightedEquations):
    """C as an array, and C⁻¹ in place of its selected entries."""

    @cached_property
    def _whole(self) -> FloatArray:
        parts: list[Any] = [*(block.Z for block in self.blocks), self.basis]
        return np.hstack([part.toarray() for part in parts])

    @cached_property
    def _prior(self) -> FloatArray:
        out = np.zeros((self.ends[-1],) * 2)
        for k, block in enumerate(self.blocks):
            Q = np.eye(block.levels) if block.precision is None else sp.csr_array(block.precision.Q).toarray()
            out[self.part(k), self.part(k)] = np.kron(Q, np.eye(block.width))
        return out

    def scaled_rows(self, roots: Sequence[FloatArray]) -> FloatArray:
        """Return WΛ (n, N)."""
        if self.single:
            return self._whole * self._factors(roots)
        return np.ascontiguousarray(self.scaled([root.T for root in roots], self._whole.T).T)

    def factorise(self, roots: Sequence[FloatArray], coefficients: FloatArray) -> Any:
        """Return C factored, of weights (n,)."""
        return self.of_rows(self.scaled_rows(roots), roots, coefficients)

    def of_rows(self, rows: Any, roots: Sequence[FloatArray], coefficients: FloatArray) -> Any:
        """Return the same where WΛ is at hand."""
        return DenseFactorised.of(self._prior + (rows.T * coefficients) @ rows)

    def residual_traces(self, roots: Sequence[FloatArray], inverse: FloatArray) -> FloatArray:
        """Return the diagonal of WΛC⁻¹ΛᵀWᵀ, (n,)."""
        rows = self.scaled_rows(roots)
        return np.asarray(np.einsum("ij,ij->i", rows @ inverse, rows))

    def traces(self, inverse: FloatArray) -> list[FloatArray]:
        """Return T_k = [tr(Q_kC^ab)] of each term."""
        out = []
        for k, block in enumerate(self.blocks):
            own = inverse[self.part(k), self.part(k)].reshape(block.levels, block.width, block.levels, block.width)
            if block.precision is None:
                out.append(np.einsum("iaib->ab", own))
            else:
                Q = block.precision.Q.tocoo()
                out.append(np.einsum("k,kab->ab", Q.data, own[Q.row, :, Q.col, :]))
        return out

    def level_blocks(self, k: int, inverse: FloatArray) -> FloatArray:
        """Return the blocks of C⁻¹ of each level of a term, (levels, width, width)."""
        block = self.blocks[k]
        own = inverse[self.part(k), self.part(k)].reshape(block.levels, block.width, block.levels, block.width)
        return np.ascontiguousarray(np.einsum("iaib->iab", own))

    def inverse_matrix(self, inverse: FloatArray, start: int = 0) -> sp.csr_array:
        """Return C⁻¹ of the unknowns from `start` on."""
        return sp.csr_array(inverse[start:, start:])
