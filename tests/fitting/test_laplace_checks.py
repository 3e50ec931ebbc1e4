"""Checks of Laplace's approximation by simulation, tests by parametric bootstrap, comparisons."""

import numpy as np
import pymc as pm
import pytest
from latent_cases import grouped, model_of

import pm_fastlmm as flmm
from pm_fastlmm.engines.latent.latentlmm import LatentLMM


def fitted(family="poisson", method="ML", seed=3, groups=8, each=6, sd=1.0, covariate=True, **options):
    rng = np.random.default_rng(seed)
    given = {"trials": 8} if family == "binomial" else {}
    label, X, y = grouped(rng, family, groups, each, covariate=covariate, sd=sd, **given)
    fit = flmm.find_reml(model_of(label, X, y, family, **given), method=method, progressbar=False, **options)
    return fit, label, X, y


def test_importance_of_a_fit_is_that_at_its_estimate():
    fit, *_ = fitted()
    found = fit.importance(nodes=25)
    assert found.laplace == pytest.approx(fit.loglik)
    assert fit.importance(nodes=25, theta={"g": 0.3}).laplace == pytest.approx(
        fit.objective.log_likelihood(fit.at({"g": 0.3}))
    )
    drawn = fit.importance(4000, random_seed=1)
    assert drawn.correction == pytest.approx(found.correction, abs=4 * drawn.se)
    again = fit.importance(4000, random_seed=1)
    assert again.loglik == drawn.loglik
    assert "effective draws" in repr(drawn)


def test_the_check_is_the_bias_of_a_bootstrap():
    fit, *_ = fitted()
    table = fit.check_laplace(12, random_seed=1, progressbar=False)
    draws = fit.bootstrap(12, random_seed=1).draws
    assert list(table.index) == ["g", "sd_g", "beta[x0]", "beta[x1]"]
    np.testing.assert_allclose(table["mean"], [draws[name].mean() for name in table.index])
    np.testing.assert_allclose(table["bias"], table["mean"] - table["estimate"])
    np.testing.assert_allclose(table["mc_error"], [draws[name].std(ddof=1) / np.sqrt(12) for name in table.index])
    np.testing.assert_allclose(table["percent"], 100 * table["bias"] / table["estimate"].abs())
    assert all("bias" in text or "too" in text for text in table["verdict"])


def test_variances_of_binary_data_with_two_records_a_level_are_found_too_low():
    fit, *_ = fitted("bernoulli", groups=150, each=2, sd=1.5, covariate=False, fixed={"g": 2.25})
    free = fit.objective
    at = fit._node_at(None)
    # the estimate of the data may be anywhere: what is checked is the estimator at the truth
    rng = np.random.default_rng(1)
    found = []
    for _ in range(15):
        node = at.simulated_node(rng)
        model = model_of(np.repeat(np.arange(150), 2), np.ones((300, 1)), np.asarray(node.observed))
        found.append(flmm.find_reml(model, method="ML", progressbar=False).theta["g"])
    assert free.fixed.all()
    assert np.mean(found) + 3 * np.std(found) / np.sqrt(15) < 2.25


def test_failed_simulations_are_counted(monkeypatch):
    fit, *_ = fitted()
    redrawn, count = type(fit)._redrawn, iter(range(20))

    def some_fail(self, rng):
        again = redrawn(self, rng)
        if next(count) in (2, 5):
            object.__setattr__(again, "converged", False)
        return again

    monkeypatch.setattr(type(fit), "_redrawn", some_fail)
    table = fit.check_laplace(8, random_seed=1, progressbar=False)
    assert table.attrs["below"] == ["2 of 8 simulations have no estimate and are left out"]
    assert np.isfinite(table["mean"]).all()


def test_no_variance_is_refuted_where_there_is_much_and_not_where_there_is_none():
    much, none = fitted(sd=1.2)[0], fitted(sd=0.0, seed=6)[0]
    test = much.test_no_variance("g", n_sim=39, random_seed=1)
    null = flmm.find_reml(much.model, method="ML", fixed={"g": 0.0}, progressbar=False)
    assert test.statistic == pytest.approx(2 * (much.loglik - null.loglik), rel=1e-6)
    assert test.p_value == pytest.approx(1 / 40)
    assert test.n_sim == 39
    assert test.approximation == "parametric bootstrap"
    assert 0.2 < test.mass_at_zero < 0.95
    assert "parametric bootstrap" in repr(test)
    other = none.test_no_variance("g", n_sim=39, random_seed=1)
    assert other.p_value > 0.1


def test_p_values_are_uniform_under_no_variance():
    rng, found = np.random.default_rng(4), []
    for _ in range(30):
        label, X, y = grouped(rng, "poisson", 6, 4, sd=0.0)
        fit = flmm.find_reml(model_of(label, X, y, "poisson"), method="ML", progressbar=False)
        found.append(fit.test_no_variance("g", n_sim=19, random_seed=rng).p_value)
    found = np.array(found)
    assert (found <= 0.1).mean() <= 0.1 + 3 * np.sqrt(0.09 / 30)
    assert (found <= 0.5).mean() == pytest.approx(0.45, abs=0.3)


def test_a_variance_on_its_boundary_needs_no_simulation():
    fit, *_ = fitted(sd=0.0, seed=1)
    assert fit.boundary == ("g",)
    test = fit.test_no_variance("g", n_sim=19)
    assert (test.statistic, test.p_value, test.n_sim) == (0.0, 1.0, 0)
    assert "the likelihood is highest without the variance" in repr(test)


