"""Heritability and repeatability of data: closed forms, QGglmm's printed numbers, and simulation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import ndtr
from scipy.stats import multivariate_normal, norm

from pm_fastlmm.families.averaging import few_points
from pm_fastlmm.families.choice import family_of
from pm_fastlmm.families.scales import data_scale

NONE = np.zeros(0)
RNG = np.random.default_rng(3)
FIXED = RNG.normal(0.4, 0.7, size=(5, 300))
V = np.array([1e-6, 0.05, 0.6, 1.9, 4.0])


def log_normal(fixed, variance):
    """Return E exp(η) for each record, the average, and the variances of exp(η) within and between records."""
    m = np.exp(fixed + variance[:, None] / 2)
    within = (m**2).mean(axis=1) * np.expm1(variance)
    return m, m.mean(axis=1), within, m.var(axis=1)


@pytest.mark.parametrize(("name", "dispersion"), [("poisson", 0.0), ("negative_binomial", 0.4), ("gamma", 0.4)])
def test_means_have_closed_forms(name, dispersion):
    """Foulley et al. (1987) of counts; Ψ is the mean."""
    psi = NONE if name == "poisson" else np.full((5, 1), dispersion)
    scale = data_scale(family_of(name), psi, FIXED, V)
    m, mean, within, between = log_normal(FIXED, V)
    square = (m**2).mean(axis=1) * np.exp(V)
    distribution = dispersion * square + (0 if name == "gamma" else mean)
    for found, wanted in (
        (scale.mean, mean),
        (scale.slope, mean),
        (scale.expected_variance, within),
        (scale.fixed_variance, between),
        (scale.distribution_variance, distribution),
    ):
        assert_allclose(found, wanted, rtol=2e-10)
    h2, counted = scale.heritability(V / 3), scale.heritability(V / 3, fixed="counted")
    assert h2.liability is None
    assert_allclose(h2.latent, 1 / 3)
    assert_allclose(counted.latent, V / 3 / (V + FIXED.var(axis=1)))
    assert_allclose(h2.expected, mean**2 * V / 3 / within, rtol=1e-9)
    assert_allclose(h2.observed, mean**2 * V / 3 / (within + distribution), rtol=1e-9)
    assert_allclose(counted.observed, mean**2 * V / 3 / (within + between + distribution), rtol=1e-9)
    repeated = scale.repeatability(V / 3)
    assert_allclose(repeated.latent, 1 / 3)
    assert_allclose(repeated.expected, mean**2 * np.expm1(V / 3) / within, rtol=1e-9)
    assert_allclose(repeated.observed, mean**2 * np.expm1(V / 3) / (within + distribution), rtol=1e-9)


def test_a_threshold_trait_has_closed_forms():
    """Dempster & Lerner (1950): h² of liability times φ(t)²/(p(1 - p)), t the threshold in units of liability."""
    scale = data_scale(family_of("bernoulli", "probit"), NONE, FIXED[:, :1], V)
    t = FIXED[:, 0] / np.sqrt(1 + V)
    p = ndtr(t)
    assert_allclose(scale.mean, p, rtol=1e-11)
    assert_allclose(scale.slope, norm.pdf(t) / np.sqrt(1 + V), rtol=1e-9)
    assert_allclose(scale.expected_variance + scale.distribution_variance, p * (1 - p), rtol=1e-10)
    h2 = scale.heritability(V / 2)
    assert_allclose(h2.liability, V / 2 / (1 + V))
    assert_allclose(h2.observed, h2.liability * norm.pdf(t) ** 2 / (p * (1 - p)), rtol=1e-9)
    both = [
        multivariate_normal.cdf([z, z], [0, 0], [[1, r], [r, 1]], abseps=1e-12, releps=1e-12)
        for z, r in zip(t, 0.7 * V / (1 + V), strict=True)
    ]
    assert_allclose(scale.repeatability(0.7 * V).observed * p * (1 - p), both - p**2, rtol=1e-8, atol=1e-11)


def test_the_observed_scale_of_many_trials_tends_to_the_expected_one():
    one, many = (data_scale(family_of("binomial", trials=m), NONE, FIXED, V) for m in (1, 10**9))
    bernoulli = data_scale(family_of("bernoulli"), NONE, FIXED, V)
    for found, wanted in zip(one.heritability(V), bernoulli.heritability(V), strict=True):
        assert_allclose(found, wanted, rtol=1e-12)
    h2 = many.heritability(V)
    assert_allclose(h2.expected, bernoulli.heritability(V).expected, rtol=1e-9)
    assert_allclose(h2.observed[1:], h2.expected[1:], rtol=1e-6)


def test_ordered_categories_have_those_of_their_indicators():
    """QGglmm's model "ordinal": p of each category, Ψ a difference of normal densities, averaged over fixed effects."""
    cutpoints = np.array([-0.9, 0.2, 1.5])
    scale = data_scale(family_of("ordinal", "probit", categories=4), cutpoints, FIXED, V)
    ends = np.array([-np.inf, *cutpoints, np.inf])
    sd = np.sqrt(1 + V)[:, None, None]
    z = (ends - FIXED[..., None]) / sd
    p = np.diff(ndtr(z), axis=-1).mean(axis=1)
    slope = -np.diff(norm.pdf(z) / sd, axis=-1).mean(axis=1)
    assert_allclose(scale.mean, p, rtol=1e-10)
    assert_allclose(scale.slope, slope, rtol=1e-8, atol=1e-10)
    h2 = scale.heritability(V / 2, fixed="counted")
    assert_allclose(h2.observed, slope**2 * V[:, None] / 2 / (p * (1 - p)), rtol=1e-7, atol=1e-15)
    assert h2.latent.shape == (5,)
    assert scale.repeatability(V).observed.shape == (5, 4)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_two_ordered_categories_are_bernoulli(link):
    two = data_scale(family_of("ordinal", link, categories=2), np.zeros(1), FIXED, V)
    one = data_scale(family_of("bernoulli", link), NONE, FIXED, V)
    for found, wanted in zip(two.heritability(V / 2)[1:], one.heritability(V / 2)[1:], strict=True):
        assert_allclose(found if found.ndim == 1 else found[:, 1], wanted, rtol=1e-10)
    assert_allclose(two.repeatability(V / 2).expected[:, 0], one.repeatability(V / 2).expected, rtol=1e-9)


