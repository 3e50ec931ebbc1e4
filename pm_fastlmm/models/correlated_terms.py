"""CorrelatedTerms: terms of several grouping factors with the same levels, whose effects covary within a level."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from pm_fastlmm.base.arrays import Labelled, repeated, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.levels import Levels
from pm_fastlmm.covariance.terms import Term, incidence_in_roles, over_roles
from pm_fastlmm.models.formulas.bars import RandomPart
from pm_fastlmm.models.random_terms import NewIncidence, RandomTerm, random_term


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CorrelatedTerms(ReadOnlyArrays, Described):
    """
    The random terms (x |id| a) + (z |id| b) of an id: one covariance matrix of all their effects within a level.

    A level of a and of b is the same one, such as an animal with records of its own that is the dam of others.

    Attributes
    ----------
    group : str
        The id.
    members : tuple of RandomTerm
        One for each grouping factor.
    """

    group: str
    members: tuple[RandomTerm, ...]

    @property
    def factors(self) -> tuple[str, ...]:
        """Columns of the table that the grouping factors are made of."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.factors))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the effects of a level, "animal" or "animal[age]", as a term alone has them."""
        return tuple(
            member.group if member.intercept_only else f"{member.group}[{column}]"
            for member in self.members
            for column in member.columns
        )

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The columns, which are all correlated."""
        return (self.columns,)

    @property
    def correlated(self) -> bool:
        """Whether some of its effects are correlated within a level."""
        return True

    @property
    def levels(self) -> Levels:
        """The levels that occur, those of the first grouping factor first."""
        return over_roles([member.factor for member in self.members], ())

    def by_member(self, columns: Sequence[int]) -> list[tuple[RandomTerm, Sequence[int]]]:
        """Return which columns of each member all the columns are."""
        return [(member, range(len(member.columns))) for member in self.members]

    def require_common_levels(self) -> None:
        """Raise a ValueError for two grouping factors that have no level in common, where levels are independent."""
        for a, b in combinations(self.members, 2):
            if len(over_roles([a.factor, b.factor], ())) == len(a.levels) + len(b.levels):
                raise ValueError(
                    f"the id {self.group!r} correlates the effects that a level of {a.group!r} and of {b.group!r} has, "
                    f"but none is in both columns ({shown(a.levels)}; {shown(b.levels)}): leave the id out, call the "
                    "same thing by one name, or give both the known covariance of their levels, known={...}."
                )

    def term(self, covariance: Covariance, *, across: Covariance | None = None) -> Term:
        """
        Return the term of the likelihood.

        Parameters
        ----------
        covariance : Covariance
            Over the columns within a level.
        across : Covariance, optional
            Over the levels, which are independent by default.
        """
        by = {member.group: member.factor for member in self.members}
        columns = {
            member.group: Labelled(member.values, member.factor.ids, member.columns)
            for member in self.members
            if not member.intercept_only
        }
        return Term(by, covariance, columns=columns, across=across, name=self.group)

    def encode(self, data: pd.DataFrame, levels: Levels | None = None) -> NewIncidence:
        """
        Return the incidence of new rows.

        Parameters
        ----------
        data : DataFrame
            With the columns of the grouping factors and of the slopes.
        levels : tuple, optional
            The levels of the fit, `Term.levels`. Default: those that occur in the data of this design.

        Raises
        ------
        ValueError
            If a column is not there, or a value is missing.
        """
        known = self.levels if levels is None else tuple(levels)
        factors, values = zip(*(member.read(data) for member in self.members), strict=True)
        both = over_roles(factors, known)
        return NewIncidence(incidence_in_roles(factors, both, values), both, both[len(known) :])

    def __repr__(self) -> str:
        """Show the columns of each grouping factor and how many levels there are."""
        return f"CorrelatedTerms({self._description})"

    def _facts(self) -> dict[str, Any]:
        return {
            "id": self.group,
            "grouping factors": listed([member.group for member in self.members]),
            "columns": listed(self.columns),
            "levels": f"{len(self.levels)}: {listed(self.levels)}",
        }

    @property
    def _description(self) -> str:
        terms = [f"({', '.join(member.columns)} |{self.group}| {member.group})" for member in self.members]
        return f"{' + '.join(terms)}, {len(self.levels)} levels"


def random_terms(
    formula: str, parts: Sequence[RandomPart], rows: pd.DataFrame
) -> tuple[RandomTerm | CorrelatedTerms, ...]:
    """
    Return the random terms of a formula, those of one grouping factor or of one id as one.

    Raises
    ------
    ValueError
        If an id is that of a single term, or the name of another grouping factor, or a factor has a column twice.
    """
    groups: dict[tuple[str | None, tuple[str, ...]], list[RandomPart]] = {}
    for part in parts:
        groups.setdefault((part.shared, () if part.shared else part.factors), []).append(part)
    terms = tuple(
        random_term(formula, same, rows) if shared is None else _correlated(formula, shared, same, rows)
        for (shared, _), same in groups.items()
    )
    if twice := repeated([term.group for term in terms]):
        raise ValueError(
            f"formula {formula!r} has {twice[0]!r} as an id between two bars and as a grouping factor, and both would "
            "give their variances this name: call the id otherwise."
        )
    effects = [f"{column} of {m.group}" for term in terms for m in term.members for column in m.columns]
    if twice := repeated(effects):
        raise ValueError(
            f"formula {formula!r} has the effects {shown(twice)} twice, with and without an id, whose variances cannot "
            "be told apart: leave one out, or make its grouping factor a second column, as of a permanent environment "
            "beside a known covariance."
        )
    return terms


def _correlated(formula: str, shared: str, parts: list[RandomPart], rows: pd.DataFrame) -> CorrelatedTerms:
    if len(parts) == 1:
        (slopes,), group = parts[0].slopes, parts[0].group
        raise ValueError(
            f"formula {formula!r} has the id {shared!r} in one term alone, which it correlates with nothing: write "
            f"({slopes} | {group}), or give the id to the terms whose effects are correlated with these."
        )
    factors: dict[tuple[str, ...], list[RandomPart]] = {}
    for part in parts:
        factors.setdefault(part.factors, []).append(part)
    return CorrelatedTerms(shared, tuple(random_term(formula, same, rows) for same in factors.values()))
