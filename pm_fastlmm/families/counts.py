"""Counts: poisson and negative binomial, both with a logarithmic link."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, gammaln

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.families.family import Derivatives, Family, ParameterDerivatives, in_support
from pm_fastlmm.families.stirling import log_ratio, log_ratio_slope, rising, rising_slope

_LARGE = 1e15  # floats from here on hold no single counts
_ALIKE = 0.1  # of a dispersion, where the moments of the data give less


class _Counts(Family):
    link = "log"

    def read(self, y: Any) -> FloatArray:
        """
        Return counts as floats.

        Raises
        ------
        ValueError
            If one is negative or no integer.
        """
        remedy = (
            "rates are given as the counts that they come from, with offset=log(exposure); positive numbers that are "
            "no counts are family='gamma'."
        )
        expected = f"counts, the integers 0, 1, 2 …, for family {self.name!r}"
        return in_support(y, "y", expected, remedy, whole=True, least=0)

    @np.errstate(over="ignore", under="ignore")
    def mean(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return exp(η)."""
        return np.asarray(np.exp(eta))


@dataclass(frozen=True, slots=True, eq=False)
class Poisson(_Counts):
    """
    Counts with mean and variance μ = exp(η): log p = yη - μ - log y!.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.counts import Poisson
    >>> Poisson().log_density(np.array([0.0, 2.0]), np.array([0.0, 800.0]), np.zeros(0))
    array([ -1., -inf])
    """

    name = "poisson"

    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p(y | η), (..., n)."""
        return np.asarray(y * eta - self.mean(eta, psi) - gammaln(y + 1))

    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""
        minus = -self.mean(eta, psi)
        return Derivatives(self.log_density(y, eta, psi), y + minus, minus, minus)

    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log(y + ½), and no parameters."""
        return np.log(y + 0.5), np.zeros(0)

    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return exp(η)."""
        return self.mean(eta, psi)

    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return counts."""
        return _poisson(self.mean(eta, psi), rng)


@dataclass(frozen=True, slots=True, eq=False)
class NegativeBinomial(_Counts):
    """
    Counts with mean μ = exp(η) and variance μ + φμ²; φ = 0 is the Poisson distribution.

        log p = Σ_{j<y} log(1 + jφ) + yη - (y + 1/φ) log(1 + φμ) - log y!

    φ, the dispersion, is 1/alpha of `pm.NegativeBinomial(mu=, alpha=)`, 1/shape of brms and of glmmTMB's nbinom2. All
    terms are evaluated so that nothing cancels when φ tends to 0.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.counts import NegativeBinomial
    >>> NegativeBinomial().variance(np.log([2.0, 10.0]), np.array([0.5]))
    array([ 4., 60.])
    """

    name = "negative_binomial"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The dispersion."""
        return ("dispersion",)

    @property
    def lower(self) -> FloatArray:
        """0, the Poisson distribution."""
        return np.zeros(1)

    @np.errstate(over="ignore", under="ignore", divide="ignore")
    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p(y | η, φ), (..., n)."""
        phi = psi[..., 0, None]
        mu = np.exp(eta)
        log = np.logaddexp(0, eta + np.log(phi))
        near = np.minimum(phi * np.exp(np.minimum(eta, 700)), 1)
        far = np.where(near < 1, 1.0, phi)
        zeros = np.where(near < 1, mu * (1 + near * log_ratio(near)), log / far)  # log(1 + φμ)/φ
        return np.asarray(rising(y, phi) + y * (eta - log) - zeros - gammaln(y + 1))

    @np.errstate(over="ignore", under="ignore", divide="ignore")
    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""
        phi, weight, shrunk = _of_mean(eta, psi)
        second = -(1 + phi * y) * shrunk * weight
        return Derivatives(
            self.log_density(y, eta, psi), y * weight - shrunk, second, second * (weight - expit(eta + np.log(phi)))
        )

    @np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")
    def in_parameters(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> ParameterDerivatives:
        """Return the derivatives in the dispersion of log p and of its first two derivatives in η."""
        phi, weight, shrunk = _of_mean(eta, psi)
        share = expit(eta + np.log(phi))
        near = phi * np.exp(np.minimum(eta, 700))
        log = np.logaddexp(0, eta + np.log(phi))
        zeros = np.where(near < 1, np.exp(2 * eta) * log_ratio_slope(np.minimum(near, 1)), (log - share) / phi**2)
        value = rising_slope(y, phi) - y * shrunk + zeros
        first = -(y * weight - shrunk) * shrunk
        second = -shrunk * weight * (y * weight - 2 * shrunk - y * share)
        return ParameterDerivatives(value[None], first[None], second[None])

    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log(y + ½), and the dispersion that the variance of the counts has."""
        mean = max(float(y.mean()), 0.5)
        excess = (float(y.var()) - mean) / mean**2
        return np.log(y + 0.5), np.array([max(excess, _ALIKE)])

    @np.errstate(over="ignore")
    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return μ + φμ²."""
        mu = self.mean(eta, psi)
        return np.asarray(mu * (1 + psi[..., 0, None] * mu))

    @np.errstate(over="ignore", under="ignore", divide="ignore")
    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return counts: Poisson ones with means that are drawn from a gamma distribution."""
        mu, phi = np.broadcast_arrays(self.mean(eta, psi), psi[..., 0, None])
        shape = np.where(phi > 0, 1 / np.where(phi > 0, phi, 1), 1)
        return _poisson(mu * np.where(phi > 0, rng.gamma(shape) / shape, 1), rng)


def _of_mean(eta: FloatArray, psi: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return φ, 1/(1 + φμ) and μ/(1 + φμ), which stay in range where μ does not."""
    phi = psi[..., 0, None]
    return phi, expit(-eta - np.log(phi)), 1 / (np.exp(-eta) + phi)


def _poisson(mu: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return Poisson counts; those that floats do not hold singly are normal."""
    mu = np.asarray(mu)
    large = mu > _LARGE
    counts = rng.poisson(np.where(large, 0, mu)).astype(float)
    if large.any():
        counts = np.where(large, mu + np.sqrt(mu) * rng.normal(size=mu.shape), counts)
    return counts
