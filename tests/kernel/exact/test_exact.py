"""The quadrature posterior against brute force in two dimensions, adaptive quadrature and its own draws."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq

from pm_fastlmm import Spectrum, exact_posterior, reml
from pm_fastlmm.priors import VariancePrior

PRIOR = VariancePrior(1.5, 0.8, 2.0, 3.0)
QUANTITIES = ("h2", "pve", "delta", "total", "sigma2", "sigma2_g", "sigma2_e")


class BruteForce:
    """Trapezoidal sums on a (logit h², log total) grid of the dense density of the error contrasts times the prior."""

    def __init__(self, problem, prior, side=500):
        X = np.zeros((len(problem.y), 0)) if problem.X is None else problem.X
        N = scipy.linalg.null_space(X.T) if X.size else np.eye(len(problem.y))
        values, U = np.linalg.eigh(N.T @ problem.K @ N)
        self.values, self.z2 = np.maximum(values, 0), (U.T @ N.T @ problem.y) ** 2
        self.kbar, self.pbar = np.trace(problem.K) / len(problem.y), np.maximum(values, 0).mean()
        self.X, self.prior = X, prior
        centre = math.log(self.z2.mean())
        x, s = np.meshgrid(np.linspace(-34, 34, side), np.linspace(centre - 10, centre + 16, side), indexing="ij")
        self.h, self.total = 1 / (1 + np.exp(-x)), np.exp(s)
        one_minus = 1 / (1 + np.exp(x))
        d = (self.h[..., None] * self.values / self.kbar + one_minus[..., None]) * self.total[..., None]
        log_density = -0.5 * (np.log(2 * math.pi * d) + self.z2 / d).sum(-1)
        log_density += stats.beta(prior.h2_alpha, prior.h2_beta).logpdf(self.h) + np.log(self.h) + np.log(one_minus)
        if prior.proper:
            log_density += stats.invgamma(prior.total_shape, scale=prior.total_scale).logpdf(self.total) + s
        area = (x[1, 0] - x[0, 0]) * (s[0, 1] - s[0, 0])
        top = log_density.max()
        weights = np.exp(log_density - top)
        self.log_evidence = top + math.log(weights.sum() * area) - 0.5 * np.linalg.slogdet(X.T @ X)[1]
        self.weights = weights / weights.sum()
        sigma2 = self.h * self.total / self.kbar
        self.of = {
            "h2": self.h,
            "pve": self.h / self.kbar * self.pbar / (self.h / self.kbar * self.pbar + one_minus),
            "delta": self.kbar * one_minus / self.h,
            "total": self.total,
            "sigma2": sigma2,
            "sigma2_g": sigma2,
            "sigma2_e": one_minus * self.total,
        }

    def mean(self, quantity):
        return (self.weights * self.of[quantity]).sum()

    def sd(self, quantity):
        return math.sqrt((self.weights * (self.of[quantity] - self.mean(quantity)) ** 2).sum())


KINDS = ("full-K", "low-W", "low-W-noX")


@pytest.fixture(scope="module", params=KINDS)
def pair(request, build_problem):
    problem = build_problem(request.param)
    return problem, exact_posterior(problem.spectrum, problem.y, prior=PRIOR), BruteForce(problem, PRIOR)


def test_evidence_is_the_brute_force_integral(pair):
    _, posterior, brute = pair
    assert_allclose(posterior.log_evidence, brute.log_evidence, rtol=0, atol=1e-7)


@pytest.mark.parametrize("quantity", ["h2", "pve", "total", "sigma2", "sigma2_g", "sigma2_e"])
def test_means_and_standard_deviations_are_the_brute_force_ones(pair, quantity):
    _, posterior, brute = pair
    sd = brute.sd(quantity)
    assert_allclose(posterior.mean(quantity), brute.mean(quantity), rtol=0, atol=1e-6 * sd)
    assert_allclose(posterior.sd(quantity), sd, rtol=1e-5)


def test_mean_and_sd_of_delta_exist_when_the_prior_keeps_h2_off_zero(build_problem):
    problem = build_problem("full-K")
    prior = VariancePrior(5.0, 1.0, 1.0, 2.0)
    posterior, brute = exact_posterior(problem.spectrum, problem.y, prior=prior), BruteForce(problem, prior)
    assert_allclose(posterior.mean("delta"), brute.mean("delta"), rtol=1e-6)
    assert_allclose(posterior.sd("delta"), brute.sd("delta"), rtol=1e-6)


def test_moments_of_delta_are_infinite_when_they_diverge(build_problem):
    problem = build_problem("full-K")
    uniform = exact_posterior(problem.spectrum, problem.y)
    assert uniform.mean("delta") == uniform.sd("delta") == math.inf
    between = exact_posterior(problem.spectrum, problem.y, prior=VariancePrior(1.5, 1.0, 1.0, 2.0))
    assert math.isfinite(between.mean("delta"))
    assert between.sd("delta") == math.inf


def dense_h2(problem, prior):
    """Functions of x = logit h²: unnormalised log-density with the total integrated out, its InverseGamma scale."""
    brute = BruteForce(problem, prior, side=2)
    shape = prior.total_shape + len(brute.z2) / 2

    def scale(x):
        e = brute.values / brute.kbar / (1 + np.exp(-x[:, None])) + 1 / (1 + np.exp(x[:, None]))
        return prior.total_scale + 0.5 * (brute.z2 / e).sum(-1), 0.5 * np.log(e).sum(-1)

    def log_density(x):
        b, half_logdet = scale(x)
        h = 1 / (1 + np.exp(-x))
        prior_x = stats.beta(prior.h2_alpha, prior.h2_beta).logpdf(h) + np.log(h / (1 + np.exp(x)))
        return prior_x - half_logdet - shape * np.log(b)

    return log_density, lambda x: scale(x)[0], shape


def gauss(function, low, high):
    """Integral by 160 panels of 10 Gauss points: exact to rounding for these densities."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    edges = np.linspace(low, high, 161)
    half = np.diff(edges)[:, None] / 2
    points = (edges[:-1, None] + half * (1 + nodes)).ravel()
    return float((function(points).reshape(half.size, 10) * weights * half).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", [PRIOR, VariancePrior()])
def test_density_and_quantiles_of_h2_are_those_of_the_dense_density(build_problem, kind, prior):
    problem = build_problem(kind)
    posterior = exact_posterior(problem.spectrum, problem.y, prior=prior)
    log_density, _, _ = dense_h2(problem, prior)
    top = log_density(np.linspace(-10, 10, 200)).max()

    def mass(high):
        return gauss(lambda x: np.exp(log_density(x) - top), -40, high)

    total = mass(30)
    h = np.array([0.05, 0.3, 0.5, 0.8, 0.97])
    expected = np.exp(log_density(np.log(h / (1 - h))) - top) / total / (h * (1 - h))
    assert_allclose(posterior.h2_density(h), expected, rtol=1e-5)
    for probability in (0.025, 0.5, 0.9):
        x = brentq(lambda q, p=probability: mass(q) / total - p, -20, 20, xtol=1e-10)
        # the docstring promises errors far below 1e-6 posterior standard deviations
        quantile = 1 / (1 + math.exp(-x))
        assert_allclose(posterior.quantile("h2", probability), quantile, rtol=0, atol=1e-6 * posterior.sd("h2"))


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_of_variances_invert_the_dense_distribution(build_problem, kind):
    problem = build_problem(kind)
    posterior = exact_posterior(problem.spectrum, problem.y, prior=PRIOR)
    log_density, scale, shape = dense_h2(problem, PRIOR)
    top = log_density(np.linspace(-10, 10, 200)).max()
    total = gauss(lambda x: np.exp(log_density(x) - top), -40, 30)
    kbar = np.trace(problem.K) / 23
    shares = {
        "total": lambda x: 1.0,
        "sigma2": lambda x: 1 / (1 + np.exp(-x)) / kbar,
        "sigma2_g": lambda x: 1 / (1 + np.exp(-x)) / kbar,
        "sigma2_e": lambda x: 1 / (1 + np.exp(x)),
    }
    for quantity, share in shares.items():
        for probability in (0.025, 0.5, 0.975):
            t = posterior.quantile(quantity, probability)

            def below(x, t=t, share=share):
                return np.exp(log_density(x) - top) * stats.invgamma(shape, scale=share(x) * scale(x)).cdf(t)

            assert_allclose(gauss(below, -40, 30) / total, probability, rtol=1e-8, err_msg=quantity)


def test_quantiles_of_monotone_functions_of_h2_are_mapped(build_problem):
    problem = build_problem("low-W")
    posterior = exact_posterior(problem.spectrum, problem.y)
    s = posterior.spectrum
    for probability in (0.1, 0.5, 0.8):
        h = posterior.quantile("h2", probability)
        delta = s.mean_diagonal * (1 - h) / h
        assert_allclose(posterior.quantile("delta", 1 - probability), delta, rtol=1e-9)
        assert_allclose(posterior.quantile("pve", probability), s.mean_eigval / (s.mean_eigval + delta), rtol=1e-9)


def test_interval_has_equal_tails(build_problem):
    problem = build_problem("low-W")
    posterior = exact_posterior(problem.spectrum, problem.y)
    for quantity in QUANTITIES:
        low, high = posterior.interval(quantity, 0.9)
        assert_allclose([low, high], [posterior.quantile(quantity, p) for p in (0.05, 0.95)], rtol=1e-12)


def test_draws_have_the_distribution_of_the_posterior(pair):
    _, posterior, _ = pair
    draws = posterior.draws(40_000, random_seed=3)
    assert set(draws) == set(QUANTITIES)
    for quantity in QUANTITIES:
        for probability in (0.05, 0.5, 0.95):
            share = (draws[quantity] <= posterior.quantile(quantity, probability)).mean()
            assert abs(share - probability) < 4.5 * math.sqrt(probability * (1 - probability) / 40_000), quantity


def test_draws_are_consistent_with_each_other_and_with_the_joint_posterior(pair):
    _, posterior, brute = pair
    d = posterior.draws(40_000, random_seed=4)
    s = posterior.spectrum
    assert_allclose(d["sigma2"] * s.mean_diagonal + d["sigma2_e"], d["total"], rtol=1e-10)
    assert_allclose(d["sigma2"] * s.mean_diagonal / d["total"], d["h2"], rtol=1e-10)
    assert_allclose(d["sigma2_e"] / d["sigma2"], d["delta"], rtol=1e-8)
    assert_array_equal(d["sigma2"], d["sigma2_g"])
    # h² and the total are dependent: their correlation is that of the joint posterior
    a, b = brute.of["h2"] - brute.mean("h2"), np.log(brute.of["total"])
    b = b - (brute.weights * b).sum()
    joint = (brute.weights * a * b).sum() / math.sqrt((brute.weights * a**2).sum() * (brute.weights * b**2).sum())
    assert abs(np.corrcoef(d["h2"], np.log(d["total"]))[0, 1] - joint) < 4.5 / math.sqrt(40_000)


def test_draws_are_repeated_by_the_seed_and_only_by_it(build_problem):
    problem = build_problem("low-W")
    posterior = exact_posterior(problem.spectrum, problem.y)
    first, again, other = (posterior.draws(5, random_seed=s)["h2"] for s in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first != other).all()


def test_posterior_of_beta_is_the_mixture_over_the_grid(pair, oracle):
    problem, posterior, brute = pair
    if problem.X is None:
        pytest.skip("no fixed effects")
    h = brute.h[:, 0]
    weights, totals = brute.weights.sum(1), (brute.weights * brute.total).sum(1)
    mean, second = np.zeros(3), np.zeros((3, 3))
    for hi, weight, total in zip(h, weights, totals, strict=True):
        if weight < 1e-14:
            continue
        dense = oracle.Dense(problem.K, problem.X, problem.y, hi / brute.kbar, 1 - hi)
        mean += weight * dense.beta
        second += weight * np.outer(dense.beta, dense.beta) + total * dense.beta_cov
    posterior_mean, posterior_cov = posterior.beta()
    assert_allclose(posterior_mean, mean, rtol=1e-6)
    cov = second - np.outer(mean, mean)
    assert_allclose(posterior_cov, cov, rtol=1e-5, atol=1e-6 * np.abs(cov).max())


# ---------------------------------------------------------------- boundaries and priors


def balanced(between, within=1.0):
    group = np.kron(np.eye(8), np.ones((5, 1)))
    rng = np.random.default_rng(1)
    noise = rng.normal(size=40)
    noise -= group @ (group.T @ noise) / 5
    means = rng.normal(size=8)
    return group, group @ (between * means) + within * noise


@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (1.0, 1e-3), (0.05, 1.0)])
def test_posterior_near_a_boundary_equals_adaptive_quadrature(between, within):
    group, y = balanced(between, within)
    spectrum = Spectrum.from_factor(group, np.ones((40, 1)))
    posterior = exact_posterior(spectrum, y)
    rotated = spectrum.rotate(y)
    scale = posterior.prior.total_scale
    assert rotated.spectrum.mean_diagonal == 1
    # the seven eigenvalues are 5, and 32 directions carry no kernel
    z2, rss = float((rotated.z**2).sum()), float(rotated.rss)
    shape = 1 + 39 / 2

    def log_density(x):
        h, rest = 1 / (1 + math.exp(-x)), 1 / (1 + math.exp(x))
        e = 5 * h + rest
        quadratic = z2 / e + rss / rest
        jacobian = math.log(h) + math.log(rest)
        return jacobian - 0.5 * (7 * math.log(e) + 32 * math.log(rest)) - shape * math.log(scale + 0.5 * quadratic)

    nodes = np.linspace(-40, 40, 801)
    top = max(map(log_density, nodes))

    def integral(function):
        pieces = zip(nodes[:-1:8], nodes[8::8], strict=True)
        return sum(quad(lambda x: function(x) * math.exp(log_density(x) - top), a, b, epsabs=0)[0] for a, b in pieces)

    total = integral(lambda x: 1.0)
    mean = integral(lambda x: 1 / (1 + math.exp(-x))) / total
    sd = math.sqrt(integral(lambda x: (1 / (1 + math.exp(-x)) - mean) ** 2) / total)
    assert_allclose(posterior.mean("h2"), mean, rtol=0, atol=1e-6 * sd)
    assert_allclose(posterior.sd("h2"), sd, rtol=1e-5)
    assert_allclose(
        posterior.mean("sigma2_e"),
        integral(
            lambda x: (
                (1 / (1 + math.exp(x)))
                * (scale + 0.5 * (z2 / (5 / (1 + math.exp(-x)) + 1 / (1 + math.exp(x))) + rss * (1 + math.exp(x))))
                / (shape - 1)
            )
        )
        / total,
        rtol=1e-7,
    )


