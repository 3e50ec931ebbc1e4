"""Draws of the parameters of V by the names of a fit, for functions of them."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

DRAWS = {"sigma_Subject": np.array([[[20.0, 5.0], [30.0, 6.0]]]), "sigma_e": np.array([[25.0, 26.0]])}


def posterior(arrays):
    """A posterior of one chain that was not sampled."""
    dims = {name: ("chain", "draw", *(f"{name}_{i}" for i in range(v.ndim - 2))) for name, v in arrays.items()}
    group = xr.Dataset({name: (dims[name], values) for name, values in arrays.items()})
    return xr.DataTree(children={"posterior": xr.DataTree(group.assign_coords(chain=[0], draw=[0, 1]))})


def test_terms_have_the_names_of_theta():
    formula, sleep = "Reaction ~ Days + (Days || Subject)", flmm.datasets.sleepstudy()
    v = flmm.variances(posterior(DRAWS), model=flmm.lmm_model(formula, sleep))
    fit = flmm.find_reml(formula, sleep, progressbar=False)
    assert list(v) == list(fit.theta.index)

    def at_day_three(v):
        return v["Subject[Intercept]"] / (v["Subject[Intercept]"] + 9 * v["Subject[Days]"] + v["residual"])

    expected = [400 / (400 + 9 * 25 + 625), 900 / (900 + 9 * 36 + 676)]
    assert_allclose(at_day_three(v), [expected])
    assert at_day_three(v).dims == ("chain", "draw")
    t = fit.theta
    assert_allclose(
        fit.function(at_day_three).estimate,
        t["Subject[Intercept]"] / (t["Subject[Intercept]"] + 9 * t["Subject[Days]"] + t["residual"]),
    )


def test_one_kernel_has_its_variances_and_shares():
    W = np.repeat(np.eye(4), 3, axis=0) * 2
    spectrum = flmm.Spectrum.from_factor(W, np.ones((12, 1)))
    with pm.Model() as model:
        g, e = pm.HalfNormal("g"), pm.HalfNormal("e")
        flmm.FastLMM("y", spectrum=spectrum, sigma2_g=g, sigma2_e=e, observed=np.arange(12.0))
    v = flmm.variances(posterior({"g": np.array([[1.0, 2.0]]), "e": np.array([[3.0, 4.0]])}), model=model)
    assert_allclose(v["sigma2_g"], [[1, 2]])
    assert_allclose(v["h2"], [[4 / 7, 8 / 12]])


def test_a_matrix_of_the_users_has_the_variables_of_the_model():
    with pm.Model() as model:
        s = pm.HalfNormal("s")
        flmm.DenseLMM("y", V=s**2 * np.eye(5), X=np.ones((5, 1)), observed=np.arange(5.0))
    assert list(flmm.variances(posterior({"s": np.array([[1.0, 2.0]])}), model=model)) == ["s"]


def test_draws_that_were_not_kept_are_named():
    model = flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
    with pytest.raises(ValueError, match="no draws of sigma_Batch"):
        flmm.variances(posterior({"sigma_e": DRAWS["sigma_e"]}), model=model)
