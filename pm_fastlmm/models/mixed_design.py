"""MixedDesign: y, X and the random terms of a formula in lme4's notation, and the encoding of new rows like theirs."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, Ids, Labelled, frozen, repeated, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.missing_codes import warn_of_coded_level
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.incidence import Factor, SparseMatrix, by_level, read_factor
from pm_fastlmm.covariance.levels import Levels
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.models.design import coefficients_of, complete_rows
from pm_fastlmm.models.fixed_terms import FixedTerms
from pm_fastlmm.models.formula import (
    cells,
    complete_in,
    encode_new,
    fixed_effects,
    require_table,
    slopes,
    variables_of,
)
from pm_fastlmm.models.formulas.bars import RandomPart, split_formula
from pm_fastlmm.models.formulas.language import sides
from pm_fastlmm.models.formulas.names import plain
from pm_fastlmm.models.formulas.offsets import split_offsets
from pm_fastlmm.models.known_rows import Column, Offset, new_weights
from pm_fastlmm.spectrum.projection import Cells
from pm_fastlmm.spectrum.weights import require_weights


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
        _require_columns(data, self.factors)
        factor = read_factor([data[name] for name in self.factors], self.group)
        factor = factor.subset(factor.used()).recoded(known)
        values = np.hstack([encode_new(spec, data).values for spec in self.specs])
        return NewIncidence(by_level(factor.matrix(), values), factor.levels, factor.levels[len(known) :])

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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MixedDesign(ReadOnlyArrays, Described):
    """
    Response, fixed-effects design and random terms of the same observations in the same order, without missing values.

    Attributes
    ----------
    formula : str
    response : str
        What stands left of the "~".
    y : (n,) array
    X : (n, r) array
        A sparse matrix where a factor has so many levels that it would have more than 20 million numbers.
    columns : tuple of str
        Names of the columns of X.
    ids : tuple
        The index of the table.
    random : tuple of RandomTerm
        One for each grouping factor.
    dropped : tuple
        Ids of the rows that were left out for a missing value.
    fixed : FixedTerms
        What X was made from.
    weights, offset : (n,) arrays or None
        Prior weights w, Var(e_i) = σ²_e/w_i; the known part of the mean.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> design = flmm.MixedDesign.from_formula(
    ...     "Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy()
    ... )
    >>> design
    MixedDesign(180 observations of Reaction; fixed: Intercept, Days; random: (Intercept, Days | Subject), 18 levels;
    0 rows dropped)
    >>> term = design.random[0].term(
    ...     flmm.covariance.unstructured([[600.0, 10.0], [10.0, 35.0]])
    ... )
    >>> term.Z.shape
    (180, 36)
    """

    formula: str
    response: str
    y: FloatArray
    X: Any
    columns: tuple[str, ...]
    ids: Ids
    random: tuple[RandomTerm, ...]
    dropped: tuple[Any, ...]
    fixed: FixedTerms
    weight_column: Column | None = None
    known_mean: Offset | None = None

    @classmethod
    def from_formula(cls, formula: str, data: pd.DataFrame, *, weights: Any = None, offset: Any = None) -> Self:
        """
        Read a formula and a table, whose index holds the ids.

        Fixed effects are written as in R or in formulaic, y ~ x + I(x^2) + factor(f); random terms are lme4's: (1 | g),
        (x | g) with an intercept, (0 + x | g), (x || g) for independent effects, and g, a:b or a/b, that is
        (1 | a) + (1 | a:b), for the grouping factor. Rows with a missing variable are dropped, with a warning that
        counts them. Functions are those of R's model formulas and of the caller. Columns of text are factors, whatever
        their dtype.

        Parameters
        ----------
        formula : str
        data : DataFrame
        weights : str or array, optional
            Prior weights, a column's name or a value for each row of the table: Var(e_i) = σ²_e/w_i.
        offset : str or array, optional
            A known part of the mean; offset(x) in the formula is another one, and they are added up.

        Raises
        ------
        ValueError
            If the formula is malformed, has several responses, names a column that is not there, gives one grouping
            factor the same column twice, or means one thing in R and another in Python; if a weight is not positive or
            an offset not finite.

        Warns
        -----
        UserWarning
            If rows are dropped, a text column seems to hold numbers, or a number or a
            level of a grouping factor seems to be a code for missing values.
        """
        rest, offsets = split_offsets(formula, data.columns if isinstance(data, pd.DataFrame) else ())
        fixed, parts = split_formula(rest, data.columns if isinstance(data, pd.DataFrame) else ())
        require_table(data)
        w, known = Column.read(weights, data, "weights"), Column.read(offset, data, "offset")
        grouped = complete_in(data, {name for term in offsets.values() for name in variables_of(term, data, formula)})
        for given in filter(None, (w, known)):
            grouped &= ~np.isnan(given.values)
        for part in parts:
            _require_columns(data, part.factors, formula)
            needed = {*part.factors, *(name for text in part.slopes for name in variables_of(text, data, formula))}
            grouped &= complete_in(data, needed)
        y, X = fixed_effects(fixed, data, whole=formula, grouped=grouped)
        ids = _ids_of_one_response(y.columns, data, formula)
        others = [role for role, some in (("weight", w), ("offset", offsets or known)) if some]
        seen, dropped = complete_rows(
            y.values, X.values, ids=ids, grouped=grouped, group=" or ".join(["grouping factor", *others])
        )
        rows = data[seen] if dropped else data
        if w is not None:
            w = w.subset(seen)
            require_weights(w.values, tuple(rows.index.tolist()))
        mean = Offset.of(offsets, None if known is None else known.subset(seen), rows, formula)
        groups: dict[tuple[str, ...], list[RandomPart]] = {}
        for part in parts:
            groups.setdefault(part.factors, []).append(part)
        random = tuple(_random_term(formula, same, rows) for same in groups.values())
        read = [pair for r in random for pair in zip(r.factors, r.factor.parts or (r.factor,), strict=True)]
        for name, factor in dict(read).items():
            warn_of_coded_level(factor.counts(), name)
        y_seen, X_seen = frozen(y.values[seen, 0]), frozen(X.values[seen])
        response = plain(sides(fixed)[0].strip("`"))
        own, made = tuple(rows.index.tolist()), FixedTerms.of(X.spec, rows)
        return cls(formula, response, y_seen, X_seen, X.columns, own, random, dropped, made, w, mean)

    @property
    def weights(self) -> FloatArray | None:
        """Prior weights (n,)."""
        return None if self.weight_column is None else self.weight_column.values

    @property
    def offset(self) -> FloatArray | None:
        """The known part of the mean (n,)."""
        return None if self.known_mean is None else self.known_mean.values

    def weights_of(self, data: pd.DataFrame) -> Any:
        """Return the weights of new rows: those of the column that was named, where data has it, and otherwise 1."""
        return new_weights(self.weight_column, data)

    def offset_of(self, data: pd.DataFrame) -> FloatArray | None:
        """
        Return the offset of new rows, None where there is none.

        Raises
        ------
        ValueError
            If data lacks its variables, or it was given as an array.
        """
        return None if self.known_mean is None else self.known_mean.at(data)

    @property
    def described(self) -> str:
        """The formula, with weights and offset that are no part of it."""
        parts = [self.formula]
        if self.weight_column is not None:
            parts.append(f"weights = {self.weight_column.called}")
        if self.known_mean is not None and self.known_mean.given is not None:
            parts.append(f"offset = {self.known_mean.given.called}")
        return ", ".join(parts)

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the coefficients of a fit: columns that are combinations of earlier ones are left out."""
        return coefficients_of(self.X, self.columns)

    def encode(self, data: pd.DataFrame) -> pd.DataFrame:
        """
        Return X of new rows, with the transforms and factor levels of the rows of this design.

        The random terms encode theirs, `design.random[k].encode(data)`.

        Raises
        ------
        ValueError
            If a variable is not there or missing, or a fixed factor has a level without a coefficient.
        """
        X = self.fixed.encode(data)
        made: Any = pd.DataFrame
        table: pd.DataFrame = (made.sparse.from_spmatrix if sp.issparse(X) else made)(X, data.index, list(self.columns))
        return table

    def rows(self, data: pd.DataFrame) -> Labelled:
        """Return the same with the ids of the rows, a sparse X as a matrix."""
        return Labelled(self.fixed.encode(data), tuple(data.index.tolist()), self.columns)

    def cells(self, data: pd.DataFrame) -> Cells:
        """Return how rows of a table are called in a message: by the values of their variables."""
        return partial(cells, self.fixed.spec, data)

    def __repr__(self) -> str:
        """Show sizes, names, the random terms and how many rows were dropped."""
        random = "; ".join(term._description for term in self.random)
        return (
            f"MixedDesign({len(self.y)} observations of {self.response}; fixed: {listed(self.columns)}; "
            f"random: {random or 'none'}; {self._known}{len(self.dropped)} rows dropped)"
        )

    @property
    def _known(self) -> str:
        parts = {"weights": self.weight_column, "offset": self.known_mean}
        return "".join(f"{role}: {part.called}; " for role, part in parts.items() if part is not None)

    def _facts(self) -> dict[str, Any]:
        return {
            "formula": self.described,
            "observations": len(self.y),
            "fixed effects": listed(self.columns),
            "random terms": "; ".join(term._description for term in self.random) or "none",
            "rows dropped": f"{len(self.dropped)}: {listed(self.dropped)}" if self.dropped else 0,
        }


