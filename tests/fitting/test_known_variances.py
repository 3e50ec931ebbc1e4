"""Fits with nothing to estimate: effects, coefficients and likelihood at the variances that are given, by any node."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

QUIET, G, E = {"progressbar": False}, 1.3, 0.6
rng = np.random.default_rng(0)
W = rng.normal(size=(30, 30))
K = W @ W.T / 30
X = np.column_stack([np.ones(30), rng.normal(size=30)])
TABLE = pd.DataFrame({"y": rng.normal(size=30), "x": X[:, 1], "id": np.arange(30), "flat": 2 * X[:, 1] + 1})


def of_formula(y):
    return flmm.find_reml(f"{y} ~ x + (1 | id)", TABLE, known={"id": K}, fixed={"id": G, "residual": E}, **QUIET)


def of_two_terms(y):
    table = TABLE.assign(half=TABLE["id"] % 2)
    fixed = {"id": G, "residual": E, "half": 0.0}
    return flmm.find_reml(f"{y} ~ x + (1 | id) + (1 | half)", table, known={"id": K}, fixed=fixed, **QUIET)


def of_kernel(y):
    with pm.Model() as model:
        h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", 2)
        spectrum = flmm.Spectrum.from_covariance(K, X)
        flmm.FastLMM("y", spectrum=spectrum, h2=h2, total=total, observed=TABLE[y].to_numpy())
    return flmm.find_reml(model, fixed={"sigma2_g": G, "sigma2_e": E}, **QUIET)


def of_dense(y):
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.DenseLMM("y", X=X, V=g * K + e * np.eye(30), observed=TABLE[y].to_numpy())
    return flmm.find_reml(model, fixed={"g": G, "e": E}, **QUIET)


def of_function(y):
    return flmm.reml_covariance(
        lambda theta: theta[0] * K + theta[1] * np.eye(30), TABLE[y].to_numpy(), X,
        start={"g": 5.0, "e": 5.0}, fixed={"g": G, "e": E}, **QUIET,
    )  # fmt: skip


@pytest.mark.parametrize("y", ["y", "flat"])
@pytest.mark.parametrize("fitted", [of_formula, of_two_terms, of_kernel, of_dense, of_function])
def test_nothing_to_estimate_leaves_the_equations_to_be_solved(oracle, fitted, y):
    fit, dense = fitted(y), oracle.Dense(K, X, TABLE[y].to_numpy(), G, E)
    assert fit.converged
    assert "converged, with all parameters fixed" in repr(fit)
    assert_allclose(fit.loglik, dense.loglik_reml, rtol=1e-11)
    assert_allclose(fit.beta, dense.beta, rtol=1e-10)
    assert_allclose(fit.beta_cov, dense.beta_cov, rtol=1e-9)
    assert fit.standard_errors()[list(fit.theta.index)].isna().all()
    assert np.isinf(fit.coefficients()["df"]).all()
    if fitted is of_formula:
        effects = fit.effects("id")
        assert_allclose(effects["blup"], dense.blup, atol=1e-12)
        assert_allclose(effects["se"], np.sqrt(np.diag(dense.pev)), rtol=1e-9)
        assert_allclose(effects["reliability"], 1 - np.diag(dense.pev) / (G * np.diag(K)), rtol=1e-8)
        assert fit.refit(TABLE[y] + 1).theta["id"] == G
        again = flmm.find_reml(f"{y} ~ x + (1 | id)", TABLE, known={"id": K}, fixed=fit.theta, **QUIET)  # a Series
        assert again.loglik == fit.loglik
        assert_allclose(fit.function(lambda v: v["id"] / v["residual"]).estimate, G / E)


def test_the_point_of_a_kernel_is_where_its_variables_give_the_variances():
    point = of_kernel("y").point
    kbar = np.diag(K).mean()
    assert_allclose([point["h2"], point["total"]], [kbar * G / (kbar * G + E), kbar * G + E], rtol=1e-8)


def test_one_record_of_one_animal_is_enough_beside_a_known_mean():
    ped = cov.Pedigree(["bull", "calf"], [None, "bull"], [None, None])
    one = pd.DataFrame({"animal": ["calf"], "weight": [40.0], "base": [34.0]})
    fixed = {"animal": 20.0, "residual": 40.0}
    fit = flmm.find_reml("weight ~ 0 + offset(base) + (1 | animal)", one, known={"animal": ped}, fixed=fixed, **QUIET)
    assert_allclose(fit.effects("animal")["blup"], [1.0, 2.0])  # h² = 1/3 of 6, and half of it
    assert_allclose(fit.effects("animal")["reliability"], [1 / 12, 1 / 3])
