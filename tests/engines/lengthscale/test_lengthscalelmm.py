"""LengthscaleLMM: its density, draws and place in a model, and what it refuses."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose
from pymc.model.transform.optimization import freeze_dims_and_data

import pm_fastlmm as flmm
from pm_fastlmm.engines.lengthscale.node import LengthscaleNode


@pytest.fixture(scope="module")
def example(lengthscales):
    return lengthscales.Example()


@pytest.fixture(scope="module")
def model(example):
    return example.model()


def test_logp_is_the_restricted_likelihood_to_the_tolerance(example, oracle):
    for ell, g, e in [(0.1, 1.0, 0.3), (0.4, 2.0, 0.1), (1.2, 0.4, 1.0)]:
        node = flmm.LengthscaleLMM.dist(spectrum=example.spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e)
        exact = oracle.Dense(example.K(ell), example.X, example.y, g, e).loglik_reml
        assert_allclose(pm.logp(node, example.y).eval(mode=AS_WRITTEN), exact, atol=1e-4 * abs(exact))


@pytest.mark.parametrize(
    "pair", [{"sigma2_g": 1.2, "sigma2_e": 0.3}, {"sigma2": 1.2, "delta": 0.25}, {"h2": 0.8, "total": 1.5}]
)
def test_the_three_pairs_of_variances_say_the_same(example, pair):
    node = flmm.LengthscaleLMM.dist(spectrum=example.spectrum, lengthscale=0.3, **pair)
    expected = example.spectrum.rotate(example.y).loglik(0.3, 1.2, 0.3)
    assert_allclose(pm.logp(node, example.y).eval(mode=AS_WRITTEN), expected, rtol=1e-12)


@pytest.mark.usefixtures("as_written")
def test_the_gradient_of_the_model_is_that_of_differences(model):
    function = model.logp_dlogp_function(ravel_inputs=True)
    function.set_extra_values({})
    x = np.array([0.2, 0.3, -0.5])
    _, gradient = function(x)
    for i, step in enumerate(1e-6 * np.eye(3)):
        assert_allclose(gradient[i], (function(x + step)[0] - function(x - step)[0]) / 2e-6, rtol=1e-5, atol=1e-5)


def test_the_density_is_zero_outside_the_range(example):
    node = flmm.LengthscaleLMM.dist(spectrum=example.spectrum, lengthscale=3.0, sigma2_g=1, sigma2_e=1)
    assert pm.logp(node, example.y).eval(mode=AS_WRITTEN) == -np.inf
    node = flmm.LengthscaleLMM.dist(spectrum=example.spectrum, lengthscale=-1.0, sigma2_g=1, sigma2_e=1)
    assert pm.logp(node, example.y).eval(mode=AS_WRITTEN) == -np.inf


@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_draws_are_error_contrasts_with_the_covariance_of_the_model(example):
    node = flmm.LengthscaleLMM.dist(spectrum=example.spectrum, lengthscale=0.3, sigma2_g=1.5, sigma2_e=0.4)
    draws = pm.draw(node, draws=5000, random_seed=1)
    M = np.eye(example.n) - example.spectrum.projection.Q1 @ example.spectrum.projection.Q1.T
    variance = np.diag(M @ (1.5 * example.K(0.3) + 0.4 * np.eye(example.n)) @ M)
    assert_allclose(draws.var(axis=0), variance, rtol=6 * np.sqrt(2 / 5000))
    assert_allclose(draws @ example.X, 0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_predictive_draws_follow_the_draws_of_the_lengthscale(model, example):
    with model:
        prior = pm.sample_prior_predictive(20, random_seed=3, compile_kwargs={"mode": AS_WRITTEN})
    assert prior.prior_predictive["y"].shape == (1, 20, example.n)
    assert_allclose(prior.prior_predictive["y"].to_numpy() @ example.X, 0, atol=1e-9)


def test_the_node_is_found_in_the_model_and_in_its_copies(model, example):
    for each in (model, freeze_dims_and_data(model), pm.do(model, {"e": 0.3})):
        (node,) = flmm.lmm_nodes(each)
        assert isinstance(node, LengthscaleNode)
        assert node.spectrum is example.spectrum
        assert (node.name, node.treatment, node.n) == ("y", "flat", example.n)
        assert_allclose(node.observed, example.y)


def test_data_containers_and_series_are_taken(example):
    with pm.Model() as model:
        data = pm.Data("data", example.y)
        flmm.LengthscaleLMM(
            "y", spectrum=example.spectrum, lengthscale=0.3, sigma2_g=1, sigma2_e=pm.HalfNormal("e"), observed=data
        )
    labelled = flmm.LengthscaleSpectrum.from_coordinates(
        pd.Series(example.x, [f"i{j}" for j in range(example.n)]), lengthscale=(0.1, 1), X=example.X, progressbar=False
    )
    shuffled = pd.Series(example.y, labelled.ids).sample(frac=1, random_state=1)
    with pm.Model() as by_id:
        flmm.LengthscaleLMM(
            "y", spectrum=labelled, lengthscale=0.3, sigma2_g=1, sigma2_e=pm.HalfNormal("e"), observed=shuffled
        )
    point = {"e_log__": np.log(0.2)}
    assert_allclose(model.compile_logp(mode=AS_WRITTEN)(point), by_id.compile_logp(mode=AS_WRITTEN)(point), rtol=1e-4)
    model.set_data("data", example.y + example.X @ [1.0, 2.0])
    assert_allclose(model.compile_logp(mode=AS_WRITTEN)(point), by_id.compile_logp(mode=AS_WRITTEN)(point), rtol=1e-4)


@pytest.mark.parametrize(
    ("prior", "reached"),
    [
        (lambda: pm.HalfNormal("ell", 1), "from 0 to inf"),
        (lambda: pm.Uniform("ell", 0.05, 1), "from 0.05 to 1"),
        (lambda: pm.math.exp(pm.Normal("log_ell")), "from 0 to inf"),
        (lambda: pm.Uniform("ell", 0.05, 1, shape=2)[0], "from 0.05 to 1"),
        (lambda: pm.LogNormal("ell", pm.Normal("centre"), 1), "from 0 to inf"),
        (lambda: 2.0, "2,"),
    ],
)
def test_a_prior_that_reaches_outside_the_range_is_refused(example, prior, reached):
    with (
        pm.Model(),
        pytest.raises(ValueError, match=rf"lengthscale of y is {reached}.*outside .*pm.Truncated\(\.\.\., lower=0.08"),
    ):
        flmm.LengthscaleLMM(
            "y", spectrum=example.spectrum, lengthscale=prior(), sigma2_g=1, sigma2_e=1, observed=example.y
        )


def test_priors_inside_the_range_are_taken(example):
    low, high = example.spectrum.lengthscale
    with pm.Model() as model:
        free = {
            "uniform": pm.Uniform("uniform", low, high),
            "log": pm.math.exp(pm.Uniform("log", np.log(low), np.log(high))),
            "beta": low + (high - low) * pm.Beta("beta", 2, 2),
            "vector": pm.Uniform("vector", low, high, shape=2)[1],
            "hierarchy": pm.Truncated("hierarchy", pm.LogNormal.dist(pm.Normal("centre"), 1), lower=low, upper=high),
            "simplex": 0.3 + pm.Dirichlet("simplex", np.ones(2))[0],
        }
        for name, ell in free.items():
            flmm.LengthscaleLMM(
                f"y_{name}", spectrum=example.spectrum, lengthscale=ell, sigma2_g=1, sigma2_e=1, observed=example.y
            )
    assert len(flmm.lmm_nodes(model)) == 6


def test_a_tolerance_that_is_not_reached_is_an_error_when_the_node_is_built(example):
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(
        example.x[:20], "se", lengthscale=(0.01, 10), delta=(1e-9, 1), tolerance=1e-15, progressbar=False
    )
    with pm.Model(), pytest.raises(ValueError, match=r"the likelihood is off by .* with 257 lengthscales"):
        flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=1.0, sigma2_g=1, sigma2_e=1, observed=example.y[:20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengthscale": None}, "lengthscale is missing"),
        ({"sigma2_e": None}, "exactly one pair of variance parameters"),
        ({"sigma2_e": np.ones(2)}, "variances must be scalars, got 1 dimensions"),
        ({"lengthscale": np.ones(2)}, "lengthscale must be scalars"),
        ({"observed": None}, "no observed data: give observed="),
        ({"observed": np.ones(3)}, "observed has shape"),
    ],
)
def test_bad_input_is_refused(example, change, message):
    good = {"lengthscale": 0.3, "sigma2_g": 1, "sigma2_e": 1, "observed": example.y}
    with pm.Model(), pytest.raises(ValueError, match=message):
        flmm.LengthscaleLMM("y", spectrum=example.spectrum, **(good | change))


def test_shares_of_variance_need_a_mean_diagonal_that_does_not_change(example):
    growing = flmm.LengthscaleSpectrum.from_function(
        lambda v: v * example.K(v), (0.1, 1), progressbar=False, delta=(1e-2, 10)
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"the mean diagonal of K changes with the lengthscale"):
        flmm.LengthscaleLMM.dist(spectrum=growing, lengthscale=0.3, h2=0.5, total=1.0)


def test_other_arguments_and_spectra_are_refused(example):
    with pytest.raises(TypeError, match="LengthscaleLMM takes no argument beta"):
        flmm.LengthscaleLMM.dist(spectrum=example.spectrum, lengthscale=0.3, sigma2_g=1, sigma2_e=1, beta=1)
    with pytest.raises(TypeError, match="spectrum must be a LengthscaleSpectrum, got Spectrum"):
        flmm.LengthscaleLMM.dist(spectrum=example.spectrum.at(0.3), lengthscale=0.3, sigma2_g=1, sigma2_e=1)
