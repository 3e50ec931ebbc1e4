"""Writes docs/benchmarks.md from the largest last run in benchmark-results.json, which `make benchmark` measures."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """# Benchmarks

Measured by `make benchmark`, written by `python tests/benchmarks/report.py`. Machines are noisy: the ratios, of two
things timed in turn in one process, are what carries over. Median, and the range of the rounds.

"""


def main() -> None:
    runs = json.loads((ROOT / "benchmark-results.json").read_text())
    run = max(reversed(runs), key=lambda r: len(r["figures"]))
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [f"Python {run['python']}, {run['cpus']} CPUs, {run['blas_threads']} BLAS thread; {versions}.", ""]
    lines += ["| figure | median | range |", "|---|---|---|"]
    for figure in run["figures"]:
        name = figure["figure"]
        name = f"… {name.strip()}" if name.startswith(" ") else name
        spread = f"{figure['low']:.3g} – {figure['high']:.3g}" if "low" in figure else ""
        lines.append(f"| {name} | {figure['value']:.3g} {figure['unit']} | {spread} |")
    (ROOT / "docs" / "benchmarks.md").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