# mean.obs, var.obs, var.a.obs and h2.obs as QGglmm prints them at six draws of (μ, V_A, V_P), for Poisson.log with V_P
# and for binom1.probit with V_P - 1 (https://wildanimalmodels.org/docs/univariate/mcmcglmm/generalised_models)
POISSON = """0.8336904  4.181518 0.5287448 0.1264481
1.3543819  9.759201 1.3198703 0.1352437
1.0382519  6.281669 0.8288072 0.1319406
1.0297736  6.669180 0.8943758 0.1341058
1.5564035 24.683635 3.2844415 0.1330615
1.8580019 27.560042 3.9133675 0.1419942"""
PROBIT = """0.2116982 0.1668821 0.03622726 0.2170830
0.3356647 0.2229939 0.05562425 0.2494429
0.2621380 0.1934216 0.04611895 0.2384374
0.2555097 0.1902245 0.04727477 0.2485210
0.3158890 0.2161031 0.07280270 0.3368887
0.3797171 0.2355320 0.07699120 0.3268821"""


def test_numbers_that_qgglmm_prints():
    """The Poisson rows say what μ, V_A and V_P were: from them come the others."""
    mean, variance, additive, h2 = np.array([line.split() for line in POISSON.split("\n")], dtype=float).T
    total = np.log1p((variance - mean) / mean**2)
    intercept, of_latent = np.log(mean) - total / 2, additive / mean**2
    scale = data_scale(family_of("poisson"), NONE, intercept[:, None], total)
    assert_allclose(scale.heritability(of_latent).observed, h2, rtol=1e-6)
    scale = data_scale(family_of("bernoulli", "probit"), NONE, intercept[:, None], total - 1)
    printed = np.array([line.split() for line in PROBIT.split("\n")], dtype=float).T
    variance = scale.expected_variance + scale.distribution_variance
    found = [scale.mean, variance, scale.slope**2 * of_latent, scale.heritability(of_latent).observed]
    assert_allclose(found, printed, rtol=3e-6)


