"""Interpolation by Chebyshev polynomials on a box, of a function that costs a factorisation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Self

import numpy as np
from numpy.polynomial.chebyshev import chebder, chebvander
from scipy.fft import dct

from pm_fastlmm.base.arrays import FloatArray

type Evaluate = Callable[[FloatArray], Sequence[FloatArray]]


class Box:
    """A function on [-1, 1]^d that is evaluated once at a point: closer nodes have those of wider ones among them."""

    def __init__(self, evaluate: Evaluate) -> None:
        """Start without evaluations."""
        self.evaluate = evaluate
        self.known: dict[tuple[float, ...], FloatArray] = {}

    def __call__(self, point: tuple[float, ...]) -> FloatArray:
        """Return the values at a point."""
        if point not in self.known:
            self.known[point] = np.array(self.evaluate(np.array(point)), dtype=float)
        return self.known[point]


@dataclass(frozen=True, slots=True, eq=False)
class Interpolant:
    """
    Σ c_{i…k} T_i(x_1) … T_k(x_d) through the values at the tensor product of the extrema of T_{m-1}.

    Attributes
    ----------
    coefficients : (f, m_1, …, m_d) array
        Of f functions.
    """

    coefficients: FloatArray

    @classmethod
    def through(cls, function: Box, counts: Sequence[int]) -> Self:
        """Return the interpolant with so many nodes along each axis."""
        values = np.array([function(point) for point in product(*map(nodes, counts))])
        c = values.T.reshape(-1, *counts)
        for axis, m in enumerate(counts, 1):
            c = dct(c, type=1, axis=axis) / (m - 1)
            ends = [slice(None)] * c.ndim
            ends[axis] = slice(None, None, m - 1)
            c[tuple(ends)] /= 2
        return cls(c)

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of nodes."""
        return tuple(self.coefficients.shape[1:])

    def on_grid(self, axes: Sequence[FloatArray]) -> FloatArray:
        """Return the values (f, N_1, …, N_d) on the tensor product of points."""
        out = self.coefficients
        for x, m in zip(axes, self.counts, strict=True):  # what was the first axis becomes the last
            out = np.tensordot(out, chebvander(x, m - 1), (1, 1))
        return np.asarray(out)

    def at(self, x: FloatArray) -> FloatArray:
        """Return the values (f, N) at points (N, d)."""
        first, *others = (chebvander(x[:, k], m - 1) for k, m in enumerate(self.counts))
        out = np.tensordot(self.coefficients, first, (1, 1))  # (f, …, N)
        return np.asarray(reduce(lambda c, V: np.einsum("fm...n,nm->f...n", c, V), others, out))

    @property
    def with_slopes(self) -> Self:
        """The functions, then their derivatives along the first axis, and so on: those of (1 + d) f functions."""
        parts = [self.coefficients]
        for axis, m in enumerate(self.counts, 1):
            slope = np.zeros_like(self.coefficients)
            slope[(slice(None),) * axis + (slice(m - 1),)] = chebder(self.coefficients, axis=axis)
            parts.append(slope)
        return type(self)(np.concatenate(parts))

    def tails(self, weights: FloatArray) -> FloatArray:
        """Return the largest of the last two coefficients along each axis, of a combination of the functions."""
        c = np.abs(np.tensordot(weights, self.coefficients, (0, 0)))
        return np.array([np.take(c, [-2, -1], axis=k).max() for k in range(c.ndim)])


def nodes(m: int) -> FloatArray:
    """Return the m extrema of T_{m-1} on [-1, 1]; the 2m - 1 have the same numbers among them."""
    return np.cos(np.pi * (np.arange(m) / (m - 1)))
