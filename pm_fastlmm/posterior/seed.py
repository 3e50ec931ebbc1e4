"""
The seed of NUTS: where the posterior of a node's parameters is, and how wide, on PyMC's unconstrained scale.

A node's parameters are few and an evaluation costs microseconds, so their posterior moments are computed before NUTS
starts, by quasi-Monte Carlo quadrature around the REML estimate. At a boundary of the variances REML's own information
is singular; the moments are not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.model import ValueGradFunction
from pymc.pytensorf import join_nonshared_inputs
from pytensor.compile.mode import Mode
from scipy.special import gammaincinv, ndtri

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.graphs import INTERPRETED, initial_point, parameters, reaching
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.posterior.kept import Kept
from pm_fastlmm.posterior.mode import Density, SeedError, Units, match_reml, mode_near, ones, units_of

_T_DF = 5.0  # tails of the proposal: heavier than the exponential tails of logit h² at a boundary
_ROUNDS = 6
_LEAST = 5  # points that must count for each dimension, if need be by weights to a power
_MANY = 0.1  # of all points, that must where coordinates of other units are still to be tried
_POWERS = 20  # halvings of the interval in which that power is sought
_POINTS = 2048
_GENERATOR = (
    797  # of a lattice whose errors are about those of Sobol' points in 1 to 12 dimensions, larger in some of 16
)
_SPREAD = 200  # draws that show a node where its posterior is
_MAX_QUADRATURE = 25
_MAX_LAPLACE = 500


@dataclass(frozen=True, slots=True, eq=False)
class Seed:
    """
    Posterior moments of the free variables that reach a node.

    Attributes
    ----------
    variables : tuple of str
        Names of the value variables, in the order of the coordinates.
    mean, cov : (d,) and (d, d) arrays
        On the unconstrained scale.
    starts : list of dict
        One independent posterior draw for each chain, as PyMC's initvals (constrained scale).
    logp_dlogp : ValueGradFunction or None
        The log-posterior and gradient of the model as PyMC's NUTS evaluates it, when these variables are all there are:
        it was compiled for the moments, and the sampler needs no other.
    exact : bool
        Whether the moments come from quadrature; otherwise they are those of a normal approximation at the mode.
    """

    variables: tuple[str, ...]
    mean: FloatArray
    cov: FloatArray
    starts: list[dict[str, Any]]
    logp_dlogp: Any = None
    exact: bool = True


def complete(kept: Kept) -> bool:
    """Return whether the free continuous variables that reach the node are all that the model has."""
    return set(parameters(kept.model, kept.rv)) == set(kept.model.free_RVs)


def posterior_seed(kept: Kept, node: LMMNode, *, chains: int, rng: np.random.Generator) -> Seed:
    """
    Compute where NUTS starts and its covariance for the parameters of a node.

    Raises
    ------
    SeedError
        If the node has no parameters, too many, or a posterior whose moments the quadrature does not reach.
    """
    free, values, initial = _coordinates(kept, node)
    joint = None
    if complete(kept):
        joint = kept.once(_compile_joint, values, initial)
    logp = _finite(joint if joint is not None else kept.once(_compile_marginal, free, values, initial))
    constrain = kept.once(_compile_constrain, free, values, initial)
    x0 = _ravel(initial)
    exact = x0.size <= _MAX_QUADRATURE and node.cheap

    def search(units: Units) -> tuple[FloatArray, FloatArray, FloatArray]:
        mean, cov = _mode(node, logp, constrain, x0, units, exact, rng)
        if not exact:
            return mean, cov, _normal(mean, cov, chains, rng)
        while True:
            with node.guarded():
                found = _quadrature(logp, mean, cov, chains, rng, _MANY if units is ones else 0.0)
            if not node.adapt(partial(_estimated, constrain, *found[:2], rng)):
                return found

    mean, cov, draws = _in_some_units(search)
    return Seed(tuple(initial), mean, cov, [_initvals(free, constrain(draw)[0]) for draw in draws], joint, exact)


def posterior_mode(kept: Kept, node: LMMNode) -> dict[str, Any]:
    """
    Return the posterior mode of the parameters of a node as PyMC's initvals, for samplers that take a start alone.

    Raises
    ------
    SeedError
        If the node has no parameters, too many, or no posterior density at the REML estimate.
    """
    free, values, initial = _coordinates(kept, node)
    logp = _finite(kept.once(_compile_marginal, free, values, initial, mode=INTERPRETED))
    constrain = kept.once(_compile_constrain, free, values, initial)
    x0 = _ravel(initial)
    few = x0.size <= _MAX_QUADRATURE and node.cheap

    rng = np.random.default_rng(0)
    mode, _ = _in_some_units(lambda units: _mode(node, logp, constrain, x0, units, few, rng))
    return _initvals(free, constrain(mode)[0])


def _in_some_units[T](search: Callable[[Units], T]) -> T:
    """Return what is found with coordinates of size 1, or where that fails with their own, which may differ much."""
    try:
        return search(ones)
    except SeedError:
        return search(units_of)


def _mode(
    node: LMMNode, logp: Density, constrain: Any, x0: FloatArray, units: Units, few: bool, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return the mode and the inverse curvature there; if the density of the node is adapted to it, that anew."""
    while True:
        mode, cov = mode_near(logp, match_reml(node, constrain, units(logp, x0), x0), units, few)
        if node.reaches(constrain(mode)[1]) or not node.adapt(partial(_estimated, constrain, mode, cov, rng)):
            return mode, cov


