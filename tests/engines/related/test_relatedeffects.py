"""Effects with a known relation in models: densities, draws, gradients, labels and messages."""

import re

import arviz_stats as az
import cloudpickle
import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from pymc.logprob.utils import ParameterValueError
from relations import GROUPS, REGULAR, RELATIONS
from scipy.stats import multivariate_normal

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

SIGMA = 1.7
B = np.array([[1.0, 0.4], [0.4, 2.0]])
SPREADS = {
    "sigma": {"sigma": SIGMA},
    "cov": {"cov": B},
    "cholesky": {"cholesky": np.linalg.cholesky(B)},
    "packed": {"cholesky": np.linalg.cholesky(B)[np.tril_indices(2)]},
}


def model_of(name, spread, **kwargs):
    relation, W, A = RELATIONS[name]
    with pm.Model() as model:
        flmm.RelatedEffects("u", relation, W=W, **SPREADS[spread], **kwargs)
    return model, np.kron(A, [[SIGMA**2]] if spread == "sigma" else B)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", RELATIONS)
def test_white_noise_becomes_effects_of_the_covariance(name, spread):
    """Exactly: u of each unit of white noise."""
    model, V = model_of(name, spread)
    shape = model.initial_point()["u_raw"].shape
    u = model.compile_fn(model["u"], inputs=[model["u_raw"]], point_fn=False)
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    root = np.array([u(unit).ravel() for unit in units]).T
    assert_allclose(root @ root.T, V, atol=1e-12)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", REGULAR)
def test_density_of_centred_effects(name, spread):
    model, V = model_of(name, spread, centred=True)
    u = np.random.default_rng(6).normal(size=model.initial_point()["u"].shape)
    found = model.compile_logp()({"u": u})
    assert_allclose(found, multivariate_normal(np.zeros(len(V)), V).logpdf(u.ravel()), rtol=1e-12)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("spread", ["sigma", "cov"])
@pytest.mark.parametrize("name", ["pedigree", "precision"])
def test_draws_of_centred_effects(name, spread):
    """Whitened by dense algebra they are white noise: a sum of squares, and products of neighbours, of 1000 draws."""
    model, V = model_of(name, spread, centred=True)
    draws = pm.draw(model["u"], draws=1000, random_seed=8).reshape(1000, -1)
    white = np.linalg.solve(np.linalg.cholesky(V), draws.T)
    squares = (white**2).sum()
    assert abs(squares - white.size) < 4 * np.sqrt(2 * white.size)
    products = (white[1:] * white[:-1]).sum(axis=1)
    assert np.abs(products).max() < 4 * np.sqrt(1000)


def poisson(name, centred, several):
    """Counts, with hyperparameters and either one effect or two of each level."""
    relation, W, A = RELATIONS[name]
    rng = np.random.default_rng(11)
    place, x = rng.integers(len(A), size=12), rng.normal(size=12)
    with pm.Model(coords={"effect": ["intercept", "slope"]}) as model:
        if several:
            sd = pm.HalfNormal.dist(1, shape=2)
            cholesky, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2, sd_dist=sd, compute_corr=True, store_in_trace=False)
            u = flmm.RelatedEffects("u", relation, W=W, cholesky=cholesky, dims=("level", "effect"), centred=centred)
            eta = u[place, 0] + u[place, 1] * x
        else:
            u = flmm.RelatedEffects("u", relation, W=W, sigma=pm.HalfNormal("sigma"), dims="level", centred=centred)
            eta = u[place]
        pm.Poisson("y", pm.math.exp(eta), observed=rng.poisson(2.0, size=12))
    return model


def assert_gradient(model, mode):
    """Along one direction, by central differences."""
    function = model.logp_dlogp_function(ravel_inputs=True, mode=mode)
    function.set_extra_values({})
    size = sum(np.size(value) for value in model.initial_point().values())
    x = np.random.default_rng(3).normal(size=size) / 2
    way = np.random.default_rng(4).normal(size=size)
    step = 1e-5
    up, down = (function(x + sign * step * way)[0] for sign in (1, -1))
    assert_allclose((up - down) / (2 * step), function(x)[1] @ way, rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "centred", "several", "mode"),
    [
        ("pedigree", False, False, "NUMBA"),
        ("pedigree", True, True, "NUMBA"),
        ("precision", False, True, "NUMBA"),
        ("tree", True, False, "FAST_COMPILE"),
        ("covariance", True, True, "FAST_COMPILE"),
        ("factor", False, True, "FAST_COMPILE"),
        ("groups", True, True, "FAST_COMPILE"),
    ],
)
def test_gradient_is_that_of_differences(name, centred, several, mode):
    assert_gradient(poisson(name, centred, several), mode)


