"""Writes docs/peers.md and docs/figures/peers.png from docs/peers.json, which `make peers` measures."""

import json
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[3] / "docs"
SCALE = {"ms": 1e3, "µs": 1e6}
HEAD = """# Beside other packages

Everyone solves the same problems by turns in one process, on one thread each, and what they return is judged by the
same yardstick. Measured by `make peers`, which installs the packages into an environment of its own, keeps the figures
in `docs/peers.json` and writes this page from them. Figures are CPU time, medians with quartiles of the rounds; the
ratio is to the first row, taken round by round. *First result* is the CPU time up to it in a process that has imported
everything: set-up, compilation and all. Sampling is timed from its first draw to its last. Where the data are too many
for a dense V to be the judge, the last column has the results themselves.

![Three panels of CPU time over the number of observations on logarithmic axes, a line for each
package](figures/peers.png "CPU time of a call after set-up. A package has the same colour and marker in all panels;
the thick blue lines are ours; pm.MvNormal lies below pm.gp.Marginal.")

"""
OURS = "#0072b2"
STYLES = {  # of the others: the colours that Okabe and Ito chose for the colour-blind, and two more
    "fastlmm": ("#e69f00", "s"),
    "glimix-core": ("#009e73", "^"),
    "torch-openreml": ("#cc79a7", "D"),
    "pm.MvNormal": ("#999999", "v"),
    "pm.gp.Marginal": ("#000000", "P"),
    "tinygp": ("#d55e00", "X"),
    "celerite2": ("#56b4e9", "*"),
    "scikit-learn": ("#8a6d00", "h"),
}
SAID = {
    "one_fit": """All of them find the same maximum. `reml` factors K for any number of responses; `reml_point` is for
one. fastlmm, too, spends its time on the factorisation of K.""",
    "many": "The others fit one response after the other from Python.",
    "scan": "Both keep δ at its estimate without candidates, and find the same effects.",
    "trial_REML": """`find_reml` reads the formula and the table; `refit` fits another response to the same rows.
lme4 is timed in a process of R, by the CPU clock of that process.""",
    "trial_ML": """The dense likelihood is highest at the estimates of `find_reml`. gpboost is given arrays and reads no
formula: `refit` is what compares with it. By default it estimates log-determinants from random vectors, and maximises
that; with `matrix_inversion_method="cholesky"` it finds the maximum.""",
    "crossed_REML": "The last size is that of lme4's data set InstEval; the data are simulated.",
    "crossed_ML": """gpboost eliminates effects as `find_reml` does. By default it maximises an estimate of the
likelihood, as above.""",
    "slopes": "torch-openreml was given a start near the estimate.",
    "density": "K is factored once, against a factorisation of V at every evaluation.",
    "process": """`FourierLMM` and `LengthscaleLMM` are approximations within tolerances that their set-up is told; the
others are exact (celerite2 to its eps). The set-up is in the first result; afterwards an evaluation hardly depends on
n. For a few evaluations, celerite2 is the choice. Constants of the log-density cancel in its difference from other
parameters, which all of them return.""",
    "sampling_kernel": "The same model in all rows. `flmm.sample` starts NUTS at REML with the posterior's covariance.",
    "sampling_process": "HSGP samples the coefficients of its basis too; celerite2 and `FourierLMM` integrate f out.",
}


def main() -> None:
    groups = json.loads((DOCS / "peers.json").read_text())["groups"]
    (DOCS / "peers.md").write_text(page(groups))
    draw([comparison for group in groups.values() for comparison in group["comparisons"]])


def page(groups: dict) -> str:
    """Return docs/peers.md."""
    about = next(iter(groups.values()))
    known = about["versions"].items()
    there = ", ".join(f"{name} {version}" for name, version in known if version is not None)
    lines = [HEAD.rstrip("\n"), "", f"Python {about['python']}, {about['machine']}, {about['cpus']} CPUs; {there}.", ""]
    if missing := [name for name, version in known if version is None]:
        lines += [f"Not installed: {', '.join(missing)}.", ""]
    comparisons = [comparison for group in groups.values() for comparison in group["comparisons"]]
    for task, sizes in groupby(comparisons, key=lambda c: c["task"]):
        lines += section(task, list(sizes))
    return "\n".join(lines).rstrip("\n") + "\n"


