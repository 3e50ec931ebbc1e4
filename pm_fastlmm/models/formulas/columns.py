"""The columns that a formula reads, whatever their dtype: numbers as floats, texts and conditions as factors."""

import datetime
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import shown, warn
from pm_fastlmm.base.missing_codes import warn_of_missing_codes
from pm_fastlmm.base.spelling import as_read, level_text
from pm_fastlmm.covariance.incidence import factorize
from pm_fastlmm.models.formulas.factors import condition
from pm_fastlmm.models.formulas.names import column_identifier, plain_name

_NUMBER = re.compile(r"\s*[<>≤≥~]?\s*[-+]?(\d+([.,]\d+)*|[.,]\d+)([eE][-+]?\d+)?\s*%?\s*")


def table_for(required: Collection[str], data: pd.DataFrame, *, response: Collection[str] = ()) -> pd.DataFrame:
    """
    Return the columns that formulaic needs, under the names it knows them by, and with a default index.

    Parameters
    ----------
    required : collection of str
        Names of columns as terms, and their identifiers inside calls.
    data : DataFrame
        Without missing values in these columns.
    response : collection of str
        Columns that stand left of the "~": conditions are 0 and 1 there.

    Raises
    ------
    ValueError
        If a term is a column of dates.
    """
    made: dict[str, Any] = {}
    for name in data.columns:
        if not isinstance(name, str) or not {name, column_identifier(name)} & set(required):
            continue
        values = read_column(data[name]).reset_index(drop=True)
        if column_identifier(name) in required:
            made[column_identifier(name)] = values
        if name in required:
            made[name] = values.astype(np.float64) if name in response and values.dtype == bool else _term(values, name)
    return pd.DataFrame(made, index=pd.RangeIndex(len(data)))


def as_at_the_fit(table: pd.DataFrame, spec: Any) -> pd.DataFrame:
    """
    Return new rows with factors by the levels of a specification, which are compared as people read them, 1 and "1".

    formulaic takes numbers for a factor's columns without a word, each of them the number itself.

    Raises
    ------
    ValueError
        If a covariate has become text, or a factor has a level that the fit has not.
    """
    made = table.copy()
    for name, (kind, state) in spec.encoder_state.items():
        if name not in table:
            continue
        if kind.value == "categorical":
            levels, exact = {as_read(level): level for level in state["categories"]}, set(state["categories"])
            values = [value if value in exact else levels.get(as_read(value), value) for value in table[name]]
            require_levels(name, values, state["categories"])
            made[name] = pd.Series(values, index=table.index, dtype=object)
        elif table[name].dtype.kind not in "fiubc":
            raise ValueError(
                f"the column {name!r} of the new data is no number as it was at the fit, but a text or factor."
            )
    return made


def require_levels(name: str, values: Collection[Any], levels: Collection[Any]) -> None:
    """Raise a ValueError for a value of a fixed factor that is none of its levels at the fit."""
    known = set(levels)
    if new := [value for value in dict.fromkeys(values) if value not in known]:
        raise ValueError(
            f"new data have levels of a fixed factor that have no coefficient: {name} has no level {shown(new)} in the "
            f"fit, which has {', '.join(map(level_text, levels))}. Leave those rows out, or fit {name} as a random "
            f"term, (1 | {name}), which tells what is known about a new level."
        )


def require_response(column: "pd.Series[Any]") -> None:
    """Raise a ValueError for a response that is no number; it says how it becomes one."""
    if read_column(column).dtype.kind in "fiubc":
        return
    name = str(column.name)
    absent = pd.to_numeric(column.astype(object), errors="coerce").isna()
    texts, levels = column[absent], column.unique().tolist()
    if not len(texts):
        advice = f"its texts are numbers, data[{name!r}] = pd.to_numeric(data[{name!r}])"
    elif 2 * len(texts) <= len(column):
        advice = f"its value {texts.iloc[0]!r} in row {texts.index[0]!r} is no number, mend it or make it missing"
    elif len(levels) == 2:
        advice = f"as 0 and 1 it is I(as.numeric({plain_name(name)} == {levels[1]!r})) ~ …"
    else:
        advice = f"give a number to each of its values, such as a score, data[{name!r}].map({{…}})"
    raise ValueError(f"the response {name!r} is not numeric, but {column.dtype}: {advice}.")


