"""Densities are those of PyMC, draws and probabilities have the moments that are printed, and ranges are kept."""

import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, ndtr

from pm_fastlmm.families.choice import FAMILIES, family_of

NONE = np.zeros(0)
ETA = np.array([-2.5, -0.4, 0.0, 0.7, 1.9, 3.0])
CUTPOINTS = np.array([-0.8, 0.3, 1.6])
TRIALS = np.array([1.0, 3, 7, 12, 2, 40])


def cases():
    for name, known in FAMILIES.items():
        for link in known.links:
            psi = {"ordinal": CUTPOINTS, "negative_binomial": np.array([0.4]), "gamma": np.array([0.3])}.get(name, NONE)
            given = {"ordinal": {"categories": 4}, "binomial": {"trials": TRIALS}}.get(name, {})
            yield pytest.param(family_of(name, link, **given), psi, id=f"{name}-{link}")


CASES = list(cases())


def of_pymc(family, eta, psi):
    """The same distribution as PyMC has it."""
    if family.name == "ordinal":
        kind = pm.OrderedLogistic if family.link == "logit" else pm.OrderedProbit
        return kind.dist(eta=eta, cutpoints=psi, compute_p=False)
    if family.name in ("bernoulli", "binomial"):
        p = {"logit": expit(eta), "probit": ndtr(eta), "cloglog": -np.expm1(-np.exp(eta))}[family.link]
        return pm.Bernoulli.dist(p) if family.name == "bernoulli" else pm.Binomial.dist(TRIALS.astype(int), p)
    mu = np.exp(eta)
    if family.name == "poisson":
        return pm.Poisson.dist(mu)
    if family.name == "negative_binomial":
        return pm.NegativeBinomial.dist(mu=mu, alpha=1 / psi[0])
    return pm.Gamma.dist(alpha=1 / psi[0], beta=1 / (psi[0] * mu))


@pytest.mark.parametrize(("family", "psi"), CASES)
def test_densities_are_those_of_pymc(family, psi):
    for seed in range(3):
        y = family.draw(ETA, psi, np.random.default_rng(seed))
        value = y if family.name == "gamma" else y.astype(int)
        wanted = pm.logp(of_pymc(family, ETA, psi), value).eval(mode="FAST_COMPILE")
        assert_allclose(family.log_density(y, ETA, psi), wanted, rtol=1e-7, atol=1e-9)
        assert_array_equal(family.derivatives(y, ETA, psi).value, family.log_density(y, ETA, psi))


@pytest.mark.parametrize(("family", "psi"), CASES)
def test_draws_have_the_moments_that_are_printed(family, psi):
    draws = family.draw(np.broadcast_to(ETA, (60_000, ETA.size)), psi, np.random.default_rng(5))
    mean, variance = family.mean(ETA, psi), family.variance(ETA, psi)
    se = np.sqrt(variance / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4.5 * se)
    fourth = ((draws - draws.mean(axis=0)) ** 4).mean(axis=0)
    se = np.sqrt(np.maximum(fourth - variance**2, 0) / len(draws))
    assert np.all(np.abs(draws.var(axis=0) - variance) < 4.5 * se + 1e-6)
    assert_array_equal(family.read(draws[0]), draws[0])


@pytest.mark.parametrize(("family", "psi"), CASES)
def test_leading_axes_are_those_of_draws(family, psi):
    rng = np.random.default_rng(2)
    etas = ETA + rng.normal(size=(3, 2, ETA.size))
    psis = np.sort(psi + 0.1 * rng.uniform(size=(3, 2, psi.size)), axis=-1)
    y = family.draw(ETA, psi, rng)
    functions = [family.log_density, lambda y, *a: family.mean(*a), lambda y, *a: family.variance(*a)]
    for function in functions:
        found = function(y, etas, psis)
        assert found.shape == etas.shape
        for place in np.ndindex(3, 2):
            assert_allclose(found[place], function(y, etas[place], psis[place]), rtol=1e-14)
    assert family.draw(etas, psis, rng).shape == family.draw(etas, psi, rng).shape == etas.shape
    for part in family.in_parameters(y, ETA, psi):
        assert part.shape == (psi.size, ETA.size)


