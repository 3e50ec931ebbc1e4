"""Formulas with random terms in lme4's notation, taken apart so that formulaic reads all their parts.

One library reads every formula of this package. Of the two that Python has, formulaic has no random terms and formulae
has them, but without `||`, with a cost of levels × rows for a grouping factor, and without new levels in new data. A
random term is two ordinary formulas around a bar: formulaic's own tokens find the bars, formulaic encodes what stands
left of them, and the grouping factors on the right are coded by `covariance.incidence`.
"""

import builtins
import re
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from formulaic import Formula, ModelMatrix, model_matrix
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.parser.algos.tokenize import tokenize
from formulaic.transforms.contrasts import CustomContrasts

from pm_fastlmm.base.arrays import FloatArray, repeated, shown
from pm_fastlmm.covariance.incidence import require_distinct
from pm_fastlmm.models.formulas.bars import split_formula
from pm_fastlmm.models.formulas.columns import (
    as_at_the_fit,
    read_column,
    require_levels,
    require_response,
    table_for,
    warn_of_codes,
    warn_of_numbers_as_text,
)
from pm_fastlmm.models.formulas.functions import CONSTANTS, FUNCTIONS
from pm_fastlmm.models.formulas.language import plain_error, sides, source
from pm_fastlmm.models.formulas.names import calls_in, columns_in, function_identifier, names_of, plain
from pm_fastlmm.models.formulas.refused import is_refused, why_refused
from pm_fastlmm.models.formulas.rowwise import of_other_rows
from pm_fastlmm.models.formulas.sparse_columns import SparseMatrix, is_large, rows_where
from pm_fastlmm.models.missing_rows import Gaps, counts_of, gaps_in, listed_counts
from pm_fastlmm.models.missing_rows import complete as complete_rows

_COMMON = ["as.factor", "cut", "factor", "I", "ifelse", "log", "ns", "poly", "scale", "sqrt"]
_SHOWN = 4  # different rows that a message names


class Encoded(NamedTuple):
    """Columns of a design, dense or sparse, by row of the table, and formulaic's specification of them."""

    values: Any
    columns: tuple[str, ...]
    spec: Any


def fixed_effects(
    formula: str, data: pd.DataFrame, *, whole: str, gaps: Gaps | None = None, dense: bool = True
) -> tuple[Encoded, Encoded, Gaps]:
    """
    Return y and X of a formula without random terms, NaN in the rows with a missing variable, and all gaps.

    X may be sparse, where factors have many levels, for a caller that does not need it `dense`.

    Rows with a missing variable have no part in stateful transforms (poly, scale, bs) or in the levels of a factor, nor
    do those with other `gaps`, of the variables of random terms. Where a transform is not defined its term has a gap.

    Raises
    ------
    ValueError
        If the formula does not fit the table, the response is not numeric, or no row is complete.
    """
    require_table(data)
    formula = without_dot(formula, data)
    variables = variables_of(formula, data, whole)
    gaps = gaps_in(data, variables) | (gaps or {})
    complete = complete_rows(gaps, len(data))
    warn_of_numbers_as_text(data, [name for name in _required(sides(formula)[1], whole) if name in variables])
    response = sides(formula)[0].strip("`")
    rows = data if complete.all() else data[complete]
    warn_of_codes(rows, variables, response)
    alone = response in data.columns  # a column, which needs no encoding
    large = not dense and is_large(getattr(_parsed(formula), "rhs", ()), rows)
    made = _encode(sides(formula)[1] if alone else formula, rows, whole, large=large)
    if alone:
        require_response(rows[response])
    if imaginary := [name for name in variables if pd.api.types.is_complex_dtype(data[name])]:
        raise ValueError(f"data are complex in {shown(imaginary)}: give real numbers, such as real and imaginary part.")
    if alone:
        values = _placed(read_column(rows[response]).to_numpy(dtype=np.float64)[:, None], slice(None), complete)
        y, X = Encoded(values, (plain(response),), None), _spread(made, complete)
    else:
        y, X = _spread(_conditions_as_numbers(made.lhs), complete), _spread(made.rhs, complete)
    if large:
        _refuse_infinite(y, data.index, "y has")
        _refuse_infinite(X, data.index, "X has")
    else:
        both = Encoded(np.hstack([y.values, X.values]), (*y.columns, *X.columns), None)
        _refuse_infinite(both, data.index, "y and X have")
    return y, X, gaps | _undefined(y, complete) | _undefined(X, complete)


