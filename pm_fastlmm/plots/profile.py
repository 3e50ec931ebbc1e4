"""The profile likelihood of a parameter, with its interval, and the posterior beside it."""

import numpy as np
from matplotlib.axes import Axes
from scipy.special import gammaincinv

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.kernel.exact.result import ExactPosterior
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.plots.palette import ESTIMATE, EXPECTED, POSTERIOR, axes

_LOWEST = 8.0  # of a log-likelihood ratio that is drawn
_MARGIN = 0.6  # of the way from the estimate to a limit, drawn beyond it


def plot_profile(
    fit: REMLFit | VarianceFit,
    name: str = "h2",
    *,
    exact: ExactPosterior | None = None,
    level: float = 0.95,
    points: int = 61,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the profile likelihood of a parameter relative to its maximum, its interval, and the posterior beside it.

    The interval has the values whose likelihood is above exp(-q/2), q the quantile of χ²₁, the dashed line.

    Parameters
    ----------
    fit : REMLFit of one response, or VarianceFit
    name : str
        A parameter: h2 of a `REMLFit`; of a `VarianceFit` what `fit.intervals()` has, a name of `fit.theta`, a standard
        deviation "sd_…", a correlation "corr_…" or a coefficient "beta[…]".
    exact : ExactPosterior, optional
        Its density and equal-tailed interval of that name are drawn too; of h2.
    level : float
        Of the intervals.
    points : int
        Values at which the likelihood is maximised over the other parameters.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If the fit has no profile of that parameter, or the posterior no density of it.
    """
    if exact is not None and name != "h2":
        raise ValueError(f"the density of an exact posterior is that of h2, got {name!r}: leave out exact=.")
    estimate, low, high = map(float, fit.intervals("profile", level, quantities=[name]).to_numpy()[0])
    grid = _grid(fit, name, (estimate, low, high), points)
    relative = fit.profile(grid, name) - fit.loglik
    cut = float(np.exp(-gammaincinv(0.5, level)))
    ax = axes(ax)
    shown = relative > -_LOWEST
    look = {"lw": 2} if exact is None else {"lw": 6, "alpha": 0.5}  # to be seen behind a posterior that equals it
    ax.plot(grid[shown], np.exp(relative[shown]), color=ESTIMATE, label=f"{fit.method} profile likelihood", **look)
    ax.axhline(cut, color=EXPECTED, lw=1.2, ls="--", label=f"threshold of {level:.0%}")
    ax.plot([low, high], [-0.05, -0.05], color=ESTIMATE, lw=5, solid_capstyle="butt", label=f"{level:.0%} interval")
    if exact is not None:
        density = exact.h2_density(grid[shown])
        ax.plot(grid[shown], density / density.max(), color=POSTERIOR, lw=2, label="posterior density")
        ends = exact.interval("h2", level)
        label = f"{level:.0%} posterior interval"
        ax.plot(ends, [-0.12, -0.12], color=POSTERIOR, lw=5, solid_capstyle="butt", label=label)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set(xlabel="h²" if name == "h2" else name, ylabel="relative to the maximum")
    ax.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    return ax


def _grid(fit: REMLFit | VarianceFit, name: str, of: tuple[float, float, float], points: int) -> FloatArray:
    """Return values from below the interval to above it, inside the bounds of the parameter, and the estimate."""
    if isinstance(fit, REMLFit):
        return np.unique([*np.linspace(0.0005, 0.9995, 800), fit.h2])
    (estimate, low, high), (least, most) = of, fit._ends(name)
    first = max(low - _MARGIN * (estimate - low), least)
    last = high + _MARGIN * (high - estimate)
    if not np.isfinite(last):  # the likelihood does not fall so far: what is drawn ends somewhere
        last = estimate + 4 * max(estimate - first, abs(estimate))
    return np.unique([*np.linspace(first, min(last, most), points), estimate])
