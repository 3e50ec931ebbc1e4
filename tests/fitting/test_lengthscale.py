"""REML of a kernel with a lengthscale: the maximum of the dense likelihood, its curvature, boundaries and ranges."""

import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize

import pm_fastlmm as flmm

QUIET = {"progressbar": False}


@pytest.fixture(scope="module")
def example(lengthscales):
    return lengthscales.Example()


@pytest.fixture(scope="module")
def fit(example):
    return flmm.find_reml(example.model(), **QUIET)


def dense_loglik(oracle, example, theta):
    ell, g, e = theta
    return oracle.Dense(example.K(ell), example.X, example.y, g, e).loglik_reml


def test_the_estimate_is_the_maximum_of_the_dense_likelihood(example, fit, oracle):
    best = minimize(
        lambda log_theta: -dense_loglik(oracle, example, np.exp(log_theta)),
        np.log([0.3, 1.5, 0.2]),
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 2000},
    )
    assert fit.converged
    assert fit.boundary == ()
    assert_allclose(fit.loglik, -best.fun, atol=2 * example.spectrum.tolerance)
    assert_allclose(fit.theta, np.exp(best.x), rtol=5e-3)
    assert_allclose(fit.score * fit.standard_errors()[:3], 0, atol=1e-6)
    dense = oracle.Dense(example.K(fit.theta["lengthscale"]), example.X, example.y, *fit.theta[1:])
    assert_allclose(fit.beta, dense.beta, rtol=1e-8)
    assert_allclose(fit.beta_cov, dense.beta_cov, rtol=1e-8)
    assert_allclose(fit.objective.covariance(fit.at()), dense.V, rtol=1e-12)


def test_standard_errors_are_the_curvature_of_the_dense_likelihood(example, fit, oracle):
    theta, h = fit.theta.to_numpy(), 1e-3
    H = np.empty((3, 3))
    steps = h * np.diag(theta)
    for i in range(3):
        for j in range(3):
            corners = [
                a * b * dense_loglik(oracle, example, theta + a * steps[i] + b * steps[j])
                for a in (1, -1)
                for b in (1, -1)
            ]
            H[i, j] = sum(corners) / (4 * h**2 * theta[i] * theta[j])
    assert_allclose(fit.cov, np.linalg.inv(-H), rtol=0.02, atol=0.02 * np.abs(np.linalg.inv(-H)).min())


def test_derivatives_of_V_are_those_of_differences(fit):
    objective, theta = fit.objective, fit.theta.to_numpy()
    for i, step in enumerate(1e-5 * np.diag(theta)):
        difference = (objective.covariance(theta + step) - objective.covariance(theta - step)) / (2 * step[i])
        assert_allclose(objective.covariance_derivatives(theta)[i], difference, atol=1e-5 * np.abs(difference).max())


def test_the_point_is_in_the_variables_of_the_model(example, fit):
    with pm.Model() as model:
        log_ell = pm.Uniform("log_ell", *np.log(example.spectrum.lengthscale))
        share, total = pm.Beta("share", 1, 1), pm.HalfNormal("total", 3)
        flmm.LengthscaleLMM(
            "y", spectrum=example.spectrum, lengthscale=pm.math.exp(log_ell), h2=share, total=total, observed=example.y
        )
    other = flmm.find_reml(model, **QUIET)
    assert_allclose(other.theta, fit.theta, rtol=1e-6)
    assert_allclose(np.exp(other.point["log_ell"]), fit.theta["lengthscale"], rtol=1e-4)
    assert_allclose(other.point["share"] * other.point["total"], fit.theta["sigma2_g"], rtol=1e-4)


def test_constants_of_the_model_are_held(example, fit):
    with pm.Model() as model:
        e = pm.HalfNormal("e", 1)
        flmm.LengthscaleLMM(
            "y", spectrum=example.spectrum, lengthscale=0.5, sigma2_g=2.0, sigma2_e=e, observed=example.y
        )
    held = flmm.find_reml(model, **QUIET)
    assert_allclose(held.theta[:2], [0.5, 2.0])
    assert held.loglik < fit.loglik
    grid = held.theta["sigma2_e"] * np.array([0.99, 1.0, 1.01])
    values = example.spectrum.rotate(example.y).loglik(0.5, 2.0, grid)
    assert values.argmax() == 1
    assert np.isnan(held.standard_errors()["lengthscale"])