def test_overdispersion_is_tested_and_what_cannot_be_says_so():
    fit, *_ = fitted("negative_binomial")
    test = fit.test_no_variance("dispersion", n_sim=19, random_seed=1)
    assert test.statistic > 0
    assert test.p_value <= 0.3
    gamma, *_ = fitted("gamma")
    with pytest.raises(ValueError, match="no likelihood at dispersion = 0, so that there is nothing to test"):
        gamma.test_no_variance("dispersion", n_sim=19)
    with pytest.raises(ValueError, match="n_sim must be 19 or more"):
        gamma.test_no_variance("g", n_sim=5)
    with pytest.raises(ValueError, match=r"cutpoint\[1\] is no variance of a component"):
        fitted("ordinal")[0].test_no_variance("cutpoint[1]")


def two_terms(label, X, y, family="poisson", **given):
    with pm.Model() as model:
        one, other = pm.HalfNormal("one", 1), pm.HalfNormal("other", 1)
        terms = [
            flmm.Term(label, flmm.covariance.scalar(one**2), name="g"),
            flmm.Term(np.arange(len(y)) % 5, flmm.covariance.scalar(other**2), name="h"),
        ]
        LatentLMM("y", family=family, X=X, terms=terms, observed=y, **given)
    return model


@pytest.mark.parametrize("method", ["ML", "REML"])
def test_nested_fits_are_compared_by_a_mixture(method):
    fit, label, X, y = fitted(method=method)
    larger = flmm.find_reml(two_terms(label, X, y), method=method, progressbar=False)
    table = flmm.compare_fits({"g": fit, "g and h": larger})
    assert table.loc["g and h", "reference"] == "½χ²₀ + ½χ²₁"
    assert table.loc["g", "df"] == 3
    np.testing.assert_allclose(table["AIC"], [-2 * f.loglik + 2 * d for f, d in ((fit, 3), (larger, 4))])


def test_fixed_effects_are_compared_by_ml():
    fit, label, X, y = fitted()
    small = flmm.find_reml(model_of(label, X[:, :1], y, "poisson"), method="ML", progressbar=False)
    table = flmm.compare_fits(small, fit)
    assert table["reference"].tolist() == ["", "χ²₁"]
    assert table["chi2"].iloc[1] == pytest.approx(2 * (fit.loglik - small.loglik))


def test_families_compare_by_ml_where_both_are_of_integers():
    fit, label, X, y = fitted("negative_binomial")
    poisson = flmm.find_reml(model_of(label, X, y, "poisson"), method="ML", progressbar=False)
    table = flmm.compare_fits({"poisson": poisson, "nb": fit})
    assert table.loc["nb", "reference"] == "not known to be nested: nested=True if they are"
    assert flmm.compare_fits({"poisson": poisson, "nb": fit}, nested=True).loc["nb", "reference"] == "½χ²₀ + ½χ²₁"
    both = [
        flmm.find_reml(model_of(label, X, y, family), progressbar=False) for family in ("poisson", "negative_binomial")
    ]
    with pytest.raises(ValueError, match=r"are REML fits of poisson \(log\) and negative_binomial \(log\), whose β"):
        flmm.compare_fits(*both)


def test_densities_and_probabilities_are_not_compared():
    _, label, X, y = fitted()
    y = np.maximum(y, 1)
    counts = flmm.find_reml(model_of(label, X, y, "poisson"), method="ML", progressbar=False)
    positive = flmm.find_reml(model_of(label, X, y, "gamma"), method="ML", progressbar=False)
    with pytest.raises(ValueError, match="families 'poisson' and 'gamma': the likelihood of one is a probability"):
        flmm.compare_fits(counts, positive)
    with pm.Model() as model:
        terms = [flmm.Term(label, flmm.covariance.scalar(pm.HalfNormal("s", 1) ** 2), name="g")]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("e", 1) ** 2, observed=y)
    normal = flmm.find_reml(model, method="ML", progressbar=False)
    with pytest.raises(ValueError, match="families 'poisson' and 'normal'"):
        flmm.compare_fits(counts, normal)
    assert len(flmm.compare_fits(positive, normal)) == 2


def test_links_are_not_nested_and_trials_are_data():
    rng = np.random.default_rng(3)
    label, X, y = grouped(rng, "binomial", 8, 6, covariate=True, trials=8)
    logit = flmm.find_reml(model_of(label, X, y, "binomial", trials=8), method="ML", progressbar=False)
    probit = flmm.find_reml(two_terms(label, X, y, "binomial", trials=8, link="probit"), method="ML", progressbar=False)
    table = flmm.compare_fits(logit, probit)
    assert table["reference"].iloc[1] == "not known to be nested: nested=True if they are"
    more = flmm.find_reml(model_of(label, X, y, "binomial", trials=9), method="ML", progressbar=False)
    with pytest.raises(ValueError, match="have different trials"):
        flmm.compare_fits(logit, more)


def test_draws_without_a_fit_are_left_out_and_counted(monkeypatch):
    fit, *_ = fitted()
    source = type(fit._source)
    own, count = source.fit, iter(range(100))

    def some_fail(self, node):
        if next(count) in (3, 4):
            raise ValueError("all alike")
        return own(self, node)

    monkeypatch.setattr(source, "fit", some_fail)
    test = fit.test_no_variance("g", n_sim=20, random_seed=1)
    assert test.n_sim == 18
    assert test.approximation == "parametric bootstrap, 2 of 20 draws without an estimate left out"


def test_profiles_of_coefficients_stay_where_there_is_a_likelihood():
    fit, *_ = fitted("bernoulli", sd=0.0, seed=3, groups=8, each=5)
    table = fit.intervals()
    assert (table["lower"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["upper"]).all()
    assert table.loc["g", "lower"] == 0
