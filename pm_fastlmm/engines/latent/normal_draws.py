r"""
Draws of effects and coefficients given θ from a normal distribution: the curvature at the mode, about the mean.

The mean of a posterior is not its mode. To the first order it is

    E x ≈ x̂ + ½ C⁻¹ ΛᵀWᵀ(s ∘ ∂³log p/∂η³),

s the variances of η given y (Tierney & Kadane 1986, doi:10.1080/01621459.1986.10478240). Where records say little of
their effects the joint mode is off by a good part of a standard error: with a count for each level an intercept is too
high.
"""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.latent.resampling import unscaled
from pm_fastlmm.engines.latent.state import LatentState


def mean_of(state: LatentState) -> FloatArray:
    """Return E x to the first order, (N,)."""
    problem: Any = state.problem
    cubic = state.eta_variances * state.mode.derivatives.third
    return np.asarray(state.mode.x + 0.5 * state.factor.solve(problem.columns @ cubic))


def drawn_about_the_mean(state: LatentState, rng: np.random.Generator) -> tuple[list[FloatArray], FloatArray]:
    """Draw the effects of each block of unknowns, and β."""
    mean = mean_of(state)
    return unscaled(state, mean + state.factor.draw(rng.standard_normal(len(mean))))
