"""The likelihood at ratios of variances, from one evaluation of an objective each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.quadrature.ratios import NotInterpolated, Pieces, shares_of

_LARGEST = 3  # ratios
DEAR = 1e8  # multiplications of an evaluation, a hundred of which take seconds


@dataclass(slots=True, eq=False)
class Likelihood:
    """
    ℓ at ratios of variances, whichever engine evaluates it.

    Attributes
    ----------
    objective : Objective
    unit : (d + 1,) array
        The variance that θ_j = 1 gives an observation on average; the residual is last.
    total : float
        The total variance at which it is evaluated, that of the estimate: far from it digits are lost.
    tell : callable
        Is told how often it was evaluated.
    """

    objective: Objective
    unit: FloatArray
    total: float
    tell: Callable[[int, str], None]
    evaluations: int = 0

    def __call__(self, r: FloatArray) -> Pieces:
        """
        Return the pieces at ratios (d,).

        Raises
        ------
        NotInterpolated
            If V is not positive definite there.
        """
        theta = self.total * shares_of(r) / self.unit
        state = self.objective.state(theta)
        self.evaluations += 1
        self.tell(self.evaluations, "")
        if state is None:
            raise NotInterpolated(
                f"V is not positive definite at {self.objective.described(theta)}, which the data do not exclude."
            )
        q = self.objective.quadratic(theta, state)
        level = state.loglik + 0.5 * q + 0.5 * self.objective.residual_df * math.log(self.total)
        return Pieces(np.asarray(level), np.asarray(math.log(self.total * q)))

    def residual_variance(self) -> float:
        """Return s² of the least-squares fit: without terms V is its own."""
        left = self.objective.least_squares
        if left is not None:
            return float(self.unit[-1]) * left / self.objective.residual_df
        return math.exp(self(np.zeros(len(self.unit) - 1)).log_q) / self.objective.residual_df

    def smallest(self, k: int, ratio: float) -> float:
        """
        Return 1/λ of a term with the log-determinant that its own has at a ratio, and equal eigenvalues.

        q eigenvalues λ = p/q, whose mean over p directions is 1, give log|I + rK| = q log(1 + rp/q).
        """
        from scipy.optimize import brentq  # a fifth of a second to import

        at, p = np.zeros(len(self.unit) - 1), self.objective.residual_df
        none = self(at).level
        at[k] = ratio
        logdet = p * math.log1p(ratio) - 2 * float(self(at).level - none)

        def excess(log_q: float) -> float:
            q = math.exp(log_q)
            return q * math.log1p(ratio * p / q) - logdet

        low, high = math.log(1e-3), math.log(p)
        return math.exp(brentq(excess, low, high)) / p if excess(low) < 0 < excess(high) else 1.0


def unit_variances(objective: Objective) -> FloatArray:
    """Return what each variance of 1 gives an observation on average."""
    return np.array([sum(objective.mean_variances(row).values()) for row in np.eye(len(objective.names))])


def require_scalar_variances(objective: Objective) -> None:
    """Refuse a θ that is not one to three variances of terms and that of the residual."""
    names = ", ".join(objective.names)
    scalar = np.asarray(objective.variances).all() and not np.asarray(objective.together).any()
    if not scalar or not 2 <= len(objective.names) <= _LARGEST + 1:
        raise NotInterpolated(
            f"the parameters of V are {names}: interpolation is for the scalar variances of one to {_LARGEST} terms "
            "and that of the residual."
        )
    if len(own := objective.names[objective.of_residual]) > 1:
        raise ValueError(
            f"the residuals have the variances {', '.join(own)}: quadrature is for one residual variance. flmm.sample "
            "draws from the posterior of any model."
        )
    if np.asarray(objective.fixed).any():
        raise NotInterpolated(f"some of {names} are fixed: the posterior by quadrature is that of all of them.")
