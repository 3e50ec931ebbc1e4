"""The columns of X as unknowns of the equations: those of X where most entries are 0, otherwise orthonormal ones."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.spectrum.projection import Projection

_SPARSE = 0.25  # share of entries that are not 0 below which the columns of X themselves are taken


@dataclass(frozen=True, eq=False)
class Basis:
    """
    A basis B of the columns of X, X = BS.

    Attributes
    ----------
    columns : sparse (n, r) array
        B: X with columns of length 1, or Q₁.
    projection : Projection
    lengths : (r,) array or None
        S is a diagonal of them, or R.
    """

    columns: sp.csr_array
    projection: Projection
    lengths: FloatArray | None

    @classmethod
    def of(cls, projection: Projection) -> Self:
        """Return the basis of X."""
        Q1 = projection.Q1
        if not projection.rank:
            return cls.none(projection)
        X = projection.X
        X[np.abs(X) <= 100 * projection.rank * EPS * np.abs(X).max(axis=0)] = 0.0  # Q₁R is X but for rounding
        if np.count_nonzero(X) > _SPARSE * X.size:
            return cls(sp.csr_array(Q1), projection, None)
        lengths = np.linalg.norm(X, axis=0)
        return cls(sp.csr_array(X / lengths), projection, lengths)

    @classmethod
    def none(cls, projection: Projection) -> Self:
        """Return a basis of no columns, where β is given."""
        return cls(sp.csr_array((projection.V.shape[0], 0)), projection, None)

    @property
    def logdet(self) -> float:
        """log|BᵀB|."""
        if self.lengths is None:
            return 0.0
        return 2 * (self.projection.logdet_R - float(np.log(self.lengths).sum()))

    def coefficients(self, along: FloatArray, y1: FloatArray) -> FloatArray:
        """Return β of y = Q₁y₁ + y₂, where y₂ has these coordinates."""
        R = self.projection.R
        if self.lengths is None:
            return np.asarray(np.linalg.solve(R, y1 + along))
        return np.asarray(np.linalg.solve(R, y1) + along / self.lengths)

    def covariance(self, inverse: FloatArray) -> FloatArray:
        """Return cov β̂ from that of the coordinates."""
        if self.lengths is not None:
            return inverse / np.outer(self.lengths, self.lengths)
        half = np.linalg.solve(self.projection.R, inverse)
        return np.asarray(np.linalg.solve(self.projection.R, half.T))

    def rows(self, X_new: FloatArray) -> Any:
        """Return the coordinates of new rows of X, x*ᵀβ = rows · coordinates."""
        if self.lengths is not None:
            return X_new / self.lengths
        return np.linalg.solve(self.projection.R.T, X_new.T).T