def _undefined(encoded: Encoded, complete: npt.NDArray[np.bool_]) -> Gaps:
    """Return by term the rows without a missing variable in which it is not defined."""
    if sp.issparse(encoded.values):  # a row without one of its terms is left out as a whole
        bad = rows_where(np.isnan, encoded.values) & complete
        return {plain(str(term)): bad for term in encoded.spec.term_slices} if bad.any() else {}
    if not np.isnan(encoded.values[complete]).any():
        return {}
    terms = {plain(str(term)): encoded.values[:, place] for term, place in encoded.spec.term_slices.items()}
    found = {name: np.isnan(values).any(axis=1) & complete for name, values in terms.items()}
    return {name: undefined for name, undefined in found.items() if undefined.any()}


def _conditions_as_numbers(response: Any) -> Any:
    """Return responses of which conditions, I(x > 2), are one column of 0 and 1."""
    for name, (kind, state) in response.model_spec.encoder_state.items():
        if kind.value == "categorical" and list(state.get("categories", ())) == [False, True]:
            number = response.drop(columns=f"{name}[False]").rename(columns={f"{name}[True]": name})
            response = ModelMatrix(number, spec=response.model_spec)
    return response


def require_table(data: Any) -> None:
    """Raise a TypeError or ValueError if the data are no DataFrame with rows and with columns of different names."""
    if not isinstance(data, pd.DataFrame):
        raise TypeError(f"data must be a pandas DataFrame, got {type(data).__name__}: pass pd.DataFrame(data).")
    if twice := repeated(data.columns):
        raise ValueError(f"data has several columns {shown(twice)}: rename them.")
    if not len(data):
        raise ValueError("data has no rows: there is nothing to fit.")


def slopes(formula: str, data: pd.DataFrame, *, whole: str) -> Encoded:
    """Return the columns of a one-sided formula over complete rows."""
    if formula == "1":  # of most random terms, and the same for every table
        return _intercept()._replace(values=np.ones((len(data), 1)))
    warn_of_numbers_as_text(data, _required(formula, whole))
    encoded = _spread(_encode(formula, data, whole), np.ones(len(data), dtype=bool))
    _refuse_infinite(encoded, data.index, "the columns of random terms have")
    return encoded


@cache
def _intercept() -> Encoded:
    return _spread(model_matrix("1", pd.DataFrame(index=range(1))), np.ones(1, dtype=bool))


