"""What a user gives to find_reml: start, fixed, bounds, tolerances, verbose; and what is refused."""

import re
from contextlib import contextmanager
from io import StringIO

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from rich.console import Console

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.base.display import activity

y, X = np.array([1.0, 2, 1, 3, 5, 6, 5, 7, 3, 4, 2, 4]), np.ones((12, 1))
BATCH, DAY = np.repeat(list("abc"), 4), np.tile(["mon", "tue"], 6)


def two_terms(**kwargs):
    with pm.Model() as model:
        v = [pm.HalfNormal(name, 5) for name in ("v_batch", "v_day", "v_e")]
        terms = [flmm.Term(BATCH, cov.scalar(v[0]), name="batch"), flmm.Term(DAY, cov.scalar(v[1]), name="day")]
        flmm.StructuredLMM("y", **{"X": X, "terms": terms, "sigma2_e": v[2], "observed": y} | kwargs)
    return model


def test_start_by_name_or_in_order(models, fit):
    model = models["penicillin"]
    full = fit(model)
    for start in ({"sample": 2.0}, {"residual": 0.1, "plate": 3.0}, [1.0, 1.0, 1.0], np.array([0.1, 2.0, 5.0])):
        found = fit(model, start=start)
        assert_allclose(found.theta, full.theta, rtol=1e-6)
    first = fit(model, start={"plate": 0.7, "sample": 3.7, "residual": 0.3}, max_iterations=1).history.theta[0]
    assert_allclose(first, [0.7, 3.7, 0.3], rtol=0.06)  # V may be rescaled before the first step


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"plat": 1.0}, r"start names 'plat', which is no parameter: they are plate, sample, residual\."),
        ([1.0, 2.0], r"start must have 3 values, plate, sample, residual, got shape \(2,\)"),
        ({"plate": np.nan}, r"start must be finite, got plate = nan"),
        ({"plate": -1.0}, r"start is outside the bounds: plate = -1"),
    ],
)
def test_a_bad_start_is_refused(models, fit, start, message):
    with pytest.raises(ValueError, match=message):
        fit(models["penicillin"], start=start)


def test_a_start_of_zeros_is_lifted_off_the_bound(models, fit):
    model = models["penicillin"]
    found = fit(model, start=[0.0, 0.0, 0.0])
    assert_allclose(found.theta, fit(model).theta, rtol=1e-6)
    assert found.history.sizes["iteration"] - 1 <= 25


def test_fixed_parameters_keep_their_value(models, fit):
    model = models["penicillin"]
    held = fit(model, fixed={"sample": 1.0})
    assert held.theta["sample"] == 1.0
    assert_allclose(held.score[["plate", "residual"]], 0, atol=1e-5)
    assert np.isnan(held.standard_errors()["sample"])
    assert held.standard_errors()[["plate", "residual"]].notna().all()
    assert held.boundary == ()
    kept = fit(model, fixed=["sample"], start={"sample": 2.5})
    assert kept.theta["sample"] == 2.5
    with pytest.raises(ValueError, match=r"fixed names 'u', which is no parameter"):
        fit(model, fixed=["u"])
    assert kept.point["v_sample"] == pytest.approx(2.5)
    assert "converged in" in repr(kept)
    assert ", with sample fixed" in repr(kept)
    with pytest.raises(ValueError, match=r"fixed must have one number for 'sample', got an array of shape \(2,\)"):
        fit(model, fixed={"sample": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"fixed is outside the bounds: .*sample = -1"):
        fit(model, fixed={"sample": -1.0})


def test_fixed_and_bounded_variances_of_one_kernel(models, fit):
    model = models["dyestuff"]
    held = fit(model, fixed={"Batch": 1000.0})
    assert held.theta["Batch"] == 1000.0
    assert_allclose(held.score["residual"], 0, atol=1e-8)
    bounded = fit(model, bounds={"Batch": (0.0, 500.0)})
    assert bounded.theta["Batch"] == 500.0
    assert bounded.boundary == ("Batch",)
    assert bounded.score["Batch"] > 0


def test_narrower_bounds_bind_and_are_labelled(models, fit):
    model = models["penicillin"]
    found = fit(model, bounds={"sample": (0.5, 2.0)})
    assert found.theta["sample"] == 2.0
    assert found.boundary == ("sample",)
    assert found.converged
    assert found.score["sample"] > 0
    assert_allclose(found.score[["plate", "residual"]], 0, atol=1e-4)
    assert np.isnan(found.standard_errors()["sample"])
    assert "on the boundary: sample; standard errors of these are undefined" in found.message
    wide = fit(model, bounds={"sample": (0.5, 20.0)})
    assert wide.boundary == ()
    for bounds, message in (
        ({"sample": (2.0, 1.0)}, "must be increasing"),
        ({"sample": (-1.0, 1.0)}, r"inside \(0\.0, inf\)"),
        ({"nothing": (0.0, 1.0)}, "bounds names 'nothing'"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, bounds=bounds)


def test_elements_of_a_matrix_are_fixed_all_together_and_have_no_bounds(models, fit):
    model = models["sleepstudy_slope"]
    with pytest.raises(ValueError, match=r"fixed names an element of the matrix of Subject, .*fixed=\{'Subject': \[\["):
        fit(model, fixed=["Subject[one, Days]"])
    for name in ("Subject[one]", "Subject"):
        with pytest.raises(
            ValueError, match=rf"{re.escape(name)} is of an unstructured matrix, whose elements have no"
        ):
            fit(model, bounds={name: (0.0, 1.0)})
    G = pd.DataFrame([[600.0, 20.0], [20.0, 30.0]], ["one", "Days"], ["one", "Days"])
    held = fit(model, fixed={"Subject": G})
    assert_allclose(held.theta[:3], [600, 20, 30])
    assert_allclose(held.score["residual"] * held.theta["residual"], 0, atol=1e-5)  # of log σ²_e
    elements = {"Subject[one]": 600.0, "Subject[one, Days]": 20.0, "Subject[Days]": 30.0}
    for same in (G.loc[["Days", "one"], ["Days", "one"]], G.to_numpy().tolist()):
        assert fit(model, fixed={"Subject": same}).loglik == held.loglik
    assert fit(model, fixed=elements).loglik == held.loglik
    started = fit(model, start={"Subject": G}, max_iterations=1)
    assert_allclose(started.history.theta[0][1] / started.history.theta[0][0], 20 / 600)  # rescaled as a whole


def test_a_singular_matrix_can_be_fixed_and_is_no_estimate_on_a_boundary(models, fit):
    held = fit(models["sleepstudy_slope"], fixed={"Subject": [[600.0, 60.0], [60.0, 6.0]]})
    assert held.converged
    assert held.boundary == ()
    assert_allclose(held.score["residual"], 0, atol=1e-8)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], r"correlations beyond ±1.*Subject\[one, Days\] = 2"),
        ([[1.0, 0.2], [0.3, 1.0]], r"of 'Subject' must be a symmetric \(2, 2\) matrix over one, Days, .*not symmetric"),
        (np.eye(3), r"must be a symmetric \(2, 2\) matrix over one, Days, got shape \(3, 3\)"),
        (1.0, r"got shape \(\)"),
        (pd.DataFrame(np.eye(2), ["a", "b"], ["a", "b"]), r"has the labels a, b: expected one, Days"),
        ([[np.nan, 0.0], [0.0, 1.0]], "fixed must be finite"),
    ],
)
def test_matrices_that_cannot_be_fixed_are_refused(models, fit, matrix, message):
    with pytest.raises(ValueError, match=message):
        fit(models["sleepstudy_slope"], fixed={"Subject": matrix})


