"""Graphs of a model: what reaches what, and evaluation of small graphs without compilation."""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.initial_point import make_initial_point_expression
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FrozenFunctionGraph
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.random.type import RandomType

from pm_fastlmm.base.arrays import FloatArray

type Evaluate = Callable[..., list[Any]]
type Make[T] = Callable[..., T]  # of inputs and outputs of a graph, and of others that can be hashed

_KEPT, _LARGE = 128, 100  # structures of small graphs; size of the constants in one
_FAR = 500.0  # of an unconstrained coordinate: where the support of a variable is read off

# PyTensor's own Python loops: small graphs that run a few times are not worth a compilation
INTERPRETED = Mode(linker="py", optimizer="fast_compile")
AS_WRITTEN = Mode(linker="py", optimizer=None)  # for a graph that is evaluated less often than a rewriting takes


class Support(NamedTuple):
    """Ends of the support of a variable, element by element, and its initial value."""

    lower: FloatArray
    upper: FloatArray
    initial: FloatArray


def once_for_a_structure[T](make: Make[T]) -> Make[T]:
    """
    Let `make(inputs, outputs)` be called once for all graphs of the same operations and constants.

    It is called with a copy of a graph, and its result is kept by that copy. A graph with data of a model, which are
    another variable than its inputs or a large constant, is not kept.
    """

    @lru_cache(maxsize=_KEPT)
    def of(frozen: FrozenFunctionGraph, *others: Any) -> T:
        copy = frozen.unfreeze()
        return make(list(copy.inputs), list(copy.outputs), *others)

    @wraps(make)
    def made(inputs: Sequence[Any], outputs: Sequence[Any], *others: Any) -> T:
        leaves = graph_inputs(outputs, blockers=inputs)
        if all(np.size(v.data) <= _LARGE if isinstance(v, Constant) else v in inputs for v in leaves):
            return of(FrozenFunctionGraph.from_io(inputs, outputs), *others)
        return make(inputs, outputs, *others)

    return made


class _OneByOne:
    """A function of numbers for one thread after the other; a copy has a lock of its own."""

    def __init__(self, function: Any) -> None:
        self.function, self.lock = function, Lock()

    def __call__(self, *values: Any) -> list[Any]:
        with self.lock, np.errstate(all="ignore"):
            results: list[Any] = self.function(*values)
            return results

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function,)


def as_written(inputs: Sequence[Any], outputs: Sequence[Any]) -> Evaluate:
    """Return a function of arrays, of the types of its inputs, that evaluates a graph without compilation."""
    function = pytensor.function(list(inputs), list(outputs), mode=AS_WRITTEN, on_unused_input="ignore")
    function.trust_input = True  # to look at the arrays takes longer than a small graph
    return _OneByOne(function)


evaluated = once_for_a_structure(as_written)


def reaching(model: pm.Model, *outputs: Any) -> list[Any]:
    """Return the free variables of the model that outputs depend on, or are, in the model's order."""
    reached = set(ancestors(outputs))
    return [rv for rv in model.free_RVs if rv in reached]


def is_random(*outputs: Any) -> bool:
    """Return whether outputs depend on random variables, of whatever model."""
    return any(isinstance(v.type, RandomType) for v in graph_inputs(outputs))


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


def supports(model: pm.Model, rvs: Sequence[Any]) -> list[Support]:
    """Return the support of variables and of all that these depend on, by element, and PyMC's initial values."""
    transforms = tuple(model.rvs_to_transforms.get(rv) for rv in rvs)
    found = None
    if all(model.rvs_to_initial_values.get(rv) is None for rv in rvs):
        generators = [v for v in graph_inputs(rvs) if isinstance(v.type, RandomType)]
        found = _supports_of(generators, rvs, transforms)
    if found is None:
        point = initial_point(model)
        values = [np.asarray(point[model.rvs_to_values[rv].name], dtype=float) for rv in rvs]
        found = [support(*own) for own in zip(rvs, transforms, values, strict=True)]
    return found


@once_for_a_structure
def _supports_of(generators: Sequence[Any], rvs: Sequence[Any], transforms: tuple[Any, ...]) -> list[Support] | None:
    """Return the same of variables without initial values of their own, None if one starts at a draw."""
    pairs = dict(zip(rvs, transforms, strict=True))
    starts = make_initial_point_expression(
        free_rvs=rvs, rvs_to_transforms=pairs, initval_strategies={}, return_transformed=True
    )
    if is_random(*starts):
        return None
    values = [np.asarray(value, dtype=float) for value in as_written([], starts)()]
    return [support(*own) for own in zip(rvs, transforms, values, strict=True)]


def support(rv: Any, transform: Any, value: FloatArray) -> Support:
    """Return the support of a variable with a transform, and its initial value from that on the unconstrained scale."""
    if transform is None:
        return Support(np.full(value.shape, -np.inf), np.full(value.shape, np.inf), value)
    symbol = pt.tensor(dtype="float64", shape=value.shape)
    backward = as_written([symbol], [transform.backward(symbol, *rv.owner.inputs)])
    places = [np.full(value.shape, sign * far) for sign in (-1, 1) for far in (_FAR, 2 * _FAR)]
    *ends, initial = [np.asarray(backward(place)[0]) for place in (*places, value)]
    if ends[0].shape != value.shape:
        raise ValueError(
            f"{rv.name} is constrained as a whole ({type(transform).__name__}): REML needs variables whose elements "
            "vary on their own. Give the variances themselves as variables."
        )
    lower = np.where(np.isclose(ends[0], ends[1], rtol=1e-3, atol=1e-100), ends[1], -np.inf)
    upper = np.where(np.isclose(ends[2], ends[3], rtol=1e-3, atol=0), ends[3], np.inf)
    return Support(np.where(np.abs(lower) < 1e-100, 0.0, lower), upper, initial)
