"""
The mode of the effects given the parameters, by Newton's method.

    f(x) = Σ log p(y_i | η_i) - ½xᵀPx,   η = offset + WΛx,   P = blockdiag(Q_k ⊗ I, 0)

in the coordinates of the equations, in which a singular Σ_k is no trouble. The Hessian is -C, the matrix of the
mixed-model equations with the weights D = -∂²log p/∂η² in place of those of residuals.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.sparse.equations import Equations
from pm_fastlmm.families.family import Derivatives, Family
from pm_fastlmm.sparse.cholesky import NotPositiveDefinite

_NEAR = 1e-8  # Newton decrement after which one more step ends at the rounding of the mode
_THERE = 1e-18  # at which x is there already
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


class Problem(NamedTuple):
    """What is maximised: equations with roots of Σ_k, a response, its family and parameters ψ, and an offset of η."""

    equations: Equations
    roots: Sequence[FloatArray]
    family: Family
    y: FloatArray
    psi: FloatArray
    offset: Any

    def eta(self, x: FloatArray) -> FloatArray:
        """Return η."""
        return np.asarray(self.offset + self.equations.along(self.equations.scaled(self.roots, x)))

    def across(self, r: FloatArray) -> FloatArray:
        """Return ΛᵀWᵀr."""
        return self.equations.scaled([root.T for root in self.roots], self.equations.across(r))

    def value(self, x: FloatArray, eta: FloatArray) -> float:
        """Return f, -inf where it is no number."""
        with np.errstate(all="ignore"):
            density = float(self.family.log_density(self.y, eta, self.psi).sum())
        value = density - 0.5 * float(x @ self.equations.penalised(x))
        return value if math.isfinite(value) else -math.inf

    def derivatives(self, eta: FloatArray) -> Derivatives:
        """Return those of log p."""
        with np.errstate(all="ignore"):
            return self.family.derivatives(self.y, eta, self.psi)

    def factorise(self, weights: FloatArray) -> Any:
        """Return C factored."""
        return self.equations.factorise(self.roots, weights)


def find_mode(problem: Problem, start: FloatArray | None = None) -> Mode | None:
    """
    Return the mode, from where the last one was or from a smoothed response; None where there is none.

    There is none where f rises for ever, as under separation, or where H is not definite at its highest point.
    """
    x = _first(problem) if start is None else start
    eta = problem.eta(x)
    value = problem.value(x, eta)
    if start is not None and not math.isfinite(value):
        return find_mode(problem)
    near = False
    for _ in range(_ITERATIONS):
        at = problem.derivatives(eta)
        if not (math.isfinite(value) and np.isfinite(at.first).all() and np.isfinite(at.second).all()):
            return None
        factor, exact = _factored(problem, -at.second)
        if factor is None:
            return None
        if near and exact:
            return Mode(x, eta, at, factor, value)
        slope = problem.across(at.first) - problem.equations.penalised(x)
        step = factor.solve(slope)
        decrement = float(step @ slope)
        if exact and decrement <= _THERE * max(1.0, abs(value)):
            return Mode(x, eta, at, factor, value)
        moved = _moved(problem, x, step, value, decrement)
        if moved is None:  # no step raises f by more than its rounding
            near = True
            if exact and decrement <= 1e-6 * max(1.0, abs(value)):
                return Mode(x, eta, at, factor, value)
            return None
        x, eta, value, length = moved
        near = exact and length == 1.0 and decrement < _NEAR
    return None


def _first(problem: Problem) -> FloatArray:
    """Return x of one weighted least squares from a smoothed response, or 0."""
    n_unknown = problem.equations.ends[-1]
    eta = np.asarray(problem.family.start(problem.y)[0], dtype=float)
    at = problem.derivatives(eta)
    if not (np.isfinite(at.first).all() and np.isfinite(at.second).all()):
        return np.zeros(n_unknown)
    weights = np.maximum(-at.second, 0.0)
    try:
        factor = problem.factorise(np.maximum(weights, _FLAT * max(float(weights.mean()), 1e-300)))
    except NotPositiveDefinite:
        return np.zeros(n_unknown)
    x = factor.solve(problem.across(weights * (eta - problem.offset) + at.first))
    start = problem.value(np.zeros(n_unknown), problem.eta(np.zeros(n_unknown)))
    return x if problem.value(x, problem.eta(x)) > start else np.zeros(n_unknown)


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


def _moved(
    problem: Problem, x: FloatArray, step: FloatArray, value: float, decrement: float
) -> tuple[FloatArray, FloatArray, float, float] | None:
    """Return x, η and f after a step, halved until f rises; None where it does not."""
    length, slack = 1.0, _ROUNDING * max(1.0, abs(value))
    for attempt in range(_HALVINGS):
        moved = x + length * step
        eta = problem.eta(moved)
        new = problem.value(moved, eta)
        sure = not attempt and decrement < _SURE and abs(new - value) <= decrement + 1e4 * slack
        if sure or new >= value + 1e-4 * length * decrement - slack:
            return moved, eta, new, length
        length *= 0.5
    return None