def bernoulli(eta):
    pm.Bernoulli("y", logit_p=eta, observed=np.arange(12) % 3 == 0)


def ordered(eta):
    increasing = {"transform": pm.distributions.transforms.ordered, "initval": [-1.0, 0.5]}
    pm.OrderedLogistic("y", eta=eta, cutpoints=pm.Normal("cut", shape=2, **increasing), observed=np.arange(12) % 3)


def censored(eta):
    y = np.minimum(np.linspace(-1, 2, 12), 1.0)
    pm.Censored("y", pm.Normal.dist(eta, 0.7), lower=None, upper=1.0, observed=y)


def many_zeros(eta):
    pm.ZeroInflatedPoisson("y", pm.Beta("share", 2, 2), pm.math.exp(eta), observed=np.arange(12) % 4)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("likelihood", [bernoulli, ordered, censored, many_zeros])
def test_gradient_of_other_likelihoods_is_that_of_differences(likelihood, centred):
    relation = RELATIONS["tree"][0]
    with pm.Model() as model:
        u = flmm.RelatedEffects("u", relation, sigma=pm.HalfNormal("sigma"), centred=centred)
        likelihood(u[np.arange(12) % len(relation)])
    assert_gradient(model, "FAST_COMPILE")


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("centred", [False, True])
def test_prior_draws_have_labels(centred):
    model = poisson("pedigree", centred, True)
    prior = pm.sample_prior_predictive(3, model=model, random_seed=1).prior["u"]
    assert prior.dims == ("chain", "draw", "level", "effect")
    assert tuple(prior["level"].values) == RELATIONS["pedigree"][0].labels
    assert np.isfinite(prior).all()


@pytest.mark.usefixtures("as_written")
def test_do_and_observe():
    u = np.arange(7.0) / 10
    for centred in (False, True):
        held = pm.do(poisson("pedigree", centred, False), {"u": u})
        assert "u_raw" not in held.named_vars or held["u"] not in held.deterministics
        assert_allclose(held["u"].eval(), u)
    given = pm.observe(poisson("pedigree", True, False), {"u": u})
    A, sigma = RELATIONS["pedigree"][2], 0.5
    found = given.compile_logp(vars=[given["u"]])({"sigma_log__": np.log(sigma)})
    assert_allclose(found, multivariate_normal(np.zeros(7), sigma**2 * A).logpdf(u), rtol=1e-12)


@pytest.mark.usefixtures("as_written")
def test_predictive_draws_are_of_the_effects_that_were_drawn():
    model = poisson("tree", False, True)
    prior = pm.sample_prior_predictive(2, model=model, random_seed=1).prior
    of_white_noise = prior.to_dataset().drop_vars("u")
    again = pm.sample_posterior_predictive(of_white_noise, model=model, var_names=["u", "y"], progressbar=False)
    assert_allclose(again.posterior_predictive["u"], prior["u"], rtol=1e-12)
    assert again.posterior_predictive["y"].shape == (1, 2, 12)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("centred", [False, True])
def test_models_are_copied_by_cloudpickle(centred):
    """As PyMC hands them to the processes of its chains."""
    model = poisson("precision", centred, False)
    again = cloudpickle.loads(cloudpickle.dumps(model))
    point = {name: np.full(np.shape(value), 0.2) for name, value in model.initial_point().items()}
    assert model.compile_logp()(point) == again.compile_logp()(point)


@pytest.mark.usefixtures("as_written")
def test_start():
    relation = RELATIONS["tree"][0]
    for centred, name in ((False, "u_raw"), (True, "u")):
        with pm.Model() as model:
            flmm.RelatedEffects("u", relation, sigma=1.0, centred=centred)
        assert_allclose(model.initial_point()[name], 0)
        with pm.Model() as model:
            flmm.RelatedEffects("u", relation, sigma=1.0, centred=centred, initval=np.full(len(relation), 0.3))
        assert_allclose(model.initial_point()[name], 0.3)


@pytest.mark.usefixtures("as_written")
def test_no_variance_is_no_effect():
    with pm.Model() as model:
        flmm.RelatedEffects("u", RELATIONS["pedigree"][0], sigma=0.0)
    assert_allclose(pm.draw(model["u"], random_seed=1), 0)
    singular = np.ones((2, 2))
    with pm.Model() as model:
        flmm.RelatedEffects("u", RELATIONS["pedigree"][0], cov=singular)
    u = pm.draw(model["u"], random_seed=1)
    assert_allclose(u[:, 0], u[:, 1])
    assert np.ptp(u[:, 0]) > 0


