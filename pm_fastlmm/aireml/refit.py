"""Derivatives of the likelihood and of β̂'s covariance by differences, from an objective alone."""

from collections.abc import Callable

import numpy as np

from pm_fastlmm.aireml.cone import errors
from pm_fastlmm.aireml.face import curvature, score_at
from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.base.arrays import FloatArray

_STEP = 0.02  # of a standard error or of a variance: with one extrapolation differences are good to about 1e-8
_DIFFERENCE = 1e-3  # of a standard error: the step of the differences that make the observed information
_RESOLVED = 1e-10  # eigenvalue of the information, scaled to unit diagonal, below which a direction has none


def coefficient_cov(objective: Objective, theta: FloatArray) -> FloatArray:
    """Return Φ = cov β̂ at θ, NaN where V is not positive definite."""
    state = objective.state(theta)
    r = len(objective.coef)
    return np.full((r, r), np.nan) if state is None else objective.coefficients(state)[1]


def observed_information(objective: Objective, theta: FloatArray, se: FloatArray) -> FloatArray:
    """Return minus the derivative of the score, by differences; 0 for what has no standard error."""
    steps = np.where(np.isfinite(se), _DIFFERENCE * se, 0.0)
    observed = -_slopes(lambda x: score_at(objective, x), theta, steps, (len(theta),))
    return (observed + observed.T) / 2


def coefficient_slopes(objective: Objective, theta: FloatArray, se: FloatArray) -> FloatArray:
    """Return ∂β̂/∂θ (P, r), by differences; 0 for what has no standard error."""

    def estimate(x: FloatArray) -> FloatArray:
        state = objective.state(x)
        return np.full(len(objective.coef), np.nan) if state is None else objective.coefficients(state)[0]

    return _slopes(estimate, theta, np.where(np.isfinite(se), _DIFFERENCE * se, 0.0), (len(objective.coef),))


def steps_of(objective: Objective, theta: FloatArray, se: FloatArray) -> FloatArray:
    """Return steps of differences that stay inside the bounds; 0 for what has no standard error."""
    return np.where(np.isfinite(se), _inside(se, theta - objective.lower, objective.upper - theta), 0.0)


def _inside(errors: FloatArray, below: FloatArray, above: FloatArray) -> FloatArray:
    room = np.minimum(below, above)
    return _STEP * np.minimum(errors, np.where(room > 0, room, np.inf))


def first_differences(objective: Objective, theta: FloatArray, steps: FloatArray) -> FloatArray:
    """Return ∂Φ/∂θ (P, r, r) by central differences with one extrapolation, 0 where the step is."""
    size = 2 * (len(objective.coef),)
    near, far = (_slopes(lambda x: coefficient_cov(objective, x), theta, k * steps, size) for k in (1, 2))
    return (4 * near - far) / 3


def _slopes(
    function: Callable[[FloatArray], FloatArray], x: FloatArray, steps: FloatArray, size: tuple[int, ...]
) -> FloatArray:
    """Return the derivatives of a function of this size by central differences, 0 where the step is."""
    out = np.zeros((x.size, *size))
    for i in np.flatnonzero(steps):
        move = steps[i] * (np.arange(x.size) == i)
        out[i] = (function(x + move) - function(x - move)) / (2 * steps[i])
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
    slopes = _slopes(lambda x: coefficient_cov(objective, face.external(x)), x, steps, 2 * (len(objective.coef),))
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
