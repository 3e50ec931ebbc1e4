"""The likelihood and the prior of variances as functions of their ratios, the total variance integrated out."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.special import gammaln

from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.models.share_prior import SharePrior

_LARGEST = 3  # ratios
_NO_RESIDUAL = 1e8  # ratio from which the residual variance is 0


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
    objective : Objective
    unit : (d + 1,) array
        The variance that θ_j = 1 gives an observation on average; the residual is last.
    total : float
        The estimate of the total variance, at which the likelihood is evaluated.
    alpha : (d + 1,) array
    prior_shape, prior_scale : float
        a and b.
    """

    objective: Objective
    unit: FloatArray
    total: float
    alpha: FloatArray
    prior_shape: float
    prior_scale: float

    @classmethod
    def of(cls, objective: Objective, theta: FloatArray, prior: SharePrior) -> Self:
        """
        Return the ratios of a likelihood about an estimate.

        Raises
        ------
        ValueError
            If θ is not one to three variances and that of the residual.
        """
        require_scalar_variances(objective)
        unit = np.array([sum(objective.mean_variances(row).values()) for row in np.eye(len(theta))])
        alpha = prior.alpha(objective.names)
        ratios = cls(objective, unit, float(unit @ theta), alpha, prior.total_shape, prior.total_scale or math.nan)
        if prior.total_scale is not None:
            return ratios
        none = ratios.evaluate(np.zeros(len(theta) - 1))  # without terms V is that of least squares
        return cls(objective, unit, ratios.total, alpha, prior.total_shape, math.exp(none.log_q) / ratios.df)

    @property
    def df(self) -> int:
        """p = n - r."""
        return self.objective.residual_df

    @property
    def shape(self) -> float:
        """Shape of the inverse gamma distribution of the total given the ratios, a + p/2."""
        return self.prior_shape + self.df / 2

    def shares(self, r: FloatArray) -> FloatArray:
        """Return the shares (…, d + 1) of ratios (…, d)."""
        whole = np.concatenate([r, np.ones((*r.shape[:-1], 1))], axis=-1)
        return np.asarray(whole / whole.sum(axis=-1, keepdims=True))

    def evaluate(self, r: FloatArray) -> Pieces:
        """
        Return the pieces at one r, from one factorisation.

        Raises
        ------
        ValueError
            If V is not positive definite there.
        """
        theta = self.total * self.shares(r) / self.unit
        state = self.objective.state(theta)
        if state is None:
            raise ValueError(
                f"V is not positive definite at {self.objective.described(theta)}, which the posterior does not "
                "exclude: flmm.sample draws from it."
            )
        q = self.objective.quadratic(theta, state)
        level = state.loglik + 0.5 * q + 0.5 * self.df * math.log(self.total)
        return Pieces(np.asarray(level), np.asarray(math.log(self.total * q)))

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
        ValueError
            If the residual variance is 0, or the data do not tell the variances apart.
        """
        r = self.unit[:-1] * theta[:-1] / (self.unit[-1] * theta[-1])
        jacobian = np.column_stack([np.diag(self.unit[:-1] / self.unit[-1]), -r]) / theta[-1]
        cov = jacobian @ information_inverse(information, np.ones(len(theta), dtype=bool)) @ jacobian.T
        if not (np.isfinite(cov).all() and r.max() < _NO_RESIDUAL):
            why = "the residual variance is 0" if r.max() >= _NO_RESIDUAL else "the information is singular"
            raise ValueError(
                f"the estimate does not say where the posterior is, because {why}: flmm.sample draws from it."
            )
        return r, cov


def require_scalar_variances(objective: Objective) -> None:
    """Refuse a θ that is not one to three variances of terms and that of the residual."""
    names = ", ".join(objective.names)
    scalar = np.asarray(objective.variances).all() and not np.asarray(objective.together).any()
    if not scalar or not 2 <= len(objective.names) <= _LARGEST + 1:
        raise ValueError(
            f"the parameters of V are {names}: quadrature is for the scalar variances of one to {_LARGEST} terms and "
            "that of the residual. flmm.sample draws from the posterior of any model."
        )
    if np.asarray(objective.fixed).any():
        raise ValueError(f"some of {names} are fixed: the posterior by quadrature is that of all of them.")
