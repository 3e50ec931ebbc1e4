"""Pedigrees of a million: seconds and memory from the columns of a table to F, A⁻¹ and log|A|; and trees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pm_fastlmm import covariance as cov

pytestmark = pytest.mark.benchmark

PEDIGREE = """
import json, resource, sys, time
sys.path.insert(0, {folder!r})
import numpy as np, pandas as pd
from herds import simulate_herds
from pm_fastlmm.covariance import Pedigree
text = lambda places: pd.Series([f"DE{{place:09d}}" if place else "0" for place in places.tolist()])
write = text if {kind!r} == "text" else np.asarray
herds = simulate_herds({n}, sires=60, move=0.01)
columns = [write(c) for c in (np.arange(1, {n} + 1), herds.sire + 1, herds.dam + 1)]
few = [c[: 1000] for c in columns]
Pedigree(*few)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
before, start = peak(), time.process_time()
ped = Pedigree(*columns)
print(json.dumps({{"seconds": time.process_time() - start, "peak": peak() - before, "entries": ped.Q.nnz / {n}}}))
"""


@pytest.mark.parametrize("n", [100_000, 1_000_000])
@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_a_pedigree_from_its_columns(report, kind, n):
    script = PEDIGREE.format(folder=str(Path(__file__).parents[1]), kind=kind, n=n)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    figure = f"pedigree of {n} as {kind}: sorted, F, A⁻¹, log|A|"
    report(figure, figures["seconds"], "s")
    report(figure, figures["peak"], "MB", part="peak above the columns")
    report(figure, figures["entries"], "", part="entries of A⁻¹ per animal")


@pytest.mark.parametrize("root", ["base", "midpoint"])
def test_a_tree_of_ten_thousand_tips(measure, report, root):
    rng = np.random.default_rng(0)
    parts = [f"t{i}:{rng.exponential():.6f}" for i in range(10_000)]
    while len(parts) > 2:
        one, other = parts.pop(rng.integers(len(parts))), parts.pop(rng.integers(len(parts)))
        parts.append(f"({one},{other}):{rng.exponential():.6f}")
    text = f"({','.join(parts)});"
    seconds = measure.take_turns({"tree": measure.loop(lambda: cov.Tree(text, root=root))})
    report(f"tree of 10 000 tips, root {root}", 1e3 * seconds["tree"], "ms")
