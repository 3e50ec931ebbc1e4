"""Models of named data, written by hand from terms and from dense covariances."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov


def _ones(n):
    return np.ones((n, 1))


def structured(y, X, terms, sigma2_e):
    return flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=sigma2_e, observed=np.asarray(y, dtype=float))


def intercepts(table, response, factors, X=None):
    """One variance for each factor, each a free variable with a flat prior of its own unit."""
    data = getattr(flmm.datasets, table)() if isinstance(table, str) else table
    X = _ones(len(data)) if X is None else X
    with pm.Model() as model:
        terms = []
        for name, factor in factors.items():
            labels = factor(data) if callable(factor) else data[factor]
            terms.append(flmm.Term(np.asarray(labels), cov.scalar(pm.HalfFlat(f"v_{name}", initval=1.0)), name=name))
        structured(data[response], X, terms, pm.HalfFlat("v_e", initval=1.0))
    return model


def sleep_columns():
    data = flmm.datasets.sleepstudy()
    X = np.column_stack([np.ones(len(data)), data["Days"]])
    return data, X, pd.DataFrame({"one": 1.0, "Days": data["Days"]})


def sleep(covariance, sigma2_e, data=None):
    """Random slopes of `sleepstudy` with a covariance within subjects."""
    table, X, columns = data or sleep_columns()
    term = flmm.Term(table["Subject"], covariance, columns=columns)
    return structured(table["Reaction"], X, [term], sigma2_e)


def slopes():
    """An unstructured covariance by its elements."""
    with pm.Model() as model:
        v = pm.HalfFlat("v", shape=2, initval=np.ones(2))
        c = pm.Flat("c")
        S = pt.stack([pt.stack([v[0], c]), pt.stack([c, v[1]])])
        sleep(cov.unstructured(S, size=2), pm.HalfFlat("v_e", initval=1.0))
    return model


def uncorrelated():
    with pm.Model() as model:
        v = pm.HalfFlat("v", shape=2, initval=np.ones(2))
        sleep(cov.diagonal(v), pm.HalfFlat("v_e", initval=1.0))
    return model


def alpha():
    data = flmm.datasets.john_alpha()
    X = np.column_stack([np.ones(len(data)), data["rep"] == "R2", data["rep"] == "R3"]).astype(float)
    return intercepts(data, "yield", {"gen": "gen", "block": lambda d: d["rep"] + ":" + d["block"]}, X)


def one_way(reference, table, response, factor, covariate=None):
    data = pd.DataFrame(reference.table(table))
    X = None if covariate is None else np.column_stack([np.ones(len(data)), data[covariate]])
    return intercepts(data, response, {factor: factor}, X)


@pytest.fixture(scope="session")
def models(reference):
    """Models by the name of the reference fit without its method, made once."""
    return {
        "sleepstudy_intercept": one_way(reference, "sleepstudy.csv", "Reaction", "Subject", "Days"),
        "sleepstudy_slope": slopes(),
        "sleepstudy_uncorrelated": uncorrelated(),
        "dyestuff": one_way(reference, "dyestuff.csv", "Yield", "Batch"),
        "dyestuff2": one_way(reference, "dyestuff2.csv", "Yield", "Batch"),
        "penicillin": intercepts("penicillin", "diameter", {"plate": "plate", "sample": "sample"}),
        "john_alpha": alpha(),
    }


@pytest.fixture(scope="session")
def make():
    return SimpleNamespace(intercepts=intercepts, sleep=sleep, sleep_columns=sleep_columns, structured=structured)


@pytest.fixture(scope="session")
def lme4(reference):
    """The reference fit of a name."""
    rows = {row["name"]: row for row in reference.json("lme4_nlme.json")}
    return rows.__getitem__


@pytest.fixture(scope="session")
def fit():
    def find(model, **kwargs):
        return flmm.find_reml(model, progressbar=False, **kwargs)

    return find
