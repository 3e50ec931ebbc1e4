"""Exact draws of β and of each term's effects at each posterior draw, and predictions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.draws import evaluate_draws
from pm_fastlmm.engines.labels import labelled, over_coef
from pm_fastlmm.engines.prediction import Effects, Predictive
from pm_fastlmm.engines.structured.matrices import compile_matrices
from pm_fastlmm.engines.structured.new_rows import NewTermRows
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.state import MixedState
from pm_fastlmm.kernel.effects.coefficients import draw_factor_effects
from pm_fastlmm.kernel.effects.effects import draw_effects
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

if TYPE_CHECKING:
    from pm_fastlmm.engines.structured.node import StructuredNode


@dataclass(frozen=True, slots=True, eq=False)
class EffectDraws:
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


def recover(
    node: "StructuredNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator
) -> dict[str, xr.DataArray]:
    """Draw β, and the effects of each term over its levels; without columns those of a matrix Z are its columns."""
    draws = _draw(node, model, posterior, rng)
    effects = {"beta": over_coef(model, node, draws.beta)}
    for term, u in zip(node.terms, draws.u, strict=True):
        if term.width == 1:
            effects[term.name] = labelled(model, node, u[..., 0], {term.name: term.levels})
        else:
            own = {term.name: term.levels, f"{term.name}_effects": term.columns}
            effects[term.name] = labelled(model, node, u, own)
    return effects


def predict(
    node: "StructuredNode",
    model: pm.Model,
    posterior: xr.Dataset,
    rows: NewTermRows | None,
    effects: Effects,
    rng: np.random.Generator,
) -> Predictive:
    """Draw f = Xβ + Σ Zu of new rows or of those of the data, and y = f + e."""
    draws = _draw(node, model, posterior, rng)
    mean, shape = node.mean_at(rows, draws.mu), draws.sigma2_e.shape
    ids = None if rows is None else rows.ids
    if rows is None:
        none = [term.Z[:, :0] for term in node.terms]
        rows = NewTermRows(node.projection.X, [term.Z for term in node.terms], none, node.ids)
    f = draws.beta @ rows.X.T + mean
    for k, term in enumerate(node.terms if effects != "population" else ()):
        u, sigma = draws.u[k], draws.sigma[k]
        if effects == "new":
            u = _rooted(node.products, k, _independent(sigma, term.blocks.levels, rng))
        f = f + (rows.Z[k] @ u.reshape(-1, rows.Z[k].shape[1]).T).T.reshape(*shape, rows.m)
        fresh = rows.Z_new[k].shape[1]
        if fresh:
            v = _independent(sigma, fresh // term.width, rng)
            f = f + (rows.Z_new[k] @ v.reshape(-1, fresh).T).T.reshape(*shape, rows.m)
    return Predictive.of(f, draws.sigma2_e, rng, ids)


def _draw(node: "StructuredNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator) -> EffectDraws:
    """
    Draw (β, u) from their joint posterior given y, once for each draw of θ.

    Conditional simulation (Matheron's rule): with u⁺, e⁺ drawn from the prior and y⁺ = Σ Z_ku_k⁺ + e⁺,
    β = β̂(y - y⁺) and u = u⁺ + û(y - y⁺) have exactly that distribution. A Gaussian prior of β is one term more.
    """
    theta, mu, b, B = evaluate_draws(model, posterior, [node.theta, node.mu, node.beta_mean, node.beta_cov])
    if node.spectrum is not None and node.treatment == "flat" and not np.ptp(mu, axis=(0, 1)).any():
        return _draw_kernel(node, node.spectrum, theta, mu, rng)
    shape, products, terms = theta.shape[:2], node.products, node.terms
    matrices, X = compile_matrices(node.layout), products.projection.X
    beta = np.empty((*shape, X.shape[1]))
    u = [np.empty((*shape, t.Z.shape[1] // t.width, t.width)) for t in terms]
    sigma = [np.empty((*shape, t.blocks.width, t.blocks.width)) for t in terms]
    for at in np.ndindex(*shape):
        values = [np.atleast_2d(m) for m in matrices(theta[at])[0]]
        own = [*values, B[at]] if B[at].size else values
        response = node.observed - mu[at]
        if not products.flat:
            response = response - X @ b[at]
        drawn, coefficients = _one_draw(products, response, own, float(theta[at][-1]), rng)
        for k, term in enumerate(terms):
            u[k][at] = _rooted(products, k, drawn[k]).reshape(-1, term.width)
            sigma[k][at] = values[k]
        beta[at] = coefficients if products.flat else b[at] + (drawn[-1].ravel() if B[at].size else 0.0)
    return EffectDraws(beta, u, sigma, theta[..., -1], mu)


def _draw_kernel(
    node: "StructuredNode", spectrum: Spectrum, theta: FloatArray, mu: FloatArray, rng: np.random.Generator
) -> EffectDraws:
    """Draw all at once in the rotated coordinates: the effects are the coefficients of the factor Z of K."""
    g, e = theta[..., 0], theta[..., 1]
    beta, u = draw_effects(Rotated.from_values(spectrum, node.observed - mu[0, 0], None), g, e, rng)
    effects, width = draw_factor_effects(spectrum, u, g, rng), node.terms[0].width
    levels = _rooted(node.products, 0, effects[..., None]).reshape(*theta.shape[:2], -1, width)
    return EffectDraws(beta, [levels], [g[..., None, None]], e, mu)


def _one_draw(
    products: MixedProducts, y: FloatArray, sigma: list[FloatArray], sigma2_e: float, rng: np.random.Generator
) -> tuple[list[FloatArray], FloatArray]:
    """Return one draw of the effects of each block, in its own coordinates, and of β."""
    drawn = []
    # of rows that were not kept, e⁺ in the directions left out is not needed: û and β̂ depend on y along X and Z alone
    noise = y - np.sqrt(sigma2_e) * rng.standard_normal(products.rows)
    for block, S in zip(products.blocks, sigma, strict=True):
        drawn.append(_independent(S, block.levels, rng))
        noise = noise - block.Z @ drawn[-1].ravel()
    response = products.response(noise)
    if not products.flat:
        response = products.shifted(response, response.y1)
    state = MixedState.at(products, response, sigma, sigma2_e)
    if state is None:
        raise ValueError("a posterior draw has a covariance that is not positive definite: its variances are 0.")
    estimate = state.gradient.effects
    drawn = [u + w @ S for u, w, S in zip(drawn, estimate, sigma, strict=True)]
    return drawn, state.blue()[0]


def _rooted(products: MixedProducts, k: int, u: FloatArray) -> FloatArray:
    """Return effects (…, levels · width) of a term from independent ones (…, levels, width)."""
    flat, root = u.reshape(*u.shape[:-2], -1), products.blocks[k].root
    return flat if root is None else np.asarray(flat @ root.T)


def _independent(sigma: FloatArray, levels: int, rng: np.random.Generator) -> FloatArray:
    """Draw effects (…, levels, width) that are independent between levels, with the covariance (…, width, width)."""
    noise = rng.standard_normal((*sigma.shape[:-2], levels, sigma.shape[-1]))
    return np.asarray(noise @ np.swapaxes(semidefinite_root(sigma), -1, -2))
