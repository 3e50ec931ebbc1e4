"""From the free variables of a PyMC model to θ and back: priors, transforms and Jacobians stay out of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import NullTypeGradError, pushforward
from pytensor.graph.replace import clone_replace, vectorize_graph
from scipy.optimize import least_squares

from pm_fastlmm._arrays import FloatArray, shown
from pm_fastlmm._choices import Method
from pm_fastlmm.aireml.dense import DenseObjective
from pm_fastlmm.aireml.family import FamilyObjective
from pm_fastlmm.aireml.fourier import FourierObjective
from pm_fastlmm.aireml.inversion import solved
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.aireml.spectral import SpectralObjective
from pm_fastlmm.aireml.squares import SquaredObjective, enter_squared, smallest_squares
from pm_fastlmm.aireml.structured import StructuredObjective
from pm_fastlmm.distribution.graphs import INTERPRETED, initial_point, reaching, support
from pm_fastlmm.engines.dense.node import DenseNode
from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.lengthscale.node import FamilyNode
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.spectral.node import SpectralNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.linalg.rotated import Rotated


@dataclass(frozen=True, slots=True, eq=False)
class FreeVariables:
    """
    The free variables that reach a node, as one vector x of their (constrained) values.

    Attributes
    ----------
    rvs : tuple of random variables
    symbols : tuple of tensors
        What stands for them in graphs.
    names : tuple of str
        Of the elements of x.
    lower, upper, initial : (d,) arrays
        Support, and PyMC's initial values.
    """

    rvs: tuple[Any, ...]
    symbols: tuple[Any, ...]
    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    initial: FloatArray

    @classmethod
    def of(cls, model: pm.Model, node: LMMNode, graphs: list[Any]) -> "FreeVariables":
        """Read the variables that the covariance of a node depends on."""
        rvs = reaching(model, *graphs)
        if discrete := [rv.name for rv in rvs if not rv.type.dtype.startswith("float")]:
            raise ValueError(
                f"discrete variables reach {node.name} ({', '.join(discrete)}): REML needs continuous ones."
            )
        if not rvs:
            raise ValueError(f"no free variable reaches the covariance of {node.name}: there is nothing to estimate.")
        point = initial_point(model)
        names: list[str] = []
        parts: list[tuple[FloatArray, FloatArray, FloatArray]] = []
        for rv in rvs:
            value = np.asarray(point[model.rvs_to_values[rv].name], dtype=float)
            parts.append(support(model, rv, value))
            shape = parts[-1][2].shape
            names += [rv.name + (f"[{', '.join(map(str, i))}]" if shape else "") for i in np.ndindex(*shape)]
        lower, upper, initial = (np.concatenate([part[i].ravel() for part in parts]) for i in range(3))
        symbols = tuple(
            pt.TensorType("float64", shape=part[2].shape)(rv.name) for rv, part in zip(rvs, parts, strict=True)
        )
        return cls(tuple(rvs), symbols, tuple(names), lower, upper, initial)

    def split(self, x: FloatArray) -> dict[str, Any]:
        """Return the values by name of the variable."""
        ends = np.cumsum([int(np.prod(symbol.type.shape, dtype=int)) for symbol in self.symbols])
        pairs = zip(self.rvs, self.symbols, np.split(np.asarray(x, dtype=float), ends[:-1]), strict=True)
        return {rv.name: part.reshape(symbol.type.shape) for rv, symbol, part in pairs}

    def substitute(self, outputs: list[Any]) -> list[Any]:
        """Return graphs with the symbols in place of the variables, and of all that these depend on."""
        pairs = zip(self.rvs, self.symbols, strict=True)
        return list(clone_replace(outputs, dict(pairs), rebuild_strict=False))  # in double precision throughout

    def compile(self, outputs: list[Any]) -> Callable[[FloatArray], list[FloatArray]]:
        """Return a function of x for graphs of the symbols."""
        compiled = pytensor.function(list(self.symbols), outputs, mode=INTERPRETED, on_unused_input="ignore")

        def evaluate(x: FloatArray) -> list[FloatArray]:
            with np.errstate(all="ignore"):
                return [np.asarray(v, dtype=float) for v in compiled(*self.split(x).values())]

        return evaluate


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """The map x ↦ θ of a node, with its Jacobian (P, d)."""

    variables: FreeVariables
    evaluate: Callable[[FloatArray], list[FloatArray]]

    @classmethod
    def of(cls, variables: FreeVariables, theta: Any) -> "Link":
        """Compile the map and its derivative."""
        (graph,) = variables.substitute([theta])
        rows = []
        for i in range(theta.type.shape[0]):
            gradients = pytensor.grad(graph[i], list(variables.symbols), disconnected_inputs="ignore")
            rows.append(pt.concatenate([g.ravel() for g in gradients]))
        return cls(variables, variables.compile([graph, pt.stack(rows)]))

    def theta(self, x: FloatArray) -> FloatArray:
        """Return θ(x)."""
        return self.evaluate(x)[0]

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Return ∂θ/∂x."""
        return self.evaluate(x)[1]

    def invert(self, theta: FloatArray, size: FloatArray, lower: FloatArray, varying: Any) -> FloatArray | None:
        """Return x with θ(x) = θ in the elements that vary, None if there is none; `size` is that of each element."""
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
            return np.asarray(np.nan_to_num((self.jacobian(x) / unit[:, None])[varying], posinf=0.0, neginf=0.0))

        v = self.variables
        return solved(gap, slopes, v.initial, v.lower, v.upper)


