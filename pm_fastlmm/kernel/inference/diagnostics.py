"""What is looked at of each observation: fitted value, residual, leverage, and what the others predict."""

from typing import Any

import numpy as np
import pandas as pd


def diagnostics(left_out: pd.DataFrame, fitted: Any, weights: Any = None, *, leverage: Any = None) -> pd.DataFrame:
    """
    Return a row for each observation, of what `loo` says and the conditional fitted values Xβ̂ + Zû.

    With P the projection of V⁻¹, `standardised` = (Py)_i/√P_ii has the variance 1 exactly, unlike a residual over σ_e;
    it is the deviation from what the others predict, in units of its standard deviation. `leverage` is
    h_ii = ∂ŷ_i/∂y_i = 1 - R_iiP_ii, with R the covariance of the residuals; it is the share of a residual that its
    own observation takes away: residual = (1 - h_ii)(y_i - prediction by the others). Its sum is the number of
    effective parameters. Where residuals covary it is 1 - (RP)_ii, which is given. With prior weights, R_ii = σ²_e/w_i,
    they are the last column, `weight`.

    References
    ----------
    Hodges & Sargent (2001), doi:10.1093/biomet/88.2.367; Sundararajan & Keerthi (2001), doi:10.1162/08997660151134343.
    """
    deviation = left_out["y"] - left_out["mean"]
    residual = left_out["y"] - np.asarray(fitted)
    if leverage is None:
        with np.errstate(divide="ignore", invalid="ignore"):
            leverage = np.where(deviation == 0, np.nan, 1 - residual / deviation)
    columns = {
        "y": left_out["y"], "fitted": np.asarray(fitted), "residual": residual,
        "standardised": deviation / left_out["sd"], "leverage": leverage,
        "loo_mean": left_out["mean"], "loo_sd": left_out["sd"],
    }  # fmt: skip
    table = pd.DataFrame(columns, index=left_out.index)
    return table if weights is None else table.assign(weight=weights)
