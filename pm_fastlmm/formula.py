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
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula, model_matrix
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.parser.algos.tokenize import tokenize

from pm_fastlmm._arrays import FloatArray, require_finite, shown
from pm_fastlmm.formulas.columns import as_at_the_fit, read_column, table_for, warn_of_codes, warn_of_numbers_as_text
from pm_fastlmm.formulas.functions import CONSTANTS, FUNCTIONS, REFUSED
from pm_fastlmm.formulas.language import as_formulaic, plain_error, sides, source, tokens_of, without_packages
from pm_fastlmm.formulas.names import columns_in, function_identifier, functions_in, names_of, plain

_FACTOR = re.compile(r"(?:as\.)?factor\(\s*`?([^`()]+?)`?\s*\)")  # right of a bar: every column is a factor there


@dataclass(frozen=True, slots=True)
class RandomPart:
    """
    One random term (left | a:b), or several independent ones of the same factors for (left || a:b).

    Attributes
    ----------
    slopes : tuple of str
        Formulas of columns whose effects are correlated within each formula and independent between them.
    factors : tuple of str
        Columns of the table whose interaction groups the rows.
    """

    slopes: tuple[str, ...]
    factors: tuple[str, ...]

    @property
    def group(self) -> str:
        """The name of the grouping factor, "a:b"."""
        return ":".join(self.factors)


def split_formula(formula: Any, columns: Collection[str] | None = None) -> tuple[str, tuple[RandomPart, ...]]:
    """
    Return the formula without its random terms, and these with `/` and `||` expanded as lme4 does.

    (x | a/b) is (x | a) + (x | a:b), and (x + z || g) is (1 | g) + (0 + x | g) + (0 + z | g). With the columns of the
    table all parts come back as formulaic reads them (`language.as_formulaic`).

    Raises
    ------
    ValueError
        If the formula has no response, or a random term is malformed.
    """
    if not isinstance(formula, str) or "~" not in formula or not formula.split("~")[0].strip():
        raise ValueError(f"formula must have a response and predictors, 'y ~ x1 + x2', got {formula!r}.")
    formula = without_packages(formula)
    tokens = tokens_of(formula, formula)
    kept: list[Any] = []
    random: list[RandomPart] = []
    position = 0
    while position < len(tokens):
        end = _closing(tokens, position) if tokens[position].token == "(" else position
        inside = tokens[position + 1 : end]
        if any(_is_bar(token) for token in inside):
            random += _read_random(formula, tokens[position], inside, tokens[end], columns)
            before = kept[-1] if kept else None
            after = tokens[end + 1] if end + 1 < len(tokens) else None
            position = end + 1 + _cut(formula, kept, before, after)
            continue
        if _is_bar(tokens[position]):
            raise ValueError(f"formula {formula!r} has a bar outside parentheses: write random terms as (x | group).")
        kept += tokens[position : end + 1]
        position = end + 1
    fixed = " ".join(token if isinstance(token, str) else source(formula, token) for token in kept)
    return fixed if columns is None else as_formulaic(fixed, columns, formula), tuple(random)


def fixed_effects(formula: str, data: pd.DataFrame, *, whole: str) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """
    Return y and X of a formula without random terms, NaN in the rows with a missing variable, and X's specification.

    Rows with a missing variable have no part in stateful transforms (poly, scale, bs) or in the levels of a factor.

    Raises
    ------
    ValueError
        If the formula does not fit the table, or the response is not numeric.
    """
    if not isinstance(data, pd.DataFrame):
        raise TypeError(f"data must be a pandas DataFrame, got {type(data).__name__}: pass pd.DataFrame(data).")
    if data.columns.has_duplicates:
        raise ValueError(
            f"data has several columns {shown(list(data.columns[data.columns.duplicated()]))}: rename them."
        )
    formula = _without_dot(formula, data)
    variables = variables_of(formula, data, whole)
    if not len(data):
        raise ValueError("data has no rows: there is nothing to fit.")
    complete = data[variables].notna().all(axis=1).to_numpy()
    warn_of_numbers_as_text(data, [name for name in _required(sides(formula)[1], whole) if name in variables])
    warn_of_codes(data[complete], variables)
    matrices = _encode(formula, data[complete], whole)
    response = sides(formula)[0].strip("`")
    if response in data.columns and not _numeric(data[response][complete]):
        raise ValueError(
            f"the response {response!r} is not numeric, but {data[response].dtype}{_first_text(data[response])}."
        )
    if imaginary := [name for name in variables if pd.api.types.is_complex_dtype(data[name])]:
        raise ValueError(f"data are complex in {shown(imaginary)}: give real numbers, such as real and imaginary part.")
    y, X = (_spread(part, complete, data.index) for part in (matrices.lhs, matrices.rhs))
    return y, X, matrices.rhs.model_spec


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
    except (FormulaicError, TypeError) as error:
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
    except FormulaicError as error:
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
    except (FormulaicError, TypeError) as error:
        raise ValueError(
            f"formula {whole!r} does not fit the columns {', '.join(map(str, data.columns))}: {plain_error(error)}"
        ) from error


