"""The interpolated posterior of variance ratios on a region, and the sums over it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.quadrature.interpolant import Interpolant
from pm_fastlmm.quadrature.ratios import Pieces, Ratios
from pm_fastlmm.quadrature.region import Region

_KEPT = 28.0  # log-density below which nodes are dropped
_PANELS, _POINTS = {1: 250, 2: 20, 3: 4}, 16  # of composite Gauss-Legendre quadrature


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
    prior, ∝ r^(α - 1), the place is t², or t^(2/α) if α < 1: the density of t is smooth there, and nodes are close.
    """

    ratios: Ratios
    region: Region
    interpolant: Interpolant

    @property
    def tails(self) -> FloatArray:
        """The last coefficients of log p(y | r) along each axis: its error is some orders smaller."""
        return self.interpolant.tails(self.ratios.combination)

    def _inside(self, t: FloatArray) -> FloatArray:
        return np.asarray(self.region.length * t**self._power)

    @property
    def _power(self) -> FloatArray:
        return np.where(self.region.bounded, 2 / np.minimum(self.ratios.alpha[:-1], 1.0), 1.0)

    def at(self, t: FloatArray) -> tuple[FloatArray, Pieces]:
        """Return ratios and pieces at points (N, d) of the unit cube."""
        return self.region.ratios(self._inside(t)), Pieces(*self.interpolant.at(2 * t**self._power - 1))

    def log_density(self, t: FloatArray, r: FloatArray, pieces: Pieces) -> FloatArray:
        """Return the log-density of t (…, d), without log p(y)."""
        jacobian = np.log(self.region.length * self._power) + (self._power - 1) * np.log(t)
        jacobian = jacobian.sum(axis=-1) + self.region.log_jacobian(self._inside(t))
        return self.ratios.log_likelihood(pieces) + self.ratios.log_prior(r) + jacobian

    def integrate(self) -> tuple[Nodes, float, FloatArray]:
        """Return the nodes, log p(y), and by how much the log-density has fallen at lower and upper faces (2, d)."""
        d = len(self.region.lower)
        t, w = _composite(_PANELS[d])
        edges = np.concatenate([[0.0], np.cumsum(w)])
        grid = np.stack(np.meshgrid(*[t] * d, indexing="ij"), axis=-1)
        pieces = Pieces(*self.interpolant.on_grid([2 * t**power - 1 for power in self._power]))
        r = self.region.ratios(self._inside(grid))
        log_density = self.log_density(grid, r, pieces)
        top = log_density.max()
        faces = [[top - np.take(log_density, end, axis=k).max() for k in range(d)] for end in (0, -1)]
        kept = np.nonzero(log_density > top - _KEPT)
        weights = np.exp(log_density[kept] - top) * np.prod(w[np.stack(kept)], axis=0)
        mass = weights.sum()
        place = np.stack(kept, axis=-1)
        own = Nodes(r[kept], self.ratios.log_scale(pieces)[kept], weights / mass, edges[place], edges[place + 1])
        return own, float(top + np.log(mass)), np.array(faces)

    def place(self, r: float) -> float:
        """Return t of a single ratio, within [0, 1]."""
        share = (self.region.place(np.array([r])) / self.region.length).clip(0.0, 1.0)
        return float(share[0] ** (1 / self._power[0]))

    def below(self, t: float, log_evidence: float) -> float:
        """Return the probability of [0, t], along a single axis."""
        if t == 0:
            return 0.0
        points, w = _composite(_PANELS[1])
        at = (t * points)[:, None]
        return float(t * (w @ np.exp(self.log_density(at, *self.at(at)) - log_evidence)))

    def draw(self, own: Nodes, n: int, rng: np.random.Generator) -> FloatArray:
        """Return n draws of t (n, d), in the order of the nodes: of equal probability between them."""
        chosen = np.searchsorted(np.cumsum(own.weights), (np.arange(n) + rng.uniform(size=n)) / n * (1 - 1e-12))
        chosen = np.minimum(chosen, len(own.weights) - 1)
        low, high = own.low[chosen], own.high[chosen]
        return low + (high - low) * rng.uniform(size=low.shape)


def _composite(panels: int) -> tuple[FloatArray, FloatArray]:
    """Return points and weights on [0, 1] of Gauss-Legendre quadrature in panels."""
    x, w = np.polynomial.legendre.leggauss(_POINTS)
    points = (np.arange(panels)[:, None] + (x + 1) / 2) / panels
    return points.ravel(), np.tile(w / (2 * panels), panels)
