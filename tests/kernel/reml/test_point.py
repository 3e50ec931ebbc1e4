"""The fit without eigenvectors equals the fit with them."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from quantities import quantity

from pm_fastlmm import Spectrum, reml, reml_point
from pm_fastlmm.kernel.reml import reml as module

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


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_kernel_of_low_rank_leaves_a_null_space_of_rounding_that_converges(seed):
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(300, 30)) / math.sqrt(30)
    K, X = G @ G.T, np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    y = G @ rng.normal(size=30) + rng.normal(size=300)
    assert_same(reml_point(K, y, X), reml(Spectrum.from_covariance(K, X), y))


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


N = 200


def kernels():
    rng = np.random.default_rng(11)
    W = rng.normal(size=(N, 2 * N)) / math.sqrt(2 * N)
    t, U = np.arange(N) / N, np.linalg.eigh(W @ W.T)[1]
    groups, K = np.eye(20)[np.arange(N) % 20], W @ W.T
    decay = 0.9 ** np.abs(np.arange(N)[:, None] - np.arange(N))
    return {
        "full": K,
        "low rank": W[:, :20] @ W[:, :20].T,
        "groups": groups @ groups.T,
        "two eigenvalues": (U * np.where(np.arange(N) < 100, 0.2, 3.0)) @ U.T,
        "autoregressive": decay,
        "exponential": np.exp(-3 * np.abs(t[:, None] - t)),
        "centred": K - K.mean(0) - K.mean(0)[:, None] + K.mean(),
        "huge": 1e30 * K,
    }


def designs(K):
    rng = np.random.default_rng(12)
    X = np.column_stack([np.ones(N), rng.normal(size=(N, 2))])
    return {"covariates": X, "none": None, "eigenvectors": np.linalg.eigh(K)[1][:, -3:]}


@pytest.fixture
def bands(monkeypatch):
    """Every K counts as large; returns what was found in its band."""
    found, original = [], module.maximise_band

    def kept(*arguments):
        found.append(original(*arguments))
        return found[-1]

    monkeypatch.setattr(module, "_LARGE", 1)
    monkeypatch.setattr(module, "maximise_band", kept)
    return found


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("design", ["covariates", "none", "eigenvectors"])
@pytest.mark.parametrize("name", list(kernels()))
def test_the_maximum_found_in_a_band_is_that_of_the_spectral_fit(name, design, method, bands):
    K = kernels()[name]
    K, X = (K + K.T) / 2, designs(K)[design]
    rng = np.random.default_rng(13)
    u = np.linalg.cholesky(K + 1e-9 * np.abs(K).max() * np.eye(N)) @ rng.normal(size=N)
    for share in (0.0, 0.5, 0.9):
        y = 10 * (X is not None) + math.sqrt(share) * u / u.std() + math.sqrt(1 - share) * rng.normal(size=N)
        assert_same(reml_point(K, y, X, method=method), reml(Spectrum.from_covariance(K, X), y, method=method))
    assert len(bands) == 3
    # the ML likelihood of a centred K beside an intercept has no maximum, which the band leaves to the others
    assert any(bands) or (name, method) == ("centred", "ML")


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_no_kernel_variance_is_found_in_a_band(method, bands):
    K, rng = kernels()["full"], np.random.default_rng(14)
    X = designs(K)["covariates"]
    seen = 0
    for _ in range(12):
        y = rng.normal(size=N)
        point = reml_point(K, y, X, method=method)
        assert_same(point, reml(Spectrum.from_covariance(K, X), y, method=method))
        seen += point.boundary == ("sigma2_g",) and bands[-1] is not None
    assert seen > 2


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_no_residual_variance_is_found_in_a_band(method, bands):
    K, rng = kernels()["full"], np.random.default_rng(17)
    root, X = np.linalg.cholesky(K), designs(K)["covariates"]
    seen = 0
    for _ in range(12):
        y = root @ rng.normal(size=N)
        point, fit = reml_point(K, y, X, method=method), reml(Spectrum.from_covariance(K, X), y, method=method)
        assert_same(point, fit)
        assert_allclose(point.observed_information, fit.observed_information, rtol=1e-9)
        assert_allclose(point.average_information, fit.average_information, rtol=1e-9)
        seen += point.boundary == ("sigma2_e",) and bands[-1] is not None
    assert seen > 2


def test_a_second_mode_below_the_eigenvalues_that_matter_is_not_overlooked(bands):
    """Eigenvalues on all scales: the likelihood is highest at δ = 7e-8, and has a mode at δ = 1e-3."""
    t = np.arange(420) / 420
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(420), rng.normal(size=(420, 2))])
    K, y = np.exp(-((t[:, None] - t) ** 2) / 8), np.sin(9 * t) + rng.normal(size=420)
    point, fit = reml_point(K, y, X), reml(Spectrum.from_covariance(K, X), y)
    assert_allclose([point.delta, point.loglik], [fit.delta, fit.loglik], rtol=1e-6)
    assert bands == [None]


def test_beta_of_a_smooth_kernel_is_generalised_least_squares(bands):
    t = np.arange(N) / N
    rng = np.random.default_rng(15)
    X = np.column_stack([np.ones(N), rng.normal(size=(N, 2))])
    K, y = np.exp(-((t[:, None] - t) ** 2) / 0.02), np.sin(9 * t) + 0.3 * rng.normal(size=N)
    point = reml_point(K, y, X)
    V = K + point.delta * np.eye(N)
    normal = X.T @ np.linalg.solve(V, X)
    assert bands[0] is not None
    assert_allclose(point.beta, np.linalg.solve(normal, X.T @ np.linalg.solve(V, y)), rtol=1e-10)
    assert_allclose(point.beta_cov, point.sigma2 * np.linalg.inv(normal), rtol=1e-9)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_what_a_band_does_not_show_is_left_to_the_tridiagonal_matrix(method, bands):
    K, t = kernels()["full"], np.arange(N) / N
    X = designs(K)["covariates"]
    decay = kernels()["exponential"]
    smooth = np.linalg.cholesky(decay) @ np.random.default_rng(16).normal(size=N)
    explained = X @ [1.0, 2.0, 3.0]
    dummies = np.eye(20)[np.arange(N) % 20]
    cases = [(decay, smooth, X), (K, explained, X), (3 * np.eye(N), t, X), (kernels()["groups"], t**2, dummies)]
    for matrix, response, design in cases:
        point = reml_point(matrix, response, design, method=method)
        fit = reml(Spectrum.from_covariance(matrix, design), response, method=method)
        assert (point.boundary, point.converged, point.message) == (fit.boundary, fit.converged, fit.message)
    assert bands == [None] * 4
    with pytest.raises(ValueError, match="K is not positive semi-definite"):
        reml_point(K - 0.5 * np.eye(N), t, X)
