"""sample adds draws of β where they are quick, of the distribution that recover_effects draws from."""

import logging

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.engines.draws import Draws

BRIEF = {"draws": 20, "tune": 20, "chains": 1, "random_seed": 1, "progressbar": False}


def posterior(model, point, n):
    """A posterior of one point, repeated."""
    arrays = {}
    for name, value in point.items():
        value = np.broadcast_to(value, (1, n, *np.shape(value)))
        arrays[name] = (("chain", "draw", *(f"{name}_{i}" for i in range(value.ndim - 2))), value.copy())
    return xr.Dataset(arrays, coords={"chain": [0], "draw": np.arange(n)})


def test_draws_of_one_kernel_are_those_of_generalised_least_squares():
    data = flmm.datasets.dyestuff()
    Y = np.stack([data["Yield"], data["Yield"][::-1]])
    W, X = pd.get_dummies(data["Batch"], dtype=float).to_numpy(), np.column_stack([np.ones(30), np.arange(30) % 4])
    spectrum = flmm.Spectrum.from_factor(W, X)
    fit = flmm.reml(spectrum, Y[0])
    with pm.Model() as model:
        g, e = pm.HalfFlat("g"), pm.HalfFlat("e")
        flmm.FastLMM("y", spectrum=spectrum, sigma2_g=g, sigma2_e=e, observed=Y)
    [node] = flmm.lmm_nodes(model)
    draws = Draws(model, posterior(model, {"g": fit.sigma2_g, "e": fit.sigma2_e}, 3000))
    beta = node.coefficients(draws, np.random.default_rng(1))
    assert beta.shape == (1, 3000, 2, 2)
    sd = np.sqrt(np.diag(fit.blue_cov))
    assert_allclose(beta[0, :, 0].mean(axis=0), fit.blue, atol=4.5 * sd.max() / np.sqrt(3000))
    assert_allclose(np.cov(beta[0, :, 0].T), fit.blue_cov, atol=6 * sd.max() ** 2 / np.sqrt(3000))
    assert_allclose(beta[0, :, 1, 0].std(), sd[0], rtol=0.06)


@pytest.mark.parametrize("formula", ["Reaction ~ Days + (Days|Subject)", "Reaction ~ Days + (1|Subject)"])
def test_draws_of_coefficients_are_those_of_generalised_least_squares(formula):
    model = flmm.lmm_model(formula, flmm.datasets.sleepstudy())
    fit = flmm.find_reml(model, progressbar=False)
    [node] = flmm.lmm_nodes(model)
    n = 3000
    draws = Draws(model, posterior(model, fit.point, n))
    beta = node.coefficients(draws, np.random.default_rng(1))[0]
    sd = np.sqrt(np.diag(fit.blue_cov))
    assert_allclose(beta.mean(axis=0), fit.blue, atol=4.5 * sd.max() / np.sqrt(n))
    assert_allclose(np.cov(beta.T), fit.blue_cov, atol=6 * sd.max() ** 2 / np.sqrt(n))


def test_a_mean_besides_X_beta_is_taken_off():
    data, rng = flmm.datasets.sleepstudy(), np.random.default_rng(2)
    mu = 100 * rng.normal(size=len(data))
    fit = flmm.find_reml("Reaction ~ Days + (Days|Subject)", data, progressbar=False)

    def node_of(y, mean):
        design = flmm.MixedDesign.from_formula("Reaction ~ Days + (Days|Subject)", data)
        with pm.Model() as model:
            terms = [design.random[0].term(flmm.covariance.unstructured(pm.Flat("S") * np.eye(2)))]
            flmm.StructuredLMM("y", X=design.X, terms=terms, sigma2_e=pm.Flat("e"), observed=y, mu=mean)
        return model, flmm.lmm_nodes(model)[0]

    point = {"S": np.array(30.0), "e": np.array(600.0)}
    found = []
    for y, mean in ((data["Reaction"].to_numpy(), 0.0), (data["Reaction"].to_numpy() + mu, mu)):
        model, node = node_of(y, mean)
        found.append(node.coefficients(Draws(model, posterior(model, point, 5)), np.random.default_rng(1)))
    assert_allclose(found[0], found[1], rtol=1e-8)
    assert abs(found[0][0, 0, 1] - fit.blue[1]) < 10


def test_the_summary_has_coefficients_unless_they_are_not_wanted():
    data = flmm.datasets.dyestuff()
    model = flmm.kernel_model("Yield ~ 1", data=data, W=pd.get_dummies(data["Batch"], dtype=float))
    idata = flmm.sample(model=model, quiet=True, **BRIEF)
    assert idata.posterior["y_beta"].dims == ("chain", "draw", "y_coef")
    assert list(idata.posterior["y_coef"].values) == ["Intercept"]
    without = flmm.sample(model=model, quiet=True, effects=False, **BRIEF)
    assert "y_beta" not in without.posterior
    for name in ("h2", "total"):
        assert_allclose(idata.posterior[name], without.posterior[name])
    # variables that were not kept are no reason to fail
    part = flmm.sample(model=model, quiet=True, var_names=["total"], **BRIEF)
    assert "y_beta" not in part.posterior
    again = flmm.recover_effects(idata, model=model, random_seed=2)
    assert {"y_beta", "y_u"} <= set(again.posterior.data_vars)


def test_a_message_names_recover_effects_where_coefficients_take_long(caplog):
    x = np.linspace(0, 1, 12)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(
        x, lengthscale=(0.1, 2.0), X=np.ones((12, 1)), progressbar=False
    )
    y = np.sin(6 * x) + np.random.default_rng(1).normal(size=12)
    with pm.Model() as model:
        ell, g, e = pm.Uniform("ell", 0.1, 2), pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=y)
    with caplog.at_level(logging.INFO, logger="pymc"):
        idata = flmm.sample(model=model, **BRIEF)
    assert (
        "The coefficients of y are integrated out: flmm.recover_effects(idata, model=model) draws y_beta."
        in caplog.text
    )
    assert "y_beta" not in idata.posterior
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="pymc"):
        flmm.sample(model=model, effects=False, **BRIEF)
    assert "recover_effects" not in caplog.text


@pytest.mark.parametrize(
    ("given", "said"), [({"beta_cov": 100.0 * np.eye(1)}, True), ({"beta": np.ones(1)}, False), ({}, False)]
)
def test_a_message_names_recover_effects_where_coefficients_have_a_prior(caplog, given, said):
    """Under a Gaussian prior β is integrated out too; one that is given, or is in the posterior, needs no message."""
    data = flmm.datasets.dyestuff()
    spectrum = flmm.Spectrum.from_factor(pd.get_dummies(data["Batch"], dtype=float), np.ones((30, 1)))
    with pm.Model() as model:
        g, e = pm.HalfNormal("g", 50), pm.HalfNormal("e", 50)
        flmm.FastLMM("y", spectrum=spectrum, sigma2_g=g**2, sigma2_e=e**2, observed=data["Yield"], **given)
    [node] = flmm.lmm_nodes(model)
    assert node.integrates_coefficients(model) == ("beta" not in given)
    with caplog.at_level(logging.INFO, logger="pymc"):
        idata = flmm.sample(model=model, **BRIEF)
    assert ("flmm.recover_effects(idata, model=model) draws y_beta." in caplog.text) == said
    assert ("y_beta" in idata.posterior) == (not given)
