"""Columns of a million ids by their distinct labels, as people read them; whole numbers stay numbers where they can."""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.spelling import as_read, require_digits
from pm_fastlmm.covariance.ids import Labels, require_sequence

type IntArray = npt.NDArray[np.intp]

_FITS = 2**62  # so that a comparison with floats is exact


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """
    A column, by its distinct labels.

    Attributes
    ----------
    places : (n,) array of int
        Which of the labels each row has, -1 where it is missing in any of its types.
    labels : array
        In the order of their appearance; int64 if all are whole numbers, objects otherwise.
    numbers : bool
        Whether all are numbers.
    """

    places: IntArray
    labels: npt.NDArray[Any]
    numbers: bool


def read_column(values: Labels, name: str) -> Column:
    """Return a column by its distinct labels; floats must have all their digits."""
    require_sequence(values, name)
    if not isinstance(values, np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        values = objects(list(values))
    places, found = pd.factorize(cast("pd.Series[Any]", values))
    distinct = np.asarray(found, dtype=None if getattr(found.dtype, "kind", "O") in "iuf" else object)
    labels = whole_numbers(distinct)
    if labels.dtype.kind != "i" or distinct.dtype.kind == "f":
        require_digits(distinct.tolist(), name, getattr(values, "dtype", None))
    if labels.dtype.kind == "i":
        return Column(places, labels, True)
    if gone := [i for i, label in enumerate(labels) if is_missing(label)]:  # the last part of a tuple
        places = np.where(np.isin(places, gone), -1, places)
    return Column(places, labels, all(isinstance(v, Real) and not isinstance(v, bool | np.bool_) for v in labels))


def whole_numbers(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels as int64 if all are whole numbers that fit, as objects otherwise."""
    if labels.dtype.kind == "O" and pd.api.types.infer_dtype(labels, skipna=False) == "integer":
        try:
            whole = labels.astype(np.int64)
        except OverflowError:
            return labels
        return whole if ((whole > -_FITS) & (whole < _FITS)).all() else labels
    if labels.dtype.kind in "iuf" and np.isfinite(labels).all() and (np.abs(labels.astype(float)) < _FITS).all():
        whole = labels.astype(np.int64)
        return whole if (whole == labels).all() else labels.astype(object)
    return labels.astype(object)


def is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN and the like, or the last part of a tuple is."""
    if type(label) is str:
        return False  # most are, and there may be millions
    last = label[-1] if isinstance(label, tuple) and label else label
    return last is None or (np.ndim(last) == 0 and bool(pd.isna(last)))


def objects(labels: Collection[Any]) -> npt.NDArray[Any]:
    """Return labels as an array of objects; tuples are objects, too."""
    return np.fromiter(labels, dtype=object, count=len(labels))


def keys_of(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what people read: whole numbers as they are, other labels as text."""
    return labels if labels.dtype.kind == "i" else objects(list(map(as_read, labels)))


def texts(keys: npt.NDArray[Any]) -> list[Hashable]:
    """Return keys as text."""
    return list(map(str, keys.tolist())) if keys.dtype.kind == "i" else keys.tolist()


class Keys:
    """Where individuals stand, by what people read."""

    def __init__(self, labels: npt.NDArray[Any]) -> None:
        self.keys = keys_of(whole_numbers(labels))
        self._index = pd.Index(self.keys, dtype=self.keys.dtype, tupleize_cols=False)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: npt.NDArray[Any], *, numbers: bool = False) -> IntArray:
        """
        Return the places of keys, -1 for strangers.

        A column of numbers cannot carry leading zeros: its 1 is the "0001" of ids that are all digits, if one alone is
        that number. A text "1" is not.
        """
        index = self._index
        if keys.dtype.kind == "i" and self.keys.dtype.kind != "i":
            keys = objects(texts(keys))
        elif keys.dtype.kind != "i" and self.keys.dtype.kind == "i":
            index = pd.Index(texts(self.keys), dtype=object, tupleize_cols=False)
        places = np.array(index.get_indexer(pd.Index(keys, dtype=keys.dtype, tupleize_cols=False)))
        if numbers and self.keys.dtype.kind != "i" and (places < 0).any() and self._all_digits():
            bare = pd.Index([key.lstrip("0") or "0" for key in self.keys], dtype=object)
            alone = np.flatnonzero(~bare.duplicated(keep=False))
            lost = np.flatnonzero(places < 0)
            found = bare[alone].get_indexer(pd.Index(keys[lost], dtype=object))
            places[lost] = np.where(found < 0, -1, np.append(alone, -1)[found])
        return places

    def _all_digits(self) -> bool:
        return all(isinstance(key, str) and key.isascii() and key.isdigit() for key in self.keys)
