#!/usr/bin/env bash
# Guess: pm.math.invprobit of numbers in double precision is Φ to 15 digits.
# Seen: √2 enters as a constant of single precision: Φ(-8) has a relative error of 1e-6, Φ(-1) of 3e-8.
# Why it matters here: log-likelihoods of probit models written with it differ from those of the families of a LatentLMM
# by 1e-7 a row, more than two evaluations of one formula should; a comparison of the two needs a tolerance for that.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pymc==6.4.0" 2> /dev/null
"$place/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pymc as pm
from scipy.special import ndtr

print(*(f"{name} {version(name)}" for name in ("pymc", "pytensor")))
x = np.array([-8.0, -4.0, -1.0, 1.0])
relative = pm.math.invprobit(x).eval() / ndtr(x) - 1
root = pm.math.sqrt(2.0)
print("relative error of invprobit at -8, -4, -1, 1:", *(f"{e:.1e}" for e in relative))
print("its root of two:", root.type, repr(float(root.eval())))
assert 5e-7 < abs(relative[0]) < 5e-6 and 1e-8 < abs(relative[2]) < 1e-6, "the behaviour has changed"
PYTHON
