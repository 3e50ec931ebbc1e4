"""Where the mass of the posterior is, and nodes until the interpolant is the likelihood."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.quadrature.interpolant import Box, Interpolant
from pm_fastlmm.quadrature.interpolated import Interpolated, Nodes
from pm_fastlmm.quadrature.likelihood import Likelihood
from pm_fastlmm.quadrature.ratios import Pieces, Ratios
from pm_fastlmm.quadrature.region import Region

_COARSE = 100  # times the tolerance, above which the last coefficients say that a check would fail
START = {1: 7, 2: 5, 3: 5}  # nodes along an axis
_MOST = {1: 257, 2: 1100, 3: 5000}  # nodes, a quarter of the evaluations before the region is found
_CHECKS = {1: 2, 2: 8, 3: 8}  # draws at which the interpolant is compared with the likelihood


class Found(NamedTuple):
    """
    An interpolated posterior.

    Attributes
    ----------
    interpolated : Interpolated
    nodes : Nodes
        Of the sums.
    log_evidence : float
    error : float
        Of the log-likelihood at draws.
    reason : str
        Why it is not as precise as it should be; nothing if it is.
    """

    interpolated: Interpolated
    nodes: Nodes
    log_evidence: float
    error: float
    reason: str = ""


def integrate(
    ratios: Ratios, likelihood: Likelihood, region: Region, tolerance: float, rng: np.random.Generator
) -> tuple[Found, Box]:
    """
    Interpolate the likelihood on a region, and integrate the posterior; return where it was evaluated besides.

    The region grows until the density at its faces is negligible, and nodes are added until the interpolant is the
    likelihood, to a tolerance, at draws from the posterior that it makes; unless the region does not end, or more nodes
    are needed than are affordable.
    """
    d = len(region.lower)
    while True:
        box = box_of(likelihood, region)
        now = Interpolated(ratios, region, Interpolant.through(box, (START[d],) * d))
        found, grown = _refined(now, box, likelihood, tolerance, rng)
        if grown is None or likelihood.evaluations > 4 * _MOST[d]:
            break
        region = grown
    if grown is not None:
        return found._replace(reason="the region of its mass does not end"), box
    return (found if found.error <= tolerance else found._replace(reason="it varies too much")), box


def box_of(likelihood: Likelihood, region: Region) -> Box:
    """Return the pieces of the likelihood as a function on the region."""
    return Box(partial(_pieces, likelihood, region))


def _pieces(likelihood: Likelihood, region: Region, xi: FloatArray) -> Pieces:
    return likelihood(region.ratios((xi + 1) / 2 * region.length))


def _refined(
    now: Interpolated, box: Box, likelihood: Likelihood, tolerance: float, rng: np.random.Generator
) -> tuple[Found, Region | None]:
    """Add nodes until the interpolant is precise; return a wider region if one is needed."""
    while True:
        nodes, log_evidence, falls = now.integrate()
        grown = now.region.grown(falls)
        counts = finer(now)
        coarse = counts is not None and now.tails.max() > _COARSE * tolerance
        error = math.inf if grown is not None or coarse else _error(now, nodes, likelihood, rng)
        if grown is not None or counts is None or error <= tolerance:
            return Found(now, nodes, log_evidence, error), grown
        now = Interpolated(now.ratios, now.region, Interpolant.through(box, counts))


def finer(now: Interpolated) -> tuple[int, ...] | None:
    """Return closer nodes along the axis that needs them most and where they are not too many, or None."""
    for axis in np.argsort(-now.tails, kind="stable"):
        counts = list(now.interpolant.counts)
        counts[axis] = 2 * counts[axis] - 1
        if math.prod(counts) <= _MOST[len(counts)]:
            return tuple(counts)
    return None


def _error(now: Interpolated, nodes: Nodes, likelihood: Likelihood, rng: np.random.Generator) -> float:
    """Return the largest error of log p(y | r) at draws from the posterior."""
    r, pieces = now.at(now.draw(nodes, _CHECKS[len(now.region.lower)], rng))
    exact = [now.ratios.log_likelihood(likelihood(row)) for row in r]
    return float(np.abs(now.ratios.log_likelihood(pieces) - exact).max())
