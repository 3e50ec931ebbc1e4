"""Parameters of covariance structures: numbers, which are checked, and tensors, of which only the shape is known."""

import math
import sys
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import frozen, require_finite

type Interval = tuple[float, float]

FREE: Interval = (-math.inf, math.inf)
POSITIVE: Interval = (0.0, math.inf)


class Domain(NamedTuple):
    """The interval of a parameter's entries, how many axes it has, and whether it is a covariance matrix itself."""

    interval: Interval
    ndim: int = 0
    semidefinite: bool = False

    def __str__(self) -> str:
        """Return the interval as text."""
        low, high = self.interval
        if self.interval == FREE:
            return "any number"
        return f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"


VARIANCE, VARIANCES, CORRELATION, MATRIX = Domain(POSITIVE), Domain(POSITIVE, 1), Domain((-1.0, 1.0)), Domain(FREE, 2)


class Dual(np.ndarray):
    """
    Numbers that are taken as they are, with derivatives as imaginary parts too small to have a square (complex step).

    Structures are analytic, so that all that they do carries the derivatives along exactly.
    """

    def __pow__(self, exponent: Any) -> Any:  # type: ignore[override]
        """Return the power without a logarithm, which a negative number has not."""
        value = np.asarray(self)
        if value.dtype == float:
            return value**exponent
        slope = exponent * value.real ** (exponent - 1)
        return (value.real**exponent + 1j * value.imag * slope).view(Dual)


def is_tensor(value: Any) -> bool:
    """Whether a value is a PyTensor variable: where PyTensor was not imported there is none, and it is not needed."""
    graph = sys.modules.get("pytensor.graph.basic")
    return graph is not None and isinstance(value, graph.Variable)


def as_it_is(value: Any) -> bool:
    """Whether a value is taken without a check of its entries: a tensor, or numbers with derivatives."""
    return is_tensor(value) or isinstance(value, Dual)


def namespace(*values: Any) -> Any:
    """Return PyTensor's tensor module if one of the values is a tensor, and NumPy otherwise."""
    return import_module("pytensor.tensor") if any(map(is_tensor, values)) else np


def settle(structure: Any, name: str, domain: Domain) -> None:
    """
    Check one parameter of a structure that is being made, and store a number as float, an array read-only.

    Raises
    ------
    TypeError
        If it is neither a tensor nor numbers.
    ValueError
        If it has another number of dimensions, is not finite, or lies outside the domain.
    """
    value, ndim = getattr(structure, name), domain.ndim
    kind = type(structure).__name__
    if not as_it_is(value):
        try:
            value = np.array(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} of {kind} must be numbers or a tensor, got {type(value).__name__}.") from error
    if value.ndim != ndim:
        expected = ("a scalar", "a vector", "a matrix")[ndim]
        raise ValueError(f"{name} of {kind} must be {expected}, got {value.ndim} dimensions.")
    if as_it_is(value):
        return
    require_finite(value, f"{name} of {kind}", "give a number.")
    lower, upper = domain.interval
    outside = value[(value < lower) | (value > upper)]
    if outside.size:
        size = "" if structure.size is None or ndim else f" for size {structure.size}"
        raise ValueError(f"{name} of {kind} must be {domain}{size}, got {outside.flat[0]:.6g}.")
    object.__setattr__(structure, name, frozen(value) if ndim else float(value))


def settle_size(structure: Any, *lengths: int | None) -> None:
    """
    Check the size of a structure that is being made, or infer it from the lengths of its parameters.

    Raises
    ------
    ValueError
        If it is not a positive integer, or the lengths differ from each other or from it.
    """
    kind, size = type(structure).__name__, structure.size
    if size is not None and (not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1):
        raise ValueError(f"size of {kind} must be a positive integer, got {size!r}.")
    known = {int(length) for length in (*lengths, size) if length is not None}
    if len(known) > 1:
        raise ValueError(
            f"{kind} has parameters, or a size, of different lengths: {' and '.join(map(str, sorted(known)))}."
        )
    object.__setattr__(structure, "size", next(iter(known), None))


def lengths(value: Any) -> tuple[int | None, ...]:
    """Return the shape of an array, or of a tensor as far as PyTensor knows it."""
    return tuple(value.type.shape) if is_tensor(value) else np.shape(value)
