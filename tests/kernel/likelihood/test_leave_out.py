"""Predictive densities of what is left out, against a brute-force conditional for each row and each group."""

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal, norm

from pm_fastlmm.engines.structured.precision import MixedPrecision
from pm_fastlmm.engines.structured.state import MixedState
from pm_fastlmm.kernel.likelihood.dense import DenseFactor
from pm_fastlmm.kernel.likelihood.leave_out import (
    LeftOut,
    MatrixPrecision,
    leave_groups_out,
    leave_one_out,
    predictable,
)
from pm_fastlmm.kernel.likelihood.precision import Coefficients, SpectralRows

G, E = np.array([1.3, 0.04, 6.0]), np.array([0.7, 0.9, 1e-3])
B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])


def make_groups(n, seed=3):
    rng = np.random.default_rng(seed)
    code = np.r_[0, rng.integers(1, 7, size=n - 1)]  # the first alone, the others in groups of several
    return [np.flatnonzero(code == j) for j in range(7)]


def assert_brute_force(oracle, precision, V, X, y, *, rtol, one=()):
    """Every quantity of a precision without batch axes (or at one place of them) equals refits without the rows."""
    groups = make_groups(len(y))
    single = LeftOut(*(part[one] for part in leave_one_out(precision)))
    grouped, joint = leave_groups_out(precision, groups)
    for i in range(len(y)):
        mean, cov = oracle.left_out(V, X, y, np.array([i]))
        sd = np.sqrt(cov[0, 0])
        np.testing.assert_allclose(y[i] - single.deviation[i], mean[0], rtol=rtol, atol=rtol * sd)
        np.testing.assert_allclose(single.variance[i], cov[0, 0], rtol=rtol)
        np.testing.assert_allclose(single.log_density[i], norm(mean[0], sd).logpdf(y[i]), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(single.pit[i], norm(mean[0], sd).cdf(y[i]), rtol=0, atol=rtol)
    for j, rows in enumerate(groups):
        mean, cov = oracle.left_out(V, X, y, rows)
        cov = (cov + cov.T) / 2
        scale = np.sqrt(np.diag(cov))
        np.testing.assert_allclose(y[rows] - grouped.deviation[one][rows], mean, rtol=rtol, atol=rtol * scale.max())
        np.testing.assert_allclose(grouped.variance[one][rows], scale**2, rtol=rtol)
        np.testing.assert_allclose(
            joint.log_density[one][j], multivariate_normal(mean, cov).logpdf(y[rows]), rtol=rtol, atol=rtol
        )
        quadratic = (y[rows] - mean) @ np.linalg.solve(cov, y[rows] - mean)
        np.testing.assert_allclose(joint.quadratic[one][j], quadratic, rtol=rtol)
        assert 0 <= chi2(len(rows)).sf(quadratic) <= 1


def spectral(problem, beta=None):
    s, r = problem.spectrum, problem.rotated
    rest = (problem.y - s.projection.Q1 @ r.y1 - s.basis @ r.z)[None] if s.nullity else None
    return SpectralRows.of(s).at(r.z[None], rest, G, E, beta)


@pytest.mark.parametrize("draw", range(3))
def test_one_kernel_with_a_flat_beta_equals_refits(oracle, problem, draw):
    X = np.zeros((len(problem.y), 0)) if problem.X is None else problem.X
    V = G[draw] * problem.K + E[draw] * np.eye(len(problem.y))
    assert_brute_force(oracle, spectral(problem), V, X, problem.y, rtol=1e-9 if draw < 2 else 1e-6, one=draw)


@pytest.mark.parametrize("prior", ["Gaussian", "explicit"])
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_one_kernel_with_a_proper_beta_equals_refits(oracle, build_problem, kind, prior):
    p = build_problem(kind)
    covariance, R = B if prior == "Gaussian" else np.zeros((3, 3)), p.spectrum.projection.R
    beta = Coefficients((p.rotated.y1 - R @ b)[None], (R @ covariance @ R.T)[None])
    V = G[0] * p.K + E[0] * np.eye(len(p.y)) + p.X @ covariance @ p.X.T
    residual = p.y - p.X @ b
    assert_brute_force(oracle, spectral(p, beta), V, np.zeros((len(p.y), 0)), residual, rtol=1e-9, one=0)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    "kinds", [("factor",), ("slopes", "crossed"), ("dense",), ("three slopes", "known"), ("ar1", "nested")]
)
def test_several_terms_equal_refits(oracle, build_terms, kinds, flat):
    p = build_terms(*kinds, n=40, flat=flat)
    residual, X = (p.y, p.X) if flat else (p.y - p.X @ b, np.zeros((p.n, 0)))
    response = p.response if flat else p.products.shifted(p.response, p.response.y1 - p.projection.R @ b)
    state = MixedState.at(p.products, response, p.sigma, p.sigma2_e)
    precision = MixedPrecision.of(state, residual, budget=100)  # several blocks of rows
    assert_brute_force(oracle, precision, p.V(), X, residual, rtol=1e-9)


def test_several_terms_with_a_singular_and_an_absent_one_equal_refits(oracle, build_terms):
    p = build_terms("slopes", "crossed", n=40, sizes=["singular", "zero"])
    state = MixedState.at(p.products, p.response, p.sigma, p.sigma2_e)
    assert_brute_force(oracle, MixedPrecision.of(state, p.y), p.V(), p.X, p.y, rtol=1e-9)


def test_any_covariance_equals_refits(oracle, build_problem):
    p = build_problem("full-K")
    V = G[0] * p.K + E[0] * np.eye(len(p.y))
    factor = DenseFactor.of(V, p.y, p.spectrum.projection.Q1)
    assert_brute_force(oracle, MatrixPrecision(factor.P(), factor.Py), V, p.X, p.y, rtol=1e-9)


def test_a_row_that_alone_has_a_fixed_effect_is_not_predictable():
    n = 12
    X = np.column_stack([np.ones(n), np.arange(n) == 4, np.arange(n) % 3 == 0])
    Q1 = np.linalg.qr(X.astype(float))[0]
    assert np.flatnonzero(~predictable(Q1, None)).tolist() == [4]
    groups = [np.array([0, 3]), np.array([6, 9]), np.array([4, 5]), np.array([0, 3, 6, 9]), np.array([1, 2])]
    assert predictable(Q1, groups).tolist() == [True, True, False, False, True]
    assert predictable(np.zeros((n, 0)), groups).all()


def test_large_leverage_is_not_taken_for_one():
    x = np.r_[1e6, np.random.default_rng(1).normal(size=30)]
    assert predictable(np.linalg.qr(np.column_stack([np.ones(31), x]))[0], None).all()