def test_coordinates_are_those_of_the_labels():
    relation = RELATIONS["pedigree"][0]
    with pm.Model(coords={"animal": relation.labels}) as model:
        flmm.RelatedEffects("u", relation, sigma=1.0, dims="animal")
        flmm.RelatedEffects("v", relation, cov=B, dims=["animal", "trait"])
        flmm.RelatedEffects("w", GROUPS, sigma=1.0, dims="group")
        flmm.RelatedEffects("k", np.eye(3), sigma=1.0, dims="row")
    assert model.coords["animal"] == relation.labels
    assert model.coords["trait"] == (0, 1)
    assert model.coords["group"] == ("x", "y", "z")
    assert model.coords["row"] == (0, 1, 2)
    assert model.named_vars_to_dims["v"] == ("animal", "trait")


def message(**kwargs):
    """The error of a model with these arguments, besides a pedigree and a standard deviation."""
    coords = kwargs.pop("coords", None)
    arguments = {"relation": RELATIONS["pedigree"][0], "sigma": 1.0} | kwargs
    with pytest.raises((ValueError, TypeError)) as error, pm.Model(coords=coords):
        flmm.RelatedEffects("u", **arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"sigma": -1.0}, "sigma of u is -1.0: a standard deviation is not negative"),
        ({"sigma": np.nan}, "sigma of u is nan"),
        ({"sigma": np.ones(2)}, "sigma of u must be one number, got shape (2,)"),
        ({"sigma": None}, "give u exactly one of sigma"),
        ({"cov": B}, "give u exactly one of sigma"),
        ({"sigma": None, "cov": np.ones((2, 3))}, "cov must be square, got shape (2, 3)"),
        ({"sigma": None, "cov": -B}, "cov is not positive semi-definite"),
        ({"sigma": None, "cholesky": np.linalg.cholesky(B).T}, "cholesky must be lower triangular"),
        ({"relation": None}, "give exactly one of relation"),
        ({"W": np.eye(3)}, "give exactly one of relation"),
        ({"relation": np.ones((3, 2))}, "relation has shape (3, 2), and is no covariance: a factor of it"),
        ({"relation": pt.matrix("K")}, "K must be known, got a tensor"),
        ({"relation": -np.eye(3)}, "K is not positive semi-definite"),
        ({"relation": None, "W": np.full((3, 2), np.nan)}, "W has 6 values that are NaN"),
        ({"relation": ["a", None]}, "relation is missing in 1 rows"),
        ({"relation": None, "W": np.eye(3), "centred": True}, "u has no density, as the covariance of its effects"),
        ({"relation": RELATIONS["singular covariance"][0], "centred": True}, "u has no density"),
        ({"sigma": 0.0, "centred": True}, "u has no density"),
        ({"sigma": None, "cov": np.ones((2, 2)), "centred": True}, "u has no density"),
        ({"dims": ("a", "b")}, "u has 1 dimensions, levels, but dims names 2 (a, b): name each."),
        ({"sigma": None, "cov": B, "dims": "a"}, "levels and effects of each, but dims names 1 (a)"),
        ({"dims": "a", "coords": {"a": [1, 2]}}, "dimension 'a' of u has 2 coordinates, but there are 7 effects"),
        (
            {"sigma": None, "cov": B, "dims": ("a", "b"), "coords": {"b": [1, 2, 3]}},
            "dimension 'b' of u has 3 coordinates, but there are 2 effects",
        ),
        ({"dims": "a", "coords": {"a": ["dam", "son", *"cdefg"]}}, "leave 'a' out of coords=, and the labels"),
        ({"observed": np.ones(7)}, "u takes no observed="),
    ],
)
def test_messages(kwargs, text):
    assert text in message(**kwargs)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("centred", [False, True])
def test_a_negative_deviation_is_refused_in_a_graph(centred):
    with pm.Model() as model:
        sigma = pm.Normal("sigma")
        u = flmm.RelatedEffects("u", RELATIONS["pedigree"][0], sigma=sigma, centred=centred)
        pm.Normal("y", u, 1.0, observed=np.zeros(7))
    point = {name: np.full(np.shape(value), 0.1) for name, value in model.initial_point().items()}
    logp = model.compile_logp()
    assert np.isfinite(logp(point))
    with pytest.raises(ParameterValueError, match="sigma of u >= 0"):
        logp(point | {"sigma": np.array(-1.0)})


def test_how_many_effects_only_the_coordinates_say():
    root = pt.matrix("root")
    with pytest.raises(ValueError, match="how many effects each level of u has, PyTensor cannot tell"), pm.Model():
        flmm.RelatedEffects("u", GROUPS, cholesky=root)
    with pm.Model(coords={"effect": ["intercept", "slope"]}):
        u = flmm.RelatedEffects("u", GROUPS, cholesky=root, dims=("group", "effect"))
    assert u.type.shape == (3, 2)


