"""The rotated likelihood against dense densities, and its two namespaces against each other."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from pm_fastlmm.kernel.likelihood.information import score
from pm_fastlmm.kernel.likelihood.spectral import contrast_loglik, corner, gaussian_loglik, products, variances

VARIANCES = [(0.8, 1.3), (0.02, 2.0), (5.0, 0.004)]


def contrasts(problem, g, e, xp=np):
    s, rotated = problem.spectrum, problem.rotated
    return contrast_loglik(rotated.z, rotated.rss, eigvals=s.eigvals, nullity=s.nullity, sigma2_g=g, sigma2_e=e, xp=xp)


def corner_of(problem, g, e, xp=np):
    s = problem.spectrum
    return corner(problem.rotated.z, eigvals=s.eigvals, C=s.C, schur=s.schur, sigma2_g=g, sigma2_e=e, xp=xp)


@pytest.mark.parametrize(("g", "e"), VARIANCES)
def test_contrast_loglik_is_the_density_of_explicit_error_contrasts(problem, oracle, g, e):
    dense = oracle.Dense(problem.K, problem.X, problem.y, g, e)
    assert_allclose(contrasts(problem, g, e), dense.loglik_contrasts, rtol=1e-10)


def test_variances_are_those_of_the_rotated_response(problem):
    s = problem.spectrum
    V = 0.8 * problem.K + 1.3 * np.eye(s.n)
    assert_allclose(np.diag(variances(s.eigvals, 0.8, 1.3)), s.basis.T @ V @ s.basis, atol=1e-10 * s.eigvals.max())


@pytest.mark.parametrize(("g", "e"), VARIANCES)
def test_corner_is_the_conditional_distribution_of_the_part_along_X(problem, g, e):
    s, rotated = problem.spectrum, problem.rotated
    V = g * problem.K + e * np.eye(s.n)
    Q1 = s.projection.Q1
    mean, S = corner_of(problem, g, e)
    inverse = np.linalg.inv(Q1.T @ np.linalg.inv(V) @ Q1)
    gls = inverse @ Q1.T @ np.linalg.inv(V) @ problem.y
    assert_allclose(S, inverse, rtol=1e-9, atol=1e-10 * np.abs(inverse).max(initial=0))
    assert_allclose(rotated.y1 - mean, gls, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("g", "e"), VARIANCES)
def test_the_three_factors_multiply_to_the_density_of_y_at_any_beta(build_problem, g, e):
    problem = build_problem("low-W")
    s, rotated = problem.spectrum, problem.rotated
    beta = np.array([1.0, -2.0, 0.5])
    mean, S = corner_of(problem, g, e)
    along = rotated.y1 - s.projection.R @ beta - mean
    total = contrasts(problem, g, e) + gaussian_loglik(along, np.linalg.inv(S), np.linalg.slogdet(S)[1])
    dense = multivariate_normal(problem.X @ beta, g * problem.K + e * np.eye(s.n)).logpdf(problem.y)
    assert_allclose(total, dense, rtol=1e-10)


def test_gaussian_loglik_is_the_multivariate_normal_density():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(4, 4))
    A = A @ A.T + np.eye(4)
    x = rng.normal(size=(5, 4))
    expected = multivariate_normal(cov=A).logpdf(x)
    assert_allclose(gaussian_loglik(x, np.linalg.inv(A), np.linalg.slogdet(A)[1]), expected, rtol=1e-12)


def test_products_weighted_by_w_sum_to_a_gram_matrix():
    rng = np.random.default_rng(4)
    C, w = rng.normal(size=(7, 3)), rng.exponential(size=7)
    assert_allclose((products(C) * w[:, None, None]).sum(0), C.T @ np.diag(w) @ C, rtol=1e-12)


def test_batch_axes_lead_and_equal_a_loop(build_problem):
    problem = build_problem("low-K")
    g, e = np.array([[0.3, 1.0], [2.0, 4.0], [0.1, 0.2]]), np.array([0.5, 1.7])
    logliks = contrasts(problem, g, e)
    means, covariances = corner_of(problem, g, e * np.ones_like(g))
    assert logliks.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert_allclose(logliks[i, j], contrasts(problem, g[i, j], e[j]), rtol=1e-13)
            mean, S = corner_of(problem, g[i, j], e[j])
            assert_allclose(means[i, j], mean, rtol=1e-12)
            assert_allclose(covariances[i, j], S, rtol=1e-12)


def test_several_responses_equal_one_at_a_time(build_problem):
    problem = build_problem("low-W")
    s = problem.spectrum
    Y = np.column_stack([problem.y, problem.y[::-1], 3 - problem.y**2])
    rotated = s.rotate(Y)
    kwargs = {"eigvals": s.eigvals, "nullity": s.nullity, "sigma2_e": 1.3}
    together = contrast_loglik(rotated.z, rotated.rss, sigma2_g=0.4, **kwargs)
    for t in range(3):
        one = s.rotate(Y[:, t])
        assert_allclose(together[t], contrast_loglik(one.z, one.rss, sigma2_g=0.4, **kwargs), rtol=1e-12)


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_pytensor_gives_the_same_number_and_its_gradient_is_the_score(build_problem, kind):
    problem = build_problem(kind)
    g, e = pt.dscalars("g", "e")
    loglik = contrasts(problem, g, e, xp=pt)
    mean, S = corner_of(problem, g, e, xp=pt)
    graph = pytensor.function([g, e], [loglik, *pytensor.grad(loglik, [g, e]), mean, S], mode="FAST_COMPILE")
    for at in VARIANCES:
        value, dg, de, compiled_mean, compiled_S = graph(*at)
        assert_allclose(value, contrasts(problem, *at), rtol=1e-12)
        assert_allclose([dg, de], score(problem.rotated, *map(np.float64, at)), rtol=1e-9)
        assert_allclose(compiled_mean, corner_of(problem, *at)[0], rtol=1e-11)
        assert_allclose(compiled_S, corner_of(problem, *at)[1], rtol=1e-11, atol=1e-12)
