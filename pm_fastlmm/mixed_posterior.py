"""After sampling a structured model: exact draws of β and of each term's effects, and predictions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm._display import tracked
from pm_fastlmm.coefficients import draw_factor_effects
from pm_fastlmm.effects import draw_effects
from pm_fastlmm.engines.draws import evaluate_draws
from pm_fastlmm.engines.structured.matrices import compile_matrices
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.likelihood.mixed import MixedState
from pm_fastlmm.linalg.mixed import MixedProducts
from pm_fastlmm.linalg.rotated import Rotated
from pm_fastlmm.linalg.semidefinite import semidefinite_root
from pm_fastlmm.linalg.spectrum import Spectrum
from pm_fastlmm.mixed_rows import NewTermRows


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


def draw_mixed(
    idata: xr.DataTree, model: pm.Model, node: StructuredNode, rng: np.random.Generator, *, progressbar: bool = False
) -> EffectDraws:
    """
    Draw (β, u) from their joint posterior given y, once for each draw of θ.

    Conditional simulation (Matheron's rule): with u⁺, e⁺ drawn from the prior and y⁺ = Σ Z_ku_k⁺ + e⁺,
    β = β̂(y - y⁺) and u = u⁺ + û(y - y⁺) have exactly that distribution. A Gaussian prior of β is one term more.
    """
    if node.observed is None:
        raise ValueError(f"{node.name} has no observed data: effects and predictions are given y.")
    theta, mu, b, B = evaluate_draws(
        model, idata.posterior.to_dataset(), [node.theta, node.mu, node.beta_mean, node.beta_cov]
    )
    if node.spectrum is not None and node.treatment == "flat" and not np.ptp(mu, axis=(0, 1)).any():
        return _draw_kernel(node, node.spectrum, theta, mu, rng)
    shape, products, terms = theta.shape[:2], node.products, node.terms
    matrices, R = compile_matrices(node.layout), products.projection.R
    X = products.projection.Q1 @ R
    beta = np.empty((*shape, X.shape[1]))
    u = [np.empty((*shape, t.Z.shape[1] // t.width, t.width)) for t in terms]
    sigma = [np.empty((*shape, t.blocks.width, t.blocks.width)) for t in terms]
    draws = list(np.ndindex(*shape))
    for at in tracked(draws, f"effects of {node.name}", show=progressbar):
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
    node: StructuredNode, spectrum: Spectrum, theta: FloatArray, mu: FloatArray, rng: np.random.Generator
) -> EffectDraws:
    """Draw all at once in the rotated coordinates: the effects are the coefficients of the factor Z of K."""
    g, e = theta[..., 0], theta[..., 1]
    beta, u = draw_effects(Rotated.from_values(spectrum, node.observed - mu[0, 0], None), g, e, rng)
    effects = draw_factor_effects(spectrum, u, g, rng)
    root, term = node.products.blocks[0].root, node.terms[0]
    effects = effects if root is None else effects @ root.T
    levels = effects.reshape(*theta.shape[:2], -1, term.width)
    return EffectDraws(beta, [levels], [g[..., None, None]], e, mu)


def _one_draw(
    products: MixedProducts, y: FloatArray, sigma: list[FloatArray], sigma2_e: float, rng: np.random.Generator
) -> tuple[list[FloatArray], FloatArray]:
    """Return one draw of the effects of each block, in its own coordinates, and of β."""
    drawn = []
    # of rows that were not kept, e⁺ in the directions left out is not needed: û and β̂ depend on y along X and Z alone
    noise = y - np.sqrt(sigma2_e) * rng.standard_normal(products.rows)
    for block, S in zip(products.blocks, sigma, strict=True):
        drawn.append(rng.standard_normal((block.levels, block.width)) @ semidefinite_root(S).T)
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
    root = products.blocks[k].root
    return u.ravel() if root is None else np.asarray(root @ u.ravel())


def recover_mixed(
    idata: xr.DataTree, model: pm.Model, node: StructuredNode, rng: np.random.Generator, *, progressbar: bool = False
) -> xr.DataTree:
    """Add the draws of β, `{name}_beta`, and of each term's effects, `{name}_{term}`, to the posterior."""
    draws = draw_mixed(idata, model, node, rng, progressbar=progressbar)
    coef = f"{node.name}_coef"
    posterior = idata.posterior
    posterior[f"{node.name}_beta"] = xr.DataArray(
        draws.beta, dims=("chain", "draw", coef), coords={coef: list(node.projection.coef)}
    )
    for term, u in zip(node.terms, draws.u, strict=True):
        # u is over the levels of the term; without columns those of a matrix Z are its columns
        level, effect = f"{term.name}", f"{term.name}_effects"
        dims: tuple[str, ...] = ("chain", "draw", level)
        coords: dict[str, Any] = {level: list(term.levels)}
        values = u[..., 0] if term.width == 1 else u
        if term.width > 1:
            dims, coords = (*dims, effect), coords | {effect: list(term.columns)}
        posterior[f"{node.name}_{term.name}"] = xr.DataArray(values, dims=dims, coords=coords)
    return idata


def predict_mixed(
    draws: EffectDraws, node: StructuredNode, rows: NewTermRows | None, effects: str, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return draws of f and of y = f + e, (chain, draw, m), for new rows or for those of the data."""
    shape = draws.beta.shape[:2]
    if rows is None:
        X = node.projection.Q1 @ node.projection.R
        rows = NewTermRows(X, [term.Z for term in node.terms], [term.Z[:, :0] for term in node.terms], node.ids)
        f = draws.beta @ X.T + draws.mu
    else:
        f = draws.beta @ rows.X.T
    for k, term in enumerate(node.terms if effects != "population" else ()):
        u = draws.u[k]
        if effects == "new":
            u = _new_effects(node, k, draws.sigma[k], term.blocks.levels, rng)
        f = f + (rows.Z[k] @ u.reshape(-1, rows.Z[k].shape[1]).T).T.reshape(*shape, rows.m)
        fresh = rows.Z_new[k].shape[1]
        if fresh:
            v = _independent(draws.sigma[k], fresh // term.width, rng)
            f = f + (rows.Z_new[k] @ v.reshape(-1, fresh).T).T.reshape(*shape, rows.m)
    return f, f + np.sqrt(draws.sigma2_e)[..., None] * rng.standard_normal(f.shape)


def _independent(sigma: FloatArray, levels: int, rng: np.random.Generator) -> FloatArray:
    noise = rng.standard_normal((*sigma.shape[:-2], levels, sigma.shape[-1]))
    return np.asarray(np.einsum("...ij,...lj->...li", semidefinite_root(sigma), noise))


def _new_effects(node: StructuredNode, k: int, sigma: FloatArray, levels: int, rng: np.random.Generator) -> FloatArray:
    u = _independent(sigma, levels, rng)
    flat = u.reshape(*u.shape[:2], -1)
    root = node.products.blocks[k].root
    return np.asarray(flat if root is None else flat @ root.T)
