"""Links of probabilities: log F(η) and log(1 - F(η)) with three derivatives, exact in both tails."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import bernoulli, expit, log_expit, log_ndtr, logit, ndtr, ndtri

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.families.family import Derivatives

type Function = Callable[[FloatArray], FloatArray]

_TAIL, _DEPTH = 2.0, 70  # of the normal: from where the continued fraction is used, its depth there for 16 digits
_SMALL, _TERMS = 0.5, 16  # of the complementary log-log: where its series is used, terms of it
_BERNOULLI = bernoulli(_TERMS) / np.array([math.factorial(k) for k in range(_TERMS + 1)])
_LARGEST = 700.0  # exp of it is a float


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """
    A distribution function F of a latent variable: P(success | η) = F(η).

    Attributes
    ----------
    cdf, quantile : functions
        F and F⁻¹.
    below, above : functions that return Derivatives
        Of log F(η) and of log(1 - F(η)).
    log_below, log_above : functions
        Their values alone.
    variance : float
        Variance of the latent variable, what is called the link variance.
    """

    cdf: Function
    quantile: Function
    log_below: Function
    log_above: Function
    below: Callable[[FloatArray], Derivatives]
    above: Callable[[FloatArray], Derivatives]
    variance: float
    symmetric: bool = True  # 1 - F(η) = F(-η)


def mirrored(below: Callable[[FloatArray], Derivatives]) -> Callable[[FloatArray], Derivatives]:
    """Return the derivatives of f(-η) from those of f."""

    def above(eta: FloatArray) -> Derivatives:
        value, first, second, third = below(-eta)
        return Derivatives(value, -first, second, -third)

    return above


def _logistic(eta: FloatArray) -> Derivatives:
    p, q = expit(eta), expit(-eta)
    return Derivatives(log_expit(eta), q, -p * q, -p * q * (q - p))


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def _normal(eta: FloatArray) -> Derivatives:
    """
    Return log Φ with its derivatives λ, -λ(λ + η) and λ((λ + η)(2λ + η) - 1), λ = φ/Φ.

    In the lower tail differences are of large numbers that nearly agree. There, with x = -η, λ = x + δ, δ = 1/(x + ε),
    ε = 2/(x + γ) and γ = 3/(x + 4/(x + …)), Laplace's continued fraction, they are λδ and λδ²ε(γ - ε).
    """
    eta = np.asarray(eta, dtype=float)
    body = np.maximum(eta, -_TAIL)
    mills = np.exp(-(body**2) / 2) / (math.sqrt(2 * math.pi) * ndtr(body))
    second = -mills * (mills + body)
    third = mills * ((mills + body) * (2 * mills + body) - 1)
    third = np.where(mills == 0, 0.0, third)
    tail = eta < -_TAIL
    if tail.any():
        x = -eta[tail]
        delta, epsilon, gamma = fractions(x)
        mills[tail] = x + delta
        second[tail] = -mills[tail] * delta
        third[tail] = mills[tail] * delta**2 * epsilon * (gamma - epsilon)
    return Derivatives(log_ndtr(eta), mills, second, third)


def fractions(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return k/(x + (k + 1)/(x + …)) for k = 1, 2, 3; 16 digits from x = 2 on."""
    fraction = np.zeros_like(x)
    for k in range(_DEPTH, 2, -1):
        fraction = k / (x + fraction)
    epsilon = 2 / (x + fraction)
    return 1 / (x + epsilon), epsilon, fraction


@np.errstate(over="ignore", under="ignore")
def _extreme(eta: FloatArray) -> Derivatives:
    """
    Return log(1 - exp(-μ)), μ = exp(η), with its derivatives r, s = r(1 - μ - r), s(1 - μ - r) - r(μ + s).

    r = μ/(exp(μ) - 1) = Σ B_k μ^k/k!, whose derivatives in η are those of the series where μ is small.
    """
    mu = np.exp(np.minimum(eta, _LARGEST))
    body = np.maximum(mu, _SMALL)
    r = body / np.expm1(body)
    s = r * (1 - body - r)
    third = s * (1 - body - r) - r * (body + s)
    small = mu < _SMALL
    if small.any():
        k = np.arange(_TERMS + 1)
        powers = mu[small][..., None] ** k
        r[small], s[small], third[small] = (powers @ (_BERNOULLI * k**order) for order in range(3))
    return Derivatives(_log_extreme(eta), r, s, third)


@np.errstate(over="ignore", under="ignore", divide="ignore")
def _log_extreme(eta: FloatArray) -> FloatArray:
    mu = np.exp(eta)
    return np.where(mu < math.log(2), eta + np.log(-np.expm1(-mu) / np.where(mu > 0, mu, 1.0)), np.log1p(-np.exp(-mu)))


@np.errstate(over="ignore", under="ignore")
def _not_extreme(eta: FloatArray) -> Derivatives:
    value = -np.exp(eta)
    return Derivatives(value, value, value, value)


@np.errstate(over="ignore", under="ignore")
def _log_not_extreme(eta: FloatArray) -> FloatArray:
    return np.asarray(-np.exp(eta))


@np.errstate(over="ignore", under="ignore")
def _cdf_extreme(eta: FloatArray) -> FloatArray:
    return np.asarray(-np.expm1(-np.exp(eta)))


LINKS = {
    "logit": Link(expit, logit, log_expit, lambda eta: log_expit(-eta), _logistic, mirrored(_logistic), math.pi**2 / 3),
    "probit": Link(ndtr, ndtri, log_ndtr, lambda eta: log_ndtr(-eta), _normal, mirrored(_normal), 1.0),
    "cloglog": Link(
        _cdf_extreme,
        lambda p: np.log(-np.log1p(-p)),
        _log_extreme,
        _log_not_extreme,
        _extreme,
        _not_extreme,
        math.pi**2 / 6,
        symmetric=False,
    ),
}
