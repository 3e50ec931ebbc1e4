"""Writes docs/benchmarks.md from benchmark-results.json, to which `make benchmark` appends what it measures."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """# Benchmarks

Measured by `make benchmark`, written by `python tests/benchmarks/report.py`. Machines are noisy: the ratios, of two
things timed in turn in one process, are what carries over. Median, and the range of the rounds. Other packages stand
beside this one in [peers.md](peers.md).

"""


def main() -> None:
    runs = json.loads((ROOT / "benchmark-results.json").read_text())
    groups: dict[str, list[dict]] = {}  # a figure and the ratios that follow it, of the latest run that has it
    for run in runs:
        latest: dict[str, list[dict]] = {}
        for figure in run["figures"]:
            if "part" not in figure and not figure["figure"].startswith(" "):
                group = latest[figure["figure"]] = []
            group.append(figure)
        groups |= latest
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [f"Python {run['python']}, {run['cpus']} CPUs, {run['blas_threads']} BLAS thread; {versions}.", ""]
    lines += ["| figure | median | range |", "|---|---|---|"]
    for figure in (figure for group in groups.values() for figure in group):
        name = figure.get("part", figure["figure"])
        name = f"… {name.strip()}" if "part" in figure or name.startswith(" ") else name
        spread = f"{figure['low']:.3g} – {figure['high']:.3g}"
        lines.append(f"| {name} | {figure['value']:.3g} {figure['unit']} | {spread} |")
    (ROOT / "docs" / "benchmarks.md").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
