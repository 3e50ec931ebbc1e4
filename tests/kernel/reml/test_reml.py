"""REML and ML fits: invariances, standard errors, labelled failures, scale, several responses."""

import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from quantities import quantity

from pm_fastlmm import Spectrum, log_likelihood, reml

METHODS = ("REML", "ML")
SHARES = ("h2", "pve", "delta")
VARIANCES = ("sigma2", "sigma2_g", "sigma2_e", "total")


def dense_loglik(problem, oracle, g, e, method):
    dense = oracle.Dense(problem.K, problem.X, problem.y, g, e)
    return dense.loglik_reml if method == "REML" else dense.loglik_ml


# ---------------------------------------------------------------- the estimate


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("g", "e"), [(0.8, 1.3), (0.02, 2.0), (5.0, 0.04)])
def test_log_likelihood_is_the_dense_one_in_the_convention_of_lme4(problem, oracle, g, e, method):
    value = log_likelihood(problem.rotated, g, e, method=method)
    assert_allclose(value, dense_loglik(problem, oracle, g, e, method), rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_the_reported_maximum_is_the_dense_likelihood_at_the_estimate(problem, oracle, method):
    fit = reml(problem.spectrum, problem.y, method=method)
    assert fit.converged
    assert fit.boundary == ()
    assert fit.message == ""
    assert_allclose(fit.loglik, dense_loglik(problem, oracle, fit.sigma2_g, fit.sigma2_e, method), rtol=1e-10)
    for g, e in ((1.001, 1), (0.999, 1), (1, 1.001), (1, 0.999)):
        assert dense_loglik(problem, oracle, g * fit.sigma2_g, e * fit.sigma2_e, method) < fit.loglik


def test_restricted_score_vanishes_at_the_estimate(problem, oracle):
    fit = reml(problem.spectrum, problem.y)
    dense = oracle.Dense(problem.K, problem.X, problem.y, fit.sigma2_g, fit.sigma2_e)
    assert_allclose(dense.score * [fit.sigma2_g, fit.sigma2_e], 0, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_fields_are_functions_of_the_two_variances(problem, method):
    fit = reml(problem.spectrum, problem.y, method=method)
    g, e = fit.sigma2_g, fit.sigma2_e
    kbar = np.trace(problem.K) / 23
    X = np.zeros((23, 0)) if problem.X is None else problem.X
    M = np.eye(23) - X @ np.linalg.pinv(X)
    pbar = np.trace(M @ problem.K @ M) / (23 - X.shape[1])
    assert fit.sigma2 == g
    assert_allclose(fit.delta, e / g, rtol=1e-13)
    assert_allclose(fit.h2, kbar * g / (kbar * g + e), rtol=1e-12)
    assert_allclose(fit.pve, pbar * g / (pbar * g + e), rtol=1e-9)
    assert_allclose(fit.total, kbar * g + e, rtol=1e-12)
    assert fit.method == method


@pytest.mark.parametrize("method", METHODS)
def test_standard_errors_are_those_of_the_inverse_observed_information(problem, oracle, method):
    fit = reml(problem.spectrum, problem.y, method=method)
    g, e = fit.sigma2_g, fit.sigma2_e
    data = problem.K, problem.X, problem.y
    steps = ((g + 1e-30j * g, e, g), (g, e + 1e-30j * e, e))
    hessian = np.array([oracle.gradient(*data, a, b, method).imag / (1e-30 * size) for a, b, size in steps])
    cov = np.linalg.inv(-hessian)
    s = problem.spectrum
    functions = {
        "sigma2": lambda g, e: g,
        "sigma2_g": lambda g, e: g,
        "sigma2_e": lambda g, e: e,
        "delta": lambda g, e: e / g,
        "h2": lambda g, e: s.mean_diagonal * g / (s.mean_diagonal * g + e),
        "pve": lambda g, e: s.mean_eigval * g / (s.mean_eigval * g + e),
        "total": lambda g, e: s.mean_diagonal * g + e,
    }
    for name, function in functions.items():
        gradient = np.array([function(g + 1e-30j, e + 0j).imag, function(g + 0j, e + 1e-30j).imag]) / 1e-30
        assert_allclose(fit.standard_errors()[name], np.sqrt(gradient @ cov @ gradient), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_error_of_h2_is_the_curvature_of_its_profile(problem, oracle, method):
    fit = reml(problem.spectrum, problem.y, method=method)
    kbar, step = problem.spectrum.mean_diagonal, 1e-3 * fit.standard_errors()["h2"]
    h2 = fit.h2 + step * np.array([-2, -1, 0, 1, 2])
    f = oracle.profile_loglik(problem.K, problem.X, problem.y, kbar * (1 - h2) / h2, method)
    curvature = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * step**2)
    # rounding of the second difference: eps |ℓ| / (1e-3)² ≈ 1e-8 of the curvature
    assert_allclose(fit.standard_errors()["h2"], 1 / math.sqrt(-curvature), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_blup_pev_and_predictions_are_dense_ones_at_the_estimate(problem, oracle, method):
    fit = reml(problem.spectrum, problem.y, method=method)
    dense = oracle.Dense(problem.K, problem.X, problem.y, fit.sigma2_g, fit.sigma2_e)
    size = np.abs(problem.y).max()
    assert_allclose(fit.beta, dense.beta, rtol=1e-9)
    assert_allclose(fit.beta_cov, dense.beta_cov, rtol=1e-7, atol=1e-9 * np.abs(dense.beta_cov).max(initial=0))
    assert_allclose(fit.beta_se, np.sqrt(np.diag(dense.beta_cov)), rtol=1e-8)
    assert_allclose(fit.blup(), dense.blup, atol=1e-9 * size)
    assert_allclose(fit.pev(full=True), dense.pev, atol=1e-9 * fit.total)
    assert_allclose(fit.pev(), np.diag(dense.pev), rtol=1e-8)
    assert_allclose(fit.predict().mean, dense.fitted, atol=1e-9 * size)
    new = fit.predict(problem.X_new, problem.K_new, K_new_new=problem.K_new_new)
    X_new = np.zeros((4, 0)) if problem.X is None else problem.X_new
    mean, cov = dense.predict(X_new, problem.K_new, problem.K_new_new)
    assert_allclose(new.mean, mean, rtol=1e-9)
    assert_allclose(new.variance, np.diag(cov), rtol=1e-7)
    assert_allclose(new.se_observation**2, np.diag(cov) + fit.sigma2_e, rtol=1e-8)


def test_covariance_and_factor_give_the_same_fit(build_problem):
    for kind in ("full", "low"):
        by_K, by_W = (build_problem(f"{kind}-{way}") for way in "KW")
        first, second = reml(by_K.spectrum, by_K.y), reml(by_W.spectrum, by_W.y)
        for name in (*SHARES, *VARIANCES, "loglik", "beta", "h2_se"):
            assert_allclose(quantity(first, name), quantity(second, name), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_the_profile_of_h2_is_the_dense_one_and_peaks_at_the_estimate(problem, oracle, method):
    fit = reml(problem.spectrum, problem.y, method=method)
    h2 = np.array([0.01, 0.2, 0.5, 0.9, 0.99])
    delta = problem.spectrum.mean_diagonal * (1 - h2) / h2
    expected = oracle.profile_loglik(problem.K, problem.X, problem.y, delta, method)
    assert_allclose(fit.profile(h2), expected, rtol=1e-9)
    assert_allclose(fit.profile(fit.h2), fit.loglik, rtol=1e-12)
    assert (fit.profile(h2) < fit.loglik).all()
    none = log_likelihood(
        problem.rotated, 0.0, problem.rotated.norm2 / (problem.spectrum.df if method == "REML" else 23)
    )
    if method == "REML":
        assert_allclose(fit.profile(0.0), none, rtol=1e-12)
    for outside in (-0.1, 1.1):
        with pytest.raises(ValueError, match="h2 must be between 0 and 1"):
            fit.profile(outside)


# ---------------------------------------------------------------- invariance


def quantities(fit, names=(*SHARES, *VARIANCES, "loglik")):
    return np.array([quantity(fit, name) for name in names])


# a flat optimum is known to √eps in its argument: estimates are compared to 1e-6, likelihoods to 1e-9
def assert_same(first, second, factor=1.0, power=None):
    assert first.boundary == second.boundary
    assert_allclose(first.loglik, second.loglik, rtol=0, atol=1e-9 * (1 + abs(first.loglik)))
    for name in SHARES:
        assert_allclose(quantity(first, name), quantity(second, name), rtol=1e-6, atol=1e-9, err_msg=name)
    for name in VARIANCES:
        assert_allclose(quantity(first, name), quantity(second, name) * factor, rtol=1e-6, err_msg=name)


SEEDS = st.integers(0, 2**32 - 1)
INVARIANCE = settings(max_examples=15, deadline=None, derandomize=True)


def random_problem(seed):
    rng = np.random.default_rng(seed)
    n, m = 14, int(rng.choice([4, 20]))
    X = np.column_stack([np.ones(n), 5 * rng.normal(size=n), rng.exponential(size=n)])
    W = rng.normal(size=(n, m)) * rng.exponential(size=m) + rng.normal(size=m)
    y = X @ rng.normal(size=3) + W @ rng.normal(size=m) + 2 * rng.normal(size=n)
    return rng, W @ W.T, W, X, y


@given(SEEDS, st.sampled_from(METHODS))
@INVARIANCE
def test_recombining_the_columns_of_X_changes_the_likelihood_by_the_jacobian_and_nothing_else(seed, method):
    rng, K, _, X, y = random_problem(seed)
    A = rng.normal(size=(3, 3)) + 2 * np.eye(3)
    assume(np.linalg.cond(A) < 50)
    fit = reml(Spectrum.from_covariance(K, X), y, method=method)
    other = reml(Spectrum.from_covariance(K, X @ A), y, method=method)
    jacobian = np.linalg.slogdet(A)[1] if method == "REML" else 0.0
    assert_allclose(other.loglik + jacobian, fit.loglik, atol=1e-8)
    assert_allclose(
        quantities(other, (*SHARES[:2], *VARIANCES)), quantities(fit, (*SHARES[:2], *VARIANCES)), rtol=1e-6, atol=1e-9
    )
    assert_allclose(A @ other.beta, fit.beta, rtol=1e-6, atol=1e-8)
    assert_allclose(A @ other.beta_cov @ A.T, fit.beta_cov, rtol=1e-5, atol=1e-8)


@given(SEEDS, st.floats(-9, 9), st.sampled_from(METHODS))
@INVARIANCE
def test_the_units_of_y_scale_the_variances(seed, power, method):
    _, K, _, X, y = random_problem(seed)
    c = 10**power
    spectrum = Spectrum.from_covariance(K, X)
    fit, scaled = reml(spectrum, y, method=method), reml(spectrum, c * y, method=method)
    m = 11 if method == "REML" else 14
    assert scaled.boundary == fit.boundary
    assert_allclose(scaled.loglik + m * math.log(c), fit.loglik, atol=1e-8)
    assert_allclose(quantities(scaled, SHARES), quantities(fit, SHARES), rtol=1e-6, atol=1e-9)
    assert_allclose(quantities(scaled, VARIANCES), c**2 * quantities(fit, VARIANCES), rtol=1e-6)
    assert_allclose(scaled.beta, c * fit.beta, rtol=1e-6)
    assert_allclose(scaled.beta_se, c * fit.beta_se, rtol=1e-6)
    if fit.boundary == ():
        assert_allclose(
            [scaled.standard_errors()["h2"], scaled.standard_errors()["sigma2"] / c**2],
            [fit.standard_errors()["h2"], fit.standard_errors()["sigma2"]],
            rtol=1e-5,
        )


@given(SEEDS, st.floats(-9, 9), st.sampled_from(METHODS))
@INVARIANCE
def test_the_units_of_K_scale_sigma2_and_delta_alone(seed, power, method):
    _, K, W, X, y = random_problem(seed)
    c = 10**power
    fit = reml(Spectrum.from_covariance(K, X), y, method=method)
    for scaled in (
        reml(Spectrum.from_covariance(c * K, X), y, method=method),
        reml(Spectrum.from_factor(math.sqrt(c) * W, X), y, method=method),
    ):
        assert scaled.boundary == fit.boundary
        assert_allclose(scaled.loglik, fit.loglik, atol=1e-8)
        assert_allclose(
            [scaled.h2, scaled.pve, scaled.sigma2_e, scaled.total],
            [fit.h2, fit.pve, fit.sigma2_e, fit.total],
            rtol=1e-6,
            atol=1e-9,
        )
        assert_allclose([scaled.sigma2_g * c, scaled.delta / c], [fit.sigma2_g, fit.delta], rtol=1e-6)
        assert_allclose(
            [scaled.standard_errors()["h2"], scaled.standard_errors()["delta"] / c],
            [fit.standard_errors()["h2"], fit.standard_errors()["delta"]],
            rtol=1e-4,
        )


@given(SEEDS, st.sampled_from(METHODS))
@INVARIANCE
def test_the_order_of_the_rows_is_irrelevant(seed, method):
    rng, K, W, X, y = random_problem(seed)
    order = rng.permutation(14)
    for spectrum, permuted in (
        (Spectrum.from_covariance(K, X), Spectrum.from_covariance(K[np.ix_(order, order)], X[order])),
        (Spectrum.from_factor(W, X), Spectrum.from_factor(W[order], X[order])),
    ):
        fit, other = reml(spectrum, y, method=method), reml(permuted, y[order], method=method)
        assert_same(fit, other)
        assert_allclose(other.blup(), fit.blup()[order], rtol=1e-5, atol=1e-7)
        assert_allclose(other.beta, fit.beta, rtol=1e-6)


@given(SEEDS, st.sampled_from(METHODS))
@INVARIANCE
def test_adding_a_combination_of_X_to_y_moves_beta_alone(seed, method):
    rng, K, _, X, y = random_problem(seed)
    b = 10 * rng.normal(size=3)
    spectrum = Spectrum.from_covariance(K, X)
    fit, moved = reml(spectrum, y, method=method), reml(spectrum, y + X @ b, method=method)
    assert_same(fit, moved)
    assert_allclose(moved.beta - b, fit.beta, rtol=1e-6, atol=1e-8)
    assert_allclose(moved.blup(), fit.blup(), rtol=1e-5, atol=1e-7)


@given(SEEDS)
@INVARIANCE
def test_adding_variance_along_X_to_K_leaves_all_but_h2(seed):
    rng, K, _, X, y = random_problem(seed)
    A = rng.normal(size=(3, 3))
    fit = reml(Spectrum.from_covariance(K, X), y)
    other = reml(Spectrum.from_covariance(K + X @ A @ A.T @ X.T, X), y)
    assert_allclose(other.loglik, fit.loglik, atol=1e-7)
    assert_allclose(
        [other.pve, other.sigma2_g, other.sigma2_e], [fit.pve, fit.sigma2_g, fit.sigma2_e], rtol=1e-5, atol=1e-8
    )
    if fit.boundary == ():
        assert other.h2 > fit.h2
        assert_allclose(other.standard_errors()["pve"], fit.standard_errors()["pve"], rtol=1e-4)
    assert_allclose(other.beta, fit.beta, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- scale


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
@pytest.mark.parametrize("y_size", [1e-9, 1e9])
@pytest.mark.parametrize("K_size", [1e-9, 1e9])
def test_any_scale_of_y_and_K_gives_the_same_fit(build_problem, kind, y_size, K_size, method):
    problem = build_problem(kind)
    fit = reml(problem.spectrum, problem.y, method=method)
    if kind == "low-W":
        spectrum = Spectrum.from_factor(math.sqrt(K_size) * problem.W, problem.X)
    else:
        spectrum = Spectrum.from_covariance(K_size * problem.K, problem.X)
    scaled = reml(spectrum, y_size * problem.y, method=method)
    assert scaled.converged
    # no floor and no jitter: what is left is the rounding of the scaled input
    for name in ("h2", "pve", "h2_se", "pve_se"):
        assert_allclose(quantity(scaled, name), quantity(fit, name), rtol=1e-8, err_msg=name)
    assert_allclose(scaled.sigma2_g / y_size**2 * K_size, fit.sigma2_g, rtol=1e-8)
    assert_allclose(scaled.standard_errors()["sigma2_e"] / y_size**2, fit.standard_errors()["sigma2_e"], rtol=1e-8)
    assert_allclose(scaled.blup() / y_size, fit.blup(), rtol=1e-7, atol=1e-9)


# ---------------------------------------------------------------- labelled results


def assert_no_estimate(fit, *words):
    assert fit.converged is False
    assert fit.boundary == ()
    for word in words:
        assert word in fit.message
    for name in (*SHARES, *VARIANCES, "h2_se", "loglik"):
        assert math.isnan(quantity(fit, name)), name
    assert "NOT CONVERGED" in repr(fit)
    assert "undefined" in repr(fit)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("y", [np.full(23, 3.7), np.zeros(23), np.full(23, 1e-9), np.full(23, 1e9)])
def test_a_constant_response_is_labelled(build_problem, method, y):
    for kind in ("full-K", "low-W"):
        fit = reml(build_problem(kind).spectrum, y, method=method)
        assert_no_estimate(fit, "X explains y exactly", "Check for a constant y, or a column of X that equals it")


@pytest.mark.parametrize("method", METHODS)
def test_a_response_equal_to_a_column_of_X_is_labelled(build_problem, method):
    problem = build_problem("full-K")
    assert_no_estimate(reml(problem.spectrum, problem.X[:, 1], method=method), "X explains y exactly")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["low-W", "low-K"])
def test_a_response_in_the_span_of_W_and_X_is_labelled(build_problem, kind, mean, method):
    problem = build_problem(kind)
    y = mean + problem.W @ np.arange(1.0, 7) + problem.X[:, 1]
    fit = reml(problem.spectrum, y, method=method)
    assert_no_estimate(fit, "unbounded as delta goes to 0", "K and X explain y exactly", "Use a K of lower rank")


@pytest.mark.parametrize("method", METHODS)
def test_the_identity_as_kernel_is_labelled(method):
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(12), rng.normal(size=(12, 2))])
    fit = reml(Spectrum.from_covariance(3 * np.eye(12), X), rng.normal(size=12), method=method)
    assert_no_estimate(fit, "not identifiable", "K is a multiple of the identity", "Fit ordinary least squares")


@pytest.mark.parametrize("method", METHODS)
def test_a_kernel_of_zeros_is_labelled(method):
    y = np.arange(6.0) ** 2
    for spectrum in (
        Spectrum.from_covariance(np.zeros((6, 6)), np.ones((6, 1))),
        Spectrum.from_factor(np.ones((6, 2)), np.ones((6, 1))),
    ):
        assert_no_estimate(reml(spectrum, y, method=method), "orthogonal to X, K is zero", "Fit ordinary least squares")


def test_one_observation_is_labelled():
    fit = reml(Spectrum.from_covariance(np.eye(1)), [1.0])
    assert_no_estimate(fit, "not identifiable")


@pytest.mark.parametrize("method", METHODS)
def test_a_duplicated_column_of_X_is_dropped_by_name_and_changes_nothing(build_problem, method):
    problem = build_problem("full-K")
    X = pd.DataFrame(problem.X, columns=["mean", "age", "dose"]).assign(again=problem.X[:, 1])
    with pytest.warns(UserWarning, match="X has rank 3 but 4 columns: 'again' dropped"):
        spectrum = Spectrum.from_covariance(problem.K, X)
    fit, expected = reml(spectrum, problem.y, method=method), reml(problem.spectrum, problem.y, method=method)
    assert fit.coef == ("mean", "age", "dose")
    assert_allclose(quantities(fit), quantities(expected), rtol=1e-9)
    assert_allclose(fit.beta, expected.beta, rtol=1e-9)


def no_kernel_variance():
    """Alternating signs within groups: the group means vary less than chance."""
    group = np.kron(np.eye(4), np.ones((3, 1)))
    y = np.tile([1.0, -2.0, 4.0], 4) + np.repeat([0.01, 0.0, -0.01, 0.0], 3)
    return Spectrum.from_factor(group, np.ones((12, 1))), y


@pytest.mark.parametrize("method", METHODS)
def test_no_variance_is_ordinary_least_squares(method):
    spectrum, y = no_kernel_variance()
    fit = reml(spectrum, y, method=method)
    assert fit.converged is True
    assert fit.boundary == ("sigma2_g",)
    assert (fit.sigma2, fit.sigma2_g, fit.h2, fit.pve, fit.delta) == (0, 0, 0, 0, math.inf)
    df = 11 if method == "REML" else 12
    residual = y - y.mean()
    assert_allclose([fit.sigma2_e, fit.total], residual @ residual / df, rtol=1e-12)
    assert_allclose(fit.beta, [y.mean()], rtol=1e-12)
    assert_allclose(fit.beta_se, np.sqrt(fit.sigma2_e / 12), rtol=1e-12)
    assert_array_equal(fit.blup(), 0)
    assert_array_equal(fit.pev(), 0)
    expected = -0.5 * (df * (1 + np.log(2 * np.pi * fit.sigma2_e)) + (math.log(12) if method == "REML" else 0))
    assert_allclose(fit.loglik, expected, rtol=1e-12)
    errors = fit.standard_errors()
    assert_allclose(errors["sigma2_e"], fit.sigma2_e * math.sqrt(2 / df), rtol=1e-12)
    assert errors.drop(["sigma2_e", "beta[x0]"]).isna().all()
    assert "no kernel variance" in fit.message
    assert "standard errors" in fit.message
    assert "no kernel variance" in repr(fit)


def test_no_residual_variance_is_generalised_least_squares_with_K(cases):
    K, X, y = cases.delta0_ar1()
    fit = reml(Spectrum.from_covariance(K, X), y)
    Kinv = np.linalg.inv(K)
    beta = np.linalg.solve(X.T @ Kinv @ X, X.T @ Kinv @ y)
    residual = y - X @ beta
    assert (fit.converged, fit.boundary) == (True, ("sigma2_e",))
    assert (fit.delta, fit.sigma2_e, fit.h2, fit.pve) == (0, 0, 1, 1)
    assert_allclose(fit.beta, beta, rtol=1e-9)
    assert_allclose(fit.sigma2_g, residual @ Kinv @ residual / 39, rtol=1e-9)
    assert_allclose(fit.beta_cov, fit.sigma2_g * np.linalg.inv(X.T @ Kinv @ X), rtol=1e-9)
    assert_allclose(fit.predict().mean, y, rtol=1e-9)
    assert_allclose(fit.blup(), residual, rtol=1e-7, atol=1e-9)
    assert math.isnan(fit.standard_errors()["h2"])
    assert "sigma2_e = 0" in fit.message


def test_an_unbounded_ml_likelihood_is_labelled_and_its_interior_mode_reported(build_problem, oracle):
    problem = build_problem("full-K")
    J = np.eye(23) - 1 / 23
    K, X = J @ problem.K @ J, np.ones((23, 1))
    spectrum = Spectrum.from_covariance((K + K.T) / 2, X)
    fit = reml(spectrum, problem.y, method="ML")
    assert not fit.converged
    assert "the ML likelihood is unbounded as delta goes to 0" in fit.message
    assert "Use REML" in fit.message
    grid = fit.delta * np.array([0.99, 1.0, 1.01])
    f = oracle.profile_loglik(K, X, problem.y, grid, "ML")
    assert f[1] > max(f[0], f[2])
    assert_allclose(fit.loglik, f[1], rtol=1e-9)
    assert reml(spectrum, problem.y).converged


def test_ml_with_a_centred_kernel_and_no_intercept_is_bounded(build_problem):
    problem = build_problem("full-K")
    J = np.eye(23) - 1 / 23
    # the null direction of K is not along X: y has something left there, and δ → 0 is no maximum
    fit = reml(Spectrum.from_covariance(J @ problem.K @ J), problem.y, method="ML")
    assert fit.converged
    assert fit.delta > 0


@pytest.mark.parametrize("kind", ["low-W", "low-K"])
@pytest.mark.parametrize("e", [1e-10, 1e-16, 1e-22])
def test_the_ml_likelihood_of_a_low_rank_kernel_is_exact_at_tiny_delta(build_problem, kind, e):
    # |V| = σ_e^{2(n - m)} |WᵀW + σ²_eI|, and yᵀPy → ‖y off [X W]‖²/σ²_e
    problem = build_problem(kind)
    n, m = problem.W.shape
    both = np.hstack([problem.X, problem.W])
    coefficients = np.linalg.lstsq(both, problem.y)[0]
    left = problem.y - both @ coefficients
    logdet = (n - m) * math.log(e) + np.linalg.slogdet(problem.W.T @ problem.W)[1]
    # y of the size of σ_e, so that the quadratic form does not swamp the determinant
    small = problem.spectrum.rotate(math.sqrt(e) * problem.y)
    expected = -0.5 * (n * math.log(2 * math.pi) + logdet + left @ left)
    assert_allclose(log_likelihood(small, 1.0, e, method="ML"), expected, rtol=1e-7)


@pytest.mark.parametrize("kind", ["low-W", "low-K"])
@pytest.mark.parametrize("noise", [1e-6, 1e-9, 1e-12])
def test_ml_finds_a_tiny_residual_variance_under_a_low_rank_kernel(build_problem, kind, noise):
    problem = build_problem(kind)
    rng = np.random.default_rng(1)
    y = problem.W @ np.arange(1.0, 7) + noise * rng.normal(size=23)
    fit = reml(problem.spectrum, y, method="ML")
    both = np.hstack([problem.X, problem.W])
    a = np.linalg.lstsq(both, y)[0][3:]
    Q, left = np.linalg.qr(both)[0], y
    for _ in range(2):  # least squares leaves the condition of [X W] times eps in the residual, two projections do not
        left = left - Q @ (Q.T @ left)
    assert fit.converged
    assert fit.boundary == ()
    # as δ → 0 the log-likelihood splits: n - m terms in σ²_e, m in σ²_g; y is rounded to eps
    assert_allclose(fit.sigma2_e, left @ left / 17, rtol=max(1e-6, 1e-14 / noise))
    assert_allclose(fit.sigma2_g, a @ a / 6, rtol=1e-5)
    free = problem.X - problem.W @ np.linalg.lstsq(problem.W, problem.X)[0]
    assert_allclose(fit.beta_se, np.sqrt(fit.sigma2_e * np.diag(np.linalg.inv(free.T @ free))), rtol=1e-4)


# ---------------------------------------------------------------- several responses


def several(problem):
    group_free = problem.y - problem.y.mean()
    return np.column_stack([problem.y, np.full(23, 2.0), np.tile([1.0, -1.0], 12)[:23] * np.abs(group_free) ** 0.1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_several_responses_are_each_fitted_as_if_alone(build_problem, kind, method):
    problem = build_problem(kind)
    Y = several(problem)
    fits = reml(problem.spectrum, Y, method=method)
    assert fits.beta.shape == (3, 3)
    assert fits.blue_cov.shape == (3, 3, 3)
    # the user's arrays are (n, T)
    assert fits.blup().shape == fits.pev().shape == fits.predict().mean.shape == (23, 3)
    new = fits.predict(problem.X_new, problem.K_new, K_new_new=problem.K_new_new)
    for t in range(3):
        one = reml(problem.spectrum, Y[:, t], method=method)
        assert (fits.boundary[t], bool(fits.converged[t]), fits.message[t]) == (
            one.boundary,
            one.converged,
            one.message,
        )
        for name in (*SHARES, *VARIANCES, "loglik", "h2_se", "beta", "beta_se", "beta_cov"):
            assert_allclose(quantity(fits, name)[t], quantity(one, name), rtol=1e-7, err_msg=name)
        assert_allclose(fits.blup()[:, t], one.blup(), rtol=1e-6, atol=1e-9)
        assert_allclose(fits.pev()[:, t], one.pev(), rtol=1e-7)
        single = one.predict(problem.X_new, problem.K_new, K_new_new=problem.K_new_new)
        assert_allclose(new.mean[:, t], single.mean, rtol=1e-7)
        assert_allclose(new.variance[:, t], single.variance, rtol=1e-6)
        assert_allclose(new.se_observation[:, t], single.se_observation, rtol=1e-6)
        assert_allclose(fits.predict().variance[:, t], one.predict().variance, rtol=1e-7)
    assert list(fits.converged) == [True, False, True]
    with pytest.raises(ValueError, match=r"pev\(full=True\) is a matrix for one response"):
        fits.pev(full=True)
    with pytest.raises(ValueError, match="the profile is that of one response"):
        fits.profile(0.5)


def test_the_summary_of_several_responses_has_a_block_for_each(build_problem):
    problem = build_problem("low-W")
    Y = pd.DataFrame(several(problem), columns=["height", "flat", "sign"])
    fits = reml(problem.spectrum, Y)
    table = fits.summary()
    assert list(table.index.unique("response")) == ["height", "flat", "sign"]
    one = reml(problem.spectrum, Y["height"]).summary()
    pd.testing.assert_frame_equal(table.loc["height"], one, check_names=False, rtol=1e-7)
    assert repr(fits) == "REML fit of y ~ N(Xβ, σ²(K + δI)): 23 observations, 3 responses; .summary() has the table"


def test_rotated_responses_are_accepted_in_place_of_y(problem):
    assert reml(problem.spectrum, problem.rotated).loglik == reml(problem.spectrum, problem.y).loglik


# ---------------------------------------------------------------- the object


def test_summary_and_text_show_the_estimates(build_problem):
    problem = build_problem("full-K")
    fit = reml(problem.spectrum, problem.y)
    table = fit.summary()
    assert list(table.index) == [
        "h2",
        "pve",
        "sigma2",
        "delta",
        "sigma2_g",
        "sigma2_e",
        "total",
        "beta[x0]",
        "beta[x1]",
        "beta[x2]",
    ]
    for name in ("h2", "pve", "sigma2", "delta", "sigma2_g", "sigma2_e", "total"):
        assert table.loc[name, "estimate"] == quantity(fit, name)
        assert table.loc[name, "se"] == quantity(fit, f"{name}_se")
    assert_array_equal(table.loc["beta[x0]":, "estimate"], fit.beta)
    assert_array_equal(table.loc["beta[x0]":, "se"], fit.beta_se)
    text = repr(fit)
    assert text.startswith("REML fit of y ~ N(Xβ, σ²(K + δI))\n23 observations\n")
    assert f"log-likelihood {fit.loglik:.7f}" in text
    assert text.endswith("converged")


def test_one_response_gives_plain_numbers(build_problem):
    problem = build_problem("low-W")
    fit = reml(problem.spectrum, problem.y)
    for name in (*SHARES, *VARIANCES, "loglik"):
        assert type(quantity(fit, name)) is float, name
    assert type(fit.converged) is bool
    assert type(fit.message) is str


def test_a_likelihood_of_negative_variances_is_refused(problem):
    for g, e in ((-1.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="variances must not be negative"):
            log_likelihood(problem.rotated, g, e)
    with pytest.raises(TypeError, match="rotated must be a Rotated, got ndarray: rotate y first"):
        log_likelihood(problem.y, 1.0, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_likelihood_without_any_variance_is_zero(problem, method):
    assert log_likelihood(problem.rotated, 0.0, 0.0, method=method) == -math.inf
    at_zero = log_likelihood(problem.rotated, 1.0, 0.0, method=method)
    assert (at_zero == -math.inf) == (problem.spectrum.nullity > 0)


@pytest.mark.parametrize("method", ["reml", "restricted", None])
def test_an_unknown_method_is_refused(build_problem, method):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match=f"method must be 'REML' or 'ML', got {method!r}"):
        reml(problem.spectrum, problem.y, method=method)


def test_something_that_is_no_spectrum_is_refused(build_problem):
    problem = build_problem("low-W")
    with pytest.raises(TypeError, match="spectrum must be a Spectrum, got ndarray"):
        reml(problem.K, problem.y)


def test_missing_values_of_y_are_refused_and_subset_is_named(build_problem):
    problem = build_problem("low-W")
    y = problem.y.copy()
    y[4] = np.nan
    with pytest.raises(ValueError, match=r"y has 1 values that are NaN or infinite, the first at 4: .*spectrum.subset"):
        reml(problem.spectrum, y)


def test_what_came_in_with_ids_leaves_with_them(build_problem):
    problem = build_problem("full-K")
    ids = [f"id{i}" for i in range(23)]
    new_ids = [f"new{i}" for i in range(len(problem.K_new))]
    plain = reml(problem.spectrum, problem.y)
    K = pd.DataFrame(problem.K, index=ids, columns=ids)
    spectrum = Spectrum.from_covariance(K, problem.X)
    y = pd.Series(problem.y, index=ids)
    fit, fits = reml(spectrum, y[::-1]), reml(spectrum, pd.DataFrame({"a": y, "b": 2 * y}))
    for values, reference in (
        (fit.blup(), plain.blup()),
        (fit.pev(), plain.pev()),
        (fit.predict().mean, plain.predict().mean),
        (fit.predict().se, plain.predict().se),
        (fit.predict().se_observation, plain.predict().se_observation),
        (fits.blup()["a"], plain.blup()),
        (fits.predict().se_observation["b"], 2 * plain.predict().se_observation),
    ):
        assert isinstance(reference, np.ndarray)
        assert list(values.index) == ids
        assert_allclose(values, reference, rtol=1e-6)
    assert list(fits.pev().columns) == ["a", "b"]
    assert (fit.blup().name, fit.pev().name, fit.predict().se.name) == ("blup", "pev", "se")
    full = fit.pev(full=True)
    assert list(full.index) == list(full.columns) == ids
    assert_allclose(full, plain.pev(full=True), rtol=1e-9, atol=1e-12)
    K_new = pd.DataFrame(problem.K_new, index=new_ids, columns=ids)
    new = fit.predict(problem.X_new, K_new, K_new_new=problem.K_new_new)
    assert list(new.mean.index) == list(new.variance.index) == new_ids
    assert_allclose(new.mean, plain.predict(problem.X_new, problem.K_new).mean, rtol=1e-7)


def test_ids_that_are_tuples_stay_single_labels():
    ids = [(family, i) for family in "abc" for i in range(4)]
    batch = pd.DataFrame(np.repeat(np.eye(3), 4, axis=0), index=pd.Index(ids, tupleize_cols=False))
    y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    blup = reml(Spectrum.from_factor(batch, np.ones((12, 1))), y).blup()
    assert list(blup.index) == ids
    assert blup.index.nlevels == 1


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_a_fit_survives_copying_and_pickling(problem, clone):
    fit = reml(problem.spectrum, problem.y)
    again = clone(fit)
    assert repr(again) == repr(fit)
    assert_array_equal(again.blup(), fit.blup())
    assert_array_equal(again.pev(), fit.pev())
    assert_array_equal(again.predict().variance, fit.predict().variance)


def test_a_fit_cannot_be_changed(build_problem):
    problem = build_problem("low-W")
    fit = reml(problem.spectrum, problem.y)
    with pytest.raises(AttributeError):
        fit.sigma2_g = 0.5
    with pytest.raises((AttributeError, TypeError)):
        fit.h2 = 0.5


def test_no_response_and_two_of_one_name_are_refused(build_problem):
    problem = build_problem("full-K")
    with pytest.raises(ValueError, match="y has no columns: give at least one response"):
        reml(problem.spectrum, np.zeros((23, 0)))
    fits = reml(problem.spectrum, pd.DataFrame(np.column_stack([problem.y, 2 * problem.y]), columns=["a", "a"]))
    with pytest.raises(ValueError, match="several responses are called 'a': rename the columns of y"):
        fits.response("a")