@pytest.mark.parametrize(
    ("relation", "ids", "right"),
    [
        (RELATIONS["pedigree"][0], ["bull", "son", "bull"], [5, 0, 5]),
        (RELATIONS["covariance"][0], pd.Series(["d", "a"], index=[7, 3]), [3, 0]),
        (pd.DataFrame(np.eye(3)[:, :2], [10, 20, 30]), ["30", "10"], [2, 0]),
        (RELATIONS["factor"][1], ["b"], [1]),
        (GROUPS, GROUPS, [1, 0, 1, 2]),
        (pd.Categorical(["b", "a"], ["b", "z", "a"]), ["a", "b", "z"], [2, 0, 1]),
        (cov.Pedigree(["x", "y", "twin"], [None] * 3, [None] * 3, clones={"twin": "x"}), ["twin", "y"], [0, 1]),
    ],
)
def test_places(relation, ids, right):
    found = cov.places(relation, ids)
    assert found.dtype == np.intp
    assert found.tolist() == right


@pytest.mark.parametrize(
    ("relation", "ids", "text"),
    [
        (
            RELATIONS["pedigree"][0],
            ["son", "Bull"],
            "ids 'Bull' are not among the 7 labels of the relation. 'Bull'",
        ),
        (RELATIONS["pedigree"][0], ["son", "X"], "Correct them, or drop their rows."),
        (RELATIONS["pedigree"][0], ["son", None], "ids are missing in rows 1: drop those rows."),
        (np.eye(3), [1], "relation is an array, whose rows have no labels"),
        (GROUPS, ["w"], "ids 'w' are not among the 3 labels"),
    ],
)
def test_messages_of_places(relation, ids, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        cov.places(relation, ids)


def test_posterior_is_the_exact_one_of_a_normal_response():
    """By NUTS on white noise and on the effects, beside dense algebra."""
    pytest.importorskip("nutpie")
    relation, _, A = RELATIONS["pedigree"]
    rng = np.random.default_rng(21)
    place = rng.integers(len(A), size=15)
    y = rng.normal(size=15) + place / 3
    Z = np.eye(len(A))[place]
    precision = np.linalg.inv(A) + Z.T @ Z / 0.5
    mean, deviation = np.linalg.solve(precision, Z.T @ y / 0.5), np.sqrt(np.diag(np.linalg.inv(precision)))
    for centred in (False, True):
        with pm.Model() as model:
            u = flmm.RelatedEffects("u", relation, sigma=1.0, centred=centred, dims="animal")
            pm.Normal("y", u[place], np.sqrt(0.5), observed=y)
        idata = pm.sample(
            1000, tune=300, chains=2, nuts_sampler="nutpie", model=model, random_seed=2, progressbar=False, quiet=True
        )
        draws = idata.posterior["u"].to_numpy().reshape(-1, len(A))
        assert_allclose(draws.mean(axis=0), mean, atol=5 * deviation.max() / np.sqrt(1000))
        assert_allclose(draws.std(axis=0), deviation, rtol=0.12)


def test_posterior_of_the_share_of_variance_is_that_by_quadrature():
    """Where sigma is a parameter, beside the posterior of the same model with u integrated out."""
    pytest.importorskip("nutpie")
    relation, _, A = RELATIONS["pedigree"]
    rng = np.random.default_rng(3)
    place = np.repeat(np.arange(len(A)), 5)
    root = np.linalg.cholesky(A)[place]
    y = root @ rng.normal(size=len(A)) + rng.normal(size=len(place))
    exact = flmm.exact_posterior(flmm.Spectrum.from_factor(root), y)
    with pm.Model() as model:
        h2 = pm.Beta("h2", 1, 1)
        total = pm.InverseGamma("total", exact.prior.total_shape, exact.prior.total_scale)
        sigma = pm.math.sqrt(h2 * total / np.diag(A)[place].mean())
        u = flmm.RelatedEffects("u", relation, sigma=sigma)
        pm.Normal("y", u[place], pm.math.sqrt((1 - h2) * total), observed=y)
    idata = pm.sample(
        1500, tune=500, chains=2, nuts_sampler="nutpie", model=model, random_seed=2, progressbar=False, quiet=True
    )
    table = exact.summary()
    for name in ("h2", "total"):
        draws = idata.posterior[name]
        for column, level in (("eti_2.5%", 0.025), ("median", 0.5), ("eti_97.5%", 0.975)):
            independent = float(az.ess(draws, method="quantile", prob=level))
            assert independent > 150
            below = float((draws < float(table.loc[name, column])).mean())
            assert_allclose(below, level, atol=4 * np.sqrt(level * (1 - level) / independent))
