"""What other packages for this model get wrong, each as a test that this one does not."""

import math

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from pm_fastlmm import Spectrum, exact_posterior, log_likelihood, reml
from pm_fastlmm.kernel.likelihood.prior import shares
from pm_fastlmm.priors import VariancePrior


def fit_values(fit):
    return np.array([fit.h2, fit.pve, fit.sigma2_g, fit.sigma2_e, fit.loglik])


# ---------------------------------------------------------------- FaSTLMMlight


def test_beta_is_right_for_three_columns_and_an_asymmetric_rotation(build_problem):
    # Wᵀ in place of W gives the right β for one column, and for a symmetric rotation
    problem = build_problem("full-K")
    fit = reml(problem.spectrum, problem.y)
    V = fit.sigma2_g * problem.K + fit.sigma2_e * np.eye(23)
    L = scipy.linalg.cholesky(V, lower=True)
    white = scipy.linalg.solve_triangular(L, np.column_stack([problem.X, problem.y]), lower=True)
    assert_allclose(fit.beta, np.linalg.lstsq(white[:, :3], white[:, 3])[0], rtol=1e-9)
    assert_allclose(fit.beta_se, np.sqrt(np.diag(np.linalg.inv(white[:, :3].T @ white[:, :3]))), rtol=1e-9)


@pytest.mark.parametrize("x", [-800.0, -710.0, 710.0, 800.0])
def test_nothing_overflows_at_an_argument_of_710(x):
    h, one_minus = shares(np.array([x]))
    assert np.isfinite(VariancePrior().log_h2(np.array([x]))).all()
    assert_allclose(h + one_minus, 1)
    assert_allclose(
        VariancePrior(2.0, 3.0).log_h2(np.array([x])), (2 * x if x < 0 else -3 * x) + math.log(12), rtol=1e-12
    )


@pytest.mark.parametrize("size", [1e-4, 1e-9])
def test_a_small_K_keeps_all_its_eigenvalues(build_problem, size):
    problem = build_problem("full-K")
    spectrum = Spectrum.from_covariance(size * problem.K, problem.X)
    assert (spectrum.rank, spectrum.nullity) == (20, 0)
    fit, expected = reml(spectrum, problem.y), reml(problem.spectrum, problem.y)
    assert_allclose(fit_values(fit), fit_values(expected) * [1, 1, 1 / size, 1, 1], rtol=1e-8)


def test_a_duplicated_column_of_X_gives_finite_coefficients_and_the_right_likelihood(build_problem):
    problem = build_problem("low-W")
    with pytest.warns(UserWarning, match="'x3' dropped"):
        spectrum = Spectrum.from_factor(problem.W, np.column_stack([problem.X, problem.X[:, 2]]))
    fit, expected = reml(spectrum, problem.y), reml(problem.spectrum, problem.y)
    assert_allclose(fit_values(fit), fit_values(expected), rtol=1e-9)
    assert_allclose(fit.beta, expected.beta, rtol=1e-9)


# ---------------------------------------------------------------- glimix-core


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_a_small_y_gives_the_same_shares(build_problem, kind):
    problem = build_problem(kind)
    fit, expected = reml(problem.spectrum, 1e-4 * problem.y), reml(problem.spectrum, problem.y)
    assert_allclose(
        [fit.h2, fit.pve, fit.standard_errors()["h2"]],
        [expected.h2, expected.pve, expected.standard_errors()["h2"]],
        rtol=1e-8,
    )
    assert_allclose([fit.sigma2_g, fit.sigma2_e], [expected.sigma2_g * 1e-8, expected.sigma2_e * 1e-8], rtol=1e-8)


@pytest.mark.parametrize("delta", [1e-6, 1e-9, 1e-12])
def test_the_null_space_counts_however_small_delta_is(delta):
    # 5 groups of 6 and no fixed effects: Σ log d = 5 log(6 + δ) + 25 log δ, in closed form at any δ
    rng = np.random.default_rng(0)
    group = np.kron(np.eye(5), np.ones((6, 1)))
    means = np.arange(1.0, 6)
    within = rng.normal(size=30)
    within -= group @ (group.T @ within) / 6
    within *= math.sqrt(delta)
    rotated = Spectrum.from_factor(group).rotate(group @ means + within)
    between = 6 * (means**2).sum()
    expected = -0.5 * (
        30 * math.log(2 * math.pi)
        + 5 * math.log(6 + delta)
        + 25 * math.log(delta)
        + between / (6 + delta)
        + within @ within / delta
    )
    # y is rounded to eps, the parts of it within groups to eps/√δ
    assert_allclose(log_likelihood(rotated, 1.0, delta), expected, rtol=max(1e-12, 1e-15 / math.sqrt(delta)))


# ---------------------------------------------------------------- fastlmm


def test_a_missing_value_of_y_is_an_error_and_not_h2_of_zero(build_problem):
    problem = build_problem("full-K")
    y = problem.y.copy()
    y[3] = np.nan
    with pytest.raises(ValueError, match="y has 1 values that are NaN or infinite, the first at 3"):
        reml(problem.spectrum, y)


