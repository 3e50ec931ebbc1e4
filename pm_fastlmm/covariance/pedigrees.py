"""Pedigrees of any size: relationships by their sparse inverse."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, frozen, shown
from pm_fastlmm.covariance.ids import Labels
from pm_fastlmm.covariance.parentage import UNKNOWN_PARENTS, Parentage, read_parents
from pm_fastlmm.covariance.precision import Descended
from pm_fastlmm.sparse.genealogy import Genealogy, IntArray


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Pedigree(Descended):
    r"""
    A pedigree: relationships A by their sparse inverse, in memory proportional to the number of individuals.

    :math:`u_i = (u_s + u_d)/2 + e_i` with sire s and dam d and the Mendelian sampling variances
    :math:`d_i = \tfrac12 - \tfrac14(F_s + F_d)`, in which F = -1 stands for an unknown parent;
    :math:`A^{-1} = \sum_i t_i t_i^\top / d_i`, where t_i is 1 at i and -½ at each known parent (-1 at one that is both,
    by selfing), and :math:`\log|A| = \sum_i \log d_i`.

    Parameters
    ----------
    id, sire, dam, unknown, clones
        As in `pedigree`.

    Attributes
    ----------
    labels : tuple
        The effects of a term with this pedigree, which are the rows of `Q`: individuals with a row in the order of
        `id` and in its spelling, but for clones, and then parents without a row of their own.
    Q : scipy.sparse.csc_array
        A⁻¹.
    logdet : float
        log|A|.
    aliases : dict
        Where each clone is: in the row of its original.
    variances : array
        1 + F of each label.
    inbreeding : Series
        F of the individuals with a row.

    Raises
    ------
    ValueError
        As `pedigree`; and if a parent is so inbred (more than 50 generations of selfing) that its offspring have no
        variance of their own in floating point: make them clones.

    References
    ----------
    Henderson (1976), doi:10.2307/2529339. Quaas (1976), Computing the diagonal elements and inverse of a large
    numerator relationship matrix. doi:10.2307/2529279. Sargolzaei, Iwaisaki & Colleau (2005), A fast algorithm for
    computing inbreeding coefficients in large populations. doi:10.1111/j.1439-0388.2005.00538.x

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> herd = cov.Pedigree(
    ...     ["calf", "bull", "cow"], ["bull", "old", "old"], ["cow", None, None]
    ... )
    >>> herd
    Pedigree(4 effects, 14 entries: calf, bull, cow, old)
    >>> herd.inbreeding
    calf    0.125
    bull    0.000
    cow     0.000
    Name: inbreeding, dtype: float64
    >>> herd.dense(["calf", "old"])
           calf  old
    calf  1.125  0.5
    old   0.500  1.0
    """

    _read: Parentage
    _rows: IntArray  # of everybody who was read

    def __init__(
        self,
        id: Labels,
        sire: Labels,
        dam: Labels,
        *,
        unknown: Any = UNKNOWN_PARENTS,
        clones: Mapping[Any, Any] | None = None,
    ) -> None:
        read = read_parents(id, sire, dam, unknown=unknown, clones=clones)
        genealogy, rows = relations(read)
        kept = np.flatnonzero(read.original == np.arange(len(rows)))
        labels = read.people if len(kept) == len(rows) else tuple(read.people[i] for i in kept)
        _require_own_variance(genealogy, labels)
        copies = np.flatnonzero(read.original != np.arange(len(rows))).tolist()
        self._descend(genealogy, labels, {read.people[i]: int(rows[i]) for i in copies})
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "_rows", frozen(rows))

    @property
    def inbreeding(self) -> "pd.Series[float]":
        """F of the individuals with a row."""
        ids = self._read.ids
        return pd.Series(self.variances[self._rows[: len(ids)]] - 1, index=ids, name="inbreeding")

    _strange = "are not in the pedigree"

    def _default_ids(self) -> pd.Index:
        return self._read.ids

    def _account(self, A: FloatArray) -> dict[str, Any]:
        return account(self._read, A)


def relations(read: Parentage) -> tuple[Genealogy, IntArray]:
    """Return who descends from whom among all but the clones, and where everybody is among these."""
    parents, order, rows = read.of_originals()
    return Genealogy.of_pedigree(parents, order), rows


def account(read: Parentage, A: FloatArray) -> dict[str, Any]:
    """Return what ``attrs`` of relationships say besides their scale."""
    return read.account() | {"inbred": int((np.diag(A) > 1).sum())}


def _require_own_variance(genealogy: Genealogy, labels: tuple[Hashable, ...]) -> None:
    if (fixed := np.flatnonzero(genealogy.own <= 0)).size:
        raise ValueError(
            f"{shown([labels[i] for i in fixed])} differ from their parents by no variance, as these are completely "
            "inbred in floating point: relationships have no inverse. Name them in clones=."
        )
