"""The posterior of variance ratios: where its mass is, the interpolated likelihood, and the sums over it."""

import math
import warnings
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.fitting.quadrature.interpolant import Box, Interpolant
from pm_fastlmm.fitting.quadrature.ratios import Pieces, Ratios
from pm_fastlmm.fitting.quadrature.region import Region

TOLERANCE = 1e-4  # of the log-likelihood
_DROP = 25.0  # log-density that has fallen at the faces of the region: 1e-11 of the mass is outside
_KEPT = 40.0  # log-density below which nodes are dropped
_START = {1: 7, 2: 9, 3: 7}  # nodes along an axis
_MOST = {1: 257, 2: 1100, 3: 3000}  # evaluations
_CHECKS = {1: 4, 2: 8, 3: 8}  # draws at which the interpolant is compared with the likelihood
_PANELS, _POINTS = {1: 250, 2: 20, 3: 4}, 16  # of composite Gauss-Legendre quadrature
_MOVES = 60  # of the faces


class Nodes(NamedTuple):
    """
    Nodes of the quadrature: their ratios (m, d), the log-scale of the total (m,), and weights (m,) that add up to 1.

    `low`, `high` (m, d) are the cells of the nodes on the unit cube, in the coordinates t of `Interpolated`.
    """

    r: FloatArray
    log_scale: FloatArray
    weights: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Interpolated:
    """
    log p(y | r) on a region, by interpolation of its pieces, and the posterior on nodes.

    The quadrature is over t in [0, 1]^d. Along an axis that begins at a ratio of 0, where the density is that of its
    prior, ∝ r^(α - 1), the place is t^(1/α), so that the density of t is smooth there.
    """

    ratios: Ratios
    region: Region
    function: Box
    interpolant: Interpolant

    @classmethod
    def on(cls, ratios: Ratios, region: Region, counts: tuple[int, ...]) -> Self:
        """Interpolate on a region with so many nodes along each axis."""
        half = (region.upper - region.lower) / 2

        def evaluate(xi: FloatArray) -> Pieces:
            return ratios.evaluate(region.ratios(region.lower + (xi + 1) * half))

        function = Box(evaluate)
        return cls(ratios, region, function, Interpolant.through(function, counts))

    def finer(self) -> Self | None:
        """Return the same with closer nodes along the axis that needs them most; None where they are too many."""
        tails = self.interpolant.tails(np.array([1.0, -self.ratios.shape]))
        counts, axis = list(self.interpolant.counts), int(np.argmax(tails))
        counts[axis] = 2 * counts[axis] - 1
        if math.prod(counts) > _MOST[len(counts)]:
            return None
        return replace(self, interpolant=Interpolant.through(self.function, counts))

    def _x(self, t: FloatArray) -> FloatArray:
        region = self.region
        return region.lower + (region.upper - region.lower) * t**self._power

    @property
    def _power(self) -> FloatArray:
        return np.where(self.region.bounded, 1 / self.ratios.alpha[:-1], 1.0)

    def at(self, t: FloatArray) -> tuple[FloatArray, Pieces]:
        """Return ratios and pieces at points (N, d) of the unit cube."""
        return self.region.ratios(self._x(t)), Pieces(*self.interpolant.at(2 * t**self._power - 1))

    def log_density(self, t: FloatArray, r: FloatArray, pieces: Pieces) -> FloatArray:
        """Return the log-density of t (…, d), without log p(y)."""
        jacobian = np.log((self.region.upper - self.region.lower) * self._power) + (self._power - 1) * np.log(t)
        jacobian = jacobian.sum(axis=-1) + self.region.log_jacobian(self._x(t))
        return self.ratios.log_likelihood(pieces) + self.ratios.log_prior(r) + jacobian

    def integrate(self) -> tuple[Nodes, float, FloatArray]:
        """Return the nodes, log p(y), and by how much the log-density has fallen at the lower and upper faces (2, d)."""
        d = len(self.region.lower)
        t, w = _composite(_PANELS[d])
        edges = np.concatenate([[0.0], np.cumsum(w)])
        grid = np.stack(np.meshgrid(*[t] * d, indexing="ij"), axis=-1)
        pieces = Pieces(*self.interpolant.on_grid([2 * t**power - 1 for power in self._power]))
        r = self.region.ratios(self._x(grid))
        log_density = self.log_density(grid, r, pieces)
        top = log_density.max()
        faces = [[top - np.take(log_density, end, axis=k).max() for k in range(d)] for end in (0, -1)]
        kept = np.nonzero(log_density > top - _KEPT)
        weights = np.exp(log_density[kept] - top) * np.prod(w[np.stack(kept)], axis=0)
        mass = weights.sum()
        place = np.stack(kept, axis=-1)
        own = Nodes(r[kept], self.ratios.log_scale(pieces)[kept], weights / mass, edges[place], edges[place + 1])
        return own, float(top + np.log(mass)), np.array(faces)

    def draw(self, own: Nodes, n: int, rng: np.random.Generator) -> FloatArray:
        """Return n draws of t (n, d), in the order of the nodes: of equal probability between them."""
        chosen = np.searchsorted(np.cumsum(own.weights), (np.arange(n) + rng.uniform(size=n)) / n * (1 - 1e-12))
        chosen = np.minimum(chosen, len(own.weights) - 1)
        low, high = own.low[chosen], own.high[chosen]
        return low + (high - low) * rng.uniform(size=low.shape)


