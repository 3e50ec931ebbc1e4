"""Fits of lme4 and nlme, and of 40-digit arithmetic, reproduced."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm import Spectrum, log_likelihood, reml
from pm_fastlmm.kernel.effects.effects import blue
from pm_fastlmm.kernel.likelihood.profile import Profile

# name: (table, response, covariate, grouping factor)
MODELS = {
    "sleepstudy_intercept": ("sleepstudy.csv", "Reaction", "Days", "Subject"),
    "dyestuff": ("dyestuff.csv", "Yield", None, "Batch"),
    "dyestuff2": ("dyestuff2.csv", "Yield", None, "Batch"),
}


def one_way(reference, name):
    table, response, covariate, factor = MODELS[name]
    data = reference.table(table)
    y, groups = data[response], data[factor]
    X = np.column_stack([np.ones(len(y)), *([data[covariate]] if covariate else [])])
    Z = (groups[:, None] == np.unique(groups)).astype(float)
    return X, Z, y


@pytest.mark.parametrize("route", ["factor", "covariance"])
@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", list(MODELS))
def test_random_intercepts_equal_lme4(reference, name, method, route):
    expected = next(r for r in reference.json("lme4_nlme.json") if r["name"] == f"{name}_{method.lower()}")
    X, Z, y = one_way(reference, name)
    spectrum = Spectrum.from_factor(Z, X) if route == "factor" else Spectrum.from_covariance(Z @ Z.T, X)
    fit = reml(spectrum, y, method=method)
    sigma2_g, sigma2_e = expected["vcov"]
    r = X.shape[1]
    # lme4 finds the log-likelihood to 1e-9 and variances to about 1e-7 relative
    assert fit.converged
    assert_allclose(fit.loglik, expected["loglik"], rtol=0, atol=1e-7)
    assert_allclose([fit.sigma2_g, fit.sigma2_e], [sigma2_g, sigma2_e], rtol=1e-6)
    assert_allclose(fit.h2, sigma2_g / (sigma2_g + sigma2_e), rtol=1e-6)
    assert_allclose(fit.beta, expected["beta"], rtol=1e-10)
    assert_allclose(fit.beta_cov, np.reshape(expected["vcov_beta"], (r, r)), rtol=1e-6)
    assert fit.boundary == (("sigma2_g",) if name == "dyestuff2" else ())


def orthodont(reference):
    data = reference.table("orthodont.csv")
    X = np.column_stack([np.ones(len(data["age"])), data["age"], data["Sex"] == "Female"]).astype(float)
    male = data["Sex"] == "Male"
    same = data["Subject"][:, None] == data["Subject"]
    lag = np.abs(data["age"][:, None] - data["age"]) / 2
    return X, data["distance"], same, lag, male


@pytest.mark.parametrize("name", ["ar1", "intercept_ar1", "compsymm_hetero"])
def test_the_restricted_likelihood_of_a_given_covariance_equals_nlme(reference, name):
    row = next(r for r in reference.json("lme4_nlme.json") if r["name"] == f"orthodont_{name}_reml")
    X, y, same, lag, male = orthodont(reference)
    if name == "compsymm_hetero":
        sd = np.where(male, row["sd_ratio"][0], 1.0)
        R = np.where(same, row["rho"], 0.0) * np.outer(sd, sd)
        np.fill_diagonal(R, sd**2)
    else:
        R = np.where(same, row["rho"] ** lag, 0.0)
    K = row["sigma2"] * R + row.get("sigma2_subject", 0.0) * same
    beta = np.array(row["beta"])
    females = np.column_stack([np.ones(len(y)), X[:, 1], ~male])
    males = np.column_stack([np.ones(len(y)), X[:, 1], male])
    fits = {}
    for coding, design in {"females": females, "males": males}.items():
        rotated = Spectrum.from_covariance(K, design.astype(float)).rotate(y)
        fits[coding] = float(log_likelihood(rotated, 1.0, 0.0)), blue(rotated, 1.0, 0.0)
    # the contrast of Sex is males against females, coded 0/1
    loglik, estimate = fits["males"]
    assert_allclose(estimate.beta, beta, rtol=1e-6)
    assert_allclose(loglik, row["loglik"], rtol=0, atol=1e-7)
    if "vcov_beta" in row:
        assert_allclose(estimate.cov, np.reshape(row["vcov_beta"], (3, 3)), rtol=1e-6, atol=1e-9)


CASES = ("grm300", "lowrank400x20", "bimodal7", "delta0_ar1", "h2zero_grm")


def case(cases, name):
    K, X, y = getattr(cases, name)()
    return K, X, y


@pytest.mark.parametrize("name", CASES)
def test_generated_data_are_those_of_the_reference(cases, reference, name):
    K, _, y = case(cases, name)
    check = reference.json("cases.json")[name]["checksum"]
    assert_allclose([K.sum(), y.sum(), y[0]], [check["K_sum"], check["y_sum"], check["y_first"]], rtol=1e-9, atol=1e-9)


def factor_of(K):
    values, U = np.linalg.eigh(K)
    keep = values > 1e-10 * values.max()
    return U[:, keep] * np.sqrt(values[keep])


@pytest.mark.parametrize("route", ["covariance", "factor"])
@pytest.mark.parametrize("name", CASES)
def test_synthetic_cases_equal_forty_digit_arithmetic(cases, reference, name, route):
    expected = reference.json("cases.json")[name]
    K, X, y = case(cases, name)
    spectrum = Spectrum.from_covariance(K, X) if route == "covariance" else Spectrum.from_factor(factor_of(K), X)
    fit = reml(spectrum, y)
    assert fit.converged
    assert_allclose(fit.loglik, expected["loglik"], rtol=0, atol=1e-9)
    assert_allclose(fit.loglik + spectrum.projection.logdet_R, expected["loglik_contrasts"], rtol=0, atol=1e-9)
    assert_allclose(fit.delta, math.inf if expected["delta"] == "inf" else expected["delta"], rtol=1e-8)
    assert_allclose([fit.sigma2_g, fit.sigma2_e], [expected["sigma2_g"], expected["sigma2_e"]], rtol=1e-8)
    assert_allclose(fit.beta, expected["beta"], rtol=1e-8)
    assert_allclose(fit.beta_se, expected["beta_se"], rtol=1e-8)
    boundary = {"delta0_ar1": ("sigma2_e",), "h2zero_grm": ("sigma2_g",)}
    assert fit.boundary == boundary.get(name, ())


def test_the_other_mode_of_bimodal7_is_a_maximum_too(cases, reference):
    expected = reference.json("cases.json")["bimodal7"]
    other = expected["local_modes"][0]
    K, X, y = cases.bimodal7()
    rotated = Spectrum.from_covariance(K, X).rotate(y)
    profile = Profile.from_rotated(rotated, "REML")
    x = np.log([expected["delta"], other["delta"]]) - math.log(rotated.spectrum.eigvals.max())
    assert_allclose(profile.slope(x), 0, atol=1e-10)
    assert (profile.curvature(x) > 0).all()
    loglik = log_likelihood(rotated, other["sigma2_g"], other["sigma2_e"])
    assert_allclose(loglik + rotated.spectrum.projection.logdet_R, other["loglik_contrasts"], rtol=0, atol=1e-9)
