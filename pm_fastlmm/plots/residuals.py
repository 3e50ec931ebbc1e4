"""Residuals of a fit: against fitted values, their quantiles, their spread, their leverage, and what others predict."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import gamma, ndtri

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.kernel.inference.fit import Fit
from pm_fastlmm.plots import palette
from pm_fastlmm.plots.order import uniform_order
from pm_fastlmm.plots.palette import DATA, ESTIMATE, EXPECTED, SECOND, axes

_PARTS = 10  # of the observations, whose means are joined
_NAMED = 3  # observations that are named
_ROOT = 2**0.25 * gamma(0.75) / np.sqrt(np.pi)  # E√|z| of a standard normal variable
_POINTS: dict[str, Any] = {"s": 14, "color": DATA, "linewidths": 0}


def plot_residuals(fit: Fit | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """
    Draw residuals against fitted values, with the means of tenths of the observations.

    A line of means that bends away from 0 says that X misses something. With few observations for each level of a
    term it has a slope of its own: û is drawn towards 0. With prior weights residuals are times √w, of equal variance.

    Parameters
    ----------
    fit : REMLFit or VarianceFit of one response, or what its `diagnostics` returned
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    table, ax = _table(fit), axes(ax)
    ax.axhline(0, color=EXPECTED, lw=1.2, ls="--")
    label = "residual"
    if "weight" in table:
        label = "residual × √weight"
        table = table.assign(residual=table["residual"] * np.sqrt(table["weight"]))
    ax.scatter(table["fitted"], table["residual"], **_POINTS)
    _means(ax, table["fitted"], table["residual"])
    ax.set(xlabel="fitted", ylabel=label, title="Residuals")
    _name(ax, table, "fitted", "residual")
    return ax


def plot_residual_qq(fit: Fit | pd.DataFrame, *, level: float = 0.95, ax: Axes | None = None) -> Axes:
    """
    Draw the quantiles of standardised residuals against those of a normal distribution, with an envelope.

    The envelope has each of the n ordered residuals with that probability if they are independent; those of a mixed
    model are nearly so. Each is standardised by its own standard deviation, see `diagnostics`.

    Parameters
    ----------
    fit : REMLFit or VarianceFit of one response, or what its `diagnostics` returned
    level : float
        Of the envelope, for each point.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    table, ax = _table(fit).sort_values("standardised"), axes(ax)
    middle, low, high = (ndtri(p) for p in uniform_order(len(table), level))
    ax.fill_between(middle, low, high, color=EXPECTED, alpha=0.25, lw=0, label=f"{level:.0%} of each")
    ax.plot(middle, middle, color=EXPECTED, lw=1.2)
    ax.scatter(middle, table["standardised"], **_POINTS)
    ax.set(xlabel="normal quantile", ylabel="standardised residual", title="Quantiles")
    ax.legend(frameon=False, loc="upper left", fontsize=9)
    ax.margins(x=0.2)
    _name(ax, table.assign(quantile=middle), "quantile", "standardised", outwards=True)
    return ax


def plot_scale_location(fit: Fit | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """
    Draw √|standardised residual| against fitted values: a rising line of means says that the spread grows.

    The dashed line is at 0.822, the mean of √|z| of a normal variable.

    Parameters
    ----------
    fit : REMLFit or VarianceFit of one response, or what its `diagnostics` returned
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    table, ax = _table(fit), axes(ax)
    root = np.sqrt(table["standardised"].abs())
    ax.axhline(_ROOT, color=EXPECTED, lw=1.2, ls="--")
    ax.scatter(table["fitted"], root, **_POINTS)
    _means(ax, table["fitted"], root)
    ax.set(xlabel="fitted", ylabel="√|standardised residual|", title="Scale and location")
    return ax


