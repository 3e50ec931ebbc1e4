"""What PyTensor does for responses that are not normal: the approximate log-likelihood with its gradient, and draws."""

import math
from typing import Any

import numpy as np

from pm_fastlmm.engines.callbacks import CalledBack, GradientOp, Shape
from pm_fastlmm.engines.latent.products import LatentProducts


class LaplaceLoglik(GradientOp):
    """
    log p̃ from `LatentProducts`, with its gradient as further outputs: all come from one mode.

    Inputs: phi, ψ, the offset of η (n,), and y, in which it is not differentiated. There is no second derivative.
    """

    likelihood = "Laplace's approximation"
    differentiable = 3

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        phi, psi, offset, y = (np.asarray(value, dtype=float) for value in inputs)
        p: LatentProducts = self.data
        with np.errstate(all="ignore"):  # wherever a sampler comes to
            state = p.near(y, offset, p.unpacked(phi), psi)
        if state is None:
            return -math.inf, np.zeros(phi.shape), np.zeros(psi.shape), np.zeros(offset.shape)
        return state.loglik, p.packed(state.gradient.sigma), state.family_gradient, state.offset_gradient


class LatentResponses(CalledBack):
    """
    Draws of y from white noise ξ (…, q) of the effects; NaN where β has a flat prior, as y then has no distribution.

    That is no error: graphs of models ask for the shape of y by a draw, and draws of other variables do without it.

    Inputs: phi, ψ, the offset of η (…, n), ξ, and seeds (…) of the draws from the family.
    """

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the rows, for each draw."""
        return [(*inputs[3][:-1], self.data.rows)]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the draws."""
        phi, psi, offset, xi, seeds = inputs
        p: LatentProducts = self.data
        if p.flat and p.projection.rank:
            return [np.full(offset.shape, np.nan)]
        eta = offset + p.random_effects(phi, xi)
        out = np.empty(eta.shape)
        for at in np.ndindex(*eta.shape[:-1]):
            out[at] = p.family.draw(eta[at], psi, np.random.default_rng(int(seeds[at])))
        return [out]


def laplace_log_density(products: LatentProducts, phi: Any, psi: Any, offset: Any, y: Any) -> Any:
    """Return the graph of log p̃ without `constant`; the offset has Xb where β is given or has the mean b."""
    return LaplaceLoglik(products)(phi, psi, offset, y)[0]