def test_the_improper_prior_has_no_evidence_and_its_mode_is_near_reml(build_problem):
    problem = build_problem("full-K", n=200)
    posterior = exact_posterior(problem.spectrum, problem.y, prior=VariancePrior())
    assert math.isnan(posterior.log_evidence)
    h = np.linspace(0.01, 0.999, 2000)
    mode = h[np.argmax(posterior.h2_density(h))]
    fit = reml(problem.spectrum, problem.y)
    assert abs(mode - fit.h2) < 0.5 * fit.standard_errors()["h2"]


def test_with_many_observations_the_posterior_is_the_normal_of_reml(build_problem):
    problem = build_problem("full-K", n=600)
    posterior, fit = exact_posterior(problem.spectrum, problem.y), reml(problem.spectrum, problem.y)
    assert_allclose(posterior.mean("h2"), fit.h2, atol=0.3 * fit.standard_errors()["h2"])
    assert_allclose(posterior.sd("h2"), fit.standard_errors()["h2"], rtol=0.15)
    assert_allclose(posterior.mean("sigma2_e"), fit.sigma2_e, rtol=0.1)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.1, 1.0), (0.01, 1.0), (1.0, 0.1), (1.0, 0.01), (30.0, 2.0)])
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_every_prior_gives_a_posterior(build_problem, kind, alpha, beta):
    problem = build_problem(kind)
    posterior = exact_posterior(problem.spectrum, problem.y, prior=VariancePrior(alpha, beta, 1.0, 5.0))
    assert_allclose(posterior.weights.sum(), 1)
    assert 0 < posterior.mean("h2") < 1
    table = posterior.summary()
    assert np.isfinite(table.loc[["h2", "pve", "total", "sigma2", "sigma2_e"]].to_numpy(dtype=float)).all()


