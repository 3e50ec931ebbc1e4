"""Maximising again with some parameters held, and derivatives of β̂'s covariance, from an objective alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.aireml.iteration import Tolerances, maximise
from pm_fastlmm.aireml.objective import Objective, information_inverse

_STEP = 0.02  # of a standard error or of a variance: with one extrapolation differences are good to about 1e-8
_ITERATIONS = 200


class Held(NamedTuple):
    """The maximum given the parameters that are held."""

    theta: FloatArray
    loglik: float
    converged: bool


def maximise_given(objective: Any, values: Mapping[str, float], start: FloatArray) -> Held:
    """Maximise the likelihood with parameters held at values, from a start; -inf where V is not positive definite."""
    held = np.isin(objective.names, list(values))
    theta = np.array(start, dtype=float)
    for name, value in values.items():
        theta[objective.names.index(name)] = value
    changed = replace(objective, fixed=np.asarray(objective.fixed) | held)
    state = changed.state(theta)
    if state is None:
        return Held(theta, -np.inf, False)
    if changed.fixed.all():
        return Held(theta, float(state.loglik), True)
    trace = maximise(changed, theta, tolerances=Tolerances(), max_iterations=_ITERATIONS)
    last = trace.iterations[-1]
    return Held(last.theta, last.loglik, trace.converged)


def coefficient_cov(objective: Objective, theta: FloatArray) -> FloatArray:
    """Return Φ = cov β̂ at θ, NaN where V is not positive definite."""
    state = objective.state(theta)
    r = len(objective.coef)
    return np.full((r, r), np.nan) if state is None else objective.coefficients(state)[1]


def steps_of(objective: Objective, theta: FloatArray, se: FloatArray) -> FloatArray:
    """Return steps of differences that stay inside the bounds; 0 for what has no standard error."""
    room = np.minimum(theta - objective.lower, objective.upper - theta)
    return np.where(np.isfinite(se), _STEP * np.minimum(se, np.where(room > 0, room, np.inf)), 0.0)


def first_differences(objective: Objective, theta: FloatArray, steps: FloatArray) -> FloatArray:
    """Return ∂Φ/∂θ (P, r, r) by central differences with one extrapolation, 0 where the step is."""
    r = len(objective.coef)
    out = np.zeros((len(theta), r, r))
    for i in np.flatnonzero(steps):
        ends = []
        for h in (steps[i], 2 * steps[i]):
            move = np.zeros(len(theta))
            move[i] = h
            ends.append((coefficient_cov(objective, theta + move) - coefficient_cov(objective, theta - move)) / (2 * h))
        out[i] = (4 * ends[0] - ends[1]) / 3
    return out


def along_boundary(objective: Objective, theta: FloatArray, information: FloatArray) -> tuple[FloatArray, FloatArray]:
    """
    Return ∂Φ/∂ω (F, r, r) and the covariance (F, F) of the coordinates ω in which a θ on its boundary can still move.

    A singular matrix is not known: it may move along the singular ones, D and U of UDUᵀ where D > 0. Information is the
    average one there.
    """
    omega = objective.internal(theta)
    J = objective.jacobian(omega)
    inner = J.T @ information @ J
    free = ~np.asarray(objective.fixed_internal) & (omega > objective.internal_lower) & (np.diag(inner) > 0)
    cov = information_inverse(inner, free)[np.ix_(free, free)]
    steps, slopes = _STEP * np.sqrt(np.diag(cov)), []
    for i, step in zip(np.flatnonzero(free), steps, strict=True):
        room = float(omega[i] - objective.internal_lower[i])
        h = min(float(step), _STEP * room) if np.isfinite(room) else float(step)
        move = h * (np.arange(omega.size) == i)
        ends = [coefficient_cov(objective, objective.external(omega + sign * move)) for sign in (1, -1)]
        slopes.append((ends[0] - ends[1]) / (2 * h))
    r = len(objective.coef)
    return np.reshape(slopes, (-1, r, r)), cov


def second_differences(objective: Objective, theta: FloatArray, steps: FloatArray) -> FloatArray:
    """Return ∂²Φ/∂θ² (P, P, r, r), along θ_i, θ_j and θ_i + θ_j in units of the steps."""
    size, r = len(theta), len(objective.coef)
    centre = coefficient_cov(objective, theta)

    def along(move: FloatArray) -> FloatArray:
        values = [
            coefficient_cov(objective, theta + k * move) + coefficient_cov(objective, theta - k * move) - 2 * centre
            for k in (1, 2)
        ]
        return np.asarray((16 * values[0] - values[1]) / 12)

    out = np.zeros((size, size, r, r))
    places = np.flatnonzero(steps)
    for i in places:
        out[i, i] = along(steps * (np.arange(size) == i)) / steps[i] ** 2
    for i in places:
        for j in places[places < i]:
            both = along(steps * np.isin(np.arange(size), [i, j]))
            mixed = both - out[i, i] * steps[i] ** 2 - out[j, j] * steps[j] ** 2
            out[i, j] = out[j, i] = mixed / (2 * steps[i] * steps[j])
    return out
