"""Models of the reference cases, `tests/reference/glmm.json`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pm_fastlmm as flmm
from pm_fastlmm.engines.latent.node import LatentNode
from pm_fastlmm.families.choice import family_of

HERE = Path(__file__).parents[2] / "reference"
CASES = {case["name"]: case for case in json.loads((HERE / "glmm.json").read_text())["cases"]}


@cache
def table_of(name: str) -> pd.DataFrame:
    """Return the table of a case."""
    return pd.read_csv(HERE / CASES[name]["data"])


def design(case: dict[str, Any], table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return X and the offset of a case, whose columns have R's names."""
    columns = [_column(name, table) for name in case["coef"]]
    offset = 0.3 * table["DOP"].to_numpy() if "offset" in case["formula"] else np.zeros(len(table))
    return np.column_stack(columns), offset


def _column(name: str, table: pd.DataFrame) -> Any:
    if name == "(Intercept)":
        return np.ones(len(table))
    if name == "I(age^2)":
        return table["age"].to_numpy() ** 2
    if name.startswith("scale("):
        x = table[name[6:-1]].to_numpy(dtype=float)
        return (x - x.mean()) / x.std(ddof=1)
    if name in table:
        return table[name].to_numpy(dtype=float)
    factor = max((c for c in table if name.startswith(c)), key=len)
    return (table[factor].astype(str) == name[len(factor) :]).to_numpy(dtype=float)


def node_of(name: str) -> LatentNode:
    """Return the node of a case, of no model."""
    case, table = CASES[name], table_of(name)
    X, offset = design(case, table)
    terms = []
    for group, effects in zip(case["groups"], case["effects"], strict=True):
        if "tree" in case:
            tree = flmm.covariance.Tree((HERE / case["tree"]).read_text())
            terms.append(flmm.Term(table[group], flmm.covariance.known(tree), name=group))
        elif len(effects) == 1:
            terms.append(flmm.Term(table[group].astype(str), flmm.covariance.scalar(1.0), name=group))
        else:
            columns = np.column_stack([_column(effect, table) for effect in effects])
            cov = flmm.covariance.unstructured(np.eye(len(effects)))
            terms.append(flmm.Term(table[group].astype(str), cov, columns=columns, name=group))
    y, trials, categories = response(case, table)
    kind = "bernoulli" if case["family"] == "binomial" and trials is None else case["family"]
    family = family_of(kind, case["link"], trials=trials, categories=categories)
    return LatentNode.from_terms("y", terms, pd.DataFrame(X, columns=case["coef"]), y, None, family=family, mu=offset)


def response(case: dict[str, Any], table: pd.DataFrame) -> tuple[np.ndarray, Any, Any]:
    """Return y, the trials, and the number of categories."""
    left = case["formula"].split("~")[0].strip()
    if left.startswith("cbind(y,"):
        return table["y"].to_numpy(dtype=float), table["trials"].to_numpy(), None
    if left.startswith("cbind"):
        return table["incidence"].to_numpy(dtype=float), table["size"].to_numpy(), None
    y = table[left]
    if case["family"] == "ordinal":
        codes = np.unique(y, return_inverse=True)[1].astype(float)
        return codes, None, int(codes.max()) + 1
    if left == "use":
        y = y == "Y"
    return y.to_numpy(dtype=float), None, None


def theta_of(point: dict[str, Any]) -> np.ndarray:
    """Return θ and ψ of a point."""
    parts = [np.asarray(S)[np.tril_indices(len(S))] for S in point["covariances"]]
    if point.get("phi") is not None:
        parts.append(np.array([1 / point["phi"]]))
    if point.get("thresholds") is not None:
        parts.append(np.array(point["thresholds"]))
    return np.concatenate(parts)
