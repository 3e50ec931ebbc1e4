"""Effects of the terms of a StructuredLMM: estimates and predictions at any θ, and exact draws given y."""

from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.labels import labelled
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.base.tables import Table
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.structured.new_rows import read_rows
from pm_fastlmm.engines.structured.precision import MixedPrecision
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.state import MixedState
from pm_fastlmm.engines.structured.statistics import require_rows
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.kernel.effects.table import effect_table
from pm_fastlmm.kernel.likelihood.leave_out import Precision, of_data

_BUDGET = 4_000_000  # numbers of Σ Z*G at a time


class TermsAtTheta(AtTheta):
    """Terms with V factored at θ; n × n matrices are never formed."""

    @property
    def terms(self) -> Self:
        """The effects of terms."""
        return self

    @cached_property
    def state(self) -> MixedState:
        """
        V factored, with the response.

        Raises
        ------
        ValueError
            If it is not positive definite.
        """
        state: MixedState | None = self.objective.terms(self.theta)
        if state is None:
            raise self.indefinite()
        return state

    def blup(self) -> dict[str, Any]:
        """Return û by term."""
        return self._by_term(self.state.effects(), "blup")

    def pev(self) -> dict[str, Any]:
        """Return Var(û - u) by term."""
        errors = [self.state.prediction_error(k) for k in range(len(self.node.terms))]
        return self._by_term(errors, "pev")

    def tables(self, level: float) -> dict[str, Table]:
        """Return blup, se, interval, reliability and accuracy by term."""
        out, effects = {}, self.state.effects()
        for k, term in enumerate(self.node.terms):
            index: pd.Index = pd.Index(term.levels, tupleize_cols=False)
            if term.width > 1:
                index = pd.MultiIndex.from_product([term.levels, term.columns], names=["level", "column"])
            errors, prior = self.state.prediction_error(k), term.blocks.variances(self.state.sigma[k])
            out[term.name] = effect_table(effects[k].ravel(), errors.ravel(), prior, index, level)
        return out

    def conditional_variance(self) -> dict[str, Any]:
        """Return Var(u | y, β) by term; a ValueError where β has a prior."""
        if self._beta_has_a_block:
            raise ValueError("β has a prior here, so that it is not known given y: pev() has Var(û - u).")
        errors = [self.state.prediction_error(k, beta_known=True) for k in range(len(self.node.terms))]
        return self._by_term(errors, "conditional_variance")

    @property
    def _beta_has_a_block(self) -> bool:
        """Whether the last block is that of a β with a Gaussian prior."""
        return len(self.state.products.blocks) > len(self.node.terms)

    def _by_term(self, values: list[FloatArray], name: str) -> dict[str, Any]:
        """Return (levels, width) arrays as Series by level, DataFrames for terms with columns."""
        out: dict[str, Any] = {}
        for term, effects in zip(self.node.terms, values, strict=False):
            index = pd.Index(term.levels, tupleize_cols=False)
            array = effects.reshape(len(index), -1)
            out[term.name] = (
                pd.Series(array[:, 0], index=index, name=name)
                if term.width == 1
                else pd.DataFrame(array, index=index, columns=list(term.columns))
            )
        return out

    def fitted(self, *, conditional: bool) -> Any:
        """Return mu + Xβ̂, or mu + Xβ̂ + Σ Zû, by id of the row."""
        state, projection = self.state, self.node.projection
        require_rows(state.products)
        values = self.known_mean() + (projection.X @ state.blue()[0] if state.products.fixed else 0.0)
        weights = state.products.weights
        for k, (block, w) in enumerate(zip(state.products.blocks, state.gradient.effects, strict=True)):
            if conditional or k >= len(self.node.terms):
                values = values + weights.unscaled(block.Z @ (w @ state.sigma[k]).ravel())
        return labelled(values, self.node.ids, None, name="fitted")

    def predict(self, *, K_new: Any, W_new: Any, K_new_new: Any, **new: Any) -> Prediction:
        """Return predictions of f = Xβ + Σ Zu for new rows, as `read_rows` takes them, with their error variance."""
        if any(part is not None for part in (K_new, W_new, K_new_new)):
            raise ValueError(
                "K_new, W_new and K_new_new are of a FastLMM, whose one kernel is between its rows: the new rows of "
                "terms are Z_new, or data= of a formula."
            )
        rows = read_rows(self.node.projection, self.node.terms, design=self.node.design, **new)
        fresh = rows.prior_variance(self.node.terms, self.state.sigma)
        incidence = [*rows.Z, rows.X] if self._beta_has_a_block else rows.Z
        width = sum(Z.shape[1] for Z in incidence)
        mean, variance = np.empty(rows.m), np.empty(rows.m)
        for part in np.array_split(np.arange(rows.m), max(1, rows.m * width // _BUDGET)):
            mean[part], variance[part] = self.state.predict(rows.X[part], [Z[part] for Z in incidence], fresh[part])
        if self.prior_mean.size:
            mean += rows.X @ self.prior_mean
        mean += self.node.mean_at(rows, np.asarray(self.mu))
        variance[np.isnan(mean)] = np.nan  # of an unknown Xβ, which a β that is known adds nothing to
        return Prediction(
            labelled(mean, rows.ids, None, name="mean"),
            labelled(variance, rows.ids, None, name="variance"),
            np.asarray(self.state.sigma2_e / rows.weights),
        )

    def residual_sd(self) -> Any:
        """Return the standard deviation of e, (n,) with prior weights."""
        return np.sqrt(self.state.sigma2_e / self.state.products.weights.values)

    def precision(self, residual: FloatArray) -> Precision:
        """Return P and Py."""
        weights = self.state.products.weights
        return of_data(MixedPrecision.of(self.state, weights.scaled(residual)), weights.root)

    def replicates(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw responses with new effects and residuals, (draws, n)."""
        y, weights = self._with_residuals(self.fitted(conditional=False), n_draws, rng), self.state.products.weights
        for block, sigma in zip(self.state.products.blocks[: len(self.node.terms)], self.state.sigma, strict=False):
            u = rng.standard_normal((n_draws, block.levels, block.width)) @ semidefinite_root(sigma).T
            y += weights.unscaled((block.Z @ u.reshape(n_draws, -1).T).T)
        return y

    def with_given_effects(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw responses with new residuals around the fitted values, (draws, n)."""
        return self._with_residuals(self.fitted(conditional=True), n_draws, rng)

    def _with_residuals(self, mean: Any, n_draws: int, rng: np.random.Generator) -> FloatArray:
        noise = self.state.products.weights.unscaled(rng.standard_normal((n_draws, len(mean))))
        return np.asarray(np.asarray(mean) + np.sqrt(self.state.sigma2_e) * noise)


class EffectDraws(NamedTuple):
    """
    Draws of β and of the effects of each term, given y and the draws of θ.

    Attributes
    ----------
    beta : (chain, draw, r) array
    u : list of (chain, draw, levels, width) arrays
    sigma : list of (chain, draw, width, width) arrays
    sigma2_e : (chain, draw) array
    mu : (chain, draw, n) array
    """

    beta: FloatArray
    u: list[FloatArray]
    sigma: list[FloatArray]
    sigma2_e: FloatArray
    mu: FloatArray


def draw_given(
    products: MixedProducts, y: FloatArray, sigma: list[FloatArray], sigma2_e: float, rng: np.random.Generator
) -> tuple[list[FloatArray], FloatArray]:
    """
    Return one draw of the effects of each block, in its own coordinates, and of β, from their joint posterior given y.

    Conditional simulation (Matheron's rule): with u⁺, e⁺ drawn from the prior and y⁺ = Σ Z_ku_k⁺ + e⁺,
    β = β̂(y - y⁺) and u = u⁺ + û(y - y⁺) have exactly that distribution. A Gaussian prior of β is one term more.
    """
    drawn = []
    # of rows that were not kept, e⁺ in the directions left out is not needed: û and β̂ depend on y along X and Z alone
    noise = y - np.sqrt(sigma2_e) * rng.standard_normal(products.rows)
    for block, S in zip(products.blocks, sigma, strict=True):
        drawn.append(independent(S, block.levels, rng))
        noise = noise - block.Z @ drawn[-1].ravel()
    state = MixedState.at(products, products.response_to_known(noise), sigma, sigma2_e)
    if state is None:
        raise ValueError("a posterior draw has a covariance that is not positive definite: its variances are 0.")
    estimate = state.gradient.effects
    drawn = [u + w @ S for u, w, S in zip(drawn, estimate, sigma, strict=True)]
    return drawn, state.blue()[0]


def independent(sigma: FloatArray, levels: int, rng: np.random.Generator) -> FloatArray:
    """Draw effects (…, levels, width) that are independent between levels, with the covariance (…, width, width)."""
    noise = rng.standard_normal((*sigma.shape[:-2], levels, sigma.shape[-1]))
    return np.asarray(noise @ np.swapaxes(semidefinite_root(sigma), -1, -2))
