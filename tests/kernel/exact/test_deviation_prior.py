"""Priors on standard deviations: the posterior by quadrature beside a brute-force grid over both of them, and NUTS."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.special import logsumexp

import pm_fastlmm as flmm
from pm_fastlmm.kernel.likelihood.spectral import contrast_loglik

FAMILIES = ("half-normal", "half-t", "exponential")
QUANTITIES = ("h2", "total", "sigma2", "sigma2_e")


def log_pdf(family, sigma, scale):
    """scipy's density on σ > 0."""
    if family == "half-t":
        return math.log(2) + stats.t(3, scale=scale).logpdf(sigma)
    return (stats.halfnorm if family == "half-normal" else stats.expon)(scale=scale).logpdf(sigma)


class Grid:
    """The posterior on a grid of (log σ_K, log σ_e), from scipy's densities and the likelihood alone."""

    def __init__(self, problem, prior):
        s, rotated = problem.spectrum, problem.rotated
        size = math.log(float(rotated.norm2) / s.df) / 2
        a, b = np.linspace(size - 18, size + 6, 601), np.linspace(size - 18, size + 4, 661)
        self.log_e, self.step = b, (a[1] - a[0]) * (b[1] - b[0])
        sigma_K, sigma_e = np.exp(a)[:, None], np.exp(b)
        log_density = log_pdf(prior.family, sigma_K, prior.scale_kernel) + a[:, None]
        log_density = log_density + log_pdf(prior.family, sigma_e, prior.scale_residual) + b
        kernel, residual = np.broadcast_arrays(sigma_K**2, sigma_e**2)
        log_density = log_density + self.loglik(problem, kernel, residual)
        self.evidence = logsumexp(log_density) + math.log(self.step) - s.projection.logdet_R
        self.weights = np.exp(log_density - logsumexp(log_density))
        self.values = {
            "h2": kernel / (kernel + residual),
            "total": kernel + residual,
            "sigma2": kernel / s.mean_diagonal,
            "sigma2_e": residual,
        }
        none = log_pdf(prior.family, sigma_e, prior.scale_residual) + b
        none = none + self.loglik(problem, 0 * sigma_e, sigma_e**2)
        self.evidence_none = logsumexp(none) + math.log(b[1] - b[0]) - s.projection.logdet_R

    @staticmethod
    def loglik(problem, kernel, residual):
        s, r = problem.spectrum, problem.rotated
        flat = contrast_loglik(
            r.z, r.rss, eigvals=s.eigvals, nullity=s.nullity,
            sigma2_g=(kernel / s.mean_diagonal).ravel(), sigma2_e=np.asarray(residual).ravel(),
        )  # fmt: skip
        return flat.reshape(np.shape(kernel))

    def moments(self, quantity):
        values = self.values[quantity]
        mean = (self.weights * values).sum()
        return mean, math.sqrt((self.weights * (values - mean) ** 2).sum())

    def below(self, quantity, value):
        # the mass of a node is spread over its cell
        values = self.values[quantity]
        with np.errstate(divide="ignore"):
            apart = np.log(value / values) + (np.log((1 - values) / (1 - value)) if quantity == "h2" else 0.0)
        share = np.clip(apart / (2 * math.sqrt(self.step)) + 0.5, 0, 1)
        return (self.weights * share).sum()


@pytest.fixture(scope="module", params=["full-K", "low-W"])
def data(request, build_problem):
    return build_problem(request.param)


@pytest.fixture(scope="module")
def posterior_of(data):
    """The posterior with a family of priors, once for all tests."""

    @cache
    def posterior(family):
        return flmm.exact_posterior(data.spectrum, data.y, prior=flmm.priors.DeviationPrior(family, 4.0, 2.5))

    return posterior


