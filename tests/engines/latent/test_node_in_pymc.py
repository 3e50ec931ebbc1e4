"""A LatentLMM as a citizen of PyMC: data containers, interventions, copies, backends, draws, optimisation."""

import copy
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pymc as pm
import pytensor
import pytest
from as_written import AS_WRITTEN
from pymc.model.transform.optimization import freeze_dims_and_data

import pm_fastlmm as flmm
from engines.latent.oracle import Laplace, poisson_counts
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.nodes import find_node

N, AT = 24, 0.6
RNG = np.random.default_rng(3)
GROUP, x = np.repeat(np.arange(6), 4), RNG.normal(size=N)
X, Z = np.column_stack([np.ones(N), x]), np.eye(6)[GROUP]
Y = RNG.poisson(np.exp(0.5 + 0.4 * x + 0.7 * RNG.normal(size=6)[GROUP]))
B = np.array([[0.5, 0.1], [0.1, 0.3]])


def build(observed=Y, **options):
    with pm.Model() as model:
        sd = pm.HalfNormal("sd", 1.0)
        term = flmm.Term(GROUP, cov.scalar(sd**2), name="g")
        flmm.LatentLMM("y", family="poisson", X=X, terms=[term], observed=observed, **options)
    return model


def expected(y=Y, sd=AT, **known):
    return Laplace(y, X, Z, sd**2 * np.eye(6), poisson_counts, **known).loglik


def density(model, sd=AT, given=(), mode=AS_WRITTEN):
    """The log-density of y alone."""
    [logp] = model.logp(vars=[model["y"]], jacobian=False, sum=False)
    values = {model.rvs_to_values[model["sd"]]: np.log(sd)} if "sd" in [rv.name for rv in model.free_RVs] else {}
    values |= dict(given)
    return float(pytensor.function(list(values), logp, mode=mode, on_unused_input="ignore")(*values.values()))


def test_data_containers_are_read_anew():
    with pm.Model() as model:
        data, offset = pm.Data("data", Y), pm.Data("offset", np.zeros(N))
        sd = pm.HalfNormal("sd", 1.0)
        term = flmm.Term(GROUP, cov.scalar(sd**2), name="g")
        flmm.LatentLMM("y", family="poisson", X=X, terms=[term], mu=offset, observed=data)
        assert density(model) == pytest.approx(expected(), abs=1e-8)
        pm.set_data({"data": Y[::-1].copy(), "offset": np.log1p(np.arange(N))})
    assert density(model) == pytest.approx(expected(Y[::-1], mu=np.log1p(np.arange(N))), abs=1e-8)
    np.testing.assert_array_equal(find_node(model).observed, Y[::-1])
    idata = flmm.sample(20, tune=20, chains=1, cores=1, model=model, random_seed=1, progressbar=False, quiet=True)
    np.testing.assert_array_equal(idata.observed_data["y"], Y[::-1])
    drawn = flmm.predict(idata, model=model, random_seed=1).posterior_predictive["y_eta"]
    assert abs(float((drawn - np.log1p(np.arange(N))).std()) - float(drawn.std())) > 0.1


def test_data_containers_are_looked_at():
    term = flmm.Term(GROUP, cov.scalar(1.0), name="g")
    with pm.Model():
        data = pm.Data("data", -1.0 * Y)
        with pytest.raises(ValueError, match="y must be counts"):
            flmm.LatentLMM("y", family="poisson", terms=[term], observed=data)


@pytest.mark.parametrize(
    "change",
    [pm.Model.copy, copy.deepcopy, freeze_dims_and_data, lambda m: cloudpickle.loads(cloudpickle.dumps(m))],
    ids=["copy", "deepcopy", "freeze", "cloudpickle"],
)
def test_copies_have_the_density(change):
    changed = change(build())
    assert density(changed) == pytest.approx(expected(), abs=1e-8)
    node = pickle.loads(pickle.dumps(find_node(changed)))
    assert (node.family.name, node.terms[0].name) == ("poisson", "g")


def test_do_fixes_the_parameter_and_observe_gives_data():
    assert density(pm.do(build(), {"sd": 0.9})) == pytest.approx(expected(sd=0.9), abs=1e-8)
    latent = build(None, beta=[0.5, 0.4])
    assert find_node(latent).observed is None
    observed = pm.observe(latent, {"y": Y})
    known = {"b": np.array([0.5, 0.4]), "B": np.zeros((2, 2))}
    assert density(observed) == pytest.approx(expected(**known), abs=1e-8)


def test_a_variable_outside_a_model_has_a_density_and_draws_of_any_size():
    term = flmm.Term(GROUP, cov.scalar(AT**2), name="g")
    y = flmm.LatentLMM.dist(family="poisson", X=X, terms=[term], beta=[0.5, 0.4])
    found = pytensor.function([], pm.logp(y, Y.astype(float)), mode=AS_WRITTEN)()
    assert found == pytest.approx(expected(b=np.array([0.5, 0.4]), B=np.zeros((2, 2))), abs=1e-8)
    one, several = pm.draw(y, random_seed=1), pm.draw(y, 3000, random_seed=2)
    assert one.shape == (N,)
    # E y = exp(xβ + ½σ²), Var y = E y + (E y)²(exp σ² - 1), and Cov(y_i, y_j) = E y_i E y_j (exp σ² - 1) in a group
    mean = np.exp(X @ [0.5, 0.4] + AT**2 / 2)
    cov_of = np.outer(mean, mean) * (Z @ Z.T) * np.expm1(AT**2) + np.diag(mean)
    assert (np.abs(several.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(cov_of) / 3000)).all()
    across = (several[:, 0] - mean[0]) * (several[:, 1] - mean[1])
    assert abs(across.mean() - cov_of[0, 1]) < 5 * across.std() / np.sqrt(3000)


