"""After fitting: observations that are left out, and new responses, at the estimate or at any θ."""

from typing import Any

import numpy as np

from pm_fastlmm._arrays import FloatArray, Ids
from pm_fastlmm.aireml.after import terms_state
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.engines.dense.node import DenseNode
from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.equivalent import require_rows
from pm_fastlmm.left_out import Groups, Predicted
from pm_fastlmm.likelihood.dense import DenseFactor
from pm_fastlmm.likelihood.leave_out import MatrixPrecision
from pm_fastlmm.likelihood.mixed_precision import MixedPrecision
from pm_fastlmm.linalg.projection import Projection
from pm_fastlmm.linalg.semidefinite import semidefinite_root


def leave_out(
    objective: Objective, node: LMMNode | None, theta: FloatArray, mu: Any, prior_mean: FloatArray, groups: Any
) -> Predicted:
    """
    Leave observations or groups out, with V at θ.

    Raises
    ------
    ValueError
        If the rows were not kept, V is not positive definite, or groups do not fit.
    """
    y, residual, projection, flat, ids = _rows(objective, node, mu, prior_mean)
    read = None if groups is None else Groups.read(groups, ids, len(y))
    Q1 = projection.Q1 if flat else projection.Q1[:, :0]
    if isinstance(node, StructuredNode):
        state, _ = terms_state(objective, node, theta)
        return Predicted.of(MixedPrecision.of(state, residual), y, Q1, ids, read)
    factor = DenseFactor.of(objective.covariance(theta), residual, Q1)
    if factor is None:
        raise ValueError(f"V is not positive definite at {objective.described(theta)}.")
    return Predicted.of(MatrixPrecision(factor.P(), factor.Py), y, Q1, ids, read)


def _rows(
    objective: Objective, node: LMMNode | None, mu: Any, prior_mean: FloatArray
) -> tuple[FloatArray, FloatArray, Projection, bool, Ids | None]:
    """Return y, y less its mean besides a β that is integrated out, the projection, whether it is, and ids."""
    if node is None:
        y, along, flat = objective.observed
        y = y + objective.projection.Q1 @ along if flat else y
        return y, y, objective.projection, flat, None
    if isinstance(node, FourierNode):
        raise ValueError(
            f"{node.name} keeps no rows: flmm.pointwise_log_likelihood(idata, rows=(x, y, X)) takes them, at draws."
        )
    if isinstance(node, StructuredNode):
        require_rows(node.products)
    projection = node.projection
    y = np.asarray(node.observed, dtype=float)
    if len(y) != projection.Q1.shape[0] or getattr(node, "given", None) is not None:
        raise ValueError(f"{node.name} observes a Rotated, which has no rows: fit a model with observed=y.")
    residual = y - mu
    if prior_mean.size:
        residual = residual - projection.Q1 @ (projection.R @ prior_mean)
    return y, residual, projection, node.treatment == "flat", node.ids


def simulate(
    objective: Objective, node: LMMNode | None, theta: FloatArray, mean: FloatArray, n_draws: int,
    rng: np.random.Generator,
) -> FloatArray:  # fmt: skip
    """
    Draw responses around their means with new effects and residuals, (draws, n).

    Raises
    ------
    ValueError
        If V is not positive definite, or holds the prior of β.
    """
    if isinstance(node, StructuredNode):
        state, _ = terms_state(objective, node, theta)
        y = mean + np.sqrt(state.sigma2_e) * rng.standard_normal((n_draws, len(mean)))
        for block, sigma in zip(state.products.blocks[: len(node.terms)], state.sigma, strict=False):
            u = rng.standard_normal((n_draws, block.levels, block.width)) @ semidefinite_root(sigma).T
            y += (block.Z @ u.reshape(n_draws, -1).T).T
        return np.asarray(y)
    if isinstance(node, DenseNode) and node.beta_cov.type.shape != (0, 0):
        raise ValueError(
            f"{node.name} has a Gaussian prior of β, which its V holds: draw replicates from the posterior, "
            "flmm.predict(idata, effects='new', model=model)."
        )
    V = objective.covariance(theta)
    try:
        root = np.linalg.cholesky(V)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"V is not positive definite at {objective.described(theta)}.") from error
    return np.asarray(mean + rng.standard_normal((n_draws, len(mean))) @ root.T)


def marginal_mean(
    objective: Objective, node: LMMNode | None, beta: FloatArray, mu: Any, prior_mean: FloatArray
) -> FloatArray:
    """Return mu + Xβ of what is no structured model, β at its estimate or at what the model says."""
    y, residual, projection, flat, _ = _rows(objective, node, mu, prior_mean)
    if flat:
        return np.asarray(y - residual + projection.Q1 @ (projection.R @ beta))
    return y - residual
