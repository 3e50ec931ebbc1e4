"""PyMC's own draws of a node with a flat β are error contrasts, and say so once a call; nothing else does."""

import re
import warnings

import arviz as az
import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.engines.graphs import INTERPRETED

COMPILED = {"compile_kwargs": {"mode": INTERPRETED}}
MESSAGE = r"draws of y are error contrasts.*flmm\.predict\(idata, model=model\)"
GROUP, DAY = np.repeat(list("abcd"), 3), np.tile(list("xyz"), 4)
X = np.column_stack([np.ones(12), np.arange(12.0)])
Y = 3 + np.sin(np.arange(12.0))


def spectral(X=X, **kwargs):
    spectrum = flmm.Spectrum.from_factor(flmm.covariance.incidence(GROUP).Z.toarray(), X)
    flmm.FastLMM("y", spectrum=spectrum, sigma2_g=pm.HalfNormal("g"), sigma2_e=pm.HalfNormal("e"), observed=Y, **kwargs)


def structured(X=X, **kwargs):
    scalar = flmm.covariance.scalar
    terms = [flmm.Term(GROUP, scalar(pm.HalfNormal("g")), name="group"), flmm.Term(DAY, scalar(1.0), name="day")]
    flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("e"), observed=Y, **kwargs)


def dense(X=X, **kwargs):
    V = flmm.covariance.ar1(pm.HalfNormal("g"), 0.5, size=12).dense() + pm.HalfNormal("e") * np.eye(12)
    flmm.DenseLMM("y", X=X, V=V, observed=Y, **kwargs)


def with_lengthscale(X=X):
    x = np.linspace(0, 1, 12)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(x, lengthscale=(0.2, 1), X=X, progressbar=False)
    variances = {"sigma2_g": pm.HalfNormal("g"), "sigma2_e": pm.HalfNormal("e")}
    flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=0.5, observed=Y, **variances)


NODES = [spectral, structured, dense, with_lengthscale]
with_beta = pytest.mark.parametrize("node", [spectral, structured, dense])
every_node = pytest.mark.parametrize("node", NODES)
POSTERIOR = az.from_dict({"posterior": {"g": np.ones((1, 3)), "e": np.ones((1, 3))}})


def model_of(node, **kwargs):
    with pm.Model() as model:
        node(**kwargs)
    return model


WAYS = {
    "prior": lambda model: pm.sample_prior_predictive(3, model=model, random_seed=1, **COMPILED).prior_predictive,
    "posterior": lambda model: (
        pm.sample_posterior_predictive(
            POSTERIOR, model=model, random_seed=1, progressbar=False, **COMPILED
        ).posterior_predictive
    ),
    "draw": lambda model: {"y": pm.draw(model["y"], 3, random_seed=1, mode=INTERPRETED)},
}


@every_node
@pytest.mark.parametrize("way", WAYS)
def test_draws_of_contrasts_warn_once_where_they_were_asked_for(node, way):
    model = model_of(node)
    with pytest.warns(UserWarning, match=MESSAGE) as caught:
        draws = np.asarray(WAYS[way](model)["y"])
    assert [w.filename for w in caught] == [__file__]
    np.testing.assert_allclose(draws @ X, 0, atol=1e-9)  # they are what they were


@every_node
def test_the_call_that_the_warning_names_works_as_printed(node):
    model, idata = model_of(node), POSTERIOR.copy()
    with pytest.warns(UserWarning, match=MESSAGE) as caught:
        WAYS["draw"](model)
    call = re.search(r"flmm\.predict\(.*?\)", str(caught[0].message))[0]
    if node is dense:  # whose y has no prediction but replicates
        call = call.replace("model=", "effects='new', model=")
    draws = eval(call, {"flmm": flmm, "idata": idata, "model": model}).posterior_predictive["y"].to_numpy()
    assert np.isfinite(draws).all()
    assert np.abs(draws @ X).min() > 1e-3


def test_a_second_call_warns_as_the_first(recwarn):
    model = model_of(spectral)
    warnings.simplefilter("always")
    for _ in range(2):
        WAYS["draw"](model)
    assert len(recwarn) == 2


@with_beta
@pytest.mark.parametrize("kwargs", [{"beta": [1.0, 2.0]}, {"beta_cov": np.eye(2)}, {"X": None}])
def test_draws_of_y_do_not_warn(node, kwargs, recwarn):
    WAYS["prior"](model_of(node, **kwargs))
    assert not recwarn.list


def test_draws_of_a_statistic_do_not_warn(recwarn):
    spectrum = flmm.Spectrum.from_factor(flmm.covariance.incidence(GROUP).Z.toarray(), X)
    basis = flmm.FourierBasis(lengthscale=(0.2, 1.0), domain=(0, 1), n=12, noise_ratio_min=0.1)
    with pm.Model() as model:
        flmm.FastLMM("y", spectrum=spectrum, sigma2_g=1.0, sigma2_e=1.0, observed=spectrum.rotate(Y))
        statistics = flmm.FourierStatistics.from_arrays(basis, np.linspace(0, 1, 12), Y, np.ones(12))
        flmm.FourierLMM("f", statistics=statistics, lengthscale=0.5, sigma2=1.0, sigma2_e=1.0)
    pm.sample_prior_predictive(3, model=model, random_seed=1, **COMPILED)
    assert not recwarn.list


@every_node
def test_densities_and_graphs_do_not_warn(node, recwarn):
    model = model_of(node)
    model.compile_logp(mode=INTERPRETED)(model.initial_point())
    pm.compute_log_likelihood(POSTERIOR, model=model, extend_inferencedata=False, progressbar=False, **COMPILED)
    pm.model_to_mermaid(model)
    pm.model_to_graphviz(model)
    model["y"].shape.eval(mode=INTERPRETED)
    pm.draw(model["g"], 3, mode=INTERPRETED)
    assert not recwarn.list


@pytest.mark.usefixtures("as_written")
def test_sampling_and_this_packages_own_draws_do_not_warn(recwarn):
    model = model_of(spectral)
    idata = flmm.sample(20, tune=20, chains=1, model=model, random_seed=1, progressbar=False, quiet=True, cores=1)
    for effects in ("given", "new", "left_out"):
        flmm.predict(idata, effects=effects, model=model)
    flmm.recover_effects(idata, model=model)
    flmm.pointwise_log_likelihood(idata, model=model, progressbar=False)
    options = {"chains": 1, "cores": 1, "progressbar": False, "quiet": True, "compute_convergence_checks": False}
    pm.sample(10, tune=10, model=model, nuts_sampler="pymc", random_seed=1, **options)
    assert not recwarn.list
