"""Objectives over variables of a user's choice, of which some enter V by their square."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.aireml.objective import RESCALE, Objective
from pm_fastlmm.base.arrays import FloatArray

_SMALL = 1e-12  # share of the variance of y below which a squared parameter is taken to have reached 0


@dataclass(frozen=True, slots=True, eq=False)
class SquaredObjective(Objective):
    """
    An objective over variables of a user's choice, which walks ω = θ² where θ enters V by its square.

    A standard deviation does. In ω the score does not vanish at θ = 0, so that a false zero is no stationary point.

    Attributes
    ----------
    squared : (P,) bool array
        Which elements of θ are walked by their square.
    smallest : (P,) array
        Values of those elements that are as good as 0, see `smallest_squares`.
    initial : (P,) array
        Where the iteration starts.
    split : callable
        From θ to the values of the model's free variables, by name.
    """

    initial: FloatArray
    squared: Any
    smallest: FloatArray
    split: Callable[[FloatArray], dict[str, Any]]

    def start(self) -> FloatArray:
        """Return the values that were given."""
        return self.initial.copy()

    def point(self, theta: FloatArray) -> dict[str, Any]:
        """Return the values of the model's free variables."""
        return self.split(theta)

    def internal(self, theta: FloatArray) -> FloatArray:
        """Return ω, the square of what enters V by its square."""
        return np.where(self.squared, np.square(theta), theta)

    def external(self, omega: FloatArray) -> FloatArray:
        """Return θ."""
        return np.where(self.squared, np.sqrt(np.where(self.squared, omega, 0.0)), omega)

    def jacobian(self, omega: FloatArray) -> FloatArray:
        """Return ∂θ/∂ω; near 0 that of a small θ, at which the product with the score has its limit."""
        theta = np.where(self.squared, np.maximum(self.external(omega), self.smallest), 0.5)
        return np.diag(0.5 / theta)

    @property
    def internal_lower(self) -> FloatArray:
        """Lower bounds of ω, that of a square just above 0: on it the score is read."""
        return np.where(self.squared, np.maximum(self.lower, self.smallest) ** 2, self.lower)

    @property
    def internal_upper(self) -> FloatArray:
        """Upper bounds of ω."""
        return np.where(self.squared, np.square(self.upper), self.upper)

    def multiplied(
        self, omega: FloatArray, state: Any, c: float, V: Callable[[FloatArray], FloatArray],
        dV: Callable[[FloatArray], Sequence[FloatArray]],
    ) -> tuple[FloatArray, Any] | None:  # fmt: skip
        """
        Return ω and state where V, or anything that it is linear in, is c times what it is at ω, if that is better.

        Σ_i V_iδ_i = V says in which direction the parameters multiply V; along it a parameter is multiplied (variances
        by c, standard deviations by √c) or shifted (logarithms).
        """
        if self.fixed.any() or not c > 0 or abs(np.log(c)) < RESCALE:
            return None
        theta = self.external(omega)
        value, slopes = np.asarray(V(theta)), [np.asarray(slope) for slope in dV(theta)]
        gram = np.array([[np.vdot(a, b) for b in slopes] for a in slopes])
        scale = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
        projected = np.array([np.vdot(a, value) for a in slopes]) * scale
        delta = scale * np.linalg.lstsq(gram * scale[:, None] * scale, projected, rcond=1e-10)[0]
        with np.errstate(all="ignore"):
            moved = (theta * c ** np.where(theta == 0, 0.0, delta / theta), theta + delta * np.log(c))

        def proportional(target: FloatArray) -> bool:
            inside = np.isfinite(target).all() and self.within_bounds(self.internal(target))
            return bool(inside and np.allclose(V(target), c * value, rtol=1e-6, atol=0))

        return self.first_better(map(self.internal, filter(proportional, moved)), state)


def enter_squared(slopes: Callable[[FloatArray], Sequence[FloatArray]], start: FloatArray, lower: FloatArray) -> Any:
    """Return which parameters with the lower bound 0 enter by their square: the derivative vanishes at 0."""
    out = np.zeros(len(start), dtype=bool)
    here = [float(np.abs(slope).max()) for slope in slopes(start)]
    for i in map(int, np.flatnonzero((lower == 0) & (start > 0))):
        near = start.copy()
        near[i] *= 1e-4
        out[i] = float(np.abs(slopes(near)[i]).max()) < 1e-3 * here[i]
    return out


def smallest_squares(squared: Any, start: FloatArray, slopes: FloatArray, variance: float) -> FloatArray:
    """
    Return the θ_i whose share in V = … + θ_i²V_i is negligible beside the variance of y; 0 for other parameters.

    `slopes` are the mean diagonals 2θ_iV̄_i of the derivatives at the start.
    """
    size = np.where(squared & (slopes != 0), np.abs(slopes) / (2 * np.where(squared, start, 1.0)), np.inf)
    return np.where(squared, np.sqrt(_SMALL * max(variance, 1e-300) / size), 0.0)
