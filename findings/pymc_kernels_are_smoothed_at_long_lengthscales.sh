#!/bin/sh
# PyMC's Exponential and Matern kernels lose most of their variogram at long lengthscales, without a word.
#
# Guess: pm.gp.cov.Matern12(ls=l) is exp(-d/l) for every l, to rounding. A variogram l·(1 - k) would be d for l >> d.
# Seen: the distance in units of l is sqrt(d²/l² + 1e-12), so that its gradient exists at 0. At l = 1e6 d that makes the
# variogram 0.41 of what it is, at 1e7 it is 0.05, in double precision that would have resolved it to nine digits.
# Why it matters: where a likelihood rises for ever as variance and range go to infinity together (a linear trend in
# space, such as the wheat trial Wheat2 of nlme), this smoothing gives it a maximum that the model does not have, and an
# optimizer converges there. With exp(-d/l) written out it does not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pymc==6.4.0"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import pymc as pm

print("pymc", pm.__version__)
points = np.array([[0.0], [1.0]])
seen = {}
for lengthscale in (1e3, 1e5, 1e6, 1e7):
    K = pm.gp.cov.Matern12(1, ls=lengthscale)(points).eval()
    exact = -np.expm1(-1 / lengthscale) * lengthscale
    seen[lengthscale] = (K[0, 0] - K[0, 1]) * lengthscale
    print(f"lengthscale {lengthscale:.0e}: l(k(0) - k(1)) = {seen[lengthscale]:.4f}, exact {exact:.4f}, k(0) - 1 = {K[0, 0] - 1:.1e}")
assert abs(seen[1e3] - 1) < 0.01
assert abs(seen[1e6] - (np.sqrt(2) - 1)) < 1e-4, "the variogram is no longer smoothed"
assert seen[1e7] < 0.1
PYTHON
