"""The function that data tell of: against the dense posterior, draws, mixtures over posterior draws, and messages."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.engines.fourier.functions import FunctionPosterior
from pm_fastlmm.engines.fourier.likelihood import FourierFactor
from pm_fastlmm.engines.fourier.products import at_points, function_modes, square_modes

G, E = 1.5, 0.3


@pytest.fixture(scope="module")
def function(process):
    """At the true parameters."""
    p = process.statistics.project()
    log_prior = process.basis.log_weights(process.truth) + np.log(G)
    factor = FourierFactor.of(log_prior, E, p.cross, p.square, p.gram, p.df)
    return FunctionPosterior.of(process.basis, p, [factor])


@pytest.fixture(scope="module")
def new(process):
    rng = np.random.default_rng(9)
    low, high = process.basis.domain.T
    x = rng.uniform(low, high, size=(40, len(low)))
    return x, np.column_stack([np.ones(40), x[:, 0], rng.normal(size=40)])


@pytest.fixture(scope="module")
def exact(process, new, oracle, fourier_cases):
    """Mean and variance of f at new points, from the dense kernel."""
    x, X = new
    dense = oracle.Dense(process.K, process.X, process.y, G, E)
    K = G * fourier_cases.correlation(process.kernel, x, process.x, process.truth)
    A = X - K @ dense.Vinv @ process.X
    variance = G - ((K @ dense.Vinv) * K).sum(1) + ((A @ dense.beta_cov) * A).sum(1)
    return X @ dense.beta + K @ dense.Py, variance


def test_mean_and_variance_are_those_of_the_dense_posterior(process, function, new, exact):
    prediction = function.predict(*new)
    mean, variance = exact
    shift = np.abs(prediction.mean - mean) / np.sqrt(variance)
    assert shift.max() < {"se": 0.02, "matern52": 0.03, "matern32": 0.1}[process.kernel]
    assert_allclose(
        prediction.variance, variance, rtol={"se": 0.01, "matern52": 0.02, "matern32": 0.06}[process.kernel]
    )
    assert_allclose(prediction.se_observation**2, prediction.variance + E)


def test_polynomials_are_the_features(process):
    rng = np.random.default_rng(3)
    basis, grid = process.basis, process.basis.grid
    x = process.x[:30]
    Z = basis.features(x)
    w = rng.normal(size=(3, basis.size))
    assert_allclose(at_points(grid.angles(x), function_modes(w, grid)).real, w @ Z.T, atol=1e-9)
    root = rng.normal(size=(5, basis.size)) / np.sqrt(basis.size)
    C = root.T @ root
    assert_allclose(at_points(grid.angles(x), square_modes(C, grid)).real, ((Z @ root.T) ** 2).sum(1), rtol=1e-9)


def test_draws_at_many_points_are_those_at_few(process, function):
    x = np.tile(process.x, (1_000_000 // (process.basis.size * process.n) + 2, 1))
    X = np.tile(process.X, (len(x) // process.n, 1))
    many = function.draw(x, X, draws=2, random_seed=4)  # by nonuniform FFTs
    few = function.draw(x[:20], X[:20], draws=2, random_seed=4)  # by the features themselves
    assert_allclose(many[:, :20], few, atol=1e-9)


def test_draws_have_the_mean_and_the_covariance_of_the_posterior(function, new):
    x, X = new
    draws = function.draw(x, X, draws=4000, random_seed=1)
    prediction = function.predict(x, X)
    z = (draws - prediction.mean) / prediction.se
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(4000)
    assert np.abs(z.var(0) - 1).max() < 5 * np.sqrt(2 / 4000)
    Z = np.column_stack([function.basis.features(x), X])
    cov = Z @ function.cov @ Z.T / prediction.se / prediction.se[:, None]
    assert np.abs(z.T @ z / 4000 - cov).max() < 6 * np.sqrt(2 / 4000)
    assert_allclose(draws[:5], function.draw(x, X, draws=4000, random_seed=1)[:5])


def test_a_constant_shift_of_x_and_y_moves_the_predictions_alone(process, function, new):
    x, X = new
    far = flmm.FourierBasis(
        kernel=process.kernel, lengthscale=process.basis.lengthscale, domain=process.basis.domain + 1000, n=process.n,
        noise_ratio_min=0.1,
    )  # fmt: skip
    p = flmm.FourierStatistics.from_arrays(far, process.x + 1000, process.y + 1e5, process.X).project()
    log_prior = far.log_weights(process.truth) + np.log(G)
    factor = FourierFactor.of(log_prior, E, p.cross, p.square, p.gram, p.df)
    moved = FunctionPosterior.of(far, p, [factor]).predict(x + 1000, X)
    here = function.predict(x, X)
    assert_allclose(moved.mean - 1e5, here.mean, atol=1e-6)
    assert_allclose(moved.variance, here.variance, rtol=1e-6)


@pytest.fixture(scope="module")
def sampled(fourier_cases):
    case = fourier_cases.make("se")
    X = pd.DataFrame(case.X, columns=["one", "slope", "noise"])
    low, high = case.basis.lengthscale
    with pm.Model() as model:
        ell = pm.Uniform("ell", low, high)
        sigma2, sigma2_e = pm.HalfNormal("sigma2", 3), pm.HalfNormal("sigma2_e", 1)
        statistics = flmm.FourierStatistics.from_arrays(case.basis, case.x, case.y, X)
        flmm.FourierLMM("y", statistics=statistics, lengthscale=ell, sigma2=sigma2, sigma2_e=sigma2_e)
    fit = flmm.find_reml(model, progressbar=False)
    low = {"ell": 0.19, "sigma2": 1.4, "sigma2_e": 0.29}
    high = {"ell": 0.23, "sigma2": 2.0, "sigma2_e": 0.33}
    rng = np.random.default_rng(0)
    draws = {name: (("chain", "draw"), rng.uniform(low[name], high[name], size=(2, 300))) for name in low}

    return (
        model,
        fit,
        xr.DataTree.from_dict({"posterior": xr.Dataset(draws, coords={"chain": [0, 1], "draw": np.arange(300)})}),
    )


def test_the_mixture_over_draws_has_the_moments_of_its_predictive_draws(sampled, new_line):
    model, _, idata = sampled
    x, X = new_line
    function = flmm.posterior_function(idata, model=model, draws=10_000)
    assert len(function.components) == 600
    prediction = function.predict(x, X)
    out = flmm.predict(idata, X, x_new=x, model=model, random_seed=1).predictions
    f = out["y_mean"].to_numpy().reshape(600, -1)
    assert np.abs((f.mean(0) - prediction.mean) / prediction.se).max() < 5 / np.sqrt(600)
    assert_allclose(f.var(0), prediction.variance, rtol=5 * np.sqrt(2 / 600))
    y = out["y"].to_numpy().reshape(600, -1)
    assert (y - f).var() == pytest.approx(function.residual_variance, rel=0.05)


@pytest.fixture
def new_line():
    x = np.linspace(0.05, 0.95, 12)
    return x, pd.DataFrame({"noise": 0.3, "slope": x, "one": 1.0})


def test_recovered_coefficients_are_draws_of_the_posterior(sampled):
    model, fit, idata = sampled
    out = flmm.recover_effects(idata, model=model, random_seed=2).posterior
    assert out["y_weights"].shape == (2, 300, fit.node.basis.size)
    assert out["y_beta"].coords["y_coef"].to_numpy().tolist() == ["one", "slope", "noise"]
    noise = out["y_beta"].sel(y_coef="noise").to_numpy().ravel()
    assert abs(noise.mean() - fit.beta["noise"]) < 0.3 * fit.beta_se["noise"]
    assert noise.std() == pytest.approx(fit.beta_se["noise"], rel=0.15)


def test_a_fit_predicts_at_its_estimate_and_at_another_theta(sampled, new_line):
    _, fit, _ = sampled
    x, X = new_line
    assert_allclose(fit.predict(X, x_new=x).mean, fit.posterior_function().predict(x, X).mean)
    other = fit.predict(X, x_new=x, theta={"sigma2": 1e-9})
    assert_allclose(other.mean, X[list(fit.beta.index)] @ fit.objective.blue(fit.at({"sigma2": 1e-9}))[0], rtol=1e-5)
    assert "1 draw of the parameters" in repr(fit.posterior_function())


def test_bad_predictions_are_refused(sampled, new_line):
    model, fit, idata = sampled
    x, X = new_line
    with pytest.raises(ValueError, match="points of x_new lie outside the domain"):
        fit.predict(X, x_new=x + 1)
    with pytest.raises(ValueError, match=r"the model has fixed effects \(one, slope, noise\): give X_new"):
        fit.predict(x_new=x)
    with pytest.raises(ValueError, match="X_new has 2 columns, but the model has 3"):
        fit.predict(X.to_numpy()[:, :2], x_new=x)
    with pytest.raises(ValueError, match="X_new has 11 rows but x_new has 12"):
        fit.predict(X[1:], x_new=x)
    with pytest.raises(ValueError, match="the likelihood is not defined at"):
        fit.posterior_function({"ell": 3.0})
    with pytest.raises(ValueError, match="y keeps no rows: give x_new"):
        flmm.predict(idata, model=model)
    with pytest.raises(
        ValueError, match=r"y is a FourierLMM: leave out K_new\. Its new rows are given by x_new, X_new"
    ):
        flmm.predict(idata, X, K_new=np.eye(3), model=model)
    with pytest.raises(ValueError, match=r"are 6\.0e\+08 numbers, more than 1e\+08: thin the posterior"):
        flmm.predict(idata, np.ones((10**6, 3)), x_new=np.zeros(10**6), model=model)
    with pm.Model() as other:
        spectrum = flmm.Spectrum.from_factor(np.eye(4), np.ones((4, 1)))
        flmm.FastLMM("z", h2=pm.Beta("h2", 1, 1), total=1.0, spectrum=spectrum, observed=np.arange(4.0))
    with pytest.raises(
        ValueError, match=r"z is a FastLMM: leave out x_new\. Its new rows are given by X_new, K_new, W_new"
    ):
        flmm.predict(idata, x_new=x, model=other)
    with pytest.raises(ValueError, match=r"z is no FourierLMM: flmm\.predict"):
        flmm.posterior_function(idata, model=other)
