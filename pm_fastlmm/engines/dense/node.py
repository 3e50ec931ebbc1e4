"""The node of a DenseLMM."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.dense.denselmm import DenseRV
from pm_fastlmm.engines.dense.leave_out import matrix_precision
from pm_fastlmm.engines.dense.objective import DenseObjective
from pm_fastlmm.engines.dense.posterior import predict
from pm_fastlmm.engines.draws import DrawFunction
from pm_fastlmm.engines.free_variables import Fitted, FreeVariables, tangents
from pm_fastlmm.engines.prediction import Effects, Predictive
from pm_fastlmm.engines.protocol import GaussianNode, Part, Precisions, answers_for, observed_data


@answers_for(DenseRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DenseNode(GaussianNode):
    """
    A DenseLMM node.

    Attributes
    ----------
    V : TensorVariable (n, n)
        The covariance as a function of the model's variables.
    beta_cov : TensorVariable
        Prior covariance of β, (0, 0) when it has none.
    """

    called: ClassVar[str] = "DenseLMM"
    predicts: ClassVar[tuple[Effects, ...]] = ("new",)
    refusal: ClassVar[str] = (
        "its V is not split into effects and residuals, so there are none to draw. Replicates of y as a whole are "
        "flmm.predict(idata, effects='new', model=model); for effects, write them as terms of a StructuredLMM."
    )

    V: Any
    beta_cov: Any

    def predict(
        self, model: pm.Model, posterior: xr.Dataset, rows: Any, effects: Effects, rng: np.random.Generator
    ) -> Predictive:
        """Draw Xβ and y anew, as a whole."""
        return predict(self, model, posterior, rng)

    @property
    def numbers(self) -> int:
        """How many numbers an evaluation of the density has to hold: those of V."""
        return self.n**2

    def precisions(
        self, model: pm.Model, posterior: xr.Dataset, *, largest: int, numbers: int, rows: Any = None
    ) -> Precisions:
        """Return P and Py at the draws, one after the other."""
        basis, Q1 = self.flat_basis(), self.projection.Q1
        X = Q1 @ self.projection.R
        function = DrawFunction(model, posterior, [self.V, self.mu, self.beta_mean, self.beta_cov])
        size = max(1, numbers // self.n**2)

        def parts() -> Iterator[Part]:
            for start in range(0, function.size, size):
                for j, (V, mu, b, B) in enumerate(zip(*function(slice(start, start + size)), strict=True)):
                    residual = self.observed - mu - (0.0 if self.treatment == "flat" else X @ b)
                    V = V + X @ B @ X.T if B.size else V
                    yield Part(start + j, matrix_precision(self.name, V, residual, basis), self.observed)

        return Precisions((posterior.sizes["chain"], posterior.sizes["draw"]), self.n, basis, parts())

    def _mean_graphs(self) -> tuple[Any, Any, Any]:
        return self.mu, self.beta_mean, self.beta_cov

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the likelihood over the free variables; a prior of β is in V."""
        mu, b, B = self.known_mean(model)
        variables = FreeVariables.of(model, self.name, [self.V])
        (V,) = variables.substitute([self.V])
        evaluate, differentiate = variables.compile([V]), variables.compile(tangents(V, variables))
        X = self.projection.Q1 @ self.projection.R
        shift = X @ B @ X.T if B.size else 0.0
        y = np.asarray(self.observed - mu, dtype=float)
        objective = DenseObjective.of(
            lambda x: evaluate(x)[0] + shift, differentiate, y - X @ b if b.size else y, self.projection,
            names=variables.names, lower=variables.lower, upper=variables.upper, start=variables.initial,
            flat=self.treatment == "flat", method=method, split=variables.split,
        )  # fmt: skip
        return Fitted(objective)

    def at(self, objective: Objective, theta: FloatArray, mu: Any, prior_mean: FloatArray) -> AtTheta:
        """Return the node with V at θ; a prior of β is in V."""
        at = AtTheta if self.beta_cov.type.shape == (0, 0) else _WithPrior
        return at(self, objective, theta, mu, prior_mean)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, V = rv.owner.inputs
        return cls(rv.name, rv, op.treatment, mu, b, observed_data(model, rv), op.projection, op.ids, V, B)


class _WithPrior(AtTheta):
    def replicates(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Refuse: V holds the prior of β."""
        raise ValueError(
            f"{self.node.name} has a Gaussian prior of β, which its V holds: draw replicates from the posterior, "
            "flmm.predict(idata, effects='new', model=model)."
        )