def test_draws_before_the_data_have_a_beta_of_its_prior():
    model = build(beta_cov=B, beta_mean=[0.5, 0.4])
    with pm.do(model, {"sd": AT}):
        drawn = pm.sample_prior_predictive(3000, random_seed=1).prior_predictive["y"].to_numpy()[0]
    variance = np.diag(X @ B @ X.T) + AT**2
    mean = np.exp(X @ [0.5, 0.4] + variance / 2)
    usual = np.abs(x) < 1  # of the others the means of draws are those of few large ones
    error = np.sqrt((mean + mean**2 * np.expm1(variance)) / 3000)
    assert (np.abs(drawn.mean(axis=0) - mean)[usual] < 5 * error[usual]).all()


def test_draws_before_the_data_under_a_flat_prior_say_what_to_give():
    with pytest.warns(
        UserWarning, match=r"y are NaN: β has a flat prior, under.*beta_cov=, or coefficients of"
    ) as all_:
        drawn = pm.draw(build()["y"], random_seed=1)
    assert len(all_) == 1
    assert drawn.shape == (N,)
    assert np.isnan(drawn).all()


def test_a_graph_of_the_model_needs_no_draws(recwarn):
    pytest.importorskip("graphviz")
    assert "LatentLMM" in pm.model_to_graphviz(build()).source
    assert not recwarn.list


def test_find_map_under_a_flat_prior_is_the_estimate():
    with pm.Model() as model:
        v = pm.HalfFlat("v", initval=0.5)
        flmm.LatentLMM("y", family="poisson", X=X, terms=[flmm.Term(GROUP, cov.scalar(v), name="g")], observed=Y)
        found = pm.find_MAP(progressbar=False, return_inferencedata=True, jitter=False)
    fit = flmm.find_reml(model, progressbar=False)
    assert float(found.posterior["v"].squeeze()) == pytest.approx(float(fit.point["v"]), rel=1e-3)


def test_functions_of_parameters_are_followed():
    model = build()
    with model:
        pm.Deterministic("v", model["sd"] ** 2)
    idata = flmm.sample(30, tune=30, chains=1, cores=1, model=model, random_seed=1, progressbar=False, quiet=True)
    np.testing.assert_allclose(idata.posterior["v"], idata.posterior["y_variance"][..., 0])
    np.testing.assert_allclose(flmm.variances(idata, model=model)["g"], idata.posterior["v"])


def test_a_second_derivative_is_refused():
    model = build()
    with pytest.raises(NotImplementedError, match="Laplace's approximation has first derivatives only"):
        model.compile_d2logp()


@pytest.mark.parametrize("mode", ["NUMBA", "FAST_RUN"])
def test_compiled_graphs_have_the_density_and_the_gradient(mode):
    model = build()
    value = model.rvs_to_values[model["sd"]]
    [logp] = model.logp(vars=[model["y"]], jacobian=False, sum=False)
    function = pytensor.function([value], [logp, pytensor.grad(logp, value)], mode=mode)
    found, slope = function(np.log(AT))
    h = 1e-5
    assert float(found) == pytest.approx(expected(), abs=1e-8)
    ends = [expected(sd=AT * np.exp(s * h)) for s in (1, -1)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


BY_JAX = """
import sys, cloudpickle, numpy as np
model = cloudpickle.load(sys.stdin.buffer)
from pymc.sampling.jax import get_jaxified_logp
import jax
logp = get_jaxified_logp(model)
value, slope = jax.value_and_grad(lambda z: logp([z]))(np.log(0.6))
print(float(value), float(slope))
"""


def test_jax_has_the_density_and_the_gradient():
    model = build()
    done = subprocess.run([sys.executable, "-c", BY_JAX], input=cloudpickle.dumps(model), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    value, slope = map(float, done.stdout.split())
    point = {"sd_log__": np.array(np.log(AT))}
    assert value == pytest.approx(float(model.compile_logp()(point)), abs=1e-4)
    assert slope == pytest.approx(float(model.compile_dlogp()(point)[0]), rel=1e-4)


def test_single_precision_has_the_density():
    with pytensor.config.change_flags(floatX="float32"):
        model = build(Y)
        found = model.compile_logp()({"sd_log__": np.array(np.log(AT), dtype="float32")})
    assert float(found) == pytest.approx(float(build().compile_logp()({"sd_log__": np.array(np.log(AT))})), abs=1e-4)


def test_a_mode_is_found_wherever_the_last_one_was():
    model = build()
    logp = model.compile_logp()
    for z in (-6.0, 3.5, -6.0, 4.0):
        sd = np.exp(z)
        prior = np.log(2 / np.sqrt(2 * np.pi)) - sd**2 / 2 + z
        assert float(logp({"sd_log__": np.array(z)})) == pytest.approx(expected(sd=sd) + prior, rel=1e-9)
