"""What a Gaussian likelihood has besides: V, and by default all that follows from it as a matrix."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pymc as pm

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.choices import Method
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.constants import Constants
from pm_fastlmm.engines.draws import DrawFunction, Draws
from pm_fastlmm.engines.fitted import FittedNode
from pm_fastlmm.engines.free_variables import Fitted, FreeVariables, tangents
from pm_fastlmm.engines.objective import DenseObjective
from pm_fastlmm.engines.precisions import Part, Precisions, require_definite
from pm_fastlmm.engines.prediction import Effects, Predictive
from pm_fastlmm.kernel.likelihood.dense import DenseFactor
from pm_fastlmm.kernel.likelihood.leave_out import MatrixPrecision

_BUDGET = 4_000_000  # numbers of V at a time


class GaussianNode(FittedNode):
    """
    A node of a Gaussian likelihood, y ~ N(mu + Xβ, V).

    One that gives its `covariance` is fitted, replicated, left out, simulated and compared, at O(n³) for each V. An
    engine gives those verbs anew that it has a faster way for.
    """

    __slots__ = ()

    predicts: ClassVar[tuple[Effects, ...]] = ("new",)
    refusal: ClassVar[str] = (
        "its V is not split into effects and residuals, so there are none to draw. Replicates of y as a whole are "
        "flmm.predict(idata, effects='new', model=model); for effects, write them as terms of a StructuredLMM."
    )

    def covariance(self) -> Any:
        """Return V (n, n) as a graph of the model's variables, without what a prior of β adds."""
        raise ValueError(f"{self.name} is a {self.called}, which does not form its V.")

    def at_draws(self, draws: Draws, numbers: int) -> Iterator[tuple[FloatArray, Constants]]:
        """Return V and the known mean at each draw, evaluated for about so many numbers of V at a time."""
        function = DrawFunction(draws, [self.covariance(), *self._mean_graphs()])
        for some in slices(function.size, max(1, numbers // self.n**2)):
            for V, *mean in zip(*function(some), strict=True):
                yield V, Constants(*mean)

    def precisions(self, draws: Draws, *, largest: int, numbers: int, rows: Any = None) -> Precisions:
        """Return P and Py at the draws, one after the other."""
        return Precisions(draws.shape, self.n, self.flat_basis(), _parts(self, draws, numbers))

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """Draw Xβ and y anew, as a whole."""
        return _replicates(self, draws, rng)

    def objective(self, model: pm.Model, method: Method = "REML") -> Fitted:
        """Return the likelihood over the free variables; a prior of β is in V."""
        mu, b, B = self.known_mean(model)
        graph = self.covariance()
        variables = FreeVariables.of(model, self.name, [graph])
        (V,) = variables.substitute([graph])
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


def _parts(node: GaussianNode, draws: Draws, numbers: int) -> Iterator[Part]:
    """Return P and Py at the draws, one after the other; where β has a proper prior V holds it."""
    basis, X = node.flat_basis(), node.projection.X
    for i, (V, (mu, b, B)) in enumerate(node.at_draws(draws, numbers)):
        residual = node.observed - mu - (0.0 if node.treatment == "flat" else X @ b)
        factor = DenseFactor.of(V + X @ B @ X.T if B.size else V, residual, basis)
        require_definite(factor, node.name)
        assert factor is not None
        yield Part(i, MatrixPrecision(factor.P(), factor.Py), node.observed)


def _replicates(node: GaussianNode, draws: Draws, rng: np.random.Generator) -> Predictive:
    """
    Draw mu + Xβ, β from its conditional given y, and y = mu + Xβ + e, e ~ N(0, V).

    Raises
    ------
    ValueError
        If V is not positive definite at a draw.
    """
    X, f, y = node.projection.X, [], []
    for i, (V, known) in enumerate(node.at_draws(draws, _BUDGET)):
        factor = DenseFactor.of(V, node.observed - known.mu, node.projection.Q1)
        if factor is None:
            raise ValueError(f"V of {node.name} is not positive definite at draw {i}.")
        explicit = node.treatment == "proper" and not known.B.size
        f.append(known.mu + X @ (known.b if explicit else _coefficients(node, factor, known, rng)))
        y.append(f[-1] + factor.L @ rng.standard_normal(node.n))
    shape = *draws.shape, node.n
    return Predictive(np.reshape(f, shape), np.reshape(y, shape))


def _coefficients(node: GaussianNode, factor: DenseFactor, known: Constants, rng: np.random.Generator) -> FloatArray:
    """
    Draw β given y and V: from N(β̂, (XᵀV⁻¹X)⁻¹), or with the prior N(b, B) by Matheron's rule.

    (XᵀV⁻¹X)⁻¹ = R⁻¹T⁻¹T⁻ᵀR⁻ᵀ.
    """
    Q1, R = node.projection.Q1, node.projection.R
    if not R.size:
        return np.zeros(0)
    estimate, root = factor.coefficients(Q1.T @ (node.observed - known.mu), Q1, R)
    drawn = estimate + root @ rng.standard_normal(len(R))
    if node.treatment == "flat":
        return np.asarray(drawn)
    prior = known.b + semidefinite_root(known.B) @ rng.standard_normal(len(R))
    return np.asarray(prior + known.B @ np.linalg.solve(known.B + root @ root.T, drawn - prior))