@pytest.mark.parametrize("family", FAMILIES)
def test_the_posterior_is_that_of_a_grid_over_both_standard_deviations(data, posterior_of, family):
    posterior, grid = posterior_of(family), Grid(data, flmm.priors.DeviationPrior(family, 4.0, 2.5))
    assert_allclose(posterior.log_evidence, grid.evidence, rtol=0, atol=1e-7)
    assert_allclose(posterior.log_bayes_factor, grid.evidence - grid.evidence_none, rtol=0, atol=1e-6)
    for quantity in QUANTITIES:
        mean, sd = grid.moments(quantity)
        assert_allclose([posterior.mean(quantity), posterior.sd(quantity)], [mean, sd], rtol=1e-6, err_msg=quantity)
        for probability in (0.05, 0.5, 0.95):
            at = posterior.quantile(quantity, probability)
            assert abs(grid.below(quantity, at) - probability) < 0.005
            assert_allclose(posterior.probability(quantity, -1.0, at), probability, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_have_the_moments_and_the_quantiles(data, posterior_of, family):
    posterior = posterior_of(family)
    draws = posterior.draws(20_000, random_seed=3)
    for quantity in QUANTITIES:
        below = [(draws[quantity] <= posterior.quantile(quantity, p)).mean() for p in (0.1, 0.5, 0.9)]
        assert_allclose(below, [0.1, 0.5, 0.9], atol=4.5 * math.sqrt(0.25 / 20_000))
    assert_allclose(draws["h2"] * draws["total"], draws["sigma2"] * data.spectrum.mean_diagonal)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_shortest_interval_is_shortest(posterior_of, quantity):
    posterior = posterior_of("half-normal")
    low, high = posterior.interval(quantity, 0.8, kind="hdi")
    assert_allclose(posterior.probability(quantity, low, high), 0.8, atol=1e-4)
    for below in (0.02, 0.05, 0.1, 0.15):
        ends = posterior.quantile(quantity, below), posterior.quantile(quantity, below + 0.8)
        assert high - low < (ends[1] - ends[0]) * (1 + 1e-6)


def test_two_half_normals_of_one_scale_make_h2_an_arcsine_variable():
    # (σ_K, σ_e) is isotropic: its angle is uniform, and h² = sin² of it has the density 1/π√(h²(1 - h²))
    x = np.linspace(-12, 12, 25)
    h = 1 / (1 + np.exp(-x))
    for scale in (1e-6, 1.0, 1e9):
        expected = stats.beta(0.5, 0.5).logpdf(h) + np.log(h) + np.log1p(-h)
        assert_allclose(flmm.priors.DeviationPrior("half-normal", scale, scale).log_h2(x), expected, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_implied_density_of_h2_is_that_of_draws(family):
    rng = np.random.default_rng(4)
    draw = {"half-normal": rng.normal, "half-t": lambda size: rng.standard_t(3, size), "exponential": rng.exponential}
    kernel, residual = ((scale * draw[family](size=200_000)) ** 2 for scale in (0.5, 2.0))
    x = np.linspace(-45, 45, 3001)
    density = np.exp(flmm.priors.DeviationPrior(family, 0.5, 2.0).log_h2(x))
    cumulative = np.cumsum(density) * (x[1] - x[0])
    assert_allclose(cumulative[-1], 1, atol=1e-7)
    draws = np.log(kernel) - np.log(residual)
    for at in (-8.0, -3.0, 0.0, 4.0):
        assert (
            abs((draws < at).mean() - np.interp(at, x, cumulative))
            < 4.5 * math.sqrt(0.25 / 200_000) + 0.5 * 0.03 * 0.25
        )


def test_other_units_of_y_and_K_change_nothing_but_units(data, posterior_of):
    one = posterior_of("half-t")
    for c in (1e-9, 1e8):
        spectrum = flmm.Spectrum.from_covariance(1e5 * data.K, data.X)
        other = flmm.exact_posterior(spectrum, c * data.y, prior=flmm.priors.DeviationPrior("half-t", 4.0 * c, 2.5 * c))
        assert_allclose(other.mean("h2"), one.mean("h2"), rtol=1e-9)
        assert_allclose(other.quantile("sigma2", 0.3) / c**2 * 1e5, one.quantile("sigma2", 0.3), rtol=1e-6)
        assert_allclose(other.log_bayes_factor, one.log_bayes_factor, atol=1e-8)


def test_a_prior_far_from_the_data_is_still_summed(data):
    for scales in ((1e-4, 2.5), (4.0, 1e-2), (1e6, 1e6), (1e-2, 1e-2)):
        prior = flmm.priors.DeviationPrior("exponential", *scales)
        posterior = flmm.exact_posterior(data.spectrum, data.y, prior=prior)
        assert_allclose(posterior.weights.sum(), 1, rtol=1e-12)
        assert np.isfinite(posterior.summary().loc[["h2", "total", "sigma2", "sigma2_e"]].to_numpy(dtype=float)).all()
        # the grid ends at e^-18 of the data's size, 1e-3 of the smallest scale
        assert_allclose(posterior.log_evidence, Grid(data, prior).evidence, rtol=0, atol=2e-3)


def test_several_responses_have_each_their_own(data):
    Y = pd.DataFrame({"a": data.y, "b": 100 * data.y[::-1], "flat": 1.0})
    prior = flmm.priors.DeviationPrior.scaled_to_each(data.spectrum.rotate(Y), "half-t", df=4.0)
    together = flmm.exact_posterior(data.spectrum, Y, prior=prior)
    for t, name in enumerate("ab"):
        own = flmm.priors.DeviationPrior.scaled_to(data.spectrum.rotate(Y[name].to_numpy()), "half-t", df=4.0)
        assert_allclose(prior.scale_kernel[t], own.scale_kernel)
        alone = flmm.exact_posterior(data.spectrum, Y[name].to_numpy(), prior=own)
        for quantity in QUANTITIES:
            assert_allclose(together.mean(quantity)[t], alone.mean(quantity), rtol=1e-4)
            assert_allclose(together.quantile(quantity, 0.8)[t], alone.quantile(quantity, 0.8), rtol=2e-3)
        mean, cov = together.beta()
        assert_allclose(mean[t], alone.beta()[0], rtol=1e-3, atol=1e-6 * np.abs(mean[t]).max())
        assert_allclose(np.diagonal(cov[t]), np.diagonal(alone.beta()[1]), rtol=1e-3)
    data_set = together.to_dataset(0.9)
    assert "y has no residual variance" in str(data_set.message.sel(response="flat").item())
    for name in ("h2_mean", "sigma2_eti", "total_hdi", "sigma2_e_median"):
        assert np.isnan(data_set[name].sel(response="flat")).all()
        assert np.isfinite(data_set[name].sel(response=["a", "b"])).all()


def test_moments_that_do_not_exist_are_infinite():
    spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(2), 3, axis=0), np.ones((6, 1)))
    y = [1.0, 2, 1.5, 4, 5, 4.2]
    heavy = flmm.exact_posterior(spectrum, y, prior=flmm.priors.DeviationPrior("half-t", 1.0, 1.0, df=1.0))
    assert heavy.mean("sigma2") == heavy.sd("sigma2") == math.inf
    assert math.isfinite(heavy.quantile("sigma2", 0.99))
    light = flmm.exact_posterior(spectrum, y, prior=flmm.priors.DeviationPrior("half-normal", 1.0, 1.0))
    assert math.isfinite(light.sd("sigma2"))


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_has_the_prior(data, family):
    prior = flmm.priors.DeviationPrior(family, 4.0, 2.5)
    model = flmm.kernel_model(data.y, spectrum=data.spectrum, prior=prior)
    assert [rv.name for rv in model.free_RVs] == ["sigma_K", "sigma_e"]
    evaluate = model.compile_logp(sum=False, jacobian=False)
    at = {"sigma_K_log__": math.log(1.7), "sigma_e_log__": math.log(0.9)}
    kernel, residual, _ = evaluate(at)
    # PyMC's HalfStudentT has a constant, log 2, in single precision
    assert_allclose(kernel, log_pdf(family, 1.7, 4.0), atol=3e-9)
    assert_allclose(residual, log_pdf(family, 0.9, 2.5), atol=3e-9)


