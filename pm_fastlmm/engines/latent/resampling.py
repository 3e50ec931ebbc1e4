"""Draws of effects and coefficients given θ: from the curvature at the mode, resampled by their importance weights."""

import math
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.importance import products
from pm_fastlmm.engines.latent.independent import GivenCoefficients, Independent, white


def resampled(
    state: Any, blocks: Independent, rng: np.random.Generator, *, coefficients: int = 20, effects: int = 20
) -> tuple[list[FloatArray], FloatArray]:
    """
    Draw the effects of each term and β as `state.draw` does, with weights that bring them nearer to the posterior.

    So many values of β are drawn from the curvature at the mode, and for each so many of the effects of each
    independent block. One β is chosen by the weights that are products of the mean weights of its blocks, then one draw
    of each block. As their numbers grow the draws are those of the posterior; Pareto k of `Importance` says whether
    they are enough.
    """
    given = GivenCoefficients(state, blocks)
    own, x = blocks.effects, state.mode.x.copy()
    r = len(x) - own
    count = coefficients if r else 1
    z, density = white((1, r), count, math.inf, rng)
    moved = np.linalg.solve(np.linalg.cholesky(given.curvature[2]).T, z[0])
    weight, log, at = products(given, moved, effects, math.inf, rng)
    chosen = _chosen(weight - density[0], rng)
    place = _chosen(log[:, chosen], rng)
    block = np.asarray(blocks.of_block.T @ np.arange(blocks.count), dtype=np.intp)
    x[:own] = at[np.arange(own), chosen, place[block]]
    x[own:] += moved[:, chosen]
    return unscaled(state, x)


def _chosen(log: FloatArray, rng: np.random.Generator) -> Any:
    """Return a place along the last axis, with probabilities that are proportional to weights."""
    return (log + rng.gumbel(size=log.shape)).argmax(axis=-1)


def unscaled(state: Any, x: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """Return the effects of each block of unknowns, and β."""
    eq, p = state.problem.equations, state.products
    u = []
    for k, (block, root) in enumerate(zip(eq.blocks, state.roots, strict=True)):
        u.append(p.rooted(k, x[eq.part(k)].reshape(block.levels, block.width) @ root.T))
    beta = p.projection.coefficients(state.response.y1 + x[eq.part(-1)]) if p.fixed else np.zeros(0)
    return u, beta