def read_column(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return a column of NumPy's dtypes: float64, bool, object for texts, or a category of such or of integers."""
    dtype = column.dtype
    if dtype == np.float64:
        return column
    if isinstance(dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories()
        categories = used.cat.categories
        index = categories
        if not pd.api.types.is_integer_dtype(categories.dtype):  # levels, not numbers: 1 is no "1.0"
            read = read_column(pd.Series(categories))
            index = pd.Index(read.tolist(), dtype=read.dtype)
        codes = pd.Categorical.from_codes(used.cat.codes, categories=index, ordered=bool(used.cat.ordered))
        return pd.Series(codes, index=column.index)
    if isinstance(dtype, pd.SparseDtype):
        return read_column(pd.Series(np.asarray(column), index=column.index))
    if pd.api.types.is_bool_dtype(dtype) and not pd.api.types.is_object_dtype(dtype):
        return column.astype(bool) if not column.isna().any() else column.astype(object)
    if pd.api.types.is_integer_dtype(dtype) or pd.api.types.is_float_dtype(dtype):
        return pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)
    if pd.api.types.is_object_dtype(dtype):
        return _read_objects(column)
    if pd.api.types.is_string_dtype(dtype):
        return column.astype(object)
    if "decimal" in str(dtype):
        return column.astype(np.float64)
    return column


def _read_objects(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return objects as what they are: numbers, dates, or texts, which a number among texts is, too."""
    kinds = set(map(type, column.dropna()))
    if kinds and all(issubclass(kind, int | float | np.integer | np.floating | Decimal) for kind in kinds):
        return column.astype(bool if kinds <= {bool, np.bool_} and not column.isna().any() else np.float64)
    if kinds and all(issubclass(kind, datetime.date) for kind in kinds):
        return pd.to_datetime(column)
    if any(issubclass(kind, datetime.timedelta | complex | pd.Interval | pd.Period) for kind in kinds):
        return column.infer_objects()
    return column.map(level_text, na_action="ignore").astype(object)


def _term(values: "pd.Series[Any]", name: str) -> "pd.Series[Any]":
    """Return a column as a term of its own: a covariate, or a factor."""
    if values.dtype == bool:
        return condition(values)
    if values.dtype.kind in "mM" or isinstance(values.dtype, pd.PeriodDtype | pd.DatetimeTZDtype):
        raise ValueError(
            f"the column {name!r} holds dates or durations ({values.dtype}), whose unit a formula cannot know: make it "
            f"a number first, such as days, (data[{name!r}] - data[{name!r}].min()).dt.days for dates."
        )
    if values.dtype == object:  # texts; formulaic would make the same of them, after another look at each
        codes, levels = factorize(values)
        return pd.Series(pd.Categorical.from_codes(codes, categories=levels))
    return values


def warn_of_numbers_as_text(data: pd.DataFrame, names: Collection[str]) -> None:
    """Warn where a column seems to hold numbers, and is a factor of so many levels for the sake of a few texts."""
    for name in names:
        if name not in data.columns or pd.api.types.is_numeric_dtype(data[name].dtype):
            continue
        values = read_column(data[name].dropna())
        if values.dtype != object or not all(isinstance(value, str) for value in values):
            continue
        levels = values.unique().tolist()
        texts = [level for level in levels if not _NUMBER.fullmatch(level)]
        numbers = len(levels) - len(texts)
        if numbers <= len(texts) or not _like_measurements(values, levels, texts):
            continue
        unread = [level for level in levels if pd.isna(pd.to_numeric(level, errors="coerce"))]
        rows = data.index[data[name].isin(unread[:1])].tolist() if unread else []
        because = f" because of {shown(unread)} (row {rows[0]!r})" if rows else ""
        warn(
            f"the column {name!r} is text{because}, so that it is a factor with {len(levels)} levels: if it should be "
            f"a number, data[{name!r}] = pd.to_numeric(data[{name!r}], errors='coerce') makes other texts missing; "
            "decimal commas are read by pd.read_csv(decimal=',')."
        )


def warn_of_codes(data: pd.DataFrame, names: Collection[str], response: str) -> None:
    """Warn of numbers in these columns, one of which may be the response, that look like codes for missing values."""
    for name in names:
        if isinstance(data[name].dtype, pd.StringDtype):
            continue
        values = read_column(data[name])
        if values.dtype.kind in "fi" and len(values):
            column, remedy = values.to_numpy(dtype=np.float64)[:, None], f"data[{name!r}].replace({{code}}, np.nan)"
            extremes = np.fmin.reduce(column), np.fmax.reduce(column)
            warn_of_missing_codes(column, [name], *extremes, remedy=remedy, response=name == response)


def _like_measurements(values: "pd.Series[str]", levels: list[str], texts: list[str]) -> bool:
    """Return whether the numbers in a text column are measurements, which seldom repeat, and not names of levels."""
    numbers = len(levels) - len(texts)
    fractions = any(re.search(r"\d[.,]\d", level) for level in levels if level not in texts)
    rare = 0 < values.isin(texts).sum() < len(values) / 20
    return 2 * numbers > len(values) or (numbers > 10 and fractions) or (numbers > 20 and bool(rare))
