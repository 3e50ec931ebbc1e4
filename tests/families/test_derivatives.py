"""log p and its derivatives in η and ψ, against forty digits, far out and in the limits of the parameters."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.families.choice import family_of

_SPEC = importlib.util.spec_from_file_location("exact", Path(__file__).with_name("exact.py"))
exact = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(exact)

NONE = np.zeros(0)
FAR = np.array([-40, -17.3, -8.0, -3.01, -2.99, -1.2, -0.4, 0.0, 0.3, 1.7, 2.99, 3.01, 9.5, 22.0, 36.0])
LOG = np.array([-40, -9.0, -3.0, -0.7, 0.0, 0.4, 1.9, 4.2, 12.0, 60.0])


def require(found, wanted, rtol, scale=0.0):
    """Compare (orders, n) relative to each number, beyond what rounding of larger terms leaves."""
    for order, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert_allclose(one, other, rtol=rtol, atol=scale, err_msg=f"order {order}")


def in_eta(log_density, y, eta, psi=NONE):
    return np.array([exact.in_eta(log_density, a, b, psi) for a, b in zip(y, eta, strict=True)]).T


def in_psi(log_density, y, eta, psi, which):
    return np.array([exact.in_psi(log_density, a, b, psi, which) for a, b in zip(y, eta, strict=True)]).T


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_bernoulli(link, y):
    eta = FAR if link != "cloglog" or y == 1 else FAR[FAR < 10]
    if link == "probit":
        eta = np.append(eta, [-40.0, 40.0, 37.0])
    ys = np.full(eta.size, y)
    found = family_of("bernoulli", link).derivatives(ys, eta, NONE)
    require(found, in_eta(exact.binomial(link), ys, eta), 1e-12, 1e-40 if link == "logit" else 1e-300)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_binomial(link):
    eta = np.repeat([-6.0, -0.5, 0.9, 2.5], 3)
    y, trials = np.tile([0.0, 3.0, 12.0], 4), np.tile([5.0, 9.0, 12.0], 4)
    found = family_of("binomial", link, trials=trials).derivatives(y, eta, NONE)
    wanted = [exact.in_eta(exact.binomial(link, int(m)), a, e) for a, e, m in zip(y, eta, trials, strict=True)]
    require(found, np.array(wanted).T, 1e-12)


def test_poisson():
    for y in (0.0, 1.0, 17.0):
        ys = np.full(LOG.size, y)
        require(family_of("poisson").derivatives(ys, LOG, NONE), in_eta(exact.poisson, ys, LOG), 1e-13, 1e-13)


@pytest.mark.parametrize("phi", [0.0, 1e-300, 1e-14, 1e-9, 1e-5, 0.003, 0.099, 0.101, 0.7, 5.0, 1e3])
@pytest.mark.parametrize("y", [0.0, 1.0, 2.0, 60.0])
def test_negative_binomial(phi, y):
    psi, ys = np.array([phi]), np.full(LOG.size, y)
    family = family_of("negative_binomial")
    scale = 1e-13 * max(y * np.log(y + 1), 1)
    require(family.derivatives(ys, LOG, psi), in_eta(exact.negative_binomial, ys, LOG, psi), 1e-12, scale)


@pytest.mark.parametrize("phi", [1e-14, 1e-9, 1e-5, 0.003, 0.099, 0.101, 0.7, 5.0, 1e3])
@pytest.mark.parametrize("y", [0.0, 1.0, 2.0, 60.0])
def test_negative_binomial_in_its_dispersion(phi, y):
    psi, ys = np.array([phi]), np.full(LOG.size, y)
    found = [part[0] for part in family_of("negative_binomial").in_parameters(ys, LOG, psi)]
    wanted = in_psi(exact.negative_binomial, ys, LOG, psi, 0)
    for order, (one, other) in enumerate(zip(found, wanted, strict=True)):
        size = np.exp(2 * LOG) * min(1, 1 / phi) + y**2  # of terms that cancel where y = μ
        assert np.all(np.abs(one - other) <= 1e-12 * np.abs(other) + 1e-13 * size), order


@pytest.mark.parametrize("y", [0.0, 1.0, 4.0, 900.0])
def test_a_negative_binomial_without_dispersion_is_poisson_and_smooth_there(y):
    eta, ys = np.linspace(-3, 7, 9), np.full(9, y)
    family, zero = family_of("negative_binomial"), np.zeros(1)
    for one, other in zip(
        family.derivatives(ys, eta, zero), family_of("poisson").derivatives(ys, eta, NONE), strict=True
    ):
        assert_allclose(one, other, rtol=1e-13)
    mu = np.exp(eta)
    value, first, second = (part[0] for part in family.in_parameters(ys, eta, zero))
    assert_allclose(value, ((y - mu) ** 2 - y) / 2, rtol=1e-12, atol=1e-10 * (y + 1))
    assert_allclose(first, -(y - mu) * mu, rtol=1e-12)
    assert_allclose(second, -mu * (y - 2 * mu), rtol=1e-12)


@pytest.mark.parametrize("phi", [1e-10, 1e-4, 0.02, 0.099, 0.101, 0.8, 6.0])
def test_gamma(phi):
    psi, family = np.array([phi]), family_of("gamma")
    eta = np.repeat([-30.0, -2.0, 0.0, 0.5, 8.0], 3)
    y = np.exp(eta) * np.tile([0.3, 1.0 + np.sqrt(phi) / 4, 2.5], 5)
    require(family.derivatives(y, eta, psi), in_eta(exact.gamma, y, eta, psi), 1e-13, 1e-14 / phi * 40)
    found = [part[0] for part in family.in_parameters(y, eta, psi)]
    require(found, in_psi(exact.gamma, y, eta, psi, 0), 1e-12, 1e-14 / phi**2 * 40)


CUTPOINTS = {
    "usual": [-1.2, 0.1, 2.3],
    "near": [-0.3, -0.3 + 1e-3, 2.3],
    "together": [-0.3, -0.3 + 2**-40, 0.9],
    "wide": [-25.0, -3.0, 18.0],
}


@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize("cutpoints", CUTPOINTS)
def test_ordinal(link, cutpoints):
    psi, family = np.array(CUTPOINTS[cutpoints]), family_of("ordinal", link, categories=4)
    eta = np.repeat([-38.0, -6.0, -1.1, -0.2, 0.05, 3.3, 21.0], 4)
    y = np.tile(np.arange(4.0), 7)
    of_density = exact.ordinal(link, 4)
    require(family.derivatives(y, eta, psi), in_eta(of_density, y, eta, psi), 1e-11, 1e-14)
    found = family.in_parameters(y, eta, psi)
    for which in range(3):
        end = (y == which) | (y == which + 1)  # categories that the cutpoint bounds
        wanted = in_psi(of_density, y[end], eta[end], psi, which)
        for order, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_allclose(one[which, end], other, rtol=1e-11, atol=1e-14, err_msg=f"{which} {order}")
            assert not one[which, ~end].any()
