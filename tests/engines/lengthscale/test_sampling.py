"""Sampling a lengthscale: NUTS against quadrature and a published posterior; effects and predictions afterwards."""

import json
from pathlib import Path

import arviz as az
import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import pm_fastlmm as flmm

QUIET = {"progressbar": False, "quiet": True, "cores": 1, "chains": 2}
REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "gp_regr.json").read_text())


@pytest.fixture(scope="module")
def example(lengthscales):
    return lengthscales.Example()


@pytest.fixture(scope="module")
def model(example):
    return example.model()


@pytest.fixture(scope="module")
def idata(model):
    return flmm.sample(2000, model=model, random_seed=4, **QUIET)


@pytest.fixture(scope="module")
def quadrature(example, lengthscales):
    """Means and standard deviations of (log ℓ, log σ²_g, log σ²_e) by brute force, from exact spectra."""
    log_ell = np.linspace(*np.log(lengthscales.RANGE), 61)
    log_g, log_e = np.linspace(-4, 3, 71), np.linspace(-4, 0.5, 61)
    g, e = np.exp(log_g)[:, None], np.exp(log_e)
    loglik = np.empty((log_ell.size, log_g.size, log_e.size))
    for i, v in enumerate(np.exp(log_ell)):
        loglik[i] = flmm.log_likelihood(example.spectrum.at(v).rotate(example.y), g, e)
    # densities in the logarithms: HalfNormal(2) and HalfNormal(1) with their Jacobians, normal for log ℓ
    prior = -(((log_ell + 1) / 0.7) ** 2) / 2
    log_density = loglik + prior[:, None, None] + (-(g**2) / 8 + log_g[:, None]) + (-(e**2) / 2 + log_e)
    weights = np.exp(log_density - log_density.max())
    weights[[0, -1]] /= 2  # the trapezoidal rule; the other two densities vanish at their ends
    weights /= weights.sum()
    margins = [weights.sum((1, 2)), weights.sum((0, 2)), weights.sum((0, 1))]
    assert max(margin[k] for margin in margins[1:] for k in (0, -1)) < 1e-4
    means = [margin @ axis for margin, axis in zip(margins, (log_ell, log_g, log_e), strict=True)]
    seconds = [margin @ axis**2 for margin, axis in zip(margins, (log_ell, log_g, log_e), strict=True)]
    return np.array(means), np.sqrt(np.array(seconds) - np.array(means) ** 2)


def test_nuts_agrees_with_quadrature_within_monte_carlo_error(idata, quadrature):
    for name, mean, sd in zip(("ell", "g", "e"), *quadrature, strict=True):
        draws = np.log(idata.posterior[name].to_numpy())
        assert abs(draws.mean() - mean) < 4 * az.mcse(draws), name
        assert abs(draws.std() - sd) < 4 * az.mcse(draws, method="sd"), name


def test_a_published_posterior_of_a_gaussian_process():
    x, y = np.array(REFERENCE["x"], dtype=float), np.array(REFERENCE["y"])
    low, high = 1.5, 18.0
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(x, "se", lengthscale=(low, high), progressbar=False)
    with pm.Model() as model:
        rho = pm.Truncated("rho", pm.Gamma.dist(25, 4), lower=low, upper=high)
        alpha, sigma = pm.HalfNormal("alpha", 2), pm.HalfNormal("sigma", 1)
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=rho, sigma2_g=alpha**2, sigma2_e=sigma, observed=y)
    assert stats.gamma(25, scale=1 / 4).cdf([low, high])[0] < 1e-7  # what truncation leaves out
    assert stats.gamma(25, scale=1 / 4).sf(high) < 1e-7
    draws = flmm.sample(3000, model=model, random_seed=1, **QUIET).posterior
    for name, mean in REFERENCE["mean"].items():
        sd = REFERENCE["sd"][name]
        # the reference's own error: 10 000 draws, rounded to three digits
        error = np.hypot(az.mcse(draws[name].to_numpy()), sd / 100 + 0.0005)
        assert abs(float(draws[name].mean()) - mean) < 4 * error, name
        spread = np.hypot(az.mcse(draws[name].to_numpy(), method="sd"), sd / np.sqrt(2e4) + 0.0005)
        assert abs(float(draws[name].std()) - sd) < 4 * spread, name


def test_derived_quantities_are_functions_of_the_draws(idata):
    p = idata.posterior
    assert_allclose(p["y_lengthscale"], p["ell"])
    assert_allclose(p["y_sigma2"], p["g"])
    assert_allclose(p["y_delta"], p["e"] / p["g"])
    assert_allclose(p["y_h2"], p["g"] / (p["g"] + p["e"]), rtol=1e-12)  # the kernel has mean diagonal 1


def test_draws_below_the_smallest_delta_are_reported(example, idata, lengthscales):
    coarse = flmm.LengthscaleSpectrum.from_coordinates(
        example.x, lengthscale=lengthscales.RANGE, X=example.X, delta=(0.5, 10), progressbar=False
    )  # fmt: skip
    with pm.Model() as model:
        ell = pm.Uniform("ell", *lengthscales.RANGE)
        g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        flmm.LengthscaleLMM("y", spectrum=coarse, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=example.y)
    with pytest.warns(UserWarning, match=r"% of the draws of y have a delta below 0.5"):
        flmm.sample(50, model=model, random_seed=1, **QUIET)


