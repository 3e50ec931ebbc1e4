"""Predictions without random effects, of groups that are new and of rows whose group is missing."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov


@pytest.fixture(scope="module")
def sleep():
    return flmm.find_reml(
        flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy()), progressbar=False
    )


@pytest.mark.parametrize("k", range(5))
def test_population_means_are_those_of_lme4(reference, k):
    case = reference.json("conditional_lme4.json")[k]
    fit = flmm.find_reml(flmm.lmm_model(case["formula"], getattr(flmm.datasets, case["data"])()), progressbar=False)
    new = pd.DataFrame({"Days": case["days"]} if case["days"] else {"nothing": [0]})
    got = fit.predict(data=new, effects="population")
    assert_allclose(got.mean, case["population"], rtol=1e-9)
    assert_allclose(got.se, case["population_se"], rtol=2e-6)
    assert_allclose(got.se_observation**2, got.se**2 + fit.theta["residual"])


def test_a_new_level_has_no_effect_and_all_its_variance(sleep):
    new = pd.DataFrame({"Days": [0.0, 7.0], "Subject": ["nobody", "nobody"]})
    got = sleep.predict(data=new)
    mean = sleep.predict(data=new, effects="population")
    assert_allclose(got.mean, mean.mean, rtol=1e-12)
    a, c, b = (sleep.theta[f"Subject[{name}]"] for name in ("Intercept", "Intercept, Days", "Days"))
    days = new.Days.to_numpy()
    assert_allclose(got.variance - mean.variance, a + 2 * days * c + days**2 * b, rtol=1e-9)


def test_what_is_missing_is_said_with_what_helps(sleep):
    days = pd.DataFrame({"Days": [0.0, 10.0]}, index=["first", "second"])
    with pytest.raises(ValueError, match=r"data has no column 'Subject', .* effects='population' predicts without"):
        sleep.predict(data=days)
    holes = days.assign(Subject=["308", None])
    with pytest.raises(ValueError, match=r"the group of term 'Subject' is missing in rows 'second': .* label of their"):
        sleep.predict(data=holes)
    with pytest.raises(ValueError, match="the group of term 'Subject' is missing in rows 1: "):
        sleep.predict(np.ones((2, 2)), {"Subject": (["308", np.nan], np.ones((2, 2)))})
    with pytest.raises(ValueError, match="the group of term 'Subject' is missing in rows 0: "):
        sleep.predict(np.ones((1, 2)), {"Subject": ([None], np.ones((1, 2)))})
    # both remedies do
    assert np.isfinite(sleep.predict(data=holes.fillna("nobody")).se).all()
    assert np.isfinite(sleep.predict(data=holes, effects="population").se).all()


def test_a_fixed_variable_must_be_there_all_the_same(sleep):
    with pytest.raises(ValueError, match="do not fit the formula"):
        sleep.predict(data=pd.DataFrame({"Subject": ["308"]}), effects="population")
    with pytest.raises(ValueError, match="effects='population' is Xβ without random effects: leave out Z_new"):
        sleep.predict(np.ones((1, 2)), {"Subject": ["308"]}, effects="population")
    with pytest.raises(ValueError, match=r"effects must be 'given' \(û\) or 'population' \(Xβ alone\), got 'none'"):
        sleep.predict(np.ones((1, 2)), effects="none")


def test_a_nested_group_is_not_needed_either():
    rng = np.random.default_rng(0)
    d = pd.DataFrame({"x": rng.normal(size=60), "a": np.repeat(list("pqrs"), 15), "b": np.tile(list("klm"), 20)})
    d["y"] = d.x + rng.normal(size=60)
    fit = flmm.find_reml(flmm.lmm_model("y ~ x + (1|a/b)", d), progressbar=False)
    got = fit.predict(data=d[["x"]], effects="population")
    assert_allclose(got.mean, fit.fitted("marginal"), rtol=1e-10)
    X = np.column_stack([np.ones(60), d.x])
    assert_allclose(got.variance, np.einsum("mi,ij,mj->m", X, fit.beta_cov, X), rtol=1e-8)


def test_one_kernel(problem):
    fit = flmm.reml(problem.spectrum, problem.y)
    got = (
        fit.predict(problem.X_new, effects="population") if problem.X is not None else fit.predict(effects="population")
    )
    rows = problem.X_new if problem.X is not None else np.zeros((len(problem.y), 0))
    assert_allclose(got.mean, rows @ fit.beta, rtol=1e-9, atol=1e-12)
    assert_allclose(got.variance, np.einsum("mi,ij,mj->m", rows, fit.beta_cov, rows), rtol=1e-8, atol=1e-12)
    inside = fit.predict(effects="population")
    assert_allclose(inside.mean, problem.spectrum.X @ fit.beta, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="effects='population' is Xβ without random effects: leave out K_new"):
        fit.predict(problem.X_new, problem.K_new, effects="population")
    with pytest.raises(ValueError, match="effects must be 'given'"):
        fit.predict(problem.X_new, problem.K_new, effects="new")


# ---------------------------------------------------------------- draws

DRAWS = 2000


def posterior(**values):
    draws = {name: (("chain", "draw"), np.full((1, DRAWS), value)) for name, value in values.items()}
    data = xr.Dataset(draws, coords={"chain": [0], "draw": np.arange(DRAWS)})
    return xr.DataTree.from_dict({"posterior": data})


def check(idata, group, X, V, y, rows, e):
    f, draws = (idata[group][name].to_numpy()[0] for name in ("y_mean", "y"))
    Vi = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ Vi @ X)
    mean, variance = rows @ Phi @ X.T @ Vi @ y, np.einsum("mi,ij,mj->m", rows, Phi, rows)
    assert_allclose((f.mean(axis=0) - mean) / np.sqrt(variance / DRAWS), 0, atol=4.5)
    assert_allclose(f.var(axis=0), variance, rtol=0.2)
    assert_allclose((draws - f).var(axis=0), e, rtol=0.2)


@pytest.mark.parametrize("engine", ["FastLMM", "StructuredLMM", "LengthscaleLMM"])
def test_draws_without_random_effects(engine):
    rng = np.random.default_rng(5)
    n, v, e = 25, 1.5, 0.6
    x = rng.uniform(0, 3, size=n)
    K = np.exp(-0.5 * (x[:, None] - x) ** 2) + 0.0
    X = pd.DataFrame({"one": 1.0, "z": rng.normal(size=n)})
    y = 3 + X.z.to_numpy() + rng.normal(size=n)
    values = {"v": v, "e": e}
    with pm.Model() as model:
        a, b = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
        if engine == "FastLMM":
            flmm.FastLMM("y", sigma2_g=a, sigma2_e=b, spectrum=flmm.Spectrum.from_covariance(K, X), observed=y)
        elif engine == "StructuredLMM":
            term = flmm.Term(np.arange(n), cov.known(pd.DataFrame(K), a), name="u")
            flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=b, observed=y)
        else:
            ell, values = pm.Uniform("ell", 0.5, 2.0), values | {"ell": 1.0}
            spectrum = flmm.LengthscaleSpectrum.from_coordinates(
                x, "se", lengthscale=(0.5, 2.0), X=X, progressbar=False
            )
            flmm.LengthscaleLMM("y", lengthscale=ell, sigma2_g=a, sigma2_e=b, spectrum=spectrum, observed=y)
    V = v * K + e * np.eye(n)
    new = pd.DataFrame({"z": [0.0, 2.0, -1.0], "one": 1.0}, index=list("klm"))
    idata = flmm.predict(posterior(**values), new, effects="population", model=model, random_seed=1)
    assert idata.predictions["y_new"].to_numpy().tolist() == list("klm")
    check(idata, "predictions", X.to_numpy(), V, y, new[["one", "z"]].to_numpy(), e)
    idata = flmm.predict(posterior(**values), effects="population", model=model, random_seed=2)
    check(idata, "posterior_predictive", X.to_numpy(), V, y, X.to_numpy(), e)
    with pytest.raises(ValueError, match="effects='population' is Xβ without random effects: leave out"):
        flmm.predict(posterior(**values), new, Z_new={"u": [1, 2, 3]}, effects="population", model=model)


def test_draws_from_a_table_without_groups():
    sleep = flmm.datasets.sleepstudy()
    model = flmm.lmm_model("Reaction ~ Days + (1 | Subject)", sleep)
    fit = flmm.find_reml(model, progressbar=False)
    names = [variable.name for variable in model.free_RVs]
    idata = posterior(**{name: float(np.ravel(fit.point[name])[0]) for name in names if name in fit.point})
    new = pd.DataFrame({"Days": [0.0, 9.0]})
    with pytest.raises(ValueError, match="data has no column 'Subject'"):
        flmm.predict(idata, data=new, model=model)
    idata = flmm.predict(idata, data=new, effects="population", model=model, random_seed=1)
    expected = fit.predict(data=new, effects="population")
    f = idata.predictions["Reaction_mean"].to_numpy()[0]
    assert_allclose((f.mean(axis=0) - expected.mean) / expected.se * np.sqrt(DRAWS), 0, atol=4.5)
    assert_allclose(f.std(axis=0), expected.se, rtol=0.1)


def test_a_mean_that_is_not_predicted_is_said():
    y = np.arange(6.0)
    with pm.Model() as model:
        v = pm.HalfNormal("v", 2)
        flmm.DenseLMM("y", X=np.ones((6, 1)), V=v * np.eye(6), observed=y)
    with pytest.raises(
        ValueError, match=r"y is a DenseLMM: its V is not split into effects and residuals.* effects='new'"
    ):
        flmm.predict(posterior(v=1.0), effects="population", model=model)