def encode_new(spec: Any, data: pd.DataFrame) -> Encoded:
    """
    Return the columns of a specification for new rows, with the transforms and levels of the rows it was made of.

    Raises
    ------
    ValueError
        If a variable is not there or missing, or a factor has a level that is new.
    """
    required = names_of(spec.formula)
    variables = [column for column in data.columns if column in columns_in(required)]
    if gaps := gaps_in(data, variables):
        rows = data.index[np.logical_or.reduce(list(gaps.values()))]
        raise ValueError(
            f"new data have missing values ({listed_counts(counts_of(gaps))}) in rows {shown(rows.tolist())}: leave "
            "those rows out."
        )
    table = as_at_the_fit(table_for(required, data), spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            if spec.output == "sparse":
                matrix: Any = SparseMatrix.of(spec, table, _context())
            else:
                matrix = spec.get_model_matrix(table, context=_context())
    except DataMismatchWarning as error:
        _require_levels_of_calls(spec, table)
        raise ValueError(f"new data have levels of a fixed factor that have no coefficient: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"new data with the columns {', '.join(map(str, data.columns))} do not fit the formula: "
            f"{plain_error(error)}"
        ) from error
    encoded = _spread(matrix, np.ones(len(data), dtype=bool))
    undefined = rows_where(lambda values: ~np.isfinite(values), encoded.values)
    if undefined.any():
        raise ValueError(
            f"the design of the new data has {undefined.sum()} values that are NaN or infinite, in rows "
            f"{shown(data.index[undefined].tolist())}: a transform is not defined there."
        )
    return encoded


def variables_of(formula: str, data: pd.DataFrame, whole: str) -> list[str]:
    """Return the columns of the table that a formula needs."""
    required = columns_in(_required(formula, whole))
    return [column for column in data.columns if column in required]


def _required(formula: str, whole: str) -> set[str]:
    """Return the names that a formula needs, columns inside calls by their identifiers."""
    try:
        parsed = _parsed(formula)
    except (FormulaicError, TypeError) as error:  # a TypeError where nothing is left of a slash, (x - x)/f
        raise ValueError(f"formula {whole!r} cannot be read: {plain_error(error)}") from error
    parts = (parsed.lhs, parsed.rhs) if sides(formula)[0] else (parsed,)
    return set().union(*map(names_of, parts))


@lru_cache(maxsize=64)
def _parsed(formula: str) -> Any:
    """Return a formula as formulaic reads it, which several functions ask for."""
    return Formula(formula)


def _encode(formula: str, data: pd.DataFrame, whole: str, *, large: bool = False) -> Any:
    """Encode a formula; rows in which a transform is not defined are left out, as the index tells."""
    context = _context()
    for name, call in calls_in(formula):
        if function_identifier(name) not in context:
            raise ValueError(f"formula {whole!r} cannot be read: {_why_not(name, call, formula, whole)}.")
    response = _required(left, whole) if (left := sides(formula)[0]) else ()
    required = _required(formula, whole)
    table = table_for(required, data, response=response)
    _require_columns(sorted(required - {*table.columns, *context}), data, whole)
    try:
        if large:
            made = _sparse(_parsed(formula), table, context)
        else:
            made = model_matrix(_parsed(formula), table, na_action="drop", output="pandas", context=context)
    except MemoryError:
        raise
    except Exception as error:  # what a function of the caller raises, or formulaic for its values
        if undefined := re.search(r"name '(\w+)' is not defined", plain_error(error)):
            _require_columns([undefined[1]], data, whole)
        raise ValueError(
            f"formula {whole!r} does not fit the columns {', '.join(map(str, data.columns))}: {plain_error(error)}"
        ) from error
    encoded = made.rhs if response else made
    _require_contrasts(encoded, table)
    _require_whole_factors(encoded.model_spec)
    if term := of_other_rows(encoded, table, context):
        raise ValueError(
            f"the term {plain(term)!r} has another value in a row alone than among all rows, so that new rows would be "
            "encoded differently: make a column of the table first; center(x) and scale(x) keep what they know."
        )
    return made


def _sparse(formula: Any, table: pd.DataFrame, context: dict[str, Any]) -> Any:
    """Return X as a sparse matrix, beside y as a table where the formula has one."""
    if not hasattr(formula, "lhs"):
        return SparseMatrix.of(formula, table, context)
    dropped: set[int] = set()
    y = model_matrix(formula.lhs, table, na_action="drop", output="pandas", context=context, drop_rows=dropped)
    X = SparseMatrix.of(formula.rhs, table, context, dropped)
    return SimpleNamespace(lhs=ModelMatrix(y.loc[X.index], spec=y.model_spec), rhs=X)


def _require_columns(absent: list[str], data: pd.DataFrame, whole: str) -> None:
    """Refuse names that are no columns, with those that may be meant."""
    if absent:
        known = [str(name) for name in data.columns]
        alike = {name.lower().replace(" ", "_").replace(".", "_"): name for name in known}
        named = plain(absent[0])
        near = get_close_matches(named.lower().replace(".", "_"), alike, n=1)
        meant = alike[near[0]] if near else ""
        hint = f" Is it {meant if meant.isidentifier() else f'`{meant}`'}?" if near else ""
        raise ValueError(f"formula {whole!r} does not fit the columns {', '.join(known)}: there is no {named}.{hint}")


def _require_contrasts(matrix: Any, table: pd.DataFrame) -> None:
    """Refuse factors with one level, as R does: there is nothing to compare it with."""
    for name, (kind, state) in matrix.model_spec.encoder_state.items():
        levels: list[Any] = list(state.get("categories", [])) if kind.value == "categorical" else []
        if levels == [False, True]:
            continue
        if name in table:
            kept = table[name] if len(matrix) == len(table) else table[name].loc[matrix.index]
            levels = list(kept.unique()) if len(levels) else levels
        require_distinct(tuple(levels), plain(name), np.dtype(object))
        if len(levels) == 1:
            raise ValueError(
                f"the factor {plain(name)!r} has one level, {levels[0]!r}, in the rows without missing values, and an "
                "effect is the difference of two: leave it out of the formula."
            )


def _require_whole_factors(spec: Any) -> None:
    """
    Refuse a factor by contrasts of the caller where it stands for a column of each level, as without an intercept.

    R has these columns there. formulaic 1.2.2 has the contrasts, which are one less, and so another model.
    """
    for part in spec.structure:
        for factor in (factor for term in part.scoped_terms for factor in term.factors):
            _, state = spec.encoder_state.get(str(factor.factor), (None, {}))
            contrasts = getattr(state.get("contrasts"), "contrasts", None)
            if isinstance(contrasts, CustomContrasts) and not factor.reduced:
                raise ValueError(
                    f"{plain(str(factor.factor))} needs a column for each level in {plain(str(part.term))!r}, where no "
                    "intercept or other term has their mean, and contrasts of your own have one less: keep the "
                    "intercept and the factor itself in the formula, or write the factor without contrasts."
                )


def _require_levels_of_calls(spec: Any, table: pd.DataFrame) -> None:
    """Raise a ValueError for the call, factor(k), that makes a level which the fit has not."""
    for name, (kind, state) in spec.encoder_state.items():
        if kind.value == "categorical" and name not in table:
            made = model_matrix(f"0 + {name}", table, na_action="drop", output="pandas", context=_context())
            require_levels(plain(name), made.model_spec.encoder_state[name][1]["categories"], state["categories"])


def _why_not(name: str, call: str, formula: str, whole: str) -> str:
    """Return why a formula cannot have a call, and what takes its place."""
    left, parts = split_formula(whole)
    joined = re.search(re.escape(call) + r"\s*:\s*([\w.]+)", plain(formula))  # us(x):g
    group = (joined[1],) if joined else parts[0].factors if parts else ()
    why = why_refused(call, response=sides(left)[0], group=group)
    if why is not None:
        return f"{call} is not there: {why}"
    near = [close for close in get_close_matches(name, FUNCTIONS, cutoff=0.75) if close not in _COMMON]
    return (
        f"there is no function {name!r} here, define it or make a column first; known are "
        f"{', '.join(near + _COMMON)} and others of R"
    )


def _spread(part: Any, complete: Any) -> Encoded:
    """Return the encoded rows in their places, and NaN in the others."""
    if isinstance(part, SparseMatrix):
        return Encoded(part.placed(complete), tuple(map(plain, part.columns)), part.model_spec)
    values = np.asarray(part)
    if values.dtype.kind not in "fiub":
        strange = [(name, kind) for name, kind in part.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        for name, kind in strange[:1]:
            raise ValueError(
                f"the term {plain(name)!r} is {kind}, which is no number: make it a column of numbers first, such as "
                "days, or a factor, C(x)."
            )
    placed = _placed(values, part.index, complete)
    return Encoded(placed, tuple(plain(str(name)) for name in part.columns), part.model_spec)


def _placed(values: Any, rows: Any, complete: Any) -> FloatArray:
    """Return values in the places of some of the complete rows, and NaN in the others."""
    out = np.full((len(complete), values.shape[1]), np.nan)
    out[np.flatnonzero(complete)[rows]] = values
    return out


def _context() -> dict[str, Any]:
    """
    Return what the first caller outside this package sees: the variables and functions that its formulas may use.

    Functions have identifiers of their own. As in R, a variable that is no function hides none; nor do functions that
    `from math import *` or `from numpy import *` brought, which know neither columns nor R's arguments.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pm_fastlmm"):
        frame = frame.f_back
    functions = dict(_own_functions())
    for name, value in (*frame.f_globals.items(), *frame.f_locals.items()):
        if callable(value) and not (_is_numpys(value) and (name in FUNCTIONS or is_refused(name))):
            functions[function_identifier(name)] = value
    return {**CONSTANTS, "np": np, **frame.f_globals, **frame.f_locals, **functions}


def _is_numpys(function: Any) -> bool:
    return isinstance(function, np.ufunc) or getattr(function, "__module__", None) in ("math", "cmath", "numpy")


@cache
def _own_functions() -> dict[str, Any]:
    ours = {name: value for name, value in vars(builtins).items() if not is_refused(name)} | dict(FUNCTIONS)
    return {function_identifier(name): value for name, value in ours.items()}


def _refuse_infinite(encoded: Encoded, index: pd.Index, subject: str) -> None:
    """Raise a ValueError that names the terms with infinite values."""
    rows = rows_where(np.isinf, encoded.values)
    if rows.any():
        some = encoded.values[rows]
        infinite = np.isinf(some if isinstance(some, np.ndarray) else some.toarray())
        terms = [name for name, found in zip(encoded.columns, infinite.any(axis=0), strict=True) if found]
        raise ValueError(
            f"{subject} {int(infinite.sum())} infinite values, of {', '.join(terms)} in rows "
            f"{shown(index[rows].tolist())}: mend them "
            "(a logarithm of 0 is infinite, log1p(x) is log(1 + x)), or set them to NaN to have them dropped."
        )


def without_dot(formula: str, data: pd.DataFrame) -> str:
    """Return the formula with `.` written out: every column but those of the response."""
    left, right = sides(formula)
    if not any(token.token == "." for token in tokenize(right)):
        return formula
    response = columns_in(_required(left, formula))
    names = " + ".join(f"`{column}`" for column in data.columns if column not in response)
    return f"{left} ~ " + " ".join(f"({names})" if t.token == "." else source(right, t) for t in tokenize(right))


def cells(spec: Any, data: pd.DataFrame, rows: npt.NDArray[np.bool_], columns: Sequence[int]) -> str:
    """
    Return the different values that rows have in the variables of some columns of their design.

    Parameters
    ----------
    spec : formulaic.ModelSpec
        Which made the design.
    data : DataFrame
    rows : (m,) array of bool
    columns : sequence of int
        Places in the design.

    Examples
    --------
    >>> from formulaic import model_matrix
    >>> table = pd.DataFrame({"dose": [1.0, 2.0, 2.0], "drug": ["a", "b", "b"]})
    >>> spec = model_matrix("~ drug + dose", table).model_spec
    >>> cells(spec, table, np.array([False, True, True]), columns=[1, 2])
    'dose = 2, drug = b'
    """
    terms = [term for term, places in spec.term_slices.items() if any(places.start <= j < places.stop for j in columns)]
    variables = columns_in(names_of(terms))
    named = [name for name in data.columns if str(name) in variables]
    if not named:
        return ""
    different = data.loc[rows, named].drop_duplicates()
    texts = [
        ", ".join(f"{name} = {_text(value)}" for name, value in zip(named, row, strict=True))
        for row in different.head(_SHOWN).itertuples(index=False)
    ]
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return "; ".join(texts) + more


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
