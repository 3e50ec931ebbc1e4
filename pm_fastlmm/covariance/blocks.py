"""Blocks: the repeated part of a covariance of random effects, which the likelihood eliminates level by level."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described
from pm_fastlmm.covariance.algebra import Covariance, Kronecker
from pm_fastlmm.covariance.parameters import is_tensor
from pm_fastlmm.covariance.relation import Relation, Rooted
from pm_fastlmm.covariance.structures import Identity, Scalar


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Blocks(ReadOnlyArrays, Described):
    """
    G = R(I ⊗ B)Rᵀ, the covariance of all q effects of a term: effect (level, column) has index level · width + column.

    Attributes
    ----------
    relation : Relation or None
        R, of fixed numbers; None is the identity.
    levels : int
        How often the block B occurs along the diagonal.
    block : Covariance
        B, with the parameters.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> cov.blocks(cov.kronecker(cov.scalar(2.0), cov.ar1(1.0, 0.5, size=3)), size=12)
    Blocks(relation=None, levels=4, block=Kronecker(Scalar(sigma2=2, size=1), AR1(sigma2=1, rho=0.5, size=3)))
    """

    relation: Relation | None
    levels: int
    block: Covariance

    @property
    def root(self) -> FloatArray | None:
        """R (q, q) as a matrix; None is the identity."""
        return None if self.relation is None else self.relation.root(self.width)

    @property
    def width(self) -> int:
        """The size of the block."""
        return int(self.block.size)

    @property
    def size(self) -> int:
        """The number of effects q = levels · width."""
        return self.levels * self.width

    def dense(self) -> Any:
        """Return G, an array or a tensor as `block` has it."""
        G = Kronecker(Identity(self.levels), self.block).dense()
        return G if (R := self.root) is None else R @ G @ R.T

    def variances(self, block: FloatArray) -> FloatArray:
        """Return the diagonal of G, (q,), where the block B has these numbers."""
        return np.tile(np.diag(block), self.levels) if self.relation is None else self.relation.variances(block)

    def __repr__(self) -> str:
        """Show the fields, the relation by its size."""
        relation = None if self.relation is None else f"<{self.size} × {self.size}>"
        return f"Blocks(relation={relation}, levels={self.levels}, block={self.block!r})"

    def _facts(self) -> dict[str, Any]:
        relation = "none" if self.relation is None else f"{self.size} × {self.size}"
        return {"relation": relation, "levels": self.levels, "block": repr(self.block)}


def blocks(covariance: Covariance, size: int | None = None) -> Blocks:
    """
    Return the largest number of equal blocks that the structure shows.

    Independent levels (`identity`, `scalar`) make one block each; a known K does after its root has been moved to the
    incidence, Z → ZR; in a Kronecker product they stand first. Any other structure is one block.

    Parameters
    ----------
    covariance : Covariance
    size : int, optional
        For a structure without a size of its own.

    Raises
    ------
    ValueError
        If the size is neither known nor given, or is given and differs.
    """
    sized = covariance._of_known_size(size)
    if isinstance(sized, Kronecker):
        first, *rest = sized.operands
        outer = blocks(first)
        if isinstance(outer.block, Identity | Scalar):  # its block is one number
            return _product(outer, blocks(rest[0] if len(rest) == 1 else Kronecker(*rest)))
    root, levels, block = sized._repeated()
    return Blocks(Rooted(root) if isinstance(root, np.ndarray) else root, levels, block)


def _product(outer: Blocks, inner: Blocks) -> Blocks:
    """(R₁(I ⊗ v)R₁ᵀ) ⊗ (R₂(I ⊗ B)R₂ᵀ) = (R₁ ⊗ R₂)(I ⊗ vB)(R₁ ⊗ R₂)ᵀ, as v is one number."""
    v = outer.block.parameters.get("sigma2", 1.0)
    if not is_tensor(v) and v == 1:
        block = inner.block
    else:
        block = outer.block if isinstance(inner.block, Identity) else Kronecker(outer.block, inner.block)
    return Blocks(_together(outer, inner), outer.levels * inner.levels, block)


def _together(outer: Blocks, inner: Blocks) -> Relation | None:
    """Return R₁ ⊗ R₂; a relation between levels stays as it is where nothing is related within."""
    if outer.relation is None and inner.relation is None:
        return None
    if inner.relation is None and inner.levels == 1 and outer.relation is not None and outer.relation.between:
        return outer.relation
    roots = (np.eye(part.size) if (R := part.root) is None else R for part in (outer, inner))
    return Rooted(frozen(np.kron(*roots)))
