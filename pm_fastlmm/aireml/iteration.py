"""The iteration: average-information steps under bounds, with step control on the exact likelihood."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pm_fastlmm.aireml.objective import Objective, typical
from pm_fastlmm.aireml.steps import Proposal, Steps
from pm_fastlmm.base.arrays import EPS, FloatArray

_HALVINGS = 14
_ITERATIONS = 200  # with a parameter held
_NEAR = 0.99  # of the way to a bound where V is singular
_ARMIJO = 1e-4
_ROUNDING = 1e-12
_IDLE = 1e-8  # information, times the squared size of a parameter, of one that the likelihood does not depend on
_NOT_RAISED = "the likelihood could not be raised along the proposed step, though its score is not zero"
_GAIN = 1e-3  # of the log-likelihood, that makes it worth to leave a boundary


@dataclass(frozen=True, slots=True)
class Tolerances:
    """
    When an iteration has converged: all that are not None must hold, and one must be given.

    A gain below the rounding of the log-likelihood, ε|ℓ|, cannot be told from none: it satisfies `score` and `loglik`.
    Of a million observations that is 1e-10, and steps are then below 1e-5 of a standard error.

    Attributes
    ----------
    score : float or None
        Of the Newton decrement sᵀ(AI)⁻¹s over free parameters, twice the gain that is left; it does not depend on the
        parametrisation, so that no false zero satisfies it.
    step : float or None
        Of the proposed step, relative to each parameter or its typical size.
    loglik : float or None
        Of the predicted gain of the log-likelihood, absolute.
    """

    score: float | None = 1e-12
    step: float | None = 1e-5
    loglik: float | None = 1e-9

    def __post_init__(self) -> None:
        """Check that there is a criterion, and that all are positive."""
        given = [t for t in (self.score, self.step, self.loglik) if t is not None]
        if not given:
            raise ValueError("all of score_tol, step_tol and loglik_tol are None: nothing would stop the iteration.")
        if not all(t > 0 for t in given):
            raise ValueError("score_tol, step_tol and loglik_tol must be positive, or None to switch one off.")

    def hold(self, decrement: float, step: float, loglik: float) -> bool:
        """Return whether they hold for a decrement and a relative step at this log-likelihood."""
        gain = 0.0 if decrement / 2 <= EPS * abs(loglik) else decrement / 2
        reached = ((2 * gain, self.score), (step, self.step), (gain, self.loglik))
        return all(limit is None or value <= limit for value, limit in reached)


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """
    One iteration, at θ before its step.

    Attributes
    ----------
    theta, score, average_information, beta : arrays
    loglik, decrement : float
    proposed, taken : arrays
        The step that was proposed and the one that was taken, in θ.
    kind : str
        "AI"; near the end "secant", with what successive scores add to AI; or "Newton" along singular matrices; these
        with ", halved"; "EM"; "escape" from a bound; or "" where no step was taken.
    """

    theta: FloatArray
    loglik: float
    score: FloatArray
    average_information: FloatArray
    beta: FloatArray
    decrement: float
    proposed: FloatArray
    taken: FloatArray
    kind: str = ""


@dataclass(slots=True, eq=False)
class Trace:
    """How an iteration ended: the iterations, β̂ and its covariance, whether it converged and why it stopped."""

    iterations: list[Iteration] = field(default_factory=list)
    blue: tuple[FloatArray, FloatArray] = (np.zeros(0), np.zeros((0, 0)))
    converged: bool = False
    reason: str = ""


def maximise(
    objective: Objective,
    start: FloatArray,
    *,
    tolerances: Tolerances,
    max_iterations: int,
    report: Callable[[int, Iteration], None] = lambda i, iteration: None,
) -> Trace:
    """Iterate from θ = start until the tolerances hold, the likelihood cannot be raised, or iterations run out."""
    trace = Trace()
    omega = np.clip(objective.internal(start), objective.internal_lower, objective.internal_upper)
    state = objective.state(objective.external(omega))
    if state is None:
        raise ValueError(
            f"the likelihood is not defined at the start, {objective.described(start)}: V is not positive definite "
            "there. Give another start=, or other values to fixed="
        )
    omega, state = objective.rescaled(omega, state) or (omega, state)
    steps, explored = Steps(), False
    for count in range(max_iterations + 1):
        theta = objective.external(omega)
        score, information = objective.derivatives(theta, state)
        J = objective.jacobian(omega)
        inner_score, inner_information = J.T @ score, J.T @ information @ J
        proposal = steps.proposal(objective, omega, inner_score, inner_information)
        proposed = objective.external(proposal.path(1.0)) - theta
        current = Iteration(
            theta, float(state.loglik), score, information, objective.estimate(state), proposal.decrement,
            proposed, np.zeros_like(theta),
        )  # fmt: skip
        size = typical(theta, information, objective.semidefinite)
        relative = float((np.abs(proposed) / size).max(initial=0.0))
        trace.converged = tolerances.hold(proposal.decrement, relative, current.loglik)
        moved: tuple[FloatArray, Any] | None = None
        kind = ""
        if count == max_iterations:
            trace.reason = "" if trace.converged else f"{max_iterations} iterations were not enough"
        elif not trace.converged:
            moved, kind, length = _advance(objective, omega, state, score, proposal)
            steps.took(proposal, kind, length)
            if moved is None:
                trace.converged = proposal.decrement <= max(_ROUNDING * (1 + abs(state.loglik)), 1e-7)
                trace.reason = "" if trace.converged else _NOT_RAISED
        elif not explored:
            explored, moved, kind = True, _explored(objective, omega, inner_score, inner_information), "escape"
            trace.converged, steps = moved is None, Steps()
        if moved is not None:
            current = replace(current, taken=objective.external(moved[0]) - theta, kind=kind)
        trace.iterations.append(current)
        report(count, current)
        if moved is None:
            trace.blue = objective.coefficients(state)
            break
        omega, state = moved
    return trace


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


def _explored(
    objective: Objective, omega: FloatArray, score: FloatArray, information: FloatArray
) -> tuple[FloatArray, Any] | None:
    """
    Return ω and state from which a parameter leaves its bound, None where none would.

    Where a variance is 0, the likelihood does not depend on the lengthscale or correlation of its component, and the
    sign of the variance's score was read at one value of them. Here others are tried, one parameter at a time.
    """
    lower = objective.internal_lower
    size = np.maximum(np.abs(omega), 1.0)
    open_ = ~np.asarray(objective.fixed)
    resting = open_ & (omega <= lower) & (score <= 0)
    idle = open_ & ~resting & (np.diag(information) * size**2 < _IDLE)
    best, most = None, _GAIN
    for i in np.flatnonzero(idle) if resting.any() else ():
        for value in _values(float(omega[i]), float(lower[i]), float(objective.internal_upper[i])):
            trial = omega.copy()
            trial[i] = value
            theta = objective.external(trial)
            state = objective.state(theta)
            if state is None:
                continue
            J, (slope, curvature) = objective.jacobian(trial), objective.derivatives(theta, state)
            inner, diagonal = J.T @ slope, np.diag(J.T @ curvature @ J)
            rising = resting & (inner > 0) & (diagonal > 0)
            gain = float((0.5 * inner[rising] ** 2 / diagonal[rising]).max(initial=0.0))
            if gain > most:
                best, most = (trial, state), gain
    return best


def _values(value: float, lower: float, upper: float) -> FloatArray:
    """Return values across the range of a parameter: between its bounds, or around what it is."""
    if math.isfinite(lower) and math.isfinite(upper):
        inside = np.linspace(0, 1, 11)[1:-1]
        return np.asarray(lower * (upper / lower) ** inside if lower > 0 else lower + (upper - lower) * inside)
    if lower == 0:
        return np.asarray(value * 4.0 ** np.arange(-4, 5))
    return value + np.arange(-4.0, 5.0)


def _advance(
    objective: Objective, omega: FloatArray, state: Any, score: FloatArray, proposal: Proposal
) -> tuple[tuple[FloatArray, Any] | None, str, float]:
    """Return the next ω and its state, and how: a step, halved until the likelihood rises enough, or an EM step."""
    slack, length = _ROUNDING * abs(state.loglik), proposal.length
    for attempt in range(_HALVINGS):
        target = proposal.path(length)
        candidate = objective.state(objective.external(target))
        promised = _ARMIJO * length * max(proposal.slope, 0)
        if candidate is not None and candidate.loglik >= state.loglik + promised - slack:
            kind = f"{proposal.kind}, halved" if attempt else proposal.kind
            return objective.rescaled(target, candidate) or (target, candidate), kind, length
        undefined = candidate is None or not math.isfinite(candidate.loglik)
        length *= _NEAR if undefined and not attempt else 0.25 if undefined else 0.5
    improved = objective.em(omega, score)
    if improved is not None:
        improved = np.clip(improved, objective.internal_lower, objective.internal_upper)
        candidate = objective.state(objective.external(improved))
        if candidate is not None and candidate.loglik > state.loglik + slack:
            return (improved, candidate), "EM", 0.0
    return None, "", 0.0
