"""
Known matrices by what they do to a vector: roots R of a covariance A = RRᵀ, and its inverse.

Those that are not dense are not formed. R of who descends from parents is a recursion in the order of their births, of
another sparse precision a triangular solve: with A⁻¹ = PᵀLLᵀP, R = PᵀL⁻ᵀ.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.copies import Copied
from pm_fastlmm.sparse.cholesky import Factor
from pm_fastlmm.sparse.genealogy import Genealogy, SparseMatrix


class LinearMap(Copied, ABC):
    """A matrix M (n, m), known by its products with columns x (m, c)."""

    __slots__ = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return n and m."""

    @abstractmethod
    def forward(self, x: FloatArray) -> FloatArray:
        """Return Mx."""

    @abstractmethod
    def adjoint(self, g: FloatArray) -> FloatArray:
        """Return Mᵀg."""

    def compiled(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        """Return both as functions that compiled code may call, None if there are none."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Descent(LinearMap):
    """R = TD^½ of those who descend from parents: u_i = w Σ_p u_p + √d_i z_i."""

    genealogy: Genealogy

    @property
    def shape(self) -> tuple[int, int]:
        """How many there are, twice."""
        return len(self.genealogy.own), len(self.genealogy.own)

    def _arrays(self) -> tuple[Any, ...]:
        who = self.genealogy
        return np.ascontiguousarray(who.parents), who.order, who.weight, np.sqrt(who.own)

    def forward(self, x: FloatArray) -> FloatArray:
        """Return what descends from x."""
        from pm_fastlmm.sparse.descent import descend

        return np.asarray(descend(*self._arrays(), x))

    def adjoint(self, g: FloatArray) -> FloatArray:
        """Return Rᵀg."""
        from pm_fastlmm.sparse.descent import ascend

        return np.asarray(ascend(*self._arrays(), g))

    def compiled(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return both as compiled functions."""
        from pm_fastlmm.sparse.descent import descending

        down, up = descending(*self._arrays())
        return down, up


@dataclass(frozen=True, slots=True, eq=False)
class HalfSolve(LinearMap):
    """R = PᵀL⁻ᵀ, by the Cholesky factor of a precision."""

    factor: Factor

    @property
    def shape(self) -> tuple[int, int]:
        """The order of the precision, twice."""
        return self.factor.analysis.n, self.factor.analysis.n

    def forward(self, x: FloatArray) -> FloatArray:
        """Return PᵀL⁻ᵀx."""
        return self.factor.draw(x)

    def adjoint(self, g: FloatArray) -> FloatArray:
        """Return L⁻¹Pg."""
        return self.factor.half(g)


@dataclass(frozen=True, slots=True, eq=False)
class Symmetric(LinearMap):
    """A sparse symmetric matrix, both triangles given."""

    Q: SparseMatrix

    @property
    def shape(self) -> tuple[int, int]:
        """That of Q."""
        return self.Q.shape

    def forward(self, x: FloatArray) -> FloatArray:
        """Return Qx."""
        return np.asarray(self.Q @ x)

    def adjoint(self, g: FloatArray) -> FloatArray:
        """Return Qg."""
        return self.forward(g)

    def compiled(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the product as a compiled function, twice."""
        from pm_fastlmm.sparse.multiply import by_columns

        multiply = by_columns(self.Q.indptr, self.Q.indices, self.Q.data)
        return multiply, multiply


@dataclass(frozen=True, slots=True, eq=False)
class Dense(LinearMap):
    """A matrix."""

    R: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """That of R."""
        n, m = self.R.shape
        return n, m

    def forward(self, x: FloatArray) -> FloatArray:
        """Return Rx."""
        return np.asarray(self.R @ x)

    def adjoint(self, g: FloatArray) -> FloatArray:
        """Return Rᵀg."""
        return np.asarray(self.R.T @ g)

    def compiled(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return both as compiled functions."""
        from pm_fastlmm.sparse.multiply import by_rows

        forward, adjoint = by_rows(np.ascontiguousarray(self.R))
        return forward, adjoint


@dataclass(frozen=True, slots=True, eq=False)
class TriangularSolve(LinearMap):
    """L⁻¹ of a lower triangular L."""

    L: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """That of L."""
        return len(self.L), len(self.L)

    def forward(self, x: FloatArray) -> FloatArray:
        """Return L⁻¹x."""
        return np.asarray(solve_triangular(self.L, x, lower=True, check_finite=False))

    def adjoint(self, g: FloatArray) -> FloatArray:
        """Return L⁻ᵀg."""
        return np.asarray(solve_triangular(self.L, g, lower=True, trans="T", check_finite=False))