@pytest.mark.parametrize(("family", "psi"), CASES)
def test_probabilities_are_those_of_the_densities(family, psi):
    if family.name not in ("bernoulli", "ordinal"):
        with pytest.raises(ValueError, match=f"family '{family.name}' has no categories: probabilities are those of"):
            family.probabilities(ETA, psi)
        return
    p = family.probabilities(np.array([ETA, ETA + 1]), psi)
    assert_allclose(p.sum(axis=-1), 1, rtol=1e-14)
    for k in range(p.shape[-1]):
        assert_allclose(
            np.log(p[0, :, k]), family.log_density(np.full(ETA.size, float(k)), ETA, psi), rtol=1e-12, atol=1e-15
        )
    assert_allclose(p @ np.arange(p.shape[-1]), family.mean(np.array([ETA, ETA + 1]), psi), rtol=1e-14)


@pytest.mark.parametrize(("family", "psi"), CASES)
def test_nothing_is_nan_however_far_the_predictor_is(family, psi):
    y = family.draw(np.zeros(6), psi, np.random.default_rng(1))
    for far in (-1e6, -800.0, -710.0, 710.0, 800.0, 1e6):
        eta = np.full(6, far)
        for part in (*family.derivatives(y, eta, psi), *family.in_parameters(y, eta, psi)):
            assert not np.isnan(part).any()
        assert np.all(family.log_density(y, eta, psi) <= 1e-9)
        assert not np.isnan(family.mean(eta, psi)).any()
        assert not np.isnan(family.variance(eta, psi)).any()


@pytest.mark.parametrize("phi", [0.0, 1e-12])
def test_counts_of_a_mean_beyond_floating_point_have_no_density(phi):
    y, eta = np.array([0.0, 5.0]), np.array([720.0, 1e4])
    assert np.all(family_of("poisson").log_density(y, eta, NONE) == -np.inf)
    value = family_of("negative_binomial").log_density(y, eta, np.array([phi]))
    assert np.all(value == -np.inf) if phi == 0 else np.all(value < -1e13)


def test_counts_that_floats_do_not_hold_singly_are_drawn():
    mu = np.full(4000, np.exp(50.0))
    draws = family_of("poisson").draw(np.log(mu), NONE, np.random.default_rng(0))
    assert abs(draws.mean() / mu[0] - 1) < 1e-10
    assert_allclose(draws.std(), np.sqrt(mu[0]), rtol=0.05)


@pytest.mark.parametrize("psi", [[0.4, 0.4, 1.0], [0.4, 0.1, 1.0]])
@pytest.mark.parametrize("link", ["logit", "probit"])
def test_cutpoints_that_do_not_increase_have_no_density(link, psi):
    family, y, eta = family_of("ordinal", link, categories=4), np.arange(4.0), np.zeros(4)
    value, *others = family.derivatives(y, eta, np.array(psi))
    assert np.all(value == -np.inf)
    assert not np.any(others)
    assert not np.any(family.in_parameters(y, eta, np.array(psi)))


def test_two_ordered_categories_are_bernoulli():
    y = np.array([0.0, 1, 1, 0, 1, 0])
    for link in ("logit", "probit"):
        two = family_of("ordinal", link, categories=2).derivatives(y, ETA, np.zeros(1))
        for one, other in zip(two, family_of("bernoulli", link).derivatives(y, ETA, NONE), strict=True):
            assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(("family", "psi"), CASES)
def test_a_search_starts_where_the_density_is_finite_and_near_the_parameters(family, psi):
    rng = np.random.default_rng(8)
    large = family.of_rows(np.full(4000, 5.0)) if family.name == "binomial" else family
    y = large.draw(np.full(4000, 0.8), psi, rng)
    eta, found = large.start(y)
    assert np.isfinite(large.log_density(y, eta, found)).all()
    if family.name == "ordinal":
        assert_allclose(found, psi - 0.8, atol=0.15)
    else:
        assert_allclose(found, psi, atol=0.1)
    for constant in (np.zeros(5), np.ones(5)):
        if not (family.name == "gamma" and constant[0] == 0):
            few = large.of_rows(np.full(5, 5.0)) if family.name == "binomial" else family
            eta, found = few.start(constant)
            assert np.isfinite(few.log_density(constant, eta, found)).all()
            assert np.all((found >= few.lower) & (found <= few.upper))
