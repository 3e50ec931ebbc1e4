"""
Covariances of random effects: known matrices of relatedness, and structures with parameters.

`pedigree`, `markers`, `phylogeny` and `grouping` make a known K; `Pedigree`, `Tree` and `Precision` are known by their
sparse inverse, which a million individuals allow. The structures, `scalar` to `known`, hold parameters
that are numbers or random variables and are combined by `+`, `*` and `@`. `incidence` codes factors, `places` finds
labels among known ones.
"""

from pm_fastlmm.covariance import parentage
from pm_fastlmm.covariance.algebra import Covariance, Hadamard, Kronecker, Sum
from pm_fastlmm.covariance.blocks import Blocks, blocks
from pm_fastlmm.covariance.genomic import markers
from pm_fastlmm.covariance.incidence import Incidence, incidence
from pm_fastlmm.covariance.matrices import (
    CholeskyFactored,
    FactorAnalytic,
    Gram,
    Known,
    KnownInverse,
    Unstructured,
    known,
    unstructured,
)
from pm_fastlmm.covariance.operators import BlockDiagonal, Propagate
from pm_fastlmm.covariance.parentage import parents_as_read
from pm_fastlmm.covariance.pedigrees import Pedigree
from pm_fastlmm.covariance.places import places
from pm_fastlmm.covariance.precision import Precision
from pm_fastlmm.covariance.relationship import grouping, pedigree, phylogeny
from pm_fastlmm.covariance.structures import AR1, CompoundSymmetry, Diagonal, Equicorrelation, Identity, Scalar
from pm_fastlmm.covariance.trees import Tree

UNKNOWN_PARENTS = parentage.UNKNOWN_PARENTS
"""Codes of unknown parents, by default those of `pedigree` and `parents_as_read`, as numbers or text in any case."""

identity = Identity
scalar = Scalar
diagonal = Diagonal
equicorrelation = Equicorrelation
compound_symmetry = CompoundSymmetry
ar1 = AR1
factor_analytic = FactorAnalytic
gram = Gram
kronecker = Kronecker
block_diagonal = BlockDiagonal
propagate = Propagate

__all__ = [
    "AR1",
    "UNKNOWN_PARENTS",
    "BlockDiagonal",
    "Blocks",
    "CholeskyFactored",
    "CompoundSymmetry",
    "Covariance",
    "Diagonal",
    "Equicorrelation",
    "FactorAnalytic",
    "Gram",
    "Hadamard",
    "Identity",
    "Incidence",
    "Known",
    "KnownInverse",
    "Kronecker",
    "Pedigree",
    "Precision",
    "Propagate",
    "Scalar",
    "Sum",
    "Tree",
    "Unstructured",
    "ar1",
    "block_diagonal",
    "blocks",
    "compound_symmetry",
    "diagonal",
    "equicorrelation",
    "factor_analytic",
    "gram",
    "grouping",
    "identity",
    "incidence",
    "known",
    "kronecker",
    "markers",
    "parents_as_read",
    "pedigree",
    "phylogeny",
    "places",
    "propagate",
    "scalar",
    "unstructured",
]


def __dir__() -> list[str]:
    """Return the public names, and not the modules that they come from."""
    return [*__all__, "__doc__"]
