"""From the free variables of a PyMC model to θ and back: priors, transforms and Jacobians stay out of it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import NullTypeGradError, pushforward
from pytensor.graph.replace import clone_replace, vectorize_graph

from pm_fastlmm.aireml.inversion import EXACT, solved
from pm_fastlmm.aireml.objective import Objective, Observed
from pm_fastlmm.aireml.squares import SquaredObjective, enter_squared, smallest_squares
from pm_fastlmm.base.arrays import FloatArray, frozen
from pm_fastlmm.engines.graphs import (
    INTERPRETED,
    Evaluate,
    as_written,
    once_for_a_structure,
    reaching,
    supports,
)


@dataclass(frozen=True, eq=False)
class FreeVariables:
    """
    The free variables that reach a node, as one vector x of their (constrained) values.

    Attributes
    ----------
    rvs : tuple of random variables
    shapes : tuple of tuples
    names : tuple of str
        Of the elements of x.
    lower, upper, initial : (d,) arrays
        Support, and PyMC's initial values.
    """

    rvs: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    initial: FloatArray

    @classmethod
    def of(cls, model: pm.Model, name: str, graphs: list[Any]) -> "FreeVariables":
        """Read the variables that graphs, those of the covariance of a node of this name, depend on."""
        rvs = reaching(model, *graphs)
        if discrete := [rv.name for rv in rvs if not rv.type.dtype.startswith("float")]:
            raise ValueError(f"discrete variables reach {name} ({', '.join(discrete)}): REML needs continuous ones.")
        if not rvs:
            raise ValueError(
                f"no free variable reaches the covariance of {name}: there is nothing to estimate. For effects at "
                "known variances make them variables of the model, and give find_reml their values, "
                "fixed={name: value}."
            )
        names: list[str] = []
        parts = supports(model, rvs)
        shapes = tuple(part.initial.shape for part in parts)
        for rv, shape in zip(rvs, shapes, strict=True):
            names += [rv.name + (f"[{', '.join(map(str, i))}]" if shape else "") for i in np.ndindex(*shape)]
        lower, upper, initial = (np.concatenate([part[i].ravel() for part in parts]) for i in range(3))
        return cls(tuple(rvs), shapes, tuple(names), lower, upper, initial)

    @cached_property
    def symbols(self) -> list[Any]:
        """What stands for the variables in graphs."""
        return _symbols(self.shapes)

    def split(self, x: FloatArray) -> dict[str, Any]:
        """Return the values by name of the variable."""
        return {rv.name: part for rv, part in zip(self.rvs, _parts(x, self.shapes), strict=True)}

    def substitute(self, outputs: list[Any]) -> list[Any]:
        """Return graphs with the symbols in place of the variables, and of all that these depend on."""
        return _replaced(self.rvs, self.symbols, outputs)

    def compile(self, outputs: list[Any]) -> Callable[[FloatArray], list[FloatArray]]:
        """Return a function of x for graphs of the symbols."""
        compiled = pytensor.function(self.symbols, outputs, mode=INTERPRETED, on_unused_input="ignore")

        def evaluate(x: FloatArray) -> list[FloatArray]:
            with np.errstate(all="ignore"):
                return [np.asarray(v, dtype=float) for v in compiled(*self.split(x).values())]

        return evaluate


def _replaced(rvs: Sequence[Any], symbols: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    pairs = dict(zip(rvs, symbols, strict=True))
    return list(clone_replace(outputs, pairs, rebuild_strict=False))  # in double precision throughout


def _symbols(shapes: tuple[tuple[int, ...], ...]) -> list[Any]:
    return [pt.tensor(dtype="float64", shape=shape) for shape in shapes]


def _parts(x: FloatArray, shapes: tuple[tuple[int, ...], ...]) -> Iterator[FloatArray]:
    """Yield the parts of x of these shapes."""
    x, start = np.asarray(x, dtype=float), 0
    for shape in shapes:
        end = start + math.prod(shape)
        yield x[start:end].reshape(shape)
        start = end


def _theta(evaluate: Evaluate, shapes: tuple[tuple[int, ...], ...], x: FloatArray) -> FloatArray:
    return np.asarray(evaluate(*_parts(x, shapes))[0], dtype=float)


def _jacobian(pullback: Evaluate, shapes: tuple[tuple[int, ...], ...], size: int, x: FloatArray) -> FloatArray:
    rows = [pullback(*_parts(x, shapes), weights)[0] for weights in np.eye(size)]
    return np.array(rows, dtype=float)


@once_for_a_structure
def _map(
    rvs: Sequence[Any], outputs: Sequence[Any], shapes: tuple[tuple[int, ...], ...], initial: tuple[float, ...]
) -> tuple[Any, ...]:
    """Return the map of variables of these shapes and its Jacobian, as functions and where the variables start."""
    symbols = _symbols(shapes)
    (graph,) = _replaced(rvs, symbols, outputs)
    weights = pt.vector("weights", dtype="float64", shape=graph.type.shape)
    gradients = pytensor.grad((graph * weights).sum(), symbols, disconnected_inputs="ignore")
    row = pt.concatenate([g.ravel() for g in gradients])
    theta = partial(_theta, as_written(symbols, [graph]), shapes)
    jacobian = partial(_jacobian, as_written([*symbols, weights], [row]), shapes, graph.type.shape[0])
    x = np.array(initial)
    return theta, jacobian, frozen(theta(x)), frozen(jacobian(x))


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """
    The map of a node from its free variables x to θ (P,).

    Attributes
    ----------
    variables : FreeVariables
    theta, jacobian : callable
        θ(x) and ∂θ/∂x (P, d).
    initial, slopes : arrays
        The same where the variables start.
    """

    variables: FreeVariables
    theta: Callable[[FloatArray], FloatArray]
    jacobian: Callable[[FloatArray], FloatArray]
    initial: FloatArray
    slopes: FloatArray

    @classmethod
    def of(cls, variables: FreeVariables, theta: Any) -> "Link":
        """Compile the map and its derivative."""
        return cls(variables, *_map(variables.rvs, [theta], variables.shapes, tuple(variables.initial.tolist())))

    @property
    def varying(self) -> Any:
        """Which elements of θ depend on x."""
        return (np.abs(self.slopes) > 0).any(axis=1)

    def point(self, theta: FloatArray, size: FloatArray, lower: FloatArray) -> dict[str, Any] | None:
        """Return the free variables at θ by name, None if θ is outside of their support."""
        x = self.invert(theta, size, lower)
        return None if x is None or not np.isfinite(np.abs(x).sum()) else self.variables.split(x)

    def invert(self, theta: FloatArray, size: FloatArray, lower: FloatArray) -> FloatArray | None:
        """Return x with θ(x) = θ in the elements that vary, None if there is none; `size` is that of each element."""
        varying = self.varying
        positive = lower == 0
        floor = 1e-9 * size

        def gap(x: FloatArray) -> FloatArray:
            value = self.theta(x)
            log = np.log(np.maximum(value, floor)) - np.log(np.maximum(theta, floor))
            out = np.where(positive, log, (value - theta) / size)
            return np.asarray(np.nan_to_num(out[varying], nan=1e3, posinf=1e3, neginf=-1e3))

        def slopes(x: FloatArray) -> FloatArray:
            value = self.theta(x)
            unit = np.where(positive, np.where(value > floor, value, np.inf), size)
            with np.errstate(invalid="ignore"):  # of a quantity that is infinite on its boundary, as alpha is
                relative = (self.jacobian(x) / unit[:, None])[varying]
            return np.asarray(np.nan_to_num(relative, posinf=0.0, neginf=0.0))

        v = self.variables
        J, change = self.slopes[varying], (theta - self.initial)[varying]
        linear = np.clip(v.initial + np.linalg.lstsq(J, change)[0], v.lower, v.upper)
        nearer = np.abs(gap(linear)).max(initial=0.0) <= EXACT  # where θ is linear in x there is nothing to search
        return solved(gap, slopes, linear if nearer else v.initial, v.lower, v.upper)


@dataclass(frozen=True, slots=True, eq=False)
class LinkedObjective(SquaredObjective):
    """ℓ(θ(x)) over the free variables x themselves, where they do not determine every element of θ separately."""

    inner: Objective
    link: Link

    @classmethod
    def of(cls, inner: Objective, link: Link, start: FloatArray | None = None) -> Self:
        """Return the objective over x, started where θ is nearest to the inner start, or to another."""
        v = link.variables
        squared = enter_squared(lambda x: list(link.jacobian(x).T), v.initial, v.lower)
        start = inner.start() if start is None else start
        slopes = np.abs(link.slopes).max(axis=0)
        smallest = smallest_squares(squared, v.initial, slopes, float(np.abs(start).max()))
        return cls(
            names=v.names, lower=v.lower, upper=v.upper, initial=nearest(link, start), squared=squared,
            smallest=smallest, method=inner.method, coef=inner.coef, split=v.split,
            fixed=np.zeros(len(v.names), dtype=bool), n=inner.n, projection=inner.projection, inner=inner, link=link,
        )  # fmt: skip

    @property
    def observed(self) -> Observed:
        """The response by row."""
        return self.inner.observed

    def require_residual(self) -> None:
        """Raise a ValueError if y has no estimate."""
        self.inner.require_residual()

    @property
    def work(self) -> float:
        """That of the inner objective."""
        return self.inner.work

    def mean_variances(self, theta: FloatArray) -> dict[str, float]:
        """Return the variance that each component gives an observation on average."""
        return self.inner.mean_variances(self.link.theta(theta))

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Those of the inner objective."""
        return self.inner.coordinates

    def variances_of(self, theta: FloatArray, coordinate: int) -> dict[str, float]:
        """Return the same of the rows of one coordinate."""
        return self.inner.variances_of(self.link.theta(theta), coordinate)

    def terms(self, theta: FloatArray) -> Any:
        """Return the terms at x, where the inner objective has terms."""
        inner: Any = self.inner
        return inner.terms(self.link.theta(theta))

    def state(self, theta: FloatArray) -> Any:
        """Return V factored at x."""
        inner = self.link.theta(theta)
        return self.inner.state(inner) if np.isfinite(inner).all() else None

    def derivatives(self, theta: FloatArray, state: Any) -> tuple[FloatArray, FloatArray]:
        """Return Jᵀs and JᵀAI J."""
        J = self.link.jacobian(theta)
        score, information = self.inner.derivatives(self.link.theta(theta), state)
        return J.T @ score, J.T @ information @ J

    def coefficients(self, state: Any) -> tuple[FloatArray, FloatArray]:
        """Return β̂ and its covariance."""
        return self.inner.coefficients(state)

    def covariance(self, theta: FloatArray) -> FloatArray:
        """Return V, (n, n)."""
        return self.inner.covariance(self.link.theta(theta))

    def covariance_derivatives(self, theta: FloatArray) -> FloatArray:
        """Return ∂V/∂x."""
        inner = self.inner.covariance_derivatives(self.link.theta(theta))
        return np.asarray(np.einsum("pd,pij->dij", self.link.jacobian(theta), inner))


