"""P and Py of one kernel at posterior draws, as many at a time as fit into memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.engines.precisions import Part
from pm_fastlmm.kernel.likelihood.precision import Coefficients, SpectralRows
from pm_fastlmm.spectrum.spectrum import Spectrum

type _Coordinates = tuple[FloatArray, FloatArray | None, FloatArray]  # z, the rest where λ = 0, and y₁


def kernel_parts(
    s: Spectrum, shape: tuple[int, ...], y: FloatArray, mu: FloatArray, g: FloatArray, e: FloatArray, b: FloatArray,
    B: FloatArray, rotated: _Coordinates | None = None, *, largest: int, numbers: int,
) -> Iterator[Part]:  # fmt: skip
    """
    Return P and Py of draws of σ²(K + δI), as many at a time as fit; arrays that are the same in all are broadcast.

    Parameters
    ----------
    shape : tuple
        (chain, draw) and that of the responses.
    y : (…, n) array
    mu, g, e : (chain, draw, …, n), (chain, draw, …), (chain, draw, …) arrays
    b, B : (chain, draw, …, r), (chain, draw, …, r, r) arrays
        Mean and covariance of a proper β, of no columns for a flat one.
    rotated : tuple, optional
        Coordinates of a y that is a statistic.
    largest : int
        The largest group that is left out.
    numbers : int
        How many may be in flight.
    """
    total, rows, r, R = int(np.prod(shape)), SpectralRows.of(s), b.shape[-1], s.projection.R
    each = (1 + r) * (s.n + s.rank) + (largest * (s.rank + largest) if largest > 1 else 0)
    whole = np.broadcast_to(y, (*shape[2:], s.n))
    if rotated is None and not np.ptp(mu, axis=(0, 1)).any():
        rotated = _rotate(s, np.broadcast_to(y - mu[0, 0], whole.shape))

    def at(places: Any, values: FloatArray, *own: int) -> Any:
        return np.broadcast_to(values, (*shape, *own))[places]

    for index in slices(total, max(1, numbers // each)):
        places = np.unravel_index(np.arange(total)[index], shape)
        if rotated is None:
            data = at(places, y, s.n)
            z, rest, y1 = _rotate(s, data - at(places, mu, s.n))
        else:
            data, z, y1 = (_of_responses(part, places) for part in (whole, rotated[0], rotated[2]))
            rest = None if rotated[1] is None else _of_responses(rotated[1], places)
        beta = None
        if r:
            beta = Coefficients(y1 - at(places, b, r) @ R.T, R @ at(places, B, r, r) @ R.T)
        yield Part(index, rows.at(z, rest, at(places, g), at(places, e), beta), data)


def _rotate(s: Spectrum, values: FloatArray) -> _Coordinates:
    """Return the coordinates of values (…, n)."""
    values = s.weights.scaled(values)
    y1 = values @ s.projection.Q1
    y2 = values - y1 @ s.projection.Q1.T
    z = y2 @ s.basis
    return z, y2 - z @ s.basis.T if s.nullity else None, y1


def _of_responses(values: FloatArray, places: Any) -> FloatArray:
    """Return values (…, m) of the responses that the draws are of, with an axis of length 1 where there is one."""
    return np.atleast_2d(values[places[2:]])
