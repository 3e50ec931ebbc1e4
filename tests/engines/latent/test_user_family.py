"""A family that the user writes: derivatives by automatic differentiation, copies, and what is refused."""

import copy
import pickle

import cloudpickle
import numpy as np
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import t as student

from pm_fastlmm.engines.latent.user_family import CustomFamily
from pm_fastlmm.families.choice import family_of
from pm_fastlmm.families.scales import data_scale

NONE = np.zeros(0)
RNG = np.random.default_rng(4)
ETA = np.linspace(-2, 3, 9)


def poisson(y, eta):
    return y * eta - pt.exp(eta) - pt.gammaln(y + 1)


def negative_binomial(y, eta, dispersion):
    alpha, mu = 1 / dispersion, pt.exp(eta)
    rising = pt.gammaln(y + alpha) - pt.gammaln(alpha) - pt.gammaln(y + 1)
    return rising + alpha * pt.log(alpha / (alpha + mu)) + y * pt.log(mu / (alpha + mu))


def student_t(y, eta, nu, sigma):
    z = (y - eta) / sigma
    constant = pt.gammaln((nu + 1) / 2) - pt.gammaln(nu / 2) - 0.5 * pt.log(np.pi * nu) - pt.log(sigma)
    return constant - (nu + 1) / 2 * pt.log1p(z**2 / nu)


def of_student_t(**given):
    return CustomFamily(student_t, {"nu": (1, np.inf, 4), "sigma": (0, np.inf, 1)}, name="t", **given)


def test_a_poisson_family_is_the_built_in_one():
    n, eta = ETA.size, ETA
    y = RNG.poisson(np.exp(eta)).astype(float)
    family, built_in = CustomFamily(poisson, concave=True), family_of("poisson")
    for found, wanted in zip(family.derivatives(y, eta, NONE), built_in.derivatives(y, eta, NONE), strict=True):
        assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
    assert_allclose(family.log_density(y, eta, NONE), built_in.log_density(y, eta, NONE), rtol=1e-12)
    assert family.parameters == ()
    assert family.lower.shape == family.upper.shape == (0,)
    assert [part.shape for part in family.in_parameters(y, eta, NONE)] == [(0, n)] * 3


def test_a_negative_binomial_family_has_the_derivatives_in_its_parameter():
    y, psi = RNG.poisson(3, 9).astype(float), np.array([0.7])
    family = CustomFamily(negative_binomial, {"dispersion": (0, np.inf, 0.5)})
    built_in = family_of("negative_binomial")
    for function in ("derivatives", "in_parameters"):
        found, wanted = getattr(family, function)(y, ETA, psi), getattr(built_in, function)(y, ETA, psi)
        for one, other in zip(found, wanted, strict=True):
            assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_t_distribution_has_its_derivatives_where_it_is_not_concave():
    family, psi = of_student_t(), np.array([3.5, 0.6])
    y = np.array([-9.0, -2, -1.9, 0.1, 0.5, 1.2, 1.8, 3, 40])
    value, first, second, third = family.derivatives(y, ETA, psi)
    assert_allclose(value, student.logpdf(y, psi[0], ETA, psi[1]), rtol=1e-12)
    assert (second > 0).any()
    assert not family.concave
    r, nu, s = y - ETA, psi[0], psi[1]
    q = nu * s**2 + r**2
    assert_allclose(first, (nu + 1) * r / q, rtol=1e-12)
    assert_allclose(second, (nu + 1) * (r**2 - nu * s**2) / q**2, rtol=1e-11)
    assert_allclose(third, (nu + 1) * 2 * r * (r**2 - 3 * nu * s**2) / q**3, rtol=1e-11)
    for k, step in enumerate(np.eye(2) * 1e-5):
        ahead, behind = (family.derivatives(y, ETA, psi + sign * step)[:3] for sign in (1, -1))
        for found, one, other in zip(family.in_parameters(y, ETA, psi), ahead, behind, strict=True):
            assert_allclose(found[k], (one - other) / 2e-5, rtol=1e-6, atol=1e-8)


def test_leading_axes_are_those_of_draws():
    family, y = of_student_t(), RNG.normal(size=9)
    etas, psis = ETA + RNG.normal(size=(3, 2, 9)), np.array([4.0, 1.0]) + RNG.uniform(size=(3, 2, 2))
    found = family.log_density(y, etas, psis)
    assert_allclose(found, student.logpdf(y, psis[..., [0]], etas, psis[..., [1]]), rtol=1e-12)


