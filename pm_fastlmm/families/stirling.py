"""Logarithms of gamma functions without the parts that cancel, for the limits of little dispersion."""

import math

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
    near = np.where(np.abs(x) < _NEAR, x, 0.0)
    total = np.zeros_like(near)
    for c in coefficients[::-1]:
        total = total * near + c
    return total


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
    series = 1 / (2 * large) + (_B / _EVEN * large[..., None] ** -_EVEN).sum(axis=-1)
    return np.where(shape < _FROM, np.log(small) - digamma(small), series)


def _remainder(reciprocal: FloatArray) -> FloatArray:
    """Return Stirling's series Σ B_2k z^(1 - 2k)/(2k(2k - 1)) of 1/z."""
    return np.asarray((_B / (_EVEN * (_EVEN - 1)) * reciprocal[..., None] ** (_EVEN - 1)).sum(axis=-1))


def rising(y: FloatArray, dispersion: FloatArray) -> tuple[FloatArray, FloatArray]:
    """
    Return c = Σ_{j<y} log(1 + jφ) and its derivative in φ, Σ_{j<y} j/(1 + jφ), for φ >= 0.

    c = log Γ(y + α) - log Γ(α) - y log α with α = 1/φ. Where α is large the gamma functions cancel; with x = yφ and
    Stirling's series S they leave y(log(1 + x)/x - 1) + (y - ½) log(1 + x) + S(y + α) - S(α).
    """
    y, dispersion = np.broadcast_arrays(y, dispersion)
    few = dispersion > 1 / _FROM
    phi = np.where(few, 1 / _FROM, dispersion)
    x = y * phi
    log = np.log1p(x)
    value = y * x * log_ratio(x) + (y - 0.5) * log + _remainder(phi / (1 + x)) - _remainder(phi)
    slope = -(y**2) * log_ratio_slope(x) + (y - 0.5) * y / (1 + x)
    powers = phi[..., None] ** (_EVEN - 2) * np.expm1(-_EVEN * log[..., None])
    slope = slope + (_B / _EVEN * powers).sum(axis=-1)
    if few.any():
        shape = 1 / dispersion[few]
        value[few] = gammaln(y[few] + shape) - gammaln(shape) - y[few] * np.log(shape)
        slope[few] = shape * (y[few] - shape * (digamma(y[few] + shape) - digamma(shape)))
    return value, slope
