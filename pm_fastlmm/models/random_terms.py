"""RandomTerm: the random terms of one grouping factor of a formula, and the encoding of new rows like theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Labelled, frozen, repeated, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.incidence import Factor, SparseMatrix, by_level, read_factor
from pm_fastlmm.covariance.levels import Levels
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.models.formula import encode_new, slopes
from pm_fastlmm.models.formulas.bars import RandomPart


class NewIncidence(NamedTuple):
    """Z of new rows: columns of the levels of the fit first, then those of levels that are new."""

    Z: SparseMatrix
    levels: Levels
    new: Levels


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RandomTerm(ReadOnlyArrays, Described):
    """
    All random terms of one grouping factor: their columns, and which of these are correlated.

    Attributes
    ----------
    factors : tuple of str
        Columns of the table; the levels are those of their interaction.
    factor : Factor
        The level of each row.
    columns : tuple of str
        Names of the columns within a level, "Intercept" first if there is one.
    values : (n, c) array
        The columns.
    parts : tuple of tuple of str
        The columns taken apart: correlated within a part, independent between parts.
    """

    factors: tuple[str, ...]
    factor: Factor
    columns: tuple[str, ...]
    values: FloatArray
    parts: tuple[tuple[str, ...], ...]
    specs: tuple[Any, ...]

    @property
    def group(self) -> str:
        """The name of the grouping factor, "a:b" for an interaction."""
        return ":".join(self.factors)

    @property
    def members(self) -> tuple["RandomTerm", ...]:
        """The terms of one grouping factor of which it is made: itself."""
        return (self,)

    def by_member(self, columns: Sequence[int]) -> list[tuple["RandomTerm", Sequence[int]]]:
        """Return which columns of each member these are."""
        return [(self, columns)]

    def require_common_levels(self) -> None:
        """Raise nothing: it has one grouping factor."""

    @property
    def intercept_only(self) -> bool:
        """Whether this is (1 | group)."""
        return self.columns == ("Intercept",)

    @property
    def levels(self) -> Levels:
        """The levels that occur."""
        return self.factor.subset(self.factor.used()).levels

    @property
    def correlated(self) -> bool:
        """Whether some of its effects are correlated within a level."""
        return any(len(part) > 1 for part in self.parts)

    def term(self, covariance: Covariance, *, across: Covariance | None = None) -> Term:
        """
        Return the term of the likelihood.

        Parameters
        ----------
        covariance : Covariance
            Over the columns within a level; over the levels for (1 | group).
        across : Covariance, optional
            Over the levels, which are independent by default.
        """
        if self.intercept_only and across is None:
            return Term(self.factor, covariance, name=self.group)
        columns = Labelled(self.values, self.factor.ids, self.columns)
        return Term(self.factor, covariance, columns=columns, across=across, name=self.group)

    def encode(self, data: pd.DataFrame, levels: Levels | None = None) -> NewIncidence:
        """
        Return the incidence of new rows.

        Parameters
        ----------
        data : DataFrame
            With the columns of the grouping factor and of the slopes.
        levels : tuple, optional
            The levels of the fit, `Term.levels`. Default: those that occur in the data of this design.

        Raises
        ------
        ValueError
            If a column is not there, or a value is missing.
        """
        known = self.levels if levels is None else tuple(levels)
        factor, values = self.read(data)
        factor = factor.recoded(known)
        return NewIncidence(by_level(factor.matrix(), values), factor.levels, factor.levels[len(known) :])

    def read(self, data: pd.DataFrame) -> tuple[Factor, FloatArray]:
        """Return the levels of new rows, those that occur, and their columns."""
        require_columns(data, self.factors)
        factor = read_factor([data[name] for name in self.factors], self.group)
        values = np.hstack([encode_new(spec, data).values for spec in self.specs])
        return factor.subset(factor.used()), values

    def __repr__(self) -> str:
        """Show the columns of each part, the group and how many levels it has."""
        return f"RandomTerm({self._description})"

    def _facts(self) -> dict[str, Any]:
        return {
            "grouping factor": self.group,
            "columns": "; ".join(listed(part) for part in self.parts),
            "levels": f"{len(self.levels)}: {listed(self.levels)}",
        }

    @property
    def _description(self) -> str:
        parts = " + ".join(f"({', '.join(part)} | {self.group})" for part in self.parts)
        return f"{parts}, {len(self.levels)} levels"


def random_term(formula: str, parts: list[RandomPart], rows: pd.DataFrame) -> RandomTerm:
    """Return the terms of one grouping factor as one: they then share the elimination of its levels."""
    factors = parts[0].factors
    factor = read_factor([rows[name] for name in factors], parts[0].group)
    encoded = [slopes(text, rows, whole=formula) for part in parts for text in part.slopes]
    names = tuple(part.columns for part in encoded)
    columns = tuple(name for part in names for name in part)
    if twice := repeated(columns):
        raise ValueError(
            f"formula {formula!r} has the column {shown(twice)} twice for the grouping factor {parts[0].group!r}, with "
            "two variances that cannot be told apart: (x | g) has an intercept, (0 + x | g) has none. A second effect "
            "of the same levels, as a permanent environment beside a known covariance, is that of a second column, "
            f"data.assign(permanent=data[{parts[0].group!r}])."
        )
    if not columns:
        raise ValueError(f"formula {formula!r} has a random term of {parts[0].group!r} without columns.")
    values = frozen(np.hstack([part.values for part in encoded]))
    return RandomTerm(factors, factor, columns, values, names, tuple(part.spec for part in encoded))


def require_columns(data: pd.DataFrame, names: tuple[str, ...], formula: str | None = None) -> None:
    """Raise a ValueError for grouping factors that are no columns of a table."""
    if missing := [name for name in names if name not in data.columns]:
        where = "" if formula is None else f" of formula {formula!r}"
        hint = ", but the index is: data.reset_index()" if missing[0] in data.index.names else ""
        raise ValueError(
            f"the grouping factor {shown(missing)}{where} is not among the columns {', '.join(map(str, data.columns))}"
            f"{hint}."
        )
