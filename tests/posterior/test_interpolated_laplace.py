"""NUTS on Laplace's approximation, interpolated: its density is that of the model, its posterior that of sums."""

import logging

import arviz_stats
import cloudpickle
import numpy as np
import pymc as pm
import pytest
from numpyro_process import sample_by_numpyro
from pymc.model.transform.optimization import freeze_dims_and_data

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.latent.products import LatentProducts
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.posterior import interpolation
from pm_fastlmm.posterior.kept import lent
from pm_fastlmm.quadrature.over_parameters import InterpolatedLaplace
from pm_fastlmm.quadrature.ratios import NotInterpolated

QUIET = {"chains": 4, "cores": 1, "progressbar": False, "quiet": True, "random_seed": 5}
BRIEF = QUIET | {"draws": 30, "tune": 30, "chains": 1}
N, Q = 120, 20
RNG = np.random.default_rng(4)
GROUP, SITE, x = np.repeat(np.arange(Q), N // Q), RNG.integers(0, 8, N), RNG.normal(size=N)
X = np.column_stack([np.ones(N), x])
ETA = 0.5 + 0.3 * x + 0.7 * RNG.normal(size=Q)[GROUP] + 0.5 * RNG.normal(size=8)[SITE]
COUNTS = RNG.poisson(np.exp(ETA))
SPREAD = RNG.poisson(np.exp(ETA) * RNG.gamma(2.0, 0.5, N))
TIMES = 0.2 + np.exp(ETA) * RNG.gamma(3.0, 1 / 3, N)
YES = RNG.binomial(1, 1 / (1 + np.exp(-1.5 * ETA)))


def model_of(family="poisson", observed=COUNTS, groups=(GROUP,), alpha=False, **options):
    """Half-normal standard deviations."""
    with pm.Model() as model:
        sd = [pm.HalfNormal(f"sd{k}", 1.5) for k in range(len(groups))]
        pairs = enumerate(zip(groups, sd, strict=True))
        terms = [flmm.Term(own, cov.scalar(s**2), name=f"g{k}") for k, (own, s) in pairs]
        own = {"alpha": pm.Exponential("alpha", 0.5)} if alpha else {}
        flmm.LatentLMM("y", family=family, X=X, terms=terms, observed=observed, **own, **options)
    return model


def interpolated(model, tolerance=1e-8, seed=0):
    likelihood = InterpolatedLaplace(find_node(model).to_interpolate(model), tolerance)
    likelihood.make(np.random.default_rng(seed), lambda done, note: None)
    return likelihood


KINDS = {
    "poisson": {},
    "poisson, two terms": {"groups": (GROUP, SITE)},
    "bernoulli": {"family": "bernoulli", "observed": YES},
    "bernoulli, proper": {"family": "bernoulli", "observed": YES, "beta_cov": 4 * np.eye(2)},
    "negative binomial": {"family": "negative_binomial", "observed": SPREAD, "alpha": True},
    "gamma": {"family": "gamma", "observed": TIMES, "alpha": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_density_and_gradient_are_those_of_the_model(kind):
    model = model_of(**KINDS[kind])
    before = model.compile_logp()
    frozen = freeze_dims_and_data(model)
    nodes = interpolation.to_interpolate(frozen, 1e-6, pytest.fail)
    said = []
    with lent(frozen, find_node(frozen, "y"), nodes) as kept:
        interpolation.interpolate(nodes.values(), kept, np.random.default_rng(1), said.append, progressbar=False)
        logp, dlogp = kept.model.compile_logp(), kept.model.compile_dlogp()
    assert [text.split(" on ")[0] for text in said] == ["The likelihood of y is interpolated"]
    likelihood, slopes = nodes["y"].interpolated, model.compile_dlogp()
    names = [v.name for v in model.value_vars]
    order = [names.index(v.name) for v in kept.model.value_vars]
    rng = np.random.default_rng(4)
    for scale in rng.uniform(0.7, 1.4, size=(10, len(names))):
        theta = likelihood.estimate * scale
        values = [np.log(1 / t if name == "alpha_log__" else np.sqrt(t)) for name, t in zip(names, theta, strict=True)]
        point = {name: np.array(value) for name, value in zip(names, values, strict=True)}
        assert likelihood.smooth(theta) is not None
        assert logp(point) == pytest.approx(before(point), abs=2e-5)
        np.testing.assert_allclose(dlogp(point), slopes(point)[order], rtol=1e-4, atol=1e-3)


def test_variances_and_dispersions_of_0_are_inside():
    alone = model_of("negative_binomial", np.random.default_rng(1).poisson(2.0, N), alpha=True)
    likelihood = interpolated(alone)
    objective = likelihood.objective
    for theta in ([0.0, 0.0], [0.0, 0.1], [0.02, 0.0], [1e-9, 1e-9]):
        value, slope = likelihood.smooth(np.array(theta))
        state = objective.state(np.array(theta))
        assert value == pytest.approx(state.loglik, abs=1e-6)
        np.testing.assert_allclose(slope, objective.gradient(np.array(theta), state), rtol=1e-4, atol=1e-4)


def test_a_point_outside_the_region_is_evaluated_itself():
    likelihood = interpolated(model_of(groups=(GROUP, SITE)), 1e-4)
    objective, far = likelihood.objective, np.array([1e4, 1e-3])
    assert likelihood.smooth(far) is None
    value, slope = likelihood(far)
    state = objective.state(far)
    assert value == pytest.approx(state.loglik, abs=1e-9)
    np.testing.assert_allclose(slope, objective.gradient(far, state), rtol=1e-6)
    for impossible in ([-1.0, 1.0], [1.0, np.nan]):
        assert np.isneginf(likelihood(np.array(impossible))[0])
    again = cloudpickle.loads(cloudpickle.dumps(likelihood))  # as processes of chains have it
    np.testing.assert_array_equal(again(likelihood.estimate)[1], likelihood(likelihood.estimate)[1])


def on_grid(model, names, axes):
    """Return the weights of a grid of unconstrained coordinates, from the exact density of the model."""
    logp = model.compile_logp()
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    log = np.array([logp({name: np.array(v) for name, v in zip(names, place, strict=True)}) for place in places])
    w = np.exp(log - log.max())
    return places, w / w.sum()


def assert_same(draws, values, weights):
    """Compare mean and standard deviation of draws with those of a grid."""
    ess, mean = float(arviz_stats.ess(draws)), weights @ values
    sd = np.sqrt(weights @ (values - mean) ** 2)
    assert ess > 300
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * sd / np.sqrt(ess))
    assert float(draws.std()) == pytest.approx(sd, rel=4 / np.sqrt(ess))


@pytest.mark.parametrize("sampler", ["pymc", "nutpie", "numpyro"])
def test_nuts_draws_from_the_posterior_of_sums(sampler):
    model = model_of("bernoulli", YES)
    places, weights = on_grid(model, ["sd0_log__"], [np.linspace(-9, 2.5, 600)])
    if sampler == "numpyro":
        idata = sample_by_numpyro(model, 1000)
        assert {"y_beta", "y_g0"} <= set(idata.posterior.data_vars)
    else:
        idata = flmm.sample(1000, model=model, nuts_sampler=sampler, **QUIET)
        assert idata.posterior.attrs["y_loglik_error"] < 1e-4
        assert idata.posterior.attrs["y_loglik_draws_outside"] == 0
    assert_same(idata.posterior["sd0"], np.exp(places[:, 0]), weights)
    np.testing.assert_allclose(idata.posterior["y_variance"][..., 0], idata.posterior["sd0"] ** 2)


def test_nuts_over_two_parameters_draws_from_the_posterior_of_sums():
    model = model_of("negative_binomial", SPREAD, alpha=True)
    names, axes = ["sd0_log__", "alpha_log__"], [np.linspace(-4, 1.5, 60), np.linspace(-2, 5, 60)]
    places, weights = on_grid(model, names, axes)
    idata = flmm.sample(1000, model=model, **QUIET)
    assert_same(idata.posterior["sd0"], np.exp(places[:, 0]), weights)
    assert_same(np.log(idata.posterior["alpha"]), places[:, 1], weights)


def test_nuts_over_the_effects_themselves_has_the_same_posterior_where_counts_are_large():
    rng = np.random.default_rng(9)
    group = np.repeat(np.arange(12), 5)
    y = rng.poisson(np.exp(3.5 + 0.5 * rng.normal(size=12)[group]))
    with pm.Model() as latent:
        sd, b = pm.HalfNormal("sd", 1.0), pm.Normal("b", 0, 10)
        u = flmm.RelatedEffects("u", list(range(12)), sigma=sd, centred=True)
        pm.Poisson("y", pm.math.exp(b + u[group]), observed=y)
        whole = pm.sample(1000, tune=1000, **QUIET)
    with pm.Model() as model:
        sd = pm.HalfNormal("sd", 1.0)
        term = flmm.Term(group, cov.scalar(sd**2), name="g")
        flmm.LatentLMM("y", family="poisson", X=np.ones((60, 1)), beta_cov=[[100.0]], terms=[term], observed=y)
    idata = flmm.recover_effects(flmm.sample(1000, model=model, **QUIET), model=model, random_seed=1)
    pairs = [("sd", "sd"), ("b", "y_beta")]
    for one, other in pairs:
        a, b = whole.posterior[one], idata.posterior[other].squeeze()
        error = np.sqrt(float(a.var()) * (1 / float(arviz_stats.ess(a)) + 1 / float(arviz_stats.ess(b))))
        assert float(a.mean()) == pytest.approx(float(b.mean()), abs=4 * error)
        assert float(b.std() / a.std()) == pytest.approx(1, abs=0.1)
    u, v = whole.posterior["u"], idata.posterior["y_g"]
    np.testing.assert_allclose(u.mean(("chain", "draw")), v.mean(("chain", "draw")), atol=0.05)
    np.testing.assert_allclose(u.std(("chain", "draw")), v.std(("chain", "draw")), rtol=0.12)
    assert latent["u"].type.shape == (12,)


# ---------------------------------------------------------------- what is not interpolated


@pytest.fixture
def dear(monkeypatch):
    """Few effects are as many, whose likelihood no sampler evaluates thousands of times."""
    monkeypatch.setattr(LatentProducts, "cheap", property(lambda self: False))


def messages(caplog, model, **options):
    caplog.set_level(logging.INFO, "pymc")
    caplog.clear()
    idata = flmm.sample(model=model, **(BRIEF | {"quiet": False} | options))
    assert not [key for key in idata.posterior.attrs if "loglik" in key]
    (said,) = [record.getMessage() for record in caplog.records if "not interpolated" in record.getMessage()]
    assert said.startswith("The likelihood of y is not interpolated, and each step of NUTS is one exact evaluation or")
    return said


def slopes():
    with pm.Model() as matrix:
        L, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1, shape=2), compute_corr=True)
        term = flmm.Term(GROUP, cov.unstructured(cholesky=L), columns=X, name="g")
        flmm.LatentLMM("y", family="poisson", X=X, terms=[term], observed=COUNTS)
    return matrix


