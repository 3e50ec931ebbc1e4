"""What PyTensor does for the sparse engine: the log-likelihood with its gradient."""

import math
from typing import Any

import numpy as np

from pm_fastlmm.engines.algebra import along_columns
from pm_fastlmm.engines.callbacks import GradientOp
from pm_fastlmm.engines.sparse.products import SparseProducts


class SparseLoglik(GradientOp):
    """
    Log-likelihood from `SparseProducts`, with its gradient as further outputs: both come from one factorisation.

    Inputs: phi, Σ_e, and the response less its known mean. There is no second derivative.
    """

    likelihood = "the structured likelihood"
    differentiable = 3

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        phi, noise, y = (np.asarray(value, dtype=float) for value in inputs)
        p: SparseProducts = self.data
        state = p.at(p.response_to_known(y), p.unpacked(phi), noise)
        if state is None:
            return -math.inf, np.zeros(phi.shape), np.zeros(noise.shape), np.zeros(y.shape)
        g = state.gradient
        return state.loglik, p.packed(g.sigma), g.noise, -state.weighted


def sparse_log_density(products: SparseProducts, phi: Any, noise: Any, residual: Any, b: Any) -> Any:
    """Return the graph of the log-likelihood of y less mu, where β is integrated out or has the mean b."""
    own = residual if products.flat else residual - along_columns(products.projection, b)
    return SparseLoglik(products)(phi, noise, own)[0]
