#!/bin/sh
# Guess: a formula library of Wilkinson's notation reads R's spellings as R does or refuses them, and refuses new rows
# whose columns have changed from text to numbers.
# Seen (formulaic 1.2.2): four design matrices with other numbers, without an error or a warning.
#   1. I(x^2) is the exclusive or of x and 2, for whole numbers: 0, 1, 2, 3 become 2, 3, 0, 1.
#   2. exp10(x) is x to the power of 10, not 10 to the power of x.
#   3. y - z ~ x has the response y: on the left, too, - takes a term away.
#   4. A factor of texts "1", "2", "3", met by whole numbers 1, 2, 3 in new rows, is encoded by the numbers themselves in
#      each of its columns, so that a prediction is the number times the sum of its coefficients.
# Why it matters here: a mixed model pasted from lme4 fits another covariate (the log-likelihood of sleepstudy with
# Days + I(Days^2) is -891.299, not -892.898), and predictions for a table read with other dtypes are wrong.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet formulaic==1.2.2 pandas==2.3.3 numpy==2.3.5
"$folder/venv/bin/python" -W error - <<'PYTHON'
import formulaic
import numpy as np
import pandas as pd

table = pd.DataFrame({"y": [5.0, 6, 7, 8], "z": [1.0, 2, 3, 4], "x": [0, 1, 2, 3], "f": ["1", "2", "3", "1"]})
print("formulaic", formulaic.__version__)

power = np.asarray(formulaic.model_matrix("I(x^2)", table))[:, 1]
print("I(x^2) of 0, 1, 2, 3:", power.tolist(), "in R: 0, 1, 4, 9")
assert power.tolist() == [2, 3, 0, 1]

tenth = np.asarray(formulaic.model_matrix("exp10(x)", table))[:, 1]
print("exp10(x) of 0, 1, 2, 3:", tenth.tolist(), "by its name: 1, 10, 100, 1000")
assert tenth.tolist() == [0, 1, 1024, 59049]

left = formulaic.model_matrix("y - z ~ x", table).lhs
print("the response of y - z ~ x:", left.iloc[:, 0].tolist(), "in R: 4, 4, 4, 4")
assert left.iloc[:, 0].tolist() == [5, 6, 7, 8]

spec = formulaic.model_matrix("f", table).model_spec
new = np.asarray(spec.get_model_matrix(pd.DataFrame({"f": [1, 2, 3]})))
print("a factor of texts, met by the numbers 1, 2, 3:", new.tolist())
assert new.tolist() == [[1, 1, 1], [1, 2, 2], [1, 3, 3]]
PYTHON
echo "as found"