class Found(NamedTuple):
    """An interpolated likelihood, its nodes and log p(y), its error at draws, and how often ℓ was evaluated."""

    interpolated: Interpolated
    nodes: Nodes
    log_evidence: float
    error: float
    evaluations: int


def integrate(ratios: Ratios, r: FloatArray, cov: FloatArray, rng: np.random.Generator) -> Found:
    """
    Interpolate the likelihood about an estimate, and integrate the posterior.

    The region grows until the density at its faces is negligible, and nodes are added until the interpolant is the
    likelihood, to 1e-4, at draws from the posterior that it makes.

    Warns
    -----
    UserWarning
        If it is not with as many nodes as are affordable.
    """
    d, spent, moves = len(r), 0, 0
    now: Interpolated | None = Interpolated.on(ratios, Region.about(r, cov), (_START[d],) * d)
    while now is not None:
        last = now
        nodes, log_evidence, faces = last.integrate()
        grown = _grown(last.region, faces)
        if grown is not None and moves < _MOVES:
            moves, spent = moves + 1, spent + len(last.function.known)
            now = Interpolated.on(ratios, grown, last.interpolant.counts)
            continue
        worst, spent = _error(last, nodes, rng), spent + _CHECKS[d]
        now = None if worst <= TOLERANCE else last.finer()
    if worst > TOLERANCE:
        warnings.warn(
            f"the interpolated log-likelihood has an error of {worst:.1e} with {math.prod(last.interpolant.counts)} "
            "nodes: the posterior is approximate, and flmm.sample draws from it without interpolation.",
            UserWarning,
            stacklevel=4,
        )
    return Found(last, nodes, log_evidence, worst, spent + len(last.function.known))


def _grown(region: Region, faces: FloatArray) -> Region | None:
    """Return the region with the faces moved at which the density is not negligible, None where it is at all."""
    grown = region
    for k, (below, above) in enumerate(faces.T):
        if below < _DROP and not region.bounded[k]:
            grown = grown.grown(k, upwards=False)
        if above < _DROP:
            grown = grown.grown(k, upwards=True)
    return None if grown is region else grown


def _error(now: Interpolated, nodes: Nodes, rng: np.random.Generator) -> float:
    """Return the largest error of log p(y | r) at draws from the posterior."""
    r, pieces = now.at(now.draw(nodes, _CHECKS[len(now.region.lower)], rng))
    exact = [now.ratios.log_likelihood(now.ratios.evaluate(row)) for row in r]
    return float(np.abs(now.ratios.log_likelihood(pieces) - exact).max())


def _composite(panels: int) -> tuple[FloatArray, FloatArray]:
    """Return points and weights on [0, 1] of Gauss-Legendre quadrature in panels."""
    x, w = np.polynomial.legendre.leggauss(_POINTS)
    points = (np.arange(panels)[:, None] + (x + 1) / 2) / panels
    return points.ravel(), np.tile(w / (2 * panels), panels)
