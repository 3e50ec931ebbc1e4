"""The compiled evaluation of ℓ(θ) and its gradient from interpolated pieces."""

import math
from typing import Any

import numpy as np
from numba import njit

compiled = njit(cache=True, nogil=True)
_EDGE = 1 + 1e-12  # of an axis, beyond which a point is outside


@compiled
def loglik_and_gradient(
    theta: Any, unit: Any, df: Any, kappa: Any, rates: Any, shift: Any, coefficients: Any, counts: Any
) -> Any:
    """
    Return whether θ is inside the region, ℓ(θ) and its gradient.

    The place on [-1, 1]^d is rates · log(r + κ) - shift; the interpolated functions are level and log q, and then their
    slopes along each axis.
    """
    d = len(kappa)
    c, gradient = unit * theta, np.zeros(d + 1)
    total, e = c.sum(), c[d]
    if not (e > 0.0 and total < math.inf):
        return False, 0.0, gradient
    moved = c[:d] / e + kappa
    for k in range(d):
        if not (c[k] >= 0.0 and moved[k] > 0.0):
            return False, 0.0, gradient
    x = rates @ np.log(moved) - shift
    for k in range(d):
        if not abs(x[k]) <= _EDGE:
            return False, 0.0, gradient
    values = _at_point(coefficients, counts, np.clip(x, -1.0, 1.0))
    half = 0.5 * math.exp(values[1]) / total
    by_total = (half - 0.5 * df) / total
    by_ratio = (rates.T @ (values[2::2] - half * values[3::2])) / moved
    gradient[:d] = by_total + by_ratio / e
    gradient[d] = by_total - (by_ratio * c[:d]).sum() / e**2
    return True, values[0] - 0.5 * df * math.log(total) - half, unit * gradient


@compiled
def _at_point(coefficients: Any, counts: Any, x: Any) -> Any:
    """Return Σ c_{i…k} T_i(x_1) … T_k(x_d) of functions, one after the other; the sum over the last axis is first."""
    source, size = coefficients, len(coefficients)
    work = np.empty(size // counts[-1])
    for axis in range(len(counts) - 1, -1, -1):
        m = counts[axis]
        T = np.ones(m)
        T[1] = x[axis]
        for k in range(2, m):
            T[k] = 2.0 * x[axis] * T[k - 1] - T[k - 2]
        size //= m
        for i in range(size):
            total = 0.0
            for k in range(m):
                total += source[i * m + k] * T[k]
            work[i] = total
        source = work
    return work[:size]


@compiled
def value_and_gradient(theta: Any, kappa: Any, rates: Any, shift: Any, coefficients: Any, counts: Any) -> Any:
    """
    Return whether θ is inside the region, an interpolated function of it, and its gradient.

    The place on [-1, 1]^d is rates · log(θ + κ) - shift; the interpolated functions are its value and its slopes along
    each axis.
    """
    d = len(kappa)
    moved, gradient = theta + kappa, np.zeros(d)
    for k in range(d):
        if not (theta[k] >= 0.0 and 0.0 < moved[k] < math.inf):
            return False, 0.0, gradient
    x = rates @ np.log(moved) - shift
    for k in range(d):
        if not abs(x[k]) <= _EDGE:
            return False, 0.0, gradient
    values = _at_point(coefficients, counts, np.clip(x, -1.0, 1.0))
    return True, values[0], (rates.T @ values[1:]) / moved
