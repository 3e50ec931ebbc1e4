"""Tests of fixed effects where an estimated variance is 0: pbkrtest counts it as estimated, lmerTest as known."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

CASES = ("dyestuff2", "unbalanced", "crossed", "nested", "both")


@pytest.fixture(scope="module")
def judged(reference):
    """The judge's values and our fit, by the name of the case."""
    rows = {row["name"]: row for row in reference.json("zero_variance.json")["cases"]}
    tables = {name: pd.DataFrame(reference.table(f"{name}.csv")) for name in ("zero_variance", "dyestuff2")}

    def get(name):
        table = tables["dyestuff2" if name == "dyestuff2" else "zero_variance"]
        fit = flmm.find_reml(flmm.lmm_model(rows[name]["formula"], table), progressbar=False)
        return rows[name], fit

    return get


@pytest.mark.parametrize("name", CASES)
def test_variances_that_count_as_estimated_give_the_tests_of_pbkrtest(judged, name):
    row, fit = judged(name)
    assert fit.converged
    assert fit.boundary
    assert_allclose(fit.beta, row["beta"], rtol=1e-6)
    table = fit.coefficients("kenward-roger", zero_variances="free")
    assert_allclose(table["se"], row["kenward_roger"]["se"], rtol=2e-5)
    assert_allclose(table["df"], row["kenward_roger"]["df"], rtol=2e-5)
    for test in row["tests"]:
        found = fit.test_fixed(np.eye(len(fit.beta))[test["rows"]], "kenward-roger", zero_variances="free")
        assert_allclose(found.statistic, test["kr_F"], rtol=2e-4)
        assert_allclose(found.df_den, test["kr_df"], rtol=2e-4)
        assert_allclose(found.p_value, test["kr_p"], rtol=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_variances_of_zero_are_known_to_satterthwaite_as_to_lmertest(judged, name):
    row, fit = judged(name)
    table = fit.coefficients()
    assert_allclose(table["se"], row["satterthwaite"]["se"], rtol=1e-5)
    assert_allclose(table["df"], row["satterthwaite"]["df"], rtol=1e-3)
    for test in row["tests"]:
        found = fit.test_fixed(np.eye(len(fit.beta))[test["rows"]])
        assert_allclose(found.df_den, test["sat_df"], rtol=1e-3)
        assert_allclose(found.statistic, test["sat_F"], rtol=1e-4)


def test_one_kernel_has_both_by_its_eigenvalues(reference):
    """Dyestuff2: 5 degrees of freedom by pbkrtest, 29 when the variance of 0 is known."""
    table = pd.DataFrame(reference.table("dyestuff2.csv"))
    W = pd.get_dummies(table["Batch"]).to_numpy(dtype=float)
    fit = flmm.reml(flmm.Spectrum.from_factor(W, np.ones((30, 1))), table["Yield"].to_numpy())
    assert fit.boundary == ("sigma2_g",)
    for zero_variances, df in (("known", 29), ("free", 5)):
        assert_allclose(fit.coefficients("kenward-roger", zero_variances=zero_variances)["df"], df, rtol=1e-9)
        assert_allclose(fit.test_fixed("x0", "kenward-roger", zero_variances=zero_variances).df_den, df, rtol=1e-9)


def test_inside_the_parameter_space_both_are_one():
    model = flmm.lmm_model("diameter ~ 1 + (1|plate) + (1|sample)", flmm.datasets.penicillin())
    fit = flmm.find_reml(model, progressbar=False)
    known, free = (fit.coefficients("kenward-roger", zero_variances=z) for z in ("known", "free"))
    assert_allclose(free, known, rtol=1e-4)  # differences, and closed forms


def test_a_singular_matrix_has_tests_when_all_of_it_counts_as_estimated():
    """Dense formulas of Kenward and Roger at the same θ."""
    rng = np.random.default_rng(2)
    g, x = np.repeat(np.arange(8), 5), np.tile(np.arange(5.0), 8)
    table = pd.DataFrame({"y": 1 + x + rng.normal(size=8)[g] + rng.normal(size=40), "x": x, "g": g})
    fit = flmm.find_reml(flmm.lmm_model("y ~ x + (x|g)", table), progressbar=False)
    assert fit.boundary
    with pytest.raises(ValueError, match=r"covariance matrix of this fit is singular.*zero_variances='free'"):
        fit.coefficients("kenward-roger")
    found = fit.coefficients("kenward-roger", zero_variances="free")
    V, slopes, X = (
        fit.objective.covariance(fit.at()),
        fit.objective.covariance_derivatives(fit.theta.to_numpy()),
        np.column_stack([np.ones(40), x]),
    )
    Vi = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ Vi @ X)
    P = Vi - Vi @ X @ Phi @ X.T @ Vi
    W = np.linalg.inv([[0.5 * np.trace(P @ a @ P @ b) for b in slopes] for a in slopes])
    adjusted = Phi.copy()
    for i, a in enumerate(slopes):
        for j, b in enumerate(slopes):
            Pi, Pj = -X.T @ Vi @ a @ Vi @ X, -X.T @ Vi @ b @ Vi @ X
            adjusted += 2 * Phi @ (W[i, j] * (X.T @ Vi @ a @ Vi @ b @ Vi @ X - Pi @ Phi @ Pj)) @ Phi
    assert_allclose(found["se"] ** 2, np.diag(adjusted), rtol=1e-8)
    first = np.array([Phi @ X.T @ Vi @ a @ Vi @ X @ Phi for a in slopes])[:, 1, 1]
    assert_allclose(found["df"].iloc[1], 2 * Phi[1, 1] ** 2 / (first @ W @ first), rtol=1e-8)


def test_the_fit_names_the_difference(judged):
    _, fit = judged("crossed")
    assert (
        "fixed effects are tested with what is on the boundary known; as estimated: coefficients('kenward-roger', zero_"
        in fit.message
    )


def test_what_has_no_such_treatment_is_refused(judged, monkeypatch):
    _, fit = judged("crossed")
    with pytest.raises(ValueError, match="zero_variances must be 'known' or 'free', got 'estimated'"):
        fit.coefficients(zero_variances="estimated")
    with pytest.raises(ValueError, match="zero_variances='free' is for df='kenward-roger', whose expected information"):
        fit.test_fixed("x", zero_variances="free")
    monkeypatch.setattr("pm_fastlmm.aireml.linear._LARGEST", 100)
    with pytest.raises(ValueError, match="works with dense matrices, and 3 of 40 rows would not fit in memory"):
        fit.coefficients("kenward-roger", zero_variances="free")
    with pm.Model() as model:
        v, rho, e = pm.HalfNormal("v"), pm.Uniform("rho", -1, 1), pm.HalfNormal("e")
        term = flmm.Term(np.arange(40) % 8, flmm.covariance.ar1(v, rho), name="series")
        y = np.random.default_rng(1).normal(size=40)
        flmm.StructuredLMM("y", X=np.ones((40, 1)), terms=[term], sigma2_e=e, observed=y)
    with pytest.raises(ValueError, match="is formed here for a V that is linear in its parameters"):
        flmm.find_reml(model, progressbar=False).coefficients("kenward-roger", zero_variances="free")
