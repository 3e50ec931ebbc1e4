"""Draws docs/figures/many_responses_scaling.png from benchmark-results.json, to which `make benchmark` appends."""

import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
LINES = {None: ("reml", "#08519c"), "posterior": ("exact posterior", "#d94801"), "rotate": ("rotate", "#6b7785")}
SIZES = {"n": ("n", "observations, 4000 responses"), "T": ("T", "responses, 1000 observations"),
         "m": ("rank", "rank of K, 2000 observations, 4000 responses")}  # fmt: skip


def measured():
    """Return {size: {part: [(value of the size, ms or MB)]}} of the latest run that has it."""
    found = {}
    for run in json.loads((ROOT / "benchmark-results.json").read_text()):
        latest = {}
        for figure in run["figures"]:
            match = re.match(r"scaling in (\w): (.*)", figure["figure"])
            part = figure.get("part")
            if match and part in (*LINES, "memory of reml"):
                size, description = match.groups()
                value = int(re.search(rf"{SIZES[size][0]} =? ?(\d+)", description).group(1))
                latest.setdefault(size, {}).setdefault(part, []).append((value, figure["value"]))
        found |= latest
    return found


def main():
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
    for ax, (size, parts) in zip(axes, measured().items(), strict=True):
        for part, (label, colour) in LINES.items():
            x, y = zip(*parts[part], strict=True)
            ax.loglog(x, y, "o-", color=colour, label=label)
        x, memory = zip(*parts["memory of reml"], strict=True)
        for at, value, y in zip(x, memory, (y for _, y in parts[None]), strict=True):
            ax.annotate(f"{value:.0f} MB", (at, y), (0, -14), textcoords="offset points", ha="center", fontsize=8)
        ax.set_xticks(x, [str(v) for v in x])
        ax.minorticks_off()
        ax.set_xlabel(SIZES[size][1])
        ax.margins(x=0.15, y=0.15)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("CPU time, ms (memory of reml beside it)")
    axes[0].legend(frameon=False)
    fig.savefig(ROOT / "docs" / "figures" / "many_responses_scaling.png", dpi=150)


if __name__ == "__main__":
    main()
