"""Copies of immutable objects, by `pickle`, `copy` and `deepcopy`."""

from copy import deepcopy
from dataclasses import fields
from typing import Any, Self

import cloudpickle
import numpy as np
from scipy.sparse import csc_array, csr_array

from pm_fastlmm.base.arrays import frozen


class Copied:
    """A frozen dataclass, copied by its fields: what was checked when it was made is not checked again."""

    __slots__ = ()

    def __copy__(self) -> Self:
        """Return another object of the same parts."""
        return _made(type(self), *_values(self))  # type: ignore[no-any-return]


class ReadOnlyArrays(Copied):
    """
    A frozen dataclass whose arrays are read-only, in copies of it as well.

    NumPy forgets that flag when it pickles or copies an array, so that a copy of an immutable object could be changed.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes the object again, for `pickle` and `deepcopy`."""
        return _read_only, (type(self), *_values(self))


class PartOfModel(Copied):
    """
    A frozen dataclass that holds variables of a PyMC model.

    cloudpickle alone can pickle these, as PyMC does with its models. So that `pickle` takes such an object too, and
    what builds on it, it is pickled as the bytes that cloudpickle makes of it.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes the object again, for `pickle`."""
        return _unpickled, (type(self), cloudpickle.dumps(_values(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return another object of copies of the parts."""
        return _made(type(self), *deepcopy(_values(self), memo))  # type: ignore[no-any-return]


def _values(instance: Any) -> tuple[Any, ...]:
    return tuple(getattr(instance, field.name) for field in fields(instance))


def _made(cls: type[Any], *values: Any) -> Any:
    new = object.__new__(cls)  # not __init__: what was checked once is not checked again
    for field, value in zip(fields(cls), values, strict=True):
        object.__setattr__(new, field.name, value)
    return new


def _read_only(cls: type[Any], *values: Any) -> Any:
    _freeze(values)
    return _made(cls, *values)


def _unpickled(cls: type[Any], values: bytes) -> Any:
    return _made(cls, *cloudpickle.loads(values))


def _freeze(value: Any) -> None:
    """Make an array read-only, or those of a sparse one or in a (named) tuple."""
    if isinstance(value, np.ndarray):
        frozen(value)
    elif isinstance(value, csc_array | csr_array):
        for part in (value.data, value.indices, value.indptr):
            frozen(part)
    elif isinstance(value, tuple):
        for part in value:
            _freeze(part)
