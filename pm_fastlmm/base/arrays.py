"""Coercion of the user's arrays, alignment by ids, and input errors. NumPy only: labels are read, never built."""

import math
import sys
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.remedies import or_table, remedy_of, remedy_of_shape
from pm_fastlmm.base.spelling import as_read, places, spelling_hint

type FloatArray = npt.NDArray[np.float64]
type Int32Array = npt.NDArray[np.int32]
type Int64Array = npt.NDArray[np.int64]
type Ids = tuple[Hashable, ...]

EPS = float(np.finfo(np.float64).eps)
_SHOWN = 5
_INSIDE = {"pm_fastlmm", "pymc", "pytensor", "contextlib"}  # PyMC calls what a warning may come from
_LARGEST = 1e50  # cubes of variances, of units y² and y²/K, must stay inside the range of floats
_SYMMETRY_RTOL = 1e-10
_BLOCK = 128


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A float array with the row ids and column names that its container carried, None where it carried none."""

    values: FloatArray
    ids: Ids | None
    names: tuple[str, ...] | None

    def take(self, order: npt.NDArray[np.intp] | None) -> FloatArray:
        """Return the values with their rows in the given order."""
        return self.values if order is None else self.values[order]


def shown(items: Sequence[object]) -> str:
    """Return the first few items as text, and how many more there are."""
    text = ", ".join(repr(item) for item in items[:_SHOWN])
    return text if len(items) <= _SHOWN else f"{text} and {len(items) - _SHOWN} more"


def repeated(names: Iterable[Hashable]) -> list[Hashable]:
    """Return the names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def read(values: Any, name: str, *, ndim: tuple[int, ...]) -> Labelled:
    """
    Turn an array, Series, DataFrame, DataArray or sparse matrix into floats and labels; what was read already passes.

    Every index is a label, the default one 0 … n-1 of a pandas object too: a sorted or shuffled table is put back in
    order. NaN is left in place: the caller knows whether it may be there.

    Raises
    ------
    TypeError
        If the values are not real numbers.
    ValueError
        If the number of dimensions is not one of `ndim`, or an id occurs twice.
    """
    if isinstance(values, Labelled):
        return values
    ids, names = _labels(values)
    if hasattr(values, "dims") and "obs" in values.dims:
        values = values.transpose("obs", ...)
    if hasattr(values, "toarray"):
        values = values.toarray()
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array: fill the masked values with NaN, np.ma.filled(values.astype(float), np.nan), "
            "where rows with missing values are dropped (flmm.Design, kernel_model, lmm_model); elsewhere leave those "
            "rows out."
        )
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise TypeError(f"{name} must be an array of numbers, got rows of different lengths.") from error
    if array.dtype.kind in "cmMSU":
        raise TypeError(f"{name} must be real numbers, got {array.dtype}: convert it; {remedy_of(name)}")
    try:
        array = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers, got {array.dtype} values ({error}): {remedy_of(name)}") from error
    if array.ndim not in ndim:
        expected = " or ".join(f"{d}-dimensional" for d in ndim)
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}.")
    if twice := repeated(ids or ()):
        raise ValueError(
            f"{name} has duplicated ids ({shown(twice)}): each row needs an id of its own. "
            "Repeated records of one individual: data.reset_index('id'), and individual='id' beside K or W of the "
            "individuals (flmm.Design, flmm.kernel_model, flmm.Spectrum); with other terms "
            "flmm.lmm_model('y ~ 1 + (1|id)', data, known={'id': K})."
        )
    return Labelled(array, ids, names)


def labels_of(values: Any) -> Ids | None:
    """Return the row labels that a container carries."""
    return values.ids if isinstance(values, Labelled) else _labels(values)[0]


def _labels(values: Any) -> tuple[Ids | None, tuple[str, ...] | None]:
    if hasattr(values, "dims") and hasattr(values, "coords"):
        row = "obs" if "obs" in values.dims else values.dims[0]
        others = [d for d in values.dims if d != row]
        ids = tuple(values.coords[row].values.tolist()) if row in values.coords else None
        named = others and others[0] in values.coords
        return ids, tuple(str(v) for v in values.coords[others[0]].values) if named else None
    columns, index = getattr(values, "columns", None), getattr(values, "index", None)
    names = None if columns is None else tuple(str(column) for column in columns)
    if index is None or callable(index):
        return None, names
    return tuple(index.tolist()), names