def _spread(part: Any, complete: Any, index: pd.Index) -> pd.DataFrame:
    """Return the encoded rows in their places, and NaN in the others."""
    values = np.full((len(complete), part.shape[1]), np.nan)
    values[np.flatnonzero(complete)[part.index]] = np.asarray(part, dtype=np.float64)
    return pd.DataFrame(values, index=index, columns=[plain(str(name)) for name in part.columns])


def _context() -> dict[str, Any]:
    """
    Return what the first caller outside this package sees: the variables and functions that its formulas may use.

    Functions have identifiers of their own. As in R, a variable that is no function hides none; nor do those of `math`,
    which know no columns.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pm_fastlmm"):
        frame = frame.f_back
    functions: dict[str, Any] = {}
    for scope in (vars(builtins), FUNCTIONS, frame.f_globals, frame.f_locals):
        for name, value in scope.items():
            if callable(value) and not (name in FUNCTIONS and getattr(value, "__module__", None) == "math"):
                functions[function_identifier(name)] = value
    return {**CONSTANTS, "np": np, **frame.f_globals, **frame.f_locals, **functions}


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


def _is_bar(token: Any) -> bool:
    return token.kind.value == "operator" and token.token in ("|", "||")


def _closing(tokens: list[Any], start: int) -> int:
    """Return the place of the parenthesis that closes the one at `start`; the end if there is none."""
    depth = 0
    for place in range(start, len(tokens)):
        if tokens[place].kind.value == "context":
            depth += {"(": 1, ")": -1}.get(tokens[place].token, 0)
        if not depth:
            return place
    return len(tokens) - 1


def _cut(formula: str, kept: list[Any], before: Any, after: Any) -> int:
    """Take the sign that joined a random term out of what is kept; return how many tokens after it go, too."""
    if before is not None and not isinstance(before, str) and before.token == "+":
        kept.pop()
        joined = after is None or after.token in ("+", "-", ")")
        first = False
    else:
        joined = before is None or isinstance(before, str) or before.token in ("~", "(")
        first = True
    if not joined or (after is not None and after.token not in ("+", "-", ")")):
        raise ValueError(f"formula {formula!r} joins a random term by another sign than +: they can only be added.")
    if first and after is not None and after.token == "+":
        return 1
    if first and (after is None or after.token == ")"):
        kept.append("1")
    return 0


def _read_random(
    formula: str, opening: Any, inside: list[Any], closing: Any, columns: Collection[str] | None
) -> list[RandomPart]:
    """Read one random term from its tokens."""
    bars = [i for i, token in enumerate(inside) if _is_bar(token)]
    text = formula[opening.source_start : closing.source_end + 1]
    if len(bars) > 1 or closing.token != ")":
        raise ValueError(f"formula {formula!r}: {text!r} is not a random term, which is (columns | grouping factor).")
    if any(token.token == "(" for token in inside[: bars[0]]) and _closing(inside, 0) > bars[0]:
        raise ValueError(f"formula {formula!r} has a random term inside other parentheses, {text!r}: write it apart.")
    bar = inside[bars[0]]
    left = formula[opening.source_end + 1 : bar.source_start].strip()
    if not left:
        raise ValueError(f"formula {formula!r}: {text!r} has nothing left of its bar: an intercept is (1 | group).")
    nested = _factors(formula, text, inside[bars[0] + 1 :])
    if columns is not None:
        left = as_formulaic(left, columns, formula)
    if bar.token == "||":
        try:
            terms = [str(term) for term in Formula(left)]
        except FormulaicError as error:
            raise ValueError(f"formula {formula!r} cannot be read: {plain_error(error)}") from error
        parts = tuple("1" if term == "1" else f"0 + {term}" for term in terms)
    else:
        parts = (left,)
    return [RandomPart(parts, factors) for factors in nested]


def _factors(formula: str, text: str, tokens: list[Any]) -> list[tuple[str, ...]]:
    """Return the grouping factors right of the bar: ("a",), ("a", "b") for a/b, ("a", "b") for a:b."""
    nested: list[list[str]] = [[]]
    expect_name = True
    for token in tokens:
        factor = _FACTOR.fullmatch(token.token) if token.kind.value == "python" else None
        is_name = factor is not None or token.kind.value == "name"
        if is_name != expect_name or not (is_name or token.token in (":", "/")):
            break
        if is_name:
            nested[-1].append(token.token if factor is None else factor[1])
        elif token.token == "/":
            nested.append([])
        expect_name = not expect_name
    else:
        if not expect_name:
            return [tuple(name for part in nested[: k + 1] for name in part) for k in range(len(nested))]
    raise ValueError(
        f"formula {formula!r}: the grouping factor of {text!r} must be a column of the table, or columns joined by : "
        "and /; make any other one a column first."
    )
