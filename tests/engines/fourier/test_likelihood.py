"""The likelihood from products of Fourier features: against dense densities, its derivatives, its interpolation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.engines.fourier.likelihood import (
    FourierFactor,
    coefficients,
    fourier_loglik_and_gradient,
    fourier_spectra,
)


@pytest.fixture(scope="module")
def products(process):
    return process.statistics.project()


def evaluate(products, log_prior, e, data=None):
    data = np.append(products.cross, products.square) if data is None else data
    return fourier_loglik_and_gradient(log_prior, e, data, products.gram, products.df)


def represented(process, ell, oracle, g, e):
    """The dense model of the features: what the formulas must equal to rounding."""
    Z = process.basis.features(process.x)
    K = (Z * np.exp(process.basis.log_weights(ell))) @ Z.T
    return oracle.Dense(K, process.X, process.y, g, e)


def test_the_likelihood_is_that_of_the_features(process, products, oracle):
    for ell, g, e in ((process.truth, 1.5, 0.3), (process.basis.lengthscale[0], 0.2, 1.0)):
        value = evaluate(products, process.basis.log_weights(ell) + np.log(g), e)[0] - products.projection.logdet_R
        assert value == pytest.approx(represented(process, ell, oracle, g, e).loglik_reml, abs=1e-8)


def test_the_likelihood_is_that_of_the_dense_kernel_within_the_stated_error(process, products, oracle, fourier_cases):
    g, e = fourier_cases.SIGMA2, fourier_cases.SIGMA2_E
    exact = oracle.Dense(process.K, process.X, process.y, g, e).loglik_reml
    value = evaluate(products, process.basis.log_weights(process.truth) + np.log(g), e)[0]
    # a divergence D makes the logarithm of the ratio of the densities deviate by √(2D)
    error = 3 * np.sqrt(2 * process.basis.divergence) + process.basis.divergence
    assert abs(value - products.projection.logdet_R - exact) < error


def test_the_gradient_is_that_of_differences(process, products):
    rng = np.random.default_rng(1)
    log_prior, e = process.basis.log_weights(process.truth), 0.4
    data = np.append(products.cross, products.square)
    _, by_prior, by_e, by_data = evaluate(products, log_prior, e)
    h = 1e-4
    direction = rng.normal(size=len(log_prior))
    ends = [evaluate(products, log_prior + s * h * direction, e)[0] for s in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(by_prior @ direction, rel=1e-5)
    ends = [evaluate(products, log_prior, e * (1 + s * h))[0] for s in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * h * e) == pytest.approx(by_e, rel=1e-5, abs=1e-2)
    direction = rng.normal(size=len(data))
    ends = [evaluate(products, log_prior, e, data + s * h * direction)[0] for s in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(by_data @ direction, rel=1e-5)


@pytest.mark.parametrize("g", [1.5, 1e-3, 0.0])
def test_score_and_average_information_are_the_dense_ones(process, products, oracle, g):
    ell, e = process.truth, 0.3
    dense, Z = represented(process, ell, oracle, g, e), process.basis.features(process.x)
    d = np.exp(process.basis.log_weights(ell))
    shorter = np.exp(process.basis.log_weights(0.9 * ell))
    slopes = np.column_stack([d, shorter - d])  # ∂s/∂σ²_g, and any other direction
    with np.errstate(divide="ignore"):
        factor = FourierFactor.of(np.log(g * d), e, products.cross, products.square, products.gram, products.df)
    score, information = factor.score_and_information(g * d, slopes, products)
    V = [(Z * column) @ Z.T for column in slopes.T] + [np.eye(process.n)]
    expected = [0.5 * (dense.Py @ v @ dense.Py - np.trace(dense.P @ v)) for v in V]
    q = [v @ dense.Py for v in V]
    assert_allclose(score, expected, rtol=2e-6, atol=1e-5)
    assert_allclose(information, [[0.5 * a @ dense.P @ b for b in q] for a in q], rtol=2e-6, atol=1e-6)


def test_coefficients_are_the_generalised_least_squares_ones(process, products, oracle):
    dense = represented(process, process.truth, oracle, 1.5, 0.3)
    log_prior = process.basis.log_weights(process.truth) + np.log(1.5)
    factor = FourierFactor.of(log_prior, 0.3, products.cross, products.square, products.gram, products.df)
    beta, cov = coefficients(factor, products)
    assert_allclose(beta, dense.beta, rtol=1e-8)
    assert_allclose(cov, dense.beta_cov, rtol=1e-7)


def test_interpolated_spectra_have_the_likelihood_of_the_factorisation(process, products):
    basis = process.basis
    spectra = fourier_spectra(products, basis, delta_min=0.1)
    assert spectra.error <= 1e-3
    best = spectra.profile(spectra.nodes, np.geomspace(0.1, 10, 30))[0].max()
    rng = np.random.default_rng(2)
    for _ in range(20):
        ell = np.exp(rng.uniform(*np.log(basis.lengthscale)))
        g, delta = np.exp(rng.uniform(-1, 1)), np.exp(rng.uniform(np.log(0.1), 2))
        exact = evaluate(products, basis.log_weights(ell) + np.log(g), g * delta)[0] - products.projection.logdet_R
        assert abs(spectra.loglik(ell, g, g * delta) - exact) < 5e-3 * max(1.0, best - exact)


def test_the_density_is_zero_where_it_is_not_defined(process, products):
    log_prior = process.basis.log_weights(process.truth)
    for value in (evaluate(products, log_prior, 0.0), evaluate(products, np.full_like(log_prior, np.nan), 1.0)):
        assert value[0] == -np.inf
        assert not any(np.any(derivative) for derivative in value[1:])
