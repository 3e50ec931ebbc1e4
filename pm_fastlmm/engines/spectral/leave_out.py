"""P and Py of one kernel at posterior draws, as many at a time as fit into memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.engines.precisions import Part
from pm_fastlmm.kernel.likelihood.precision import Coefficients, SpectralRows
from pm_fastlmm.spectrum.spectrum import Spectrum


@dataclass(frozen=True, slots=True, eq=False)
class KernelDraws:
    """
    Draws of σ²(K + δI) for one response or several; arrays that are the same in all draws are broadcast views.

    Attributes
    ----------
    shape : tuple
        (chain, draw) and that of the responses.
    y : (…, n) array or None
        None for a statistic, which has its own coordinates `fixed`.
    fixed : (…, k) and (…, r) arrays, or None
        z and y₁.
    mu, g, e : (chain, draw, …, n), (chain, draw, …), (chain, draw, …) arrays
    b, B : (chain, draw, …, r), (chain, draw, …, r, r) arrays, or None
        Mean and covariance of a proper β.
    """

    spectrum: Spectrum
    shape: tuple[int, ...]
    y: FloatArray | None
    fixed: tuple[FloatArray, FloatArray] | None
    mu: FloatArray
    g: FloatArray
    e: FloatArray
    b: FloatArray | None
    B: FloatArray | None

    def parts(self, largest: int, numbers: int) -> Iterator[Part]:
        """Return P and Py of as many draws at a time as fit."""
        s, total = self.spectrum, int(np.prod(self.shape))
        rows, r = SpectralRows.of(s), s.projection.rank if self.b is not None else 0
        each = (1 + r) * (s.n + s.rank) + (largest * (s.rank + largest) if largest > 1 else 0)
        size = max(1, numbers // each)
        once = None
        if self.y is not None and not np.ptp(self.mu, axis=(0, 1)).any():
            once = self._rotate(np.broadcast_to(self.y - self.mu[0, 0], (*self.shape[2:], s.n)))
        for index in slices(total, size):
            places = np.unravel_index(np.arange(total)[index], self.shape)
            y, (z, rest, y1) = self._response(places, once)
            beta = None
            if self.b is not None and self.B is not None:
                RB = s.projection.R @ np.broadcast_to(self.B, (*self.shape, *self.B.shape[-2:]))[places]
                b = np.broadcast_to(self.b, (*self.shape, self.b.shape[-1]))[places]
                beta = Coefficients(y1 - b @ s.projection.R.T, RB @ s.projection.R.T)
            g, e = (np.broadcast_to(v, self.shape)[places] for v in (self.g, self.e))
            yield Part(index, rows.at(z, rest, g, e, beta), y)

    def _rotate(self, values: FloatArray) -> tuple[FloatArray, FloatArray | None, FloatArray]:
        """Return z, the rest in the directions with λ = 0, and y₁ of values (…, n)."""
        s = self.spectrum
        y1 = values @ s.projection.Q1
        y2 = values - y1 @ s.projection.Q1.T
        z = y2 @ s.basis
        return z, y2 - z @ s.basis.T if s.nullity else None, y1

    def _response(self, places: Any, once: Any) -> tuple[FloatArray, tuple[FloatArray, FloatArray | None, FloatArray]]:
        """Return y and its coordinates at some draws, with an axis of length 1 where they are the same in all."""
        s = self.spectrum
        if self.fixed is not None:
            z, y1 = (_taken(part, places) for part in self.fixed)
            return y1 @ s.projection.Q1.T + z @ s.basis.T, (z, None, y1)
        assert self.y is not None
        if once is not None:
            z, rest, y1 = once
            taken = _taken(z, places), None if rest is None else _taken(rest, places), _taken(y1, places)
            return _taken(np.broadcast_to(self.y, (*self.shape[2:], s.n)), places), taken
        y, mu = (np.broadcast_to(v, (*self.shape, s.n))[places] for v in (self.y, self.mu))
        return y, self._rotate(y - mu)


def _taken(values: FloatArray, places: Any) -> FloatArray:
    """Return values (…, m) of the responses that the draws are of."""
    return values[places[2:]] if values.ndim > 1 else values[None]
