"""Where the mass of the posterior is, and nodes until the interpolant is the likelihood."""

import math
from typing import NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, warn
from pm_fastlmm.fitting.quadrature.interpolant import Box, Interpolant
from pm_fastlmm.fitting.quadrature.interpolated import Interpolated, Nodes
from pm_fastlmm.fitting.quadrature.likelihood import Likelihood
from pm_fastlmm.fitting.quadrature.ratios import Pieces, Ratios
from pm_fastlmm.fitting.quadrature.region import Region

_COARSE = 100  # times the tolerance, above which the last coefficients say that a check would fail
_START = {1: 7, 2: 5, 3: 5}  # nodes along an axis
_MOST = {1: 257, 2: 1100, 3: 5000}  # nodes, a quarter of the evaluations before the region is found
_CHECKS = {1: 2, 2: 8, 3: 8}  # draws at which the interpolant is compared with the likelihood


class Found(NamedTuple):
    """An interpolated posterior, its nodes, log p(y), and the error of its log-likelihood at draws."""

    interpolated: Interpolated
    nodes: Nodes
    log_evidence: float
    error: float


def integrate(
    ratios: Ratios, likelihood: Likelihood, region: Region, tolerance: float, rng: np.random.Generator
) -> Found:
    """
    Interpolate the likelihood on a region, and integrate the posterior.

    The region grows until the density at its faces is negligible, and nodes are added until the interpolant is the
    likelihood, to a tolerance, at draws from the posterior that it makes.

    Warns
    -----
    UserWarning
        If it is not with as many nodes as are affordable, or the region does not end.
    """
    d = len(region.lower)
    while True:
        box = _box(likelihood, region)
        now = Interpolated(ratios, region, Interpolant.through(box, (_START[d],) * d))
        found, grown = _refined(now, box, likelihood, tolerance, rng)
        if grown is None or likelihood.evaluations > 4 * _MOST[d]:
            break
        region = grown
    if grown is not None or not found.error <= tolerance:
        why = "the region of its mass does not end" if grown is not None else "it varies too much"
        warn(
            f"the log-likelihood is interpolated with an error of {found.error:.1e} after {likelihood.evaluations} "
            f"evaluations, because {why}: the posterior is approximate. flmm.sample draws from it without "
            "interpolation."
        )
    return found


def _box(likelihood: Likelihood, region: Region) -> Box:
    def evaluate(xi: FloatArray) -> Pieces:
        return likelihood(region.ratios((xi + 1) / 2 * region.length))

    return Box(evaluate)


def _refined(
    now: Interpolated, box: Box, likelihood: Likelihood, tolerance: float, rng: np.random.Generator
) -> tuple[Found, Region | None]:
    """Add nodes until the interpolant is precise; return a wider region if one is needed."""
    while True:
        nodes, log_evidence, falls = now.integrate()
        grown = now.region.grown(falls)
        counts = _finer(now)
        coarse = counts is not None and now.tails.max() > _COARSE * tolerance
        error = math.inf if grown is not None or coarse else _error(now, nodes, likelihood, rng)
        if grown is not None or counts is None or error <= tolerance:
            return Found(now, nodes, log_evidence, error), grown
        now = Interpolated(now.ratios, now.region, Interpolant.through(box, counts))


def _finer(now: Interpolated) -> tuple[int, ...] | None:
    """Return closer nodes along the axis that needs them most, None where they are too many."""
    counts, axis = list(now.interpolant.counts), int(np.argmax(now.tails))
    counts[axis] = 2 * counts[axis] - 1
    return tuple(counts) if math.prod(counts) <= _MOST[len(counts)] else None


def _error(now: Interpolated, nodes: Nodes, likelihood: Likelihood, rng: np.random.Generator) -> float:
    """Return the largest error of log p(y | r) at draws from the posterior."""
    r, pieces = now.at(now.draw(nodes, _CHECKS[len(now.region.lower)], rng))
    exact = [now.ratios.log_likelihood(likelihood(row)) for row in r]
    return float(np.abs(now.ratios.log_likelihood(pieces) - exact).max())
