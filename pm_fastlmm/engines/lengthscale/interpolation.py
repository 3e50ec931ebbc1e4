"""Polynomial interpolation in log ℓ at Chebyshev points, whose weights come with their derivatives."""

import math

import numpy as np
from numpy.polynomial import chebyshev

from pm_fastlmm.base.arrays import FloatArray, frozen

_TRANSFORMS: dict[int, FloatArray] = {}


def node_lengthscales(low: float, high: float, count: int) -> FloatArray:
    """Return the Chebyshev points of the second kind in log ℓ, from high to low; those of 2C - 1 contain those of C."""
    c = np.arange(count)
    # the sine of an angle that is odd about the middle: the points are symmetric, and nested to the last bit
    x = np.sin(np.pi * (count - 1 - 2 * c) / (2 * (count - 1)))
    middle, half = 0.5 * (math.log(low) + math.log(high)), 0.5 * math.log(high / low)
    out = np.exp(middle + half * x)
    out[0], out[-1] = high, low
    return np.asarray(out)


def chebyshev_transform(count: int) -> FloatArray:
    """Return M (C, C), from values at the nodes to Chebyshev coefficients: a discrete cosine transform."""
    if count not in _TRANSFORMS:
        j = np.arange(count)
        ends = np.where((j == 0) | (j == count - 1), 0.5, 1.0)
        matrix = 2 / (count - 1) * ends[:, None] * ends * np.cos(np.pi * np.outer(j, j) / (count - 1))
        _TRANSFORMS[count] = frozen(matrix)
    return _TRANSFORMS[count]


def interpolation_weights(low: float, high: float, count: int, lengthscale: FloatArray, order: int = 0) -> FloatArray:
    """Return the weights of the nodes (…, C) at lengthscales, or of the order-th derivative with respect to log ℓ."""
    width = math.log(high) - math.log(low)
    t = (2 * np.log(lengthscale) - math.log(low) - math.log(high)) / width
    matrix = chebyshev_transform(count)
    coefficients = chebyshev.chebder(matrix, m=order) if order else matrix
    weights = chebyshev.chebvander(t, len(coefficients) - 1) @ coefficients
    return np.asarray(weights * (2 / width) ** order)