def test_nuts_and_quadrature_are_one_posterior(data):
    prior = flmm.priors.DeviationPrior.penalised_complexity(6.0, 0.05, scale_residual=2.5)
    model = flmm.kernel_model(data.y, spectrum=data.spectrum, prior=prior)
    options = {"chains": 2, "cores": 1, "progressbar": False, "quiet": True}
    idata = flmm.sample(3000, model=model, random_seed=1, **options)
    exact = flmm.exact_posterior(data.spectrum, data.y, prior=prior)
    for quantity, name in (("h2", "h2"), ("total", "total"), ("sigma2_e", "y_sigma2_e"), ("sigma2", "y_sigma2")):
        region = flmm.rope(idata, 0, exact.quantile(quantity, 0.3), quantity=name)
        assert abs(float(region.probability) - 0.3) < 4.5 * float(region.mcse) + 0.002


@pytest.mark.usefixtures("as_written")
def test_responses_of_a_model_have_each_their_prior(data):
    Y = np.column_stack([data.y, 10 * data.y])
    prior = flmm.priors.DeviationPrior.scaled_to_each(data.spectrum.rotate(Y))
    model = flmm.kernel_model(Y, spectrum=data.spectrum, prior=prior)
    draws = pm.draw(model["sigma_K"], 4000, random_seed=1)
    assert_allclose(draws[:, 1].mean() / draws[:, 0].mean(), 10, rtol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("normal", 1.0, 1.0), "family must be 'half-normal', 'half-t' or 'exponential', got 'normal'"),
        (("half-t", 0.0, 1.0), "scale_kernel must be positive and finite, got 0.0: it is in units of y"),
        (("half-t", 1.0, math.inf), "scale_residual must be positive and finite, got inf"),
        (("half-t", 1.0, 1.0, -1.0), "df must be positive, got -1.0: 1 is the half-Cauchy"),
    ],
)
def test_parameters_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        flmm.priors.DeviationPrior(*arguments)


