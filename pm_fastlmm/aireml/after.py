"""After fitting: effects, fitted values and predictions at the estimate or at any θ."""

from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.aireml.objective import Objective
from pm_fastlmm.effects import Prediction
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.labels import labelled
from pm_fastlmm.likelihood.mixed import MixedState, NewDesign
from pm_fastlmm.mixed_rows import NewTermRows

_BUDGET = 4_000_000  # numbers of Σ Z*G at a time


def terms_state(objective: Objective, node: LMMNode | None, theta: FloatArray) -> tuple[MixedState, StructuredNode]:
    """
    Return a structured model at θ, and its node.

    Raises
    ------
    ValueError
        If the model has no terms, or its covariance is not positive definite at θ.
    """
    state = objective.terms(np.asarray(theta, dtype=float))
    if state is None:
        raise ValueError(f"V is not positive definite at {objective.described(theta)}.")
    assert isinstance(node, StructuredNode)
    return state, node


def by_term(node: StructuredNode, values: list[FloatArray], name: str) -> dict[str, Any]:
    """Return (levels, width) arrays as Series by level, DataFrames for terms with columns."""
    out: dict[str, Any] = {}
    for term, effects in zip(node.terms, values, strict=False):
        index = pd.Index(term.levels, tupleize_cols=False)
        array = effects.reshape(len(index), -1)
        out[term.name] = (
            pd.Series(array[:, 0], index=index, name=name)
            if term.width == 1
            else pd.DataFrame(array, index=index, columns=list(term.columns))
        )
    return out


def fitted_values(state: MixedState, node: StructuredNode, mean: FloatArray, *, conditional: bool) -> Any:
    """Return mean + Xβ̂, or mean + Xβ̂ + Σ Zû, by id of the row; `mean` is mu, and Xb where β has the prior mean b."""
    values = mean + (node.projection.Q1 @ node.projection.R @ state.blue()[0] if state.products.fixed else 0.0)
    for k, (block, w) in enumerate(zip(state.products.blocks, state.gradient.effects, strict=True)):
        if conditional or k >= len(node.terms):  # the last block may be that of β
            values = values + block.Z @ (w @ state.sigma[k]).ravel()
    return labelled(values, node.ids, None, name="fitted")


def predict(state: MixedState, node: StructuredNode, rows: NewTermRows, prior_mean: FloatArray) -> Prediction:
    """Return predictions of f = Xβ + Σ Zu for new rows, with the variance of their error; b is the prior mean of β."""
    fresh = rows.prior_variance(node.terms, state.sigma)
    incidence = [*rows.Z, rows.X] if len(state.products.blocks) > len(node.terms) else rows.Z
    width = sum(Z.shape[1] for Z in incidence)
    mean, variance = np.empty(rows.m), np.empty(rows.m)
    for part in np.array_split(np.arange(rows.m), max(1, rows.m * width // _BUDGET)):
        new = NewDesign(rows.X[part], [Z[part] for Z in incidence], fresh[part])
        mean[part], variance[part] = state.predict(new)
    if prior_mean.size:
        mean += rows.X @ prior_mean
    variance[np.isnan(mean)] = np.nan  # of an unknown Xβ, which a β that is known adds nothing to
    return Prediction(
        labelled(mean, rows.ids, None, name="mean"),
        labelled(variance, rows.ids, None, name="variance"),
        np.asarray(state.sigma2_e),
    )