def test_the_maximum_is_global_and_a_fixed_lengthscale_is_reml_there(example, fit):
    by_start = [flmm.find_reml(example.model(), start={"lengthscale": v}, **QUIET).loglik for v in (0.1, 1.2)]
    assert max(by_start) <= fit.loglik + 1e-8
    fixed = flmm.find_reml(example.model(), fixed={"lengthscale": 0.6}, **QUIET)
    single = flmm.reml(example.spectrum.at(0.6), example.y)
    assert_allclose(fixed.loglik, single.loglik, atol=2 * example.spectrum.tolerance)
    assert_allclose(fixed.theta[1:], [single.sigma2_g, single.sigma2_e], rtol=5e-3)


def test_without_kernel_variance_the_lengthscale_has_no_estimate(example):
    rng = np.random.default_rng(11)
    y = rng.permutation(example.y - example.X @ [3.0, -1.0])
    y = y - np.convolve(y, [0.5, 0, 0.5], mode="same")  # neighbours alternate: no smooth function helps
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.1, 1.4), pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        flmm.LengthscaleLMM("y", spectrum=example.spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=y)
    fit = flmm.find_reml(model, **QUIET)
    assert fit.theta["sigma2_g"] == 0
    assert set(fit.boundary) == {"lengthscale", "sigma2_g"}
    assert "sigma2_g is 0, so that the lengthscale has no influence and no estimate" in fit.message
    assert_allclose(fit.loglik, flmm.reml(example.spectrum.at(0.3), y).loglik_null, rtol=1e-9)
    assert np.isfinite(fit.standard_errors()["sigma2_e"])
    assert np.isnan(fit.standard_errors()["lengthscale"])


def test_an_estimate_at_the_end_of_the_range_is_labelled(example):
    short = flmm.LengthscaleSpectrum.from_coordinates(
        example.x, lengthscale=(0.05, 0.1), X=example.X, delta=(1e-2, 1e2), **QUIET
    )  # fmt: skip
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.05, 0.1), pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        flmm.LengthscaleLMM("y", spectrum=short, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=example.y)
    fit = flmm.find_reml(model, **QUIET)
    assert fit.boundary == ("lengthscale",)
    assert "at an end of the range of the spectrum, 0.05 to 0.1: build the spectrum with a wider one" in fit.message
    assert np.isfinite(fit.standard_errors()[["sigma2_g", "sigma2_e"]]).all()


def test_a_delta_below_what_was_checked_is_labelled(lengthscales):
    precise = lengthscales.Example(n=40, noise=1e-7)
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.1, 1.4), pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        flmm.LengthscaleLMM("y", spectrum=precise.spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=precise.y)
    assert (
        "is below the range of the spectrum, where its likelihood was not checked"
        in flmm.find_reml(model, **QUIET).message
    )


def test_maximum_likelihood_is_refused(example):
    with pytest.raises(ValueError, match=r"has a lengthscale, whose spectra give the restricted likelihood"):
        flmm.find_reml(example.model(), method="ML", **QUIET)


def test_variables_that_do_not_determine_the_parameters_are_refused(example):
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.1, 1.4), pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        scale = pm.HalfNormal("scale", 1)
        flmm.LengthscaleLMM(
            "y", spectrum=example.spectrum, lengthscale=ell, sigma2_g=scale * g, sigma2_e=scale * e, observed=example.y
        )
    with pytest.raises(ValueError, match="do not determine lengthscale, sigma2_g and sigma2_e of y one by one"):
        flmm.find_reml(model, **QUIET)


def test_effects_are_those_of_the_spectrum_at_the_estimate(fit):
    with pytest.raises(ValueError, match="no terms whose effects"):
        fit.blup()
