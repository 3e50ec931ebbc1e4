#!/bin/sh
# Guess: a stateful transform inside another one, scale(cr(x, df=3)), is evaluated on new rows with what it learnt at the
# fit, and only so.
# Seen (formulaic 1.2.2): where it looks for variables, formulaic evaluates the arguments of each stateful transform once
# more, without the state of those inside. The matrix is right when that evaluation succeeds. On a single new row it
# fails: scale(cr(x, df=3)) ends in an error about knots, though cr(x, df=3) alone is encoded.
# Why it matters here: predictions for one row at a time, which is how they are asked for, would be refused for formulas
# whose fit and prediction of many rows work.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet formulaic==1.2.2 pandas==2.3.3 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import formulaic
import numpy as np
import pandas as pd
from formulaic.transforms import stateful_transform

print("formulaic", formulaic.__version__)
table = pd.DataFrame({"x": np.linspace(0.0, 1.0, 20) ** 2})
seen = []


@stateful_transform
def minus_first(values, _state=None):
    seen.append((len(values), "first" in _state))
    first = _state.setdefault("first", values.iloc[0])
    return values - first


spec = formulaic.model_matrix("center(minus_first(x))", table).model_spec
seen.clear()
spec.get_model_matrix(table.iloc[[7]], context={"minus_first": minus_first})
print("evaluations of the inner transform for one new row, (rows, with its state):", seen)
assert (1, False) in seen and (1, True) in seen

alone = formulaic.model_matrix("cr(x, df=3)", table).model_spec.get_model_matrix(table.iloc[[7]])
print("cr(x, df=3) of one new row:", np.asarray(alone).round(3).tolist())
spec = formulaic.model_matrix("scale(cr(x, df=3))", table).model_spec
assert len(spec.get_model_matrix(table.iloc[3:12])) == 9
try:
    spec.get_model_matrix(table.iloc[[7]])
except Exception as error:
    print("scale(cr(x, df=3)) of one new row:", type(error).__name__, str(error)[:150])
else:
    raise SystemExit("it is encoded now")
PYTHON
echo "as found"
