"""Random effects with their intervals, from the smallest to the largest."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from scipy.special import ndtri

from pm_fastlmm.base.arrays import require_fraction
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.plots.forest import draw_forest, draws_of
from pm_fastlmm.plots.palette import ESTIMATE, EXPECTED, axes, panels

_NAMED = 40  # levels up to which each has its name
_LINE = 0.16  # inches for each named level


def plot_effects(
    source: VarianceFit | REMLFit | xr.DataTree,
    term: str | None = None,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Any:
    """
    Draw the random effects of a term in their order, with intervals: a caterpillar plot.

    Of a fit, û ± z√Var(û - u), the prediction error variance, which has the uncertainty of β̂ in it (`pev`): intervals
    of the effects themselves. Of a posterior, mean and equal-tailed intervals of the draws.

    Parameters
    ----------
    source : VarianceFit, REMLFit of one response, or DataTree
        With draws of the effects in its posterior, after `recover_effects`.
    term : str, optional
        A term of the fit, which may be left out where there is one; of a posterior the name of its variable.
    level : float
        Of the intervals. Those of a fit that do not contain 0 have the full colour.
    ax : matplotlib Axes, optional
        Of a fit, for a term of one column.

    Returns
    -------
    matplotlib Axes, an array of them for a term with several columns, or the PlotCollection of `az.plot_forest`

    Raises
    ------
    ValueError
        If there is no such term, or several and none is named.
    """
    require_fraction(level, "level")
    if isinstance(source, xr.DataTree):
        return _of_posterior(source, term, level)
    estimates, errors, name = _of_fit(source, term)
    order = np.argsort(estimates.iloc[:, 0].to_numpy(), kind="stable")
    width = errors.iloc[order] ** 0.5 * float(ndtri((1 + level) / 2))
    estimates = estimates.iloc[order]
    height = max(2.4, 1.0 + _LINE * min(len(order), _NAMED))
    row: Any = [axes(ax, height)] if estimates.shape[1] == 1 else panels(1, estimates.shape[1], height)[0]
    for at, column in zip(row, estimates, strict=True):
        _draw(at, estimates[column], width[column])
        at.set(xlabel="effect" if estimates.shape[1] == 1 else column)
        at.tick_params(axis="y", labelleft=at is row[0], labelsize=8)
    row[0].set_title(f"Effects of {name}, {level:.0%} intervals", loc="left", fontsize=10)
    return row[0] if estimates.shape[1] == 1 else row


def _draw(ax: Any, estimate: pd.Series, half: pd.Series) -> None:
    """Draw effects from below, with their intervals."""
    place = np.arange(len(estimate))
    ax.axvline(0, color=EXPECTED, lw=1.2, ls="--")
    beside = (estimate.abs() > half).to_numpy()
    for chosen, alpha in ((~beside, 0.6), (beside, 1.0)):
        own, width = estimate[chosen], half[chosen]
        ax.hlines(place[chosen], own - width, own + width, color=ESTIMATE, alpha=alpha, lw=1.5)
        ax.scatter(own, place[chosen], s=14, color=ESTIMATE, alpha=alpha, linewidths=0, zorder=3)
    if len(estimate) <= _NAMED:
        ax.set_yticks(place, [str(level) for level in estimate.index])
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(estimate)} levels, in order")


def _of_fit(fit: VarianceFit | REMLFit, term: str | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return û and its error variances with a column for each kind of effect, and the name of the term."""
    if isinstance(fit, REMLFit):
        if fit.names is not None:
            raise ValueError("the effects are those of one response: take fit.response(name).")
        return _frame(fit.blup()), _frame(fit.pev()), "u" if term is None else term
    if term is None:
        terms = list(fit.blup())
        if len(terms) > 1:
            raise ValueError(f"the model has several terms: name one of {', '.join(terms)}.")
        term = terms[0]
    return _frame(fit.blup(term)), _frame(fit.pev(term)), term


def _frame(values: Any) -> pd.DataFrame:
    return values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.asarray(values), _index(values))


def _index(values: Any) -> Any:
    return values.index if isinstance(values, pd.Series) else None


def _of_posterior(idata: xr.DataTree, name: str | None, level: float) -> Any:
    effects = draws_of(idata, name, "flmm.recover_effects draws effects.")
    dims = [str(dim) for dim in effects.dims if dim not in ("chain", "draw")]
    mean = effects.mean(("chain", "draw"))
    first = mean.isel(dict.fromkeys(dims[1:], 0))
    ordered = effects.isel({dims[0]: np.argsort(first.to_numpy(), kind="stable")[::-1]})
    return draw_forest(ordered, level, dims, f"Effects {name}, {level:.0%} intervals")