TOLERANCES = ("score_tol", "step_tol", "loglik_tol")


@pytest.mark.parametrize("only", TOLERANCES)
def test_each_tolerance_alone_stops_at_the_optimum(models, fit, only):
    model = models["penicillin"]
    found = fit(model, **{name: None for name in TOLERANCES if name != only})
    assert found.converged
    assert_allclose(found.theta, fit(model).theta, rtol=1e-4)


@pytest.mark.parametrize("loose", TOLERANCES)
def test_a_loose_tolerance_stops_earlier(models, fit, loose):
    start = {"plate": 1e3, "sample": 1.0, "residual": 1.0}
    alone = {name: None for name in TOLERANCES if name != loose}
    lengths = [
        fit(models["penicillin"], start=start, **alone, **{loose: value}).history.sizes["iteration"]
        for value in (10.0, 1e-9)
    ]
    assert lengths[0] < lengths[1]


def test_tolerances_must_be_positive_and_one_must_be_given(models, fit):
    with pytest.raises(ValueError, match="all of score_tol, step_tol and loglik_tol are None: nothing would stop"):
        fit(models["dyestuff"], score_tol=None, step_tol=None, loglik_tol=None)
    with pytest.raises(ValueError, match="must be positive, or None to switch one off"):
        fit(models["dyestuff"], score_tol=-1.0)


def test_too_few_iterations_are_labelled(models, fit):
    found = fit(models["penicillin"], start={"plate": 1e4}, max_iterations=2)
    assert not found.converged
    assert "2 iterations were not enough" in found.message
    assert "NOT CONVERGED: 2 iterations were not enough" in repr(found)
    assert found.history.sizes["iteration"] == 3


