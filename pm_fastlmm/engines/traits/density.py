"""The log-density of several traits as a graph."""

import math
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pm_fastlmm.engines.algebra import along_columns
from pm_fastlmm.engines.callbacks import GradientOp
from pm_fastlmm.engines.traits.operations import TraitsLoglik


class TraitEntriesLoglik(GradientOp):
    """
    Log-likelihood of the entries that were observed, or of β with a Gaussian prior, from `TraitProducts`.

    Inputs: Σ_g and the covariance of β packed, Σ_e, and the response less its known mean. There is no second
    derivative.
    """

    likelihood = "the likelihood of several traits"
    differentiable = 3

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        phi, noise, y = (np.asarray(value, dtype=float) for value in inputs)
        p = self.data
        state = p.at(p.response_to_known(y), p.unpacked(phi), noise)
        if state is None:
            return -math.inf, np.zeros(phi.shape), np.zeros(noise.shape), np.zeros(y.shape)
        g = state.gradient
        return state.loglik, p.packed(g.sigma), g.noise, -state.precision(y).weighted


def trait_log_density(p: Any, phi: Any, noise: Any, residual: Any, b: Any) -> Any:
    """Return the graph of the log-likelihood of y less mu, where β is integrated out or has the mean b."""
    own = residual if p.flat else residual - along_columns(p.projection, b)
    if p.columns is not None:
        return TraitEntriesLoglik(p)(phi, noise, own)[0]
    rotation, t = p.rotation, len(p.traits)
    rows = own.reshape((t, p.spectrum.n))
    z, outside = pt.dot(rows, rotation.U), pt.zeros((t, t), dtype="float64")
    if rotation.nullity:
        left = rows - pt.dot(z, rotation.U.T) - pt.dot(pt.dot(rows, rotation.Q1), rotation.Q1.T)
        outside = pt.dot(left, left.T)
    sigma_g = phi.reshape((t, t))
    return TraitsLoglik()(sigma_g, noise, z.T, outside, pt.constant(rotation.eigvals), rotation.nullity)[0]
