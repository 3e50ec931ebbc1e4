#!/usr/bin/env bash
# Guess: pm.sample(nuts_sampler="blackjax"), documented, runs with the current blackjax, on which PyMC puts no bound.
# Seen: a TypeError about `progress_bar` when the warm-up starts, for a model of one normal variable.
# Why it matters here: flmm.sample documented it as one of its samplers; it is no longer among them.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pymc==6.4.0" "blackjax==1.7.1" 2> /dev/null
"$place/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import pymc as pm

print(*(f"{name} {version(name)}" for name in ("pymc", "blackjax", "jax")))
with pm.Model():
    pm.Normal("x")
    try:
        pm.sample(20, tune=20, chains=1, nuts_sampler="blackjax", progressbar=False, random_seed=1)
    except TypeError as error:
        print(f"TypeError: {error}")
        assert "progress_bar" in str(error), "the behaviour has changed"
    else:
        raise AssertionError("it runs: the behaviour has changed")
PYTHON