def test_penalised_complexity_has_the_probability_that_was_asked_for():
    prior = flmm.priors.DeviationPrior.penalised_complexity(3.0, 0.01, scale_residual=1.0)
    assert_allclose(stats.expon(scale=prior.scale_kernel).sf(3.0), 0.01)
    with pytest.raises(ValueError, match=r"upper must be positive and probability between 0 and 1, got 3\.0 and 1\.0"):
        flmm.priors.DeviationPrior.penalised_complexity(3.0, 1.0, scale_residual=1.0)


def test_what_is_no_prior_is_refused(data):
    for call in (flmm.exact_posterior, lambda s, y, prior: flmm.kernel_model(y, spectrum=s, prior=prior)):
        with pytest.raises(TypeError, match="prior must be a VariancePrior or a DeviationPrior, got str"):
            call(data.spectrum, data.y, prior="half-normal")


def test_data_that_leave_h2_unbounded_have_no_posterior(build_problem):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match=r"the posterior is improper.* K and X explain y exactly"):
        flmm.exact_posterior(
            problem.spectrum, problem.W @ np.ones(6), prior=flmm.priors.DeviationPrior("half-normal", 1.0, 1.0)
        )


def test_responses_whose_nodes_reach_where_others_have_no_mass_keep_their_posterior():
    # one response that K nearly explains takes the nodes to logit h² = 80, where the others' log-densities are -1e18
    rng = np.random.default_rng(1)
    W = rng.normal(size=(24, 5))
    spectrum = flmm.Spectrum.from_factor(W, np.ones((24, 1)))
    Y = np.column_stack([W @ rng.normal(size=5) + 1e-9 * rng.normal(size=24), *rng.normal(size=(30, 24))])
    for family in FAMILIES:
        posterior = flmm.exact_posterior(spectrum, Y, prior=flmm.priors.DeviationPrior(family, 1.0, 0.7))
        assert np.isfinite(posterior.log_bayes_factor).all()
        alone = flmm.exact_posterior(spectrum, Y[:, 4], prior=posterior.prior)
        assert_allclose(posterior.mean("h2")[4], alone.mean("h2"), rtol=1e-5)
        assert_allclose(posterior.log_bayes_factor[4], alone.log_bayes_factor, atol=1e-5)
