"""
The total variance given h² under a prior that does not integrate it out in closed form: quadrature over t = log total.

The density exp(-½pt - ½Qe^{-t} + log π(t)) of t is log-concave under every prior that comes here, so that it has one
mode, and decays at least exponentially on both sides. With t = mode + width · sinh(u) equidistant nodes of u reach as
far as tails do and resolve the middle (Takahasi & Mori 1974, doi:10.2977/prims/1195192451).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy.special import gammaln

from pm_fastlmm.base.arrays import FloatArray

type Family = Literal["half-normal", "half-t", "exponential"]

_BISECTIONS = 40
_REACH = 12.0  # how far beyond the scales of the data and the prior the mode is sought
_NODES: FloatArray = np.linspace(-5.5, 5.5, 67)
_FINE: FloatArray = np.linspace(-5.5, 5.5, 111)  # where a cubic spline stands for the density


def _log_family(family: Family, df: float, log_r: FloatArray) -> FloatArray:
    """Return log p(σ)σ at r = σ/s."""
    r = np.exp(log_r)
    if family == "exponential":
        return np.asarray(log_r - r)
    if family == "half-normal":
        return np.asarray(log_r + 0.5 * math.log(2 / math.pi) - 0.5 * r**2)
    constant = math.log(2) + gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * math.log(math.pi * df)
    return np.asarray(log_r + constant - 0.5 * (df + 1) * np.log1p(r**2 / df))


def _elasticity(family: Family, df: float, log_r: FloatArray) -> FloatArray:
    """Return -d log p/d log σ at r = σ/s."""
    r = np.exp(log_r)
    if family == "exponential":
        return r
    return r**2 if family == "half-normal" else (df + 1) / (1 + df / r**2)


def _elasticity_slope(family: Family, df: float, log_r: FloatArray) -> FloatArray:
    """Return the derivative of the elasticity with respect to log σ."""
    value = _elasticity(family, df, log_r)
    if family == "exponential":
        return value
    return 2 * value if family == "half-normal" else 2 * value * (1 - value / (df + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Deviations:
    """
    A prior of t, the logarithm of a variance e^t, log-concave: Σ_j log p(σ_j)σ_j - log 2, σ²_j = share_j · e^t.

    It is at any number of h² at once.

    Attributes
    ----------
    family : {"half-normal", "half-t", "exponential"}
    df : float
        ν of half-t.
    log_shares, log_scale : lists of arrays
        log share_j and log s_j of each deviation.
    """

    family: Family
    df: float
    log_shares: list[FloatArray]
    log_scale: list[FloatArray]

    def _sum(self, of: Callable[[Family, float, FloatArray], FloatArray], t: FloatArray) -> Any:
        """Return the sum over the deviations of a function of log(σ_j/s_j)."""
        ratios = [0.5 * (share + t) - scale for share, scale in zip(self.log_shares, self.log_scale, strict=True)]
        return sum(of(self.family, self.df, ratio) for ratio in ratios)

    def log_density(self, t: FloatArray) -> FloatArray:
        """Return the log of the density."""
        return np.asarray(self._sum(_log_family, t) - len(self.log_scale) * math.log(2))

    def slope(self, t: FloatArray) -> FloatArray:
        """Return its derivative with respect to t."""
        return np.asarray(0.5 * len(self.log_scale) - 0.5 * self._sum(_elasticity, t))

    def curvature(self, t: FloatArray) -> FloatArray:
        """Return minus its second derivative with respect to t."""
        return np.asarray(0.25 * self._sum(_elasticity_slope, t))

    @property
    def log_scales(self) -> tuple[FloatArray, FloatArray]:
        """Logarithms of the squared scales, the smallest and the largest one."""
        first, last = self.log_scale[0], self.log_scale[-1]
        return 2 * np.minimum(first, last), 2 * np.maximum(first, last)


def mode_and_width(prior: Deviations, quadratic: FloatArray, df: int) -> tuple[FloatArray, FloatArray]:
    """Return the mode of t and the standard deviation of the normal density that touches it, given Q (…)."""
    likely = np.log(quadratic / df)
    smallest, largest = prior.log_scales
    low, high = np.minimum(likely, smallest) - _REACH, np.maximum(likely, largest) + _REACH
    for _ in range(_BISECTIONS):
        t = 0.5 * (low + high)
        rising = 0.5 * quadratic * np.exp(-t) - 0.5 * df + prior.slope(t) > 0
        low, high = np.where(rising, t, low), np.where(rising, high, t)
    mode = 0.5 * (low + high)
    return mode, 1 / np.sqrt(0.5 * quadratic * np.exp(-mode) + prior.curvature(mode))


def log_integral(prior: Deviations, quadratic: FloatArray, df: int) -> FloatArray:
    """Return log ∫ exp(-½pt - ½Qe^{-t}) π(t) dt, given Q (…)."""
    mode, width = mode_and_width(prior, quadratic, df)
    top = _log_density(prior, quadratic, df, mode)
    total = np.zeros_like(top)
    for u in _NODES:  # one after the other: no array of responses × nodes of h² × nodes of t
        total += np.cosh(u) * _relative(prior, quadratic, df, mode + width * np.sinh(u), top)
    return np.asarray(top + np.log(total * width * (_NODES[1] - _NODES[0])))


def _relative(prior: Deviations, quadratic: FloatArray, df: int, t: FloatArray, top: FloatArray) -> FloatArray:
    """
    Return the density at t relative to the mode.

    Where h² is impossible the log-density is so low, -1e18, that its rounding is more than what it may lie above the
    mode by, and would overflow: that h² has no mass, whatever its conditional is.
    """
    return np.asarray(np.exp(np.minimum(_log_density(prior, quadratic, df, t) - top, 0.0)))


def _log_density(prior: Deviations, quadratic: FloatArray, df: int, t: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.asarray(prior.log_density(t) - 0.5 * df * t - 0.5 * quadratic * np.exp(-t))


@dataclass(frozen=True, slots=True, eq=False)
class Conditional:
    """
    The distributions of t = log total at m values of h², normalised: moments, probabilities, quantiles.

    Attributes
    ----------
    mode, width : (m,) arrays
        Of the substitution t = mode + width · sinh(u).
    pieces : (5, cells, m) array
        Cubic density of u on each cell, integrated: powers 4 … 0 of the distance from the left end of the cell.
    mean, variance : (m,) arrays
        Of the total itself.
    """

    mode: FloatArray
    width: FloatArray
    pieces: FloatArray
    mean: FloatArray
    variance: FloatArray

    @classmethod
    def of(cls, prior: Deviations, quadratic: FloatArray, df: int) -> Self:
        """Tabulate the distributions given Q (m,)."""
        mode, width = mode_and_width(prior, quadratic, df)
        top = _log_density(prior, quadratic, df, mode)
        u = _FINE[:, None]
        t = mode + width * np.sinh(u)
        density = np.cosh(u) * _relative(prior, quadratic, df, t, top)
        weights = density / density.sum(0)
        with np.errstate(over="ignore", invalid="ignore"):
            totals = np.where(weights > 0, np.exp(t), 0.0)
            mean = (weights * totals).sum(0)
            variance = (weights * (totals - mean) ** 2).sum(0)
        from scipy.interpolate import CubicSpline  # a third of a second to import

        antiderivative = CubicSpline(_FINE, density).antiderivative()
        return cls(mode, width, antiderivative.c / antiderivative(_FINE[-1]), mean, variance)

    def probability(self, t: FloatArray) -> FloatArray:
        """Return P(log total ≤ t) at each h²."""
        with np.errstate(over="ignore"):
            u = np.clip(np.arcsinh((t - self.mode) / self.width), _FINE[0], _FINE[-1])
        return self._at(u)

    def quantile(self, probabilities: FloatArray) -> FloatArray:
        """Return t with P(log total ≤ t) = probability, one for each h²."""
        low, high = np.full(self.mode.size, _FINE[0]), np.full(self.mode.size, _FINE[-1])
        for _ in range(_BISECTIONS):
            u = 0.5 * (low + high)
            below = self._at(u) < probabilities
            low, high = np.where(below, u, low), np.where(below, high, u)
        return np.asarray(self.mode + self.width * np.sinh(0.5 * (low + high)))

    def _at(self, u: FloatArray) -> FloatArray:
        cell = np.clip(((u - _FINE[0]) / (_FINE[1] - _FINE[0])).astype(int), 0, _FINE.size - 2)
        distance, places = u - _FINE[cell], np.arange(self.mode.size)
        value = self.pieces[0, cell, places]
        for coefficients in self.pieces[1:]:
            value = value * distance + coefficients[cell, places]
        return np.asarray(np.clip(value, 0.0, 1.0))
