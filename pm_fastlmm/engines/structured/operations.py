"""What PyTensor does for several terms: the operations of the likelihood and of draws, and Σ_k(θ) with derivatives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pm_fastlmm.engines.algebra import times
from pm_fastlmm.engines.callbacks import CalledBack, GradientOp, Shape, no_hessian
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.engines.structured.state import mixed_loglik_and_gradient

_STRUCTURED = "the structured likelihood"


class MixedLoglik(GradientOp):
    """
    Log-likelihood from `MixedProducts`, with its gradient as further outputs: both come from one factorisation.

    Inputs: phi, σ²_e, the statistics of the response y₂ + Q₁d (within, between, rss), and y₂ and d themselves, which
    are looked at where inner products lose digits. There is no second derivative.
    """

    likelihood = _STRUCTURED
    differentiable = 7

    def evaluate(self, *inputs: Any) -> Any:
        """Return the log-likelihood and its gradient."""
        phi, *rest = inputs
        return mixed_loglik_and_gradient(self.data, np.ascontiguousarray(phi), *rest)  # compiled for one layout


class ResponseStatistics(CalledBack):
    """The statistics of a response, from `MixedProducts`, and y₂ itself; PyTensor folds those of observed data."""

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return those of the statistics."""
        p: MixedProducts = self.data
        return [(p.columns,), p.C.shape[:2], (), p.Q_within.shape[1:], (p.rows,)]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the statistics of a response (n,)."""
        return self.data.response(np.asarray(inputs[0], dtype=float))

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the gradient with respect to the response."""
        return [apply(ResponsePullback(self.held))(inputs[0], *cotangents)]


class ResponsePullback(CalledBack):
    """The transpose of `ResponseStatistics`: inputs are the response and the gradients of its statistics."""

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the response."""
        return [inputs[0]]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the gradient with respect to the response."""
        y, within, between, rss, y1, rows = inputs
        return [self.data.response_pullback(y, within, between, float(rss), y1, rows)]

    def gradients(self, apply: Callable[..., Any], inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Raise: this is part of a gradient."""
        raise no_hessian(_STRUCTURED)


class RandomEffects(CalledBack):
    """
    Draws of what the terms contribute, Σ_k Z_ku_k, from white noise ξ (…, q).

    Inputs: the packed Σ_k, in the order of the engine, and ξ.
    """

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the rows, for each draw."""
        _, noise = inputs
        return [(*noise[:-1], self.data.rows)]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the draws."""
        return [self.data.random_effects(*inputs)]


class Residuals(CalledBack):
    """
    Draws of the residuals from white noise (…, n).

    Inputs: Σ_e, and the noise.
    """

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the noise."""
        return [inputs[1]]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the draws."""
        return [self.data.records.coloured(*inputs)]


def mixed_log_density(products: MixedProducts, phi: Any, sigma2_e: Any, residual: Any, b: Any) -> Any:
    """Return the graph of the log-likelihood of y less mu, where β is integrated out or has the mean b."""
    within, between, rss, y1, rows = ResponseStatistics(products)(residual)
    d = pt.zeros(0)
    if not products.flat:  # y₂ + Q₁d, d = Q₁ᵀy - Rb
        d = y1 - times(pt.constant(products.projection.R), b)
        along = times(pt.constant(products.Q_between), d)
        rss = rss - 2 * (along * between.ravel()).sum() + (d**2).sum() - (along**2).sum()
        within = within + times(pt.constant(products.Q_within), d)
        between = between + along.reshape(between.shape)
    return MixedLoglik(products)(phi, sigma2_e, within, between, rss, rows, d)[0]
