"""The next step: with average information, with what scores have shown of the curvature, or Newton's along a face."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.aireml.cone import all_semidefinite, best_step
from pm_fastlmm.aireml.face import Face, observed_information
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray

_FLOOR = 1e-8  # smallest eigenvalue of the information, scaled to unit diagonal, that a step divides by
_SHORTEST = 0.2
_REACH = 5.0
_NEAR_END = 0.1  # Newton decrement below which steps begin from where the curvature is that at the maximum
_IDLE = 0.5  # ratio of successive decrements above which a step has brought nothing …
_PATIENCE = 4  # … and how many of these in a row are steps that crawl, however much they promise
_NEWTON = 3  # observed informations that Newton's way to the end takes: of two steps, and of where they arrive
_END = 1e-12  # decrement at which an iteration is at its end


def propose(
    objective: Objective | Face, omega: FloatArray, score: FloatArray, information: FloatArray
) -> tuple[FloatArray, float]:
    """
    Return the average-information step from internal coordinates ω, kept inside the bounds, and the Newton decrement.

    A coordinate at a bound whose score points outward stays. One that the step would carry beyond a bound is put on it,
    and the others are solved for anew given that (an active set). A coordinate without bounds may be a logarithm, and a
    step across many orders of magnitude means nothing: it is cut. The decrement is that of the full step. Where a
    matrix would become indefinite, the step is the best one of those that keep it semi-definite, and the decrement
    twice what it promises.
    """
    lower, upper = objective.internal_lower, objective.internal_upper
    at_bound = ((omega <= lower) & (score <= 0)) | ((omega >= upper) & (score >= 0))
    held = at_bound | objective.fixed | objective.inactive(omega, score, information)
    free = ~held & (information.diagonal() > 0)
    matrices = objective.semidefinite
    loose = np.isinf(lower) & np.isinf(upper)
    for matrix in matrices:
        loose[matrix.place] = False
    reach = np.where(loose, np.maximum(np.abs(omega), _REACH), np.inf)
    low, high = np.maximum(lower - omega, -reach), np.minimum(upper - omega, reach)
    step, decrement = _inside(score, information, free, low, high)
    if all_semidefinite(omega + step, matrices):
        return step, decrement
    for matrix in matrices:
        free[matrix.place] = True
    step = best_step(score, information, omega, omega + low, omega + high, matrices, free)
    return step, float(2 * score @ step - step @ information @ step)


def _inside(
    score: FloatArray, information: FloatArray, free: Any, low: FloatArray, high: FloatArray
) -> tuple[FloatArray, float]:
    """Return the step of the free coordinates between bounds, and the decrement of the one without them."""
    step, settled, decrement = np.zeros_like(score), np.zeros_like(free), 0.0
    open_ = free.copy()
    while open_.any():
        rows = information[open_]
        step[open_] = _solve(rows[:, open_], score[open_] - rows[:, settled] @ step[settled])
        if not settled.any():
            decrement = float(score @ step)
        beyond = open_ & ((step < low) | (step > high))
        if not beyond.any():
            break
        room = np.where(step < 0, -low, high)
        excess = np.divide(np.abs(step), room, out=np.full(len(step), np.inf), where=room > 0)
        excess[~beyond] = 0.0
        beyond &= excess >= 0.5 * excess.max()  # the others may only follow these
        step[beyond] = np.clip(step, low, high)[beyond]
        settled |= beyond
        open_ &= ~beyond
    if free.any() and score @ step <= 0:  # what was cut and what remained may point downhill together
        step[free] = np.clip(score[free] / information.diagonal()[free], low[free], high[free])
    return step, decrement


def _solve(information: FloatArray, score: FloatArray) -> FloatArray:
    """Solve for a step with the information scaled to unit diagonal and its eigenvalues kept positive."""
    scale = 1 / np.sqrt(information.diagonal())
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    values = np.maximum(values, _FLOOR * values.max())
    return np.asarray(scale * (vectors @ ((vectors.T @ (scale * score)) / values)))


class Proposal(NamedTuple):
    """
    A step, and what the quadratic model promises of it.

    Attributes
    ----------
    path : callable
        ω by the share of the step that is taken.
    direction : array
        In the coordinates of the model, as is the slope of ℓ along it.
    slope, decrement : float
    kind : "AI", "secant" or "Newton"
    length : float
        The share to begin with, and of a step that was taken the one that it went.
    """

    path: Callable[[float], FloatArray]
    direction: FloatArray
    slope: float
    decrement: float
    kind: str = "AI"
    length: float = 1.0

    def best_length(self, score: FloatArray) -> float:
        """
        Return the length at which this step would have ended where the slope is 0, by the secant; at most 1.

        In nonlinear parameters the average information can be far below the curvature; full steps then go to and fro
        across the maximum.
        """
        fall = self.slope - float(score @ self.direction)
        return float(np.clip(self.length * self.slope / fall, _SHORTEST, 1.0)) if fall > 0 else 1.0


@dataclass(slots=True, eq=False)
class Steps:
    """What earlier iterations tell of the next step: its length, the curvature, and whether steps crawl."""

    last: Proposal | None = None
    curvature: "Curvature | None" = None
    decrement: float = math.inf
    crawling: bool = False
    idle: int = 0

    def proposal(self, objective: Objective, omega: FloatArray, score: FloatArray, information: FloatArray) -> Proposal:
        """Return the next step, of those of average, learnt and observed information the one that promises most."""
        lower, upper = objective.internal_lower, objective.internal_upper
        step, decrement = propose(objective, omega, score, information)
        kind, length = "AI", 1.0 if self.last is None else self.last.best_length(score)
        self.idle = self.idle + 1 if decrement > _IDLE * self.decrement else 0
        idle = self.idle >= _PATIENCE
        near = idle or max(self.decrement, decrement) < _NEAR_END
        self.curvature = Curvature.at(omega, score, information, after=self.curvature if near else None)
        if near and not self.crawling:
            face = objective.face(omega, information)
            self.crawling = face is not None and _steps_left(self.decrement, decrement) > _NEWTON * len(face.origin)
        if near and (observed := self.curvature.observed(objective)) is not None:
            step, decrement = propose(objective, omega, score, observed)
            kind, length = "secant", 1.0
        average = Proposal(
            lambda t: np.clip(omega + t * step, lower, upper), step, float(score @ step), decrement, kind, length
        )
        newton = _along_face(objective, omega, score, information) if self.crawling else None
        if newton is not None and idle and newton.decrement > _END:  # it is taken, and no end while the other promises
            newton = newton._replace(decrement=max(newton.decrement, decrement))
        out = average if newton is None or newton.decrement < decrement else newton
        self.decrement = out.decrement
        return out

    def took(self, proposal: Proposal, kind: str, length: float) -> None:
        """Remember a step that was taken."""
        self.last = proposal._replace(length=length) if kind.startswith("AI") else None


def _steps_left(before: float, now: float) -> float:
    """
    Return how many steps would be left if decrements went on to fall at the same rate.

    Where they are more than the scores that observed informations take, one for each element, these are worth their
    price.
    """
    if not 0 < now < before:
        return math.inf if now > 0 else 0.0
    return math.log(_END / now) / math.log(now / before)


def _along_face(objective: Objective, omega: FloatArray, score: FloatArray, information: FloatArray) -> Proposal | None:
    """Return Newton's step in coordinates of matrices that keep their rank, None where there are none."""
    face = objective.face(omega, information)
    if face is None:
        return None
    J = face.jacobian(face.origin)
    inner_score = J.T @ score
    observed = observed_information(objective, face, J.T @ information @ J, inner_score)
    if observed is None:
        return None
    step, decrement = propose(face, face.origin, inner_score, observed)
    slope = float(inner_score @ step)
    return Proposal(lambda t: face.external(face.origin + t * step), step, slope, decrement, "Newton")


