"""The node of a DenseLMM."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.dense.denselmm import DenseRV
from pm_fastlmm.engines.dense.leave_out import matrix_precision
from pm_fastlmm.engines.dense.objective import DenseObjective
from pm_fastlmm.engines.draws import DrawFunction
from pm_fastlmm.engines.free_variables import Fitted, FreeVariables, tangents
from pm_fastlmm.engines.prediction import Effects, Predictive
from pm_fastlmm.engines.protocol import GaussianNode, Part, Precisions, answers_for, observed_data
from pm_fastlmm.kernel.likelihood.dense import DenseFactor

_BUDGET = 4_000_000  # numbers of V at a time


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
        """
        Draw mu + Xβ, β from its conditional given y, and y = mu + Xβ + e, e ~ N(0, V).

        Raises
        ------
        ValueError
            If V is not positive definite at a draw.
        """
        X, shape = self.projection.X, (posterior.sizes["chain"], posterior.sizes["draw"])
        f, y = np.empty((2, shape[0] * shape[1], self.n))
        for i, V, mu, b, B in self._draws(model, posterior, _BUDGET):
            factor = DenseFactor.of(V, self.observed - mu, self.projection.Q1)
            if factor is None:
                raise ValueError(f"V of {self.name} is not positive definite at draw {i}.")
            beta = b if self.treatment == "proper" and not B.size else self._coefficients(factor, mu, b, B, rng)
            f[i] = mu + X @ beta
            y[i] = f[i] + factor.L @ rng.standard_normal(self.n)
        return Predictive(f.reshape(*shape, -1), y.reshape(*shape, -1))

    def _draws(self, model: pm.Model, posterior: xr.Dataset, numbers: int) -> Iterator[tuple[Any, ...]]:
        """Return the place of each draw, V, mu, and mean and covariance of β, evaluated so many numbers at a time."""
        function = DrawFunction(model, posterior, [self.V, *self._mean_graphs()])
        for part in slices(function.size, max(1, numbers // self.n**2)):
            yield from zip(range(function.size)[part], *function(part), strict=True)

    def _coefficients(
        self, factor: DenseFactor, mu: FloatArray, b: FloatArray, B: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """
        Draw β given y and V: from N(β̂, (XᵀV⁻¹X)⁻¹), or with the prior N(b, B) by Matheron's rule.

        (XᵀV⁻¹X)⁻¹ = R⁻¹T⁻¹T⁻ᵀR⁻ᵀ.
        """
        Q1, R = self.projection.Q1, self.projection.R
        if not R.size:
            return np.zeros(0)
        estimate, root = factor.coefficients(Q1.T @ (self.observed - mu), Q1, R)
        drawn = estimate + root @ rng.standard_normal(len(R))
        if self.treatment == "flat":
            return np.asarray(drawn)
        prior = b + semidefinite_root(B) @ rng.standard_normal(len(R))
        return np.asarray(prior + B @ np.linalg.solve(B + root @ root.T, drawn - prior))

    @property
    def numbers(self) -> int:
        """How many numbers an evaluation of the density has to hold: those of V."""
        return self.n**2

    def precisions(
        self, model: pm.Model, posterior: xr.Dataset, *, largest: int, numbers: int, rows: Any = None
    ) -> Precisions:
        """Return P and Py at the draws, one after the other."""
        basis, X = self.flat_basis(), self.projection.X

        def parts() -> Iterator[Part]:
            for i, V, mu, b, B in self._draws(model, posterior, numbers):
                residual = self.observed - mu - (X @ b if b.size else 0.0)
                V = V + X @ B @ X.T if B.size else V
                yield Part(i, matrix_precision(self.name, V, residual, basis), self.observed)

        return Precisions((posterior.sizes["chain"], posterior.sizes["draw"]), self.n, basis, parts())

    def _mean_graphs(self) -> tuple[Any, Any, Any]:
        return self.mu, self.beta_mean, self.beta_cov

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the likelihood over the free variables; a prior of β is in V."""
        mu, b, B = self.known_mean(model)
        variables = FreeVariables.of(model, self.name, [self.V])
        (V,) = variables.substitute([self.V])
        evaluate, differentiate = variables.compile([V]), variables.compile(tangents(V, variables))
        X = self.projection.X
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
