"""log P(a < η + e < b) of a logistic or normal e between two cutpoints, stable for narrow and far intervals."""

import math
from typing import NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.families.family import Derivatives
from pm_fastlmm.families.links import LINKS

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_WIDE, _STEEP = 1.0, 20.0  # width of an interval, and change of log φ over it, from where its ends are taken singly
_INFINITE = 60.0  # below an end this far Φ adds nothing


class Interval(NamedTuple):
    """log(F(u - η) - F(l - η)): derivatives in η, and those of value, first and second in the lower and upper end."""

    eta: Derivatives
    lower: tuple[FloatArray, FloatArray, FloatArray]
    upper: tuple[FloatArray, FloatArray, FloatArray]


def logistic(lower: FloatArray, upper: FloatArray, eta: FloatArray) -> Interval:
    """
    Return the logarithm of a logistic probability between two ends.

    F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)), whose last factor does not depend on η.
    """
    below, above = LINKS["logit"].below(upper - eta), LINKS["logit"].below(eta - lower)
    width = upper - lower
    with np.errstate(over="ignore", divide="ignore"):
        value = below.value + above.value + np.log(-np.expm1(-width))
        change = 1 / np.expm1(width)
    of_eta = Derivatives(value, above.first - below.first, above.second + below.second, above.third - below.third)
    return Interval(
        of_eta,
        (-above.first - change, -above.second, -above.third),
        (below.first + change, -below.second, below.third),
    )


def normal(lower: FloatArray, upper: FloatArray, eta: FloatArray) -> Interval:
    """
    Return the logarithm of a normal probability between two ends.

    Its derivatives in η are cumulants of t ~ N(0, 1) in (a, b): E t, var t - 1 and the third. Narrow intervals have
    them by Gauss-Legendre rules about their middle; others by Φ at both ends, turned to the lower tail.
    """
    shape = np.broadcast_shapes(np.shape(lower), np.shape(upper), np.shape(eta))
    lower, upper, eta = (np.broadcast_to(v, shape).ravel() for v in (lower, upper, eta))
    with np.errstate(invalid="ignore"):
        middle = (lower + upper) / 2 - eta
        turned = middle > 0
        width = upper - lower
        narrow = (width < _WIDE) & (np.abs(middle) * width < _STEEP)
    a = np.where(turned, eta - upper, lower - eta)
    b = np.where(turned, eta - lower, upper - eta)
    a = np.where(np.isfinite(a), a, np.minimum(b, 0) - _INFINITE)
    parts = np.empty((10, a.size))
    parts[:, narrow] = _narrow(-np.abs(middle[narrow]), width[narrow])
    parts[:, ~narrow] = _by_ends(a[~narrow], b[~narrow])
    value, first, second, third = parts[:4]
    of_a, of_b = parts[4:7], parts[7:]
    sign = np.where(turned, -1.0, 1.0)
    flipped = np.where(turned, np.array([-1.0, 1.0, -1.0])[:, None], 1.0)
    ends = [np.where(turned, one, other) * flipped for one, other in ((of_b, of_a), (of_a, of_b))]
    eta_parts = (value, sign * first, second, sign * third)
    return Interval(
        Derivatives(*(part.reshape(shape) for part in eta_parts)),
        *((end[0].reshape(shape), end[1].reshape(shape), end[2].reshape(shape)) for end in ends),
    )


def _narrow(middle: FloatArray, width: FloatArray) -> FloatArray:
    """Return the value, derivatives in η, and derivatives of value, first and second in both ends."""
    half = width[:, None] / 2
    s = half * _NODES
    log = -middle[:, None] * s - s**2 / 2
    mass = _WEIGHTS * np.exp(log)
    total = mass.sum(axis=1)
    mass /= total[:, None]
    mean = (mass * s).sum(axis=1)
    away = s - mean[:, None]
    variance, third = (mass * away**2).sum(axis=1), (mass * away**3).sum(axis=1)
    with np.errstate(divide="ignore"):
        value = -(middle**2) / 2 + np.log(total * width) - math.log(2 * math.sqrt(2 * math.pi))
    parts = [value, middle + mean, variance - 1, third]
    for side in (-1.0, 1.0):
        end = side * width / 2
        density = side * np.exp(-middle * end - end**2 / 2) / (total * width / 2)
        parts += [density, density * (end - mean), density * ((end - mean) ** 2 - variance)]
    return np.array(parts)


def _by_ends(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the same from log Φ(b) + log(1 - ρ), ρ = Φ(a)/Φ(b), a + b <= 0, derivatives in η = -b."""
    of_a, of_b = LINKS["probit"].below(a), LINKS["probit"].below(b)
    rest = np.exp(of_a.value - of_b.value)
    one = of_a.first - of_b.first
    two, three = of_a.second - of_b.second, of_a.third - of_b.third
    g1, g2, g3 = -rest / (1 - rest), -rest / (1 - rest) ** 2, -rest * (1 + rest) / (1 - rest) ** 3
    value = of_b.value + np.log1p(-rest)
    first = -(of_b.first + g1 * one)
    second = of_b.second + g1 * two + g2 * one**2
    third = -(of_b.third + g1 * three + 3 * g2 * one * two + g3 * one**3)
    density = g1 * of_a.first
    of_lower = [density, density * (a - first), density * ((a - first) ** 2 - 1 - second)]
    of_upper = [-d - e for d, e in zip((first, second, third), of_lower, strict=True)]
    return np.array([value, first, second, third, *of_lower, *of_upper])


INTERVALS = {"logit": logistic, "probit": normal}
