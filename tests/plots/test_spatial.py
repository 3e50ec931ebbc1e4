"""Variograms of residuals and of V, and correlation functions."""

import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

import pm_fastlmm as flmm


@pytest.fixture(scope="module")
def spatial():
    """A Gaussian process on a plane with a trend, fitted by REML, and its coordinates."""
    rng = np.random.default_rng(4)
    x = rng.uniform(0, 10, size=(120, 2))
    X = np.column_stack([np.ones(120), x[:, 0]])
    K = np.exp(-cdist(x, x) / 1.5)
    y = X @ [2.0, 0.3] + np.linalg.cholesky(2 * K + 0.5 * np.eye(120)) @ rng.normal(size=120)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(
        x, kernel="matern12", lengthscale=(0.3, 8.0), X=X, progressbar=False
    )
    with pm.Model() as model:
        ell = pm.Uniform("lengthscale", 0.3, 8.0)
        variances = {name: pm.HalfNormal(name, 3) for name in ("sigma2_g", "sigma2_e")}
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, observed=y, **variances)
    return flmm.find_reml(model, progressbar=False), x, X, y


def test_the_variogram_is_that_of_pairs_and_of_the_covariance_of_residuals(spatial):
    fit, x, X, y = spatial
    ax = flmm.plots.plot_variogram(fit, x, bins=6, max_distance=4.0)
    expected, empirical = np.column_stack(ax.lines[0].get_data()), np.asarray(ax.collections[0].get_offsets())
    r = y - X @ fit.blue
    ell, g, e = fit.theta
    V = g * np.exp(-cdist(x, x) / ell) + e * np.eye(120)
    inverse = np.linalg.inv(V)
    C = V - X @ np.linalg.solve(X.T @ inverse @ X, X.T)
    half, D = (r[:, None] - r) ** 2 / 2, cdist(x, x)
    gamma = (np.diag(C)[:, None] + np.diag(C)) / 2 - C
    for k, edge in enumerate(np.linspace(0, 4, 7)[:-1]):
        pairs = (edge <= D) & (edge + 4 / 6 > D) & ~np.eye(120, dtype=bool)
        assert_allclose(empirical[k], [D[pairs].mean(), half[pairs].mean()])
        assert_allclose(expected[k], [D[pairs].mean(), gamma[pairs].mean()], rtol=1e-6)
    assert fit.variogram(x, bins=6, max_distance=4.0)["pairs"].sum() == (D <= 4.0).sum() / 2 - 60


def test_the_expected_variogram_is_the_mean_of_those_of_replicates(spatial):
    fit, x, X, _ = spatial
    V = fit.objective.covariance(fit.theta.to_numpy())
    inverse = np.linalg.inv(V)
    replicates = fit.simulate(2000, random_seed=1).to_numpy()
    r = replicates - X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse @ replicates)
    table = fit.variogram(x, bins=4, max_distance=5.0)
    D, edges = cdist(x, x), np.linspace(0, 5, 5)
    for k in range(4):
        i, j = np.nonzero((edges[k] <= D) & (edges[k + 1] > D) & np.triu(np.ones_like(D, dtype=bool), 1))
        each = ((r[i] - r[j]) ** 2).mean(axis=0) / 2
        assert abs(each.mean() - table["expected"][k]) < 4.5 * each.std() / np.sqrt(2000)


def test_correlation_at_an_estimate_with_the_curves_of_its_interval():
    ax = flmm.plots.plot_correlation("matern12", 2.0, interval=(1.0, 3.0), distance=6.0)
    r, height = ax.lines[0].get_data()
    assert_allclose(height, np.exp(-r / 2))
    band = ax.collections[0].get_paths()[0].vertices
    at = band[np.isclose(band[:, 0], r[100])][:, 1]
    assert_allclose([at.min(), at.max()], np.exp(-r[100] / np.array([1.0, 3.0])))


def test_correlation_over_draws_of_the_lengthscale():
    draws = np.random.default_rng(1).gamma(20, 0.1, size=(2, 50))
    ax = flmm.plots.plot_correlation(pm.gp.cov.ExpQuad, draws, level=0.8)
    r, height = ax.lines[0].get_data()
    curves = np.exp(-((r / draws.ravel()[:, None]) ** 2) / 2)
    assert_allclose(height, np.median(curves, axis=0))
    assert curves[:, -1].max() < 0.1
    assert "100 draws" in ax.get_legend().get_texts()[0].get_text()


def test_what_is_no_spatial_fit_is_refused(spatial):
    fit, x, *_ = spatial
    with pytest.raises(ValueError, match="x has 119 rows but the fit has 120"):
        fit.variogram(x[1:])
    with pytest.raises(ValueError, match="no two rows are within max_distance=1e-06: the closest are"):
        fit.variogram(x, max_distance=1e-6)
    with pytest.raises(ValueError, match="bins must be 1 or more, got 0"):
        fit.variogram(x, bins=0)
    with pytest.raises(ValueError, match="lengthscales must be positive"):
        flmm.plots.plot_correlation("se", -1.0)
    with pytest.raises(ValueError, match="kernel 'cubic' is not known"):
        flmm.plots.plot_correlation("cubic", 1.0)
