"""Exact draws of β and of each term's effects given y, at one θ."""

from typing import NamedTuple

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.state import MixedState


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