def require_finite(array: FloatArray, name: str, remedy: str) -> None:
    """Raise a ValueError that names the first NaN or infinity of an array."""
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # one pass: NaN and infinity survive a sum, an overflow is sorted out below
            return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    place = first[0] if len(first) == 1 else first
    raise ValueError(f"{name} has {int(bad.sum())} values that are NaN or infinite, the first at {place}: {remedy}")


def read_covariance(K: Any, name: str = "K") -> Labelled:
    """
    Read a covariance: square, finite, symmetric, with the same ids in rows and columns, in any order.

    Of what knows its inverse, a pedigree or a tree, it is the dense matrix of its individuals or tips.

    Raises
    ------
    ValueError
        If it is not.
    """
    labelled = read(K.dense() if hasattr(K, "logdet") else K, name, ndim=(2,))
    values = labelled.values
    if values.shape[0] != values.shape[1]:
        raise ValueError(f"{name} must be square, got shape {values.shape}: {remedy_of_shape(values.shape)}")
    if values.shape[0] == 0:
        raise ValueError(f"{name} is empty: there are no observations.")
    remedy = "a covariance has no missing entries; impute the genotypes or distances it was made of."
    largest = require_range(values, name, remedy)
    labelled = columns_as_rows(labelled, name)
    require_symmetric(labelled.values, name, largest)
    return labelled


def columns_as_rows(labelled: Labelled, name: str) -> Labelled:
    """
    Return a square matrix with its columns in the order of its rows, where both carry ids: labels decide.

    Raises
    ------
    ValueError
        If columns have other ids than rows.
    """
    ids, names = labelled.ids, labelled.names
    if ids is None or names is None:
        return labelled
    rows, columns = [as_read(str(i)) for i in ids], [*map(as_read, names)]
    if rows == columns:
        return labelled
    place = {column: j for j, column in enumerate(columns)}
    if len(place) < len(columns) or place.keys() != set(rows):
        raise ValueError(f"{name} has other ids in its columns than in its rows: reindex it, {name}.loc[ids, ids].")
    order = [place[row] for row in rows]
    return Labelled(labelled.values[:, order], ids, tuple(names[j] for j in order))


def require_symmetric(values: FloatArray, name: str, largest: float) -> None:
    """Raise a ValueError if a square matrix differs from its transpose by more than 1e-10 of its largest entry."""
    gap = _asymmetry(values)
    if gap > _SYMMETRY_RTOL * largest:
        raise ValueError(
            f"{name} must be symmetric, but differs from its transpose by up to {gap:.3g}: "
            f"if that is rounding, pass ({name} + {name}.T) / 2."
        )


def _asymmetry(values: FloatArray) -> float:
    """Return the largest difference from the transpose; in blocks, which stay in the cache on both sides."""
    n = values.shape[0]
    return max(
        float(np.abs(values[i : i + _BLOCK, j : j + _BLOCK] - values[j : j + _BLOCK, i : i + _BLOCK].T).max())
        for i in range(0, n, _BLOCK)
        for j in range(0, i + 1, _BLOCK)
    )


def align(
    reference: Ids | None,
    labelled: Labelled,
    *,
    name: str,
    reference_name: str,
    where_larger: str = "",
    where_smaller: str = "",
) -> npt.NDArray[np.intp] | None:
    """
    Return the order that puts the rows of `labelled` into the order of the reference ids, None if nothing moves.

    Ids are compared as people read them: 1, 1.0 and "1" are one. `where_larger` and `where_smaller` are what the caller
    advises where the rows of `labelled` hold all of the reference and more, or are a part of them.

    Raises
    ------
    ValueError
        If both carry ids and these are not the same set; the ids are named.
    """
    ids = labelled.ids
    if reference is None or ids is None or ids == reference:
        return None
    place = places(reference, ids)
    missing = [identifier for identifier, i in zip(reference, place, strict=True) if i < 0]
    found = set(place)
    extra = [identifier for i, identifier in enumerate(ids) if i not in found]
    if missing or extra:
        parts = []
        if extra:
            parts.append(f"{len(extra)} ids of {name} are not in {reference_name} ({shown(extra)})")
        if missing:
            parts.append(f"{len(missing)} ids of {reference_name} are not in {name} ({shown(missing)})")
        default = tuple(range(len(ids))) == ids or tuple(range(len(reference))) == reference
        individual = ", or name its column with individual='id'" if reference_name == "K" else ""
        default_index = f"One of them has the default index 0, 1, 2 …: set_index('id') on its table{individual}. "
        hint = default_index if default else ""
        hint += f"{alike} " if (alike := spelling_hint(extra, missing)) else ""
        advice = where_smaller if not extra else where_larger if not missing else ""
        if advice and not (set(ids) <= set(reference) or set(reference) <= set(ids)):
            advice = f"Give the ids of both one type, such as index.astype(str). {advice}"
        advice = advice or f"Select the common ids first, or pass {name} as a plain array if its order is right."
        raise ValueError(f"{name} and {reference_name} do not have the same ids: {'; '.join(parts)}. {hint}{advice}")
    return np.array(place, dtype=np.intp)