def test_density_of_h2_integrates_to_one_and_is_zero_or_finite_at_the_ends(build_problem):
    problem = build_problem("full-K")
    posterior = exact_posterior(problem.spectrum, problem.y)
    h = np.linspace(0, 1, 20_001)
    density = posterior.h2_density(h)
    assert np.isfinite(density).all()
    assert_allclose(np.trapezoid(density, h), 1, rtol=1e-3)


# ---------------------------------------------------------------- several responses, errors, output


def test_several_responses_have_each_their_own_posterior_and_prior(build_problem):
    problem = build_problem("low-W")
    Y = pd.DataFrame({"small": problem.y, "large": 100 * problem.y[::-1]})
    together = exact_posterior(problem.spectrum, Y)
    assert together.names == ("small", "large")
    for t, name in enumerate(together.names):
        alone = exact_posterior(problem.spectrum, Y[name].to_numpy())
        assert_allclose(together.prior.total_scale[t], alone.prior.total_scale, rtol=1e-12)
        assert_allclose(together.mean("h2")[t], alone.mean("h2"), rtol=1e-9)
        assert_allclose(together.log_evidence[t], alone.log_evidence, rtol=1e-10)


def test_what_has_no_posterior_is_refused(build_problem):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match="y has no residual variance after X"):
        exact_posterior(problem.spectrum, np.ones(23))
    with pytest.raises(ValueError, match="K is zero orthogonal to X"):
        exact_posterior(Spectrum.from_covariance(np.zeros((5, 5)), np.ones((5, 1))), np.arange(5.0))
    with pytest.raises(ValueError, match=r"the posterior is improper.* K and X explain y exactly"):
        exact_posterior(problem.spectrum, problem.W @ np.ones(6), prior=VariancePrior())


