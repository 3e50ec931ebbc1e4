"""The response of a formula with a family: outcomes and categories as numbers, and the trials of each row."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Ids, shown
from pm_fastlmm.base.messages import say
from pm_fastlmm.families.choice import family_of, is_normal, name_of
from pm_fastlmm.families.family import Family
from pm_fastlmm.models.formulas.columns import read_column
from pm_fastlmm.models.known_rows import Column, numbers_of

_MOST = 50  # categories: more are numbers
_OVERFLOW = 700.0  # of an offset of a logarithm, whose exponential is no float


class OfFamily(NamedTuple):
    """
    What a formula with a family knows of its response.

    Attributes
    ----------
    family : Family
        Of the rows.
    labels : tuple or None
        What the numbers 0, 1, … of the response stand for, where it has categories.
    trials : Column or None
        Of a binomial response.
    """

    family: Family
    labels: tuple[Any, ...] | None = None
    trials: Column | None = None

    def trials_at(self, data: pd.DataFrame) -> Any:
        """
        Return the trials of new rows, None for one each: of the column, where the table has it, or the number given.

        Raises
        ------
        ValueError
            If the column of the table has no trials in a row.
        """
        if self.trials is None:
            return None
        if self.trials.name is None:
            same = self.trials.values
            return np.full(len(data), same[0]) if self.trials.single else None
        if self.trials.name not in data.columns:
            return None
        own = numbers_of(self.trials.name, data, "trials")
        if (wrong := ~((own >= 1) & (own == np.round(own)) & np.isfinite(own))).any():
            raise ValueError(
                f"trials={self.trials.name!r} must be positive integers, but in rows "
                f"{shown(data.index[wrong].tolist())} of the new data they are not: give the number of trials for "
                "which y is predicted, or leave the column out for one trial in each row."
            )
        return own


class Coding(NamedTuple):
    """
    A family, and how its response is read before rows are dropped.

    Attributes
    ----------
    family : str or Family
    name : str
        Of the family.
    link : str or None
    labels : tuple or None
        Of the categories that the response has, where it is no number.
    trials : Column or None
    """

    family: Any
    name: str
    link: str | None
    labels: tuple[Any, ...] | None
    trials: Column | None

    @classmethod
    def read(
        cls, family: Any, link: str | None, trials: Any, data: pd.DataFrame, response: str
    ) -> tuple[Self, pd.DataFrame]:
        """
        Return the coding, and the table with numbers as its response where that is a column of outcomes or categories.

        Raises
        ------
        ValueError
            If there is no such family, or the response is no outcome or category of it.
        """
        name = name_of(family)
        column = Column.read(trials, data, "trials")
        if column is not None and name != "binomial":
            raise ValueError(f"trials= is of family 'binomial', this one is {name!r}: leave it out.")
        coded, labels = None, None
        if response in data.columns and name in _READERS:
            coded, labels = _READERS[name](data[response], response)
        made = data if coded is None else data.assign(**{response: coded})
        return cls(family, name, link, labels, column), made

    def of(self, y: FloatArray, seen: npt.NDArray[np.bool_], response: str, ids: Ids) -> tuple[FloatArray, OfFamily]:
        """
        Return the response of the rows that are left, and what is known of it.

        Raises
        ------
        ValueError
            If y is outside the support, or has one category.
        """
        trials = None if self.trials is None else self.trials.subset(seen)
        if self.name == "ordinal":
            codes, labels = _occurring(y, self.labels, response)
            return codes, OfFamily(self._family(categories=len(labels)), labels)
        rows = pd.Index(ids, dtype=object, tupleize_cols=False)
        own = self._family(trials=None if trials is None else pd.Series(trials.values, rows))
        try:
            values = own.read(pd.Series(y, rows))
        except ValueError as error:
            raise ValueError(f"the response {response!r}: {error}") from None
        return values, OfFamily(own, self.labels, trials)

    def _family(self, **rows: Any) -> Family:
        if isinstance(self.family, Family):
            trials = rows.get("trials")
            return self.family if trials is None else self.family.of_rows(trials)
        return family_of(self.family, self.link, **rows)


def coding_of(
    family: Any, link: Any, trials: Any, data: pd.DataFrame, response: str
) -> tuple[Coding | None, pd.DataFrame]:
    """Return the coding of a response with a family, none of a normal one, and the table to read it from."""
    if not is_normal(family):
        return Coding.read(family, link, trials, data, response)
    given = {"link": link, "trials": trials}
    if names := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{shown(names)} is of a response that is not normal: give family= too, family='binomial'.")
    return None, data


def require_no_overflow(family: Family, offset: FloatArray, rows: Sequence[Any]) -> None:
    """Raise a ValueError for an offset of log μ whose exponential is infinite: it is the exposure itself."""
    if family.link == "log" and (far := offset > _OVERFLOW).any():
        raise ValueError(
            f"the offset is {offset.max():.6g} in rows {shown(np.asarray(rows, dtype=object)[far].tolist())}, and the "
            "mean exp(offset + …) overflows: with a logarithmic link an offset is the logarithm of the exposure, "
            "offset(log(exposure))."
        )


def _outcomes(column: "pd.Series[Any]", name: str) -> tuple[Any, tuple[Any, ...] | None]:
    """Return 0 and 1 for two categories, and their labels; None for what is a number already."""
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), None
    categories = list(column.cat.categories) if isinstance(column.dtype, pd.CategoricalDtype) else []
    if len(categories) != 2:  # those that occur
        read = read_column(column)
        if read.dtype.kind in "fb":
            return read.to_numpy(dtype=np.float64), None
        occur = [value for value in column.unique() if not pd.isna(value)]
        categories = [value for value in categories if value in occur] if categories else sorted(occur, key=str)
    if len(categories) != 2:
        remedy = f"one of them against the others is I({name} == 'a') ~ …; ordered categories are family='ordinal'"
        if len(categories) < 2:
            remedy = "give 0 and 1, or a pd.Categorical of both its categories"
        raise ValueError(
            f"the response {name!r} has {len(categories)} categor{'y' if len(categories) == 1 else 'ies'}, "
            f"{shown(categories)}, and a bernoulli response two: {remedy}."
        )
    say(f"{name}: {categories[1]!r} is the success (1), {categories[0]!r} the failure (0)")
    codes = pd.Categorical(column, categories=categories).codes.astype(np.float64)
    return np.where(codes < 0, np.nan, codes), tuple(categories)


def _ordered(column: "pd.Series[Any]", name: str) -> tuple[Any, tuple[Any, ...] | None]:
    """Return the places of ordered categories, and their labels; None for integers."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        if not column.cat.ordered:
            raise ValueError(
                f"the response {name!r} is a categorical without an order ({shown(list(column.cat.categories))}): if "
                f"its categories stand in their order, data[{name!r}].cat.as_ordered(); otherwise "
                f"data[{name!r}].cat.reorder_categories([…], ordered=True)."
            )
        codes = column.cat.codes.to_numpy(dtype=np.float64)
        return np.where(codes < 0, np.nan, codes), tuple(column.cat.categories)
    read = read_column(column)
    if read.dtype.kind not in "fiub":
        levels = sorted({str(value) for value in column.dropna()})
        raise ValueError(
            f"the response {name!r} is text, whose order is not known ({shown(levels)}): give it an order, "
            f"pd.Categorical(data[{name!r}], categories=[…], ordered=True), the lowest first, or integers."
        )
    return read.to_numpy(dtype=np.float64), None