def nearest(link: Link, theta: FloatArray) -> FloatArray:
    """Return x where θ(x) is nearest to θ, off the ends of its support."""
    from scipy.optimize import least_squares  # a fifth of a second to import

    v = link.variables
    size = np.maximum(np.abs(theta), 1e-3 * np.abs(theta).max())

    def gap(x: FloatArray) -> FloatArray:
        return np.asarray(np.nan_to_num((link.theta(x) - theta) / size, nan=1e3, posinf=1e3, neginf=-1e3))

    x = np.asarray(least_squares(gap, np.clip(v.initial, v.lower, v.upper), bounds=(v.lower, v.upper)).x)
    low, high = (np.where(np.isfinite(bound), bound, v.initial) for bound in (v.lower, v.upper))
    inside = np.where(np.isfinite(v.lower), np.maximum(x, low + 1e-3 * np.abs(v.initial - low)), x)
    return np.where(np.isfinite(v.upper), np.minimum(inside, high - 1e-3 * np.abs(high - v.initial)), inside)


class Fitted(NamedTuple):
    """
    What is fitted of a node.

    Attributes
    ----------
    objective : Objective
    link : Link or None
        From the free variables to θ; None where θ is made of them.
    """

    objective: Objective
    link: Link | None = None


def through_variables(
    model: pm.Model, name: str, theta: Any, objective: Any,
    hold: Callable[[Any, FloatArray, Any], Objective] | None = None, linked: type[LinkedObjective] = LinkedObjective,
) -> Fitted:  # fmt: skip
    """
    Return the objective over θ where the free variables determine it element by element, else over the variables.

    `hold` returns the objective with elements of θ, those that no variable reaches, held at the numbers of the model;
    without it such an objective is one over the variables too, of the class `linked`.
    """
    variables = FreeVariables.of(model, name, [theta])
    link = Link.of(variables, theta)
    varying = link.varying
    one_by_one = varying.sum() == len(variables.names)
    if one_by_one and varying.all():
        return Fitted(objective, link)
    if one_by_one and hold is not None:
        return Fitted(hold(objective, link.initial, ~varying), link)
    return Fitted(linked.of(objective, link))


def slopes(vector: Any, variables: FreeVariables) -> Callable[[FloatArray], list[FloatArray]]:
    """Return the derivatives of a vector; backwards, one pass for each element, where an operation knows no other."""
    try:
        return variables.compile(tangents(vector, variables))
    except NullTypeGradError:
        weights = pt.dvector()
        gradients = pytensor.grad((vector * weights).sum(), variables.symbols)
        row = pt.concatenate([g.ravel() for g in gradients])
        rows = vectorize_graph(row, {weights: pt.eye(vector.type.shape[0])})
        jacobian = variables.compile([rows])
        return lambda x: list(jacobian(x)[0].T)


def tangents(V: Any, variables: FreeVariables) -> list[Any]:
    """Return ∂V/∂x_i for each element of the free variables, by forward differentiation."""
    out = []
    for symbol in variables.symbols:
        for index in np.ndindex(*symbol.type.shape):
            direction = np.zeros(symbol.type.shape)
            direction[index] = 1.0
            out.append(pushforward(V, symbol, pt.constant(direction)))
    return out