@pytest.mark.parametrize("sampler", ["nutpie", "numpyro"])
def test_other_samplers_agree(model, idata, sampler, sample_by_numpyro):
    if sampler == "numpyro":
        other = sample_by_numpyro(model, 500)
        assert other.posterior["y_u"].shape[1] == 500
    else:
        pytest.importorskip("nutpie")
        other = flmm.sample(500, model=model, nuts_sampler="nutpie", random_seed=2, chains=2, progressbar=False)
    for name in ("ell", "g", "e"):
        ours, theirs = (np.log(d.posterior[name].to_numpy()) for d in (idata, other))
        assert abs(ours.mean() - theirs.mean()) < 5 * np.hypot(az.mcse(ours), az.mcse(theirs))


def test_chains_run_in_processes_of_their_own(model):
    idata = flmm.sample(50, model=model, random_seed=2, chains=2, cores=2, progressbar=False, quiet=True)
    assert idata.posterior["ell"].shape == (2, 50)


def conditional(example, draws, oracle):
    """Mean and covariance of f = Xβ + u given y, mixed over the draws of ℓ and the variances."""
    means, covariances = [], []
    for ell, g, e in draws:
        dense = oracle.Dense(example.K(ell), example.X, example.y, g, e)
        means.append(example.y - e * dense.Py)
        covariances.append(e * np.eye(example.n) - e**2 * dense.P)
    return np.array(means), np.array(covariances)


@pytest.fixture(scope="module")
def thinned(idata):
    return idata.sel(draw=slice(0, None, 10)).copy()


def parameters(thinned):
    return np.stack([thinned.posterior[name].to_numpy().ravel() for name in ("ell", "g", "e")], axis=1)


def test_effects_are_drawn_from_their_conditional_at_each_lengthscale(example, model, thinned, oracle):
    result = flmm.recover_effects(thinned, model=model, random_seed=1)
    beta, u = (result.posterior[f"y_{name}"].to_numpy().reshape(400, -1) for name in ("beta", "u"))
    mean, covariance = conditional(example, parameters(thinned), oracle)
    f = beta @ example.X.T + u
    standard = (f - mean) / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    # 400 independent standard normals for each observation
    assert np.abs(standard.mean(0)).max() < 4.5 / np.sqrt(400)
    assert np.abs(standard.var(0) - 1).max() < 4.5 * np.sqrt(2 / 400)
    for (ell, g, e), b in zip(parameters(thinned)[:3], beta, strict=False):
        dense = oracle.Dense(example.K(ell), example.X, example.y, g, e)
        assert (np.abs(b - dense.beta) < 5 * np.sqrt(np.diag(dense.beta_cov))).all()
    assert list(result.posterior["y_coef"]) == ["x0", "x1"]
    only = flmm.recover_effects(thinned.copy(), which=["beta"], model=model, random_seed=1)
    assert_allclose(only.posterior["y_beta"].to_numpy().reshape(400, -1), beta)


def test_predictions_at_new_coordinates_have_their_conditional_moments(example, model, thinned, oracle, lengthscales):
    x_new, X_new = np.array([0.15, 0.5, 1.1]), np.column_stack([np.ones(3), [0.5, -0.5, 0.0]])
    K_new, K_new_new = example.spectrum.new_kernels(x_new)
    result = flmm.predict(thinned, X_new, K_new, K_new_new=K_new_new, model=model, random_seed=3)
    f = result.predictions["y_mean"].to_numpy().reshape(400, 3)
    every = np.concatenate([example.x, x_new])
    standard = []
    for (ell, g, e), draw in zip(parameters(thinned), f, strict=True):
        K = lengthscales.matern52(every, ell)
        n = example.n
        dense = oracle.Dense(K[:n, :n], example.X, example.y, g, e)
        mean = X_new @ dense.beta + g * K[n:, :n] @ dense.Py
        gap = X_new - g * K[n:, :n] @ dense.Vinv @ example.X
        variance = g * K[n:, n:] - g**2 * K[n:, :n] @ dense.Vinv @ K[:n, n:] + gap @ dense.beta_cov @ gap.T
        standard.append(np.linalg.solve(np.linalg.cholesky(variance), draw - mean))
    standard = np.array(standard)
    assert np.abs(standard.mean(0)).max() < 4 / np.sqrt(400)
    assert np.abs(standard.T @ standard / 400 - np.eye(3)).max() < 4 * np.sqrt(2 / 400)
    noise = (result.predictions["y"] - result.predictions["y_mean"]).to_numpy().reshape(400, 3)
    scaled = noise / np.sqrt(parameters(thinned)[:, 2:])
    assert abs(scaled.var() - 1) < 4 * np.sqrt(2 / 1200)


def test_replicates_in_sample_keep_or_renew_the_effects(example, model, thinned):
    given = flmm.predict(thinned.copy(), model=model, random_seed=1).posterior_predictive["y_mean"]
    new = flmm.predict(thinned.copy(), model=model, effects="new", random_seed=1).posterior_predictive["y_mean"]
    assert given.shape == new.shape == (2, 200, example.n)
    observed = example.y - example.y.mean()
    assert np.corrcoef(given.mean(("chain", "draw")), observed)[0, 1] > 0.9
    assert float(new.std(("chain", "draw")).mean()) > 2 * float(given.std(("chain", "draw")).mean())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X_new": np.ones((2, 2)), "K_new": np.ones((2, 60)), "K_new_new": np.eye(2)}, "are functions of it"),
        ({"X_new": np.ones((2, 2))}, "are functions of it"),
        ({"W_new": np.ones((2, 2))}, "leave out W_new. Its new rows are given by X_new, K_new, K_new_new"),
    ],
)
def test_predictions_need_kernels_as_functions(model, thinned, arguments, message):
    with pytest.raises(ValueError, match=message):
        flmm.predict(thinned, model=model, **arguments)


def test_unknown_effects_are_refused(model, thinned):
    with pytest.raises(ValueError, match="which must be some of 'beta' and 'u', got 'a'"):
        flmm.recover_effects(thinned, which=["a"], model=model)
