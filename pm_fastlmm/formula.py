"""Formulas with random terms in lme4's notation, taken apart so that formulaic reads all their parts.

One library reads every formula of this package. Of the two that Python has, formulaic has no random terms and formulae
has them, but without `||`, with a cost of levels × rows for a grouping factor, and without new levels in new data. A
random term is two ordinary formulas around a bar: formulaic's own tokens find the bars, formulaic encodes what stands
left of them, and the grouping factors on the right are coded by `covariance.incidence`.
"""

import builtins
import sys
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from formulaic import Formula, model_matrix
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.parser.algos.tokenize import tokenize

from pm_fastlmm._arrays import FloatArray, require_finite, shown
from pm_fastlmm.formulas.columns import as_at_the_fit, read_column, table_for, warn_of_codes, warn_of_numbers_as_text
from pm_fastlmm.formulas.functions import CONSTANTS, FUNCTIONS, REFUSED
from pm_fastlmm.formulas.language import plain_error, sides, source
from pm_fastlmm.formulas.names import columns_in, function_identifier, functions_in, names_of, plain


def fixed_effects(
    formula: str, data: pd.DataFrame, *, whole: str, grouped: npt.NDArray[np.bool_] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """
    Return y and X of a formula without random terms, NaN in the rows with a missing variable, and X's specification.

    Rows with a missing variable have no part in stateful transforms (poly, scale, bs) or in the levels of a factor, nor
    do those in which a variable of the random terms is missing, not `grouped`.

    Raises
    ------
    ValueError
        If the formula does not fit the table, or the response is not numeric.
    """
    require_table(data)
    formula = _without_dot(formula, data)
    variables = variables_of(formula, data, whole)
    complete = data[variables].notna().all(axis=1).to_numpy()
    if grouped is not None:
        complete = complete & grouped
    if not complete.any():
        what = "y or X" if grouped is None else "y, X or grouping factor"
        raise ValueError(f"every row has a missing value in {what}: there is nothing left to fit.")
    warn_of_numbers_as_text(data, [name for name in _required(sides(formula)[1], whole) if name in variables])
    response = sides(formula)[0].strip("`")
    warn_of_codes(data[complete], variables, response)
    matrices = _encode(formula, data[complete], whole)
    if response in data.columns and not _numeric(data[response][complete]):
        raise ValueError(
            f"the response {response!r} is not numeric, but {data[response].dtype}{_first_text(data[response])}."
        )
    if imaginary := [name for name in variables if pd.api.types.is_complex_dtype(data[name])]:
        raise ValueError(f"data are complex in {shown(imaginary)}: give real numbers, such as real and imaginary part.")
    y, X = (_spread(part, complete, data.index) for part in (matrices.lhs, matrices.rhs))
    return y, X, matrices.rhs.model_spec


def require_table(data: Any) -> None:
    """Raise a TypeError or ValueError if the data are no DataFrame with rows and with columns of different names."""
    if not isinstance(data, pd.DataFrame):
        raise TypeError(f"data must be a pandas DataFrame, got {type(data).__name__}: pass pd.DataFrame(data).")
    if data.columns.has_duplicates:
        raise ValueError(
            f"data has several columns {shown(list(data.columns[data.columns.duplicated()]))}: rename them."
        )
    if not len(data):
        raise ValueError("data has no rows: there is nothing to fit.")


def slopes(formula: str, data: pd.DataFrame, *, whole: str) -> tuple[pd.DataFrame, Any]:
    """Return the columns of a one-sided formula over complete rows, and their specification."""
    warn_of_numbers_as_text(data, _required(formula, whole))
    matrix = _encode(formula, data, whole)
    return _spread(matrix, np.ones(len(data), dtype=bool), data.index), matrix.model_spec


def encode_new(spec: Any, data: pd.DataFrame) -> FloatArray:
    """
    Return the columns of a specification for new rows, with the transforms and levels of the rows it was made of.

    Raises
    ------
    ValueError
        If a variable is not there or missing, or a factor has a level that is new.
    """
    required = names_of(spec.formula)
    variables = [column for column in data.columns if column in columns_in(required)]
    absent = data[variables].isna()
    missing = absent.any(axis=1).to_numpy()
    if missing.any():
        raise ValueError(
            f"new data have a missing value of {', '.join(sorted(map(str, absent.columns[absent.any()])))} in rows "
            f"{shown(data.index[missing].tolist())}: leave those rows out."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            matrix = spec.get_model_matrix(as_at_the_fit(table_for(required, data), spec), context=_context())
    except DataMismatchWarning as error:
        raise ValueError(f"new data have levels of a fixed factor that have no coefficient: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"new data with the columns {', '.join(map(str, data.columns))} do not fit the formula: "
            f"{plain_error(error)}"
        ) from error
    if len(matrix) < len(data):
        undefined = np.delete(np.arange(len(data)), matrix.index.to_numpy())
        raise ValueError(
            f"the design of the new data has {len(undefined)} values that are NaN or infinite, in rows "
            f"{shown(data.index[undefined].tolist())}: a transform is not defined there."
        )
    values = np.asarray(matrix, dtype=np.float64)
    values = values if values.size else np.zeros((len(data), len(spec.column_names)))
    require_finite(values, "the design of the new data", "a transform is not defined there.")
    return values


def variables_of(formula: str, data: pd.DataFrame, whole: str) -> list[str]:
    """Return the columns of the table that a formula needs."""
    required = columns_in(_required(formula, whole))
    return [column for column in data.columns if column in required]


def _required(formula: str, whole: str) -> set[str]:
    """Return the names that a formula needs, columns inside calls by their identifiers."""
    try:
        parsed = Formula(formula)
    except (FormulaicError, TypeError) as error:  # a TypeError where nothing is left of a slash, (x - x)/f
        raise ValueError(f"formula {whole!r} cannot be read: {plain_error(error)}") from error
    parts = (parsed.lhs, parsed.rhs) if sides(formula)[0] else (parsed,)
    return set().union(*map(names_of, parts))


def _encode(formula: str, data: pd.DataFrame, whole: str) -> Any:
    """Encode a formula; rows in which a transform is not defined are left out, as the index tells."""
    context = _context()
    for name in functions_in(formula):
        if function_identifier(name) not in context:
            known = ", ".join(sorted(FUNCTIONS, key=str.lower))
            why = REFUSED.get(
                name, f"there is no function {name!r} here, define it or make a column first; known {known}"
            )
            raise ValueError(f"formula {whole!r} cannot be read: {why}.")
    response = _required(left, whole) if (left := sides(formula)[0]) else ()
    table = table_for(_required(formula, whole), data, response=response)
    try:
        return model_matrix(formula, table, na_action="drop", output="pandas", context=context)
    except MemoryError:
        raise
    except Exception as error:  # what a function of the caller raises, or formulaic for its values
        raise ValueError(
            f"formula {whole!r} does not fit the columns {', '.join(map(str, data.columns))}: {plain_error(error)}"
        ) from error


def _spread(part: Any, complete: Any, index: pd.Index) -> pd.DataFrame:
    """Return the encoded rows in their places, and NaN in the others."""
    if strange := [name for name in part.columns if not pd.api.types.is_numeric_dtype(part[name])]:
        raise ValueError(
            f"the term {plain(strange[0])!r} is {part[strange[0]].dtype}, which is no number: make it a column of "
            "numbers first, such as days, or a factor, C(x)."
        )
    values = np.full((len(complete), part.shape[1]), np.nan)
    values[np.flatnonzero(complete)[part.index]] = np.asarray(part, dtype=np.float64)
    return pd.DataFrame(values, index=index, columns=[plain(str(name)) for name in part.columns])


def _context() -> dict[str, Any]:
    """
    Return what the first caller outside this package sees: the variables and functions that its formulas may use.

    Functions have identifiers of their own. As in R, a variable that is no function hides none; nor do functions that
    `from math import *` or `from numpy import *` brought, which know neither columns nor R's arguments.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pm_fastlmm"):
        frame = frame.f_back
    functions = {function_identifier(name): value for name, value in {**vars(builtins), **FUNCTIONS}.items()}
    for name, value in (*frame.f_globals.items(), *frame.f_locals.items()):
        if callable(value) and not (name in FUNCTIONS and _of_arrays(value)):
            functions[function_identifier(name)] = value
    return {**CONSTANTS, "np": np, **frame.f_globals, **frame.f_locals, **functions}


def _of_arrays(function: Any) -> bool:
    return isinstance(function, np.ufunc) or getattr(function, "__module__", None) in ("math", "cmath", "numpy")


def _numeric(column: "pd.Series[Any]") -> bool:
    return read_column(column).dtype.kind in "fiubc"


def _first_text(column: "pd.Series[Any]") -> str:
    """Return which value makes a column text, if it seems to hold numbers."""
    numbers = pd.to_numeric(column.astype(object), errors="coerce")
    texts = column[numbers.isna() & column.notna()]
    if not len(texts) or 2 * len(texts) > len(column):
        return ""
    return f": its value {texts.iloc[0]!r} in row {texts.index[0]!r} is no number, mend it or make it missing"


def _without_dot(formula: str, data: pd.DataFrame) -> str:
    """Return the formula with `.` written out: every column but those of the response."""
    left, right = sides(formula)
    if not any(token.token == "." for token in tokenize(right)):
        return formula
    response = columns_in(_required(left, formula))
    names = " + ".join(f"`{column}`" for column in data.columns if column not in response)
    return f"{left} ~ " + " ".join(f"({names})" if t.token == "." else source(right, t) for t in tokenize(right))