def columns_in_order(labelled: Labelled, names: tuple[str, ...] | None, *, name: str) -> FloatArray:
    """
    Return the columns (n, d) in the order of the reference's names, where both carry names; others by their place.

    The names 0, 1, … that pandas gives by default are none.

    Raises
    ------
    ValueError
        If a column of the reference is not there.
    """
    values = labelled.values if labelled.values.ndim == 2 else labelled.values[:, None]
    given = labelled.names
    if names is None or given is None or names == given or values.shape[1] == len(names) == 1:
        return values
    if any(own == tuple(map(str, range(len(own)))) for own in (names, given)):
        return values
    if absent := [column for column in names if column not in given]:
        raise ValueError(
            f"{name} has no column {shown(absent)}: the columns are {', '.join(names)}, it has {', '.join(given)}. "
            f"Rename its columns, or give a plain array, {name}.to_numpy(), in that order{or_table(name)}."
        )
    if twice := [column for column in repeated(given) if column in names]:
        raise ValueError(f"{name} has several columns {shown(twice)}: each needs a name of its own to be put in order.")
    return values[:, [given.index(column) for column in names]]


def common_ids(**parts: Labelled | None) -> tuple[str, Ids | None]:
    """Return the name and the ids of the first part that carries ids."""
    for name, part in parts.items():
        if part is not None and part.ids is not None:
            return name, part.ids
    return "", None


def require_range(array: FloatArray, name: str, remedy: str = "") -> float:
    """
    Return the largest absolute value; raise a ValueError if its powers leave the range of floats.

    NaN and infinity are refused as by `require_finite`, without another pass over the array.
    """
    largest = max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))  # without a copy of the array
    if not math.isfinite(largest):
        require_finite(array, name, remedy)
    if largest > _LARGEST or 0 < largest < 1 / _LARGEST:
        raise ValueError(
            f"{name} has entries of size {largest:.1e}, whose powers leave the range of floating point: "
            "choose another unit, so that they lie between 1e-50 and 1e50."
        )
    return largest


def require_length(length: int, n: int, name: str, reference_name: str) -> None:
    """Raise a ValueError if the number of rows is not n."""
    if length != n:
        raise ValueError(
            f"{name} has {length} rows but {reference_name} has {n}: they must describe the same observations."
        )


def slices(total: int, size: int) -> Iterator[slice]:
    """Cut `total` rows into slices of `size`; the last may be shorter."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def require_fraction(value: float, name: str, remark: str = "as 0.95") -> None:
    """Raise a ValueError for a number that is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, {remark}, got {value}.")


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make an array read-only and return it."""
    array.setflags(write=False)
    return array


def read_only(*arrays: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Return read-only views, as PyTensor's constants are: for arrays of both kinds Numba would compile twice."""
    return (frozen(array.view()) for array in arrays)


@cache
def lower_triangle(n: int, c: int) -> tuple[npt.NDArray[np.intp], ...]:
    """Return the rows and the columns of the entries on and below the diagonal, row by row."""
    return tuple(map(frozen, np.tril_indices(n, 0, c)))


@cache
def packed_places(n: int) -> npt.NDArray[np.intp]:
    """Return the places in the packed lower triangle of the entries of a symmetric matrix."""
    place = np.zeros((n, n), dtype=np.intp)
    rows, columns = lower_triangle(n, n)
    place[rows, columns] = np.arange(rows.size)
    return frozen(np.maximum(place, place.T))


def outside() -> int:
    """Return the stacklevel with which a warning points at the line of the user, outside this package and PyMC's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    return level


def warn(message: str) -> None:
    """Warn, at the line of the user."""
    warnings.warn(message, UserWarning, stacklevel=outside())