class Curvature(NamedTuple):
    """
    Average information, and what must be added to it for the curvature that successive scores show.

    The average information differs from the curvature, and steps with it converge linearly. The difference is learnt
    from the scores that are there anyway, as in NL2SOL (Dennis, Gay & Welsch 1981, doi:10.1145/355958.355965), and
    convergence is superlinear. Steps from far away would tell of the curvature elsewhere: those near the end are used.
    """

    omega: FloatArray
    score: FloatArray
    information: FloatArray
    difference: FloatArray

    @classmethod
    def at(
        cls, omega: FloatArray, score: FloatArray, information: FloatArray, *, after: "Curvature | None"
    ) -> "Curvature":
        """Return the curvature at ω, the difference updated by the change of the score since the last point."""
        difference = np.zeros_like(information) if after is None else after._updated(omega, score, information)
        return cls(omega, score, information, difference)

    def _updated(self, omega: FloatArray, score: FloatArray, information: FloatArray) -> FloatArray:
        step, fall = omega - self.omega, self.score - score
        along = float(fall @ step)
        if not along > 0:
            return self.difference
        rest, known = fall - information @ step, self.difference @ step
        size = abs(float(step @ known))
        scale = min(1.0, abs(float(step @ rest)) / size) if size > 0 else 1.0
        error = rest - scale * known
        outer = np.outer(error, fall)
        return np.asarray(
            scale * self.difference + (outer + outer.T) / along - float(error @ step) * np.outer(fall, fall) / along**2
        )

    def observed(self, objective: Objective) -> FloatArray | None:
        """
        Return the sum if it is not far below the average information in any direction, else None.

        Where there is no information nothing is learnt.
        """
        free = ~objective.fixed & (self.information.diagonal() > 0)
        own = np.ix_(free, free)
        out = self.information.copy()
        out[own] += self.difference[own]
        scale = np.sqrt(self.information.diagonal()[free])
        average, block = (M[own] / scale[:, None] / scale for M in (self.information, out))
        values = np.linalg.eigvalsh(average)
        if not values.size or values[0] <= _FLOOR:
            return None
        half = np.linalg.inv(np.linalg.cholesky(average))
        return np.asarray(out) if np.linalg.eigvalsh(half @ block @ half.T)[0] > _SHORTEST else None
