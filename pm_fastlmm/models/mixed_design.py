"""MixedDesign: y, X and the random terms of a formula in lme4's notation."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, Ids, Labelled, frozen, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.missing_codes import warn_of_coded_level
from pm_fastlmm.covariance.levels import Levels
from pm_fastlmm.models.correlated_terms import CorrelatedTerms, random_terms
from pm_fastlmm.models.design import coefficients_of
from pm_fastlmm.models.family_response import OfFamily, coding_of, require_no_overflow
from pm_fastlmm.models.fixed_terms import FixedTerms
from pm_fastlmm.models.formula import fixed_effects, require_table, variables_of
from pm_fastlmm.models.formulas.bars import split_formula
from pm_fastlmm.models.formulas.language import sides
from pm_fastlmm.models.formulas.names import plain
from pm_fastlmm.models.formulas.offsets import split_offsets
from pm_fastlmm.models.known_rows import Column, Offset, new_weights
from pm_fastlmm.models.missing_rows import complete, counts_of, dropped_rows, gaps_in, gaps_of, rows_dropped
from pm_fastlmm.models.random_terms import RandomTerm, require_columns
from pm_fastlmm.models.residual_term import ResidualFormula, ResidualTerm
from pm_fastlmm.spectrum.projection import Cells
from pm_fastlmm.spectrum.weights import require_weights


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
    random : tuple of RandomTerm or CorrelatedTerms
        One for each grouping factor, and for each id of (x |id| g).
    dropped : tuple
        Ids of the rows that were left out for a missing value.
    missing : dict
        How many values each column lacks, of those that lack any.
    fixed : FixedTerms
        What X was made from.
    weights, offset : (n,) arrays or None
        Prior weights w, Var(e_i) = σ²_e/w_i; the known part of the mean.
    residual : ResidualTerm or None
        Residual variances by group, or covariances within records.
    of_family : OfFamily or None
        The family of a response that is not normal, with the labels of its categories and its trials.

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
    random: tuple[RandomTerm | CorrelatedTerms, ...]
    dropped: tuple[Any, ...]
    missing: dict[str, int]
    fixed: FixedTerms
    weight_column: Column | None = None
    known_mean: Offset | None = None
    residual: ResidualTerm | None = None
    of_family: OfFamily | None = None

    @classmethod
    def from_formula(
        cls, formula: str, data: pd.DataFrame, *, weights: Any = None, offset: Any = None, residual: str | None = None,
        family: Any = None, link: str | None = None, trials: Any = None,
    ) -> Self:  # fmt: skip
        """
        Read a formula and a table, whose index holds the ids.

        Fixed effects are written as in R or in formulaic, y ~ x + I(x^2) + factor(f); random terms are lme4's: (1 | g),
        (x | g) with an intercept, (0 + x | g), (x || g) for independent effects, and g, a:b or a/b, that is
        (1 | a) + (1 | a:b), for the grouping factor; as in brms the effects of (1 |id| a) + (1 |id| b) are correlated
        within a level, those of one animal itself and as a dam. Rows with a missing variable are dropped, with a
        warning that counts them. Functions are those of R's model formulas and of the caller. Columns of text are
        factors, whatever their dtype.

        Parameters
        ----------
        formula : str
        data : DataFrame
        weights : str or array, optional
            Prior weights, a column's name or a value for each row of the table: Var(e_i) = σ²_e/w_i.
        offset : str or array, optional
            A known part of the mean; offset(x) in the formula is another one, and they are added up.
        residual : str, optional
            A column whose levels have residual variances of their own, or a bar of records, "(0 + trait | record)".
        family, link, trials : optional
            Of a response that is not normal, as for `lmm_model`.

        Raises
        ------
        ValueError
            If the formula is malformed, has several responses, names a column that is not there, gives one grouping
            factor the same column twice, has an id in one term alone, or means one thing in R and another in Python; if
            a weight is not positive or an offset not finite.

        Warns
        -----
        UserWarning
            If rows are dropped, a text column seems to hold numbers, or a number or a
            level of a grouping factor seems to be a code for missing values.
        """
        rest, offsets = split_offsets(formula, data.columns if isinstance(data, pd.DataFrame) else ())
        fixed, parts = split_formula(rest, data.columns if isinstance(data, pd.DataFrame) else ())
        require_table(data)
        response = sides(fixed)[0].strip("`")
        coding, data = coding_of(family, link, trials, data, response)
        w, known = Column.read(weights, data, "weights"), Column.read(offset, data, "offset")
        needed = [name for term in offsets.values() for name in variables_of(term, data, formula)]
        noise = None if residual is None else ResidualFormula.read(residual, data)
        needed += noise.needed if noise is not None else ()
        for part in parts:
            require_columns(data, part.factors, formula)
            needed += [*part.factors, *(name for text in part.slopes for name in variables_of(text, data, formula))]
        gaps = gaps_in(data, needed)
        for given in filter(None, (w, known, None if coding is None else coding.trials)):
            gaps |= gaps_of(given.values, [given.name or given.role])
        y, X, gaps = fixed_effects(fixed, data, whole=formula, gaps=gaps, dense=False)
        ids = _ids_of_one_response(y.columns, data, formula, trials=coding is not None)
        seen = complete(gaps, len(data))
        dropped = dropped_rows(seen, gaps, ids)
        rows = data[seen] if dropped else data
        if w is not None:
            w = w.subset(seen)
            require_weights(w.values, tuple(rows.index.tolist()))
        mean = Offset.of(offsets, None if known is None else known.subset(seen), rows, formula)
        random = random_terms(formula, parts, rows)
        members = [member for term in random for member in term.members]
        read = [pair for r in members for pair in zip(r.factors, r.factor.parts or (r.factor,), strict=True)]
        for name, factor in dict(read).items():
            warn_of_coded_level(factor.counts(), name)
        y_seen, X_seen, columns, of_family = y.values[seen, 0], X.values[seen], X.columns, None
        made = FixedTerms.of(X.spec, rows)
        if coding is not None:
            y_seen, of_family = coding.of(y_seen, seen, plain(response), tuple(rows.index.tolist()))
            require_no_overflow(of_family.family, np.zeros(0) if mean is None else mean.values, rows.index.tolist())
            if coding.name == "ordinal":
                made = _without_intercept(made, formula)
                X_seen, columns = X_seen[:, made.kept], tuple(columns[j] for j in made.kept)
                _require_no_constant(X_seen, columns)
        frozen(y_seen)
        if not sp.issparse(X_seen):
            frozen(X_seen)
        own = tuple(rows.index.tolist())
        common = (formula, plain(response), y_seen, X_seen, columns, own, random, dropped, counts_of(gaps))
        return cls(*common, made, w, mean, None if noise is None else noise.of(rows), of_family)

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

    def coordinate_of(self, data: pd.DataFrame) -> Any:
        """Return which group, or trait, the residual of each new row has; 0 where there is one variance."""
        return 0 if self.residual is None else self.residual.coordinates(data)

    def record_of(self, data: pd.DataFrame, levels: Levels) -> Any:
        """Return which record the residual of each new row is of, None where rows are not told apart by records."""
        return None if self.residual is None else self.residual.records(data, levels)

    def offset_of(self, data: pd.DataFrame) -> FloatArray | None:
        """
        Return the offset of new rows, None where there is none.

        Raises
        ------
        ValueError
            If data lacks its variables, or it was given as an array.
        """
        return None if self.known_mean is None else self.known_mean.at(data)

    def trials_of(self, data: pd.DataFrame) -> Any:
        """Return the trials of new rows of a binomial response, None for one in each."""
        return None if self.of_family is None else self.of_family.trials_at(data)

    @property
    def rows_dropped(self) -> str:
        """In words how many rows were dropped, and how many values each column lacks."""
        return rows_dropped(self.dropped, self.missing)

    @property
    def described(self) -> str:
        """The formula, with weights and offset that are no part of it."""
        parts = [self.formula]
        if self.weight_column is not None:
            parts.append(f"weights = {self.weight_column.called}")
        if self.known_mean is not None and self.known_mean.given is not None:
            parts.append(f"offset = {self.known_mean.given.called}")
        if self.residual is not None:
            parts.append(f"residual = {self.residual.text}")
        if self.of_family is not None and self.of_family.trials is not None:
            parts.append(f"trials = {self.of_family.trials.called}")
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
        return self.fixed.cells(data)

    def __repr__(self) -> str:
        """Show sizes, names, the random terms and how many rows were dropped."""
        random = "; ".join(term._description for term in self.random)
        return (
            f"MixedDesign({len(self.y)} observations of {self.response}; fixed: {listed(self.columns)}; "
            f"random: {random or 'none'}; {self._known}{self.rows_dropped})"
        )

    @property
    def _known(self) -> str:
        parts: dict[str, Any] = {"weights": self.weight_column, "offset": self.known_mean}
        residual = "" if self.residual is None else f"residual: {self.residual.text}; "
        if self.of_family is not None:
            parts["trials"] = self.of_family.trials
            residual += f"family: {self.of_family.family.name} ({self.of_family.family.link}); "
        return "".join(f"{role}: {part.called}; " for role, part in parts.items() if part is not None) + residual

    def _facts(self) -> dict[str, Any]:
        return {
            "formula": self.described,
            "observations": len(self.y),
            "fixed effects": listed(self.columns),
            "random terms": "; ".join(term._description for term in self.random) or "none",
            "rows": self.rows_dropped + (f": {listed(self.dropped)}" if self.dropped else ""),
        }


def _without_intercept(made: FixedTerms, formula: str) -> FixedTerms:
    """Return the fixed effects of ordered categories, whose cutpoints are the intercept."""
    if "Intercept" not in made.spec.column_names:
        raise ValueError(
            f"formula {formula!r} has no intercept, which the cutpoints of an ordered response are, so that a factor "
            "would have a column too many: leave 0 + or - 1 out."
        )
    return replace(made, intercept=False)


def _require_no_constant(X: Any, columns: tuple[str, ...]) -> None:
    """Raise a ValueError for columns that add up to the constant that cutpoints are."""
    if not columns or sp.issparse(X):
        return
    combination = np.linalg.lstsq(X, np.ones(len(X)))[0]
    if np.abs(X @ combination - 1).max() < 1e-8:
        used = [name for name, weight in zip(columns, combination, strict=True) if abs(weight) > 1e-8]
        raise ValueError(
            f"the columns {shown(used)} add up to a constant, which the cutpoints of an ordered response are: leave "
            "one of them out."
        )


def _ids_of_one_response(responses: tuple[str, ...], data: pd.DataFrame, formula: str, *, trials: bool) -> Ids:
    """Return the index of a table, of different ids, for a formula with one response."""
    if len(responses) != 1 and trials:
        raise ValueError(
            f"formula {formula!r} has {len(responses)} responses ({shown(list(responses))}), and a family is of one: "
            "successes and failures are the successes among their trials, data['n'] = data.successes + data.failures, "
            "successes ~ …, trials='n'."
        )
    if len(responses) != 1:
        raise ValueError(
            f"formula {formula!r} has {len(responses)} responses ({shown(list(responses))}): flmm.traits_model and "
            "flmm.find_reml take several traits, whose effects covary; responses apart have formulas of their own, or "
            "one kernel by flmm.Design.from_formula(formula, data, K=K)."
        )
    require_unique_index(data)
    return tuple(data.index.tolist())


def require_unique_index(data: pd.DataFrame) -> None:
    """Raise a ValueError if several rows have one id."""
    if not data.index.is_unique:
        twice = list(data.index[data.index.duplicated()].unique())
        raise ValueError(f"the index of data has ids twice ({shown(twice)}): each row needs its own, reset_index().")
