"""A scan of many candidates: where they lie, and whether their p-values are those of no effect."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.kernel.reml.inflation import genomic_inflation
from pm_fastlmm.plots.order import uniform_order
from pm_fastlmm.plots.palette import DATA, ESTIMATE, EXPECTED, SECOND, axes

_GAP = 0.01  # of the length of all chromosomes, between two


def plot_manhattan(
    scan: xr.Dataset,
    *,
    chromosome: Sequence[Any] | None = None,
    position: Sequence[Any] | None = None,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw -log₁₀ p of each candidate of a scan along the chromosomes, with the threshold.

    Parameters
    ----------
    scan : xarray.Dataset
        What `scan` returned.
    chromosome : sequence, optional
        Of each candidate; by default what the scan knows, its chromosomes or groups, or one.
    position : sequence of numbers, optional
        Of each candidate in its chromosome; by default what the scan knows, or its rank.
    threshold : float, optional
        A p-value; by default Bonferroni's 0.05 over the number of tested candidates. What is at or below it has the
        colour of estimates.
    ax : matplotlib Axes, optional
        Candidates that were not tested are not drawn, and counted in the label of the axis. One with p = 0 of which
        the scan has no logarithm is an arrow at the top.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If no candidate was tested, lengths do not fit, or the threshold is no probability.
    """
    p, count = _tested(scan.p_value.to_numpy()), scan.sizes["candidate"]
    threshold = 0.05 / p.size if threshold is None else threshold
    require_fraction(threshold, "threshold", "as 5e-8")
    known = next((name for name in ("chromosome", "group") if name in scan.coords), None)
    given: Any = chromosome
    at: Any = position
    if chromosome is None and known is not None:
        given = scan.coords[known].to_numpy()
        at = scan.coords["position"].to_numpy() if position is None and "position" in scan.coords else position
    table = pd.DataFrame({"p": scan.p_value.to_numpy(), "chromosome": _column(given, count, "chromosome", 1)})
    table["log10"] = _log10(scan)
    table["position"] = table.groupby("chromosome", sort=False).cumcount().astype(float)
    if at is not None:
        table["position"] = np.asarray(_column(at, count, "position", 0), dtype=float)
    table = table.dropna(subset=["p"])
    place, ticks = _along(table)
    height = _heights(table["log10"].to_numpy())
    odd = pd.factorize(table["chromosome"])[0] % 2 == 1
    found = table["p"].to_numpy() <= threshold
    ax = axes(ax)
    for chosen, color, size in ((~odd & ~found, DATA, 5), (odd & ~found, SECOND, 5), (found, ESTIMATE, 18)):
        ax.scatter(place[chosen], height[chosen], s=size, color=color, linewidths=0, rasterized=chosen.sum() > 20_000)
    zero = np.isinf(table["log10"].to_numpy())
    ax.scatter(place[zero], height[zero], s=40, marker="^", color=ESTIMATE)
    ax.axhline(-np.log10(threshold), color=EXPECTED, lw=1.2, ls="--", label=f"p = {threshold:.2g}")
    untested = f"; {count - p.size} candidates were not tested" if count > p.size else ""
    several = len(ticks) > 1
    ax.set(xlabel=("chromosome" if several else "position") + untested, ylabel="−log₁₀ p", title="Scan")
    if several:
        shown = {at: name for name, at in list(ticks.items())[:: 1 + len(ticks) // 12]}
        ax.set_xticks(list(shown), [str(name) for name in shown.values()])
    ax.set_ylim(top=1.18 * max(ax.get_ylim()[1], -np.log10(threshold)))  # room for the legend
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    return ax


def plot_scan_qq(scan: Any, *, level: float = 0.95, ax: Axes | None = None) -> Axes:
    """
    Draw -log₁₀ p of all candidates against what it would be if none had an effect, with a band, and λ_GC.

    Parameters
    ----------
    scan : xarray.Dataset or array
        What `scan` returned, or p-values; those of candidates that were not tested are NaN and left out.
    level : float
        Probability with which each point is in the band, if p-values are independent and uniform.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If no candidate was tested.
    """
    log10 = np.sort(_tested(_log10(scan)))
    p = 10**log10
    middle, low, high = (-np.log10(q) for q in uniform_order(p.size, level))
    ax = axes(ax)
    ax.fill_between(middle, low, high, color=EXPECTED, alpha=0.25, lw=0, label=f"{level:.0%} of each")
    ax.plot(middle, middle, color=EXPECTED, lw=1.2)
    label = f"{p.size} candidates, $\\lambda_{{GC}}$ = {genomic_inflation(p):.3f}"
    ax.scatter(middle, _heights(log10), s=10, color=DATA, linewidths=0, label=label, rasterized=p.size > 20_000)
    ax.set(xlabel="expected −log₁₀ p", ylabel="observed −log₁₀ p", title="p-values of the scan")
    ax.legend(frameon=False, loc="upper left", fontsize=9)
    return ax


def _tested(p: FloatArray) -> FloatArray:
    tested = p[~np.isnan(p)]
    if not tested.size:
        raise ValueError("no candidate of the scan was tested: its `reason` says why.")
    return tested


def _column(values: Any, count: int, name: str, default: Any) -> Any:
    if values is None:
        return np.full(count, default)
    values = list(values)
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries but the scan has {count} candidates: one for each.")
    return values


def _log10(scan: Any) -> FloatArray:
    """Return log₁₀ p of a scan, or of p-values."""
    if isinstance(scan, xr.Dataset) and "log10_p" in scan:
        return np.asarray(scan.log10_p, dtype=float)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log10(np.asarray(getattr(scan, "p_value", scan), dtype=float).ravel()))


def _heights(log10: FloatArray) -> FloatArray:
    """Return -log₁₀ p, and where p is 0 the largest of the others."""
    return np.asarray(np.minimum(-log10, -log10[np.isfinite(log10)].min(initial=-1.0)))


def _along(table: pd.DataFrame) -> tuple[FloatArray, dict[Any, float]]:
    """Return where each candidate lies, the chromosomes one after the other, and the middle of each."""
    spans = table.groupby("chromosome", sort=False)["position"].agg(["min", "max"])
    length = spans["max"] - spans["min"]
    start = (length.cumsum() - length + np.arange(len(spans)) * (_GAP * length.sum() + 1)) - spans["min"]
    middle = start + (spans["min"] + spans["max"]) / 2
    place = table["position"] + table["chromosome"].map(start)
    return place.to_numpy(dtype=float), middle.to_dict()
