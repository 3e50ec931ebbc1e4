"""Comparison of fits: the criteria and ratios of lme4, what counts as nested, and what is refused."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy.stats import chi2

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.datasets import penicillin, sleepstudy


def sleep_fit(term="1 | Subject", fixed="Days", method="REML", data=None):
    model = flmm.lmm_model(f"Reaction ~ {fixed} + ({term})", sleepstudy() if data is None else data)
    return flmm.find_reml(model, method=method, progressbar=False)


@pytest.fixture(scope="module")
def sleep():
    terms = {"intercept": "1 | Subject", "uncorrelated": "Days || Subject", "slope": "Days | Subject"}
    return {(method, name): sleep_fit(t, method=method) for name, t in terms.items() for method in ("REML", "ML")}


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_criteria_are_those_of_lme4_and_nlme(sleep, reference, method):
    fits = {name: fit for (m, name), fit in sleep.items() if m == method}
    table = flmm.compare_fits(fits)
    known = {case["name"]: case["loglik"] for case in reference.json("lme4_nlme.json")}
    for name, df in (("intercept", 4), ("uncorrelated", 5), ("slope", 6)):
        loglik = known[f"sleepstudy_{name}_{method.lower()}"]
        m = 178 if method == "REML" else 180
        assert table.loc[name, "df"] == df
        np.testing.assert_allclose(table.loc[name, "AIC"], 2 * df - 2 * loglik, atol=1e-5)
        np.testing.assert_allclose(table.loc[name, "BIC"], np.log(m) * df - 2 * loglik, atol=1e-5)
    assert table["AIC_difference"].min() == 0
    first, last = known[f"sleepstudy_intercept_{method.lower()}"], known[f"sleepstudy_uncorrelated_{method.lower()}"]
    row = table.loc["uncorrelated"]
    np.testing.assert_allclose(row["chi2"], 2 * (last - first), atol=1e-5)
    np.testing.assert_allclose(row["p_value"], chi2.sf(2 * (last - first), 1) / 2, rtol=1e-4)  # a variance: half of it
    assert row["reference"] == "½χ²₀ + ½χ²₁"
    assert table.loc["slope", "reference"] == "χ²₁"  # a covariance: no boundary
    assert table.loc["slope", "chi2_df"] == 1


def test_a_slope_with_its_covariance_is_a_mixture(sleep):
    table = flmm.compare_fits(sleep["REML", "slope"], sleep["REML", "intercept"])
    assert table.index.tolist() == ["fit 1", "fit 0"]
    statistic = table["chi2"].iloc[1]
    np.testing.assert_allclose(
        table["p_value"].iloc[1], (chi2.sf(statistic, 1) + chi2.sf(statistic, 2)) / 2, rtol=1e-12
    )


def test_fixed_effects_are_compared_by_ML(sleep):
    null = sleep_fit(fixed="1", method="ML")
    row = flmm.compare_fits({"null": null, "days": sleep["ML", "intercept"]}).loc["days"]
    assert row["reference"] == "χ²₁"
    np.testing.assert_allclose(row["chi2"], 2 * (sleep["ML", "intercept"].loglik - null.loglik))
    with pytest.raises(ValueError, match=r"REML fits with different X \(Intercept; Intercept, Days\).*method='ML'"):
        flmm.compare_fits({"null": sleep_fit(fixed="1"), "days": sleep["REML", "intercept"]})


def test_a_variance_at_zero_has_no_ratio_and_the_p_value_one():
    table = penicillin().assign(day=lambda d: np.arange(len(d)) % 7)
    one = flmm.find_reml(flmm.lmm_model("diameter ~ 1 + (1 | plate) + (1 | sample)", table), progressbar=False)
    two = flmm.find_reml(
        flmm.lmm_model("diameter ~ 1 + (1 | plate) + (1 | sample) + (1 | day)", table), progressbar=False
    )
    row = flmm.compare_fits(one, two).iloc[1]
    if "day" in two.boundary:
        assert row["p_value"] == 1.0
    np.testing.assert_allclose(row["chi2"], 2 * (two.loglik - one.loglik), atol=1e-8)
    three = flmm.find_reml(flmm.lmm_model("diameter ~ 1 + (1 | plate)", table), progressbar=False)
    assert flmm.compare_fits(three, two).iloc[1]["reference"] == "χ²₂, conservative"


def test_one_kernel(build_problem):
    p = build_problem("full-K")
    small, large = flmm.Spectrum.from_covariance(p.K, p.X[:, :1]), p.spectrum
    fits = {f"{r}": flmm.reml(s, p.y, method="ML") for r, s in ((1, small), (3, large))}
    table = flmm.compare_fits(fits)
    assert table["df"].tolist() == [3, 5]
    assert table["reference"].tolist() == ["", "χ²₂"]
    other = flmm.reml(
        flmm.Spectrum.from_covariance(p.K + np.eye(23)[::-1] @ p.K @ np.eye(23)[::-1], p.X), p.y, method="ML"
    )
    assert flmm.compare_fits(fits["1"], other)["reference"].iloc[1].startswith("not known to be nested")  # another K


def test_models_whose_structure_is_not_read_are_nested_if_it_is_said(build_problem):
    p = build_problem("full-K")
    fits = []
    for with_kernel in (False, True):
        with pm.Model() as model:
            e = pm.HalfNormal("e", 2)
            V = e * pt.eye(23) + (pm.HalfNormal("g", 2) * p.K if with_kernel else 0.0)
            flmm.DenseLMM("y", X=p.X, V=V, observed=p.y)
        fits.append(flmm.find_reml(model, progressbar=False))
    assert np.isnan(flmm.compare_fits(*fits)["p_value"].iloc[1])
    table = flmm.compare_fits(*fits, nested=True)
    assert table["reference"].iloc[1] == "½χ²₀ + ½χ²₁"
    function = flmm.reml_covariance(
        lambda t: t[0] * p.K + t[1] * np.eye(23), p.y, p.X, start={"g": 1.0, "e": 1.0}, progressbar=False
    )
    np.testing.assert_allclose(flmm.compare_fits(fits[0], function)["AIC"].iloc[1], table["AIC"].iloc[1], rtol=1e-6)
    together = flmm.compare_fits(function, flmm.reml(p.spectrum, p.y))
    np.testing.assert_allclose(together["AIC"].iloc[0], together["AIC"].iloc[1], rtol=1e-6)


def test_terms_are_nested_by_what_they_are(sleep):
    data = sleepstudy()
    order = pd.Categorical(data["Days"])

    def fit(structure, name="v"):
        with pm.Model() as model:
            values = {"v": pm.HalfNormal("v", 500), "e": pm.HalfNormal("e", 900), "rho": pm.Uniform("rho", -0.9, 0.9)}
            term = flmm.Term(order, structure(values), name="Days")
            flmm.StructuredLMM("y", X=np.ones((180, 1)), terms=[term], sigma2_e=values["e"], observed=data["Reaction"])
        return flmm.find_reml(model, progressbar=False)

    independent = flmm.find_reml(flmm.lmm_model("Reaction ~ 1 + (1 | Days)", data), progressbar=False)
    correlated = fit(lambda v: cov.ar1(v["v"], v["rho"], size=10))
    assert flmm.compare_fits(independent, correlated)["reference"].iloc[1].startswith("not known to be nested")
    assert flmm.compare_fits(independent, correlated, nested=False)["reference"].tolist() == ["", ""]
    assert flmm.compare_fits(independent, correlated, nested=True)["reference"].tolist() == ["", "χ²₁"]
    crossed = flmm.find_reml(flmm.lmm_model("Reaction ~ 1 + (1 | Days) + (1 | Subject)", data), progressbar=False)
    assert flmm.compare_fits(independent, crossed)["reference"].iloc[1] == "½χ²₀ + ½χ²₁"
    subject = flmm.find_reml(flmm.lmm_model("Reaction ~ 1 + (Days | Subject)", data), progressbar=False)
    assert (
        flmm.compare_fits(independent, subject)["reference"].iloc[1].startswith("not known to be nested")
    )  # another factor


def test_what_does_not_compare_is_refused_with_the_remedy(sleep, build_problem):
    reml = sleep["REML", "intercept"]

    def refused(match, *fits, error=ValueError):
        with pytest.raises(error, match=match):
            flmm.compare_fits(*fits)

    refused("fits by REML and ML, whose likelihoods are of different things", reml, sleep["ML", "slope"])
    refused("fits of 180 and 179 observations", reml, sleep_fit(data=sleepstudy()[1:]))
    seconds = sleepstudy().assign(Reaction=lambda d: d["Reaction"] / 1000)
    refused("fits of different y", reml, sleep_fit(data=seconds))
    hours = sleepstudy().assign(Days=lambda d: d["Days"] * 24)
    refused("the same span but other columns or units", reml, sleep_fit(data=hours))
    refused("one fit alone", reml)
    refused("must be a fit of flmm.reml", reml, {"a": reml}, error=TypeError)
    p = build_problem("full-K")
    several = flmm.reml(p.spectrum, np.column_stack([p.y, p.y**2]))
    refused(r"several responses: compare those of one, fit.response", several, several)
    refused("keeps no data", flmm.reml_point(p.K, p.y, p.X), flmm.reml(p.spectrum, p.y))
    data = sleepstudy()
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 900), pm.HalfNormal("e", 900)
        term = flmm.Term(data["Subject"], cov.scalar(v))
        flmm.StructuredLMM(
            "y", X=np.column_stack([np.ones(180), data["Days"]]), terms=[term], sigma2_e=e,
            observed=data["Reaction"].to_numpy(), beta_cov=1e4 * np.eye(2),
        )  # fmt: skip
    refused("treat β differently", reml, flmm.find_reml(model, progressbar=False))


def test_rows_in_another_order_are_refused_by_that_reason():
    data = flmm.datasets.sleepstudy()
    shuffled = data.sample(frac=1, random_state=1)
    permuted = data.assign(Reaction=np.random.default_rng(0).permutation(data["Reaction"]))
    fit = flmm.find_reml(flmm.lmm_model("Reaction ~ Days + (1 | Subject)", data), progressbar=False)
    for other in (shuffled, permuted):
        moved = flmm.find_reml(flmm.lmm_model("Reaction ~ Days + (Days | Subject)", other), progressbar=False)
        with pytest.raises(ValueError, match="different y, the same values in another order"):
            flmm.compare_fits(fit, moved)


def test_a_permuted_y_on_one_spectrum_is_refused():
    rng = np.random.default_rng(2)
    spectrum = flmm.Spectrum.from_covariance(
        np.exp(-0.3 * np.abs(np.subtract.outer(range(20), range(20)))), np.ones((20, 1))
    )
    y = rng.normal(size=20)
    with pytest.raises(ValueError, match="the same values in another order"):
        flmm.compare_fits(flmm.reml(spectrum, y), flmm.reml(spectrum, y[::-1].copy()))
    with pytest.raises(ValueError, match="other values"):
        flmm.compare_fits(flmm.reml(spectrum, y), flmm.reml(spectrum, y * np.where(np.arange(20) % 2, 1.0, -1.0)))


def test_a_reason_stands_where_there_is_no_test():
    data = flmm.datasets.sleepstudy()
    batch = pd.get_dummies(data["Subject"]).to_numpy(dtype=float)
    design = flmm.Design.from_formula("Reaction ~ Days", data, W=batch)
    slopes = flmm.find_reml(flmm.lmm_model("Reaction ~ Days + (Days | Subject)", data), progressbar=False)
    table = flmm.compare_fits({"intercepts": flmm.reml(design.spectrum(), design.y), "slopes": slopes})
    assert table.loc["slopes", "reference"] == "not known to be nested: nested=True if they are"
