"""Hessians of models: central differences of the gradient, for every node and treatment of β that has them."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

B = np.array([[2.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.9]])
b = np.array([1.0, -2.0, 0.5])


def fixed(scale):
    return {"beta": b}


def random_beta(scale):
    return {"beta": pm.Normal("beta", 0, 2, shape=3)}


def gaussian(scale):
    return {"beta_mean": b, "beta_cov": B}


def gaussian_with_parameters(scale):
    return {"beta_mean": pm.Normal("centre", 0, 1, shape=3), "beta_cov": scale**2 * B}


def flat_with_a_mean(scale):
    return {"mu": scale * np.cos(np.arange(14))}


TREATMENTS = {
    "flat": lambda scale: {}, "mu": flat_with_a_mean, "explicit": fixed, "random": random_beta,
    "Gaussian": gaussian, "Gaussian with parameters": gaussian_with_parameters,
}  # fmt: skip


def fast_lmm(p, variances, treatment):
    g, e = variances
    flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=g, sigma2_e=e, observed=p.y, **treatment)


def rotated(p, variances, treatment):
    g, e = variances
    flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=g, sigma2_e=e, observed=p.spectrum.rotate(p.y), **treatment)


def one_kernel(p, variances, treatment):
    g, e = variances
    term = flmm.Term(p.W, flmm.covariance.scalar(g))
    flmm.StructuredLMM("y", terms=[term], X=p.X, sigma2_e=e, observed=p.y, **treatment)


def model_of(node, p, treatment):
    with pm.Model() as model:
        variances = pm.Gamma("g", 2, 1), pm.Gamma("e", 2, 1)
        scale = pm.Gamma("scale", 3, 2)
        node(p, variances, treatment(scale))
    return model


def derivatives(model):
    """Compile the gradient and its own gradient along a direction; return them, a point and the direction."""
    values = model.value_vars
    rng = np.random.default_rng(3)
    point = [value + 0.3 * rng.normal(size=np.shape(value)) for value in model.initial_point().values()]
    direction = [rng.normal(size=np.shape(value)) for value in point]
    gradient = pt.grad(model.logp(), values)
    along = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    function = pytensor.function(values, [*gradient, *pt.grad(along, values)], mode=AS_WRITTEN)
    return function, point, direction


def assert_second_is_the_derivative_of_first(model):
    function, point, direction = derivatives(model)
    ends = [function(*(x + sign * 1e-5 * d for x, d in zip(point, direction, strict=True))) for sign in (1, -1)]
    second = function(*point)[len(point) :]
    scale = max(np.abs(s).max() for s in second)
    for found, up, down in zip(second, *ends, strict=False):
        assert_allclose(found, (up - down) / 2e-5, rtol=1e-6, atol=1e-7 * scale)


@pytest.fixture(scope="module")
def p(build):
    return build("factor", n=14)  # K has a null space


NODES = {"FastLMM": fast_lmm, "statistic": rotated, "StructuredLMM": one_kernel}
CASES = [(node, treatment) for node in NODES for treatment in TREATMENTS if (node, treatment) != ("statistic", "mu")]


@pytest.mark.parametrize(("node", "treatment"), CASES)
def test_the_second_derivative_is_that_of_the_gradient(p, node, treatment):
    assert_second_is_the_derivative_of_first(model_of(NODES[node], p, TREATMENTS[treatment]))


@pytest.mark.usefixtures("as_written")
def test_find_hessian_of_a_model_with_explicit_coefficients_is_that_of_the_density(p):
    """At g = e = 1 fixed, the Hessian in β is -XᵀV⁻¹X, less that of the prior."""
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 2, shape=3)
        flmm.FastLMM("y", spectrum=p.spectrum, sigma2_g=1.0, sigma2_e=1.0, beta=beta, observed=p.y)
    hessian = pm.find_hessian(model.initial_point(), model=model, negate_output=False)
    assert_allclose(hessian, -p.X.T @ np.linalg.solve(p.dense.V(1.0, 1.0), p.X) - np.eye(3) / 4, rtol=1e-8)


def several_terms(p, variances, treatment):
    g, e = variances
    group = flmm.Term(np.arange(p.n) % 4, flmm.covariance.scalar(pm.HalfNormal("v")), name="group")
    terms = [flmm.Term(p.W, flmm.covariance.scalar(g)), group]
    flmm.StructuredLMM("y", terms=terms, X=p.X, sigma2_e=e, observed=p.y, **treatment)


def dense(p, variances, treatment):
    g, e = variances
    flmm.DenseLMM("y", V=g * p.K + e * np.eye(p.n), X=p.X, observed=p.y, **treatment)


def with_lengthscale(p, variances, treatment):
    g, e = variances
    x = np.linspace(0, 1, p.n)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(x, lengthscale=(0.1, 1), X=p.X, progressbar=False)
    ell = pm.Uniform("ell", 0.2, 0.8)
    flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=p.y)


def fourier(p, variances, treatment):
    g, e = variances
    basis = flmm.FourierBasis(lengthscale=(0.2, 1.0), domain=(0, 1), n=p.n, noise_ratio_min=0.1)
    statistics = flmm.FourierStatistics.from_arrays(basis, np.linspace(0, 1, p.n), p.y, np.ones(p.n))
    flmm.FourierLMM("y", statistics=statistics, lengthscale=pm.Uniform("ell", 0.3, 0.8), sigma2=g, sigma2_e=e)


@pytest.mark.parametrize(
    ("node", "treatment"),
    [(several_terms, "flat"), (several_terms, "random"), (several_terms, "Gaussian"), (several_terms, "mu"),
     (dense, "flat"), (dense, "random"), (dense, "Gaussian with parameters"),
     (with_lengthscale, "flat"), (fourier, "flat")],
)  # fmt: skip
def test_likelihoods_without_second_derivatives_say_so_and_what_does_without(build, node, treatment):
    model = model_of(node, build("factor", n=14), TREATMENTS[treatment])
    with pytest.raises(NotImplementedError, match=r"first derivatives only, and no Hessian: flmm\.find_reml\(model\)"):
        derivatives(model)
