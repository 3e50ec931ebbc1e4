"""The traits' own rotation, in which traits of one kernel are independent."""

from typing import NamedTuple, Self

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import zero_tolerance


class TraitBasis(NamedTuple):
    """
    T with TᵀΣ_eT = I and TᵀΣ_gT = diag(d).

    Columns of YT are independent, with the covariances d_jK + I.

    Attributes
    ----------
    T : (t, t) array
    d : (t,) array
        Not negative.
    logdet : float
        log|Σ_e|.
    """

    T: FloatArray
    d: FloatArray
    logdet: float

    @classmethod
    def of(cls, sigma_g: FloatArray, sigma_e: FloatArray) -> Self | None:
        """Return the basis; None where Σ_e is not positive definite, or Σ_g not positive semi-definite."""
        if not (np.isfinite(sigma_g).all() and np.isfinite(sigma_e).all()):
            return None
        try:
            L = cholesky(sigma_e, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        half = solve_triangular(L, sigma_g, lower=True, check_finite=False)
        whitened = solve_triangular(L, half.T, lower=True, check_finite=False)
        d, Q = np.linalg.eigh((whitened + whitened.T) / 2)
        if d[0] < -zero_tolerance(d):
            return None
        T = solve_triangular(L, Q, lower=True, trans="T", check_finite=False)
        return cls(T, np.maximum(d, 0.0), 2 * float(np.log(np.diag(L)).sum()))

    @property
    def inverse_covariance(self) -> FloatArray:
        """Σ_e⁻¹ = TTᵀ."""
        return self.T @ self.T.T
