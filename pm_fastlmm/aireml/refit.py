"""Maximising again with some parameters held, and derivatives of β̂'s covariance, from an objective alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.aireml.cone import errors
from pm_fastlmm.aireml.face import curvature
from pm_fastlmm.aireml.iteration import Tolerances, maximise
from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.base.arrays import FloatArray

_STEP = 0.02  # of a standard error or of a variance: with one extrapolation differences are good to about 1e-8
_DIFFERENCE = 1e-3  # of a standard error: the step of the differences that make the observed information
_ITERATIONS = 200
_RESOLVED = 1e-10  # eigenvalue of the information, scaled to unit diagonal, below which a direction has none


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


def observed_information(objective: Objective, theta: FloatArray, se: FloatArray) -> FloatArray:
    """Return minus the derivative of the score, by differences; 0 for what has no standard error."""
    observed = np.zeros((len(theta), len(theta)))
    for i in np.flatnonzero(np.isfinite(se)):
        move = _DIFFERENCE * se[i] * (np.arange(len(theta)) == i)
        ends = [_score(objective, theta + sign * move) for sign in (1, -1)]
        observed[:, i] = (ends[1] - ends[0]) / (2 * _DIFFERENCE * se[i])
    return (observed + observed.T) / 2


def _score(objective: Objective, theta: FloatArray) -> FloatArray:
    state = objective.state(theta)
    return np.full(len(theta), np.nan) if state is None else objective.derivatives(theta, state)[0]


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


def along_face(objective: Objective, theta: FloatArray, information: FloatArray) -> tuple[FloatArray, FloatArray]:
    """
    Return ∂Φ/∂x (F, r, r) and the covariance (F, F) of directions x in which θ can still move.

    A singular matrix is not known: it may move along those of its rank, and the covariance is that of the observed
    information there. What V does not depend on, where terms overlap, has no average information, and Φ does not depend
    on it either: it is left out.
    """
    face = objective.face(theta, information)
    if face is None:
        raise ValueError("the objective has no coordinates along its boundary.")
    x, J = face.origin, face.jacobian(face.origin)
    inner = J.T @ information @ J
    free = ~np.asarray(face.fixed_internal) & (x > face.internal_lower) & (np.diag(inner) > 0)
    scale = np.where(free, errors(inner), 0.0)
    values, vectors = np.linalg.eigh(inner * np.outer(scale, scale))
    known = values > _RESOLVED
    directions = scale[:, None] * vectors[:, known] / np.sqrt(values[known])
    room = np.minimum(x - face.internal_lower, face.internal_upper - x)
    steps = _STEP * np.minimum(scale, np.where(room > 0, room, np.inf))
    observed = directions.T @ curvature(objective, face, steps / 10, central=True) @ directions
    slopes = np.zeros((len(x), len(objective.coef), len(objective.coef)))
    for i in np.flatnonzero(steps):
        move = steps[i] * (np.arange(x.size) == i)
        ends = [coefficient_cov(objective, face.external(x + sign * move)) for sign in (1, -1)]
        slopes[i] = (ends[0] - ends[1]) / (2 * steps[i])
    return np.tensordot(directions.T, slopes, 1), information_inverse(observed, np.ones(len(observed), dtype=bool))


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
