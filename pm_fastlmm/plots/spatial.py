"""Spatial fits: the variogram of residuals, and how correlation falls with distance."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.covariance.lengthscale_kernels import between
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.plots.palette import DATA, ESTIMATE, EXPECTED, POSTERIOR, axes

_RANGE = 0.05  # the correlation at what is called the range
_LAST = 0.01  # the correlation up to which the curve is drawn


def plot_variogram(
    fit: VarianceFit, x: Any, *, bins: int = 15, max_distance: float | None = None, ax: Axes | None = None
) -> Axes:
    """
    Draw the empirical variogram of y - Xβ̂, a point for each bin of distance, and what the fit expects of it.

    Parameters
    ----------
    fit : VarianceFit
        Of a LengthscaleLMM, a FourierLMM with rows, or a DenseLMM.
    x, bins, max_distance
        As in `VarianceFit.variogram`, which is drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    table, ax = fit.variogram(x, bins=bins, max_distance=max_distance), axes(ax)
    size = 10 + 50 * table["pairs"] / table["pairs"].max()
    ax.plot(table["distance"], table["expected"], color=EXPECTED, lw=2, label="expected by the fit")
    ax.scatter(table["distance"], table["semivariance"], s=size, color=DATA, linewidths=0, zorder=3, label="residuals")
    ax.set(xlabel="distance", ylabel="½ (difference of residuals)²", ylim=(0, None), title="Variogram")
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return ax


def plot_correlation(
    kernel: Any, lengthscale: Any, *, interval: tuple[float, float] | None = None, level: float = 0.95,
    distance: float | None = None, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """
    Draw the correlation of a spatial kernel against distance, at an estimate of its lengthscale or over draws of it.

    Parameters
    ----------
    kernel : {"se", "matern52", "matern32", "matern12"} or a class of `pm.gp.cov`
        That was fitted.
    lengthscale : float, or array or DataArray of draws
        An estimate, `fit.theta["lengthscale"]`; or posterior draws, of whose correlations at each distance the median
        and the equal-tailed interval are drawn.
    interval : (float, float), optional
        Of an estimate, `fit.interval("lengthscale")`: the curves of its ends are a band.
    level : float
        Of the interval of draws.
    distance : float, optional
        Up to which it is drawn; by default to a correlation of 0.01. A dashed line marks 0.05, the range.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If the kernel is not known, or a lengthscale is not positive.
    """
    require_fraction(level, "level")
    given = np.asarray(lengthscale, dtype=float).ravel()
    ends = given if interval is None else np.array([*given, *interval])
    if not (ends > 0).all():
        raise ValueError("lengthscales must be positive and finite, as they are in K(distance / lengthscale).")
    ax = axes(ax)
    r = np.linspace(0, _reach(kernel, float(np.median(ends)), float(np.quantile(ends, 0.975))), 200)
    r = r if distance is None else np.linspace(0, distance, 200)
    curves = np.stack([_correlation(kernel, r, float(ell)) for ell in given])
    color, label = (POSTERIOR, f"posterior, {given.size} draws") if given.size > 1 else (ESTIMATE, "estimate")
    if given.size > 1:
        low, middle, high = np.quantile(curves, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
    else:
        (middle,) = curves
        low, high = (_correlation(kernel, r, end) for end in interval or (given[0], given[0]))
    ax.fill_between(r, low, high, color=color, alpha=0.25, lw=0)
    ax.plot(r, middle, color=color, lw=2, label=label)
    ax.axhline(_RANGE, color=EXPECTED, lw=1.2, ls="--", label=f"correlation {_RANGE}")
    ax.set(xlabel="distance", ylabel="correlation", xlim=(0, r[-1]), title="Correlation with distance")
    ax.legend(frameon=False, fontsize=9)
    return ax


def _correlation(kernel: Any, r: FloatArray, lengthscale: float) -> FloatArray:
    row: FloatArray = np.asarray(between(kernel, np.zeros((1, 1)), r[:, None])(lengthscale), dtype=float)[0]
    return row


def _reach(kernel: Any, lengthscale: float, longest: float) -> float:
    """Return where the correlation is nearly 0, of the longest lengthscale if that is not far from the typical one."""
    steps = np.geomspace(0.1, 100, 120)
    correlation = _correlation(kernel, steps, 1.0)
    below = steps[correlation < _LAST]
    return float((below[0] if below.size else steps[-1]) * min(longest, 4 * lengthscale))
