"""Predicted effects as a table: value, error, interval, and how well each is known."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.base.tables import Table


def effect_table(
    blup: FloatArray, pev: FloatArray, prior: FloatArray, index: pd.Index, level: float, *, records: Any = None
) -> Table:
    """
    Return blup, se, lower, upper, reliability and accuracy of effects, one row each.

    The reliability is r² = 1 - PEV_i/G_ii, G_ii the variance of the effect (σ²_gK_ii, with K_ii = 1 + F_i of an inbred
    individual): the squared correlation of û_i with u_i. The accuracy is r. They are NaN where G_ii = 0.
    With `records`, the number of rows of each, there is a column of them.
    """
    require_fraction(level, "level")
    se = np.sqrt(pev)
    half = ndtri((1 + level) / 2) * se
    with np.errstate(invalid="ignore", divide="ignore"):
        reliability = np.maximum(1 - pev / np.where(prior > 0, prior, np.nan), 0.0)
    columns: dict[str, Any] = {
        "blup": blup, "se": se, "lower": blup - half, "upper": blup + half, "reliability": reliability,
        "accuracy": np.sqrt(reliability),
    }  # fmt: skip
    columns |= {} if records is None else {"records": records}
    return Table({name: np.ravel(values) for name, values in columns.items()}, index=index)
