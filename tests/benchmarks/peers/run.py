"""
`make peers`: measures everyone by turns and writes docs/peers.json, of which report.py makes docs/peers.md.

Tasks may be named, to measure these again and keep the rest: `python run.py density many`.
"""

import json
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import components
import density
import many
import one_fit
import process
import sampling
from harness import about, prepare

MODULES = {
    "one_fit": one_fit, "many": many, "components": components, "density": density, "process": process,
    "sampling": sampling,
}  # fmt: skip
RESULTS = Path(__file__).parents[3] / "docs" / "peers.json"


def main(chosen: list[str]) -> None:
    """Measure the chosen groups of tasks, or all; what is done is written, should the run be broken off."""
    if unknown := set(chosen) - set(MODULES):
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(MODULES)}")
    prepare()
    warnings.filterwarnings("ignore")  # of the peers, which the results speak for
    results = json.loads(RESULTS.read_text()) if chosen and RESULTS.exists() else {"groups": {}}
    for name in chosen or MODULES:
        measured = []
        for comparison in MODULES[name].comparisons():
            start = time.perf_counter()
            measured.append(comparison.measure())
            said(measured[-1], time.perf_counter() - start)
        results["groups"][name] = about() | {"comparisons": measured}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def said(measured: dict, elapsed: float) -> None:
    size = ", ".join(f"{key} = {value}" for key, value in measured["size"].items())
    print(f"\n{measured['task']}, {size} ({elapsed:.0f} s)")
    for row in measured["rows"]:
        found = ", ".join(f"{key} {value:.7g}" for key, value in row["result"].items())
        print(
            f"  {row['name']:<34}{1e3 * row['seconds']['median']:>12.4g} ms{row['ratio']['median']:>10.3g} ×  {found}"
        )
    for name, reason in measured["absent"].items():
        print(f"  {name:<34}absent: {reason}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
