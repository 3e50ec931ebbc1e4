"""
The compiled loop over the spectra at the nodes of a lengthscale: the log-likelihood and its gradient in one pass.

    -2 log L = p log 2π + ν log σ²_e + Σ_c w_c(t) F_c,   F_c = Σ_i (log d_ci + z²_ci/d_ci) + rss_c/σ²_e,
    d_ci = σ²_gλ_ci + σ²_e,   w(t) = T(t)M,  T_j the Chebyshev polynomials

One file, because Numba's cache sees changes of the calling file alone; imported where it is first needed.
"""

import math

import numpy as np
from numba import njit

from pm_fastlmm.base.arrays import FloatArray

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums may be reordered; NaN and infinity keep their meaning
_LOG_2PI = math.log(2 * math.pi)
_EDGE = 1e-9  # by how much rounding may carry a lengthscale beyond its range, in the coordinate -1 … 1
_GROUP = 8  # variances whose product is taken before a logarithm, which costs as much as ten of the other operations


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _node(eigvals: FloatArray, squares: FloatArray, g: float, e: float) -> tuple[float, float, float]:
    """Return Σ(log d + z²/d) and its derivatives with respect to σ²_g and σ²_e; λ descends, and z = 0 where λ = 0."""
    rank = eigvals.size
    while rank > 0 and eigvals[rank - 1] == 0:
        rank -= 1
    filled = eigvals.size - rank
    scale = g * eigvals[0] + e if rank else 1.0
    inverse = 1.0 / scale
    logs = rank * math.log(scale)
    quadratic = 0.0
    by_g = 0.0
    by_e = 0.0
    if filled:
        logs += filled * math.log(e)
        by_e += filled / e
    whole = rank - rank % _GROUP
    for start in range(0, whole, _GROUP):
        product = 1.0
        for i in range(start, start + _GROUP):
            d = g * eigvals[i] + e
            product *= d * inverse
            w = 1.0 / d
            q = squares[i] * w
            slope = (1.0 - q) * w
            quadratic += q
            by_g += slope * eigvals[i]
            by_e += slope
        if product > 1e-300:
            logs += math.log(product)
        else:  # the product of tiny ratios has underflowed
            for i in range(start, start + _GROUP):
                logs += math.log((g * eigvals[i] + e) * inverse)
    for i in range(whole, rank):
        d = g * eigvals[i] + e
        w = 1.0 / d
        q = squares[i] * w
        slope = (1.0 - q) * w
        logs += math.log(d * inverse)
        quadratic += q
        by_g += slope * eigvals[i]
        by_e += slope
    return logs + quadratic, by_g, by_e


@njit(cache=True, nogil=True, error_model="numpy")
def cardinal(transform: FloatArray, t: float, weights: FloatArray, slopes: FloatArray) -> None:
    """Fill the weights w(t) of the nodes, and dw/dt, from T_j and T'_j = jU_{j-1} by their recurrences."""
    count = transform.shape[0]
    weights[:] = 0.0
    slopes[:] = 0.0
    before, now = t, 1.0  # T₋₁ = T₁
    u_before, u_now = 0.0, 0.0  # T'₀ = 0
    for j in range(count):
        for c in range(count):
            weights[c] += now * transform[j, c]
            slopes[c] += u_now * transform[j, c]
        after = t if j == 0 else 2 * t * now - before
        u_after = 1.0 if j == 0 else 2 * now + 2 * t * u_now - u_before  # T_{j+1} = 2tT_j - T_{j-1}, differentiated
        before, now = now, after
        u_before, u_now = u_now, u_after


@njit(cache=True, nogil=True, error_model="numpy")
def interpolated_rows(
    lengthscale: FloatArray, sigma2_g: FloatArray, sigma2_e: FloatArray,
    eigvals: FloatArray, squares: FloatArray, rss: FloatArray, extent: FloatArray, transform: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    """
    Fill log L and its derivatives with respect to log ℓ, σ²_g and σ²_e, a row for each point.

    `extent` is [log ℓ_min, log ℓ_max, ν]. Where the density is 0 the row is (-inf, 0, 0, 0).
    """
    count, k = eigvals.shape
    low, high, nullity = extent
    slope = 2 / (high - low)
    # whether y has a direction, at some node, whose variance is σ²_e alone
    degenerate = nullity > 0 or rss.max() > 0 or (eigvals.size > 0 and eigvals.min() <= 0)
    weights = np.empty((2, count))
    for b in range(lengthscale.size):
        g, e = sigma2_g[b], sigma2_e[b]
        t = slope * (math.log(lengthscale[b]) - low) - 1 if lengthscale[b] > 0 else math.inf
        possible = g >= 0 and e >= 0 and g + e > 0 and g + e < math.inf and not (degenerate and e == 0)
        if not (abs(t) <= 1 + _EDGE and possible):
            out[b, 0], out[b, 1], out[b, 2], out[b, 3] = -math.inf, 0.0, 0.0, 0.0
            continue
        cardinal(transform, t, weights[0], weights[1])
        value, by_t, by_g, by_e = (k + nullity) * _LOG_2PI, 0.0, 0.0, 0.0
        if nullity > 0:
            value += nullity * math.log(e)
            by_e += nullity / e
        for c in range(count):
            node, node_g, node_e = _node(eigvals[c], squares[c], g, e)
            if rss[c] > 0:
                node += rss[c] / e
                node_e -= rss[c] / e**2
            value += weights[0, c] * node
            by_t += weights[1, c] * node
            by_g += weights[0, c] * node_g
            by_e += weights[0, c] * node_e
        out[b, 0], out[b, 1], out[b, 2], out[b, 3] = -0.5 * value, -0.5 * slope * by_t, -0.5 * by_g, -0.5 * by_e
