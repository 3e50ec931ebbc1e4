"""A fitted node at the estimate, or at any θ: what is left out, simulated and predicted."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.kernel.effects.left_out import Predicted
from pm_fastlmm.kernel.likelihood.dense import DenseFactor
from pm_fastlmm.kernel.likelihood.leave_out import MatrixPrecision, Precision


@dataclass(frozen=True, eq=False)
class AtTheta:
    """
    A Gaussian node with V at θ, as a matrix unless its engine knows better.

    Attributes
    ----------
    node : GaussianNode
    objective : Objective
    theta : (P,) array
    mu : array or 0
        The mean besides Xβ.
    prior_mean : (r,) array
        b of an explicit β or of its Gaussian prior, of length 0 for a flat one.
    """

    node: Any
    objective: Any
    theta: FloatArray
    mu: Any
    prior_mean: FloatArray

    @property
    def terms(self) -> Any:
        """
        The effects of terms.

        Raises
        ------
        ValueError
            If there are no terms.
        """
        raise ValueError(
            "the model has no terms whose effects could be predicted: write them as terms of a StructuredLMM; with a "
            "lengthscale flmm.reml(spectrum.at(lengthscale), y) has blup, pev and predict."
        )

    def function(self) -> Any:
        """Return the posterior of the function of a Gaussian process; a ValueError where there is none."""
        raise ValueError("the model has no function: it is no FourierLMM.")

    def left_out(self, groups: Any) -> Predicted:
        """
        Leave observations or groups out.

        Raises
        ------
        ValueError
            If the rows were not kept, V is not positive definite, or groups do not fit.
        """
        y = self.node.rows()
        read = None if groups is None else self.node.read_groups(groups)
        return Predicted.of(self.precision(y - self.known_mean()), y, self.node.flat_basis(), self.node.ids, read)

    def leverage(self) -> FloatArray | None:
        """Return ∂ŷ_i/∂y_i, (n,), where residuals covary; None where it follows from what the others predict."""
        return None

    def precision(self, residual: FloatArray) -> Precision:
        """Return P and Py; `residual` is y less its known mean."""
        factor = DenseFactor.of(self.objective.covariance(self.theta), residual, self.node.flat_basis())
        if factor is None:
            raise self.indefinite()
        return MatrixPrecision(factor.P(), factor.Py)

    def replicates(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """
        Draw responses with new effects and residuals, β at its estimate or at what the model says, (draws, n).

        Raises
        ------
        ValueError
            If the rows were not kept, V is not positive definite, or holds the prior of β.
        """
        y, mean, projection = self.node.rows(), self.known_mean(), self.node.projection
        if self.node.constants().B.size:
            raise ValueError(
                f"{self.node.name} has a Gaussian prior of β, which its V holds: draw replicates from the posterior, "
                "flmm.predict(idata, effects='new', model=model)."
            )
        if self.node.treatment == "flat":
            beta, _ = self.objective.coefficients(self.objective.state(self.theta))
            mean = mean + projection.times(beta)
        try:
            root = np.linalg.cholesky(self.objective.covariance(self.theta))
        except np.linalg.LinAlgError as error:
            raise self.indefinite() from error
        return np.asarray(mean + rng.standard_normal((n_draws, len(y))) @ root.T)

    def known_mean(self) -> FloatArray:
        """Return mu, and Xb where β has the mean b."""
        projection, b = self.node.projection, self.prior_mean
        return np.asarray(self.mu + (projection.times(b) if b.size else np.zeros(self.node.n)))

    def indefinite(self) -> ValueError:
        """Return the error that V is not positive definite at θ."""
        return ValueError(f"V is not positive definite at {self.objective.described(self.theta)}.")
