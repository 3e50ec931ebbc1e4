"""Log-likelihoods and estimates of lme4, glmmTMB and ordinal."""

import numpy as np
import pytest
import scipy.optimize

import pm_fastlmm as flmm
from pm_fastlmm.aireml.iteration import Tolerances
from pm_fastlmm.engines.latent.node import LatentNode
from pm_fastlmm.families.choice import family_of
from pm_fastlmm.fitting.estimate import Options, estimate
from tests.engines.latent.reference import CASES, node_of, theta_of

ERRORS = {"glmmTMB": 1e-3, "clmm": 2e-3}  # of standard errors; clmm's Hessian is of differences of values


def fitted(name: str, method: str) -> flmm.results.VarianceFit:
    node = node_of(name)
    options = Options(method, None, (), None, Tolerances(), 100, False, 0)
    return estimate(node.likelihood(node.constants(), method), None, node, options)


@pytest.mark.parametrize("name", CASES)
def test_log_likelihood_at_points_is_that_of_glmmTMB_and_clmm(name):
    node = node_of(name)
    given = node.products.treated(len(node.terms), flat=False)
    for point in CASES[name]["points"]:
        theta = theta_of(point)
        sigma, _ = node.layout.numbers(theta[: node.layout.size])
        offset = node.constants().mu + node.projection.X @ np.asarray(point["beta"])
        state = given.laplace(node.rows(), offset, sigma, theta[node.layout.size :])
        expected = point.get("laplace_glmmTMB", point.get("laplace_clmm"))
        assert abs(state.loglik - expected) < 2e-6


@pytest.mark.parametrize("name", CASES)
def test_restricted_log_likelihood_at_points_is_that_of_glmmTMB(name):
    node = node_of(name)
    objective = node.likelihood(node.constants())
    for point in CASES[name]["points"]:
        assert abs(objective.log_likelihood(theta_of(point)) - point["laplace_reml"]) < 2e-6


@pytest.mark.parametrize("name", CASES)
def test_maximum_likelihood_estimates_are_theirs(name):
    case = CASES[name]
    fit = fitted(name, "ML")
    software = "clmm" if "clmm" in case else "glmmTMB"
    peer = case[software]
    assert fit.converged
    assert abs(fit.loglik - peer["loglik"]) < 1e-5
    np.testing.assert_allclose(fit.blue, peer["beta"], rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(fit.beta_se, peer["se"][-len(fit.coef) :], rtol=ERRORS[software])


@pytest.mark.parametrize("name", [name for name in CASES if "glmmTMB_REML" in CASES[name]])
def test_restricted_estimates_are_those_of_glmmTMB(name):
    peer = CASES[name]["glmmTMB_REML"]
    fit = fitted(name, "REML")
    assert fit.converged
    assert abs(fit.loglik - peer["loglik"]) < 1e-5
    mode = fit.objective.state(fit.theta.to_numpy()).mixed.beta()  # which glmmTMB prints
    np.testing.assert_allclose(mode, peer["beta"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.theta, theta_of(peer | {"thresholds": None}), rtol=2e-4)
    node = node_of(name)
    options = Options("ML", None, fit.theta.to_dict(), None, Tolerances(), 100, False, 0)
    given = estimate(node.likelihood(node.constants(), "ML"), None, node, options)
    np.testing.assert_allclose(fit.blue, given.blue, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fit.blue_cov, given.blue_cov, rtol=1e-5, atol=1e-9)


def test_profile_intervals_of_the_herds_are_those_that_lme4_prints():
    # confint of glmer, tolPwrss = 1e-11, lme4 1.1-31
    fit = fitted("cbpp_logit", "ML")
    expected = {
        "sd_herd": (0.34609447, 1.09988172),
        "beta[(Intercept)]": (-1.90115607, -0.94779455),
        "beta[period2]": (-1.61667889, -0.40784027),
        "beta[period4]": (-2.50060070, -0.80083105),
    }
    for name, ends in expected.items():
        np.testing.assert_allclose(fit.interval(name), ends, atol=2e-4)


def test_coefficients_that_are_integrated_out_are_estimated_at_the_maximum_of_the_likelihood_over_them():
    fit, node = fitted("cbpp_logit", "REML"), node_of("cbpp_logit")
    given = node.products.treated(len(node.terms), flat=False)
    sigma, _ = node.layout.numbers(fit.theta.to_numpy())

    def minus(beta):
        return -given.laplace(node.rows(), node.projection.X @ beta, sigma, np.zeros(0)).loglik

    found = scipy.optimize.minimize(minus, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    np.testing.assert_allclose(fit.blue, found.x, atol=1e-5)


def test_the_joint_mode_of_coefficients_and_effects_is_off_where_records_are_few_and_the_estimate_is_not():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(4000), 2)
    y = rng.poisson(np.exp(-0.5 + rng.normal(size=4000)[group])).astype(float)
    terms = [flmm.Term(group, flmm.covariance.scalar(1.0), name="g")]
    node = LatentNode.from_terms("y", terms, np.ones((8000, 1)), y, None, family=family_of("poisson"))
    options = Options("REML", None, (), None, Tolerances(), 100, False, 0)
    fit = estimate(node.likelihood(node.constants()), None, node, options)
    mode = fit.objective.state(fit.theta.to_numpy()).mixed.beta()[0]
    error = float(fit.beta_se.iloc[0])
    assert abs(fit.blue[0] + 0.5) < 3 * error
    assert mode + 0.5 > 3 * error
