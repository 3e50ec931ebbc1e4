"""Predictions by scale, residuals, diagnostics and heritability of fits of responses that are not normal."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats as st
from latent_cases import grouped, model_of

import pm_fastlmm as flmm
from pm_fastlmm import plots
from pm_fastlmm.families.cumulative import cumulative
from pm_fastlmm.families.scales import data_scale

FAMILIES = ["bernoulli", "binomial", "poisson", "negative_binomial", "gamma", "ordinal"]


def fitted(family, method="ML", seed=3, **options):
    rng = np.random.default_rng(seed)
    given = {"trials": 8} if family == "binomial" else {}
    label, X, y = grouped(rng, family, 8, 6, covariate=True, **given)
    fit = flmm.find_reml(model_of(label, X, y, family, **given), method=method, progressbar=False, **options)
    return fit, label, X[:, 1:] if family == "ordinal" else X, y


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    return fitted(request.param)


def test_means_are_averages_over_the_error_of_eta(case):
    fit, _, X, _ = case
    link, mean, new = (fit.predict(X[:3], {"g": [0, 1, 99]}, scale=scale) for scale in ("link", "mean", "response"))
    family, psi = mean.family, mean.psi
    eta = np.random.default_rng(1).normal(link.mean, link.se, (400_000, 3))
    mu = family.mean(eta, psi)
    draws = family.draw(eta, psi, np.random.default_rng(2))
    np.testing.assert_allclose(mean.mean, mu.mean(0), rtol=0.01)
    np.testing.assert_allclose(mean.se, mu.std(0), rtol=0.02)
    np.testing.assert_allclose(mean.se_observation, draws.std(0), rtol=0.02)
    np.testing.assert_allclose(new.mean, mean.mean)
    np.testing.assert_allclose(new.se, mean.se_observation)
    low, high = link.interval(0.9)
    np.testing.assert_allclose(mean.interval(0.9).lower, family.mean(np.asarray(low), psi))
    np.testing.assert_allclose(mean.interval(0.9).upper, family.mean(np.asarray(high), psi))
    for end, p in zip(new.interval(0.8), (0.1, 0.9), strict=True):
        below = (draws <= end + 1e-9).mean(0)
        assert (below >= p - 0.005).all()
        if family.name == "gamma":
            np.testing.assert_allclose(below, p, atol=0.005)
        else:
            assert ((draws <= end - 1).mean(0) < p + 0.005).all()
    for one, other in zip(mean.interval(0.8, observation=True), new.interval(0.8), strict=True):
        np.testing.assert_array_equal(one, other)


def test_fitted_values_are_of_the_scale_that_is_asked_for(case):
    fit, _, _, _ = case
    at = fit._node_at(None).terms
    np.testing.assert_allclose(fit.fitted(scale="mean"), at.family.mean(fit.fitted(), at.psi))
    np.testing.assert_allclose(fit.predict().mean, fit.fitted())  # the rows of the data
    with pytest.raises(ValueError, match=r"scale must be 'link' \(η\) or 'mean'"):
        fit.fitted(scale="response")


def test_residuals_are_those_of_their_definitions(case):
    fit, _, _, y = case
    at = fit._node_at(None).terms
    mean = np.asarray(fit.fitted(scale="mean"))
    np.testing.assert_allclose(fit.residuals(), y - mean)
    np.testing.assert_allclose(
        fit.residuals("pearson") ** 2, (y - mean) ** 2 / at.family.variance(at.fitted(conditional=True), at.psi)
    )
    quantile = fit.residuals("quantile", random_seed=4)
    np.testing.assert_allclose(st.norm.cdf(quantile), fit.loo(random_seed=4)["pit"], atol=1e-12)
    assert np.abs(quantile).max() < 4
    if fit.law.family in ("poisson", "negative_binomial", "gamma"):
        np.testing.assert_allclose(fit.residuals("working"), (y - mean) / mean, rtol=1e-6)


def test_deviance_residuals_of_counts_have_their_closed_forms():
    fit, _, _, y = fitted("poisson")
    mean = np.asarray(fit.fitted(scale="mean"))
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.where(y > 0, y * np.log(y / mean), 0.0) - (y - mean)
    np.testing.assert_allclose(fit.residuals("deviance"), np.sign(y - mean) * np.sqrt(2 * half), rtol=1e-9)
    fit, _, _, y = fitted("binomial")
    p, share = np.asarray(fit.fitted(scale="mean")) / 8, y / 8
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(s > 0, s * np.log(s / q), 0.0) for s, q in ((share, p), (1 - share, 1 - p))]
    np.testing.assert_allclose(fit.residuals("deviance") ** 2, 16 * (parts[0] + parts[1]), rtol=1e-8, atol=1e-12)
    fit, _, _, y = fitted("bernoulli")
    p = np.asarray(fit.fitted(scale="mean"))
    np.testing.assert_allclose(fit.residuals("deviance") ** 2, -2 * np.log(np.where(y == 1, p, 1 - p)), rtol=1e-9)
    with pytest.raises(ValueError, match="family 'ordinal' has no deviance residuals: take kind='quantile'"):
        fitted("ordinal")[0].residuals("deviance")


def test_probabilities_of_categories():
    for family, categories in (("bernoulli", 2), ("ordinal", 3)):
        fit, _, X, _ = fitted(family)
        found = fit.predict(X[:4], {"g": [0, 1, 2, 99]}, scale="mean")
        p = found.probabilities
        assert p.shape == (4, categories)
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_allclose(p @ np.arange(categories), found.mean, rtol=1e-9)
    with pytest.raises(ValueError, match="family 'poisson' has no categories"):
        fitted("poisson")[0].predict().probabilities  # noqa: B018


def test_trials_of_new_rows_are_one_or_those_that_are_given():
    fit, _, X, _ = fitted("binomial")
    one = fit.predict(X[:2], {"g": [0, 1]}, scale="mean")
    ten = fit.predict(X[:2], {"g": [0, 1]}, scale="mean", trials=[10, 20])
    np.testing.assert_allclose(ten.mean, one.mean * [10, 20], rtol=1e-9)
    own = fit.predict(scale="mean")
    np.testing.assert_allclose(own.mean, 8 * fit.predict(scale="mean", trials=1).mean, rtol=1e-9)
    with pytest.raises(ValueError, match="there are no new rows"):
        fit.predict(effects="population")
    with pytest.raises(ValueError, match="trials has 1 numbers for 48 rows: give one for each"):
        fit.predict(trials=[3])
    with pytest.raises(ValueError, match="trials has 3 numbers for 2 rows: give one for each"):
        fit.predict(X[:2], {"g": [0, 1]}, trials=[3, 3, 3])
    for new in ((), (X[:2], {"g": [0, 1]})):
        with pytest.raises(ValueError, match="trials are of family 'binomial', this one is 'poisson'"):
            fitted("poisson")[0].predict(*new, trials=3)


def test_a_new_response_is_not_on_the_scale_of_eta():
    fit, _, X, _ = fitted("poisson")
    link = fit.predict(X[:2], {"g": [0, 1]})
    with pytest.raises(ValueError, match="a new y is not on the scale of η: predict on scale='response'"):
        link.interval(observation=True)
    assert list(link.to_frame().columns) == ["mean", "se", "lower", "upper"]
    with pytest.raises(ValueError, match="K_new, W_new and K_new_new are of a FastLMM"):
        fit.predict(X[:2], K_new=np.eye(2))
    with pytest.raises(ValueError, match="x_new= is of a FourierLMM"):
        fit.predict(x_new=[1.0])
    with pytest.raises(TypeError, match="unexpected keyword argument 'scales'"):
        fit.predict(X[:2], scales="mean")
    population = fit.predict(X[:2], effects="population", scale="mean")
    assert (population.variance < fit.predict(X[:2], {"g": [98, 99]}, scale="mean").variance).all()


def test_diagnostics_are_what_the_figures_draw(case):
    import matplotlib.pyplot as plt

    fit, _, _, y = case
    table = fit.diagnostics()
    assert list(table) == ["y", "fitted", "residual", "standardised", "leverage", "loo_mean", "loo_sd", "pit"]
    np.testing.assert_array_equal(table["y"], y)
    assert table["leverage"].between(0, 1).all()
    assert np.isfinite(table).all().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.plot_diagnostics(fit)
        plots.plot_loo(fit)
    plt.close("all")


def test_distribution_functions_are_sums_and_integrals_of_densities(case):
    fit, _, _, _ = case
    at = fit._node_at(None)
    family, eta = at.family, np.linspace(-1, 1, len(at.node.rows()))
    if family.name == "gamma":
        y = np.linspace(1e-7, 3, 60_001)
        density = np.exp([family.log_density(np.full_like(eta, v), eta, at.psi) for v in y[::100]])
        below = cumulative(family, np.full_like(eta, 3.0), eta, at.psi) - cumulative(
            family, np.full_like(eta, y[0]), eta, at.psi
        )
        np.testing.assert_allclose(np.trapezoid(density, y[::100], axis=0), below, rtol=2e-3)
        return
    total = np.zeros_like(eta)
    for k in range(6 if family.name not in ("bernoulli", "ordinal") else 2):
        total += np.exp(family.log_density(np.full_like(eta, k), eta, at.psi))
        np.testing.assert_allclose(cumulative(family, np.full_like(eta, k + 0.5), eta, at.psi), total, rtol=1e-9)
    assert (cumulative(family, np.full_like(eta, -1), eta, at.psi) == 0).all()


def test_heritability_is_that_of_the_estimates_and_its_error_that_of_draws():
    fit, _, X, _ = fitted("binomial", "REML", seed=5)
    table = fit.heritability("g", trials=1)
    assert list(table.index) == ["latent", "liability", "expected", "observed"]
    family = fit._node_at(None).family.of_rows(1)
    own = data_scale(family, [], X @ fit.blue, fit.theta["g"]).heritability(fit.theta["g"])
    np.testing.assert_allclose(table["estimate"], list(own))
    # by draws of small errors, about which the delta method is right
    rng, scale = np.random.default_rng(1), 0.05
    g = rng.normal(fit.theta["g"], scale * np.sqrt(fit.cov.iloc[0, 0]), 4000)
    step = 1e-3
    up, down = (fit.objective.blue(fit.theta.to_numpy() + move)[0] for move in (step, -step))
    b = fit.blue + np.outer(g - fit.theta["g"], (up - down) / (2 * step))
    b = b + rng.multivariate_normal(np.zeros(2), scale**2 * fit.blue_cov, 4000)
    drawn = data_scale(family, np.zeros((4000, 0)), b @ X.T, g).heritability(g)
    for name in ("liability", "expected", "observed"):
        assert table.loc[name, "se"] == pytest.approx(getattr(drawn, name).std() / scale, rel=0.06)
        assert 0 < table.loc[name, "lower"] < table.loc[name, "estimate"] < table.loc[name, "upper"] < 1
    assert table.loc["latent", "se"] == 0


def test_heritability_of_categories_and_repeatability():
    fit, _, _, _ = fitted("ordinal")
    table = fit.heritability("g", "repeatability")
    assert isinstance(table.index, pd.MultiIndex)
    assert len(table) == 8
    assert (table.loc["observed", "estimate"] >= fit.heritability("g").loc["observed", "estimate"]).all()


def test_heritability_at_a_boundary_says_why_it_has_no_error():
    fit, _, _, _ = fitted("poisson", fixed={"g": 0.0})
    assert fit.heritability("g")["se"].max() == 0  # a variance that is fixed is known
    rng = np.random.default_rng(1)
    label, X, y = grouped(rng, "poisson", 8, 6, sd=0.0)
    fit = flmm.find_reml(model_of(label, X, y, "poisson"), progressbar=False)
    assert fit.boundary == ("g",)
    table = fit.heritability("g")
    assert table["se"].isna().all()
    assert "g: on the boundary, where the delta method has no standard error" in repr(table)
    with pytest.raises(ValueError, match="there is no term 'animal': the model has g"):
        fit.heritability("animal")


@pytest.mark.parametrize("ask", [lambda fit: fit.shares, lambda fit: fit.h2, lambda fit: fit.share_intervals()])
def test_shares_name_heritability(ask):
    with pytest.raises(ValueError, match=r"fit\.heritability"):
        ask(fitted("poisson")[0])


def test_what_is_of_normal_responses_alone_says_what_instead():
    fit, _, _, y = fitted("poisson")
    with pytest.raises(ValueError, match=r"plot fit\.residuals"):
        fit.variogram(np.arange(len(y)))
    with pytest.raises(ValueError, match=r"flmm\.sample"):
        fit.posterior()
    with pytest.raises(ValueError, match="take the z tests of the default"):
        fit.coefficients("kenward-roger")


def test_several_contrasts_are_tested_by_chi_squared():
    fit, _, _, _ = fitted("poisson")
    test = fit.test_fixed(["x0", "x1"])
    chi2 = float(fit.blue @ np.linalg.solve(fit.beta_cov, fit.blue))
    assert test.statistic == pytest.approx(chi2 / 2)
    assert test.p_value == pytest.approx(st.chi2.sf(chi2, 2), rel=1e-6)
    assert "(Wald)" in repr(test)