def plot_leverage(fit: Fit | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """
    Draw standardised residuals against leverages h_ii = ∂ŷ_i/∂y_i; the dashed line is twice their mean.

    Observations far to the right and far from 0 are those that the estimate depends on.

    Parameters
    ----------
    fit : REMLFit or VarianceFit of one response, or what its `diagnostics` returned
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    table, ax = _table(fit), axes(ax)
    ax.axhline(0, color=EXPECTED, lw=1.2, ls="--")
    ax.axvline(2 * table["leverage"].mean(), color=EXPECTED, lw=1.2, ls="--")
    ax.scatter(table["leverage"], table["standardised"], **_POINTS)
    ax.set(xlabel="leverage", ylabel="standardised residual", title="Leverage")
    _name(ax, table, "leverage", "standardised")
    return ax


def plot_diagnostics(fit: Fit | pd.DataFrame) -> Any:
    """
    Draw `plot_residuals`, `plot_residual_qq`, `plot_scale_location` and `plot_leverage` together.

    Parameters
    ----------
    fit : REMLFit or VarianceFit of one response, or what its `diagnostics` returned

    Returns
    -------
    (2, 2) array of matplotlib Axes
    """
    table, grid = _table(fit), palette.panels(2, 2, height=5.0)
    draw = (plot_residuals, plot_residual_qq, plot_scale_location, plot_leverage)
    for figure, ax in zip(draw, grid.ravel(), strict=True):
        figure(table, ax=ax)
        ax.title.set_fontsize(10)
    return grid


def plot_loo(fit: Fit | pd.DataFrame, *, level: float = 0.95, ax: Axes | None = None) -> Axes:
    """
    Draw each observation against what all others predict for it, with the interval of the prediction.

    Parameters
    ----------
    fit : REMLFit or VarianceFit of one response, or what its `diagnostics` returned
    level : float
        Of the intervals; observations outside them have the second colour.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    table, ax = _table(fit), axes(ax)
    half = ndtri((1 + level) / 2) * table["loo_sd"]
    outside = (table["y"] - table["loo_mean"]).abs() > half
    mean = table["loo_mean"]
    ax.vlines(mean, mean - half, mean + half, color=EXPECTED, alpha=0.2, lw=1.2, label=f"{level:.0%} intervals")
    ax.plot([mean.min(), mean.max()], [mean.min(), mean.max()], color=EXPECTED, lw=1.2)
    ax.scatter(mean[~outside], table["y"][~outside], label="inside", **_POINTS)
    label = f"outside ({outside.mean():.1%})"
    ax.scatter(mean[outside], table["y"][outside], s=26, marker="D", color=SECOND, linewidths=0, label=label)
    ax.set(xlabel="predicted by the others", ylabel="observed", title="Leave-one-out")
    ax.legend(frameon=False, fontsize=9)
    return ax


def _table(fit: Fit | pd.DataFrame) -> pd.DataFrame:
    """Return the observations that the others predict."""
    table = fit if isinstance(fit, pd.DataFrame) else fit.diagnostics()
    return table.dropna(subset=["standardised"])


def _means(ax: Any, x: pd.Series, y: pd.Series) -> None:
    """Join the means of tenths of the observations, in the order of x."""
    ax.plot(*zip(*_of_parts(x.to_numpy(), y.to_numpy()), strict=True), "o-", color=ESTIMATE, lw=1.5, ms=4)


def _of_parts(x: FloatArray, y: FloatArray) -> Iterator[tuple[float, float]]:
    order = np.argsort(x, kind="stable")
    for part in np.array_split(order, min(_PARTS, len(order))):
        yield float(x[part].mean()), float(y[part].mean())


def _name(ax: Any, table: pd.DataFrame, x: str, y: str, *, outwards: bool = False) -> None:
    """Name the observations with the largest standardised residuals, towards the middle of the figure or outwards."""
    for place in table["standardised"].abs().nlargest(_NAMED).index:
        at = (table.loc[place, x], table.loc[place, y])
        left = (at[0] > table[x].mean()) != outwards
        offset, align = (-5 if left else 5, 0), "right" if left else "left"
        ax.annotate(str(place), at, offset, textcoords="offset points", size=8, ha=align, va="center")
