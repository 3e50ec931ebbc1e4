"""Sensitivity tables and regions of practical equivalence, against the posteriors that they summarise."""

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import beta

import pm_fastlmm as flmm


def test_the_table_has_each_posterior(build_problem):
    problem = build_problem("low-W")
    priors = flmm.priors.ready(problem.rotated)
    table = flmm.priors.sensitivity(problem.spectrum, problem.y, quantity="total", probability=0.8)
    assert list(table.index) == list(priors)
    for name, prior in priors.items():
        posterior = flmm.exact_posterior(problem.spectrum, problem.y, prior=prior)
        expected = [posterior.mean("total"), posterior.sd("total"), *posterior.interval("total", 0.8, kind="hdi")]
        assert_allclose(table.loc[name].to_numpy(), [*expected, posterior.log_bayes_factor], rtol=1e-12)


def test_a_sceptic_and_an_enthusiast_stand_on_both_sides(build_problem):
    problem = build_problem("full-K")
    means = flmm.priors.sensitivity(problem.spectrum, problem.y)["mean"]
    assert means["small h2"] < means["uniform h2"] < means["large h2"]


def test_several_responses_have_a_block_of_rows_each(build_problem):
    problem = build_problem("low-W")
    Y = pd.DataFrame({"b": problem.y, "a": problem.y[::-1], "flat": 2.0})
    priors = {"one": flmm.priors.VariancePrior(1, 1, 1, 1), "two": flmm.priors.DeviationPrior("half-t", 1.0, 1.0)}
    table = flmm.priors.sensitivity(problem.spectrum, Y, priors)
    assert list(table.index) == [(response, prior) for response in ("b", "a", "flat") for prior in ("one", "two")]
    assert table.index.names == ["response", "prior"]
    posterior = flmm.exact_posterior(problem.spectrum, Y, prior=priors["two"])
    assert_allclose(table.loc[("a", "two"), "mean"], posterior.mean("h2")[1])
    assert table.loc["flat"].isna().all(axis=None)


def test_no_priors_are_refused(build_problem):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match="priors is empty"):
        flmm.priors.sensitivity(problem.spectrum, problem.y, {})


@pytest.mark.parametrize("quantity", ["h2", "pve", "delta", "total", "sigma2", "sigma2_e"])
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_the_probability_of_a_region_is_that_of_its_quantiles(build_problem, kind, quantity):
    problem = build_problem(kind)
    Y = np.column_stack([problem.y, problem.y[::-1]])
    several = flmm.exact_posterior(problem.spectrum, Y)
    low, high = several.quantile(quantity, 0.2), several.quantile(quantity, 0.7)
    for t in range(2):
        one = flmm.exact_posterior(problem.spectrum, Y[:, t])
        assert_allclose(one.probability(quantity, low[t], high[t]), 0.5, atol=2e-3)
        assert_allclose(several.probability(quantity, low[t], high[t])[t], 0.5, atol=1e-6)
        assert_allclose(one.probability(quantity, -math.inf, math.inf), 1, atol=1e-12)
        assert flmm.rope(one, low[t], high[t], quantity=quantity) == one.probability(quantity, low[t], high[t])


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_the_probability_of_small_h2_is_the_integral_of_its_density(build_problem, kind):
    problem = build_problem(kind)
    posterior = flmm.exact_posterior(problem.spectrum, problem.y)
    for high in (0.01, 0.05, 0.5, 0.9):
        expected = quad(lambda h: float(posterior.h2_density(np.array(h))), 0, high, epsabs=1e-12, epsrel=1e-10)[0]
        assert_allclose(posterior.probability("h2", 0, high), expected, rtol=1e-6, atol=1e-10)


def test_a_response_without_a_posterior_has_no_probability(build_problem):
    problem = build_problem("low-W")
    posterior = flmm.exact_posterior(problem.spectrum, pd.DataFrame({"a": problem.y, "flat": 2.0}))
    for quantity in ("h2", "sigma2_e"):
        probability = flmm.rope(posterior, 0, 0.5, quantity=quantity)
        assert np.isfinite(probability[0])
        assert np.isnan(probability[1])


def test_the_share_of_draws_is_within_its_error(build_problem):
    problem = build_problem("low-W")
    posterior = flmm.exact_posterior(problem.spectrum, np.column_stack([problem.y, problem.y[::-1]]))
    tree = posterior.to_datatree(4000, random_seed=1)
    found = flmm.rope(tree, 0.2, 0.6)
    assert dict(found.sizes) == {"response": 2}
    assert (np.abs(found.probability - posterior.probability("h2", 0.2, 0.6)) < 4.5 * found.mcse).all()
    assert_allclose(flmm.rope(tree.posterior["h2"], 0.2, 0.6).probability, found.probability)
    everywhere = flmm.rope(tree, 0, 1)
    assert_allclose(everywhere.probability, 1)
    assert_allclose(everywhere.mcse, 0)


def test_regions_that_are_none_and_unknown_names_are_refused(build_problem):
    problem = build_problem("low-W")
    posterior = flmm.exact_posterior(problem.spectrum, problem.y)
    tree = posterior.to_datatree(10, random_seed=1)
    for given in (posterior, tree):
        with pytest.raises(ValueError, match=r"low must be below high, got 0.5 and 0.5"):
            flmm.rope(given, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"quantity must be one of h2, pve, .* got 'heritability'"):
        flmm.rope(posterior, 0, 1, quantity="heritability")
    with pytest.raises(ValueError, match="the posterior has no variable 'heritability': name one of h2"):
        flmm.rope(tree, 0, 1, quantity="heritability")
    with pytest.raises(ValueError, match="draws need the dimensions chain and draw"):
        flmm.rope(tree.posterior["h2"].isel(chain=0), 0, 1)


def test_the_figure_of_implied_densities_has_a_curve_for_each_prior(build_problem):
    matplotlib.use("Agg")
    problem = build_problem("low-W")
    priors = flmm.priors.ready(problem.rotated)
    ax = flmm.plots.plot_implied_h2(priors)
    assert [line.get_label() for line in ax.lines] == list(priors)
    h, arcsine = ax.lines[3].get_data()
    assert_allclose(arcsine, beta(0.5, 0.5).pdf(h), rtol=1e-8)
    assert_allclose(ax.lines[1].get_ydata(), beta(1, 4).pdf(h), rtol=1e-8)
    plt.close(ax.figure)


def test_the_figure_refuses_scales_of_several_responses(build_problem):
    problem = build_problem("low-W")
    prior = flmm.priors.DeviationPrior.scaled_to_each(problem.spectrum.rotate(np.column_stack([problem.y, problem.y])))
    with pytest.raises(ValueError, match="the prior 'each' has scales of several responses"):
        flmm.plots.plot_implied_h2({"each": prior})
    plt.close("all")