@dataclass(frozen=True, slots=True, eq=False)
class LinkedObjective(SquaredObjective):
    """ℓ(θ(x)) over the free variables x themselves, where they do not determine every element of θ separately."""

    inner: Objective
    link: Link
    initial: FloatArray
    squared: Any
    smallest: FloatArray
    method: Method
    fixed: Any
    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    coef: tuple[str, ...]

    @classmethod
    def of(cls, inner: Objective, link: Link) -> "LinkedObjective":
        """Return the objective over x, started where θ is nearest to the inner start."""
        v = link.variables
        squared = enter_squared(lambda x: list(link.jacobian(x).T), v.initial, v.lower)
        start = inner.start()
        slopes = np.abs(link.jacobian(v.initial)).max(axis=0)
        smallest = smallest_squares(squared, v.initial, slopes, float(np.abs(start).max()))
        return cls(
            inner, link, _nearest(link, start), squared, smallest, inner.method, np.zeros(len(v.names), dtype=bool),
            v.names, v.lower, v.upper, inner.coef,
        )  # fmt: skip

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

    def point(self, theta: FloatArray) -> dict[str, Any]:
        """Return the values of the model's free variables."""
        return self.link.variables.split(theta)

    def start(self) -> FloatArray:
        """Return x where θ is nearest to the start of the inner objective."""
        return self.initial.copy()


def _nearest(link: Link, theta: FloatArray) -> FloatArray:
    v = link.variables
    size = np.maximum(np.abs(theta), 1e-3 * np.abs(theta).max())

    def gap(x: FloatArray) -> FloatArray:
        return np.asarray(np.nan_to_num((link.theta(x) - theta) / size, nan=1e3, posinf=1e3, neginf=-1e3))

    x = np.asarray(least_squares(gap, np.clip(v.initial, v.lower, v.upper), bounds=(v.lower, v.upper)).x)
    low, high = (np.where(np.isfinite(bound), bound, v.initial) for bound in (v.lower, v.upper))
    inside = np.where(np.isfinite(v.lower), np.maximum(x, low + 1e-3 * np.abs(v.initial - low)), x)
    return np.where(np.isfinite(v.upper), np.minimum(inside, high - 1e-3 * np.abs(high - v.initial)), inside)


def objective_of(model: pm.Model, node: LMMNode, method: Method = "REML") -> tuple[Objective, Link | None, Any]:
    """
    Return the objective of a node, the link to its free variables (None if θ is x), and which elements of θ vary.

    Raises
    ------
    ValueError
        If the mean has free variables, the node has no data, or its variables are discrete.
    """
    if isinstance(node, FourierNode):
        objective = _fourier(model, node, method)
        return objective, None, np.ones(len(objective.names), dtype=bool)
    y, offset, prior = _data(model, node)
    if isinstance(node, DenseNode):
        variables = FreeVariables.of(model, node, [node.V])
        return _dense(node, variables, y, offset, prior, method), None, np.ones(len(variables.names), dtype=bool)
    if isinstance(node, FamilyNode):
        return _family(model, node, y, method)
    graph, inner = _structured_or_spectral(node, y, offset, prior, method)
    variables = FreeVariables.of(model, node, [graph])
    link = Link.of(variables, graph)
    varying = (np.abs(link.jacobian(variables.initial)) > 0).any(axis=1)
    constants = link.theta(variables.initial)
    constant_variance = isinstance(inner, SpectralObjective) and not varying.all()
    if varying.sum() == len(variables.names) and not constant_variance:
        if isinstance(inner, SpectralObjective):
            return inner, link, varying
        return _held(inner, constants, ~varying), link, varying
    return LinkedObjective.of(inner, link), None, np.ones(len(variables.names), dtype=bool)


