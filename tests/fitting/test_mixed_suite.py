"""Mixed models of known data, and simulated ones with singular matrices, against lme4's best of three optimizers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = {case["name"]: case for case in json.loads((REFERENCE / "mixed_suite.json").read_text())["cases"]}
STEPS = 30
LONG = {"means_very_far_away": 200}  # means a thousand standard deviations away: a long and curved valley
FLAT = {  # more than one θ has the maximum, or it is so flat that lme4's optimizers stop elsewhere
    "factor_double_bar", "orthodont_by_sex", "orthodont_sex", "means_very_far_away", "wild_units", "cake_recipe_bars",
}  # fmt: skip
CRAWLED = [  # where steps in elements or factors of a matrix take hundreds
    "sleepstudy_no_mean", "sleepstudy_quadratic_no_mean", "slopes_singular", "factor_double_bar", "rank_one",
    "means_away", "rank_one_little_noise", "four_groups_of_four_effects", "cake_recipe_bars",
]  # fmt: skip


def table(case):
    data = pd.read_csv(REFERENCE / "mixed_suite" / f"{case['data']}.csv", keep_default_na=False)
    return data.assign(**{name: pd.Categorical(data[name].astype(str)) for name in case["factors"]})


def fitted(case):
    model = flmm.lmm_model(case["formula"], table(case))
    longest = LONG.get(case["name"], 100)
    return flmm.find_reml(model, progressbar=False, method=case["method"], max_iterations=longest)


def compare(case):
    fit = fitted(case)
    assert fit.converged, fit.message
    assert fit.loglik >= case["loglik"] - 1e-8 * max(1.0, abs(case["loglik"]))
    assert fit.history.sizes["iteration"] <= LONG.get(case["name"], STEPS)
    if case["name"] not in FLAT:
        assert fit.loglik <= case["loglik"] + 1e-6 * max(1.0, abs(case["loglik"]))
        assert_allclose(fit.theta["residual"], case["residual"], rtol=1e-3)
        assert_allclose(np.sort(fit.beta_se), np.sort(case["beta_se"]), rtol=2e-3)
        scale = np.abs(case["beta"]).max(initial=0.0)
        same = [name for name in case["coef"] if name in fit.beta.index]
        lme4 = dict(zip(case["coef"], case["beta"], strict=True))
        assert_allclose(fit.beta[same], [lme4[name] for name in same], rtol=1e-3, atol=1e-4 * scale)
    return fit


@pytest.mark.parametrize("name", CRAWLED)
def test_singular_and_ill_conditioned_matrices_take_tens_of_steps(name):
    fit = compare(CASES[name])
    table = fit.coefficients()
    assert np.isfinite(table.to_numpy()).all()
    assert all(np.isfinite(values).all() for values in fit.point.values())
    assert fit.point


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_no_fit_is_below_the_best_of_three_optimizers(name):
    compare(CASES[name])


def test_the_suite_has_many_singular_models():
    assert len(CASES) >= 90
    assert sum(case["singular"] for case in CASES.values()) >= 30
