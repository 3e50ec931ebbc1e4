"""The posterior of variances as a function of their ratios, the total variance integrated out."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from pm_fastlmm.aireml.objective import information_inverse
from pm_fastlmm.base.arrays import FloatArray

_NO_RESIDUAL = 1e8  # ratio from which the residual variance is 0


class NotInterpolated(ValueError):
    """A likelihood is not interpolated in ratios of variances; the text says why."""


class Pieces(NamedTuple):
    """Of ℓ(total, r) = level - ½p log total - ½q/total: `level`, log-determinants and constants, and log q."""

    level: FloatArray
    log_q: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Ratios:
    """
    Ratios r_j = c_j/c_e of what each term and the residual give the variance of an observation, and their posterior.

    c_j = unit_j θ_j, total = Σc, shares s = c/total. For shares ~ Dirichlet(α) and total ~ InverseGamma(a, b) the
    density of the ratios is ∝ Π r_j^(α_j - 1) (1 + Σr)^(-Σα), and the total variance integrates out:

        log p(y | r) = level - (a + p/2) log(b + ½q) + a log b - log Γ(a) + log Γ(a + p/2)

    Attributes
    ----------
    unit : (d + 1,) array
        The variance that θ_j = 1 gives an observation on average; the residual is last.
    df : int
        p = n - r.
    alpha : (d + 1,) array
    prior_shape, prior_scale : float
        a and b.
    """

    unit: FloatArray
    df: int
    alpha: FloatArray
    prior_shape: float
    prior_scale: float

    @property
    def shape(self) -> float:
        """Shape of the inverse gamma distribution of the total given the ratios, a + p/2."""
        return self.prior_shape + self.df / 2

    @property
    def combination(self) -> FloatArray:
        """The linear combination of the pieces that log p(y | r) is, about."""
        return np.array([1.0, -self.shape])

    def log_scale(self, pieces: Pieces) -> FloatArray:
        """Return the logarithm of the scale of the total given the ratios, b + ½q."""
        return np.asarray(np.logaddexp(math.log(self.prior_scale), pieces.log_q - math.log(2)))

    def log_likelihood(self, pieces: Pieces) -> FloatArray:
        """Return log p(y | r)."""
        a, b = self.prior_shape, self.prior_scale
        constant = a * math.log(b) - gammaln(a) + gammaln(self.shape)
        return np.asarray(pieces.level - self.shape * self.log_scale(pieces) + constant)

    def log_prior(self, r: FloatArray) -> FloatArray:
        """Return the log-density of ratios (…, d)."""
        alpha = self.alpha
        constant = gammaln(alpha.sum()) - gammaln(alpha).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            powers = np.where(alpha[:-1] == 1, 0.0, (alpha[:-1] - 1) * np.log(r)).sum(axis=-1)
        return np.asarray(constant + powers - alpha.sum() * np.log1p(r.sum(axis=-1)))

    def estimate(self, theta: FloatArray, information: FloatArray) -> tuple[FloatArray, FloatArray]:
        """
        Return the ratios (d,) of an estimate and their covariance (d, d) by its average information.

        Raises
        ------
        NotInterpolated
            If the residual variance is 0, or the data do not tell the variances apart.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            r = self.unit[:-1] * theta[:-1] / (self.unit[-1] * theta[-1])
        why = "" if r.max() < _NO_RESIDUAL else "the residual variance is 0"
        if not why:
            jacobian = np.column_stack([np.diag(self.unit[:-1] / self.unit[-1]), -r]) / theta[-1]
            cov = jacobian @ information_inverse(information, np.ones(len(theta), dtype=bool)) @ jacobian.T
            why = "" if np.isfinite(cov).all() else "the information on the variances is singular"
        if why:
            raise NotInterpolated(f"the estimate does not say where the posterior is, because {why}.")
        return r, cov


def shares_of(r: FloatArray) -> FloatArray:
    """Return the shares (…, d + 1) of ratios (…, d)."""
    whole = np.concatenate([r, np.ones((*r.shape[:-1], 1))], axis=-1)
    return np.asarray(whole / whole.sum(axis=-1, keepdims=True))