@pytest.mark.usefixtures("dear")
def test_slopes_say_why_they_are_not(caplog):
    assert "interpolation is for one to 3, which are variances of terms with independent" in messages(caplog, slopes())


def test_nothing_is_said_of_a_likelihood_that_is_quick(monkeypatch):
    monkeypatch.setattr(LatentProducts, "cheap", property(lambda self: True))
    said = []
    assert not interpolation.to_interpolate(freeze_dims_and_data(slopes()), 1e-4, said.append)
    assert not said


@pytest.mark.usefixtures("dear")
def test_a_mean_of_the_model_says_that_it_is_what_hinders(caplog):
    with pm.Model() as model:
        m, v = pm.Normal("m"), pm.HalfNormal("v", 2)
        herd = flmm.Term(GROUP, cov.scalar(v), name="g")
        flmm.LatentLMM("y", family="poisson", terms=[herd], mu=m * np.ones(N), observed=COUNTS)
    assert "it depends on 'm' besides the parameters of the terms and the family" in messages(caplog, model)


def test_cutpoints_and_fixed_dispersions():
    objective = find_node(model := model_of(groups=(GROUP, SITE))).to_interpolate(model)
    assert InterpolatedLaplace(objective, 1e-4).nodes == ()
    with pm.Model() as ordered:
        v, c = pm.HalfNormal("v"), pm.Normal("c", [-1.0, 1.0], 1.0, shape=2)
        term = flmm.Term(GROUP, cov.scalar(v), name="g")
        flmm.LatentLMM("y", family="ordinal", terms=[term], cutpoints=c, observed=np.minimum(COUNTS, 2))
    with pytest.raises(NotInterpolated, match=r"the parameters are g, cutpoint\[1\], cutpoint\[2\]: interpol"):
        InterpolatedLaplace(find_node(ordered).to_interpolate(ordered), 1e-4)
