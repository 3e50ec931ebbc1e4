"""The likelihood over its parameters themselves, where it has no residual variance that others are ratios of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pm_fastlmm.aireml.objective import Objective, information_inverse
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.quadrature.ratios import NotInterpolated, Pieces

_LARGEST = 3  # parameters


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """
    θ, none of whose elements is negative, with the density ∝ Π exp(-√(1 + c_j)) of a vague prior of c = unit · θ.

    It says where a posterior is, and has the methods of `Ratios`, whose r is θ here. Its tails are those of an
    exponential distribution of standard deviations.

    Attributes
    ----------
    unit : (d,) array
        The variance that θ_j = 1 gives η on average; 1 of a parameter of the family.
    """

    unit: FloatArray

    @property
    def alpha(self) -> FloatArray:
        """The power of r at 0 and 1 more, as that of a Dirichlet distribution, whose last is of no ratio."""
        return np.ones(len(self.unit) + 1)

    @property
    def combination(self) -> FloatArray:
        """The linear combination of the pieces that log p(y | θ) is."""
        return np.array([1.0, 0.0])

    def log_likelihood(self, pieces: Pieces) -> FloatArray:
        """Return log p(y | θ)."""
        return np.asarray(pieces.level)

    def log_scale(self, pieces: Pieces) -> FloatArray:
        """Return 0: nothing is integrated out in closed form."""
        return np.zeros_like(pieces.level)

    def log_prior(self, theta: FloatArray) -> FloatArray:
        """Return the log-density of θ (…, d) less a constant."""
        return -np.asarray(np.sqrt(1 + self.unit * theta).sum(axis=-1))

    @classmethod
    def of(cls, objective: Any) -> Self:
        """Return the parameters of an objective."""
        units = np.eye(len(objective.names))
        each = [sum(objective.latent_variances(row).values()) for row in units]
        return cls(np.where(objective.variances, each, 1.0))

    def estimate(self, theta: FloatArray, information: FloatArray) -> tuple[FloatArray, FloatArray]:
        """
        Return an estimate (d,) and its covariance (d, d).

        Raises
        ------
        NotInterpolated
            If the data do not tell the parameters apart.
        """
        cov = information_inverse(information, np.ones(len(theta), dtype=bool))
        if not np.isfinite(cov).all():
            raise NotInterpolated(
                "the estimate does not say where the posterior is, because the information on the parameters is "
                "singular."
            )
        return theta, cov


@dataclass(slots=True, eq=False)
class LaplaceLikelihood:
    """
    log p̃(y | θ), one mode each.

    Attributes
    ----------
    objective : Objective
    estimate : (d,) array
    tell : callable
        Is told how often it was evaluated.
    """

    objective: Any
    estimate: FloatArray
    tell: Callable[[int, str], None]
    evaluations: int = 0

    def __call__(self, theta: FloatArray) -> Pieces:
        """
        Return log p̃ as the only piece.

        Raises
        ------
        NotInterpolated
            If there is no mode.
        """
        state = self.objective.state(theta)
        self.evaluations += 1
        self.tell(self.evaluations, "")
        if state is None:
            raise NotInterpolated(
                f"there is no mode at {self.objective.described(theta)}, which the data do not exclude."
            )
        return Pieces(np.asarray(state.loglik), np.zeros(()))

    @property
    def may_be_0(self) -> Any:
        """Which parameters may be 0, (d,): variances, and a dispersion whose family has a limit there."""
        out = np.array(self.objective.variances)
        for k in np.flatnonzero(~out):
            theta = np.where(np.arange(len(out)) == k, 0.0, self.estimate)
            out[k] = self.objective.state(theta) is not None
        return out

    def smallest(self, k: int, value: float) -> float:
        """
        Return 1/λ of a term with the effective number of effects that its own has at a value, and equal eigenvalues.

        vλ/(1 + vλ) of each of q effects are seen; Σ D_i times the variance that they give η is the sum of all vλ.
        """
        theta = np.where(self.objective.variances, 0.0, self.estimate)
        if not self.objective.variances[k]:
            return np.inf
        theta[k] = value
        objective = self.objective
        state = objective.terms(theta)
        if state is None:
            return np.inf
        seen = float(state.leverage().sum()) - objective.projection.rank
        whole = float(state.white.coefficients.sum()) * sum(objective.latent_variances(theta).values())
        return value / (whole / seen - 1) if 0 < seen < whole else np.inf


def require_parameters(objective: Objective) -> None:
    """Refuse a θ that is not one to three scalar variances of terms, or a dispersion among them."""
    names = ", ".join(objective.names)
    scalar = (np.asarray(objective.lower) == 0).all() and not np.asarray(objective.together).any()
    if not scalar or not np.isinf(objective.upper).all() or not 1 <= len(objective.names) <= _LARGEST:
        raise NotInterpolated(
            f"the parameters are {names}: interpolation is for one to {_LARGEST}, which are variances of terms with "
            "independent columns and a dispersion."
        )
