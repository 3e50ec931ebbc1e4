"""The shares that components have of the variance, with intervals."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pm_fastlmm.base.arrays import require_fraction
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.plots.forest import draw_forest, draws_of, only_name
from pm_fastlmm.plots.palette import ESTIMATE, axes


def plot_shares(
    source: VarianceFit | REMLFit | xr.DataTree,
    var_name: str | None = None,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Any:
    """
    Draw the share that each component has of the variance of an observation, with its interval.

    Parameters
    ----------
    source : VarianceFit, REMLFit of one response, or DataTree
        A fit, of which `share_intervals` is drawn, or posterior draws of shares.
    var_name : str, optional
        Of a posterior, the variable: that which ends in "_share" or "_h2" by default.
    level : float
        Of the intervals; of a posterior they are equal-tailed.
    ax : matplotlib Axes, optional
        Of a fit.

    Returns
    -------
    matplotlib Axes, or the PlotCollection of `az.plot_forest`

    Raises
    ------
    ValueError
        If there are no shares, or the posterior no such variable.
    """
    require_fraction(level, "level")
    if isinstance(source, xr.DataTree):
        name = var_name or only_name(source, ("_share", "_h2"))
        shares = draws_of(source, name, "flmm.sample adds the shares.")
        dims = [str(dim) for dim in shares.dims if dim not in ("chain", "draw")]
        return draw_forest(shares, level, dims or ["__variable__"], f"Shares of the variance, {level:.0%} intervals")
    table = source.share_intervals(level).iloc[::-1]
    ax, place = axes(ax, 1.2 + 0.35 * len(table)), np.arange(len(table))
    ax.hlines(place, table["lower"], table["upper"], color=ESTIMATE, lw=2.5)
    ax.scatter(table["estimate"], place, s=36, color=ESTIMATE, linewidths=0, zorder=3)
    for at, (estimate, lower) in enumerate(zip(table["estimate"], table["lower"], strict=True)):
        if np.isnan(lower):
            ax.annotate("on the boundary", (estimate, at), (8, 0), textcoords="offset points", va="center", size=9)
    ax.set_yticks(place, list(table.index))
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(table) - 0.4), xlabel="share of the variance")
    ax.set_title(f"Shares of the variance, {level:.0%} intervals", fontsize=10)
    return ax
