"""Effects of the terms of a StructuredLMM: estimates and predictions at any θ, and exact draws given y."""

from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.labels import labelled
from pm_fastlmm.base.tables import Table
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.records import IntArray
from pm_fastlmm.engines.structured.level_effects import LevelEffects
from pm_fastlmm.engines.structured.new_rows import read_rows
from pm_fastlmm.engines.structured.statistics import require_rows
from pm_fastlmm.engines.term_products import TermState
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.kernel.likelihood.leave_out import Precision, of_data

_BUDGET = 4_000_000  # numbers of Σ Z*G at a time


class TermsAtTheta(AtTheta):
    """Terms with V factored at θ; n × n matrices are never formed."""

    @property
    def terms(self) -> Self:
        """The effects of terms."""
        return self

    @cached_property
    def state(self) -> TermState:
        """
        V factored, with the response.

        Raises
        ------
        ValueError
            If it is not positive definite.
        """
        state: TermState | None = self.objective.terms(self.theta)
        if state is None:
            raise self.indefinite()
        return state

    @cached_property
    def effects(self) -> list[LevelEffects]:
        """The effects of each term, of relatives without data too."""
        return [LevelEffects.of(self.state, k, term) for k, term in enumerate(self.node.terms)]

    def blup(self) -> dict[str, Any]:
        """Return û by term."""
        return {effects.term.name: effects.labelled(effects.blup(), "blup") for effects in self.effects}

    def pev(self) -> dict[str, Any]:
        """Return Var(û - u) by term."""
        return {effects.term.name: effects.labelled(effects.errors(), "pev") for effects in self.effects}

    def tables(self, level: float) -> dict[str, Table]:
        """Return blup, se, interval, reliability and accuracy by term."""
        return {effects.term.name: effects.table(level) for effects in self.effects}

    def conditional_variance(self) -> dict[str, Any]:
        """Return Var(u | y, β) by term; a ValueError where β has a prior."""
        if self._beta_has_a_block:
            raise ValueError("β has a prior here, so that it is not known given y: pev() has Var(û - u).")
        return {
            effects.term.name: effects.labelled(effects.errors(beta_known=True), "conditional_variance")
            for effects in self.effects
        }

    @property
    def _beta_has_a_block(self) -> bool:
        """Whether the last block is that of a β with a Gaussian prior."""
        return len(self.state.products.blocks) > len(self.node.terms)

    def fitted(self, *, conditional: bool) -> Any:
        """Return mu + Xβ̂, or mu + Xβ̂ + Σ Zû, by id of the row."""
        state, projection = self.state, self.node.projection
        require_rows(state.products)
        values = self.known_mean() + (projection.times(state.beta()) if state.products.fixed else 0.0)
        weights = state.products.weights
        for k, (block, w) in enumerate(zip(state.products.blocks, state.gradient.effects, strict=True)):
            if conditional or k >= len(self.node.terms):
                values = values + weights.unscaled(block.Z @ (w @ state.sigma[k]).ravel())
        return labelled(values, self.node.ids, None, name="fitted")

    def predict(self, *, K_new: Any, W_new: Any, K_new_new: Any, **new: Any) -> Prediction:
        """Return predictions of f = Xβ + Σ Zu for new rows, as `read_rows` takes them, with their error variance."""
        self.require_no_kernel(K_new, W_new, K_new_new)
        node = self.node
        rows = read_rows(node.projection, node.terms, design=node.design, residual=node.residual, **new)
        residuals = rows.residuals(self.state.products)
        B, noise = residuals.given(self.state.noise)
        fresh = rows.prior_variance(self.node.terms, self.state.sigma)
        if B.nnz:
            old = residuals.rows
            rows = replace(
                rows, X=rows.X - B @ node.projection.X[old],
                Z=[sp.csr_array(Z - B @ term.Z[old]) for Z, term in zip(rows.Z, node.terms, strict=True)],
            )  # fmt: skip
        incidence = [*rows.Z, rows.X] if self._beta_has_a_block else rows.Z
        width = sum(Z.shape[1] for Z in incidence)
        mean, variance = np.empty(rows.m), np.empty(rows.m)
        for part in np.array_split(np.arange(rows.m), max(1, rows.m * width // _BUDGET)):
            mean[part], variance[part] = self.state.predict(rows.X[part], [Z[part] for Z in incidence], fresh[part])
        if self.prior_mean.size:
            mean += rows.X @ self.prior_mean
        mean += self.node.mean_at(rows, np.asarray(self.mu))
        if B.nnz:
            mean += B @ (np.asarray(node.observed) - self.known_mean())[residuals.rows]
        variance[np.isnan(mean)] = np.nan  # of an unknown Xβ, which a β that is known adds nothing to
        return Prediction(
            labelled(mean, rows.ids, None, name="mean"),
            labelled(variance, rows.ids, None, name="variance"),
            noise,
        )

    @staticmethod
    def require_no_kernel(*given: Any) -> None:
        """Refuse what belongs to a kernel between rows."""
        if any(part is not None for part in given):
            raise ValueError(
                "K_new, W_new and K_new_new are of a FastLMM, whose one kernel is between its rows: the new rows of "
                "terms are Z_new, or data= of a formula."
            )

    def residual_sd(self) -> Any:
        """Return the standard deviation of e, (n,)."""
        products = self.state.products
        return np.sqrt(products.records.variances(self.state.noise) / products.weights.values)

    def leverage(self) -> FloatArray | None:
        """Return ∂ŷ_i/∂y_i, where residuals covary."""
        return self.state.leverage()

    def precision(self, residual: FloatArray) -> Precision:
        """Return P and Py."""
        weights = self.state.products.weights
        return of_data(self.state.precision(weights.scaled(residual)), weights.root)

    def replicates(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw responses with new effects and residuals, (draws, n)."""
        y = self._with_residuals(self.fitted(conditional=False), n_draws, rng)
        for k, term in enumerate(self.node.terms):
            sigma = np.broadcast_to(self.state.sigma[k], (n_draws, *self.state.sigma[k].shape))
            y += (term.Z @ self.state.products.draw_prior(k, sigma, rng).T).T
        return y

    def with_given_effects(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw responses with new residuals around the fitted values, (draws, n)."""
        return self._with_residuals(self.fitted(conditional=True), n_draws, rng)

    def _with_residuals(self, mean: Any, n_draws: int, rng: np.random.Generator) -> FloatArray:
        products, white = self.state.products, rng.standard_normal((n_draws, len(mean)))
        noise = products.records.coloured(self.state.noise, white)
        return np.asarray(np.asarray(mean) + products.weights.unscaled(noise))


class EffectDraws(NamedTuple):
    """
    Draws of β and of the effects of each term, given y and the draws of θ.

    Attributes
    ----------
    beta : (chain, draw, r) array
    u : list of (chain, draw, levels, width) arrays
    sigma : list of (chain, draw, width, width) arrays
    noise : (chain, draw, c, c) array
    mu : (chain, draw, n) array
    """

    beta: FloatArray
    u: list[FloatArray]
    sigma: list[FloatArray]
    noise: FloatArray
    mu: FloatArray

    def residuals(self, node: Any, rows: IntArray) -> FloatArray:
        """Return y - mu - Xβ - Σ Zu of some rows of the data, (chain, draw, k)."""
        if not len(rows):
            return np.empty((*self.beta.shape[:2], 0))
        left = np.asarray(node.observed)[rows] - self.mu[..., rows] - over_draws(node.projection.X[rows], self.beta)
        return np.asarray(left - sum(over_draws(t.Z[rows], u) for t, u in zip(node.terms, self.u, strict=True)))


def over_draws(Z: Any, values: FloatArray) -> FloatArray:
    """Return Zu of draws of u, (chain, draw, …) in as many numbers as Z (m, q) has columns: (chain, draw, m)."""
    shape = values.shape[:2]
    return np.asarray((Z @ values.reshape(shape[0] * shape[1], Z.shape[1]).T).T.reshape(*shape, Z.shape[0]))
