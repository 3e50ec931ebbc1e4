#!/usr/bin/env bash
# Guess: coordinates of a PyMC model come back from its draws as they went in, or are refused.
# Seen: numbers among text become text, a large integer among floats another integer, NaN among text "nan", without a
# word; tuples (a MultiIndex) are accepted by the model, and end in MissingDimensionsError after the sampling.
# Why it matters here: effects and predictions are found by the ids of animals or plots, whose tables mix "a12" and 7.
# `reindex` by those ids then loses them, and a run of hours is lost where they are tuples.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pymc==6.4.0" "xarray==2026.9.0" 2> /dev/null
"$place/venv/bin/python" - <<'PYTHON'
import logging
from importlib.metadata import version

import pymc as pm

logging.getLogger("pymc").setLevel(logging.ERROR)
print("pymc", version("pymc"), "xarray", version("xarray"))


def given_back(ids):
    with pm.Model(coords={"obs": ids}):
        pm.Normal("x", dims="obs")
        return pm.sample_prior_predictive(2).prior.indexes["obs"].tolist()


EXPECTED = [
    (["a", 1, 2], ["a", "1", "2"]),
    ([2**53 + 1, 0.5], [2.0**53, 0.5]),
    (["a", float("nan")], ["a", "nan"]),
]
for ids, expected in EXPECTED:
    found = given_back(ids)
    print(f"{ids} -> {found}")
    assert found == expected, "the behaviour has changed"

try:
    print(given_back([("a", 1), ("b", 2)]))
except Exception as error:
    print(f"tuples: {type(error).__name__}, after the draws: {str(error)[:80]}")
    assert type(error).__name__ == "MissingDimensionsError", "the behaviour has changed"
else:
    raise AssertionError("tuples are held now: the behaviour has changed")
PYTHON
