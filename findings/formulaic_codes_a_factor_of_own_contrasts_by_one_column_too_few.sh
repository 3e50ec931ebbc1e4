#!/bin/sh
# Guess: where a formula has no intercept, a factor is coded by a column for each level, whatever its contrasts, as in R:
# contrasts change coefficients, never the model.
# Seen (formulaic 1.2.2): that is so for contr.treatment, contr.sum and contr.helmert, which know their full coding. A
# factor with a matrix of contrasts of the user's own keeps the matrix, one column less than levels: the mean of the
# levels is not in the model, without an error or a warning.
# Why it matters here: y ~ 0 + C(f, own) + (1 | g) would be another model than y ~ 0 + f + (1 | g), with another
# likelihood. pm_fastlmm refuses it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet formulaic==1.2.2 pandas==2.3.3 numpy==2.3.5
"$folder/venv/bin/python" -W error - <<'PYTHON'
import formulaic
import numpy as np
import pandas as pd

table = pd.DataFrame({"f": list("abc") * 3})
own = np.array([[1.0, 0], [0, 1], [-1, -1]])  # those of contr.sum
print("formulaic", formulaic.__version__)
sizes = {}
for contrasts in ("contr.treatment", "contr.sum", "contr.helmert", "own"):
    X = formulaic.model_matrix(f"0 + C(f, {contrasts})", table, context={"own": own})
    sizes[contrasts] = X.shape[1]
    alone = np.linalg.lstsq(np.asarray(X), np.ones(9), rcond=None)[0]
    far = np.abs(np.asarray(X) @ alone - 1).max()
    print(f"0 + C(f, {contrasts}): {X.shape[1]} columns for 3 levels, the constant is {far:.2g} from their span")
assert sizes == {"contr.treatment": 3, "contr.sum": 3, "contr.helmert": 3, "own": 2}
PYTHON
echo "as found"
