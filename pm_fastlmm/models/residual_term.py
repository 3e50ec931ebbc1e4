"""ResidualTerm: variances of the residuals by group, or their covariances within a record, as a formula has them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import Labelled, frozen, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.spelling import level_text, places
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.incidence import Factor, read_factor
from pm_fastlmm.covariance.levels import Levels
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import RESIDUAL
from pm_fastlmm.models.formula import encode_new, variables_of
from pm_fastlmm.models.formulas.bars import RandomPart, read_bar
from pm_fastlmm.models.mixed_parts import Part
from pm_fastlmm.models.random_terms import RandomTerm, random_term, require_columns


@dataclass(frozen=True, slots=True)
class ResidualFormula:
    """
    What residual= says, before rows are read: the column of groups, or a bar of records.

    Attributes
    ----------
    text : str
    bar : RandomPart or None
    correlated : bool
        Whether the coordinates of a record covary.
    needed : tuple of str
        The columns of the table that it reads.
    """

    text: str
    bar: RandomPart | None
    correlated: bool
    needed: tuple[str, ...]

    @classmethod
    def read(cls, given: Any, data: pd.DataFrame) -> Self:
        """
        Read residual="sex", or residual="(0 + trait | record)".

        Raises
        ------
        TypeError
            If it is no text.
        ValueError
            If it is neither a column nor one bar, or names a column that is not there.
        """
        if not isinstance(given, str):
            raise TypeError(
                f"residual must be the name of a column or a bar, 'sex' or '(0 + trait | record)', got a "
                f"{type(given).__name__}: a Term goes to flmm.StructuredLMM(..., residual=)."
            )
        if "|" not in given:
            if given not in data.columns:
                raise ValueError(
                    f"residual={given!r} is not among the columns {', '.join(map(str, data.columns))}: name the one "
                    "whose levels have residual variances of their own, or give a bar, '(0 + trait | record)'."
                )
            return cls(given, None, False, (given,))
        part, correlated = read_bar(given, data.columns)
        require_columns(data, part.factors, given)
        own = [name for text in part.slopes for name in variables_of(text, data, given)]
        return cls(given, part, correlated, (*part.factors, *own))

    def of(self, rows: pd.DataFrame) -> "ResidualTerm":
        """Return the residuals of the rows of a fit."""
        if self.bar is not None:
            return ResidualTerm(self.text, random_term(self.text, [self.bar], rows), (), self.correlated)
        groups = read_factor(rows[self.text], self.text)
        groups = groups.subset(groups.used())
        names, ids = tuple(map(level_text, groups.levels)), tuple(rows.index.tolist())
        values = frozen(np.eye(len(names))[groups.codes])
        single = Factor(np.arange(len(rows)), tuple(range(len(rows))), None, ids)
        random = RandomTerm(("row",), single, names, values, (names,), ())
        return ResidualTerm(self.text, random, groups.levels, False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResidualTerm(ReadOnlyArrays):
    """
    The residuals of a formula.

    Attributes
    ----------
    text : str
        What residual= was.
    random : RandomTerm
        Records and their coordinates.
    groups : tuple
        The levels of the column that has a variance for each; empty for a bar.
    correlated : bool
        Whether the coordinates of a record covary.
    """

    text: str
    random: RandomTerm
    groups: Levels
    correlated: bool

    @property
    def part(self) -> Part:
        """The coordinates, as the columns of one part."""
        columns = self.random.columns
        return Part("e", tuple(range(len(columns))), self.correlated and len(columns) > 1)

    def term(self, covariance: Covariance) -> Term:
        """Return the term of the residuals, of a covariance between the coordinates."""
        columns = Labelled(self.random.values, self.random.factor.ids, self.random.columns)
        return Term(self.random.factor, covariance, columns=columns, name=RESIDUAL)

    @property
    def coordinate(self) -> npt.NDArray[np.intp]:
        """Which coordinate each row has."""
        return np.argmax(self.random.values, axis=1)

    def records(self, data: pd.DataFrame, levels: Levels) -> npt.NDArray[np.intp] | None:
        """
        Return which record each new row is of, by its place among the levels of the fit; new ones have places after.

        A row without a record has -1. None where the table has no records, or rows are grouped by a variance alone.
        """
        if self.groups or any(name not in data.columns for name in self.random.factors):
            return None
        factor = read_factor([data[name] for name in self.random.factors], self.random.group, missing_allowed=True)
        return factor.subset(factor.used()).recoded(levels).codes

    def coordinates(self, data: pd.DataFrame) -> npt.NDArray[np.intp]:
        """
        Return which coordinate the residual of each new row has.

        Raises
        ------
        ValueError
            If the column is not there or missing, or has a level of which no residual variance was estimated.
        """
        if not self.groups:
            values = np.hstack([encode_new(spec, data).values for spec in self.random.specs])
            if (wrong := ((values != 0).sum(axis=1) != 1) | (values.sum(axis=1) != 1)).any():
                raise ValueError(
                    f"rows {shown(data.index[wrong].tolist())} of the new data are not one of "
                    f"{shown(self.random.columns)}, which {self.text} has residual variances of."
                )
            return np.argmax(values, axis=1)
        if self.text not in data.columns:
            raise ValueError(
                f"data has no column {self.text!r}, each of whose levels has a residual variance of its own: new rows "
                "need it."
            )
        factor = read_factor(data[self.text], self.text)
        factor = factor.subset(factor.used())
        found = places(factor.levels, self.groups)
        if new := [level for level, at in zip(factor.levels, found, strict=True) if at < 0]:
            raise ValueError(
                f"{self.text!r} has {shown(new)} in the new data, of which no residual variance was estimated: there "
                f"is one of each of {shown(self.groups)}."
            )
        return np.array(found, dtype=np.intp)[factor.codes]
