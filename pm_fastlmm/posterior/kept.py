"""
Models that are kept between calls, with what was compiled for them.

A log-density takes seconds to compile and less than a second to draw from, and what is compiled seldom depends on the
numbers in it. So a model is cut where its numbers meet its variables: what depends on data and constants alone is
evaluated, and put into shared variables of a second model, in which nothing else is left of it. Two models whose second
models have the same graph are one compiled model, with other values of its shared variables, and other data in its
operations.

Whoever samples takes a model out of those kept, and puts it back when done: no two threads share one.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.model.fgraph import ModelNamed, ModelVar, fgraph_from_model, model_from_fgraph, model_potential
from pymc.model.transform.optimization import freeze_model
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FrozenFunctionGraph, FunctionGraph
from pytensor.graph.replace import clone_replace, graph_replace
from pytensor.graph.traversal import ancestors, graph_inputs, io_toposort
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.type import TensorType

from pm_fastlmm.engines.callbacks import Held, placed, types_with_data
from pm_fastlmm.engines.graphs import as_written
from pm_fastlmm.engines.nodes import lmm_nodes
from pm_fastlmm.engines.protocol import LMMNode

_MOST = 4  # models kept; those used longest ago are dropped
_LITERAL = 8.0  # halves up to here are part of a formula, by which PyTensor simplifies it; other numbers are data


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """
    A model as it is sampled.

    Attributes
    ----------
    model : pymc.Model
    rv : TensorVariable
        The random variable of the node that seeds it, or its log-density.
    estimated : list of TensorVariable
        What the node estimates, as graphs of this model.
    numbers : list of shared variables
    held : list of Held
        What operations hold beside their inputs.
    compiled : dict
        What has been compiled, by whoever needs it.
    """

    model: Any
    rv: Any
    estimated: list[Any]
    numbers: list[Any] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    compiled: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: pm.Model, node: LMMNode) -> "Kept":
        """Return a model as it is, which is not kept."""
        return cls(model, node.rv, node.estimated())

    def holds(self, data: Any) -> bool:
        """Return whether an operation of the model has these data."""
        return any(place.data is data for place in self.held)

    def once(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return what `make(self, *arguments, **options)` made the first time, for each set of options."""
        key = make, tuple(options.items())
        if key not in self.compiled:
            self.compiled[key] = make(self, *arguments, **options)
        return self.compiled[key]

    def starts(self, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return initial values as shared variables, so that PyMC compiles its initial point once."""
        shared: list[dict[str, Any]] = self.once(_shared, values, chains=len(values))
        for start, given in zip(shared, values, strict=True):
            for name, value in given.items():
                start[name].set_value(value)
        return shared


def _shared(kept: Kept, values: list[dict[str, Any]], *, chains: int) -> list[dict[str, Any]]:
    return [{name: pytensor.shared(np.asarray(v), shape=np.shape(v)) for name, v in start.items()} for start in values]


_KEPT: OrderedDict[Hashable, Kept] = OrderedDict()


@contextmanager
def lent(model: pm.Model, node: LMMNode, instead: Mapping[str, LMMNode] = MappingProxyType({})) -> Iterator[Kept]:
    """
    Lend the kept model that is this one with its numbers, or the model itself where it cannot be cut.

    `instead` are nodes with another density, by name, that take the place of those of the model.
    """
    cut = _cut(model, node, instead)
    if cut is None:
        yield Kept.of(model, node)
        return
    key = cut.key
    found = _KEPT.pop(key, None) or cut.kept(model)
    for shared, number in zip(found.numbers, cut.numbers, strict=True):
        shared.set_value(number.get_value(borrow=True))
    for place, own in zip(found.held, cut.held, strict=True):
        place.data = own.data
    try:
        yield found
    finally:
        _KEPT[key] = found
        if len(_KEPT) > _MOST:
            _KEPT.popitem(last=False)


class _Cut(NamedTuple):
    """A model without its numbers: PyMC's graph of it, then those of what its node estimates, and the numbers."""

    node: str
    outputs: list[Any]
    estimated: int
    inside: list[Any]
    held: list[Held]
    initial: dict[str, Any]
    coords: dict[str, Any]
    dim_lengths: dict[str, Any]

    @property
    def numbers(self) -> list[Any]:
        """All that differs between models of the same key."""
        return [*self.inside, *self.initial.values()]

    @property
    def key(self) -> Hashable:
        """What two models have to have in common."""
        inputs = [v for v in graph_inputs(self.outputs) if not isinstance(v, Constant)]
        lengths = {k: v.data.item() if isinstance(v, Constant) else v for k, v in self.dim_lengths.items()}
        return (
            FrozenFunctionGraph.from_io(inputs, self.outputs), types_with_data(self.outputs), self.node, self.estimated,
            pytensor.config.floatX, pytensor.config.mode,
            tuple(inputs.index(number) for number in self.inside), tuple(v.name for v in inputs),
            tuple((name, start.type) for name, start in self.initial.items()), tuple(self.coords.items()),
            tuple(lengths.items()),
        )  # fmt: skip

    def kept(self, original: pm.Model) -> Kept:
        """Make PyMC's model of the graph, which caches what is compiled for it."""
        fgraph: Any = FunctionGraph(outputs=self.outputs, clone=False)
        fgraph._coords, fgraph._dim_lengths = self.coords, self.dim_lengths
        model = model_from_fgraph(fgraph, mutate_fgraph=True)
        frozen = freeze_model(model)
        order = list(original.named_vars)  # of the variables, and so of the coordinates; graphs have their own
        for variables in (frozen.free_RVs, frozen.observed_RVs, frozen.potentials, frozen.deterministics):
            variables.sort(key=lambda variable: order.index(variable.name))
        for name, start in self.initial.items():
            frozen.rvs_to_initial_values[frozen[name]] = start
        estimated = fgraph.outputs[len(self.outputs) - self.estimated :]
        same = {rv: frozen[rv.name] for rv in model.free_RVs}
        return Kept(frozen, frozen[self.node], graph_replace(estimated, same, strict=False), self.numbers, self.held)


def _cut(model: pm.Model, node: LMMNode, instead: Mapping[str, LMMNode]) -> _Cut | None:
    """
    Replace the nodes of a model by their log-densities, and numbers by shared variables.

    None if a node is not observed, other variables depend on an observed one, initial values are symbolic, or variables
    are of `pymc.dims`, which have no gradient in the log-density of a potential.
    """
    nodes = [instead.get(own.name, own) for own in lmm_nodes(model)]
    initial = {rv: value for rv, value in model.rvs_to_initial_values.items() if value is not None}
    symbolic = any(isinstance(value, str | Variable) for value in initial.values())
    if symbolic or any(n.observed is None for n in nodes) or any(hasattr(rv.type, "dims") for rv in model.basic_RVs):
        return None
    model.rvs_to_initial_values |= dict.fromkeys(initial)  # PyMC makes no graph of a model with initial values
    fgraph, memo = fgraph_from_model(model)
    model.rvs_to_initial_values |= initial
    free = {rv: memo[rv] for rv in model.free_RVs}
    densities = [other.density(model) for other in nodes]
    estimated = node.estimated()
    graphs = graph_replace([*densities, *estimated], free, strict=False)
    replaced = {memo[other.rv]: model_potential(g, other.name) for other, g in zip(nodes, graphs, strict=False)}
    outputs = [replaced.get(v, v) for v in fgraph.outputs if not isinstance(v.owner.op, ModelNamed)]
    outputs += graphs[len(nodes) :]
    if not set(ancestors(outputs)).isdisjoint(replaced):
        return None
    mutable = {v: pt.constant(v.get_value()) for v in graph_inputs(outputs) if _is_data(v)}
    outputs = clone_replace(outputs, mutable, rebuild_strict=False) if mutable else outputs
    numbers = _numbers(outputs)
    outputs = clone_replace(outputs, numbers)
    starts = {rv.name: pytensor.shared(np.asarray(v, dtype=rv.dtype), shape=np.shape(v)) for rv, v in initial.items()}
    inside, count = list(numbers.values()), len(estimated)
    return _Cut(node.name, outputs, count, inside, placed(outputs), starts, fgraph._coords, fgraph._dim_lengths)


def _is_data(variable: Any) -> bool:
    return isinstance(variable, SharedVariable) and not isinstance(variable.type, RandomType)


def _numbers(outputs: list[Any]) -> dict[Any, Any]:
    """Return what depends on constants alone and meets variables, and shared variables with its values."""
    order = io_toposort([], outputs)
    fixed: set[Any] = set()
    border: dict[Any, None] = {}
    for apply in order:
        constant = [isinstance(v, Constant) or v in fixed for v in apply.inputs]
        if all(constant) and not isinstance(apply.op, ModelVar):
            fixed.update(apply.outputs)
        else:
            floats = (isinstance(v.type, TensorType) and v.type.dtype.startswith("float") for v in apply.inputs)
            border |= dict.fromkeys(v for v, c, f in zip(apply.inputs, constant, floats, strict=True) if c and f)
    values = as_written([], list(border))()
    return {
        v: pytensor.shared(value, shape=v.type.shape, name=f"number_{i}")
        for i, (v, value) in enumerate(zip(border, values, strict=True))
        if not _literal(value)
    }


def _literal(value: Any) -> bool:
    """Return whether a number is part of a formula."""
    if value.size != 1:
        return False
    number = float(value.item())
    return not np.isfinite(number) or (abs(number) <= _LITERAL and (2 * number).is_integer())
