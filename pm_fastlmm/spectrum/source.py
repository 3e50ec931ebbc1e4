"""Source: what a spectrum knows of the table that its rows come from, which is printed with its fits."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.copies import ReadOnlyArrays


@dataclass(frozen=True, slots=True, eq=False)
class Source(ReadOnlyArrays):
    """
    Where the rows of a spectrum come from.

    Attributes
    ----------
    formula : str or None
        The right-hand side of the formula that X was made from.
    response : str or None
        The name of the response.
    y : (n,) or (n, T) array
        Its values: an array without a name that is equal to them has that name.
    rows_dropped : str
        In words how many rows were dropped for a missing value; empty for none.
    """

    formula: str | None
    response: str | None
    y: FloatArray
    rows_dropped: str

    def named(self, values: FloatArray) -> str | None:
        """Return the name of the response with these values, None for another."""
        return self.response if np.array_equal(values, self.y) else None

    def subset(self, rows: npt.NDArray[np.intp]) -> Self:
        """Return that of some rows."""
        return replace(self, y=self.y[rows])
