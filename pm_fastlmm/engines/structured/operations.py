"""What PyTensor does for several terms: the operations of the likelihood and of draws, and Σ_k(θ) with derivatives."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pm_fastlmm.base.semidefinite import semidefinite_root
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
    Σ_k Z_k(I ⊗ R_k)ξ_k, R_kR_kᵀ = Σ_k, from white noise ξ (…, q): draws of what the terms contribute.

    Inputs: the packed Σ_k, in the order of the engine, and ξ.
    """

    def shapes(self, *inputs: Any) -> list[Shape]:
        """Return that of the rows, for each draw."""
        _, noise = inputs
        return [(*noise[:-1], self.data.rows)]

    def evaluate(self, *inputs: Any) -> Any:
        """Return the draws."""
        phi, xi = inputs
        out = np.zeros((*xi.shape[:-1], self.data.rows))
        sigma, place = self.data.unpacked(phi), 0
        for k in self.data.order:
            Z, levels, c, _ = self.data.blocks[k]
            root = semidefinite_root(sigma[k])
            noise = xi[..., place : place + levels * c].reshape(*xi.shape[:-1], levels, c)
            u = np.einsum("ij,...lj->...li", root, noise).reshape(-1, levels * c)
            out += (Z @ u.T).T.reshape(out.shape)
            place += levels * c
        return [out]
