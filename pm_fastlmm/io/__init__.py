"""Files that people have: genotypes, relationship matrices, phenotypes, pedigrees and trees."""

from pm_fastlmm.io.arrays import label_genotypes
from pm_fastlmm.io.bed import Bed, read_bed
from pm_fastlmm.io.relationship import read_relationship, write_grm
from pm_fastlmm.io.relatives import read_pedigree, read_tree
from pm_fastlmm.io.tables import read_table
from pm_fastlmm.io.write import write_bed

__all__ = [
    "Bed",
    "label_genotypes",
    "read_bed",
    "read_pedigree",
    "read_relationship",
    "read_table",
    "read_tree",
    "write_bed",
    "write_grm",
]


def __dir__() -> list[str]:
    """Return the public names, and not the modules that they come from."""
    return [*__all__, "__doc__"]