def test_a_response_that_W_and_X_explain_is_refused_whatever_the_prior_of_the_total(build_problem):
    # p(y | h²) grows as (1 - h²)^(-ν/2) with ν = 14: no Beta prior with b < 7 makes that integrable
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match=r"improper.* K and X explain y exactly"):
        exact_posterior(problem.spectrum, problem.W @ np.ones(6))


def test_missing_values_and_foreign_rotations_are_refused(build_problem):
    problem, other = build_problem("low-W"), build_problem("low-W")
    with pytest.raises(ValueError, match="y has 23 values that are NaN or infinite"):
        exact_posterior(problem.spectrum, np.full(23, np.nan))
    with pytest.raises(ValueError, match="y was rotated by another spectrum"):
        exact_posterior(problem.spectrum, other.rotated)
    assert exact_posterior(problem.spectrum, problem.rotated).mean("h2") == pytest.approx(
        exact_posterior(problem.spectrum, problem.y).mean("h2")
    )


@pytest.mark.parametrize("h2", [-0.1, 1.1, math.nan])
def test_densities_outside_the_unit_interval_are_refused(build_problem, h2):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match="h2 must be between 0 and 1"):
        exact_posterior(problem.spectrum, problem.y).h2_density([0.5, h2])


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, math.nan])
def test_probabilities_outside_the_unit_interval_are_refused(build_problem, probability):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match=f"probability must be between 0 and 1, as 0.95, got {probability}"):
        exact_posterior(problem.spectrum, problem.y).quantile("h2", probability)
    with pytest.raises(ValueError, match=f"probability must be between 0 and 1, as 0.95, got {probability}"):
        exact_posterior(problem.spectrum, problem.y).interval("h2", probability)