def test_means_and_draws_are_functions_that_are_given():
    family = of_student_t(
        mean=lambda eta, nu, sigma: eta,
        variance=lambda eta, nu, sigma: sigma**2 * nu / (nu - 2),
        draw=lambda eta, rng, nu, sigma: eta + sigma * rng.standard_t(nu, size=np.shape(eta)),
    )
    psi = np.array([6.0, 0.5])
    assert_array_equal(family.mean(ETA, psi), ETA)
    assert_allclose(family.variance(np.zeros((4, 9)), np.tile(psi, (4, 1))), np.full((4, 9), 0.375))
    draws = family.draw(np.broadcast_to(ETA, (20_000, 9)), psi, np.random.default_rng(1))
    assert_allclose(draws.mean(axis=0), ETA, atol=5 * np.sqrt(0.375 / 20_000))
    for what, call in (
        ("mean=, a function mean\\(eta, nu, sigma\\)", lambda f: f.mean(ETA, psi)),
        ("variance=", lambda f: f.variance(ETA, psi)),
        ("draw=, a function draw\\(eta, rng, nu, sigma\\)", lambda f: f.draw(ETA, psi, RNG)),
    ):
        with pytest.raises(ValueError, match=f"family 't' was given without .*: predictions of y need {what}"):
            call(of_student_t())


def test_heritability_of_data_needs_the_mean_and_the_variance():
    given = {"mean": lambda eta: np.exp(eta), "variance": lambda eta: np.exp(eta)}
    scale, wanted = (data_scale(f, NONE, ETA, 0.8) for f in (CustomFamily(poisson, **given), family_of("poisson")))
    for one, other in zip(scale.heritability(0.3), wanted.heritability(0.3), strict=True):
        assert one is other is None or abs(one - other) < 1e-12
    with pytest.raises(ValueError, match="was given without mean="):
        data_scale(CustomFamily(poisson), NONE, ETA, 0.8)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_compute_the_same(copied):
    family, psi = of_student_t(concave=False, link="identity"), np.array([4.0, 1.0])
    before = family.derivatives(ETA[::-1], ETA, psi)
    other = copied(family)
    assert_array_equal(other.derivatives(ETA[::-1], ETA, psi), before)
    assert (other.name, other.link, other.parameters) == ("t", "identity", ("nu", "sigma"))
    assert repr(other) == "CustomFamily('t', parameters=['nu', 'sigma'])"


def test_functions_without_a_name_are_kept_by_cloudpickle():
    family = CustomFamily(lambda y, eta: -0.5 * (y - eta) ** 2)
    other = cloudpickle.loads(cloudpickle.dumps(family))
    assert_array_equal(other.derivatives(ETA, 0 * ETA, NONE), family.derivatives(ETA, 0 * ETA, NONE))


def test_a_quadratic_density_has_no_third_derivative():
    family = CustomFamily(lambda y, eta: -0.5 * (y - eta) ** 2)
    _, first, second, third = family.derivatives(ETA, np.zeros(9), NONE)
    assert_array_equal([first, second, third], [ETA, -np.ones(9), np.zeros(9)])


def test_a_search_starts_at_the_most_likely_constant():
    family, y = of_student_t(), np.full(50, 1e3) + RNG.normal(size=50)
    eta, psi = family.start(y)
    assert abs(eta[0] - 1e3) < 0.5
    assert_array_equal(psi, [4, 1])
    assert_array_equal(family.read([1.0, np.nan, 3.0]), [1.0, np.nan, 3.0])
    assert np.isnan(family.read([np.nan])).all()
    assert family_of(family) is family


def test_what_is_refused():
    with pytest.raises(
        ValueError, match="name='poisson' is a family that there is, of which more is known: give another"
    ):
        CustomFamily(poisson, name="poisson")
    positive = CustomFamily(lambda y, eta: pt.switch(y > 0, -y * pt.exp(eta) + eta, -np.inf), name="waiting")
    with pytest.raises(
        ValueError, match=r"log_density of family 'waiting' is -inf for y = -2 in row 1 at η = .* outside"
    ):
        positive.read([1.0, -2.0])
    across = CustomFamily(lambda y, eta: -0.5 * (y - eta + eta.mean()) ** 2)
    with pytest.raises(ValueError, match="densities that depend on η of other rows: each row's may depend on its own"):
        across.read(ETA)
    with pytest.raises(ValueError, match="must return a vector, the log-density of each row, got 0 dimensions"):
        CustomFamily(lambda y, eta: (y - eta).sum()).derivatives(ETA, ETA, NONE)
    with pytest.raises(
        ValueError, match="cannot be called 'eta': it is an argument of log_density, an identifier other"
    ):
        CustomFamily(poisson, {"eta": (0, 1, 0.5)})
    with pytest.raises(ValueError, match="parameter 'nu' starts at 4, which is not between its bounds 5 and inf: give"):
        CustomFamily(poisson, {"nu": (5, np.inf, 4)})
    with pytest.raises(
        ValueError, match=r"parameter 'nu' must be \(lower, upper, start\), three numbers, got \(0, 1\)"
    ):
        CustomFamily(poisson, {"nu": (0, 1)})
