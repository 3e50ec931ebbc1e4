"""Each variant of a block: how often its counted allele was seen, whether it is used, and centred and scaled counts."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray

type Standard = Literal["vanraden", "standardised", "gcta"]


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """Which variants are used, and how their counts are scaled."""

    method: Standard
    min_maf: float
    max_missing: float


@dataclass(frozen=True, slots=True, eq=False)
class Variants:
    """
    What a block has of each variant, (m,).

    Attributes
    ----------
    frequency : array
        Of the counted allele.
    missing : array
        How many people lack a genotype.
    reason : object array
        Why a variant is left out, empty if it is used.
    """

    frequency: FloatArray
    missing: npt.NDArray[np.intp]
    reason: npt.NDArray[Any]


def examined(counts: Any, given: FloatArray | None, wanted: npt.NDArray[np.bool_], rules: Rules) -> Variants:
    """Return frequencies, missing genotypes and whether each variant of a block (n, m) is used."""
    n = len(counts)
    missing = np.isnan(counts).sum(axis=0)
    seen = n - missing
    p = np.nansum(counts, axis=0, dtype=np.float64) / (2 * np.maximum(seen, 1)) if given is None else given
    rarer = np.minimum(p, 1 - p)
    reason = np.full(counts.shape[1], "", dtype=object)
    for name, which in (  # the first that holds is said
        ("rare", rarer < rules.min_maf),
        ("often_missing", missing > rules.max_missing * n),
        ("monomorphic", rarer == 0),
        ("all_missing", seen == 0),
        ("other_chromosomes", ~wanted),
    ):
        reason[which] = name
    return Variants(p, missing, reason)


def centred(counts: Any, p: FloatArray, method: Standard) -> tuple[Any, float]:
    """
    Return Z of used variants, in the precision of the counts, and what ZZᵀ is to be divided by for them.

    Missing genotypes are 2p, and so 0 in Z. Z is M - 2p; with "gcta" it is divided by √(2p(1 - p)), with
    "standardised" by the standard deviation of what it has. A variant that has none adds nothing.
    """
    kind = counts.dtype
    Z = counts - (2 * p).astype(kind)
    np.copyto(Z, 0, where=np.isnan(Z))
    variance = 2 * p * (1 - p)
    if method == "vanraden":
        return Z, float(variance.sum())
    if method == "standardised":
        Z -= Z.mean(axis=0, dtype=np.float64).astype(kind)  # 0 but where frequencies were given
        variance = np.einsum("ij,ij->j", Z, Z, dtype=np.float64) / len(Z)
    varies = variance > 0
    Z *= np.divide(1.0, np.sqrt(variance), out=np.zeros(len(p)), where=varies).astype(kind)
    return Z, float(varies.sum())
