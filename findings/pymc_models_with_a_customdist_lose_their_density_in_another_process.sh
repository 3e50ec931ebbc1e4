#!/usr/bin/env bash
# Guess: cloudpickle, by which PyMC hands models to other processes, carries a `pm.CustomDist` of `dist=` and `logp=`
# with its density: both are functions that cloudpickle can pickle by value.
# Seen: the model is unpickled, its initial point is there, and its log-density ends in NotImplementedError. The class of
# the variable is made anew at each call of CustomDist, and its density is registered by type as a side effect, which a
# pickle does not repeat. In the process that made it nothing is amiss, so that a test there sees no fault.
# Why it matters here: models go to worker processes and to disk. A variable of a class at the top of a module, which
# registers its density when it is imported, is known there.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pymc==6.4.0" "pytensor==3.3.8" 2> /dev/null
cd "$place"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import cloudpickle
import pymc as pm

print("pymc", version("pymc"), "pytensor", version("pytensor"))
with pm.Model() as model:
    pm.CustomDist("x", 0.0, dist=lambda mu, size: pm.Normal.dist(mu, size=size), logp=lambda x, mu: -((x - mu) ** 2))
data = cloudpickle.dumps(model)
again = cloudpickle.loads(data)
print("unpickled in the process that made it:", again.compile_logp()(again.initial_point()))
open("model.pkl", "wb").write(data)
PYTHON
venv/bin/python - <<'PYTHON'
import cloudpickle

model = cloudpickle.loads(open("model.pkl", "rb").read())
try:
    model.compile_logp()(model.initial_point())
except NotImplementedError as error:
    print("unpickled in another:", error)
else:
    raise SystemExit("the behaviour has changed")
PYTHON
