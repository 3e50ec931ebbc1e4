#!/bin/sh
# The guess: statsmodels says something when it predicts a cell of two factors that has no data (R's predict.lm warns of a
# prediction from a rank-deficient fit), or gives it an infinite or missing standard error.
# What was seen: OLS takes the pseudo-inverse of X. For y ~ a*b the cell (y, q) is predicted near 500 with a standard error
# of a few tenths, for y ~ 0 + a:b, the same model, as 0 with a standard error of 0; neither warns. MixedLM of the same
# formulas ends in LinAlgError.
# Why it matters here: least squares with a generalised inverse is the judge of predictions where columns of X were
# dropped. It judges only rows in the row space of X; which rows these are has to be found apart, by the singular vectors.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install "statsmodels==0.14.5" "numpy<2.4" "pandas<3" "scipy<1.17" 2> /dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import pandas as pd
import statsmodels
import statsmodels.formula.api as smf

rng = np.random.default_rng(1)
cells = [("x", "p"), ("x", "q"), ("y", "p")]
d = pd.DataFrame([(a, b, g) for a, b in cells for g in "abcdef" for _ in range(3)], columns=list("abg"))
d["y"] = 500 + 3 * (d.b == "q") + rng.normal(size=len(d))
new = pd.DataFrame({"a": ["y"], "b": ["q"]})
print("statsmodels", statsmodels.__version__, "- the cell (y, q) has no data")
as_seen = []
for formula in ("y ~ a*b", "y ~ 0 + a:b"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = smf.ols(formula, d).fit().get_prediction(new)
    mean, error = float(got.predicted_mean[0]), float(got.se_mean[0])
    print(f"OLS {formula}: {mean:.2f} ± {error:.2f}, {len(caught)} warnings")
    as_seen.append(not caught and np.isfinite(error) and error < 1)
    try:
        smf.mixedlm(formula, d, groups=d.g).fit()
        as_seen.append(False)
    except np.linalg.LinAlgError as singular:
        print(f"MixedLM {formula}: LinAlgError, {singular}")
        as_seen.append(True)
sys.exit(0 if all(as_seen) else 1)
PYTHON
