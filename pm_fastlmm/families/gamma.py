"""Positive responses: gamma with a logarithmic link."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.families.family import Derivatives, Family, ParameterDerivatives, in_support
from pm_fastlmm.families.stirling import log_gamma_rest, log_gamma_rest_slope

_LEAST = 1e-3  # of a dispersion at the start


@dataclass(frozen=True, slots=True, eq=False)
class Gamma(Family):
    """
    Positive responses with mean μ = exp(η) and variance φμ²: the shape is α = 1/φ, the rate α/μ.

        log p = α log α - α - log Γ(α) - log y - α(y/μ - 1 - log(y/μ))

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.gamma import Gamma
    >>> Gamma().variance(np.log([2.0, 10.0]), np.array([0.5]))
    array([ 2., 50.])
    """

    name = "gamma"
    link = "log"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The dispersion."""
        return ("dispersion",)

    @property
    def lower(self) -> FloatArray:
        """0."""
        return np.zeros(1)

    @np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")
    def log_density(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return log p(y | η, φ), (..., n); -inf for φ = 0."""
        phi = psi[..., 0, None]
        log = np.log(y) - eta
        value = log_gamma_rest(1 / phi) - np.log(y) - (np.expm1(log) - log) / phi
        return np.where(phi > 0, value, -np.inf)

    @np.errstate(over="ignore", under="ignore", divide="ignore")
    def derivatives(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> Derivatives:
        """Return log p and its derivatives in η."""
        phi = psi[..., 0, None]
        log = np.log(y) - eta
        third = np.exp(log) / phi
        return Derivatives(self.log_density(y, eta, psi), np.expm1(log) / phi, -third, third)

    @np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")
    def in_parameters(self, y: FloatArray, eta: FloatArray, psi: FloatArray) -> ParameterDerivatives:
        """Return the derivatives in the dispersion of log p and of its first two derivatives in η."""
        phi = psi[..., 0, None]
        log = np.log(y) - eta
        value = (np.expm1(log) - log - log_gamma_rest_slope(1 / phi)) / phi**2
        return ParameterDerivatives(value[None], -np.expm1(log)[None] / phi**2, np.exp(log)[None] / phi**2)

    def read(self, y: Any) -> FloatArray:
        """
        Return responses as floats.

        Raises
        ------
        ValueError
            If one is not positive.
        """
        values = in_support(
            y,
            "y",
            "positive numbers for family 'gamma'",
            "zeros need a model of their own, whether y is 0 (family='bernoulli') and how large it is otherwise.",
            whole=False,
            least=np.finfo(float).tiny,
        )
        return values

    def start(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log y, and the squared coefficient of variation."""
        scaled = y / y.max()
        return np.log(y), np.array([max(float(scaled.var() / scaled.mean() ** 2), _LEAST)])

    @np.errstate(over="ignore", under="ignore")
    def mean(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return exp(η)."""
        return np.asarray(np.exp(eta))

    @np.errstate(over="ignore", under="ignore")
    def variance(self, eta: FloatArray, psi: FloatArray) -> FloatArray:
        """Return φ exp(2η)."""
        return np.asarray(psi[..., 0, None] * np.exp(2 * eta))

    def draw(self, eta: FloatArray, psi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return positive numbers."""
        mu, phi = np.broadcast_arrays(self.mean(eta, psi), psi[..., 0, None])
        return np.asarray(mu * phi * rng.gamma(1 / phi))