def test_verbose_prints_a_line_for_each_iteration(models, capsys):
    found = flmm.find_reml(models["sleepstudy_slope"], start={"Subject[one]": 10.0}, progressbar=False, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == found.history.sizes["iteration"]
    for i, line in enumerate(lines):
        assert line.startswith(f"{i:3d}  loglik {found.history.loglik[i]:.8f}  decrement")
        assert "Subject[one, Days] =" in line
    flmm.find_reml(models["dyestuff"], progressbar=False)
    assert capsys.readouterr().out == ""
    flmm.find_reml(models["dyestuff"], progressbar=True)


def test_the_model_of_the_context_is_fitted(fit):
    with two_terms():
        found = flmm.find_reml(progressbar=False)
    assert_allclose(found.theta, [4.0365, 1.0938, 0.1875], rtol=1e-4)
    with pytest.raises(TypeError, match="there is no model here"):
        flmm.find_reml()


def test_method_is_one_of_two(models, fit):
    with pytest.raises(ValueError, match="method must be 'REML' or 'ML', got 'ml'"):
        fit(models["dyestuff"], method="ml")


def test_the_node_must_be_found(fit):
    with pm.Model() as empty:
        pm.Normal("x")
    with pytest.raises(ValueError, match="DenseLMM, FastLMM, FourierLMM, LatentLMM, LengthscaleLMM, MatrixLMM"):
        fit(empty)
    with pm.Model() as two:
        v = pm.HalfNormal("v", 1)
        for name in ("a", "b"):
            terms = [flmm.Term(BATCH, cov.scalar(v), name="batch"), flmm.Term(DAY, cov.scalar(1.0), name="day")]
            flmm.StructuredLMM(name, X=X, terms=terms, sigma2_e=1.0, observed=y)
    with pytest.raises(ValueError, match=r"several LMM nodes \(a, b\): name one with var_name="):
        fit(two)
    with pytest.raises(ValueError, match=r"no LMM node is called 'c': the model has a, b\."):
        fit(two, var_name="c")
    assert fit(two, var_name="b").node.name == "b"


def test_free_variables_that_do_not_reach_the_node_are_refused(fit):
    with two_terms() as model:
        pm.Normal("other")
    with pytest.raises(ValueError, match="the free variables other do not reach y: the restricted likelihood says"):
        fit(model)


def test_free_variables_in_the_mean_are_refused(fit):
    with pm.Model() as model:
        m, v = pm.Normal("m"), pm.HalfNormal("v", 1)
        terms = [flmm.Term(BATCH, cov.scalar(v), name="batch"), flmm.Term(DAY, cov.scalar(v), name="day")]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=1.0, observed=y, mu=m)
    with pytest.raises(ValueError, match=r"free variables are in the mean of y .*\('m'\): REML is for variances"):
        fit(model)
    with pm.Model() as dense:
        m, v = pm.Normal("m"), pm.HalfNormal("v", 1)
        flmm.DenseLMM("y", X=X, V=v * np.eye(12), observed=y, mu=m)
    with pytest.raises(ValueError, match="free variables are in the mean of y"):
        fit(dense)


def test_nothing_to_estimate_no_data_and_discrete_variables_are_refused(fit):
    def model_of(v, **kwargs):
        terms = [flmm.Term(BATCH, cov.scalar(v), name="batch"), flmm.Term(DAY, cov.scalar(1.0), name="day")]
        flmm.StructuredLMM("y", **{"X": X, "terms": terms, "sigma2_e": 1.0, "observed": y} | kwargs)

    with pm.Model() as numbers:
        model_of(2.0)
    with pytest.raises(ValueError, match=r"no free variable reaches the covariance of y: .*fixed=\{name: value\}"):
        fit(numbers)
    with pm.Model() as latent:
        model_of(pm.HalfNormal("v"), observed=None, beta=np.zeros(1))
    with pytest.raises(ValueError, match="y has no observed data to fit"):
        fit(latent)
    with pm.Model() as discrete:
        model_of(pm.Poisson("k", 3) * 1.0)
    with pytest.raises(ValueError, match=r"discrete variables reach y \(k\): REML needs continuous ones"):
        fit(discrete)


def test_a_constant_variance_of_one_kernel_is_held(fit):
    spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(3), 4, axis=0), np.ones((12, 1)))
    y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    with pm.Model() as model:
        v = pm.HalfNormal("v", 5)
        flmm.FastLMM("y", spectrum=spectrum, sigma2_g=v, sigma2_e=5.0, observed=y)
    found, grid = fit(model), np.linspace(0, 20, 2001)
    loglik = flmm.log_likelihood(spectrum.rotate(y), grid, np.full(grid.shape, 5.0))
    assert abs(found.theta["v"] - grid[loglik.argmax()]) <= 0.01
    assert found.loglik >= loglik.max()


def test_a_fit_says_what_it_is_doing(monkeypatch):
    told = []

    @contextmanager
    def listening(description, *, show, console=None):
        told.append(description)
        yield told.append

    for module in ("formula", "estimate"):
        monkeypatch.setattr(f"pm_fastlmm.fitting.{module}.activity", listening)
    fit = flmm.find_reml("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
    count = len(fit.trace.iterations)
    assert told[:4] == [
        "Reading the formula and its table", "Arranging the equations of 30 observations", "REML: finding a start",
        "REML: iteration 0",
    ]  # fmt: skip
    assert [text.split(",")[0] for text in told[4:]] == [f"REML: iteration {i}" for i in range(1, count + 1)]


def test_what_goes_on_is_shown_while_it_does():
    console = Console(file=StringIO(), force_terminal=True)
    with activity("reading", show=True, console=console) as say:
        say("ordering")
    assert "ordering" in console.file.getvalue()
    with activity("reading", show=False, console=console) as say:
        say("hidden")
    assert "hidden" not in console.file.getvalue()