def _family(model: pm.Model, node: FamilyNode, y: FloatArray, method: Method) -> tuple[Objective, Link, Any]:
    if method != "REML":
        raise ValueError(f"{node.name} has a lengthscale, whose spectra give the restricted likelihood: method='REML'.")
    graph = pt.stack([node.lengthscale, node.sigma2_g, node.sigma2_e])
    variables = FreeVariables.of(model, node, [graph])
    link = Link.of(variables, graph)
    varying = (np.abs(link.jacobian(variables.initial)) > 0).any(axis=1)
    if varying.sum() != len(variables.names):
        raise ValueError(
            f"{', '.join(variables.names)} do not determine lengthscale, sigma2_g and sigma2_e of {node.name} one by "
            "one: give each parameter variables of its own, as many as there are parameters."
        )
    return FamilyObjective.of(node.family, y, held=link.theta(variables.initial), fixed=~varying), link, varying


def _held(objective: StructuredObjective, constants: FloatArray, fixed: Any) -> StructuredObjective:
    """Return the objective with elements of θ held at the numbers of the model."""
    partly = [e for e in objective.layout.entries if e.matrix and fixed[e.place].any() and not fixed[e.place].all()]
    if partly:
        raise ValueError("a matrix of the terms has constant and free elements: use a structure with fewer parameters.")
    return replace(objective, fixed=fixed, held=np.where(fixed, constants, np.nan)) if fixed.any() else objective


def _structured_or_spectral(
    node: LMMNode, y: FloatArray, offset: FloatArray | None, prior: FloatArray, method: Method
) -> tuple[Any, Any]:
    if isinstance(node, SpectralNode):
        if y.ndim > 1:
            raise ValueError(f"{node.name} has several responses: flmm.reml(spectrum, Y) fits them all at once.")
        if node.treatment == "proper":
            raise ValueError(
                f"{node.name} has an explicit β or a prior on it: REML integrates β out, leave out beta= and beta_cov=."
            )
        zero = np.zeros(()) if node.mu is None else y - node.observed
        return pt.stack([node.sigma2_g, node.sigma2_e]), SpectralObjective.of(node.rotated(-zero), method)
    assert isinstance(node, StructuredNode)
    if node.spectrum is not None and node.treatment == "flat":
        return node.theta, SpectralObjective.of(Rotated.from_values(node.spectrum, y, None), method, node.layout.names)
    objective = StructuredObjective.of(node.products, node.layout, y, offset=offset, prior=prior, method=method)
    return node.theta, objective


def _data(model: pm.Model, node: LMMNode) -> tuple[FloatArray, FloatArray | None, FloatArray]:
    """Return y - mu, the coefficients b of a proper β (None for a flat one) and its prior covariance."""
    if node.observed is None:
        raise ValueError(f"{node.name} has no observed data to fit.")
    graphs = [g for g in (node.mu, node.beta_mean, getattr(node, "beta_cov", None)) if g is not None]
    if free := reaching(model, *graphs):
        raise ValueError(
            f"free variables are in the mean of {node.name} or in the prior of β ({shown([rv.name for rv in free])}): "
            "REML is for variances. Put covariates into X, whose coefficients are integrated out."
        )
    mu, b, prior = constants_of(node)
    return np.asarray(node.observed - mu, dtype=float), b if node.treatment == "proper" else None, prior


def constants_of(node: LMMNode) -> tuple[Any, FloatArray, FloatArray]:
    """Return mu, and mean and covariance of β's prior (of size 0 where there is none), which no variable reaches."""
    graphs = {"mu": node.mu, "b": node.beta_mean, "B": getattr(node, "beta_cov", None)}
    given = {name: graph for name, graph in graphs.items() if graph is not None}
    values = pytensor.function([], list(given.values()), mode=INTERPRETED)()
    known = {name: np.asarray(value, dtype=float) for name, value in zip(given, values, strict=True)}
    return known.get("mu", np.zeros(())), known.get("b", np.zeros(0)), known.get("B", np.zeros((0, 0)))


