"""
The posterior of logit h² on nodes that all responses share.

With e_i = h²λ_i/k̄ + 1 - h² the total variance integrates out, and what is left is a function of Σz²/e: one product of
the squared rotated responses with 1/e at the nodes is the posterior of all of them.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.kernel.exact.deviation_prior import Prior
from pm_fastlmm.kernel.likelihood.prior import shares
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_DROP = 34.0  # log-density that a tail falls before it is cut: 2e-15 of the mass
_LIMIT = 700.0  # of logit h², where 1 - h² leaves the range of floats
_TAIL_STEP = 0.6  # largest distance of nodes: the tails are those of a logistic density, with poles at distance π
_SD_STEP = 0.7  # distance in standard deviations of the narrowest posterior that the spectrum can give
_RESOLVED = 0.36  # Σ(weights²) of a normal posterior whose nodes are 1.3 standard deviations apart
_BLOCK = 500_000


class Quadrature(NamedTuple):
    """
    Log-densities (T, m) of logit h² at nodes x (m,) with widths dx, and the scale (T, m) of the total given h².

    `log_mass` (T,) is log ∫ p(y | h²) p(h²) dh² without what the fixed effects add, `log_none` log p(y | h² = 0).
    """

    x: FloatArray
    dx: FloatArray
    log_density: FloatArray
    scale: FloatArray
    log_mass: FloatArray
    log_none: FloatArray


def integrate(rotated: Rotated, prior: Prior) -> Quadrature:
    """
    Integrate the posterior of T rotated responses over logit h².

    The trapezoidal rule converges geometrically; its nodes are equally spaced in t with dt/dx = √(Δ⁻² + I(x)/κ²), I the
    expected information on x. They are made closer, for all responses, until the narrowest posterior is resolved.
    """
    few = max(1.0, 12.0 / math.sqrt(max(1, rotated.rss.size)))  # few responses can afford closer nodes
    fineness = few
    while True:
        quadrature = _on_nodes(rotated, prior, *_nodes(rotated, prior, fineness))
        if _narrowest(quadrature) <= _RESOLVED / few or fineness > 64 * few:
            return quadrature
        fineness *= 2


def _narrowest(quadrature: Quadrature) -> float:
    largest = 0.0
    rows = max(1, _BLOCK // quadrature.x.size)
    for part in slices(len(quadrature.log_density), rows):
        weights = np.exp(quadrature.log_density[part]) * quadrature.dx
        largest = max(largest, float(np.nan_to_num(np.einsum("tm,tm->t", weights, weights)).max(initial=0.0)))
    return largest


def _nodes(rotated: Rotated, prior: Prior, fineness: float) -> tuple[FloatArray, FloatArray]:
    """Return nodes of logit h² and their widths."""
    s = rotated.spectrum
    low, high = _range(rotated, prior)
    grid = np.linspace(low, high, max(200, math.ceil((high - low) / 0.1)))
    speed = CubicSpline(grid, fineness * np.sqrt(_TAIL_STEP**-2 + _expected_information(s, grid) / _SD_STEP**2))
    place = speed.antiderivative()
    length = float(place(high))
    t = np.linspace(0.0, length, math.ceil(length) + 1)
    x = np.interp(t, place(grid), grid)
    for _ in range(4):
        x = np.clip(x - (place(x) - t) / speed(x), low, high)
    return x, np.asarray(t[1] / speed(x))


def _range(rotated: Rotated, prior: Prior) -> tuple[float, float]:
    """
    Return where the posteriors end.

    Below -log(λmax/k̄) and above -log(λmin/k̄), or where rss alone decides, the likelihood is flat or falls, and the
    density falls at least as fast as the prior.
    """
    s = rotated.spectrum
    relative = s.eigvals / s.mean_diagonal
    low = -math.log(max(1.0, relative.max())) - _DROP / prior.h2_alpha
    high = -math.log(min(1.0, relative.min()))
    if s.nullity:
        with np.errstate(all="ignore"):
            ratio = np.atleast_1d(rotated.norm2 / rotated.rss)
        high += math.log(max(1.0, float(np.max(ratio[np.isfinite(ratio)], initial=1.0))))
    return max(-_LIMIT, low), min(_LIMIT, high + _DROP / prior.h2_beta)


def _expected_information(s: Spectrum, x: FloatArray) -> FloatArray:
    """Return the expected information on x once the total is profiled out: ½ p times the variance of d log e_i/dx."""
    h, one_minus = (v[:, None] for v in shares(x))
    relative = s.eigvals / s.mean_diagonal
    out = np.empty(x.size)
    rows = max(1, _BLOCK // s.rank)
    for part in slices(x.size, rows):
        slope = h[part] * one_minus[part] * (relative - 1) / (h[part] * relative + one_minus[part])
        null = -h[part, 0]
        mean = (slope.sum(-1) + s.nullity * null) / s.df
        out[part] = ((slope - mean[:, None]) ** 2).sum(-1) + s.nullity * (null - mean) ** 2
    return 0.5 * out


def _on_nodes(rotated: Rotated, prior: Prior, x: FloatArray, dx: FloatArray) -> Quadrature:
    s = rotated.spectrum
    z, rss, norm2 = np.atleast_2d(rotated.z), np.atleast_1d(rotated.rss), np.atleast_1d(rotated.norm2)
    h, one_minus = shares(x)
    with np.errstate(over="ignore", divide="ignore"):
        e = np.multiply.outer(s.eigvals / s.mean_diagonal, h) + one_minus
        logdet, inverse = np.log(e).sum(0) + s.nullity * np.log(one_minus), 1 / e
        null = 1 / one_minus if s.nullity else np.zeros_like(x)
    density, scale = np.empty((len(z), x.size)), np.empty((len(z), x.size))
    log_mass, log_none = np.empty(len(z)), np.empty(len(z))
    rows = max(16, _BLOCK // max(s.rank, x.size))
    for part in slices(len(z), rows):
        block = prior.part(part)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            quadratic = (z[part] ** 2) @ inverse + rss[part, None] * null
            scale[part], joint = block.log_joint(x, quadratic, s.df)
            log_density = joint - 0.5 * logdet
            log_none[part] = block.log_none(norm2[part], s.df)
        log_density[~np.isfinite(quadratic)] = -np.inf
        top = log_density.max(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            mass = top + np.log((np.exp(log_density - top) * dx).sum(-1, keepdims=True))
            density[part] = log_density - mass
        log_mass[part] = mass[:, 0]
    return Quadrature(x, dx, density, scale, log_mass, log_none)
