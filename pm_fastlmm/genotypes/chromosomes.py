"""Names of chromosomes in files: which are autosomes, and in what order they are shown."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import shown

_AUTOSOMES = 22  # of people; 23 to 26 are X, Y, the pseudo-autosomal region and the mitochondrion
_HUMAN = 26


def bare(name: Any) -> str:
    """Return the name without "chr"."""
    text = str(name)
    return text[3:] if text[:3].lower() == "chr" else text


def chromosome_names(chromosomes: Any) -> list[str]:
    """Return the names that occur: numbers in their order, then others."""
    found = pd.unique(pd.Series(chromosomes).astype(str))
    return sorted(
        found, key=lambda name: (not bare(name).isdigit(), int(bare(name)) if bare(name).isdigit() else 0, name)
    )


class Chromosomes:
    """
    Which variants are of the chromosomes that are wanted, block after block.

    Parameters
    ----------
    wanted : {"autosomes", "all"}, name or sequence of names
        "autosomes" are 1 to 22, as people have them.
    """

    def __init__(self, wanted: Any) -> None:
        self._present: dict[str, None] = {}
        self._named = not (isinstance(wanted, str) and wanted in ("autosomes", "all"))
        self._all = not self._named and wanted == "all"
        asked: Iterable[Any] = [wanted] if isinstance(wanted, str | int) else wanted
        self._chosen = {bare(name) for name in asked} if self._named else {str(k) for k in range(1, _AUTOSOMES + 1)}

    @property
    def named(self) -> bool:
        """Whether chromosomes were named, or were autosomes or all asked for."""
        return self._named

    def of(self, chromosomes: Any) -> npt.NDArray[np.bool_]:
        """
        Return which variants of a block are of them, given the chromosome of each.

        Raises
        ------
        ValueError
            If autosomes are asked for, and numbers above 26 are of another species.
        """
        names = pd.Series(np.asarray(chromosomes, dtype=object)).map(bare).astype(str)
        self._present |= dict.fromkeys(pd.unique(names))
        numbers = [int(name) for name in self._present if name.isdigit()]
        if not self._named and not self._all and max(numbers, default=0) > _HUMAN:
            raise ValueError(
                f"there are chromosomes up to {max(numbers)}, which are not those of people: say which are autosomes, "
                f"such as chromosomes=range(1, {max(numbers)}), or chromosomes='all'."
            )
        return np.ones(len(names), dtype=bool) if self._all else names.isin(self._chosen).to_numpy()

    def require_found(self) -> None:
        """
        Refuse names that no block had.

        Raises
        ------
        ValueError
            If a chromosome that was named does not occur, or none is an autosome.
        """
        present = chromosome_names(list(self._present))
        if self._all or not present:
            return
        if self._named and (strangers := sorted(self._chosen - set(present))):
            raise ValueError(f"there is no chromosome {shown(strangers)}: they are {shown(present)}.")
        if not self._named and not self._chosen & set(present):
            raise ValueError(
                f"no variant is on an autosome, 1 to 22: the chromosomes are {shown(present)}. Name those that you "
                "want, chromosomes=[…], or give chromosomes='all'."
            )