def _dense(
    node: DenseNode,
    variables: FreeVariables,
    y: FloatArray,
    offset: FloatArray | None,
    prior: FloatArray,
    method: Method,
) -> DenseObjective:
    projection = node.projection
    X = projection.Q1 @ projection.R
    shift = X @ prior @ X.T if prior.size else 0.0
    (V,) = variables.substitute([node.V])
    evaluate, differentiate = variables.compile([V]), variables.compile(_tangents(V, variables))
    return DenseObjective.of(
        lambda x: evaluate(x)[0] + shift, differentiate, y if offset is None else y - X @ offset, projection,
        names=variables.names, lower=variables.lower, upper=variables.upper, start=variables.initial,
        flat=node.treatment == "flat", method=method, split=variables.split,
    )  # fmt: skip


def _fourier(model: pm.Model, node: FourierNode, method: Method) -> FourierObjective:
    """Return the objective over x; it starts at the best lengthscale of all nodes where there is one lengthscale."""
    graph = pt.concatenate([pt.exp(node.log_weights) * node.sigma2_g, pt.expand_dims(node.sigma2_e, 0)])
    estimated = [] if node.lengthscale is None else [pt.stack([node.lengthscale, node.sigma2_g, node.sigma2_e])]
    variables = FreeVariables.of(model, node, [graph, *estimated])
    (prior,) = variables.substitute([graph])
    evaluate, slopes = variables.compile([prior]), _slopes(prior, variables)
    lower, upper, start = variables.lower, variables.upper, variables.initial
    inside: Callable[[FloatArray], bool] = lambda x: True  # noqa: E731
    noted: Callable[[FloatArray], list[str]] = lambda x: []  # noqa: E731
    if node.spectra is not None:
        link, (low, high) = Link.of(variables, estimated[0]), node.basis.lengthscale
        same = [bool(link.jacobian(x)[0, i] == 1 and link.theta(x)[0] == x[i]) for x in (start,) for i in range(len(x))]
        lower, upper = np.where(same, np.maximum(lower, low), lower), np.where(same, np.minimum(upper, high), upper)
        edge = 1e-9 * (high - low)
        inside = lambda x: low - edge <= link.theta(x)[0] <= high + edge  # noqa: E731
        noted = lambda x: _outside_basis(node, *link.theta(x))  # noqa: E731
        start = np.clip(_nearest(link, node.spectra.best()), lower, upper)
    return FourierObjective.of(
        lambda x: evaluate(x)[0], slopes, node.products, names=variables.names, lower=lower, upper=upper, start=start,
        split=variables.split, inside=inside, noted=noted, method=method,
    )  # fmt: skip


def _outside_basis(node: FourierNode, lengthscale: float, sigma2_g: float, sigma2_e: float) -> list[str]:
    """Return what a basis was not made for, and the remedy."""
    basis, (low, high) = node.basis, node.basis.lengthscale
    out = []
    if sigma2_e < basis.noise_ratio_min * sigma2_g:
        out.append(
            f"sigma2_e/sigma2 = {sigma2_e / sigma2_g:.2g} is below noise_ratio_min={basis.noise_ratio_min:g}, where "
            "the error of the basis is larger than stated: make the basis for a smaller ratio"
        )
    if sigma2_g > 0 and (lengthscale < low * (1 + 1e-6) or lengthscale > high * (1 - 1e-6)):
        out.append(
            f"the lengthscale {lengthscale:.4g} is at an end of the range of the basis, {low:g} to {high:g}, which may "
            "have stopped it: make the basis for a wider range"
        )
    return out


def _slopes(vector: Any, variables: FreeVariables) -> Callable[[FloatArray], list[FloatArray]]:
    """Return the derivatives of a vector; backwards, one pass for each element, where an operation knows no other."""
    try:
        return variables.compile(_tangents(vector, variables))
    except NullTypeGradError:
        weights = pt.dvector()
        gradients = pytensor.grad((vector * weights).sum(), list(variables.symbols))
        row = pt.concatenate([g.ravel() for g in gradients])
        rows = vectorize_graph(row, {weights: pt.eye(vector.type.shape[0])})
        jacobian = variables.compile([rows])
        return lambda x: list(jacobian(x)[0].T)


def _tangents(V: Any, variables: FreeVariables) -> list[Any]:
    """Return ∂V/∂x_i for each element of the free variables, by forward differentiation."""
    out = []
    for symbol in variables.symbols:
        for index in np.ndindex(*symbol.type.shape):
            direction = np.zeros(symbol.type.shape)
            direction[index] = 1.0
            out.append(pushforward(V, symbol, pt.constant(direction)))
    return out
