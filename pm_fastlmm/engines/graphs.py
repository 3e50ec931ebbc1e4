"""Graphs of a model: what reaches what, and evaluation of small graphs without compilation."""

import warnings
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode
from pytensor.graph.traversal import ancestors

from pm_fastlmm.base.arrays import FloatArray

_FAR = 500.0  # of an unconstrained coordinate: where the support of a variable is read off

# PyTensor's own Python loops: small graphs that run a few times are not worth a compilation
INTERPRETED = Mode(linker="py", optimizer="fast_compile")
AS_WRITTEN = Mode(linker="py", optimizer=None)  # for a graph that is evaluated less often than a rewriting takes


def reaching(model: pm.Model, *outputs: Any) -> list[Any]:
    """Return the free variables of the model that outputs depend on, or are, in the model's order."""
    reached = set(ancestors(outputs))
    return [rv for rv in model.free_RVs if rv in reached]


def parameters(model: pm.Model, node_rv: Any) -> list[Any]:
    """Return the free continuous variables of the model that reach another, in the model's order."""
    return [rv for rv in reaching(model, node_rv) if rv.type.dtype.startswith("float") and rv is not node_rv]


def initial_point(model: pm.Model) -> dict[str, Any]:
    """
    Return PyMC's initial point, by name of the value variables.

    For some priors PyMC evaluates it in C, and PyTensor then warns when its C code has no BLAS, which none of this
    uses.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PyTensor could not link to a BLAS installation")
        point: dict[str, Any] = model.initial_point()
    return point


def support(model: pm.Model, rv: Any, value: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return lower and upper ends of the support of a variable, element by element, and its initial value."""
    transform = model.rvs_to_transforms.get(rv)
    if transform is None:
        return np.full(value.shape, -np.inf), np.full(value.shape, np.inf), value
    symbol = pt.tensor(dtype="float64", shape=value.shape)
    backward = pytensor.function(
        [symbol], transform.backward(symbol, *rv.owner.inputs), mode=AS_WRITTEN, on_unused_input="ignore"
    )
    with np.errstate(all="ignore"):
        ends = [np.asarray(backward(np.full(value.shape, sign * far))) for sign in (-1, 1) for far in (_FAR, 2 * _FAR)]
        initial = np.asarray(backward(value))
    if ends[0].shape != value.shape:
        raise ValueError(
            f"{rv.name} is constrained as a whole ({type(transform).__name__}): REML needs variables whose elements "
            "vary on their own. Give the variances themselves as variables."
        )
    lower = np.where(np.isclose(ends[0], ends[1], rtol=1e-3, atol=1e-100), ends[1], -np.inf)
    upper = np.where(np.isclose(ends[2], ends[3], rtol=1e-3, atol=0), ends[3], np.inf)
    return np.where(np.abs(lower) < 1e-100, 0.0, lower), upper, initial
