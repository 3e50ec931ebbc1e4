"""The fit of a FastLMM has the effects of `reml`, at the estimate, at another θ, of records and of individuals."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

IDS = list("abcde")


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(2)
    who = rng.choice(IDS[:4], size=20)
    u = dict(zip(IDS, rng.normal(size=5), strict=True))
    y = np.array([2 * u[i] for i in who]) + rng.normal(size=20)
    return pd.DataFrame({"y": y, "x": rng.normal(size=20), "id": who}, index=[f"r{i}" for i in range(20)])


@pytest.fixture(scope="module")
def K():
    root = np.random.default_rng(1).normal(size=(5, 8))
    return pd.DataFrame(root @ root.T / 8, IDS, IDS)


@pytest.fixture(scope="module")
def pair(table, K):
    """A fit of a model, and of the same spectrum."""
    design = flmm.Design.from_formula("y ~ x", table, K=K, individual="id")
    model = flmm.kernel_model("y ~ x", data=table, K=K, individual="id")
    return flmm.find_reml(model, progressbar=False), flmm.reml(design.spectrum(), design.y)


def test_effects_are_those_of_reml(pair, table):
    fit, kernel = pair
    assert_allclose(fit.theta, [kernel.sigma2_g, kernel.sigma2_e], rtol=1e-6)
    assert list(fit.effects()) == ["u"]
    assert_allclose(fit.effects("u", 0.9), kernel.effects(0.9), rtol=1e-5, atol=1e-8)
    assert list(fit.effects("u").index) == IDS
    assert_allclose(fit.blup("u"), kernel.blup(), rtol=1e-5)
    assert_allclose(fit.pev("u"), kernel.pev(), rtol=1e-5)
    assert_allclose(fit.conditional_variance("u"), kernel.conditional_variance(), rtol=1e-5)
    assert_allclose(fit.fitted(), kernel.predict().mean, rtol=1e-5)
    assert list(fit.fitted().index) == list(table.index)
    assert_allclose(fit.diagnostics(), kernel.diagnostics(table["y"]), rtol=1e-4)
    assert_allclose(fit.residuals("marginal"), table["y"] - kernel.spectrum.X @ kernel.blue, rtol=1e-5)
    with pytest.raises(ValueError, match="there is no term 'id': the model has u"):
        fit.effects("id")


def test_effects_vanish_where_the_variance_does(pair):
    fit, _ = pair
    none = fit.effects("u", theta={fit.theta.index[0]: 0.0})
    assert (none["blup"] == 0).all()
    assert none["reliability"].isna().all()
    more = fit.effects("u", theta=fit.theta * [4, 1])
    assert more["blup"].var() > fit.effects("u")["blup"].var()


def test_new_rows_are_predicted_by_their_covariance(pair, K):
    fit, kernel = pair
    X = np.array([[1.0, 0.0], [1.0, 2.0]])
    new = {"K_new": K.loc[["e", "a"]], "K_new_new": K.loc[["e", "a"], ["e", "a"]]}
    found, expected = fit.predict(X, **new), kernel.predict(X, **new)
    assert_allclose(found.mean, expected.mean, rtol=1e-5)
    assert_allclose(found.se, expected.se, rtol=1e-5)
    assert_allclose(fit.predict(X, effects="population").mean, X @ fit.blue)
    assert_allclose(fit.predict().mean, fit.fitted())
    with pytest.raises(ValueError, match="one kernel has no terms, and keeps no formula"):
        fit.predict(data=pd.DataFrame({"x": [1.0]}))
    sleep = flmm.find_reml("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff(), progressbar=False)
    with pytest.raises(ValueError, match="are of a FastLMM"):
        sleep.predict(K_new=np.eye(2))


def test_a_mean_besides_X_beta_is_in_fitted_values_and_not_in_effects(table, K):
    spectrum = flmm.Spectrum.from_covariance(K, np.ones((20, 1)), individual=table["id"])
    mu = 100 * np.arange(20.0)
    fits = []
    for y, mean in ((table["y"], 0.0), (table["y"] + mu, mu)):
        with pm.Model() as model:
            g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 2)
            flmm.FastLMM("y", spectrum=spectrum, sigma2_g=g**2, sigma2_e=e**2, mu=mean, observed=y)
        fits.append(flmm.find_reml(model, progressbar=False))
    assert_allclose(fits[1].blup("u"), fits[0].blup("u"), rtol=1e-6)
    assert_allclose(fits[1].fitted() - mu, fits[0].fitted(), rtol=1e-6, atol=1e-8)
    assert_allclose(fits[1].predict().mean, fits[1].fitted())
    given = fits[1].simulate(2000, effects="given", random_seed=1)
    assert_allclose(given.mean(axis=1), fits[1].fitted(), atol=5 * np.sqrt(fits[1].theta.iloc[1] / 2000))


def test_coefficients_of_a_root_of_K_are_refused(pair, table, K):
    _, kernel = pair
    with pytest.raises(ValueError, match=r"that of a K between individuals: build it with Spectrum.from_factor\(W, X"):
        kernel.factor_effects()
    model = flmm.kernel_model("y ~ x", data=table, K=K, individual="id")
    idata = flmm.sample(5, tune=5, chains=1, model=model, random_seed=1, progressbar=False, quiet=True)
    with pytest.raises(ValueError, match="that of a K between individuals"):
        flmm.recover_effects(idata, which=["a"], model=model)
    assert "y_u" in flmm.recover_effects(idata, which=["u"], model=model, random_seed=1).posterior
    W = pd.DataFrame(np.linalg.cholesky(K), IDS, columns=[f"m{i}" for i in range(5)])
    markers = flmm.reml(flmm.Spectrum.from_factor(W, np.ones((20, 1)), individual=table["id"]), table["y"])
    found = markers.factor_effects()
    assert list(found.mean.index) == list(W.columns)
    assert_allclose(W @ found.mean, markers.blup(), atol=1e-10)
