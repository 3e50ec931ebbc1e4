"""Fits of lme4 and nlme from near and far starting values, REML and ML."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

NAMES = ("sleepstudy_intercept", "sleepstudy_slope", "sleepstudy_uncorrelated", "dyestuff", "dyestuff2", "penicillin",
         "john_alpha")  # fmt: skip
# what each variance is multiplied with, in turn over the parameters
STARTS = {
    "1e-3": (1e-3,), "1": (1.0,), "1e3": (1e3,), "1e6": (1e6,), "1e-3, 1e3": (1e-3, 1e3), "1e6, 1": (1e6, 1.0),
    "1, 1e6": (1.0, 1e6),
}  # fmt: skip


def assert_equal_to(found, row):
    """lme4 finds log-likelihoods to about 1e-9, variances to about 1e-7 relative, to 1e-6 for penicillin."""
    assert found.converged, found.message
    assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
    assert_allclose(sorted(found.theta), sorted(row["vcov"]), rtol=3e-6, atol=1e-9)
    assert_allclose(found.beta, row["beta"], rtol=1e-6)
    r = len(row["beta"])
    assert_allclose(found.beta_cov, np.reshape(row["vcov_beta"], (r, r)), rtol=2e-5, atol=1e-9)


def scaled_start(model, row, factors):
    """Uncorrelated starting values that are multiples of the estimates of lme4, of the residual where these are 0."""
    names = flmm.find_reml(model, max_iterations=1, progressbar=False).theta.index
    factor = np.resize(factors, len(names))
    return {name: 0.0 if ", " in name else f * row["vcov"][-1] for name, f in zip(names, factor, strict=True)}


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", NAMES)
def test_the_default_start_finds_the_fit_of_lme4(models, lme4, fit, name, method):
    found = fit(models[name], method=method)
    assert_equal_to(found, lme4(f"{name}_{method.lower()}"))
    assert found.history.sizes["iteration"] <= 11
    assert bool(found.boundary) == (name == "dyestuff2")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", NAMES)
def test_far_starts_find_the_same_optimum(models, lme4, fit, name, start):
    row = lme4(f"{name}_reml")
    found = fit(models[name], start=scaled_start(models[name], row, STARTS[start]))
    assert_equal_to(found, row)
    assert found.history.sizes["iteration"] - 1 <= 25


def orthodont(reference):
    data = reference.table("orthodont.csv")
    male = data["Sex"] == "Male"
    X = np.column_stack([np.ones(len(male)), data["age"], male]).astype(float)
    same = data["Subject"][:, None] == data["Subject"]
    lag = np.abs(data["age"][:, None] - data["age"]) / 2
    return X, data["distance"], same.astype(float), lag, male


def residual_models(reference, name, scale=1.0):
    """The residual structures of nlme as dense covariances of free variables."""
    X, y, same, lag, male = orthodont(reference)
    with pm.Model() as model:
        v = pm.HalfFlat("v", initval=5 * scale)
        rho = pm.Uniform("rho", -0.5 if name == "compsymm_hetero" else -1, 1, initval=0.1)
        if name == "compsymm_hetero":
            ratio = pm.HalfFlat("ratio", initval=1.0)
            sd = pt.sqrt(v) * pt.where(male, ratio, 1.0)
            V = (rho * same + (1 - rho) * np.eye(len(y))) * sd[:, None] * sd
        else:
            V = v * same * rho**lag
        if name == "intercept_ar1":
            V = V + pm.HalfFlat("v_subject", initval=5 * scale) * same
        flmm.DenseLMM("y", X=X, V=V, observed=y)
    return model


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", ["ar1", "intercept_ar1", "compsymm_hetero"])
def test_residual_structures_equal_nlme(reference, lme4, fit, name, scale):
    row = lme4(f"orthodont_{name}_reml")
    found = fit(residual_models(reference, name, scale))
    expected = {"rho": row["rho"], "v": row["sigma2"]}
    if name == "intercept_ar1":
        expected["v_subject"] = row["sigma2_subject"]
    if name == "compsymm_hetero":
        expected["ratio"] = row["sd_ratio"][0]
    assert found.converged, found.message
    assert found.history.sizes["iteration"] - 1 <= 25
    assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
    # nlme prints estimates to about 1e-5: its optimiser stops on the likelihood
    assert_allclose(found.theta[list(expected)], list(expected.values()), rtol=2e-4)
    assert_allclose(found.beta, row["beta"], rtol=1e-4)
    assert set(found.point) == set(expected)


def test_ar1_of_the_visits_within_subjects_is_a_term_too(reference, lme4, fit):
    """Σ of a term with a residual variance of 0 is what `DenseLMM` has: a term over visits, with one more variance."""
    X, y, *_ = orthodont(reference)
    data = reference.table("orthodont.csv")
    visits = ((data["age"] - 8) / 2).astype(int)
    with pm.Model() as model:
        v, rho = pm.HalfFlat("v", initval=3.0), pm.Uniform("rho", -1, 1, initval=0.1)
        columns = (visits[:, None] == np.arange(4)).astype(float)
        term = flmm.Term(data["Subject"], cov.ar1(v, rho), columns=columns, name="visit")
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=pm.HalfFlat("v_e", initval=1.0), observed=y)
    found = fit(model)
    row = lme4("orthodont_ar1_reml")
    same_V = {"visit.sigma2": row["sigma2"], "visit.rho": row["rho"], "residual": 1e-9}
    assert_allclose(found.objective.log_likelihood(found.at(same_V)), row["loglik"], rtol=0, atol=1e-6)
    assert found.converged
    assert found.loglik >= row["loglik"]
