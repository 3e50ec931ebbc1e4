"""Gamma responses that are fitted without error have no estimate, and the fit says so."""

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

rng = np.random.default_rng(41)
DATA = pd.DataFrame({"g": rng.integers(0, 6, 60), "x": rng.normal(size=60)})


def fit_of(y):
    return flmm.find_reml("y ~ x + (1 | g)", DATA.assign(y=y), family="gamma", progressbar=False)


@pytest.mark.parametrize(
    ("y", "by"),
    [
        (np.ones(60), "X fits"),
        (np.exp(0.3 * DATA["x"]), "X fits"),
        (np.exp(0.1 * DATA["g"]), "the levels of the terms"),
    ],
    ids=["constant", "along X", "by level"],
)
def test_response_without_error_is_named(y, by):
    fit = fit_of(y)
    assert not fit.converged
    assert "the dispersion goes to 0" in fit.message
    assert by in fit.message


def test_small_errors_are_estimated():
    error = 1e-4 * rng.normal(size=60)
    fit = fit_of(np.exp(0.3 * DATA["x"] + 0.1 * DATA["g"] + error))
    assert fit.converged
    assert fit.theta["dispersion"] == pytest.approx(error.var(), rel=0.3)
