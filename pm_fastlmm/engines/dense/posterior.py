"""Replicates of y at each posterior draw, all of V being drawn anew."""

from typing import TYPE_CHECKING

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.engines.draws import DrawFunction
from pm_fastlmm.engines.prediction import Predictive
from pm_fastlmm.kernel.likelihood.dense import DenseFactor

if TYPE_CHECKING:
    from pm_fastlmm.engines.dense.node import DenseNode

_BUDGET = 4_000_000  # numbers of V at a time


def predict(node: "DenseNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator) -> Predictive:
    """
    Draw mu + Xβ, β from its conditional given y, and y = mu + Xβ + e, e ~ N(0, V).

    Raises
    ------
    ValueError
        If V is not positive definite at a draw.
    """
    function = DrawFunction(model, posterior, [node.V, node.mu, node.beta_mean, node.beta_cov])
    X = node.projection.X
    f, y = np.empty((function.size, node.n)), np.empty((function.size, node.n))
    size = max(1, _BUDGET // node.n**2)
    for start in range(0, function.size, size):
        for j, (V, mu, b, B) in enumerate(zip(*function(slice(start, start + size)), strict=True)):
            factor = DenseFactor.of(V, node.observed - mu, node.projection.Q1)
            if factor is None:
                raise ValueError(f"V of {node.name} is not positive definite at draw {start + j}.")
            beta = b if node.treatment == "proper" and not B.size else _coefficients(node, factor, mu, b, B, rng)
            f[start + j] = mu + X @ beta
            y[start + j] = f[start + j] + factor.L @ rng.standard_normal(node.n)
    shape = posterior.sizes["chain"], posterior.sizes["draw"]
    return Predictive(f.reshape(*shape, -1), y.reshape(*shape, -1))


def _coefficients(
    node: "DenseNode", factor: DenseFactor, mu: FloatArray, b: FloatArray, B: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """
    Draw β given y and V: from N(β̂, (XᵀV⁻¹X)⁻¹), or with the prior N(b, B) by Matheron's rule.

    β̂ = R⁻¹Q₁ᵀ(y - mu - VPy), and (XᵀV⁻¹X)⁻¹ = R⁻¹T⁻¹T⁻ᵀR⁻ᵀ.
    """
    Q1, R = node.projection.Q1, node.projection.R
    if not R.size:
        return np.zeros(0)
    residual = factor.L @ (factor.L.T @ factor.Py)
    estimate = np.linalg.solve(R, Q1.T @ (node.observed - mu - residual))
    root = np.linalg.solve(factor.T @ R, np.eye(len(R)))
    drawn = estimate + root @ rng.standard_normal(len(R))
    if node.treatment == "flat":
        return np.asarray(drawn)
    prior = b + semidefinite_root(B) @ rng.standard_normal(len(R))
    return np.asarray(prior + B @ np.linalg.solve(B + root @ root.T, drawn - prior))
