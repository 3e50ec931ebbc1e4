"""A formula is fitted without a PyMC model: the fit is that of the model, and `refit` and `model` go on from it."""

import pickle

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

K = flmm.covariance.markers(
    np.random.default_rng(1).integers(0, 3, size=(24, 200)), ids=sorted(set(flmm.datasets.john_alpha()["gen"]))
)
CASES = {
    "intercept": ("Yield ~ 1 + (1 | Batch)", "dyestuff", {}),
    "slopes": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", {}),
    "independent slopes": ("Reaction ~ Days + (Days || Subject)", "sleepstudy", {}),
    "parts": ("Reaction ~ Days + (Days | Subject) + (0 + I(Days**2) | Subject)", "sleepstudy", {}),
    "crossed": ("diameter ~ 1 + (1 | plate) + (1 | sample)", "penicillin", {}),
    "nested": ("yield ~ rep + (1 | gen) + (1 | rep:block)", "john_alpha", {}),
    "known": ("yield ~ rep + (1 | gen) + (1 | rep:block)", "john_alpha", {"known": {"gen": K}}),
    "one known": ("yield ~ rep + (1 | gen)", "john_alpha", {"known": {"gen": K}}),
}


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", CASES)
def test_the_fit_of_a_formula_is_that_of_its_model(name, method):
    formula, table, known = CASES[name]
    data = getattr(flmm.datasets, table)()
    fit = flmm.find_reml(formula, data, method=method, progressbar=False, **known)
    of_model = flmm.find_reml(flmm.lmm_model(formula, data, **known), method=method, progressbar=False)
    assert list(fit.theta.index) == list(of_model.theta.index)
    assert_allclose(fit.theta, of_model.theta, rtol=1e-12)
    assert_allclose(fit.loglik, of_model.loglik, rtol=1e-14)
    assert fit.boundary == of_model.boundary
    assert fit.point.keys() == of_model.point.keys()
    for variable, value in of_model.point.items():
        assert_allclose(fit.point[variable], value, rtol=1e-6, atol=1e-7)
    new, of_new = fit.predict(data=data[:3]), of_model.predict(data=data[:3])
    pd.testing.assert_series_equal(new.mean, of_new.mean)
    pd.testing.assert_series_equal(new.se, of_new.se)


def test_options_of_the_iteration_hold_for_a_formula_and_its_refits():
    formula, data = "diameter ~ 1 + (1 | plate) + (1 | sample)", flmm.datasets.penicillin()
    fit = flmm.find_reml(formula, data, fixed={"plate": 0.5}, bounds={"sample": (0.0, 1.0)}, progressbar=False)
    assert fit.theta["plate"] == 0.5
    assert fit.theta["sample"] == 1.0
    again = fit.refit(2 * fit.node.observed)
    assert again.theta["plate"] == 0.5
    assert again.theta["sample"] == 1.0


@pytest.mark.parametrize("name", ["slopes", "crossed", "one known"])
def test_a_refit_is_the_fit_of_a_table_with_the_other_response(name):
    formula, table, known = CASES[name]
    data, response = getattr(flmm.datasets, table)(), formula.split(" ~ ")[0]
    other = data[response] + np.random.default_rng(3).normal(size=len(data))
    expected = flmm.find_reml(formula, data.assign(**{response: other}), progressbar=False, **known)
    for fit in (
        flmm.find_reml(formula, data, progressbar=False, **known),
        flmm.find_reml(flmm.lmm_model(formula, data, **known), progressbar=False),
    ):
        for y in (other, other.to_numpy()):
            refitted = fit.refit(y)
            assert_allclose(refitted.theta, expected.theta, rtol=1e-9)
            assert_allclose(refitted.loglik, expected.loglik, rtol=1e-12)


def test_other_engines_are_refitted_too():
    rng = np.random.default_rng(5)
    x, W = np.sort(rng.uniform(size=30)), rng.normal(size=(30, 8))
    spectrum, y, other = flmm.Spectrum.from_factor(W, np.ones((30, 1))), rng.normal(size=30), rng.normal(size=30)
    for observed in (y, spectrum.rotate(y)):
        with pm.Model() as model:
            h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", 5)
            flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=observed)
        fit = flmm.find_reml(model, progressbar=False)
        if observed is y:
            assert_allclose(fit.refit(other).loglik, flmm.reml(spectrum, other).loglik, rtol=1e-9)
        else:
            with pytest.raises(ValueError, match="observes a statistic"):
                fit.refit(other)
    with pm.Model() as dense:
        v = pm.HalfNormal("v", 2)
        V = v**2 * np.exp(-np.abs(x[:, None] - x)) + np.eye(30)
        flmm.DenseLMM("y", V=V, X=np.ones((30, 1)), observed=y)
    fit = flmm.find_reml(dense, progressbar=False)
    assert_allclose(fit.refit(y).theta, fit.theta)
    assert fit.refit(other).loglik != fit.loglik


def test_the_model_of_a_fit_is_built_once_and_is_the_model_that_was_given():
    formula, data = "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff()
    fit = flmm.find_reml(formula, data, progressbar=False)
    assert fit.model is fit.model
    assert [v.name for v in fit.model.free_RVs] == list(fit.point)
    model = flmm.lmm_model(formula, data)
    assert flmm.find_reml(model, progressbar=False).model is model
    copied = pickle.loads(pickle.dumps(fit))
    assert copied.refit(fit.node.observed).loglik == fit.loglik
    assert list(copied.model.named_vars) == list(fit.model.named_vars)


def test_what_does_not_fit_is_refused():
    formula, data = "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff()
    fit = flmm.find_reml(formula, data, progressbar=False)
    with pytest.raises(ValueError, match="y has 29 rows but Yield has 30"):
        fit.refit(np.ones(29))
    with pytest.raises(ValueError, match="y has 1 values that are NaN"):
        fit.refit(np.r_[np.nan, np.ones(29)])
    with pytest.raises(ValueError, match="negative, weights, offset, residual, family, link and trials belong"):
        flmm.find_reml(flmm.lmm_model(formula, data), data)
    with pytest.raises(ValueError, match="no random term"):
        flmm.find_reml("Yield ~ 1", data)
    with pytest.raises(ValueError, match="known names"):
        flmm.find_reml(formula, data, known={"batch": np.eye(6)})
    with pytest.raises(ValueError, match="effects for 30 observations"):
        flmm.find_reml("Yield ~ 1 + (1 | row)", data.assign(row=range(30)))
    of_function = flmm.reml_covariance(
        lambda theta: theta[0] * np.eye(30), fit.node.observed, np.ones((30, 1)), start=[1.0], progressbar=False
    )
    with pytest.raises(ValueError, match="was fitted, not a model"):
        of_function.refit(np.ones(30))


def test_names_that_pymc_cannot_have_can_be_fitted():
    data = flmm.datasets.dyestuff().rename(columns={"Yield": "t/ha", "Batch": "e"})
    fit = flmm.find_reml("`t/ha` ~ 1 + (1 | e)", data, progressbar=False)
    assert_allclose(fit.theta["e"], 1764.05, rtol=1e-5)
    with pytest.raises(ValueError, match="rename"):
        _ = fit.model
