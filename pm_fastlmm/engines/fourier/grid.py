"""The equispaced grid of frequencies, and the two rules by which it is chosen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray

_SQRT2 = math.sqrt(2.0)
_LARGEST = 2_000_000  # modes that are looked at for the tail of a spectral density


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """
    Frequencies h∘j inside a ball, j in a half-space: 0, and one of each pair ±j.

    The features are [1, √2 cos(2π(h∘j)ᵀ(x - centre)), √2 sin(…)], M = 2P + 1 of them. They repeat with period 1/h.

    Attributes
    ----------
    h, centre : (D,) arrays
    j : (P, D) array of int
        By distance from 0.
    """

    h: FloatArray
    centre: FloatArray
    j: npt.NDArray[np.int64]

    @classmethod
    def within(cls, h: FloatArray, centre: FloatArray, radius: float) -> Self:
        """Return all modes with |h∘j| ≤ radius."""
        box = [np.arange(-math.floor(radius / step), math.floor(radius / step) + 1) for step in h]
        j = np.array(np.meshgrid(*box, indexing="ij")).reshape(len(h), -1).T
        first = j[np.arange(len(j)), (j != 0).argmax(axis=1)]  # the first coordinate that is not 0
        size = np.sqrt(((j * h) ** 2).sum(axis=1))
        kept = np.flatnonzero((first > 0) & (size <= radius))
        return cls(h, centre, j[kept[np.argsort(size[kept], kind="stable")]])

    @property
    def dimensions(self) -> int:
        """D, of x."""
        return int(self.h.size)

    @property
    def size(self) -> int:
        """M, the number of features."""
        return 2 * len(self.j) + 1

    @property
    def largest(self) -> tuple[int, ...]:
        """The largest |j| of each dimension, m."""
        return tuple(int(m) for m in np.abs(self.j).max(axis=0, initial=0))

    @property
    def omega(self) -> FloatArray:
        """Angular frequencies (P + 1, D) of the constant and of each pair of features."""
        return np.asarray(2 * math.pi * self.h * np.concatenate([np.zeros((1, self.dimensions)), self.j]))

    @property
    def log_volume(self) -> float:
        """The logarithm of the volume h₁…h_D of a mode."""
        return float(np.log(self.h).sum())

    def angles(self, x: FloatArray) -> FloatArray:
        """Return 2πh(x - centre), (n, D), what a nonuniform FFT takes."""
        return np.asarray(2 * math.pi * self.h * (x - self.centre))

    def features(self, x: FloatArray) -> FloatArray:
        """Return Z, (n, M)."""
        phase = self.angles(x) @ self.j.T
        return np.concatenate([np.ones((len(x), 1)), _SQRT2 * np.cos(phase), _SQRT2 * np.sin(phase)], axis=1)


def choose_modes(
    log_density: Callable[[FloatArray], FloatArray], h: FloatArray, centre: FloatArray, *, n: float, noise_ratio: float,
    tolerance: float,
) -> tuple[Grid, float, float, bool]:  # fmt: skip
    """
    Return the smallest ball of modes outside which the divergence sums to `tolerance` at most, and what is left out.

    What leaving modes out does to the density of y is measured by the model with all of them. The cosine and the sine
    of a mode each change the log-density by ½[λξ² - log(1 + λ)], ξ standard normal, where λ = n d/δ is the ratio of
    signal to noise of a feature whose squares sum to n. Such are the features of data that fill the period; `n` counts
    the data as if they did. Returned are the divergence, the mean Σ [λ - log(1 + λ)] of Kullback and Leibler; and the
    standard deviation √Σ λ²: where λ is small it is √2 times the root of the divergence, which is far more.

    The flag is False if the ball would not fit into the modes that can be looked at: then the ball is the smallest that
    keeps the divergence of those alone, a lower bound.
    """
    radius, found, full = 2 * float(h.max()), False, False
    while not (found or full):
        radius *= 2
        grid = Grid.within(h, centre, radius)
        ratio = n * np.exp(log_density(grid.omega[1:]) + grid.log_volume) / noise_ratio
        lost = ratio - np.log1p(ratio)
        outer = np.sqrt(((grid.j * h) ** 2).sum(axis=1)) > radius / 2
        found = bool(lost[outer].sum() < 0.01 * tolerance)
        full = len(grid.j) * 2 ** len(h) > _LARGEST
    beyond = np.append(np.cumsum(lost[::-1])[::-1], 0.0)  # beyond[i]: modes i, i + 1, … are left out
    modes = int(np.argmax(beyond <= tolerance))
    spread = float(np.sqrt((ratio[modes:] ** 2).sum()))
    return Grid(h, centre, grid.j[:modes]), float(beyond[modes]), spread, found
