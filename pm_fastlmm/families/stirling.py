"""Logarithms of gamma functions without the parts that cancel, for the limits of little dispersion."""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import bernoulli, digamma, gammaln

from pm_fastlmm.base.arrays import FloatArray

_FROM = 10.0  # Stirling's series with the terms below has 16 digits from here on
_EVEN = np.arange(2, 17, 2)
_B = bernoulli(16)[_EVEN]
_NEAR, _POWERS = 0.1, np.arange(20)  # where the series of log1p is used, and its powers


def log_ratio(x: FloatArray) -> FloatArray:
    """Return (log(1 + x) - x)/x², -½ at 0."""
    series = _series(x, -((-1.0) ** _POWERS) / (_POWERS + 2))
    far = np.where(np.abs(x) < _NEAR, 1.0, x)
    return np.where(np.abs(x) < _NEAR, series, (np.log1p(far) - far) / far**2)


def log_ratio_slope(x: FloatArray) -> FloatArray:
    """Return (log(1 + x) - x/(1 + x))/x², ½ at 0: minus the derivative of log(1 + x)/x."""
    series = _series(x, (-1.0) ** _POWERS * (_POWERS + 1) / (_POWERS + 2))
    far = np.where(np.abs(x) < _NEAR, 1.0, x)
    return np.where(np.abs(x) < _NEAR, series, (np.log1p(far) - far / (1 + far)) / far**2)


def _series(x: FloatArray, coefficients: FloatArray) -> FloatArray:
    return _horner(coefficients, np.where(np.abs(x) < _NEAR, x, 0.0))


def log_gamma_rest(shape: FloatArray) -> FloatArray:
    """Return α log α - α - log Γ(α), which tends to ½ log(α/2π)."""
    small = np.minimum(shape, _FROM)
    large = np.maximum(shape, _FROM)
    direct = small * np.log(small) - small - gammaln(small)
    return np.where(shape < _FROM, direct, np.log(large / (2 * math.pi)) / 2 - _remainder(1 / large))


def log_gamma_rest_slope(shape: FloatArray) -> FloatArray:
    """Return its derivative, log α - digamma(α), which tends to 1/(2α)."""
    small = np.minimum(shape, _FROM)
    large = np.maximum(shape, _FROM)
    series = 1 / (2 * large) + _remainder_slope(1 / large, np.ones(1)) / large**2
    return np.where(shape < _FROM, np.log(small) - digamma(small), series)


def rising(y: FloatArray, dispersion: FloatArray) -> FloatArray:
    """
    Return c = Σ_{j<y} log(1 + jφ) for φ >= 0, of shapes that broadcast.

    c = log Γ(y + α) - log Γ(α) - y log α with α = 1/φ. Where α is large the gamma functions cancel; with x = yφ and
    Stirling's series S they leave y(log(1 + x)/x - 1) + (y - ½) log(1 + x) + S(y + α) - S(α).
    """

    def few(phi: FloatArray) -> FloatArray:
        shape = 1 / phi
        return np.asarray(gammaln(y + shape) - gammaln(shape) - y * np.log(shape))

    def many(phi: FloatArray) -> FloatArray:
        x = y * phi
        between = _remainder(phi / (1 + x)) - _remainder(phi)
        return np.asarray(y * x * log_ratio(x) + (y - 0.5) * np.log1p(x) + between)

    return _by_size(dispersion, few, many)


def rising_slope(y: FloatArray, dispersion: FloatArray) -> FloatArray:
    """Return the derivative of `rising` in φ, Σ_{j<y} j/(1 + jφ)."""

    def few(phi: FloatArray) -> FloatArray:
        shape = 1 / phi
        return np.asarray(shape * (y - shape * (digamma(y + shape) - digamma(shape))))

    def many(phi: FloatArray) -> FloatArray:
        x = y * phi
        between = _remainder_slope(phi, 1 / (1 + x)) - _remainder_slope(phi, np.ones(1))
        return np.asarray(-(y**2) * log_ratio_slope(x) + (y - 0.5) * y / (1 + x) + between)

    return _by_size(dispersion, few, many)


def _by_size(
    dispersion: FloatArray, few: Callable[[FloatArray], FloatArray], many: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Evaluate one function where α = 1/φ is small and the other where it is large, each only where there are some."""
    large = dispersion > 1 / _FROM
    if large.all():
        return few(dispersion)
    if not large.any():
        return many(dispersion)
    return np.where(large, few(np.where(large, dispersion, 1.0)), many(np.where(large, 1 / _FROM, dispersion)))


def _remainder(reciprocal: FloatArray) -> FloatArray:
    """Return Stirling's series S = Σ B_2k z^(1 - 2k)/(2k(2k - 1)) of 1/z."""
    return reciprocal * _horner(_B / (_EVEN * (_EVEN - 1)), reciprocal**2)


def _remainder_slope(phi: FloatArray, factor: FloatArray) -> FloatArray:
    """Return Σ B_2k/(2k) φ^(2k - 2) f^2k, which is dS/dφ of z = α/f at a fixed z - α, f = 1/(1 + yφ)."""
    return factor**2 * _horner(_B / _EVEN, (phi * factor) ** 2)


def _horner(coefficients: FloatArray, x: FloatArray) -> FloatArray:
    total = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + c
    return total
