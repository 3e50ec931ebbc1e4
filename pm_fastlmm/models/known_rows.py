"""Numbers of rows that are known: prior weights, and offsets of the mean, of the data and of new rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, align, read, require_length, shown
from pm_fastlmm.models.formula import encode_new, slopes
from pm_fastlmm.spectrum.weights import require_weights


class Column(NamedTuple):
    """
    Numbers of the rows of a table.

    Attributes
    ----------
    role : str
        "weights", "offset" or "trials".
    name : str or None
        The column of the table; None where an array or one number was given.
    values : (n,) array
        NaN where they are missing.
    single : bool
        Whether one number was given for all rows.
    """

    role: str
    name: str | None
    values: FloatArray
    single: bool = False

    @classmethod
    def read(cls, given: Any, data: pd.DataFrame, role: str) -> Self | None:
        """
        Read a column by its name, an array with a value for each row of the table, or one number for all.

        Raises
        ------
        ValueError
            If there is no such column, it has no numbers, or the array does not fit the table.
        """
        if given is None:
            return None
        if isinstance(given, str):
            return cls(role, given, numbers_of(given, data, role))
        if isinstance(given, int | float | np.number) and not isinstance(given, bool):
            return cls(role, None, np.full(len(data), float(given)), single=True)
        labelled = read(given, role, ndim=(1,))
        require_length(len(labelled.values), len(data), role, "data")
        order = align(tuple(data.index.tolist()), labelled, name=role, reference_name="data")
        return cls(role, None, labelled.take(order))

    def subset(self, rows: npt.NDArray[np.bool_]) -> Self:
        """Return those of some rows."""
        return self._replace(values=self.values[rows])

    @property
    def called(self) -> str:
        """How it is printed."""
        if self.single:
            return f"{self.values[0]:g}"
        return "an array" if self.name is None else self.name


def numbers_of(name: str, data: pd.DataFrame, role: str) -> FloatArray:
    """Return a column of numbers, NaN where they are missing."""
    if name not in data.columns:
        raise ValueError(f"{role}={name!r} is not among the columns {', '.join(map(str, data.columns))}.")
    if not pd.api.types.is_numeric_dtype(data[name]):
        raise ValueError(f"{role}={name!r} is a column of {data[name].dtype}: it must be numbers.")
    return np.asarray(data[name].to_numpy(dtype=np.float64, na_value=np.nan))


class Offset(NamedTuple):
    """
    A known part of the mean: terms offset(x) of a formula and what was given as offset=, added up.

    Attributes
    ----------
    values : (n,) array
    specs : tuple
        formulaic's specifications of offset(x).
    given : Column or None
    texts : tuple of str
        How they are printed.
    """

    values: FloatArray
    specs: tuple[Any, ...]
    given: Column | None
    texts: tuple[str, ...]

    @classmethod
    def of(cls, terms: Mapping[str, str], given: Column | None, rows: pd.DataFrame, formula: str) -> Self | None:
        """
        Return the sum of terms of a formula and of what was given, over complete rows; None of nothing.

        Raises
        ------
        ValueError
            If an offset is not one finite number for each row.
        """
        if not terms and given is None:
            return None
        encoded = [slopes(term, rows, whole=formula) for term in terms.values()]
        if several := [text for text, part in zip(terms, encoded, strict=True) if part.values.shape[1] != 1]:
            raise ValueError(f"formula {formula!r} has an offset of several columns, {several[0]!r}: give one number.")
        values = sum((part.values[:, 0] for part in encoded), np.zeros(len(rows)))
        if given is not None:
            values = values + given.values
        if (infinite := np.isinf(values)).any():
            raise ValueError(
                f"the offset is infinite in rows {shown(rows.index[infinite].tolist())}: it is a part of the mean, so "
                "mend it (a logarithm of 0 is infinite), or leave those rows out."
            )
        return cls(values, tuple(part.spec for part in encoded), given, tuple(terms))

    def at(self, data: pd.DataFrame) -> FloatArray:
        """
        Return the offset of new rows.

        Raises
        ------
        ValueError
            If a column is not there or missing, or an array was given, which has no values at new rows.
        """
        values = sum((encode_new(spec, data).values[:, 0] for spec in self.specs), np.zeros(len(data)))
        if self.given is None:
            return np.asarray(values)
        if self.given.name is None:
            raise ValueError(
                "offset= was given as an array, which has no values at new rows: make it a column of the data and of "
                "the new data, and give its name, offset='z'."
            )
        own = numbers_of(self.given.name, data, "offset")
        if (missing := ~np.isfinite(own)).any():
            raise ValueError(
                f"the offset {self.given.name!r} is missing or infinite in rows {shown(data.index[missing].tolist())} "
                "of the new data: it is a part of the mean there."
            )
        return np.asarray(values + own)

    @property
    def called(self) -> str:
        """How it is printed."""
        return " + ".join([*self.texts, *([] if self.given is None else [self.given.called])])


def new_weights(weights: Column | None, data: pd.DataFrame) -> Any:
    """Return the weights of new rows: of the column, where the table has it, and otherwise 1."""
    if weights is None or weights.name is None or weights.name not in data.columns:
        return 1.0
    values = numbers_of(weights.name, data, "weights")
    require_weights(values, tuple(data.index.tolist()))
    return values
