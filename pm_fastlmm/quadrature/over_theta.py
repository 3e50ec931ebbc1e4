"""ℓ(θ) with its gradient in microseconds, from an interpolant in ratios of variances; exact outside its region."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from pm_fastlmm.aireml.iteration import Tolerances, maximise
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.quadrature.integrate import START, box_of, finer, integrate
from pm_fastlmm.quadrature.interpolant import Box, Interpolant
from pm_fastlmm.quadrature.interpolated import Interpolated
from pm_fastlmm.quadrature.likelihood import Likelihood, require_scalar_variances, unit_variances
from pm_fastlmm.quadrature.ratios import NotInterpolated, Ratios
from pm_fastlmm.quadrature.region import Region

_ITERATIONS = 100  # towards the REML estimate
_CHECKS = 3  # draws of a posterior, at which an interpolant that was checked before is checked
_ADAPTED = 3  # times, to the mass of a posterior


@dataclass(frozen=True, slots=True, eq=False)
class OverTheta:
    """
    ℓ(θ) = level(r) - ½p log total - ½q(r)/total and ∂ℓ/∂θ, from the interpolated level and log q.

    Attributes
    ----------
    unit : (d + 1,) array
        c = unit · θ, total = Σc, r_j = c_j/c_e.
    region : Region
    arguments : tuple
        What the compiled loop takes besides θ.
    """

    unit: FloatArray
    region: Region
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, interpolated: Interpolated) -> Self:
        """Return the likelihood whose pieces are interpolated."""
        ratios, region, pieces = interpolated.ratios, interpolated.region, interpolated.interpolant.with_slopes
        rates, shift = region.to_square()
        counts, c = np.array(pieces.counts), np.ravel(pieces.coefficients)
        return cls(ratios.unit, region, (ratios.unit, float(ratios.df), region.kappa, rates, shift, c, counts))

    def ratios(self, theta: FloatArray) -> FloatArray:
        """Return the ratios (…, d) of θ (…, d + 1)."""
        c = self.unit * theta
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(c[..., :-1] / c[..., -1:])

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray] | None:
        """Return ℓ(θ) and its gradient; None outside the region."""
        from pm_fastlmm.quadrature.loops import loglik_and_gradient

        inside, loglik, gradient = loglik_and_gradient(np.ascontiguousarray(theta), *self.arguments)
        return (loglik, gradient) if inside else None


@dataclass(slots=True, eq=False)
class InterpolatedLikelihood:
    """
    ℓ(θ) of an objective, interpolated where the mass of a posterior is, and exact elsewhere.

    It is exact everywhere before `make`, and is adapted to a posterior by draws from that.

    Attributes
    ----------
    objective : Objective
        Of one to three scalar variances and that of the residual.
    tolerance : float
        Of the log-likelihood.
    estimate : (P,) array or None
        Of REML.
    smooth : OverTheta or None
    guarded : bool
        Whether points outside are impossible instead: while a start is sought, which takes none of them.
    """

    objective: Objective
    tolerance: float
    estimate: FloatArray | None = None
    smooth: Any = None
    guarded: bool = False
    _likelihood: Any = None
    _now: Interpolated | None = None
    _box: Box | None = None
    _adapted: int = field(default=0)

    def __post_init__(self) -> None:
        """Refuse other parameters."""
        self._require()

    def _require(self) -> None:
        require_scalar_variances(self.objective)

    def _about(
        self, theta: FloatArray, information: FloatArray, tell: Callable[[int, str], None]
    ) -> tuple[Any, Any, Region]:
        """Return a vague prior of what is interpolated in, the likelihood there, and a region about an estimate."""
        unit = unit_variances(self.objective)
        likelihood = Likelihood(self.objective, unit, float(unit @ theta), tell)
        df = self.objective.residual_df
        ratios = Ratios(unit, df, np.ones(len(unit)), 1.0, likelihood.residual_variance())
        return ratios, likelihood, Region.about(*ratios.estimate(theta, information), likelihood.smallest)

    def _state(self, theta: FloatArray) -> Any:
        return self.objective.state(theta)

    def _compiled(self, interpolated: Interpolated) -> Any:
        return OverTheta.of(interpolated)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Numbers of nodes along each axis."""
        return () if self._now is None else self._now.interpolant.counts

    @property
    def evaluations(self) -> int:
        """How often the likelihood was evaluated for the interpolant."""
        return 0 if self._likelihood is None else self._likelihood.evaluations

    def make(self, rng: np.random.Generator, tell: Callable[[int, str], None]) -> None:
        """
        Interpolate about the REML estimate, on the region of a posterior with vague priors.

        Raises
        ------
        NotInterpolated
            If there is no such estimate, or the data do not end the region.
        """
        objective = self.objective
        trace = maximise(objective, objective.start(), tolerances=Tolerances(), max_iterations=_ITERATIONS)
        if not trace.converged:
            raise NotInterpolated(f"REML finds no estimate about which the posterior lies: {trace.reason}.")
        last = trace.iterations[-1]
        ratios, likelihood, region = self._about(last.theta, last.average_information, tell)
        found, box = integrate(ratios, likelihood, region, self.tolerance, rng)
        if not math.isfinite(found.error):
            raise NotInterpolated(f"{found.reason or 'it varies too much'}.")
        likelihood.tell = _silent  # it is no more, and processes of chains get a copy
        self.estimate, self._likelihood, self._box = last.theta, likelihood, box
        self._take(found.interpolated)

    def _take(self, interpolated: Interpolated) -> None:
        self._now, self.smooth = interpolated, self._compiled(interpolated)

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Return ℓ(θ) and its gradient; -inf and 0 where V is not positive definite."""
        found: tuple[float, FloatArray] | None = None if self.smooth is None else self.smooth(theta)
        if found is not None:
            return found
        state = None if self.guarded and self.smooth is not None else self._state(theta)
        if state is None:
            return -math.inf, np.zeros_like(theta)
        return float(state.loglik), self.objective.gradient(theta, state)

    def adapt(self, theta: FloatArray) -> bool:
        """
        Widen the region to draws (m, P) from a posterior, and add nodes until some of them are precise.

        Return whether that changed anything.
        """
        if self.smooth is None or self._now is None or self._likelihood is None or self._box is None:
            return False
        r = self.smooth.ratios(theta)
        r = r[np.isfinite(r).all(axis=1) & (r >= 0).all(axis=1)]
        if self._adapted == _ADAPTED or not len(r):
            return False
        changed, region = False, self._now.region.covering(r)
        if region is not None:
            self._box, changed = box_of(self._likelihood, region), True
            self._interpolate(region, (START[r.shape[1]],) * r.shape[1])
        some = theta[:: max(1, len(theta) // _CHECKS)]
        while not self.error(some) <= self.tolerance and (counts := finer(self._now)):
            self._interpolate(self._now.region, counts)
            changed = True
        self._adapted += changed
        return changed

    def _interpolate(self, region: Region, counts: tuple[int, ...]) -> None:
        assert self._now is not None
        assert self._box is not None
        self._take(Interpolated(self._now.ratios, region, Interpolant.through(self._box, counts)))

    def error(self, theta: FloatArray) -> float:
        """Return the largest error of ℓ at some θ (m, P); it is 0 outside the region."""
        errors = [0.0]
        for row in theta:
            found = None if self.smooth is None else self.smooth(row)
            if found is not None:
                state = self._state(row)
                errors.append(math.inf if state is None else abs(found[0] - state.loglik))
        return float(np.max(errors))


def _silent(done: int, note: str) -> None:
    """Tell nobody."""
