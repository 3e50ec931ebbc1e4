"""The default prior against scipy's densities."""

import copy
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.integrate import quad

from pm_fastlmm.kernel.likelihood.prior import shares
from pm_fastlmm.priors import VariancePrior

PRIORS = [VariancePrior(1, 1, 1, 2.5), VariancePrior(0.5, 2.0, 3.0, 0.7), VariancePrior(4.0, 1.5, 0.3, 11.0)]


def log_marginal(prior, x, e, z):
    """log p(z, logit h² = x): what the quadrature adds up."""
    _, given = prior.log_given_h2((z**2 / e).sum()[None], len(z))
    return prior.log_h2(x) + given - 0.5 * np.log(e).sum()


@pytest.mark.parametrize("prior", PRIORS)
def test_the_density_of_logit_h2_is_the_beta_density_times_the_jacobian(prior):
    x = np.linspace(-6, 5, 12)
    h = 1 / (1 + np.exp(-x))
    expected = stats.beta(prior.h2_alpha, prior.h2_beta).logpdf(h) + np.log(h * (1 - h))
    assert_allclose(prior.log_h2(x), expected, rtol=1e-11)
    assert_allclose(quad(lambda t: math.exp(prior.log_h2(np.array(t))), -100, 100, limit=300)[0], 1, rtol=1e-8)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_marginal_integrates_the_total_variance_out(prior):
    rng = np.random.default_rng(0)
    e, z = rng.exponential(size=7), rng.normal(size=7)
    x = np.array([0.4])
    total = stats.invgamma(prior.total_shape, scale=prior.total_scale)

    def integrand(log_t):
        t = math.exp(log_t)
        return math.exp(stats.norm(0, np.sqrt(t * e)).logpdf(z).sum() + total.logpdf(t) + log_t)

    direct = quad(integrand, -30, 60, points=[-2, 0, 2, 5], limit=500, epsabs=0, epsrel=1e-11)[0]
    marginal = log_marginal(prior, x, e, z)
    assert_allclose(marginal, math.log(direct) + prior.log_h2(x), rtol=1e-9)


def test_the_improper_prior_is_one_over_the_total():
    prior = VariancePrior()
    assert not prior.proper
    assert VariancePrior(1, 1, 1, 1).proper
    e, z = np.array([0.3, 1.0, 2.0]), np.array([1.0, -0.4, 0.7])
    direct = quad(lambda s: math.exp(stats.norm(0, np.sqrt(math.exp(s) * e)).logpdf(z).sum()), -30, 60, limit=500)[0]
    x = np.array([0.0])
    assert_allclose(log_marginal(prior, x, e, z), math.log(direct) + math.log(0.25), rtol=1e-8)


def test_the_default_is_worth_two_observations_at_the_residual_variance(problem):
    prior = VariancePrior.scaled_to(problem.rotated)
    X = np.zeros((23, 0)) if problem.X is None else problem.X
    residual = problem.y - X @ np.linalg.lstsq(X, problem.y)[0] if X.size else problem.y
    assert (prior.h2_alpha, prior.h2_beta, prior.total_shape) == (1, 1, 1)
    assert_allclose(prior.total_scale, residual @ residual / (23 - X.shape[1]), rtol=1e-10)
    assert_allclose(stats.invgamma(1, scale=1).ppf([0.025, 0.975]), [0.27, 39.5], rtol=5e-3)


def test_the_default_of_several_responses_is_scaled_to_their_mean(build_problem):
    problem = build_problem("low-W")
    spectrum = problem.spectrum
    alone = [VariancePrior.scaled_to(spectrum.rotate(c * problem.y)).total_scale for c in (1, 3)]
    together = VariancePrior.scaled_to(spectrum.rotate(np.column_stack([problem.y, 3 * problem.y])))
    assert_allclose(together.total_scale, np.mean(alone), rtol=1e-12)


def test_a_response_without_residual_variance_has_no_default(build_problem):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match="y has no residual variance after X"):
        VariancePrior.scaled_to(problem.spectrum.rotate(np.ones(23)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"h2_alpha": 0.0}, "h2_alpha and h2_beta must be positive, got 0.0 and 1.0"),
        ({"h2_beta": -1.0}, "h2_alpha and h2_beta must be positive, got 1.0 and -1.0"),
        ({"h2_alpha": math.nan}, "h2_alpha and h2_beta must be positive"),
        ({"total_shape": 1.0}, "must both be positive, or both 0 .* got 1.0 and 0.0"),
        ({"total_scale": 1.0}, "must both be positive, or both 0 .* got 0.0 and 1.0"),
        ({"total_shape": -1.0, "total_scale": -1.0}, "must both be positive, or both 0"),
    ],
)
def test_parameters_outside_their_range_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        VariancePrior(**parameters)


def test_shares_add_to_one_to_full_relative_precision():
    h, one_minus = shares(np.array([-50.0, -3.0, 0.0, 40.0]))
    assert_allclose(h, [math.exp(-50), 1 / (1 + math.exp(3)), 0.5, 1], rtol=1e-14)
    assert_allclose(one_minus, [1, 1 / (1 + math.exp(-3)), 0.5, math.exp(-40)], rtol=1e-14)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_priors_are_values(clone):
    assert clone(PRIORS[1]) == PRIORS[1]
    with pytest.raises(AttributeError):
        PRIORS[1].h2_alpha = 2
