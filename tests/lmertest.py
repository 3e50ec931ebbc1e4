"""Fits of reference/fixed_terms.json, whose tables are those of lmerTest and emmeans."""

import json
import re
from pathlib import Path

import pandas as pd

import pm_fastlmm as flmm

REFERENCE = Path(__file__).parent / "reference"
CASES = {case["name"]: case for case in json.loads((REFERENCE / "fixed_terms.json").read_text())}
OWN = "{'a': [-1, 1, 0], 'b': [0.3, 0.1, 2]}"  # contrasts of three levels


def rows_of(name):
    data = pd.read_csv(REFERENCE / "fixed_terms.csv")
    return data if CASES[name]["rows"] == len(data) else data[(data["A"] != "c") | (data["B"] != "q")]


def coded(formula, contrasts):
    return re.sub(r"\bA\b", f"C(A, {contrasts})", formula)


def fit_of(name, contrasts=None):
    formula = CASES[name]["formula"] if contrasts is None else coded(CASES[name]["formula"], contrasts)
    return flmm.find_reml(formula, rows_of(name), progressbar=False)
