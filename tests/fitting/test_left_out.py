"""Leave-one-out and simulation of point estimates: against refits without the row, and moments of what is drawn."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy.stats import chi2, multivariate_normal, norm

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.datasets import sleepstudy

B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])
CODES = np.r_[0, np.random.default_rng(8).integers(1, 5, size=22)]
LABELS = np.array(["lone", "a", "b", "c", "d"])[CODES]


def assert_refits(oracle, fit, V, X, observed, offset=0.0, **kwargs):
    """Each row, and each group, from generalised least squares without it; `offset` is a known part of the mean."""
    y, X = observed, np.zeros((len(observed), 0)) if X is None else X
    table, grouped, joint = fit.loo(**kwargs), fit.loo(groups=LABELS, **kwargs), fit.loo_groups(LABELS, **kwargs)
    assert table.columns.tolist() == ["y", "mean", "sd", "log_density", "pit"]
    assert grouped["group"].tolist() == list(LABELS)
    np.testing.assert_allclose(table["y"], y, rtol=1e-9)
    scale = np.sqrt(np.diag(V)).max()
    groups = [np.flatnonzero(label == LABELS) for label in joint.index]
    for found, rows in ((table, np.arange(len(y))[:, None]), (grouped, groups)):
        for own in rows:
            mean, C = oracle.left_out(V, X, y - offset, own)
            sd, mean = np.sqrt(np.diag(C)), mean + np.broadcast_to(offset, y.shape)[own]
            row = found.iloc[own]
            np.testing.assert_allclose(row["mean"], mean, rtol=1e-8, atol=1e-8 * scale)
            np.testing.assert_allclose(row["sd"], sd, rtol=1e-8)
            np.testing.assert_allclose(row["pit"], norm(mean, sd).cdf(y[own]), atol=1e-8)
            np.testing.assert_allclose(row["log_density"], norm(mean, sd).logpdf(y[own]), rtol=1e-8, atol=1e-8)
            if found is grouped:
                density = multivariate_normal(mean, (C + C.T) / 2).logpdf(y[own])
                quadratic = (y[own] - mean) @ np.linalg.solve(C, y[own] - mean)
                truth = [len(own), density, quadratic, chi2(len(own)).cdf(quadratic)]
                np.testing.assert_allclose(joint.loc[LABELS[own[0]]].astype(float), truth, rtol=1e-7)


def test_one_kernel(problem, oracle):
    fit = flmm.reml(problem.spectrum, problem.y)
    V = fit.sigma2_g * problem.K + fit.sigma2_e * np.eye(23)
    assert_refits(oracle, fit, V, problem.X, problem.y, y=problem.y)
    if not problem.spectrum.nullity:
        pd.testing.assert_frame_equal(fit.loo(), fit.loo(problem.y))


def test_several_responses_by_name(build_problem):
    p = build_problem("low-W")
    ids = [f"id{i}" for i in range(23)]
    Y = pd.DataFrame({"first": p.y, "second": p.y[::-1] ** 2}, index=ids)
    spectrum = flmm.Spectrum.from_factor(pd.DataFrame(p.W, ids), p.X)
    fits = flmm.reml(spectrum, Y)
    table, groups = fits.loo(Y), fits.loo_groups(LABELS, Y[::-1])
    assert table.index.names == ["response", "obs"]
    assert groups.index.names == ["response", "group"]
    for name in Y:
        alone = flmm.reml(spectrum, Y[name])
        pd.testing.assert_frame_equal(table.loc[name], alone.loo(Y[name]), check_names=False, rtol=1e-6)
        pd.testing.assert_frame_equal(groups.loc[name], alone.loo_groups(LABELS, Y[name]), rtol=1e-6)


def test_boundaries_have_their_predictions(oracle):
    X, y = np.ones((23, 1)), np.cos(np.pi * np.arange(23)) + 0.1 * np.arange(23) % 0.7
    Z = cov.incidence(np.arange(23) // 4).Z.toarray()  # y alternates within a group
    none = flmm.reml(flmm.Spectrum.from_factor(Z, X), y)
    assert none.boundary == ("sigma2_g",)
    assert_refits(oracle, none, none.sigma2_e * np.eye(23), X, y, y=y)
    K = np.exp(-0.05 * np.abs(np.subtract.outer(np.arange(23), np.arange(23))))
    smooth = 2 + np.sin(np.arange(23) / 4) + np.arange(23) / 20  # smoother than K expects
    whole = flmm.reml(flmm.Spectrum.from_covariance(K, X), smooth)
    assert whole.boundary == ("sigma2_e",)
    assert_refits(oracle, whole, whole.sigma2_g * K, X, smooth)


@pytest.mark.parametrize("treatment", ["flat", "explicit", "Gaussian"])
@pytest.mark.parametrize("kind", ["terms", "one term", "dense"])
def test_models_of_variances(oracle, build_problem, kind, treatment):
    p = build_problem("full-K")
    day, shift = np.arange(23) % 4, np.sin(np.arange(23.0))
    Z, D = cov.incidence(LABELS).Z.toarray(), cov.incidence(day).Z.toarray()
    proper = {"flat": {}, "explicit": {"beta": b}, "Gaussian": {"beta_mean": b, "beta_cov": B}}[treatment]
    with pm.Model() as model:
        v, w, e = (pm.HalfNormal(name, 2) for name in "vwe")
        if kind == "dense":
            flmm.DenseLMM("y", X=p.X, V=v * Z @ Z.T + w * D @ D.T + e * pt.eye(23), observed=p.y, mu=shift, **proper)
        else:
            terms = [flmm.Term(LABELS, cov.scalar(v), name="g"), flmm.Term(day, cov.scalar(w), name="d")]
            if kind == "one term":
                terms = [flmm.Term(LABELS, cov.scalar(v + w), name="g")]
            flmm.StructuredLMM("y", X=p.X, terms=terms, sigma2_e=e, observed=p.y, mu=shift, **proper)
    if kind == "one term":
        with pm.Model() as model:
            v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
            terms = [flmm.Term(LABELS, cov.scalar(v), name="g")]
            flmm.StructuredLMM("y", X=p.X, terms=terms, sigma2_e=e, observed=p.y, mu=shift, **proper)
    fit = flmm.find_reml(model, progressbar=False)
    variances = fit.theta.to_numpy()
    V = variances[0] * Z @ Z.T + variances[-1] * np.eye(23) + (0.0 if kind == "one term" else variances[1] * D @ D.T)
    offset = shift if treatment == "flat" else shift + p.X @ b
    prior = p.X @ B @ p.X.T if treatment == "Gaussian" else 0.0
    assert_refits(oracle, fit, V + prior, p.X if treatment == "flat" else None, p.y, offset)
    if kind == "dense" and treatment == "Gaussian":
        with pytest.raises(ValueError, match="has a Gaussian prior of β, which its V holds"):
            fit.simulate()
        return
    draws = fit.simulate(40_000, random_seed=1).to_numpy()
    X = p.X
    if treatment == "flat":
        mean = shift + X @ fit.beta
    elif treatment == "explicit":
        mean = offset
    else:
        mean = np.asarray(fit.fitted("marginal"))
    assert np.abs((draws.mean(1) - mean) / np.sqrt(np.diag(V) / 40_000)).max() < 4.5
    error = np.sqrt((np.outer(np.diag(V), np.diag(V)) + V**2) / 40_000)
    assert np.abs((np.cov(draws) - V) / error).max() < 5.5


def test_one_kernel_of_a_model_and_a_function_of_theta(oracle, build_problem):
    p = build_problem("low-K")
    with pm.Model() as model:
        g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 2)
        flmm.FastLMM("y", sigma2_g=g, sigma2_e=e, spectrum=p.spectrum, observed=p.y)
    fit = flmm.find_reml(model, progressbar=False)
    V = fit.theta.iloc[0] * p.K + fit.theta.iloc[1] * np.eye(23)
    assert_refits(oracle, fit, V, p.X, p.y)
    moved = fit.theta.to_numpy() * [2.0, 0.5]
    other = oracle.left_out(moved[0] * p.K + moved[1] * np.eye(23), p.X, p.y, np.array([4]))
    np.testing.assert_allclose(fit.loo(theta=moved)["mean"].iloc[4], other[0][0], rtol=1e-8)

    function = flmm.reml_covariance(
        lambda t: t[0] * p.K + t[1] * np.eye(23), p.y, p.X, start={"g": 1.0, "e": 1.0}, progressbar=False
    )
    V = function.theta.iloc[0] * p.K + function.theta.iloc[1] * np.eye(23)
    assert_refits(oracle, function, V, p.X, p.y)
    with pytest.raises(ValueError, match="the model has no terms whose effects"):
        function.simulate(effects="given")


def test_given_effects_stay_those_of_the_fit(build_problem):
    p = build_problem("low-W")
    fit = flmm.reml(p.spectrum, p.y)
    draws = fit.simulate(20_000, effects="given", random_seed=1).to_numpy()
    error = np.sqrt(fit.sigma2_e / 20_000)
    assert np.abs((draws.mean(1) - fit.predict().mean) / error).max() < 4.5
    np.testing.assert_allclose(draws.var(1), fit.sigma2_e, rtol=0.06)
    structured = flmm.find_reml(flmm.lmm_model("Reaction ~ Days + (Days | Subject)", sleepstudy()), progressbar=False)
    draws = structured.simulate(4000, effects="given", random_seed=1)
    assert np.abs((draws.mean(axis=1) - structured.fitted()) / np.sqrt(structured.theta["residual"] / 4000)).max() < 4.5


def test_a_parametric_bootstrap_of_one_kernel_has_the_moments_of_the_model(build_problem):
    p = build_problem("full-K")
    fit = flmm.reml(p.spectrum, p.y)
    draws = fit.simulate(40_000, random_seed=1).to_numpy()
    V = fit.sigma2_g * p.K + fit.sigma2_e * np.eye(23)
    error = np.sqrt((np.outer(np.diag(V), np.diag(V)) + V**2) / 40_000)
    assert np.abs((draws.mean(1) - p.X @ fit.beta) / np.sqrt(np.diag(V) / 40_000)).max() < 4.5
    assert np.abs((np.cov(draws) - V) / error).max() < 5.5
    again = flmm.reml(p.spectrum, fit.simulate(23, random_seed=2))  # square, but labelled
    assert len(again.names) == 23


def test_labels_are_kept():
    table = sleepstudy().set_index(pd.Index([f"trial {i}" for i in range(180)]))
    fit = flmm.find_reml(flmm.lmm_model("Reaction ~ Days + (1 | Subject)", table), progressbar=False)
    assert fit.loo().index[0] == "trial 0"
    assert fit.simulate(2, random_seed=1).index.tolist() == table.index.tolist()
    assert fit.loo_groups(table["Subject"][::-1]).shape == (18, 4)


def test_a_row_that_determines_a_coefficient_is_nan_and_named(build_problem):
    p = build_problem("full-K")
    ids = [f"id{i}" for i in range(23)]
    X = np.column_stack([p.X, np.arange(23) == 5])
    fit = flmm.reml(flmm.Spectrum.from_covariance(pd.DataFrame(p.K, ids, ids), X), p.y)
    with pytest.warns(UserWarning, match="observations 'id5' alone determine a fixed effect"):
        table = fit.loo()
    assert np.flatnonzero(table["mean"].isna()).tolist() == [5]
    assert np.isfinite(table.drop("id5")).all(axis=None)
    with pytest.warns(UserWarning, match="groups 'd' alone determine a fixed effect"):
        groups = fit.loo_groups(np.where(np.arange(23) == 5, "d", LABELS))
    assert groups["log_density"].isna().tolist() == [s == "d" for s in groups.index]


def test_bad_input_is_refused_with_the_remedy(build_problem):
    p = build_problem("low-W")
    fit = flmm.reml(p.spectrum, p.y)
    with pytest.raises(ValueError, match="directions without variance, and of y in them"):
        fit.loo()
    with pytest.raises(ValueError, match="y is not what was fitted"):
        fit.loo(p.y + np.sin(p.y))
    with pytest.raises(ValueError, match="groups has 2 rows but y has 23"):
        fit.loo_groups(["a", "b"], p.y)
    with pytest.raises(ValueError, match=r"simulate is for one response: take fit.response"):
        flmm.reml(p.spectrum, np.column_stack([p.y, p.y**2])).simulate()
    with pytest.raises(ValueError, match="effects must be 'new'"):
        fit.simulate(effects="old")
    without = flmm.reml(p.spectrum, np.column_stack([p.y, p.X[:, 0]]))
    with pytest.raises(ValueError, match="there is no estimate to predict with"):
        without.loo(np.column_stack([p.y, p.X[:, 0]]))
    with pytest.raises(ValueError, match="there is no estimate to simulate from"):
        without.response("y1").simulate()
    with pytest.raises(ValueError, match="keeps no eigenvectors"):
        flmm.reml_point(p.K, p.y, p.X).loo()
    streamed = flmm.KernelStatistics.from_arrays(W=p.W, X=p.X, y=p.y)
    rows = flmm.TermStatistics.from_statistics(streamed)
    with pm.Model() as model:
        v, e = pm.HalfNormal("v"), pm.HalfNormal("e")
        flmm.StructuredLMM("y", X=rows.X, terms=[flmm.Term(rows.Z, cov.scalar(v))], sigma2_e=e, observed=rows)
    with pytest.raises(ValueError, match="rows"):
        flmm.find_reml(model, progressbar=False).loo()
