"""
Writes docs/benchmarks.md: what `make benchmark` appends to benchmark-results.json, and what `make benchmark-against`
keeps in docs/against.json. A section of which nothing was measured stays as it is.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmark-results.json"
AGAINST = ROOT / "docs" / "against.json"
SPARSE = ("sparse, ", "animal model, ")  # how figures of a section of their own begin
FILES = ("files, ",)
TRAITS = ("several traits, ",)
NOT_NORMAL = ("not normal, ",)
HEAD = """# Benchmarks

Written by `python tests/benchmarks/report.py`. Machines are noisy: the ratios, of two things timed in turn, are what
carries over. Other packages stand beside this one in [peers.md](peers.md).
"""


def main() -> None:
    parts = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if AGAINST.exists():
        sections["From import to an answer"] = beside_an_earlier_commit(json.loads(AGAINST.read_text()))
    if RESULTS.exists():
        for title, kept in {
            "Within a process": lambda name: not name.startswith(SPARSE + FILES + TRAITS + NOT_NORMAL),
            "Sparse equations": lambda name: name.startswith(SPARSE),
            "Genotype files": lambda name: name.startswith(FILES),
            "Several traits": lambda name: name.startswith(TRAITS),
            "Responses that are not normal": lambda name: name.startswith(NOT_NORMAL),
        }.items():
            if runs := with_figures(json.loads(RESULTS.read_text()), kept):
                sections[title] = of_one_build(runs)
    PAGE.write_text(page(sections))


def page(sections: dict[str, str]) -> str:
    """Return the page of {title: text}."""
    return HEAD + "".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in sections.items())


def beside_an_earlier_commit(results: dict) -> str:
    """Return the section of docs/against.json."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    commits = ", ".join(sorted({row["commit"] for row in results["rows"].values()}))
    lines = [
        f"Measured by `make benchmark-against REV={results['rev']}`: an earlier commit and the working tree",
        f"({commits}), by turns in the same environment. CPU time, user and system, of new processes with their",
        "children, on one thread; median of the turns. Empty caches are a new `NUMBA_CACHE_DIR` and a new PyTensor",
        "`base_compiledir`, with `.pyc` files present. All else is warm: these were filled by one run before, and what",
        "does not begin with “import →” is timed in a process that has imported everything.",
        "",
        f"Python {results['python']}, {results['machine']}, {results['cpus']} CPUs; {versions}.",
        "",
        f"| | {results['rev']} | now | ratio | to reach | |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [f"| {' | '.join(cells(row))} |" for row in results["rows"].values()])


def cells(row: dict) -> list[str]:
    """Return a row of that table: the work, both figures, their ratio, what was to be reached, and whether it was."""
    before, now = (f"{short(row[which]['median'])} {row['unit']}" for which in ("before", "now"))
    reached = {True: "yes", False: "no", None: ""}[row["reached"]]
    return [row["title"], before, now, short(row["ratio"]), row["goal"], reached]


def short(value: float) -> str:
    """Return three digits, or all that stand before the decimal point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_figures(runs: list[dict], kept: Callable[[str], bool]) -> list[dict]:
    """Return the runs with the figures that are kept, without runs that have none."""
    own = (run | {"figures": [figure for figure in run["figures"] if kept(figure["figure"])]} for run in runs)
    return [run for run in own if run["figures"]]


def of_one_build(runs: list[dict]) -> str:
    """Return the section of benchmark-results.json."""
    groups: dict[str, list[dict]] = {}  # a figure and the ratios that follow it, of the latest run that has it
    for run in runs:
        latest: dict[str, list[dict]] = {}
        for figure in run["figures"]:
            if "part" not in figure and not figure["figure"].startswith(" "):
                group = latest[figure["figure"]] = []
            group.append(figure)
        groups |= latest
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = ["Measured by `make benchmark`, by turns in one process. Median, and the range of the rounds.", ""]
    lines += [f"Python {run['python']}, {run['cpus']} CPUs, {run['blas_threads']} BLAS thread; {versions}.", ""]
    lines += ["| figure | median | range |", "|---|---|---|"]
    for figure in (figure for group in groups.values() for figure in group):
        name = figure.get("part", figure["figure"])
        name = f"… {name.strip()}" if "part" in figure or name.startswith(" ") else name
        spread = f"{figure['low']:.3g} – {figure['high']:.3g}"
        lines.append(f"| {name} | {figure['value']:.3g} {figure['unit']} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
