"""
PyTensor operations of the likelihoods, with closed-form gradients.

They call back into Python from compiled graphs: that costs some 20 µs for each evaluation, but the compiled loop of the
likelihood is shared by all models. Linked into each graph it would save those, and take 10 s and more to compile anew
for each model. One that is called by name saves both (`linked`).
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.mode import optdb
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import GraphRewriter
from pytensor.graph.traversal import io_toposort

type Shape = tuple[int | None, ...]


def _connected(variable: Any) -> bool:
    return not isinstance(variable.type, type(disconnected_type))


def given_or_zero(outputs: Any, cotangents: Any) -> list[Any]:
    """Return the cotangents of outputs, 0 for those that what is differentiated does not depend on."""
    return [g if _connected(g) else pt.zeros_like(out) for out, g in zip(outputs, cotangents, strict=True)]


def no_hessian(likelihood: str) -> NotImplementedError:
    """Return the error of a second derivative that a likelihood does not have."""
    return NotImplementedError(
        f"{likelihood} has first derivatives only, and no Hessian: flmm.find_reml(model) has the information of the "
        "variances; flmm.sample, pm.find_MAP and pm.fit do without. One kernel has second derivatives as a FastLMM."
    )


class Held:
    """
    What operations hold beside their inputs.

    Two are equal if their data are the same, or if both stand at a place and it is the same: there the data of models
    of one structure take turns.
    """

    def __init__(self, data: Any, place: int | None = None) -> None:
        self.data, self.place = data, place

    def __eq__(self, other: object) -> bool:
        """Compare places, or data without a place."""
        if not isinstance(other, Held) or self.place != other.place:
            return False
        return self.place is not None or self.data is other.data

    def __hash__(self) -> int:
        return hash(id(self.data) if self.place is None else self.place)

    def __repr__(self) -> str:
        return repr(self.data)


class CalledBack(Op):  # type: ignore[misc]
    """
    An operation whose `evaluate` compiled graphs call, of Numba and, once it is asked for, of JAX.

    It may hold data. Outputs are in double precision.
    """

    __props__: ClassVar[tuple[str, ...]] = ("held",)

    def __init__(self, data: Any = None) -> None:
        self.held = data if isinstance(data, Held) else Held(data)

    @property
    def data(self) -> Any:
        """What the operation holds now."""
        return self.held.data

    def evaluate(self, *inputs: Any) -> Any:
        """Return the outputs, one after the other."""
        raise NotImplementedError

    def linked(self) -> Callable[..., Any] | None:
        """
        Return what graphs of Numba call instead, without Python: a compiled function; None if there is none.

        It takes and returns what `evaluate` does, all of it arrays of any layout. It should call its loops by name, as
        what it contains is compiled anew for each model.
        """
        return None

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return the shapes of the outputs from those of the inputs, None for a length that is not known."""
        raise NotImplementedError

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """
        Return the cotangents of the first inputs, those that have one, from those of the outputs.

        All are tensors of PyTensor, or arrays of JAX; `apply(op)` is a function of them that evaluates an operation.
        """
        raise NotImplementedError(f"{self} has no derivative.")

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to inputs."""
        variables = list(map(pt.as_tensor, inputs))
        shapes = self.shapes(*(variable.type.shape for variable in variables))
        return Apply(self, variables, [pt.tensor(dtype="float64", shape=shape) for shape in shapes])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for out, value in zip(outputs, self.evaluate(*inputs), strict=True):
            out[0] = np.asarray(value, dtype=float)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient with respect to the inputs."""
        gradients = self.gradients(lambda op: op, inputs, outputs, given_or_zero(outputs, cotangents))
        return gradients + [disconnected_type() for _ in inputs[len(gradients) :]]


class GradientOp(CalledBack):
    """
    A log-likelihood with its gradient as further outputs, in as many of the first inputs: the others are constants.

    There is no second derivative.
    """

    likelihood: ClassVar[str]
    differentiable: ClassVar[int]

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return those of the log-likelihood and of the inputs that it is differentiated in."""
        return [(), *inputs[: self.differentiable]]

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, which the outputs hold already."""
        return [cotangents[0] * d for d in outputs[1:]]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient, and raise for that of the gradient."""
        if any(map(_connected, cotangents[1:])):
            raise no_hessian(self.likelihood)
        return super().pullback(inputs, outputs, cotangents)

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """Return that the constants do not reach the outputs."""
        return [[i < self.differentiable] * len(node.outputs) for i in range(len(node.inputs))]


def _holding(outputs: list[Any]) -> list[Any]:
    held = ((apply, vars(apply.op).get("held")) for apply in io_toposort([], outputs))
    return [apply for apply, held in held if isinstance(held, Held) and held.data is not None]


def placed(outputs: list[Any]) -> list[Held]:
    """Give what operations hold a place in this graph, which is no part of another, and return it in that order."""
    places: dict[int, Held] = {}
    for apply in _holding(outputs):
        held = places.setdefault(id(apply.op.data), Held(apply.op.data, len(places)))
        apply.op = type(apply.op)(held)
    return list(places.values())


def types_with_data(outputs: list[Any]) -> tuple[Any, ...]:
    """Return the types of what depends on data that operations hold."""
    return tuple(variable.type for apply in _holding(outputs) for variable in apply.outputs)


class _Conversion(GraphRewriter):  # type: ignore[misc]
    """
    Load the conversion of these operations for a backend, when a graph is compiled for it, and change nothing.

    Numba and JAX take up to a second to import, which is for those to wait who use them.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def apply(self, fgraph: Any) -> None:
        import_module(f"pm_fastlmm.engines.{self.backend}")


for _backend in ("numba", "jax"):
    optdb.register(f"pm_fastlmm_{_backend}", _Conversion(_backend), _backend, position=100)
