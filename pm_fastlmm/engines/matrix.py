"""What follows from V as a matrix at posterior draws: P and Py, and replicates of y."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.engines.constants import Constants
from pm_fastlmm.engines.precisions import Part, require_definite
from pm_fastlmm.engines.prediction import Predictive
from pm_fastlmm.likelihood.dense import DenseFactor
from pm_fastlmm.likelihood.leave_out import MatrixPrecision
from pm_fastlmm.linalg.semidefinite import semidefinite_root

if TYPE_CHECKING:
    from pm_fastlmm.engines.gaussian import GaussianNode

_BUDGET = 4_000_000  # numbers of V at a time


def parts(node: "GaussianNode", model: pm.Model, posterior: xr.Dataset, numbers: int) -> Iterator[Part]:
    """Return P and Py at the draws, one after the other; where β has a proper prior V holds it."""
    basis, X = node.flat_basis(), node.projection.Q1 @ node.projection.R
    for i, (V, (mu, b, B)) in enumerate(node.at_draws(model, posterior, numbers)):
        residual = node.observed - mu - (0.0 if node.treatment == "flat" else X @ b)
        factor = DenseFactor.of(V + X @ B @ X.T if B.size else V, residual, basis)
        require_definite(factor, node.name)
        assert factor is not None
        yield Part(i, MatrixPrecision(factor.P(), factor.Py), node.observed)


def replicates(node: "GaussianNode", model: pm.Model, posterior: xr.Dataset, rng: np.random.Generator) -> Predictive:
    """
    Draw mu + Xβ, β from its conditional given y, and y = mu + Xβ + e, e ~ N(0, V).

    Raises
    ------
    ValueError
        If V is not positive definite at a draw.
    """
    X, f, y = node.projection.X, [], []
    for i, (V, known) in enumerate(node.at_draws(model, posterior, _BUDGET)):
        factor = DenseFactor.of(V, node.observed - known.mu, node.projection.Q1)
        if factor is None:
            raise ValueError(f"V of {node.name} is not positive definite at draw {i}.")
        explicit = node.treatment == "proper" and not known.B.size
        f.append(known.mu + X @ (known.b if explicit else _coefficients(node, factor, known, rng)))
        y.append(f[-1] + factor.L @ rng.standard_normal(node.n))
    shape = posterior.sizes["chain"], posterior.sizes["draw"], node.n
    return Predictive(np.reshape(f, shape), np.reshape(y, shape))


def _coefficients(node: "GaussianNode", factor: DenseFactor, known: Constants, rng: np.random.Generator) -> FloatArray:
    """
    Draw β given y and V: from N(β̂, (XᵀV⁻¹X)⁻¹), or with the prior N(b, B) by Matheron's rule.

    β̂ = R⁻¹Q₁ᵀ(y - mu - VPy), and (XᵀV⁻¹X)⁻¹ = R⁻¹T⁻¹T⁻ᵀR⁻ᵀ.
    """
    Q1, R = node.projection.Q1, node.projection.R
    if not R.size:
        return np.zeros(0)
    residual = factor.L @ (factor.L.T @ factor.Py)
    estimate = np.linalg.solve(R, Q1.T @ (node.observed - known.mu - residual))
    root = np.linalg.solve(factor.T @ R, np.eye(len(R)))
    drawn = estimate + root @ rng.standard_normal(len(R))
    if node.treatment == "flat":
        return np.asarray(drawn)
    prior = known.b + semidefinite_root(known.B) @ rng.standard_normal(len(R))
    return np.asarray(prior + known.B @ np.linalg.solve(known.B + root @ root.T, drawn - prior))