def _estimated(constrain: Any, mean: FloatArray, cov: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return what the node estimates, at draws from a normal approximation."""
    return np.array([constrain(x)[1] for x in _normal(mean, cov, _SPREAD, rng)])


def _normal(mean: FloatArray, cov: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    return np.asarray(mean + rng.standard_normal((count, mean.size)) @ np.linalg.cholesky(cov).T)


def _coordinates(kept: Kept, node: LMMNode) -> tuple[list[Any], list[Any], dict[str, FloatArray]]:
    """Return the variables that reach the node, their value variables, and PyMC's initial values of those by name."""
    model = kept.model
    free = parameters(model, kept.rv)
    if not free:
        raise SeedError(f"no free continuous variable reaches {node.name}")
    discrete = [rv.name for rv in reaching(model, kept.rv) if not rv.type.dtype.startswith("float")]
    if discrete:
        raise SeedError(f"discrete variables reach {node.name}: {', '.join(discrete)}")
    values = [model.rvs_to_values[rv] for rv in free]
    point = initial_point(model)
    initial = {value.name: np.asarray(point[value.name], dtype=float) for value in values}
    d = sum(v.size for v in initial.values())
    if d > _MAX_LAPLACE:
        raise SeedError(f"{d} parameters reach {node.name}, more than {_MAX_LAPLACE}")
    return free, values, initial


def _ravel(point: dict[str, FloatArray]) -> FloatArray:
    return np.concatenate([v.ravel() for v in point.values()])


def _initvals(free: list[Any], constrained: list[FloatArray]) -> dict[str, Any]:
    """Return a start by variable; PyMC takes none for a variable of pymc.dims, whose type has dims."""
    pairs = zip(free, constrained, strict=True)
    return {rv.name: value for rv, value in pairs if not hasattr(rv.type, "dims")}


def _compile_joint(kept: Kept, values: list[Any], point: dict[str, FloatArray]) -> Any:
    """Return log-posterior and gradient as NUTS takes them; a frozen model would link a second copy, to keep one."""
    options: dict[str, Any] = {"ravel_inputs": True, "initial_point": point, "allow_input_downcast": True}
    function = ValueGradFunction([kept.model.logp()], values, **options)
    function.set_extra_values({})
    return function


def _compile_marginal(
    kept: Kept, free: list[Any], values: list[Any], point: dict[str, FloatArray], *, mode: Mode | None = None
) -> Density:
    """Return log-posterior and gradient of the variables, from every term of the model that depends on them alone."""
    model, inside = kept.model, set(free)
    terms = [
        term
        for term in [*model.basic_RVs, *model.potentials]
        if (reached := set(reaching(model, term))) and reached <= inside
    ]
    total = model.logp(vars=terms)
    gradients = (getattr(g, "values", g) for g in pytensor.grad(total, values))  # `values` of a pymc.dims variable
    outputs = [total, pt.concatenate([g.ravel() for g in gradients])]
    outputs, joined = join_nonshared_inputs(point=point, outputs=outputs, inputs=values)
    compiled: Density = pm.compile([joined], outputs, mode=mode, allow_input_downcast=True)
    return compiled


def _finite(compiled: Density) -> Density:
    """Return the same function with log-density -∞ and gradient 0 wherever one of them is not finite, or no number."""

    def evaluate(x: FloatArray) -> tuple[float, FloatArray]:
        try:
            with np.errstate(all="ignore"):
                value, gradient = compiled(x)
        except np.linalg.LinAlgError:  # of a matrix that far from the mode is not finite
            return -math.inf, np.zeros_like(x)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return -math.inf, np.zeros_like(x)
        return float(value), np.asarray(gradient)

    return evaluate


def _compile_constrain(
    kept: Kept, free: list[Any], values: list[Any], point: dict[str, FloatArray]
) -> Callable[[FloatArray], tuple[list[FloatArray], FloatArray]]:
    """Return the map from unconstrained coordinates to the variables, and to what REML estimates."""
    components = [pt.atleast_1d(graph).ravel() for graph in kept.estimated]
    outputs = kept.model.replace_rvs_by_values([*free, *components])
    outputs, joined = join_nonshared_inputs(point=point, outputs=outputs, inputs=values)
    options = {"mode": INTERPRETED, "on_unused_input": "ignore", "allow_input_downcast": True}
    compiled = pytensor.function([joined], outputs, **options)

    def constrain(x: FloatArray) -> tuple[list[FloatArray], FloatArray]:
        with np.errstate(all="ignore"):
            results = compiled(x)
        variables, estimated = results[: len(free)], results[len(free) :]
        return variables, np.concatenate(np.broadcast_arrays(*estimated)) if estimated else np.zeros(0)

    return constrain


def _quadrature(
    logp: Density, mean: FloatArray, cov: FloatArray, chains: int, rng: np.random.Generator, share: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """
    Return posterior mean, covariance and one draw for each chain.

    It is a SeedError if fewer points count than a share of them, or five for each dimension.

    Importance weights on multivariate t points, whose centre and scale are those of the round before, until half of the
    points count (adaptive importance sampling; Oh & Berger 1992, doi:10.1080/00949659208810398). Where few do, weights
    are raised to a power below 1 for the next round's centre and scale, so that it is not a point or two that decide
    them (Koblents & Míguez 2015, doi:10.1007/s11222-013-9440-2). The points are those of a Korobov lattice with a
    random shift (Cranley & Patterson 1976, doi:10.1137/0713071).
    """
    d = mean.size
    lattice = np.arange(_POINTS)[:, None] * [pow(_GENERATOR, j, _POINTS) for j in range(d + 1)] / _POINTS
    u = np.clip((lattice + rng.random(d + 1)) % 1, 1e-12, 1 - 1e-12)
    radius = np.sqrt(_T_DF / (2 * gammaincinv(_T_DF / 2, u[:, -1])))
    standard = ndtri(u[:, :-1]) * radius[:, None]
    log_proposal = -0.5 * (_T_DF + d) * np.log1p((standard**2).sum(-1) / _T_DF)
    most, best = 0.0, (mean, cov, standard[:chains])
    for _ in range(_ROUNDS):
        points = mean + standard @ np.linalg.cholesky(cov).T
        log_weights = np.array([logp(x)[0] for x in points]) - log_proposal
        if not math.isfinite(log_weights.max()):
            raise SeedError("the posterior is not where its mode was found")
        weights, effective = _normalised(log_weights)
        tempered = weights if effective >= _LEAST * d else _tempered(log_weights, 2 * _LEAST * d)
        mean = tempered @ points
        cov = (points - mean).T @ ((points - mean) * tempered[:, None])
        if effective > most:
            most, best = effective, (mean, cov, points[rng.choice(len(points), size=chains, p=weights)])
        if effective > _POINTS / 2:
            break
    if most < max(_LEAST * d, share * _POINTS):
        raise SeedError(f"the quadrature reached {most:.0f} effective points in {d} dimensions")
    return best


def _normalised(log_weights: FloatArray) -> tuple[FloatArray, float]:
    """Return weights that add up to 1, and how many points count."""
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    return weights, float(1 / (weights**2).sum())


def _tempered(log_weights: FloatArray, wanted: float) -> FloatArray:
    """Return weights to the power below 1 at which as many points count as are wanted."""
    low, high = 0.0, 1.0
    for _ in range(_POWERS):
        power = (low + high) / 2
        low, high = (power, high) if _normalised(power * log_weights)[1] > wanted else (low, power)
    return _normalised(low * log_weights)[0]