def _ids_of_one_response(responses: tuple[str, ...], data: pd.DataFrame, formula: str) -> Ids:
    """Return the index of a table, of different ids, for a formula with one response."""
    if len(responses) != 1:
        raise ValueError(
            f"formula {formula!r} has {len(responses)} responses ({shown(list(responses))}): give one, and fit the "
            "others by formulas of their own; with one kernel flmm.Design.from_formula(formula, data, K=K) takes "
            "several."
        )
    if not data.index.is_unique:
        twice = list(data.index[data.index.duplicated()].unique())
        raise ValueError(f"the index of data has ids twice ({shown(twice)}): each row needs its own, reset_index().")
    return tuple(data.index.tolist())


def _random_term(formula: str, parts: list[RandomPart], rows: pd.DataFrame) -> RandomTerm:
    """Return the terms of one grouping factor as one: they then share the elimination of its levels."""
    factors = parts[0].factors
    factor = read_factor([rows[name] for name in factors], parts[0].group)
    encoded = [slopes(text, rows, whole=formula) for part in parts for text in part.slopes]
    names = tuple(part.columns for part in encoded)
    columns = tuple(name for part in names for name in part)
    if twice := repeated(columns):
        raise ValueError(
            f"formula {formula!r} has the column {shown(twice)} twice for the grouping factor {parts[0].group!r}, with "
            "two variances that cannot be told apart: (x | g) has an intercept, (0 + x | g) has none."
        )
    if not columns:
        raise ValueError(f"formula {formula!r} has a random term of {parts[0].group!r} without columns.")
    values = frozen(np.hstack([part.values for part in encoded]))
    return RandomTerm(factors, factor, columns, values, names, tuple(part.spec for part in encoded))


def _require_columns(data: pd.DataFrame, names: tuple[str, ...], formula: str | None = None) -> None:
    if missing := [name for name in names if name not in data.columns]:
        where = "" if formula is None else f" of formula {formula!r}"
        raise ValueError(
            f"the grouping factor {shown(missing)}{where} is not among the columns {', '.join(map(str, data.columns))}."
        )
