"""Maximising again with some parameters held, and derivatives of β̂'s covariance, from an objective alone."""

from dataclasses import replace
from typing import Any

import numpy as np

from pm_fastlmm.aireml.cone import errors
from pm_fastlmm.aireml.face import curvature, score_at
from pm_fastlmm.aireml.iteration import Tolerances, maximise
from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.base.arrays import FloatArray

_STEP = 0.02  # of a standard error or of a variance: with one extrapolation differences are good to about 1e-8
_DIFFERENCE = 1e-3  # of a standard error: the step of the differences that make the observed information
_ITERATIONS = 200
_RESOLVED = 1e-10  # eigenvalue of the information, scaled to unit diagonal, below which a direction has none


def maximise_given(objective: Any, name: str, value: float, start: FloatArray) -> tuple[FloatArray, float]:
    """Return θ and ℓ at the maximum with one parameter held, from a start; -inf where V is not positive definite."""
    held = np.array(objective.names) == name
    theta = np.where(held, value, start)
    changed = replace(objective, fixed=objective.fixed | held)
    loglik = changed.log_likelihood(theta)
    if loglik == -np.inf or changed.fixed.all():
        return theta, loglik
    last = maximise(changed, theta, tolerances=Tolerances(), max_iterations=_ITERATIONS).iterations[-1]
    return last.theta, last.loglik


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
        ends = [score_at(objective, theta + sign * move) for sign in (1, -1)]
        observed[:, i] = (ends[1] - ends[0]) / (2 * _DIFFERENCE * se[i])
    return (observed + observed.T) / 2


def steps_of(objective: Objective, theta: FloatArray, se: FloatArray) -> FloatArray:
    """Return steps of differences that stay inside the bounds; 0 for what has no standard error."""
    return np.where(np.isfinite(se), _inside(se, theta - objective.lower, objective.upper - theta), 0.0)


def _inside(errors: FloatArray, below: FloatArray, above: FloatArray) -> FloatArray:
    room = np.minimum(below, above)
    return _STEP * np.minimum(errors, np.where(room > 0, room, np.inf))


def first_differences(objective: Objective, theta: FloatArray, steps: FloatArray) -> FloatArray:
    """Return ∂Φ/∂θ (P, r, r) by central differences with one extrapolation, 0 where the step is."""
    near, far = (_slopes(objective, lambda x: x, theta, k * steps) for k in (1, 2))
    return (4 * near - far) / 3


def _slopes(objective: Objective, to_theta: Any, x: FloatArray, steps: FloatArray) -> FloatArray:
    """Return ∂Φ/∂x by central differences, 0 where the step is."""
    r = len(objective.coef)
    out = np.zeros((x.size, r, r))
    for i in np.flatnonzero(steps):
        move = steps[i] * (np.arange(x.size) == i)
        ends = [coefficient_cov(objective, to_theta(x + sign * move)) for sign in (1, -1)]
        out[i] = (ends[0] - ends[1]) / (2 * steps[i])
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
    free = ~np.asarray(face.fixed) & (x > face.internal_lower) & (np.diag(inner) > 0)
    scale = np.where(free, errors(inner), 0.0)
    values, vectors = np.linalg.eigh(inner * np.outer(scale, scale))
    known = values > _RESOLVED
    directions = scale[:, None] * vectors[:, known] / np.sqrt(values[known])
    steps = _inside(scale, x - face.internal_lower, face.internal_upper - x)
    observed = directions.T @ curvature(objective, face, steps / 10, central=True) @ directions
    slopes = _slopes(objective, face.external, x, steps)
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
