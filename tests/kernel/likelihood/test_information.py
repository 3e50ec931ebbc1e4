"""Score and information against dense traces and against derivatives of dense likelihoods."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm import log_likelihood
from pm_fastlmm.kernel.likelihood.information import information, score, standard_error

AT = [(0.8, 1.3), (0.02, 2.0), (5.0, 0.04)]


def dense_at(problem, oracle, g, e):
    return oracle.Dense(problem.K, problem.X, problem.y, g, e)


@pytest.mark.parametrize(("g", "e"), AT)
def test_score_is_that_of_the_dense_restricted_likelihood(problem, oracle, g, e):
    assert_allclose(
        score(problem.rotated, np.float64(g), np.float64(e)), dense_at(problem, oracle, g, e).score, rtol=1e-8
    )


@pytest.mark.parametrize(("g", "e"), AT)
def test_score_is_the_central_difference_of_the_likelihood(problem, g, e):
    h = 1e-5

    def loglik(a, b):
        return float(log_likelihood(problem.rotated, a, b))

    numeric = [
        (loglik(g * (1 + h), e) - loglik(g * (1 - h), e)) / (2 * h * g),
        (loglik(g, e * (1 + h)) - loglik(g, e * (1 - h))) / (2 * h * e),
    ]
    # rounding eps |ℓ| / h ≈ 1e-9 and truncation h² ≈ 1e-10, relative to terms of order p
    assert_allclose(
        score(problem.rotated, np.float64(g), np.float64(e)) * [g, e], np.multiply(numeric, [g, e]), atol=1e-6
    )


@pytest.mark.parametrize(("g", "e"), AT)
def test_average_and_expected_information_are_the_dense_ones(problem, oracle, g, e):
    info, dense = information(problem.rotated, np.float64(g), np.float64(e)), dense_at(problem, oracle, g, e)
    assert_allclose(info.average, dense.average, rtol=1e-7)
    assert_allclose(info.expected, dense.expected, rtol=1e-7)
    assert_allclose(info.observed, 2 * dense.average - dense.expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize(("g", "e"), AT)
def test_observed_information_is_the_complex_step_derivative_of_the_dense_gradient(problem, oracle, g, e, method):
    h = 1e-30
    data = problem.K, problem.X, problem.y
    hessian = np.array(
        [
            oracle.gradient(*data, g + 1j * h * g, e, method).imag / (h * g),
            oracle.gradient(*data, g, e + 1j * h * e, method).imag / (h * e),
        ]
    )
    observed = information(problem.rotated, np.float64(g), np.float64(e), method).observed
    scale = np.outer([g, e], [g, e])
    # the explicit inverses of the oracle lose the condition of V, up to 1e5 here
    assert_allclose(observed * scale, -hessian * scale, rtol=1e-8, atol=1e-8)


def test_expected_information_of_ml_is_that_of_V(build_problem, oracle):
    # E ∂²(-ℓ)/∂θ² with β profiled out: the expected value of 2 · average is tr(PV_aPV_b) as for REML, the
    # determinant is that of V, so that expected = tr(PV_aPV_b) - ½ tr(V⁻¹V_aV⁻¹V_b) is what keeps observed = 2 AI - EI
    problem = build_problem("full-K")
    g, e = 0.8, 1.3
    dense = dense_at(problem, oracle, g, e)
    parts = (problem.K, np.eye(23))
    half_trace = np.array([[0.5 * np.trace(dense.Vinv @ A @ dense.Vinv @ B) for B in parts] for A in parts])
    info = information(problem.rotated, np.float64(g), np.float64(e), "ML")
    assert_allclose(info.observed, 2 * info.average - half_trace, rtol=1e-8)
    assert_allclose(info.average, dense.average, rtol=1e-8)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_batches_equal_a_loop(build_problem, method):
    problem = build_problem("low-W")
    g, e = np.array([0.3, 1.0, 4.0]), np.array([0.5, 0.1, 2.0])
    scores, info = score(problem.rotated, g, e), information(problem.rotated, g, e, method)
    for i in range(3):
        one = information(problem.rotated, g[i], e[i], method)
        assert_allclose(scores[i], score(problem.rotated, g[i], e[i]), rtol=1e-12)
        for together, alone in zip(info, one, strict=True):
            assert_allclose(together[i], alone, rtol=1e-10)


def test_expected_information_is_the_mean_of_the_average_information(build_problem):
    problem = build_problem("low-W")
    g, e = np.float64(0.5), np.float64(2.0)
    N = 40_000
    rng = np.random.default_rng(0)
    Y = np.sqrt(g) * problem.W @ rng.normal(size=(6, N)) + np.sqrt(e) * rng.normal(size=(23, N))
    info = information(problem.spectrum.rotate(Y), g * np.ones(N), e * np.ones(N))
    error = info.average.std(axis=0) / np.sqrt(N)
    assert (np.abs(info.average.mean(axis=0) - info.expected[0]) < 4.5 * error).all()
    # and the score has mean 0 and the expected information as covariance
    scores = score(problem.spectrum.rotate(Y), g * np.ones(N), e * np.ones(N))
    assert (np.abs(scores.mean(axis=0)) < 4.5 * scores.std(axis=0) / np.sqrt(N)).all()
    assert_allclose(np.cov(scores.T), info.expected[0], rtol=0.05, atol=0.05 * info.expected[0].min())


def test_standard_error_is_the_delta_method():
    observed = np.array([[3.0, 1.2], [1.2, 0.9]])
    gradient = np.array([[1.0, 0.0], [0.3, -2.0]])
    expected = [np.sqrt(v @ np.linalg.inv(observed) @ v) for v in gradient]
    assert_allclose(standard_error(gradient, observed), expected, rtol=1e-12)


@pytest.mark.parametrize("observed", [[[1.0, 2.0], [2.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]])
def test_standard_error_is_undefined_where_the_information_is_not_positive_definite(observed):
    assert np.isnan(standard_error(np.array([1.0, 1.0]), np.array(observed)))