def test_unknown_quantities_are_refused(build_problem):
    problem = build_problem("low-W")
    posterior = exact_posterior(problem.spectrum, problem.y)
    for method in (posterior.mean, posterior.sd, lambda q: posterior.quantile(q, 0.5)):
        with pytest.raises(ValueError, match=r"quantity must be one of h2, pve, delta, total, .* got 'heritability'"):
            method("heritability")


def test_the_mean_of_beta_is_refused_where_it_does_not_exist():
    spectrum = Spectrum.from_covariance(np.diag([1.0, 2.0, 3.0]), np.column_stack([np.ones(3), [0.0, 1, 5]]))
    posterior = exact_posterior(spectrum, [1.0, 2.0, 0.5], prior=VariancePrior())
    with pytest.raises(ValueError, match="the posterior has no mean: there is one residual degree of freedom or fewer"):
        posterior.beta()
    assert posterior.mean("total") == posterior.sd("sigma2_e") == math.inf


def test_summary_and_datatree_carry_the_posterior(build_problem):
    problem = build_problem("low-W")
    posterior = exact_posterior(problem.spectrum, problem.y)
    table = posterior.summary(0.9)
    assert list(table.index) == ["h2", "pve", "delta", "total", "sigma2", "sigma2_e"]
    assert list(table.columns) == ["mean", "sd", "eti_5.0%", "median", "eti_95.0%"]
    for quantity in table.index:
        values = posterior.mean(quantity), posterior.sd(quantity), *posterior.interval(quantity, 0.9)
        assert_array_equal(table.loc[quantity, ["mean", "sd", "eti_5.0%", "eti_95.0%"]].to_numpy(dtype=float), values)
    tree = posterior.to_datatree(50, random_seed=1)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 50}
    assert_array_equal(tree["posterior"]["h2"].values[0], posterior.draws(50, random_seed=1)["h2"])
    assert repr(posterior).startswith("Exact posterior\nVariancePrior(h2_alpha=")
