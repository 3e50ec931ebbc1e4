"""How the levels of a term are related: by a root of their covariance, or by its sparse inverse."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.covariance.precision import Precision


class Relation(ABC):
    """
    The covariance R(I ⊗ B)Rᵀ between the effects of a term, B within a level; without a relation R is the identity.

    Attributes
    ----------
    precision : Precision or None
        A⁻¹ of R(I ⊗ B)Rᵀ = A ⊗ B, where it is known and sparse.
    between : bool
        Whether it is between levels, R(I ⊗ B)Rᵀ = A ⊗ B, for any number of effects within one.
    """

    precision: Precision | None = None
    between: ClassVar[bool] = False

    @abstractmethod
    def root(self, width: int) -> FloatArray:
        """Return R (q, q) of q effects, so many within a level."""

    @abstractmethod
    def variances(self, block: FloatArray) -> FloatArray:
        """Return the diagonal of R(I ⊗ B)Rᵀ, (q,)."""

    @abstractmethod
    def same(self, other: Any) -> bool:
        """Return whether another relation is known to be the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Rooted(Relation):
    """A relation by its root R (q, q), a matrix."""

    R: FloatArray

    def root(self, width: int) -> FloatArray:
        """Return R."""
        return self.R

    def variances(self, block: FloatArray) -> FloatArray:
        """Return the diagonal."""
        rooted = self.R.reshape(-1, len(block)) @ semidefinite_root(block)
        return np.asarray((rooted.reshape(len(self.R), -1) ** 2).sum(axis=-1))

    def same(self, other: Any) -> bool:
        """Return whether the roots are equal."""
        return isinstance(other, Rooted) and np.array_equal(self.R, other.R)


@dataclass(frozen=True, eq=False)
class Inverse(Relation):
    """A relation by the inverse of A, the covariance between levels; its root is made when an engine asks for it."""

    precision: Precision
    between: ClassVar[bool] = True

    @cached_property
    def _root(self) -> FloatArray:
        return frozen(np.linalg.cholesky(self.precision.dense(self.precision.labels).to_numpy()))

    def root(self, width: int) -> FloatArray:
        """Return L ⊗ I, A = LLᵀ."""
        return self._root if width == 1 else np.asarray(np.kron(self._root, np.eye(width)))

    def variances(self, block: FloatArray) -> FloatArray:
        """Return the diagonal of A ⊗ B."""
        return np.asarray(np.kron(self.precision.variances, np.diag(block)))

    def same(self, other: Any) -> bool:
        """Return whether it is of the same precision."""
        return isinstance(other, Inverse) and self.precision is other.precision