def section(task: str, sizes: list[dict]) -> list[str]:
    lines = [f"## {sizes[0]['title']}", "", SAID[task], ""]
    for head, alike in groupby(
        sizes, key=agreement_head
    ):  # where nothing judges, the results are in a table of their own
        lines += [*table(head, list(alike)), ""]
    reasons: dict[str, list[str]] = {}  # the names by the reason
    for c in sizes:
        for name, reason in c["absent"].items():
            if name not in reasons.setdefault(reason, []):
                reasons[reason].append(name)
    lines += [f"* {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return [*lines, ""] if reasons else lines


def table(head: str, comparisons: list[dict]) -> list[str]:
    lines = [f"| | size | time | ratio | first result | {head} |", "|---|---|---|---|---|---|"]
    for c in comparisons:
        size = ", ".join(f"{name} = {value}" for name, value in c["size"].items())
        for row in c["rows"]:
            time = spread(row["seconds"], SCALE[c["unit"]], f" {c['unit']}")
            ratio = "1" if row is c["rows"][0] else spread(row["ratio"], 1, "")
            agreement = agreement_of(row, c)
            lines.append(
                f"| {row['name']} | {size} | {time} | {ratio} | {short(row['first result'])} s | {agreement} |"
            )  # fmt: skip
    return lines


def spread(values: dict, scale: float, unit: str) -> str:
    low, median, high = (short(scale * values[key]) for key in ("q1", "median", "q3"))
    return f"{median}{unit} ({low} – {high})"


def short(value: float) -> str:
    """Return three digits, or all that stand before the decimal point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def agreement_head(comparison: dict) -> str:
    result = comparison["rows"][0]["result"]
    if "loglik" in result:
        return "log-likelihood below the largest"
    if "by a dense Cholesky" in result:
        return "error of the log-density"
    return ", ".join(result) if "effective draws" not in result else "posterior means"


def agreement_of(row: dict, comparison: dict) -> str:
    """Return what the yardstick says of a result, or the result itself where there is none."""
    result = row["result"]
    if "loglik" in result:
        best = max(r["result"]["loglik"] for r in comparison["rows"])
        return rounded(best - result["loglik"], abs(best))
    if "by a dense Cholesky" in result:
        truth = result["by a dense Cholesky"]
        return rounded(abs(next(iter(result.values())) - truth), abs(truth))
    if "effective draws" in result:
        return ", ".join(f"{value:.3g}" for name, value in result.items() if name.startswith("mean of"))
    return ", ".join(f"{value:.7g}" for value in result.values())


def rounded(gap: float, size: float) -> str:
    """Return a gap, or that it is rounding."""
    return "0" if gap <= 1e-12 * size else f"{gap:.1e}"


def style(name: str, first: bool) -> dict:
    """Return how a line looks: that of a package is the same in every panel; ours are told apart within one."""
    if name.startswith("pm_fastlmm"):
        return {"color": OURS, "marker": "o", "ls": "-" if first else ":", "lw": 2.5, "ms": 4}
    colour, marker = STYLES[name]
    return {"color": colour, "marker": marker, "ls": "-", "lw": 1, "ms": 5}


def draw(comparisons: list[dict]) -> None:
    """Draw times over n of the tasks that were measured at several n."""
    tasks = {c["task"] for c in comparisons}
    shown = [task for task in ("one_fit", "density", "process") if task in tasks]
    fig, axes = plt.subplots(1, len(shown), figsize=(3.9 * len(shown), 4.6), layout="constrained", squeeze=False)
    for ax, task in zip(axes[0], shown, strict=True):
        lines: dict[str, list[tuple[int, dict]]] = {}
        for c in comparisons:
            if c["task"] == task:
                for row in c["rows"]:
                    lines.setdefault(row["name"], []).append((c["size"]["n"], row["seconds"]))
        for name, points in lines.items():
            n = [at for at, _ in points]
            ms = [[1e3 * seconds[key] for _, seconds in points] for key in ("q1", "median", "q3")]
            look = style(name, first=name == next(iter(lines)))
            ax.loglog(n, ms[1], label=name, **look)
            ax.fill_between(n, ms[0], ms[2], color=look["color"], alpha=0.2, lw=0)
        ax.set_title({"one_fit": "one REML fit", "density": "log-density and gradient",
                      "process": "… of a Matérn-3/2 process"}[task], fontsize=10)  # fmt: skip
        everywhere = sorted({n for points in lines.values() for n, _ in points})
        ax.set_xticks(everywhere, [f"{n:,}".replace(",", " ") for n in everywhere])
        ax.minorticks_off()
        ax.set_xlabel("observations")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes[0][0].set_ylabel("CPU time of a call after set-up, ms")
    (DOCS / "figures").mkdir(exist_ok=True)
    fig.savefig(DOCS / "figures" / "peers.png", dpi=120)


if __name__ == "__main__":
    main()
