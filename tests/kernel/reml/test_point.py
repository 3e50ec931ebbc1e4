"""The fit without eigenvectors equals the fit with them."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from quantities import quantity

from pm_fastlmm import Spectrum, reml, reml_point

NUMBERS = (
    "h2", "pve", "delta", "sigma2", "sigma2_g", "sigma2_e", "total", "h2_se", "pve_se", "delta_se", "sigma2_e_se",
    "loglik", "loglik_null", "beta", "beta_se", "beta_cov",
)  # fmt: skip


def assert_same(point, fit, rtol=1e-9):
    assert (point.boundary, point.converged, point.message) == (fit.boundary, fit.converged, fit.message)
    assert (point.coef, point.n_obs, point.method) == (fit.coef, fit.n_obs, fit.method)
    for name in NUMBERS:
        expected = quantity(fit, name)
        atol = 1e-9 * np.abs(expected).max(initial=0) if np.ndim(expected) else 0
        assert_allclose(quantity(point, name), expected, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("kind", ["full-K", "low-K", "full-K-noX"])
@pytest.mark.parametrize("n", [23, 150])
def test_every_number_is_that_of_the_spectral_fit(build_problem, kind, n, method):
    problem = build_problem(kind, n=n)
    point = reml_point(problem.K, problem.y, problem.X, method=method)
    assert_same(point, reml(problem.spectrum, problem.y, method=method))
    assert point.rotated is None


@pytest.mark.parametrize("name", ["grm300", "lowrank400x20", "bimodal7", "delta0_ar1", "h2zero_grm"])
def test_the_solutions_of_forty_digit_arithmetic_are_reproduced(cases, reference, name):
    expected = reference.json("cases.json")[name]
    K, X, y = getattr(cases, name)()
    fit = reml_point((K + K.T) / 2, y, X)
    assert_allclose(fit.loglik, expected["loglik"], rtol=0, atol=1e-8)
    assert_allclose(fit.delta, math.inf if expected["delta"] == "inf" else expected["delta"], rtol=1e-8)
    assert_allclose(fit.beta, expected["beta"], rtol=1e-8)
    assert_allclose(fit.beta_se, expected["beta_se"], rtol=1e-8)
    assert_same(fit, reml(Spectrum.from_covariance((K + K.T) / 2, X), y), rtol=1e-8)


@pytest.mark.parametrize("size", [1e-4, 1e-7])
def test_a_residual_variance_far_below_a_singular_kernel_is_that_of_the_spectral_fit(size):
    rng = np.random.default_rng(2)
    W = rng.normal(size=(80, 30))
    X = np.ones((80, 1))
    y = W @ rng.normal(size=30) + size * rng.normal(size=80)
    point, fit = reml_point(W @ W.T, y, X), reml(Spectrum.from_covariance(W @ W.T, X), y)
    # y is rounded to eps, and the null space of K turns by as much: σ²_e is known to eps/size
    assert_allclose(point.sigma2_e, fit.sigma2_e, rtol=1e-14 / size)
    assert_allclose(point.loglik, fit.loglik, atol=1e-10 / size)
    assert_allclose(point.sigma2_g, fit.sigma2_g, rtol=1e-7)


def test_a_few_responses_and_labels_are_matched_by_id(build_problem):
    problem = build_problem("full-K")
    ids = [f"p{i}" for i in range(23)]
    K = pd.DataFrame(problem.K, index=ids, columns=ids)
    X = pd.DataFrame(problem.X, index=ids, columns=["mean", "age", "dose"])
    Y = pd.DataFrame({"a": problem.y, "flat": 1.0, "b": problem.y[::-1]}, index=ids)
    point = reml_point(K, Y.sample(frac=1, random_state=2), X.iloc[::-1])
    fits = reml(Spectrum.from_covariance(K, X), Y)
    assert point.names == ("a", "flat", "b")
    assert point.coef == ("mean", "age", "dose")
    assert_array_equal(point.converged, [True, False, True])
    for name in NUMBERS[:-3]:
        assert_allclose(quantity(point, name), quantity(fits, name), rtol=1e-9, err_msg=name)
    assert_same(reml_point(K, Y["a"], X), fits.response("a"))


@pytest.mark.parametrize("K", [3 * np.eye(9), np.ones((9, 9))])
def test_what_has_no_estimate_is_labelled_alike(K):
    y, X = np.arange(9.0) ** 2, np.ones((9, 1))
    fit = reml_point(K, y, X)
    assert not fit.converged
    assert fit.message == reml(Spectrum.from_covariance(K, X), y).message


def test_what_needs_eigenvectors_is_refused_and_named(build_problem):
    problem = build_problem("full-K")
    fit = reml_point(problem.K, problem.y, problem.X)
    for use in (fit.blup, fit.pev, fit.predict, lambda: fit.profile(0.5), lambda: fit.spectrum):
        with pytest.raises(ValueError, match=r"keeps no eigenvectors.*fit flmm.reml\(spectrum, y\)"):
            use()
    assert "log-likelihood" in repr(fit)
    assert dict(fit.to_dataset().sizes) == {"coef": 3}


def test_bad_input_is_refused_as_by_from_covariance(build_problem):
    problem = build_problem("full-K")
    with pytest.raises(ValueError, match="K is not positive semi-definite"):
        reml_point(problem.K - 5 * np.eye(23), problem.y, problem.X)
    with pytest.raises(ValueError, match="K must be square"):
        reml_point(problem.W, problem.y, problem.X)
    with pytest.raises(ValueError, match="y has 22 rows but the spectrum has 23"):
        reml_point(problem.K, problem.y[:-1], problem.X)
    with pytest.raises(ValueError, match="method must be 'REML' or 'ML', got 'MAP'"):
        reml_point(problem.K, problem.y, problem.X, method="MAP")
