"""The iteration: average-information steps under bounds, with step control on the exact likelihood."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.aireml.objective import Objective

_HALVINGS = 14
_ARMIJO = 1e-4
_FLOOR = 1e-8  # smallest eigenvalue of the information, scaled to unit diagonal, that a step divides by
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Tolerances:
    """
    When an iteration has converged: all that are not None must hold, and one must be given.

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

    score: float | None = 1e-9
    step: float | None = 1e-4
    loglik: float | None = 1e-9

    def __post_init__(self) -> None:
        """Check that there is a criterion, and that all are positive."""
        given = [t for t in (self.score, self.step, self.loglik) if t is not None]
        if not given:
            raise ValueError("all of score_tol, step_tol and loglik_tol are None: nothing would stop the iteration.")
        if not all(t > 0 for t in given):
            raise ValueError("score_tol, step_tol and loglik_tol must be positive, or None to switch one off.")


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
        "AI", "AI, halved", "EM", or "" where no step was taken.
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
    """How an iteration ended: the iterations, whether it converged and why it stopped."""

    iterations: list[Iteration] = field(default_factory=list)
    converged: bool = False
    reason: str = ""


def propose(objective: Objective, omega: FloatArray, score: FloatArray, information: FloatArray) -> FloatArray:
    """
    Return the average-information step from internal coordinates ω, kept inside the bounds.

    A coordinate at a bound whose score points outward stays. One that the step would carry beyond a bound is put on it,
    and the others are solved for anew given that (an active set).
    """
    lower, upper = objective.internal_lower, objective.internal_upper
    at_bound = ((omega <= lower) & (score <= 0)) | ((omega >= upper) & (score >= 0))
    free = ~at_bound & ~objective.fixed_internal & (np.diag(information) > 0)
    step = np.zeros_like(omega)
    bound = np.zeros_like(free)
    for _ in range(len(omega) + 1):
        if not free.any():
            break
        rest = score[free] - information[np.ix_(free, bound)] @ step[bound]
        step[free] = _solve(information[np.ix_(free, free)], rest)
        target = omega + step
        beyond = free & ((target < lower) | (target > upper))
        if not beyond.any():
            break
        # a coordinate on its bound can only be carried beyond it by the others' steps: it stays
        step[beyond] = np.clip(target, lower, upper)[beyond] - omega[beyond]
        bound |= beyond
        free &= ~beyond
    return step


def _solve(information: FloatArray, score: FloatArray) -> FloatArray:
    """Solve for a step with the information scaled to unit diagonal and its eigenvalues kept positive."""
    scale = 1 / np.sqrt(np.diag(information))
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    values = np.maximum(values, _FLOOR * values.max())
    return np.asarray(scale * (vectors @ ((vectors.T @ (scale * score)) / values)))


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
    omega = objective.internal(start)
    state = objective.state(objective.external(omega))
    if state is None:
        raise ValueError(
            f"the likelihood is not defined at the start, {objective.described(start)}: V is not positive definite there."
        )
    for count in range(max_iterations + 1):
        theta = objective.external(omega)
        score, information = objective.derivatives(theta, state)
        J = objective.jacobian(omega)
        inner_score, inner_information = J.T @ score, J.T @ information @ J
        step = propose(objective, omega, inner_score, inner_information)
        decrement = float(inner_score @ step)
        proposed = objective.external(omega + step) - theta
        current = Iteration(
            theta, float(state.loglik), score, information, objective.coefficients(state)[0], decrement, proposed,
            np.zeros_like(theta),
        )  # fmt: skip
        trace.converged = _converged(tolerances, objective, theta, proposed, decrement)
        if trace.converged or count == max_iterations:
            trace.iterations.append(current)
            report(count, current)
            trace.reason = "" if trace.converged else f"{max_iterations} iterations were not enough"
            return trace
        moved, next_state, kind = _advance(objective, omega, step, state, decrement, score)
        if next_state is None:
            trace.iterations.append(current)
            report(count, current)
            trace.converged = decrement <= max(_ROUNDING * (1 + abs(state.loglik)), 1e-7)
            trace.reason = (
                ""
                if trace.converged
                else "the likelihood could not be raised along the proposed step, though its score is not zero"
            )
            return trace
        current = replace(current, taken=objective.external(moved) - theta, kind=kind)
        trace.iterations.append(current)
        report(count, current)
        omega, state = moved, next_state
    return trace


def _converged(
    tolerances: Tolerances, objective: Objective, theta: FloatArray, proposed: FloatArray, decrement: float
) -> bool:
    relative = float((np.abs(proposed) / objective.typical(theta)).max(initial=0.0))
    return all(
        tolerance is None or value <= tolerance
        for tolerance, value in (
            (tolerances.score, decrement),
            (tolerances.step, relative),
            (tolerances.loglik, decrement / 2),
        )
    )


def _advance(
    objective: Objective, omega: FloatArray, step: FloatArray, state: Any, decrement: float, score: FloatArray
) -> tuple[FloatArray, Any, str]:
    """Return the next ω and its state: the step, halved until the likelihood rises enough, or an EM step."""
    length = 1.0
    slack = _ROUNDING * abs(state.loglik)
    for attempt in range(_HALVINGS):
        target = np.clip(omega + length * step, objective.internal_lower, objective.internal_upper)
        candidate = objective.state(objective.external(target))
        if candidate is not None and candidate.loglik >= state.loglik + _ARMIJO * length * max(decrement, 0) - slack:
            rescaled = objective.rescaled(target, candidate)
            return *(rescaled or (target, candidate)), "AI, halved" if attempt else "AI"
        length *= 0.25 if candidate is None or not math.isfinite(candidate.loglik) else 0.5
    target = objective.em(omega, score)
    if target is not None:
        candidate = objective.state(objective.external(target))
        if candidate is not None and candidate.loglik > state.loglik + slack:
            return target, candidate, "EM"
    return omega, None, ""
