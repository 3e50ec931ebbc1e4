"""Figures of h²: its posterior, its intervals, and what priors say of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from scipy.special import gammaincinv

from pm_fastlmm.kernel.exact.deviation_prior import DeviationPrior, Prior
from pm_fastlmm.kernel.exact.result import ExactPosterior
from pm_fastlmm.kernel.inference.fit import IntervalKind
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.plots.forest import draws_of, only_name
from pm_fastlmm.plots.palette import ESTIMATE, EXPECTED, POSTERIOR, SERIES, STYLES, axes


def plot_h2_posterior(
    idata: xr.DataTree,
    fit: REMLFit | None = None,
    *,
    exact: ExactPosterior | None = None,
    var_name: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the posterior of h² as a histogram of its draws, with the REML estimate marked.

    Parameters
    ----------
    idata : xarray.DataTree
        With draws of h² in its posterior.
    fit : REMLFit, optional
        Its estimate is a line, ± one standard error a band.
    exact : ExactPosterior, optional
        Its density is drawn over the histogram.
    var_name : str, optional
        Name of h² in the posterior: that which ends in "_h2" by default, as `sample` adds it.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        If it is an exact posterior, without draws.
    ValueError
        If the posterior has no such variable, or several.
    """
    if isinstance(idata, ExactPosterior):
        raise TypeError("an exact posterior has no draws: plot_profile(fit, exact=exact) draws its density.")
    draws = draws_of(idata, var_name or only_name(idata, ("_h2",)), "flmm.sample adds h².").to_numpy().ravel()
    ax = axes(ax)
    ax.hist(draws, bins=40, density=True, color=POSTERIOR, alpha=0.4, lw=0, label=f"{draws.size} draws")
    if exact is not None:
        grid = np.linspace(max(1e-4, draws.min() - 0.02), min(1 - 1e-4, draws.max() + 0.02), 400)
        ax.plot(grid, exact.h2_density(grid), color=POSTERIOR, lw=1.8, label="exact posterior")
    if fit is not None:
        ax.axvline(fit.h2, color=ESTIMATE, lw=1.8, label=f"{fit.method} {fit.h2:.3f}")
        if np.isfinite(se := fit.standard_errors()["h2"]):
            ax.axvspan(fit.h2 - se, fit.h2 + se, color=ESTIMATE, alpha=0.2, lw=0, zorder=0, label="± 1 se")
    ax.set(xlabel="h²", ylabel="posterior density", title="Posterior of h²")
    ax.legend(frameon=False)
    return ax


def plot_h2_intervals(
    fit: REMLFit, level: float = 0.95, *, n_sim: int = 4000, random_seed: Any = None, ax: Axes | None = None
) -> Axes:
    """
    Draw how far the likelihood of h² falls below its maximum, the critical values, and the intervals of every method.

    The interval of a method is where the curve is below its line: the quantile of χ²₁ for the profile likelihood, the
    quantile under each h² itself for the inverted test. Those of the bootstrap and the delta method are bars only.

    Parameters
    ----------
    fit : REMLFit
        A fit of one response.
    level : float
    n_sim, random_seed : optional
        Of the inversion and the bootstrap.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    seed = int(np.random.default_rng(random_seed).integers(2**31))
    grid = np.linspace(0.0005, 0.9995, 800)
    cut = float(2 * gammaincinv(0.5, level))
    ax.plot(grid, 2 * (fit.loglik - fit.profile(grid)), color=ESTIMATE, lw=2, label="2 [max ℓ − ℓ(h²)]")
    ax.axhline(cut, color=EXPECTED, lw=1.5, ls="--", label="quantile of χ²₁")
    critical = fit.critical_values(grid, level, n_sim=n_sim, random_seed=seed)
    ax.plot(grid, critical, color=EXPECTED, lw=1.5, label="exact quantile")
    methods: tuple[IntervalKind, ...] = ("delta", "bootstrap", "profile", "inversion")
    for place, method in enumerate(methods):
        table = fit.intervals(method, level, quantities=["h2"], n_sim=n_sim, random_seed=seed)
        height = -0.22 * cut * (len(methods) - place)
        ends = table.loc["h2", ["lower", "upper"]].to_numpy(dtype=float)
        ax.plot(ends, [height, height], color=ESTIMATE, lw=5, solid_capstyle="butt", alpha=0.7)
        ax.annotate(method, (1.02, height), xycoords=("axes fraction", "data"), va="center", size=9)
    ax.axvline(fit.h2, color=ESTIMATE, lw=1, ls=":")
    ax.set(xlabel="h²", ylim=(-1.0 * cut, 2 * cut), title=f"{level:.0%} intervals of h², estimate {fit.h2:.3f}")
    ax.set_yticks(np.arange(0, 2 * cut, 2))
    ax.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
    return ax


def plot_implied_h2(priors: Mapping[str, Prior], *, ax: Axes | None = None) -> Axes:
    """
    Draw the density of h² that each of several priors implies.

    Parameters
    ----------
    priors : mapping of name to VariancePrior or DeviationPrior
        Of one response; `priors.ready` for example.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a prior is that of several responses, whose scales are arrays.
    """
    for name, prior in priors.items():
        if isinstance(prior, DeviationPrior) and np.ndim(prior.scale_kernel) + np.ndim(prior.scale_residual):
            raise ValueError(f"the prior {name!r} has scales of several responses: draw that of one of them.")
    ax = axes(ax)
    h = np.linspace(0.002, 0.998, 400)
    logit = np.log(h) - np.log1p(-h)
    for place, (name, prior) in enumerate(priors.items()):
        look: dict[str, Any] = {"color": SERIES[place % len(SERIES)], "ls": STYLES[place % len(STYLES)]}
        ax.plot(h, np.exp(prior.log_h2(logit)) / (h * (1 - h)), lw=1.8, label=name, **look)
    ax.set(xlabel="h²", ylabel="prior density", title="What priors say of h²", xlim=(0, 1), ylim=(0, 5))
    ax.legend(frameon=False)
    return ax
