"""Fits whose covariance matrix is singular: where the iteration ends, and degrees of freedom there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm


def noise(seed):
    """Random slopes fitted to data that have random intercepts alone."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=60) + np.repeat(rng.normal(size=12), 5) * 0.5
    data = pd.DataFrame({"y": y, "x": np.tile(np.arange(5.0), 12), "g": np.repeat(np.arange(12), 5)})
    return flmm.find_reml(flmm.lmm_model("y ~ x + (x | g)", data), progressbar=False)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_degrees_of_freedom_do_not_take_a_singular_matrix_for_known(seed):
    fit = noise(seed)
    assert fit.boundary == ("g[Intercept]", "g[Intercept, x]", "g[x]")
    df = fit.coefficients()["df"]
    assert (df > 9).all()
    assert (df < 58).all()  # n - r, what they would be without groups; regular fits of this design have 11
    with pytest.raises(ValueError, match="matrix of this fit is singular"):
        fit.coefficients("kenward-roger")


def test_an_intercept_variance_that_vanishes_before_its_slope_is_reached_from_the_other_end():
    fit = noise(0)
    assert fit.converged
    assert fit.loglik > -77.9599
    assert np.isfinite(fit.coefficients().to_numpy()).all()


REFERENCE = Path(__file__).parents[1] / "reference" / "mixed_suite"


def two_halves():
    """Reaction times, in the first five days and in the last five."""
    data = flmm.datasets.sleepstudy()
    return data.assign(half=pd.Categorical(np.where(data["Days"] < 5, "first", "last")))


@pytest.mark.parametrize(
    ("data", "overlapping", "alone"),
    [
        ("factor_double_bar", "y ~ treatment + (treatment || Subject)", "y ~ treatment + (0 + treatment | Subject)"),
        ("halves", "Reaction ~ Days + (half || Subject)", "Reaction ~ Days + (0 + half | Subject)"),
        ("halves", "Reaction ~ Days + (1 | Subject) + (0 + half | Subject)", "Reaction ~ Days + (half | Subject)"),
    ],
)
def test_a_term_that_says_nothing_new_changes_neither_likelihood_nor_degrees_of_freedom(data, overlapping, alone):
    frame = two_halves() if data == "halves" else pd.read_csv(REFERENCE / f"{data}.csv", dtype={"treatment": object})
    frame = frame if data == "halves" else frame.assign(treatment=pd.Categorical(frame["treatment"]))
    a, b = (flmm.find_reml(flmm.lmm_model(text, frame), progressbar=False) for text in (overlapping, alone))
    assert a.converged
    assert_allclose(a.loglik, b.loglik, rtol=0, atol=1e-7)
    columns = ["estimate", "se", "df", "p_value", "lower", "upper"]
    assert_allclose(a.coefficients()[columns], b.coefficients()[columns], rtol=1e-3)
    assert a.point


def test_matrices_inside_a_structure_are_estimated_by_their_elements():
    """A Cholesky factor's signs are free, and its variables have none of them."""
    fit = flmm.find_reml(flmm.lmm_model("Reaction ~ Days + (half || Subject)", two_halves()), progressbar=False)
    assert list(fit.theta.index) == [
        "Subject[Intercept]", "Subject[half[first]]", "Subject[half[first], half[last]]", "Subject[half[last]]",
        "residual",
    ]  # fmt: skip
    L = np.zeros((2, 2))
    L[np.tril_indices(2)] = fit.point["chol_Subject_2"]
    assert (np.diag(L) >= 0).all()
    S = L @ L.T
    assert_allclose([S[0, 0], S[1, 0], S[1, 1]], fit.theta.iloc[1:4], rtol=1e-6)
    assert "do not tell Subject[Intercept], Subject[half[first]]" in fit.message
    assert "residual apart" not in fit.message
    with pytest.raises(ValueError, match="terms of this fit overlap"):
        fit.coefficients("kenward-roger")


def test_effects_whose_mean_is_not_zero_are_fitted_in_tens_of_steps():
    fit = flmm.find_reml(
        flmm.lmm_model("Reaction ~ 0 + Days + (Days | Subject)", flmm.datasets.sleepstudy()), progressbar=False
    )
    assert fit.converged
    assert_allclose(fit.loglik, -914.1699876938, rtol=0, atol=1e-8)
    assert_allclose(fit.beta["Days"], 18.30016, rtol=1e-6)
    assert "Newton" in fit.history["kind"]
    assert fit.history.sizes["iteration"] <= 15
    assert fit.coefficients()["df"].item() == pytest.approx(17, abs=0.01)


def test_a_singular_fit_does_not_depend_on_the_order_of_its_columns():
    data = pd.read_csv(REFERENCE / "slopes_singular.csv")
    logliks = []
    for order in ("c1 + c2 + c3 + c4", "c4 + c3 + c2 + c1", "c2 + c4 + c1 + c3"):
        model = flmm.lmm_model(f"y ~ c1 + c2 + c3 + c4 + c5 + ({order} | subject)", data)
        fit = flmm.find_reml(model, progressbar=False)
        assert fit.converged
        assert len(fit.boundary) == 15
        logliks.append(fit.loglik)
    assert_allclose(logliks, -213.47729094, rtol=0, atol=1e-7)


def test_effects_that_no_level_has_both_of_have_no_covariance():
    """Every child has one sex: the covariance between the effects of the two is not in the likelihood."""
    data = pd.read_csv(REFERENCE / "Orthodont.csv").assign(Sex=lambda d: pd.Categorical(d["Sex"]))
    model = flmm.lmm_model("distance ~ age * Sex + (0 + Sex | Subject)", data)
    fit = flmm.find_reml(model, progressbar=False)
    apart = [flmm.find_reml(flmm.lmm_model("distance ~ age + (1 | Subject)", part), progressbar=False)
             for _, part in data.groupby("Sex", observed=True)]  # fmt: skip
    assert fit.converged
    assert fit.point
    assert fit.loglik < sum(one.loglik for one in apart)  # these have a residual variance each
    assert "do not tell Subject[Sex[Female], Sex[Male]] apart" in fit.message
    assert np.isfinite(fit.coefficients().to_numpy()).all()
    assert fit.history.sizes["iteration"] <= 12
