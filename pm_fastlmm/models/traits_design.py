"""TraitsDesign: several responses of a formula, in rows of one trait of one record each."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, frozen, shown
from pm_fastlmm.base.coordinates import require_unique
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.fixed_terms import FixedTerms
from pm_fastlmm.models.formula import fixed_effects, require_table, slopes, variables_of, without_dot
from pm_fastlmm.models.formulas.bars import RandomPart, split_formula
from pm_fastlmm.models.formulas.language import responses_of, sides
from pm_fastlmm.models.formulas.names import plain_name
from pm_fastlmm.models.formulas.offsets import split_offsets
from pm_fastlmm.models.known_rows import Column
from pm_fastlmm.models.missing_rows import complete, counts_of, dropped_rows, gaps_in, gaps_of
from pm_fastlmm.models.mixed_design import MixedDesign, require_unique_index
from pm_fastlmm.models.random_terms import RandomTerm, random_term, require_columns

TRAIT, RECORD, VALUE = "trait", "record", "value"  # columns that the long table gains
RESPONSE = "Y"  # what they are called in a model
_BAR = f"(0 + {TRAIT} | {RECORD})"


@dataclass(frozen=True, slots=True, eq=False)
class ByTrait(FixedTerms):
    """
    Fixed effects with the columns of one trait after those of another, not of one term after another.

    Attributes
    ----------
    order : (r · t,) int array
        Which column of the formula each is.
    traits : tuple of str
    """

    order: npt.NDArray[np.intp]
    traits: tuple[str, ...]

    def encode(self, data: pd.DataFrame) -> Any:
        """
        Return X of new rows, dense or sparse as it was at the fit.

        Raises
        ------
        ValueError
            If rows do not say which trait they are of.
        """
        found = list(data[TRAIT].unique()) if TRAIT in data.columns else []
        if not found or not set(found) <= set(self.traits):
            raise ValueError(
                f"new rows have one trait of one record each: their column {TRAIT!r} is one of {shown(self.traits)}, and "
                + (f"here it has {shown(found)}." if found else f"the data have {shown(data.columns)}.")
            )
        return super(ByTrait, self).encode(data)[:, self.order]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TraitsDesign(ReadOnlyArrays):
    """
    A formula with several responses, "milk + fat ~ sex", and its table.

    A record, which is a row of the table, has a row in `mixed` for each trait that was observed. Records without any
    are dropped, and those that lack another variable.

    Attributes
    ----------
    traits : tuple of str
    mixed : MixedDesign
        Fixed effects and random terms by trait; the residuals of one record covary.
    records : tuple
        Ids of the records that are left.
    record, trait : (N,) int arrays
        Of each row.
    table : Index
        Ids of the rows of the table that was read.
    """

    traits: tuple[str, ...]
    mixed: MixedDesign
    records: tuple[Any, ...]
    record: npt.NDArray[np.intp]
    trait: npt.NDArray[np.intp]
    table: pd.Index

    @classmethod
    def from_formula(cls, formula: str, data: pd.DataFrame, *, weights: Any = None) -> Self:
        """
        Read a formula and a table, whose index holds the ids.

        Raises
        ------
        ValueError
            If the formula has an offset, a column is called as one of the long table, or as for a `MixedDesign`.
        """
        require_table(data)
        require_unique_index(data)
        rest, offsets = split_offsets(formula, data.columns)
        if offsets:
            raise ValueError(f"formula {formula!r} has an offset: with several traits, subtract it from each of them.")
        traits, Y, needed = _read(formula, rest, data)
        fixed, parts = split_formula(rest)
        w = Column.read(weights, data, "weights")
        gaps = gaps_in(data, needed)
        if (nothing := np.isnan(Y).all(axis=1)).any():
            gaps |= {"every trait" if len(traits) > 1 else traits[0]: nothing}
        if w is not None:
            gaps |= gaps_of(w.values, [w.name or w.role])
        seen = complete(gaps, len(data))
        dropped = dropped_rows(seen, gaps, tuple(data.index.tolist()))
        trait, row = np.nonzero(~np.isnan(Y[seen].T))
        long = _long_table(data[seen].iloc[row], traits, trait)
        text, residual = _long_formula(sides(without_dot(fixed, data))[1], parts, len(traits))
        known = w.values[seen][row] if w is not None and w.name is None else weights
        mixed = MixedDesign.from_formula(text, long, weights=known, residual=residual)
        left = long.index.isin(list(mixed.ids))  # a transform may be undefined in more rows
        mixed = replace(
            _by_trait(mixed, traits), formula=formula, response=RESPONSE, y=frozen(Y[seen].T[trait, row][left]),
            dropped=dropped + mixed.dropped, missing=counts_of(gaps) | mixed.missing,
        )  # fmt: skip
        found, record = np.unique(row[left], return_inverse=True)
        records = tuple(data.index[seen][found].tolist())
        return cls(traits, mixed, records, record, trait[left], data.index)

    @property
    def Y(self) -> FloatArray:
        """Y (t, n), NaN where it was not observed."""
        out = np.full((len(self.traits), len(self.records)), np.nan)
        out[self.trait, self.record] = self.mixed.y
        return out

    def wide(self) -> tuple[FloatArray, tuple[str, ...], FloatArray | None]:
        """Return X (n, r) of the records, which their traits have in common, its columns, and weights."""
        X: Any = self.mixed.X
        X = X if isinstance(X, np.ndarray) else X.toarray()
        first = self.named(self.traits[0], "")
        columns = [name.removeprefix(first) for name in self.mixed.columns if name.startswith(first)]
        out, w = np.zeros((len(self.records), len(columns))), np.ones(len(self.records))
        of = {name: j for j, name in enumerate(self.mixed.columns)}
        place = np.array([[of[self.named(trait, column)] for column in columns] for trait in self.traits], dtype=int)
        out[self.record] = np.take_along_axis(X, place[self.trait], axis=1)
        if self.mixed.weights is None:
            return out, tuple(columns), None
        w[self.record] = self.mixed.weights
        return out, tuple(columns), w

    def named(self, trait: str, column: str) -> str:
        """Return what a coefficient of a trait is called."""
        return f"{trait}: {column}" if len(self.traits) > 1 else column

    @property
    def of_kernel(self) -> MixedDesign:
        """The design of rows of one trait each, with the effects that a kernel of records has."""
        return replace(self.mixed, random=(self._by_record,))

    @property
    def _by_record(self) -> RandomTerm:
        """The traits of each record, as the effects of a kernel of records have them."""
        if self.mixed.residual is not None:
            return self.mixed.residual.random
        table = pd.DataFrame({RECORD: list(self.records)}, index=list(self.mixed.ids))
        return random_term(self.mixed.formula, [RandomPart(("1",), (RECORD,))], table)


def _read(formula: str, rest: str, data: pd.DataFrame) -> tuple[tuple[str, ...], FloatArray, list[str]]:
    """Return the names of the traits, Y (n, t) with NaN where they are missing, and the columns right of the "~"."""
    fixed, parts = split_formula(rest, data.columns)
    left, right = sides(without_dot(fixed, data))
    found = [fixed_effects(f"{text} ~ 1", data, whole=formula)[0] for text in responses_of(left)]
    names = tuple(name for part in found for name in part.columns)
    require_unique(names, "the traits of the formula")
    needed = variables_of(right, data, formula)
    for part in parts:
        require_columns(data, part.factors, formula)
        needed += [*part.factors, *(name for text in part.slopes for name in variables_of(text, data, formula))]
    if taken := [name for name in needed if name in (TRAIT, RECORD, VALUE)]:
        raise ValueError(
            f"formula {formula!r} has a column {taken[0]!r}, which is one of the rows of one trait each that it is "
            f"brought into: rename it, data.rename(columns={{{taken[0]!r}: '{taken[0]}_'}})."
        )
    if len(rows := data.dropna(subset=needed)):  # errors are those of the formula, not of the long one
        with warnings.catch_warnings(action="ignore"):  # and warnings those of the long table
            for text in (right, *(text for part in parts for text in part.slopes)):
                slopes(text, rows, whole=formula)
    return names, np.hstack([part.values for part in found]), needed


def _long_table(rows: pd.DataFrame, traits: tuple[str, ...], trait: npt.NDArray[np.intp]) -> pd.DataFrame:
    """Return the rows of records with the trait that each is of; what has the place of its value is no number of it."""
    own: dict[str, Any] = {RECORD: rows.index, VALUE: 1.0}
    if len(traits) == 1:
        return rows.assign(**own)
    names = np.array(traits, dtype=object)[trait]
    own[TRAIT] = pd.Categorical(names, categories=list(traits))
    return rows.assign(**own).set_axis(
        pd.Index([f"{name}, {label}" for name, label in zip(names, rows.index, strict=True)])
    )


def _long_formula(right: str, parts: tuple[RandomPart, ...], t: int) -> tuple[str, str | None]:
    """Return the formula of rows of one trait each, and its residual."""

    def crossed(text: str) -> str:
        return text if t == 1 else f"0 + {TRAIT}:(1 + {text})"

    bars = [
        f"({crossed(text)} |{f'{part.shared}|' if part.shared else ''} {':'.join(map(plain_name, part.factors))})"
        for part in parts
        for text in part.slopes
    ]
    return f"{VALUE} ~ {' + '.join([crossed(right), *bars])}", _BAR if t > 1 else None


def _by_trait(mixed: MixedDesign, traits: tuple[str, ...]) -> MixedDesign:
    """Return the design with columns called by their trait, "milk: age" for "trait[milk]:age", and in its order."""
    if len(traits) == 1:
        return mixed

    def named(column: str, intercept: str) -> str:
        for trait in traits:
            own = f"{TRAIT}[{trait}]"
            if column == own:
                return f"{trait}{intercept}"
            if column.startswith(f"{own}:"):
                return f"{trait}: {column[len(own) + 1 :]}"
        raise AssertionError(f"{column} is of no trait")

    def of_term(random: RandomTerm) -> RandomTerm:
        columns = tuple(named(column, "") for column in random.columns)
        parts = tuple(tuple(named(column, "") for column in part) for part in random.parts)
        return replace(random, columns=columns, parts=parts)

    assert mixed.residual is not None  # of several traits
    columns = [named(column, ": Intercept") for column in mixed.columns]
    order = np.array(
        [j for trait in traits for j, name in enumerate(columns) if name.startswith(f"{trait}: ")], dtype=np.intp
    )
    terms = (
        replace(term, members=tuple(map(of_term, term.members))) if isinstance(term, CorrelatedTerms) else of_term(term)
        for term in mixed.random
    )
    return replace(
        mixed,
        X=mixed.X[:, order],
        columns=tuple(columns[j] for j in order),
        fixed=ByTrait(mixed.fixed.spec, mixed.fixed.table, order, traits),
        random=tuple(terms),
        residual=replace(mixed.residual, random=of_term(mixed.residual.random)),
    )


def several(formula: Any) -> bool:
    """Return whether a formula has several responses."""
    return isinstance(formula, str) and "~" in formula and len(responses_of(sides(formula)[0])) > 1