_READERS = {"bernoulli": _outcomes, "ordinal": _ordered}


def _occurring(y: FloatArray, labels: tuple[Any, ...] | None, name: str) -> tuple[FloatArray, tuple[Any, ...]]:
    """Return the places of responses among the categories that occur, and the labels of these."""
    found, codes = np.unique(y, return_inverse=True)
    if labels is None and (broken := found[found != np.round(found)].tolist()):
        raise ValueError(
            f"the response {name!r} has values that are no integers ({shown(broken)}): ordered categories are an "
            "ordered pd.Categorical or integers; measurements are classed by pd.cut."
        )
    own = tuple(int(k) for k in found) if labels is None else tuple(labels[int(k)] for k in found)
    if len(own) < 2:
        raise ValueError(
            f"the response {name!r} has one category, {own[0]!r}, in the rows without missing values: an ordered "
            "response has two or more, or there is nothing to estimate."
        )
    if len(own) > _MOST:
        raise ValueError(
            f"the response {name!r} has {len(own)} different values, and as many cutpoints less one: family='ordinal' "
            "is for a few ordered categories, pd.cut classes measurements."
        )
    gaps = range(int(found[0]), int(found[-1])) if labels is None else range(len(labels))
    if absent := [k if labels is None else labels[k] for k in gaps if k not in found]:
        say(f"{name}: {shown(absent)} never occur{'s' * (len(absent) == 1)}, and {shown(list(own))} are the categories")
    return codes.astype(np.float64), own
