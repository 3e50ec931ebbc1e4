"""DeviationPosterior: the exact posterior under priors on standard deviations, with the total summed at each h²."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, minimize_scalar

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.kernel.exact.conditional import Conditional
from pm_fastlmm.kernel.exact.deviation_prior import DeviationPrior
from pm_fastlmm.kernel.exact.result import SHARES, ExactPosterior

_DROP = 27.0  # log-density below the mode from where on h² counts for nothing in a variance: 2e-12
_STEP = 0.4  # of logit h², in standard deviations of the logarithm of the total given it
_LARGEST_STEP = 0.05
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DeviationPosterior(ExactPosterior):
    """
    `ExactPosterior` under a `DeviationPrior`: the same methods and the same accuracy.

    Given h² the total variance is no InverseGamma but ∝ total^(-p/2 - 1) exp(-Q/2 total) times the prior; `shape` is
    p/2, `scale` is ½Q, and what is said of variances sums such distributions, tabulated over log total, over a fine
    grid of logit h². That is a loop over responses, some tens of milliseconds for each.
    """

    prior: DeviationPrior

    @property
    def _moment_order(self) -> float:
        """Half-normal and exponential tails have all moments; σ^-(ν + 1) and the likelihood of rank k leave those."""
        return (self.spectrum.rank + self.prior.df) / 2 if self.prior.family == "half-t" else math.inf

    def _total_given_h2(self, part: slice) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of the total given h² at the nodes, (T, m)."""
        fine = np.atleast_1d(self.message) == ""
        mean, variance = np.full((2, fine.size, self.x.size), np.nan)
        for t in range(*part.indices(fine.size)):
            if fine[t]:
                found = self._conditional(t, self.x)
                mean[t], variance[t] = found.mean, found.variance
        return mean[part], variance[part]

    def _draw_total(self, x: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return a draw of the total given each logit h² (T, n)."""
        u = rng.uniform(size=x.shape)
        out = np.full(x.shape, np.nan)
        for t in np.flatnonzero(np.atleast_1d(self.message) == ""):
            out[t] = np.exp(self._conditional(int(t), x[t]).quantile(u[t]))
        return out

    def _variance_quantiles(self, quantity: str, probabilities: FloatArray) -> FloatArray:
        def of(mixture: _Mixture) -> list[float]:
            return [math.exp(mixture.quantile(p)) for p in probabilities]

        return self._each(quantity, of, probabilities.size)

    def _variance_below(self, quantity: str, logs: FloatArray) -> FloatArray:
        return self._each(quantity, lambda mixture: [mixture.below(at) for at in logs], logs.size)

    def _shortest(self, quantity: str, probability: float) -> FloatArray:
        """Return the shortest interval (…, 2)."""
        if quantity in SHARES:
            return ExactPosterior._shortest(self, quantity, probability)
        ends = self._each(quantity, lambda mixture: mixture.shortest(probability), 2)
        return ends if self.names is not None else ends[0]

    def _each(self, quantity: str, of: Any, columns: int) -> FloatArray:
        """Apply a function to the mixture of each response that has a posterior, (T, columns)."""
        self._share(quantity, self.x)  # an unknown quantity is refused
        fine = np.atleast_1d(self.message) == ""
        out = np.full((fine.size, columns), np.nan)
        for t in np.flatnonzero(fine):
            out[t] = of(self._mixture(int(t), quantity))
        return out

    def _conditional(self, t: int, x: FloatArray) -> Conditional:
        """Return the distributions of log total of response t at values of logit h²."""
        logs = np.log(2 * np.atleast_2d(self.scale)[t])
        fine = np.isfinite(logs)
        quadratic = np.exp(CubicSpline(self.x[fine], logs[fine])(np.clip(x, *self.x[fine][[0, -1]])))
        with np.errstate(all="ignore"):
            given = self.prior.at_weight_1(self.spectrum.mean_weight).part(t).given_h2(x)
            return Conditional.of(given, quadratic, self.spectrum.df)

    def _mixture(self, t: int, quantity: str) -> "_Mixture":
        """Return the distribution of a log-variance as a mixture over a fine grid of logit h²."""
        density = np.atleast_2d(self.log_density)[t]
        inside = np.flatnonzero(density > np.nanmax(density) - _DROP)
        low, high = self.x[max(inside[0] - 1, 0)], self.x[min(inside[-1] + 1, self.x.size - 1)]
        step = min(_LARGEST_STEP, _STEP * math.sqrt(2 / self.spectrum.df))
        x = np.linspace(low, high, max(200, math.ceil((high - low) / step)))
        floored = np.maximum(density, density.max() - 1e3)
        weights = np.exp(CubicSpline(self.x, floored)(x) - density.max())
        share = self._share(quantity, x)
        return _Mixture(self._conditional(t, x), np.log(share), weights / weights.sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Mixture:
    """The distribution of a log-variance: log total + log share, over weighted values of h²."""

    conditional: Conditional
    log_share: FloatArray
    weights: FloatArray

    def below(self, at: float) -> float:
        """Return the probability below a logarithm."""
        if math.isinf(at):
            return float(at > 0)
        return float(self.weights @ self.conditional.probability(at - self.log_share))

    def quantile(self, probability: float) -> float:
        """Return the logarithm below which a probability lies."""
        centre = self.conditional.mode + self.log_share
        low, high, step = float(centre.min()), float(centre.max()), 1.0
        while self.below(low) > probability:
            low, step = low - step, 2 * step
        step = 1.0
        while self.below(high) < probability:
            high, step = high + step, 2 * step
        return float(brentq(lambda at: self.below(at) - probability, low, high, xtol=_TOLERANCE))

    def shortest(self, probability: float) -> tuple[float, float]:
        """Return the shortest interval of the variance itself."""
        left = 1 - probability

        def ends(tail: float) -> tuple[float, float]:
            low = math.exp(self.quantile(tail)) if tail > 0 else 0.0
            return low, math.exp(self.quantile(tail + probability)) if tail < left else math.inf

        def width(tail: float) -> float:
            low, high = ends(tail)
            return high - low

        tails = left * np.arange(1, 8) / 8
        best = int(np.argmin([width(tail) for tail in tails]))
        bracket = left * best / 8, left * (best + 2) / 8
        found = float(minimize_scalar(width, bounds=bracket, method="bounded", options={"xatol": 1e-4 * left}).x)
        return min(ends(found), ends(0.0), key=lambda pair: pair[1] - pair[0])
