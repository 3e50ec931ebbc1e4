#!/usr/bin/env bash
# Guess: `pm.sample` compiles a fixed number of functions for a model, whatever the number of chains; what all chains
# record of a draw is one function.
# Seen: one more compilation for each chain, of the same function: every NDArray trace calls `model.compile_fn` itself,
# in the parent process, before the first draw. Four functions for one chain, seven for four, eleven for eight.
# Why it matters here: for a model of microseconds per draw these compilations are most of what a user waits for after
# the first one, and a study of many short chains spends its time there. A trace that is made once and copied for each
# chain avoids it.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pymc==6.4.0" "pytensor==3.3.8" 2> /dev/null
"$place/venv/bin/python" - <<'PYTHON'
import logging
import time
import warnings
from importlib.metadata import version

import numpy as np
import pymc as pm
import pytensor.compile.maker as maker

logging.getLogger("pymc").setLevel(logging.ERROR)
warnings.simplefilter("ignore")
print("pymc", version("pymc"), "pytensor", version("pytensor"))

compiled, made = [], maker.FunctionMaker.__init__


def counted(self, *args, **kwargs):
    compiled.append(self)
    return made(self, *args, **kwargs)


maker.FunctionMaker.__init__ = counted
found = {}
for chains in (1, 2, 4, 8):
    with pm.Model():
        mu, sigma = pm.Normal("mu"), pm.HalfNormal("sigma")
        pm.Deterministic("twice", 2 * mu)
        pm.Normal("y", mu, sigma, observed=np.arange(5.0))
        compiled.clear()
        start = time.process_time()
        pm.sample(
            draws=2, tune=2, chains=chains, cores=1, nuts_sampler="pymc", random_seed=1, progressbar=False,
            compute_convergence_checks=False,
        )
    found[chains] = len(compiled)
    print(f"{chains} chains of 4 draws: {found[chains]} functions compiled, {time.process_time() - start:.1f} s of CPU")
assert found == {1: 4, 2: 5, 4: 7, 8: 11}, "the behaviour has changed"
PYTHON
