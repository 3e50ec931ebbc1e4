"""LatentProducts: the terms of a response that is not normal, and which equations they are evaluated by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.dense_equations import DenseEquations
from pm_fastlmm.engines.latent.state import LatentState
from pm_fastlmm.engines.latent.weighted_equations import WeightedEquations
from pm_fastlmm.engines.records import RowWeights
from pm_fastlmm.engines.sparse.equations import SparseBlock
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.families.family import Family
from pm_fastlmm.spectrum.sparse_projection import AnyProjection, SparseProjection

_FILLED = 50.0  # entries of a row on average above which equations are not sparse
_FEW = 25  # unknowns up to which arrays take less than the loops of a sparse factor


@dataclass(frozen=True, eq=False, repr=False)
class LatentProducts(SparseProducts):
    """
    What `SparseProducts` has, of a response from a family: weights differ by row and are those at the mode.

    Attributes
    ----------
    family : Family
        Of y given η, with what it has by row (the trials of a binomial).
    """

    family: Any = None

    @classmethod
    def of(cls, blocks: Sequence[SparseBlock], projection: AnyProjection, family: Family, *, flat: bool) -> Self:
        """Return the products of the rows of the incidence matrices and the projection of X."""
        n, rows = projection.n, np.arange(projection.n)
        records = RowWeights(rows, np.zeros(n, dtype=np.intp), np.ones((1, 1), dtype=bool))
        own = SparseProjection.worthwhile(projection)
        return cls(n, own, flat, tuple(blocks), records, family=family)

    @cached_property
    def equations(self) -> WeightedEquations:
        """C, analysed; as an array where it has few unknowns or is not sparse."""
        basis = self.projection.basis if self.flat else sp.csr_array((self.n, 0))
        unknowns = sum(block.Z.shape[1] for block in self.blocks) + basis.shape[1]
        filled = sum(block.Z.nnz for block in self.blocks) > _FILLED * self.n
        kind = DenseEquations if filled or unknowns <= _FEW else WeightedEquations
        return kind(self.blocks, sp.csr_array(basis), self.records)

    @property
    def dense(self) -> bool:
        """Whether C is an array."""
        return isinstance(self.equations, DenseEquations)

    @property
    def cheap(self) -> bool:
        """Whether thousands of evaluations take a second or two."""
        size = self.equations.ends[-1]
        return size <= 2 * _FEW if self.dense else False

    @property
    def work(self) -> float:
        """About how many multiplications an evaluation takes: some Newton steps and a selected inverse."""
        size = self.equations.ends[-1]
        return 5.0 * (size**3 / 10 if self.dense else self.equations.analysis.flops + 100.0 * (size + self.n))

    @property
    def constant(self) -> float:
        """-½ log|XᵀX| of a flat β: of the coordinates along X it is integrated over."""
        return -self.projection.logdet_R if self.flat else 0.0

    def treated(self, terms: int, *, flat: bool) -> Self:
        """Return the products of the same rows and the first terms with another treatment of β."""
        return type(self).of(self.blocks[:terms], self.projection, self.family, flat=flat)

    def of_family(self, family: Family) -> Self:
        """Return the same with another family, such as one of other trials."""
        return replace(self, family=family)

    def laplace(
        self, y: FloatArray, offset: Any, sigma: list[FloatArray], psi: FloatArray, start: FloatArray | None = None,
        enough: float = 0.0,
    ) -> LatentState | None:  # fmt: skip
        """Return the approximation at (Σ_k, ψ), its mode as `find_mode` seeks it; None outside the parameter space."""
        return LatentState.laplace(self, y, offset, sigma, psi, start, enough)

    @cached_property
    def _last(self) -> dict[str, FloatArray]:
        return {}

    def near(self, y: FloatArray, offset: Any, sigma: list[FloatArray], psi: FloatArray) -> LatentState | None:
        """Return the same, the mode searched from that of the last call."""
        state = self.laplace(y, offset, sigma, psi, self._last.get("x"))
        if state is not None:
            self._last["x"] = state.mode.x
        return state

    def __repr__(self) -> str:
        """Show the sizes."""
        terms = ", ".join(f"{block.levels} × {block.width}" for block in self.blocks)
        return f"LatentProducts({self.family!r}, n={self.n}, terms of {terms} effects, {self.fixed} fixed effects)"
