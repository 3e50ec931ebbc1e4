r"""
What the other observations say of each one, from Laplace's approximation (Vehtari et al. 2016).

The normal approximation of η_i given y has the mean η̂_i and the variance s_i, and y_i a part exp(g_iη - ½D_i(η - η̂_i)²)
in it. What is left without that part is N(m_i, v_i),

    1/v = 1/s - D,   m = η̂ - vg,

and p(y_i | y_-i) = ∫ p(y_i|η) N(η; m, v) dη. The integrand has its mode at η̂_i, with the curvature 1/s: nodes of Gauss
and Hermite's rule are there.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import logsumexp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.state import LatentState

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())
_ALONE = 1e-9  # of 1, within which the leverage of an observation alone determines a coefficient


@dataclass(frozen=True, slots=True, eq=False)
class GivenOthers:
    """
    y_i given all the others, at one θ.

    Attributes
    ----------
    family : Family
    y, psi : (n,) and (p,) arrays
    eta, variance : (n,) arrays
        η̂ and s, given y.
    mean_eta, variance_eta : (n,) arrays
        m and v, of η_i without y_i; NaN where the others say nothing of it.
    """

    family: Any
    y: FloatArray
    psi: FloatArray
    eta: FloatArray
    variance: FloatArray
    mean_eta: FloatArray
    variance_eta: FloatArray

    @classmethod
    def of(cls, state: LatentState) -> Self:
        """Return what follows from the approximation."""
        left = 1 - state.leverage()
        with np.errstate(divide="ignore", invalid="ignore"):
            v = np.where(left > _ALONE, state.eta_variances / left, np.nan)
        mean = state.eta - v * state.weighted
        return cls(state.products.family, state.y, state.psi, state.eta, state.eta_variances, mean, v)

    @property
    def log_density(self) -> FloatArray:
        """Log p(y_i | y_-i, θ), (n,)."""
        x = _NODES[:, None]
        eta = self.eta + np.sqrt(self.variance) * x
        with np.errstate(all="ignore"):
            p = self.family.log_density(self.y, eta, self.psi)
            prior = -0.5 * ((eta - self.mean_eta) ** 2 / self.variance_eta - x**2)
            prior += 0.5 * np.log(self.variance / self.variance_eta)
        found = logsumexp(p + prior + _LOG_WEIGHTS[:, None], axis=0)
        return np.asarray(np.where(np.isfinite(self.variance_eta), found, np.nan))

    @property
    def mean(self) -> FloatArray:
        """E(y_i | y_-i, θ), (n,)."""
        eta = self.mean_eta + np.sqrt(self.variance_eta) * _NODES[:, None]
        return np.asarray(np.exp(_LOG_WEIGHTS) @ self.family.mean(eta, self.psi))

    def draw(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Return a draw of each η_i and y_i given the others, (n,) each."""
        eta = self.mean_eta + np.sqrt(self.variance_eta) * rng.standard_normal(len(self.y))
        return eta, self.family.draw(eta, self.psi, rng)
