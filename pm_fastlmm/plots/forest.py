"""Intervals of posterior draws, one below the other, by arviz-plots."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr

from pm_fastlmm.plots.palette import POSTERIOR, WIDTH

_LINE = 0.26  # inches


def draw_forest(values: xr.DataArray, level: float, labels: Sequence[str], title: str) -> Any:
    """Return the PlotCollection of `az.plot_forest`: mean, quartiles and equal-tailed interval of each element."""
    import arviz_plots as azp

    tree = xr.DataTree.from_dict({"posterior": values.to_dataset(name=values.name)})
    height = 1.0 + _LINE * values.isel(chain=0, draw=0).size
    own = {part: {"color": POSTERIOR} for part in ("trunk", "twig", "point_estimate")}
    shown = azp.plot_forest(
        tree, combined=True, ci_kind="eti", ci_probs=(0.5, level), point_estimate="mean", backend="matplotlib",
        labels=list(labels), visuals={**own, "labels": {"color": plt.rcParams["text.color"]}},
        figure_kwargs={
            "figsize": (WIDTH, height), "figsize_units": "inches", "width_ratios": [1, 3], "layout": "constrained",
        },
    )  # fmt: skip
    figure = shown.viz["figure"].item()
    for ax in figure.axes:  # the lowest stands apart from the axis
        low, high = sorted(ax.get_ylim())
        ax.set_ylim(low - 0.4, high)
    figure.suptitle(title, fontsize=10)
    return shown


def draws_of(idata: xr.DataTree, name: str | None, hint: str) -> xr.DataArray:
    """Return a variable of the posterior; a ValueError with the hint where there is none of that name."""
    if name is None or name not in idata.posterior:
        names = ", ".join(map(str, idata.posterior.data_vars))
        said = "there is no one variable to draw" if name is None else f"the posterior has no variable {name!r}"
        raise ValueError(f"{said}: name one of {names}; {hint}")
    found: xr.DataArray = idata.posterior[name]
    return found


def only_name(idata: xr.DataTree, endings: tuple[str, ...]) -> str | None:
    """Return the one variable of the posterior whose name has such an ending; None where there are more or none."""
    names = [str(name) for name in idata.posterior.data_vars if str(name).endswith(endings)]
    return names[0] if len(names) == 1 else None