def test_h2_is_not_capped():
    # a response of the kernel alone but for a residual variance of 1e-8 of it
    rng = np.random.default_rng(2)
    group = np.kron(np.eye(8), np.ones((5, 1)))
    y = group @ rng.normal(size=8) + 1e-4 * rng.normal(size=40)
    fit = reml(Spectrum.from_factor(group, np.ones((40, 1))), y)
    assert 0.9999999 < fit.h2 < 1
    within = y - group @ (group.T @ y) / 5
    assert_allclose(fit.sigma2_e, within @ within / 32, rtol=1e-7)


# ---------------------------------------------------------------- GEMMA


def test_the_higher_of_two_modes_is_returned(cases):
    K, X, y = cases.bimodal7()
    fit = reml(Spectrum.from_covariance(K, X), y)
    assert fit.delta < 1
    rotated = Spectrum.from_covariance(K, X).rotate(y)
    assert fit.loglik > log_likelihood(rotated, 0.054651572415933346, 84.54420048563107) + 0.9


def test_no_residual_variance_is_found_as_a_boundary(cases):
    K, X, y = cases.delta0_ar1()
    fit = reml(Spectrum.from_covariance(K, X), y)
    assert (fit.delta, fit.sigma2_e, fit.boundary) == (0, 0, ("sigma2_e",))


def test_K_is_not_centred(build_problem):
    problem = build_problem("full-K")
    J = np.eye(23) - 1 / 23
    X = problem.X[:, 1:]  # without an intercept, centring K changes the model
    raw = reml(Spectrum.from_covariance(problem.K, X), problem.y)
    centred = reml(Spectrum.from_covariance(J @ problem.K @ J, X), problem.y)
    assert abs(raw.loglik - centred.loglik) > 0.01


# ---------------------------------------------------------------- statsmodels


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_the_boundary_is_reached_exactly(reference, method):
    data = reference.table("dyestuff2.csv")
    Z = (data["Batch"][:, None] == np.unique(data["Batch"])).astype(float)
    fit = reml(Spectrum.from_factor(Z, np.ones((30, 1))), data["Yield"], method=method)
    assert fit.converged
    assert (fit.sigma2_g, fit.h2, fit.delta) == (0, 0, math.inf)
    assert_allclose(fit.sigma2_e, np.var(data["Yield"], ddof=1 if method == "REML" else 0), rtol=1e-12)


# ---------------------------------------------------------------- torch_openreml


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0])
def test_no_jitter_is_added(build_problem, size):
    # variances far below any fixed jitter: the likelihood is that of V and of nothing else
    problem = build_problem("low-W")
    y = math.sqrt(size) * problem.y
    value = log_likelihood(problem.spectrum.rotate(y), 0.8 * size, 1.3 * size)
    expected = log_likelihood(problem.rotated, 0.8, 1.3) - 10 * math.log(size)
    assert_allclose(value, expected, rtol=1e-11)


def test_a_case_where_log_variances_stop_at_the_boundary_is_solved(cases, reference):
    K, X, y = cases.lowrank400x20()
    fit = reml(Spectrum.from_covariance(K, X), y)
    assert_allclose(fit.loglik, reference.json("cases.json")["lowrank400x20"]["loglik"], rtol=0, atol=1e-9)


# ---------------------------------------------------------------- the ML trap


@pytest.mark.parametrize("route", ["covariance", "factor"])
def test_ml_with_a_centred_kinship_and_an_intercept_is_called_unbounded(route):
    rng = np.random.default_rng(4)
    markers = rng.binomial(2, 0.3, size=(20, 80)).astype(float)
    markers -= markers.mean(0)
    X = np.ones((20, 1))
    K = markers @ markers.T / 80
    spectrum = Spectrum.from_covariance(K, X) if route == "covariance" else Spectrum.from_factor(markers / 80**0.5, X)
    fit = reml(spectrum, markers @ rng.normal(size=80) / 9 + rng.normal(size=20), method="ML")
    assert not fit.converged
    assert "the ML likelihood is unbounded as delta goes to 0" in fit.message


def test_the_same_kinship_with_the_rank_of_a_few_markers_is_bounded():
    # more null directions of K than X can hide: what y has there bounds the likelihood
    rng = np.random.default_rng(5)
    markers = rng.binomial(2, 0.3, size=(20, 6)).astype(float)
    markers -= markers.mean(0)
    y = markers @ rng.normal(size=6) + rng.normal(size=20)
    fit = reml(Spectrum.from_factor(markers, np.ones((20, 1))), y, method="ML")
    assert fit.converged
    assert math.isfinite(fit.loglik)


def test_reml_is_called_unbounded_when_K_and_X_explain_y(build_problem):
    problem = build_problem("low-W")
    fit = reml(problem.spectrum, problem.W @ np.ones(6))
    assert not fit.converged
    assert "unbounded as delta goes to 0, because K and X explain y exactly" in fit.message


@pytest.mark.parametrize("size", [1e-9, 1e-4, 1e9])
def test_the_exact_posterior_does_not_depend_on_the_units(build_problem, size):
    problem = build_problem("low-W")
    expected = exact_posterior(problem.spectrum, problem.y)
    by_y = exact_posterior(problem.spectrum, size * problem.y)
    by_K = exact_posterior(Spectrum.from_factor(math.sqrt(size) * problem.W, problem.X), problem.y)
    for posterior, factor in ((by_y, size**2), (by_K, 1.0)):
        assert_allclose(posterior.mean("h2"), expected.mean("h2"), rtol=1e-9)
        assert_allclose(posterior.mean("sigma2_e"), factor * expected.mean("sigma2_e"), rtol=1e-9)
