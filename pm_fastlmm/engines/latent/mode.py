"""
The mode of the effects given the parameters, by Newton's method.

    f(x) = Σ log p(y_i | η_i) - ½xᵀPx,   η = offset + WΛx,   P = blockdiag(Q_k ⊗ I, 0)

in the coordinates of the equations, in which a singular Σ_k is no trouble. The Hessian is -C, the matrix of the
mixed-model equations with the weights D = -∂²log p/∂η² in place of those of residuals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.weighted_equations import WeightedEquations
from pm_fastlmm.families.family import Derivatives, Family
from pm_fastlmm.sparse.cholesky import NotPositiveDefinite

_NEAR = 1e-8  # Newton decrement after which one more step ends at the rounding of the mode
_STILL = 1e-2  # of a step of η
_DRIFT, _PATIENCE = (1e-3, 0.3), 8  # decrement below which steps of η this long bring nothing, and how many of them
_THERE = 1e-18  # decrement at which x is there already
_SURE = 1e-3  # below which a full step is taken, whose gain may be less than the rounding of f
_ITERATIONS, _HALVINGS = 200, 30
_FLAT = 1e-10  # weight of a row, beside the mean, that stands for one that is not positive while the mode is far
_ROUNDING = 1e-13


class Mode(NamedTuple):
    """
    Where f is highest.

    Attributes
    ----------
    x : (N,) array
    eta : (n,) array
    derivatives : Derivatives
        Of log p at η.
    factor : Factor
        Of C at the mode.
    value : float
        f.
    """

    x: FloatArray
    eta: FloatArray
    derivatives: Derivatives
    factor: Any
    value: float


class Point(NamedTuple):
    """x with its η, log p and its derivatives, Px, and f, which is -inf where it is no number."""

    x: FloatArray
    eta: FloatArray
    derivatives: Derivatives
    penalty: FloatArray
    value: float


@dataclass(frozen=True, eq=False)
class Problem:
    """What is maximised: equations with roots of Σ_k, a response, its family and parameters ψ, and an offset of η."""

    equations: WeightedEquations
    roots: Sequence[FloatArray]
    family: Family
    y: FloatArray
    psi: FloatArray
    offset: Any

    @cached_property
    def rows(self) -> Any:
        """WΛ (n, N)."""
        return self.equations.scaled_rows(self.roots)

    @cached_property
    def columns(self) -> Any:
        """(WΛ)ᵀ."""
        return self.rows.T

    def at(self, x: FloatArray) -> Point:
        """Return what f is at x."""
        eta = self.offset + self.rows @ x
        at, penalty = self.derivatives(eta), self.equations.penalised(x)
        value = float(at.value.sum()) - 0.5 * float(x @ penalty)
        return Point(x, eta, at, penalty, value if math.isfinite(value) else -math.inf)

    def derivatives(self, eta: FloatArray) -> Derivatives:
        """Return those of log p."""
        return self.family.derivatives(self.y, eta, self.psi)

    def factorise(self, weights: FloatArray) -> Any:
        """Return C factored."""
        return self.equations.of_rows(self.rows, self.roots, weights)


def find_mode(problem: Problem, start: FloatArray | None = None, enough: float = 0.0) -> Mode | None:
    """
    Return the mode, from where the last one was or else from a smoothed response; None where there is none.

    A step with a decrement up to `enough` is the last one, and C that of where it began. There is none where f rises
    for ever, as under separation, or where H is not definite at its highest point.
    """
    with np.errstate(all="ignore"):  # far from the mode, whose values are refused by what they are
        found = None if start is None else _search(problem, problem.at(start), enough)
        return _search(problem, problem.at(_first(problem)), enough) if found is None else found


def _search(problem: Problem, here: Point, enough: float) -> Mode | None:
    near, drifting = False, 0
    for _ in range(_ITERATIONS):
        first, weights = here.derivatives.first, -here.derivatives.second
        if not (math.isfinite(here.value) and _finite(first, weights)):
            return None
        factor, exact = _factored(problem, weights)
        if factor is None:
            return None
        if near and exact:
            return Mode(here.x, here.eta, here.derivatives, factor, here.value)
        slope = problem.columns @ first - here.penalty
        step = factor.solve(slope)
        decrement = float(step @ slope)
        walked = float(np.abs(problem.rows @ step).max(initial=0.0))
        # under separation f gains next to nothing while η walks on
        drifting = drifting + 1 if decrement < _DRIFT[0] and walked > _DRIFT[1] else 0
        if drifting > _PATIENCE:
            return None
        standing = walked < _STILL
        if exact and standing and decrement <= _THERE * max(1.0, abs(here.value)):
            return Mode(here.x, here.eta, here.derivatives, factor, here.value)
        moved = _moved(problem, here, step, decrement)
        if moved is None:  # no step raises f by more than its rounding
            done = exact and standing and decrement <= 1e-6 * max(1.0, abs(here.value))
            return Mode(here.x, here.eta, here.derivatives, factor, here.value) if done else None
        here, length = moved
        if exact and standing and length == 1.0 and decrement <= enough:
            return Mode(here.x, here.eta, here.derivatives, factor, here.value)
        near = exact and standing and length == 1.0 and decrement < _NEAR
    return None


def _finite(*arrays: FloatArray) -> bool:
    return all(math.isfinite(float(array.sum())) or bool(np.isfinite(array).all()) for array in arrays)


def _first(problem: Problem) -> FloatArray:
    """Return x of one weighted least squares from a smoothed response, or 0."""
    none = np.zeros(problem.equations.ends[-1])
    eta = np.asarray(problem.family.start(problem.y)[0], dtype=float)
    at = problem.derivatives(eta)
    if not _finite(at.first, at.second):
        return none
    weights = np.maximum(-at.second, 0.0)
    try:
        factor = problem.factorise(np.maximum(weights, _FLAT * max(float(weights.mean()), 1e-300)))
    except NotPositiveDefinite:
        return none
    x = factor.solve(problem.columns @ (weights * (eta - problem.offset) + at.first))
    return x if problem.at(x).value > problem.at(none).value else none


def _factored(problem: Problem, weights: FloatArray) -> tuple[Any, bool]:
    """Return C factored, and whether of the weights themselves; of positive ones where log p is not concave."""
    try:
        return problem.factorise(weights), True
    except NotPositiveDefinite:
        pass
    least = _FLAT * max(float(np.abs(weights).mean()), 1e-300)
    try:
        return problem.factorise(np.maximum(np.abs(weights), least)), False
    except NotPositiveDefinite:
        return None, False


def _moved(problem: Problem, here: Point, step: FloatArray, decrement: float) -> tuple[Point, float] | None:
    """Return the point after a step, halved until f rises, and its length; None where it does not."""
    length, slack = 1.0, _ROUNDING * max(1.0, abs(here.value))
    for attempt in range(_HALVINGS):
        moved = problem.at(here.x + length * step)
        gain = moved.value - here.value
        sure = not attempt and decrement < _SURE and abs(gain) <= decrement + 1e4 * slack
        if sure or gain >= 1e-4 * length * decrement - slack:
            return moved, length
        length *= 0.5
    return None
