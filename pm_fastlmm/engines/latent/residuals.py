"""Residuals of a response that is not normal, and the table of its diagnostics."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.labels import labelled

type Residual = Literal["response", "pearson", "deviance", "working", "quantile"]

KINDS = {
    "response": "y - μ̂", "pearson": "over √Var(y | η̂)", "deviance": "±√ of what a perfect fit gains",
    "working": "(y - μ̂) dη/dμ", "quantile": "normal quantiles of P(ỹ_i ≤ y_i | y_-i)",
}  # fmt: skip
_STEP = 1e-6  # of η, for dμ/dη
_NEVER = -700.0  # log of a mean that is 0 in floating point
_NEAREST = 1e-15  # probabilities beyond have no finite quantile


def residuals_of(at: Any, kind: Residual, random_seed: Any) -> Any:
    """Return residuals of a `LatentAtTheta`, by id of the row."""
    family, psi, y = at.family, at.psi, at.node.rows()
    eta = np.asarray(at.fitted(conditional=True))
    mean = family.mean(eta, psi)
    if kind == "response":
        values = y - mean
    elif kind == "pearson":
        values = (y - mean) / np.sqrt(family.variance(eta, psi))
    elif kind == "working":
        slope = (family.mean(eta + _STEP, psi) - family.mean(eta - _STEP, psi)) / (2 * _STEP)
        values = (y - mean) / slope
    elif kind == "deviance":
        gained = family.log_density(y, perfect(family, y), psi) - family.log_density(y, eta, psi)
        values = np.sign(y - mean) * np.sqrt(2 * np.maximum(gained, 0.0))
    else:
        values = normal_quantiles(at.left_out(None).pit(np.random.default_rng(random_seed)))
    return labelled(np.asarray(values), at.node.ids, None, name="residual")


def normal_quantiles(pit: FloatArray) -> FloatArray:
    """Return Φ⁻¹ of probabilities, finite ones of 0 and 1."""
    return np.asarray(ndtri(np.clip(pit, _NEAREST, 1 - _NEAREST)))


def perfect(family: Any, y: FloatArray) -> FloatArray:
    """
    Return the η at which the mean of each response is the response itself.

    Raises
    ------
    ValueError
        If the family's mean does not take all values of the response.
    """
    if family.link == "log":
        return np.where(y > 0, np.log(np.maximum(y, 1e-300)), _NEVER)
    if family.name in ("bernoulli", "binomial"):
        return _of_successes(family, y)
    raise ValueError(
        f"family {family.name!r} has no deviance residuals: take kind='quantile', which other families have too, "
        "or 'pearson'."
    )


def _of_successes(family: Any, y: FloatArray) -> FloatArray:
    with np.errstate(all="ignore"):
        eta = np.asarray(family.of_link.quantile(y / family.tried), dtype=float)
    return np.clip(eta, _NEVER, -_NEVER)


def diagnostics_of(at: Any, random_seed: Any) -> pd.DataFrame:
    """Return fitted value, residuals, leverage and what the others predict, a row for each observation."""
    left = at.left_out(None).table(random_seed)
    mean = at.family.mean(np.asarray(at.fitted(conditional=True)), at.psi)
    return pd.DataFrame(
        {
            "y": left["y"], "fitted": mean, "residual": left["y"] - mean,
            "standardised": normal_quantiles(left["pit"].to_numpy()), "leverage": at.leverage(),
            "loo_mean": left["mean"], "loo_sd": left["sd"], "pit": left["pit"],
        },
        index=left.index,
    )  # fmt: skip
