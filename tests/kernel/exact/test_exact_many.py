"""The posteriors of many responses against those of one at a time on nodes twelve times closer; factors, intervals."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.integrate import quad

from pm_fastlmm import Spectrum, exact_posterior
from pm_fastlmm.priors import VariancePrior

QUANTITIES = ("h2", "pve", "total", "sigma2", "sigma2_e")


def simulated(kind, n=200, T=160, seed=3):
    """A spectrum of n observations and T responses of different size whose h² is 0, 1, and in between."""
    rng = np.random.default_rng([seed, n])
    m = 2 * n if kind == "full" else 20
    W = rng.normal(size=(n, m)) / math.sqrt(m)
    h2 = np.r_[np.zeros(5), np.full(5, 1.0 if kind == "full" else 0.999), rng.uniform(size=T - 10)]
    Y = np.sqrt(h2) * (W @ rng.normal(size=(m, T))) + np.sqrt(1 - h2) * rng.normal(size=(n, T))
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    return Spectrum.from_factor(W, X), 10 ** rng.uniform(-2, 2, size=T) * (Y + 1)


@pytest.fixture(scope="module", params=["full", "low"])
def many(request):
    spectrum, Y = simulated(request.param)
    return spectrum, Y, exact_posterior(spectrum, Y)


@pytest.fixture(scope="module")
def one_at_a_time(many):
    spectrum, Y, _ = many
    return {t: exact_posterior(spectrum, Y[:, t]) for t in range(0, 160, 4)}


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_many_posteriors_are_those_of_a_fine_quadrature(many, one_at_a_time, quantity):
    spectrum, Y, together = many
    intervals = {kind: np.stack(together.interval(quantity, 0.9, kind=kind)) for kind in ("eti", "hdi")}
    median = together.quantile(quantity, 0.5)
    for t, alone in one_at_a_time.items():
        assert len(alone.x) > 8 * len(together.x)
        sd = alone.sd(quantity)
        assert abs(together.mean(quantity)[t] - alone.mean(quantity)) < 1e-5 * sd
        assert abs(together.sd(quantity)[t] / sd - 1) < 1e-5
        # between wide nodes the density is a spline, whose error is 4e-4 standard deviations at most
        assert abs(median[t] - alone.quantile(quantity, 0.5)) < 4e-4 * sd
        for kind, ends in intervals.items():
            assert_allclose(ends[:, t], alone.interval(quantity, 0.9, kind=kind), rtol=0, atol=1e-3 * sd)
    assert_allclose(together.log_evidence[3], exact_posterior(spectrum, Y[:, 3]).log_evidence, rtol=1e-7)


def test_nodes_that_do_not_resolve_a_posterior_are_made_closer(monkeypatch):
    spectrum, Y = simulated("full", n=400, T=150)
    expected = exact_posterior(spectrum, Y)
    monkeypatch.setattr("pm_fastlmm.kernel.exact.quadrature._SD_STEP", 8.0)
    monkeypatch.setattr("pm_fastlmm.kernel.exact.quadrature._RESOLVED", 10.0)
    coarse = exact_posterior(spectrum, Y)
    monkeypatch.setattr("pm_fastlmm.kernel.exact.quadrature._RESOLVED", 0.36)
    refined = exact_posterior(spectrum, Y)
    assert len(coarse.x) < len(refined.x)
    for posterior, good in ((coarse, False), (refined, True)):
        error = np.abs(posterior.sd("h2") / expected.sd("h2") - 1).max()
        assert (error < 1e-5) == good, error


@pytest.mark.parametrize("prior", [VariancePrior(), VariancePrior(1.5, 0.8, 2.0, 3.0)])
def test_the_bayes_factor_is_the_ratio_of_two_dense_integrals(build_problem, oracle, prior):
    problem = build_problem("low-W")
    posterior = exact_posterior(problem.spectrum, problem.y, prior=prior)
    N = oracle.Dense(problem.K, problem.X, problem.y, 0.0, 1.0).contrasts
    values, U = np.linalg.eigh(N.T @ problem.K @ N)
    z2, kbar = (U.T @ N.T @ problem.y) ** 2, np.trace(problem.K) / 23
    a, b = prior.total_shape, prior.total_scale

    def log_given(h):  # the total integrated out, constants of its prior left out on both sides
        e = h * np.maximum(values, 0) / kbar + 1 - h
        return -0.5 * np.log(e).sum() - (a + len(z2) / 2) * math.log(b + 0.5 * (z2 / e).sum())

    none = log_given(0.0)
    density = stats.beta(prior.h2_alpha, prior.h2_beta).pdf
    factor = quad(lambda h: density(h) * math.exp(log_given(h) - none), 0, 1, epsrel=1e-11, limit=400)[0]
    assert_allclose(posterior.log_bayes_factor, math.log(factor), rtol=1e-7)


def test_the_bayes_factor_speaks_for_the_kernel_when_there_is_one(many):
    _, _, together = many
    assert np.median(together.log_bayes_factor[:5]) < 0
    assert (together.log_bayes_factor[5:10] > 5).all()


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_shortest_interval_has_its_probability_and_equal_densities_at_its_ends(many, quantity):
    spectrum, Y, _ = many
    posterior = exact_posterior(spectrum, Y[:, 40])
    low, high = posterior.interval(quantity, 0.8, kind="hdi")
    draws = np.sort(posterior.draws(200_000, random_seed=2)[quantity])
    assert abs(((draws >= low) & (draws <= high)).mean() - 0.8) < 4.5 * math.sqrt(0.16 / 200_000)
    eti = posterior.interval(quantity, 0.8)
    assert high - low <= eti[1] - eti[0]
    # no other interval of the same probability is shorter
    for shift in (-0.01, 0.01):
        below = (draws < low).mean() + shift
        if 0 < below < 0.2:
            other = posterior.quantile(quantity, below), posterior.quantile(quantity, below + 0.8)
            assert other[1] - other[0] > high - low


def test_the_shortest_interval_of_h2_reaches_the_boundary_where_the_density_is_highest(many):
    _, _, together = many
    low, high = together.interval("h2", 0.9, kind="hdi")
    density = together.h2_density(np.array([0.0, 0.02]))
    falling = density[:, 0] > density[:, 1] * 1.05
    assert falling[:5].any()
    assert_allclose(low[falling], 0, atol=1e-6)
    assert (high[falling] < together.quantile("h2", 0.95)[falling]).all()


def test_a_response_without_a_posterior_is_labelled_among_others(build_problem):
    problem = build_problem("low-W")
    Y = pd.DataFrame({"a": problem.y, "flat": 2.0, "explained": problem.W @ np.arange(6.0), "b": problem.y[::-1]})
    posterior = exact_posterior(problem.spectrum, Y)
    assert "y has no residual variance after X" in posterior.message[1]
    assert "improper" in posterior.message[2]
    assert list(posterior.message[[0, 3]]) == ["", ""]
    data = posterior.to_dataset(0.9)
    assert dict(data.sizes) == {"response": 4, "bound": 2}
    for name in ("h2_mean", "total_sd", "sigma2_eti", "h2_hdi", "sigma2_e_median", "log_bayes_factor", "log_evidence"):
        assert np.isnan(data[name].sel(response=["flat", "explained"])).all(), name
        assert np.isfinite(data[name].sel(response=["a", "b"])).all(), name
    assert_array_equal(data.h2_eti.sel(bound="lower"), posterior.interval("h2", 0.9)[0])
    assert data.attrs["probability"] == 0.9
    assert repr(posterior) == (
        "Exact posterior of 4 responses, 2 without a posterior (see .message); .to_dataset() has the intervals"
    )
    table = posterior.summary()
    assert_allclose(table.loc[("b", "h2"), "mean"], posterior.mean("h2")[3])
    one = exact_posterior(problem.spectrum, problem.y).to_dataset()
    assert dict(one.sizes) == {"bound": 2}


def test_draws_of_many_are_those_of_each(many):
    spectrum, Y, _ = many
    posterior = exact_posterior(spectrum, Y[:, :3])
    draws = posterior.draws(20_000, random_seed=1)
    for quantity in QUANTITIES:
        assert draws[quantity].shape == (20_000, 3)
        for probability in (0.1, 0.9):
            below = (draws[quantity] <= posterior.quantile(quantity, probability)).mean(axis=0)
            assert_allclose(below, probability, atol=4.5 * math.sqrt(0.09 / 20_000))
    tree = posterior.to_datatree(10, random_seed=1)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 10, "response": 3}


def test_coefficients_of_many_are_those_of_each(many):
    spectrum, Y, _ = many
    mean, cov = exact_posterior(spectrum, Y[:, 20:24]).beta()
    for t in range(4):
        one_mean, one_cov = exact_posterior(spectrum, Y[:, 20 + t]).beta()
        assert_allclose(mean[t], one_mean, rtol=1e-6)
        assert_allclose(cov[t], one_cov, rtol=1e-5, atol=1e-7 * np.abs(one_cov).max())


def test_unknown_kinds_and_the_shortest_interval_of_a_ratio_are_refused(build_problem):
    problem = build_problem("low-W")
    posterior = exact_posterior(problem.spectrum, problem.y)
    with pytest.raises(ValueError, match="kind must be 'eti' or 'hdi', got 'central'"):
        posterior.interval("h2", kind="central")
    with pytest.raises(ValueError, match="delta has no highest-density interval here"):
        posterior.interval("delta", kind="hdi")
