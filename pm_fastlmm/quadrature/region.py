"""The region of the ratios that holds the mass of a posterior, and coordinates in which the likelihood is smooth."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

_REACH = 8.0  # standard errors
_NEAR = 8.0  # standard errors from 0 within which a ratio may be 0
_MARGIN = 5.0  # standard deviations of draws, by which a region covers them
DROP = 25.0  # log-density that has fallen at the faces: 1e-11 of the mass is outside


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """
    A box in coordinates x of z = centre + axes · x, z_j = log(r_j + κ_j).

    κ_j = 0 for a ratio that is far from 0: x are then the axes of its information. A ratio that may be 0 has a κ_j > 0
    and begins there. The likelihood is a function of 1 + r_jλ for the eigenvalues λ of a term, of mean 1, with
    singularities at r_j = -1/λ. For κ_j < 1/λ they lie at distance π from the real z_j, as those of log r_j do.

    Attributes
    ----------
    centre : (d,) array
    axes : (d, d) array
    lower, upper, mode : (d,) arrays
        The faces, and about where the density is highest.
    kappa : (d,) array
    """

    centre: FloatArray
    axes: FloatArray
    lower: FloatArray
    upper: FloatArray
    mode: FloatArray
    kappa: FloatArray

    @classmethod
    def about(
        cls, r: FloatArray, cov: FloatArray, smallest: Callable[[int, float], float], may_be_0: Any = True
    ) -> Self:
        """
        Return ± 8 standard errors about an estimate with its covariance.

        `smallest` gives 1/λ of a term, as it is seen at a small ratio; `may_be_0` says of which r there is a likelihood
        at 0.
        """
        d, se = len(r), np.sqrt(np.diag(cov))
        near = (r < _NEAR * se) & may_be_0
        if not near.any():
            values, vectors = np.linalg.eigh(cov / np.outer(r, r))
            ends = np.full(d, _REACH)
            return cls(np.log(r), vectors * np.sqrt(values), -ends, ends, np.zeros(d), np.zeros(d))
        kappa, relative = np.zeros(d), np.where(near, 0.0, se / np.maximum(r, se))
        for k in map(int, np.flatnonzero(near)):
            kappa[k] = min(se[k] / 2, smallest(k, se[k] / 2))
        mode = np.log(kappa + np.maximum(r, np.where(near, se / 4, 0.0)))
        lower = np.where(near, np.log(np.where(near, kappa, 1.0)), mode - _REACH * relative)
        upper = np.where(near, np.log(kappa + r + _REACH * se), mode + _REACH * relative)
        return cls(np.zeros(d), np.eye(d), lower, upper, mode, kappa)

    @property
    def bounded(self) -> Any:
        """Which axes begin at a ratio of 0."""
        return np.asarray(self.kappa > 0)

    @property
    def length(self) -> FloatArray:
        """Of the axes."""
        return self.upper - self.lower

    def ratios(self, inside: FloatArray) -> FloatArray:
        """Return the ratios (…, d) at x = lower + inside: near 0 they are as precise as what is given."""
        from_zero = self.kappa * np.expm1(np.where(self.bounded, inside, 0.0))  # of a bounded axis, whose z is x
        return np.where(self.bounded, from_zero, np.exp(self._z(inside)))

    def place(self, r: FloatArray) -> FloatArray:
        """Return x - lower of ratios (…, d)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.log(np.asarray(r) + self.kappa)
        return np.asarray((z - self.centre) @ np.linalg.inv(self.axes).T - self.lower)

    def to_square(self) -> tuple[FloatArray, FloatArray]:
        """Return A and b of the place Az - b on [-1, 1]^d."""
        scale = 2 / self.length
        rates = np.ascontiguousarray(scale[:, None] * np.linalg.inv(self.axes))
        return rates, rates @ self.centre + scale * self.lower + 1

    def log_jacobian(self, inside: FloatArray) -> FloatArray:
        """Return log |∂r/∂x| (…)."""
        return np.asarray(self._z(inside).sum(axis=-1) + np.linalg.slogdet(self.axes)[1])

    def _z(self, inside: FloatArray) -> FloatArray:
        return np.asarray(self.centre + (self.lower + inside) @ self.axes.T)

    def covering(self, r: FloatArray) -> Self | None:
        """Return the region with faces moved so that it holds draws (m, d) with a margin, None where it does."""
        x = self.lower + self.place(r)
        mean, sd = x.mean(axis=0), x.std(axis=0)
        low, high = mean - _MARGIN * sd < self.lower, mean + _MARGIN * sd > self.upper
        low &= ~self.bounded
        if not (low.any() or high.any()):
            return None
        lower = np.where(low, mean - 1.2 * _MARGIN * sd, self.lower)
        return replace(self, lower=lower, upper=np.where(high, mean + 1.2 * _MARGIN * sd, self.upper))

    def grown(self, falls: FloatArray) -> Self | None:
        """
        Return the region with those faces moved at which the density is not negligible, None where it is at all.

        `falls` (2, d) is by how much its logarithm has fallen at the lower and upper faces.
        """
        short = falls < DROP
        short[0] &= ~self.bounded
        if not short.any():
            return None
        power = np.where(self.bounded, 1.0, 0.5)  # of a ratio that may be 0 the logarithm has a long tail
        factor = np.where(short, np.clip((1.1 * DROP / np.maximum(falls, 1.0)) ** power, 1.1, 2.5), 1.0)
        lower = self.mode + (self.lower - self.mode) * factor[0]
        return replace(self, lower=lower, upper=self.mode + (self.upper - self.mode) * factor[1])