def test_records_are_simulated():
    """Of a logistic model: the regression of y on breeding values, and the correlation of records that share a part."""
    rng, n = np.random.default_rng(11), 400_000
    fixed = np.array([-1.5, 0.3, 1.0, 1.1])
    scale = data_scale(family_of("bernoulli", "cloglog"), NONE, fixed, 1.4)
    a, permanent = rng.normal(0, np.sqrt(0.5), n), rng.normal(0, np.sqrt(0.4), n)
    rows = [fixed[rng.integers(0, 4, n)] + a + permanent + rng.normal(0, np.sqrt(0.5), n) for _ in range(2)]
    y, again = (family_of("bernoulli", "cloglog").draw(eta, NONE, rng) for eta in rows)
    h2 = scale.heritability(0.5, fixed="counted").observed
    assert_allclose(np.cov(y, a)[0, 1] ** 2 / 0.5 / y.var(), h2, atol=4 * 2 * np.sqrt(h2 / n))
    repeated = scale.repeatability(0.9, fixed="counted").observed
    assert_allclose(np.corrcoef(y, again)[0, 1], repeated, atol=4 / np.sqrt(n))
    assert repeated > scale.slope**2 * 0.9 / y.var()


def test_few_points_have_the_averages_of_all_records():
    values = RNG.normal(size=(3, 2000)) * np.array([[0.1], [1.0], [3.0]]) + np.array([[0.0], [2.0], [-4.0]])
    points, weights = few_points(values)
    assert points.shape == (3, 24)
    for function in (lambda v: v**7, np.exp, lambda v: 1 / (1 + np.exp(-v / 2))):
        assert_allclose((weights * function(points)).sum(axis=1), function(values).mean(axis=1), rtol=1e-9)
    clusters = np.tile(np.array([0.0, 1.0, 5.0]), 100) + 1e-13 * RNG.normal(size=(2, 300))
    points, weights = few_points(clusters)
    assert_allclose((weights * np.cos(points)).sum(axis=1), np.cos(clusters).mean(axis=1), rtol=1e-12)
    points, weights = few_points(np.tile(np.array([0.0, 1.0, 1.0]), 100)[None])
    assert_allclose(np.concatenate([points[0], weights[0]]), [0, 1, 1 / 3, 2 / 3])
    points, weights = few_points(np.full((2, 100), 0.3))
    assert_allclose([points, weights], [[[0.3]] * 2, [[1.0]] * 2])


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_wide_distributions_are_steps(link):
    """Of a large V a link is nearly a step, which half of the normal distribution is beyond: Ψ = φ(0)/√V."""
    scale = data_scale(family_of("bernoulli", link), NONE, [[0.0], [0.0], [0.0]], [1e4, 1.0, 1e10])
    assert_allclose(scale.mean[[0, 2]], 0.5, atol=0.004)
    assert_allclose(scale.slope[2], norm.pdf(0) / 1e5, rtol=1e-4)
    assert_allclose(scale.expected_variance + scale.distribution_variance, scale.mean * (1 - scale.mean), rtol=1e-12)
    alone = data_scale(family_of("bernoulli", link), NONE, [0.0], 1.0)
    assert_allclose(scale.slope[1], alone.slope, rtol=1e-10)
    assert_allclose(scale.repeatability([1e4, 1.0, 1e10]).expected, 1, rtol=1e-10)


def test_no_variance_is_no_share():
    scale = data_scale(family_of("poisson"), NONE, [[0.3], [0.3]], [0.0, 1e-13])
    assert scale.expected_variance[0] == 0
    assert np.isnan(scale.heritability(0.0).latent[0])
    assert scale.heritability([0.0, 5e-14]).observed[0] == 0
    assert_allclose(scale.heritability([0.0, 5e-14]).expected[1], 0.5, rtol=1e-8)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"rows have from 2 to 5 trials: .* family.of_rows\(trials\)"):
        data_scale(family_of("binomial", trials=[2, 5]), NONE, [0.0, 0.1], 1.0)
    same = data_scale(family_of("binomial", trials=[5, 5]), NONE, [0.0, 0.1], 1.0)
    assert 1 < same.mean < 4
    with pytest.raises(ValueError, match="fixed must be 'left out' or 'counted', got 'in'"):
        same.heritability(0.5, fixed="in")
