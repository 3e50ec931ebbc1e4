"""Leave-one-out of a latent model, against the same likelihood without a row, and against exact Gaussian formulas."""

from dataclasses import dataclass

import numpy as np
import pymc as pm
import pytest
import scipy.stats as st
from latent_cases import grouped, log_likelihood, model_of
from scipy.special import logsumexp

import pm_fastlmm as flmm
from pm_fastlmm.engines.latent.latentlmm import LatentLMM
from pm_fastlmm.families.cumulative import of_rows
from pm_fastlmm.families.family import Derivatives, Family

FAMILIES = ["bernoulli", "binomial", "poisson", "negative_binomial", "gamma", "ordinal"]


def fitted(family, method="REML", groups=6, each=5, seed=3, **options):
    rng = np.random.default_rng(seed)
    given = {"trials": rng.integers(3, 9, groups * each)} if family == "binomial" else {}
    label, X, y = grouped(rng, family, groups, each, covariate=True, **given)
    fit = flmm.find_reml(
        model_of(label, X, y, family, **given), method=method, fixed={"g": 0.9}, progressbar=False, **options
    )
    return fit, label


@dataclass(frozen=True, slots=True, eq=False)
class Normal(Family):
    """A normal response of standard deviation 0.7, of which Laplace's method is exact."""

    name = "normal"
    link = "identity"

    def log_density(self, y, eta, psi):
        return st.norm.logpdf(y, eta, 0.7)

    def derivatives(self, y, eta, psi):
        left = (y - eta) / 0.49
        return Derivatives(st.norm.logpdf(y, eta, 0.7), left, np.full_like(left, -1 / 0.49), np.zeros_like(left))

    def read(self, y):
        return np.asarray(y, dtype=float)

    def start(self, y):
        return y, np.zeros(0)

    def mean(self, eta, psi):
        return eta

    def variance(self, eta, psi):
        return np.full_like(eta, 0.49)

    def draw(self, eta, psi, rng):
        return rng.normal(eta, 0.7)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_of_a_normal_response_all_of_it_is_exact(method):
    label, X, y = grouped(np.random.default_rng(1), "gamma", covariate=True)
    y = np.log(y)
    with pm.Model() as model:
        sigma = pm.HalfNormal("sigma_g", 1)
        terms = [flmm.Term(label, flmm.covariance.scalar(sigma**2), name="g")]
        LatentLMM("y", family=Normal(), X=X, terms=terms, observed=y)
    with pm.Model() as exact:
        sigma = pm.HalfNormal("sigma_g", 1)
        terms = [flmm.Term(label, flmm.covariance.scalar(sigma**2), name="g")]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("e", 1) ** 2, observed=y)
    fit = flmm.find_reml(model, method=method, fixed={"g": 0.9}, progressbar=False)
    true = flmm.find_reml(exact, method=method, fixed={"g": 0.9, "residual": 0.49}, progressbar=False)
    assert fit.loglik == pytest.approx(true.loglik, abs=1e-9)
    own, wanted = fit._node_at(None).left_out(None), true.loo()
    mean, sd = own.moments()
    np.testing.assert_allclose(mean, wanted["mean"], atol=1e-8)
    np.testing.assert_allclose(sd, wanted["sd"], atol=1e-8)
    np.testing.assert_allclose(own.log_density, wanted["log_density"], atol=1e-8)
    assert np.isnan(own.pit(np.random.default_rng(0))).all()  # its distribution function is not known
    own, wanted = fit._node_at(None).left_out(label), true.loo(groups=label)
    np.testing.assert_allclose(own.moments()[0], wanted["mean"], atol=1e-8)
    np.testing.assert_allclose(own.moments()[1], wanted["sd"], atol=1e-8)
    np.testing.assert_allclose(own.log_density, wanted["log_density"], atol=1e-8)
    np.testing.assert_allclose(own.group_table()["log_density"], true.loo_groups(label)["log_density"], atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_cavities_are_near_the_modes_without_the_row(family):
    fit, _ = fitted(family)
    at = fit._node_at(None)
    quick, slow = at.left_out(None), at.left_out(np.arange(30))
    assert np.abs((quick.mean - slow.mean) / np.sqrt(slow.variance)).max() < 0.25
    np.testing.assert_allclose(quick.variance, slow.variance, rtol=0.35)
    assert abs(np.mean(quick.log_density - slow.log_density)) < 0.01
    # and the density of a row is nearly the ratio of the approximations with it and without
    assert abs(np.mean(slow.joint - slow.log_density)) < 0.02


@pytest.mark.parametrize(("family", "within"), [("bernoulli", 0.08), ("binomial", 0.08), ("poisson", 0.25)])
def test_densities_are_near_the_exact_ones_and_ratios_are_nearer(family, within):
    rng = np.random.default_rng(3)
    given = {"trials": 8} if family == "binomial" else {}
    label, X, y = grouped(rng, family, 6, 5, **given)
    fit = flmm.find_reml(model_of(label, X, y, family, **given), fixed={"g": 0.9}, progressbar=False)
    at, b, exact = fit._node_at(None), np.linspace(-5, 6, 151), []
    for left_out in ([], *np.arange(30)[:, None]):
        kept = np.setdiff1d(np.arange(30), left_out)
        given_b = log_likelihood(of_rows(at.family, kept), at.psi, label[kept], y[kept], 0.9, b[:, None] * X[kept, 0])
        exact.append(logsumexp(given_b))
    exact = exact[0] - np.array(exact[1:])
    np.testing.assert_allclose(at.left_out(None).log_density, exact, atol=within)
    assert abs(np.mean(at.left_out(None).log_density - exact)) < 0.01
    np.testing.assert_allclose(at.left_out(np.arange(30)).joint, exact, atol=0.005)


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
def test_leaving_a_row_out_is_fitting_the_others(family):
    fit, label = fitted(family)
    at, row = fit._node_at(None), 7
    with pytest.warns(UserWarning, match="groups 'others' alone determine"):
        left = at.left_out(np.where(np.arange(30) == row, "it", "others"))
    rest = np.arange(30) != row
    X, y = np.column_stack([np.ones(30), fit.node.projection.X[:, 1]]), fit.node.observed
    other = flmm.find_reml(model_of(label[rest], X[rest], y[rest], family), fixed={"g": 0.9}, progressbar=False)
    there = other._node_at(None)
    rows, others = there.read(X_new=X[[row]], Z_new={"g": label[[row]]}), there.others  # at the mode of β and u
    fresh = rows.prior_variance(there.node.terms, others.sigma)
    mean, variance = others.predict(rows.X, list(rows.Z), fresh)
    assert left.mean[row] == pytest.approx(float(mean[0]), abs=1e-9)
    assert left.variance[row] == pytest.approx(float(variance[0]), abs=1e-9)
    joint = left.joint[list(left.groups.labels).index("it")]
    assert joint == pytest.approx(fit.loglik - other.loglik, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_densities_moments_and_probabilities_are_integrals_over_the_cavity(family):
    fit, _ = fitted(family, method="ML")
    left = fit._node_at(None).left_out(None)
    x = np.linspace(-10, 10, 4001)
    eta = left.mean + np.sqrt(left.variance) * x[:, None]
    weight = (st.norm.pdf(x) * (x[1] - x[0]))[:, None]
    density = left.family.log_density(left.y, eta, left.psi)
    np.testing.assert_allclose(np.exp(left.log_density), (weight * np.exp(density)).sum(0), rtol=1e-7)
    mu = left.family.mean(eta, left.psi)
    mean = (weight * mu).sum(0)
    variance = (weight * (mu - mean) ** 2).sum(0) + (weight * left.family.variance(eta, left.psi)).sum(0)
    np.testing.assert_allclose(left.moments()[0], mean, rtol=1e-8)
    np.testing.assert_allclose(left.moments()[1], np.sqrt(variance), rtol=1e-7)
    if family == "gamma":
        steps = np.linspace(1e-9, 1, 4001)[:, None] * left.y
        below = np.exp([left.family.log_density(row, left.mean, left.psi) for row in steps])
        assert below.shape == (4001, 30)  # of the middle alone: the mixture is tested with quantiles
        return
    values = np.arange(left.y.max() + 1)
    given = [left.family.log_density(np.full(30, v), eta, left.psi) for v in values]
    masses = (weight * np.exp(given)).sum(axis=1)
    upper = np.array([masses[: int(y) + 1, i].sum() for i, y in enumerate(left.y)])
    pit = left.pit(np.random.default_rng(0))
    assert (pit <= upper + 1e-7).all()
    assert (pit >= upper - np.exp(left.log_density) - 1e-7).all()


def test_probabilities_are_uniform_under_the_model():
    rng = np.random.default_rng(5)
    label, X, y = grouped(rng, "poisson", 40, 6)
    fit = flmm.find_reml(model_of(label, X, y, "poisson"), progressbar=False)
    pit = fit._node_at(None).left_out(None).pit(rng)
    assert st.kstest(pit, "uniform").pvalue > 0.01


def test_an_observation_that_alone_determines_a_coefficient_is_not_predicted():
    rng = np.random.default_rng(2)
    label, X, y = grouped(rng, "poisson")
    X = np.column_stack([X, np.arange(len(y)) == 3])
    y[3] = 4
    fit = flmm.find_reml(model_of(label, X, y, "poisson"), fixed={"g": 0.5}, progressbar=False)
    at = fit._node_at(None)
    with pytest.warns(UserWarning, match="observations 3 alone determine a fixed effect"):
        table = at.left_out(None).table()
    assert table.loc[3, ["mean", "sd", "log_density", "pit"]].isna().all()
    assert table.drop(index=3).notna().all().all()
    with pytest.warns(UserWarning, match="groups 0 alone determine a fixed effect"):
        groups = at.left_out(label).group_table()
    assert np.isnan(groups.loc[0, "log_density"])
    assert groups.loc[1:, "log_density"].notna().all()
