"""The region of the ratios that holds the mass of a posterior, and coordinates in which the likelihood is smooth."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

_REACH = 8.0  # standard errors
_NEAR = 6.0  # standard errors from 0 within which a ratio may be 0
_GROWTH = 0.25  # of the length of an axis


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """
    A box in coordinates x of z = centre + axes · x, z_j = log(r_j + κ_j).

    κ_j = 0 for a ratio that is far from 0: x are then the axes of its information. A ratio that may be 0 has a κ_j > 0
    and begins there. The likelihood is a function of 1 + r_jλ for the eigenvalues λ of a term, of mean 1, with
    singularities at r_j = -1/λ. For κ_j < 1/λ they lie at distance π from the real z_j, as those of log r_j do, and the
    information on r_j at 0, at least ½λ², says how small λ is.

    Attributes
    ----------
    centre : (d,) array
    axes : (d, d) array
    lower, upper : (d,) arrays
        Of x.
    kappa : (d,) array
    """

    centre: FloatArray
    axes: FloatArray
    lower: FloatArray
    upper: FloatArray
    kappa: FloatArray

    @classmethod
    def about(cls, r: FloatArray, cov: FloatArray) -> Self:
        """Return ± 8 standard errors about an estimate with its covariance."""
        d, se = len(r), np.sqrt(np.diag(cov))
        near = r < _NEAR * se
        if not near.any():
            values, vectors = np.linalg.eigh(cov / np.outer(r, r))
            ends = np.full(d, _REACH)
            return cls(np.log(r), vectors * np.sqrt(values), -ends, ends, np.zeros(d))
        kappa = np.where(near, se / 2, 0.0)
        with np.errstate(divide="ignore"):
            lower = np.where(near, np.log(kappa), np.log(r) - _REACH * se / np.where(near, 1.0, r))
            upper = np.where(near, np.log(kappa + r + _REACH * se), np.log(r) + _REACH * se / np.where(near, 1.0, r))
        return cls(np.zeros(d), np.eye(d), lower, upper, kappa)

    @property
    def bounded(self) -> FloatArray:
        """Which axes begin at a ratio of 0."""
        return self.kappa > 0

    def place(self, r: FloatArray) -> FloatArray:
        """Return x of ratios (d,)."""
        return np.asarray(np.linalg.solve(self.axes, np.log(r + self.kappa) - self.centre))

    def ratios(self, x: FloatArray) -> FloatArray:
        """Return the ratios (…, d) at x (…, d)."""
        z = self.centre + x @ self.axes.T
        from_zero = self.kappa * np.expm1(z - self.lower)  # of a bounded axis, whose z is x
        return np.where(self.bounded, from_zero, np.exp(z))

    def log_jacobian(self, x: FloatArray) -> FloatArray:
        """Return log |∂r/∂x| (…)."""
        z = self.centre + x @ self.axes.T
        return np.asarray(z.sum(axis=-1) + np.linalg.slogdet(self.axes)[1])

    def grown(self, axis: int, *, upwards: bool) -> Self:
        """Return the region with one face moved outwards."""
        step = np.zeros(len(self.lower))
        step[axis] = _GROWTH * (self.upper - self.lower)[axis]
        return replace(self, upper=self.upper + step) if upwards else replace(self, lower=self.lower - step)
