"""
Feed the package hostile inputs and count what becomes of them: `make fuzz`, or `python -m fuzz 10000` in this folder.

Every input ends in a result whose promises hold, or in a ValueError of the package's own with its reason. What does
neither is printed with its kind and seed, and the exit status is 1.
"""

import argparse
import sys
import traceback
from collections import Counter

from fuzz import compositions, formulas, kernels, pedigrees, rows

# modules with check(seed), which returns outcomes or raises an AssertionError
KINDS = {"compositions": compositions, "formulas": formulas, "kernels": kernels, "pedigrees": pedigrees, "rows": rows}


def main():
    """Run the kinds in turn, and count."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.splitlines()[1])
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--step", type=int, default=1, help="50 runs the compiled engines alone with each kernel")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    outcomes, violations = Counter(), 0
    for i in range(arguments.count):
        kind = arguments.kinds[i % len(arguments.kinds)]
        seed = arguments.seed + i // len(arguments.kinds) * arguments.step
        try:
            outcomes.update(f"{kind}: {outcome}" for outcome in KINDS[kind].check(seed))
        except Exception as error:  # whatever it is, it is counted and the run goes on
            violations += 1
            print(f"{kind}, seed {seed}: {type(error).__name__}: {error}", flush=True)
            if arguments.verbose:
                traceback.print_exc()
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8d}  {outcome}")
    print(f"{arguments.count} inputs, {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
