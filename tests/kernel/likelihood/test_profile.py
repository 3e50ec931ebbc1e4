"""The profile likelihood, its slope and limits, and the global search against brute force."""

import collections
import math

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose
from scipy.optimize import brentq

from pm_fastlmm import Spectrum, reml
from pm_fastlmm.kernel.likelihood.profile import Profile, maximise

METHODS = ("REML", "ML")


def profile_of(problem, method):
    return Profile.from_rotated(problem.rotated, method)


def interior_minima(profile):
    """Zeros of the slope of the first response where it rises, on a grid far finer than the search's."""
    x = np.linspace(-20, 20, 4001)
    slope = profile.slope(x)[0]
    rising = np.flatnonzero((slope[:-1] < 0) & (slope[1:] >= 0))
    return [brentq(lambda v: profile.slope(v)[0, 0], x[i], x[i + 1], xtol=1e-14) for i in rising]


def units(problem):
    """Largest eigenvalue and squared norm, which `Profile` scales to 1."""
    s, r = problem.spectrum, problem.rotated
    return s.eigvals.max(), float((r.z**2).sum() + r.rss)


@pytest.mark.parametrize("method", METHODS)
def test_profile_is_minus_twice_the_dense_profile_likelihood_up_to_a_constant(problem, oracle, method):
    largest, _ = units(problem)
    x = np.linspace(-9, 9, 25)
    value = profile_of(problem, method).value(x)[0]
    dense = -2 * oracle.profile_loglik(problem.K, problem.X, problem.y, largest * np.exp(x), method)
    gap = value - dense
    assert_allclose(gap, gap[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_slope_is_the_derivative_of_the_profile(problem, method):
    profile, h = profile_of(problem, method), 1e-4
    x = np.linspace(-9, 9, 37)
    # five-point differences: the truncation is h⁴ f⁗′/30 < 1e-15, the rounding eps |f| / h < 1e-9
    numeric = (
        8 * (profile.value(x + h) - profile.value(x - h)) - profile.value(x + 2 * h) + profile.value(x - 2 * h)
    ) / (12 * h)
    assert_allclose(profile.slope(x), numeric, rtol=1e-8, atol=1e-8)
    step = 1e-5
    bend = (profile.slope(x + step) - profile.slope(x - step)) / (2 * step)
    assert_allclose(profile.curvature(x), bend, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_slope_has_full_relative_precision_far_out(problem, method):
    profile = profile_of(problem, method)
    _, (c0,), _, (c_inf,) = profile.limits()
    # df/d log δ → c_∞/δ as δ → ∞, with y and K of unit size: the next term is smaller by λ/δ
    far = np.array([1e9, 1e12])
    assert_allclose(profile.slope(np.log(far))[0] * far, c_inf, rtol=1e-6)
    if math.isfinite(c0) and not profile.nullity and not profile.singular:
        near = profile.eigvals.min() * 1e-13
        assert_allclose(profile.slope(np.log([near]))[0] / near, c0, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_limits_are_the_values_at_the_ends(problem, method):
    profile = profile_of(problem, method)
    (f0,), _, (f_inf,), _ = profile.limits()
    # as δ → ∞ the terms in log δ cancel: m log Q + Σ log(λ + δ) + ν log δ [+ log|S|] → m log(Σz² + rss)
    assert_allclose(profile.value(math.log(1e11))[0], f_inf, atol=1e-9)
    if profile.nullity:
        assert f0 == math.inf
    else:
        assert_allclose(profile.value(math.log(profile.eigvals.min() * 1e-10))[0], f0, rtol=1e-8)


def test_limits_say_that_ml_is_unbounded_when_K_is_singular_along_X(build_problem):
    problem = build_problem("full-K")
    J = np.eye(23) - 1 / 23
    spectrum = Spectrum.from_covariance(J @ problem.K @ J, np.ones((23, 1)))
    rotated = spectrum.rotate(problem.y)
    assert spectrum.nullity == 0
    assert Profile.from_rotated(rotated, "ML").limits()[0] == -math.inf
    assert math.isfinite(Profile.from_rotated(rotated, "REML").limits()[0][0])


@pytest.mark.parametrize("method", METHODS)
def test_scale_is_the_maximising_variance(problem, oracle, method):
    largest, norm2 = units(problem)
    profile, delta = profile_of(problem, method), 0.07
    sigma2 = profile.scale(math.log(delta))[0, 0] * norm2 / largest
    dense = oracle.Dense(problem.K, problem.X, problem.y, sigma2, delta * largest * sigma2)
    best = oracle.profile_loglik(problem.K, problem.X, problem.y, [delta * largest], method)[0]
    assert_allclose(dense.loglik_reml if method == "REML" else dense.loglik_ml, best, rtol=1e-11)


def test_both_modes_of_bimodal7_are_found(cases, reference):
    expected = reference.json("cases.json")["bimodal7"]
    K, X, y = cases.bimodal7()
    rotated = Spectrum.from_covariance(K, X).rotate(y)
    profile = Profile.from_rotated(rotated, "REML")
    deltas = np.exp(interior_minima(profile)) * rotated.spectrum.eigvals.max()
    assert_allclose(deltas, [expected["delta"], expected["local_modes"][0]["delta"]], rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-8, 1e-11])
def test_an_optimum_far_below_the_spectrum_is_found(size, method):
    # balanced one-way layout, 6 groups of 4, in closed form: σ²_e = MSW, however small it is; here between-group sum of
    # squares is 4 Σ(j - 2.5)² = 70, and MSW is chosen
    rng = np.random.default_rng(5)
    group = np.kron(np.eye(6), np.ones((4, 1)))
    within = rng.normal(size=24)
    within -= group @ (group.T @ within) / 4
    within *= size / np.linalg.norm(within)
    fit = reml(Spectrum.from_factor(group, np.ones((24, 1))), group @ (np.arange(6.0) - 2.5) + within, method=method)
    # y is rounded to eps: MSW is known to eps/size
    accuracy = max(1e-7, 20 * np.finfo(float).eps / size)
    msw = size**2 / 18
    between = 70 / (5 if method == "REML" else 6)
    assert fit.boundary == ()
    assert_allclose(fit.sigma2_e, msw, rtol=accuracy)
    assert_allclose(fit.sigma2_g, (between - msw) / 4, rtol=1e-6)
    assert_allclose(fit.beta_se, math.sqrt(between / 24), rtol=1e-6)
    m = 23 if method == "REML" else 24
    loglik = -0.5 * (m * math.log(2 * math.pi) + m + 18 * math.log(msw) + (m - 18) * math.log(between))
    loglik -= 0.5 * math.log(24) if method == "REML" else 0.0
    assert_allclose(fit.loglik, loglik, rtol=0, atol=1e-7 + 9 * accuracy)


def rough_case(seed):
    """A small problem whose spectrum spans eight decades, with or without null directions, uncentred."""
    rng = np.random.default_rng([99, seed])
    n = int(rng.integers(4, 13))
    r = int(rng.integers(0, min(3, n - 2) + 1))
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])[:, :r] if r else None
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    eigenvalues = 10 ** rng.uniform(-4, 4, size=n)
    if seed % 3 == 0:
        eigenvalues[: int(rng.integers(1, n - 1))] = 0
    W = basis * np.sqrt(eigenvalues)
    y = basis @ (10 ** rng.uniform(-2, 2, size=n) * rng.choice([-1, 1], size=n)) + (0 if X is None else 3)
    return W @ W.T, W[:, eigenvalues > 0], X, y


@pytest.mark.parametrize("method", METHODS)
def test_no_likelihood_is_lost_against_a_dense_search(oracle, method):
    seen = collections.Counter()
    for seed in range(300):
        K, W, X, y = rough_case(seed)
        spectrum = Spectrum.from_covariance(K, X) if seed % 2 else Spectrum.from_factor(W, X)
        fit = reml(spectrum, y, method=method)
        positive = np.linalg.eigvalsh(K)[-W.shape[1] :]
        delta = np.geomspace(positive.min() * 1e-6, positive.max() * 1e6, 4000)
        if method == "ML" and 0 < len(K) - W.shape[1] <= (0 if X is None else X.shape[1]):
            # no null direction of K is orthogonal to X, and the ML likelihood has no maximum: labelled, not returned
            assert not fit.converged
            assert "unbounded" in fit.message
            seen["unbounded"] += 1
            continue
        assert fit.converged, (seed, fit.message)
        grid = oracle.profile_loglik(K, X, y, delta, method)
        assert fit.loglik >= grid.max() - 1e-8 * max(1, abs(grid.max())), seed
        # and what it reports is attained: the likelihood at its own estimate is not overstated
        if fit.boundary != ("sigma2_e",):
            attained = oracle.Dense(K, X, y, fit.sigma2_g, fit.sigma2_e)
            dense = attained.loglik_reml if method == "REML" else attained.loglik_ml
        else:
            dense = oracle.profile_loglik(K, X, y, [positive.min() * 1e-9], method)[0]
        assert_allclose(fit.loglik, dense, rtol=1e-6, err_msg=str(seed))
        inner = np.diff(np.sign(np.diff(grid)))
        seen[str(fit.boundary)] += 1
        seen["several modes"] += int((inner < 0).sum() > 1)
        seen["null directions"] += spectrum.nullity > 0
    # the sample must contain what the search is about
    for kind in ("()", "('sigma2_g',)", "('sigma2_e',)", "several modes", "null directions"):
        assert seen[kind] >= 5, seen


@pytest.mark.parametrize("method", METHODS)
def test_the_optimum_is_stationary_or_a_labelled_boundary(problem, method):
    profile = profile_of(problem, method)
    r = problem.rotated
    largest, _ = units(problem)
    optimum = maximise(r, method)
    assert not optimum.at_zero.any()
    x = math.log(optimum.sigma2_e[0] / optimum.sigma2_g[0] / largest)
    assert abs(profile.slope(x)[0, 0]) < 1e-8
    assert profile.value(x)[0, 0] < profile.value([x - 1e-3, x + 1e-3]).min()


def test_a_boundary_that_is_only_a_local_optimum_loses_to_the_interior():
    eigvals = np.array([1.1e-3, 1.4e-3, 0.2421, 0.9659, 6.2057, 14.0349])
    z = np.array([1.005, 0.023, 2.731, 12.265, 0.062, 0.082])
    rotated = Spectrum.from_covariance(np.diag(eigvals)).rotate(z)
    profile = Profile.from_rotated(rotated, "REML")
    _, _, (f_inf,), (c_inf,) = profile.limits()
    assert c_inf < 0  # σ²_g = 0 is a local maximum of the likelihood
    assert profile.value(interior_minima(profile)).min() < f_inf - 2
    assert not maximise(rotated, "REML").at_zero.any()


def test_the_condition_for_no_kernel_variance_is_the_sign_of_the_score_there(problem):
    _, _, _, (c_inf,) = profile_of(problem, "REML").limits()
    s = problem.spectrum
    N = scipy.linalg.null_space(problem.X.T) if problem.X is not None else np.eye(s.n)
    z = N.T @ problem.y
    e = (z**2).mean()
    score_g = 0.5 * (z @ (N.T @ problem.K @ N) @ z / e**2 - np.trace(N.T @ problem.K @ N) / e)
    assert np.sign(c_inf) == np.sign(score_g)
    largest, norm2 = units(problem)
    assert_allclose(c_inf, 2 * score_g * e * norm2 / (largest * norm2), rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_no_identification_is_said_when_K_is_the_identity(method):
    fit = reml(Spectrum.from_covariance(2 * np.eye(9), np.ones((9, 1))), np.arange(9.0), method=method)
    assert not fit.converged
    assert "K is a multiple of the identity" in fit.message
    assert math.isnan(fit.h2)
    assert math.isnan(fit.loglik)


@pytest.mark.parametrize("method", METHODS)
def test_a_kernel_that_vanishes_orthogonal_to_X_is_labelled(method):
    K = np.ones((9, 9))
    fit = reml(Spectrum.from_covariance(K, np.ones((9, 1))), np.arange(9.0), method=method)
    assert not fit.converged
    assert "orthogonal to X, K is zero" in fit.message
