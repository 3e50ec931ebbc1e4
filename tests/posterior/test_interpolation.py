"""NUTS on an interpolated likelihood: its density is that of the model, its posterior that of quadrature."""

import logging
from types import SimpleNamespace
from unittest import mock

import arviz_stats
import cloudpickle
import numpy as np
import pandas as pd
import pymc as pm
import pytest
from pymc.model.transform.optimization import freeze_dims_and_data
from scipy.stats import norm

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.engines.structured import choice
from pm_fastlmm.posterior import interpolation
from pm_fastlmm.posterior.kept import lent
from pm_fastlmm.posterior.seed import posterior_seed
from pm_fastlmm.quadrature import over_theta
from pm_fastlmm.quadrature.integrate import finer

QUIET = {"chains": 4, "cores": 1, "progressbar": False, "quiet": True, "random_seed": 5}
BRIEF = QUIET | {"draws": 30, "tune": 30, "chains": 1}
N = 240
NAMES = [f"a{k}" for k in range(80)]


@pytest.fixture(scope="module")
def pedigree():
    rng = np.random.default_rng(2)
    parents = [[None] * 10 + [f"a{rng.integers(0, k)}" for k in range(10, 80)] for _ in range(2)]
    return cov.Pedigree(NAMES, *parents)


@pytest.fixture(scope="module")
def records(pedigree):
    rng = np.random.default_rng(3)
    own, herd, x = rng.integers(0, 80, N), rng.integers(0, 25, N), rng.normal(size=N)
    u = np.linalg.cholesky(pedigree.dense(NAMES).to_numpy()) @ rng.normal(size=80)
    y = 3 + x + u[own] + 0.7 * rng.normal(size=25)[herd] + rng.normal(size=N)
    return pd.DataFrame({"y": y, "x": x, "animal": np.array(NAMES)[own], "herd": [f"h{k}" for k in herd]})


@pytest.fixture(autouse=True)
def dear():
    """Small equations are sparse ones, which no sampler evaluates thousands of times."""
    cheap = mock.patch.object(SparseProducts, "cheap", property(lambda self: False))
    with mock.patch.multiple(choice, _SMALL=-1), cheap:
        yield


def animal_model(pedigree, records, *, terms=("animal", "herd"), scale=2.0, **options):
    """Half-normal standard deviations."""
    with pm.Model() as model:
        sd = {name: pm.HalfNormal(name, scale) for name in (*terms, "e")}
        structures = [
            cov.known(pedigree, sd[name] ** 2) if name == "animal" else cov.scalar(sd[name] ** 2) for name in terms
        ]
        parts = [flmm.Term(records[name], own, name=name) for name, own in zip(terms, structures, strict=True)]
        X = np.column_stack([np.ones(N), records["x"]])
        flmm.StructuredLMM("y", X=X, terms=parts, sigma2_e=sd["e"] ** 2, observed=records["y"], **options)
    return model


def test_density_and_gradient_are_those_of_the_model(pedigree, records):
    model = animal_model(pedigree, records)
    before = model.compile_logp()
    frozen = freeze_dims_and_data(model)
    nodes = interpolation.to_interpolate(frozen, 1e-8, pytest.fail)
    said = []
    with lent(frozen, find_node(frozen, "y"), nodes) as kept:
        interpolation.interpolate(nodes.values(), kept, np.random.default_rng(1), said.append, progressbar=False)
        logp, dlogp = kept.model.compile_logp(), kept.model.compile_dlogp()
    assert len(said) == 1
    assert said[0].startswith("The likelihood of y is interpolated on ")
    likelihood, exact, slopes = nodes["y"].interpolated, model.compile_logp(), model.compile_dlogp()
    sd = np.sqrt(likelihood.estimate)
    rng, inside = np.random.default_rng(4), 0
    for scale in rng.uniform(0.6, 1.6, size=(12, 3)):
        names = ("animal_log__", "herd_log__", "e_log__")
        point = {k: np.array(v) for k, v in zip(names, np.log(scale * sd), strict=True)}
        inside += likelihood.smooth((scale * sd) ** 2) is not None
        assert logp(point) == pytest.approx(exact(point), abs=1e-6)
        assert before(point) == exact(point)  # the model of the user is as it was
        np.testing.assert_allclose(dlogp(point), _in_order(kept.model, model, slopes(point)), rtol=1e-6, atol=1e-5)
    assert inside == 12


def _in_order(kept, model, gradient):
    """The gradient of a model in the order of the variables of another."""
    names = [v.name for v in model.value_vars]
    return gradient[[names.index(v.name) for v in kept.value_vars]]


def test_a_point_outside_the_region_is_evaluated_itself(pedigree, records):
    objective = flmm.lmm_nodes(animal_model(pedigree, records))[0].flat_objective()
    likelihood = over_theta.InterpolatedLikelihood(objective, 1e-4)
    far = np.array([1e4, 1e-3, 1e-4])
    for _ in range(2):  # before the interpolant is made, and after
        value, slope = likelihood(far)
        state = objective.state(far)
        assert value == state.loglik
        np.testing.assert_array_equal(slope, objective.gradient(far, state))
        assert likelihood(np.array([1.0, 1.0, 0.0]))[0] == -np.inf
        assert likelihood(np.array([-1.0, 1.0, 1.0]))[0] == -np.inf
        assert np.isneginf(likelihood(np.array([1.0, np.nan, 1.0]))[0])
        if likelihood.smooth is None:
            likelihood.make(np.random.default_rng(0), lambda done, note: None)
    assert likelihood.smooth(far) is None
    assert likelihood.error(far[None]) == 0.0
    likelihood.guarded = True
    assert likelihood(far)[0] == -np.inf
    again = cloudpickle.loads(cloudpickle.dumps(likelihood))  # as processes of chains have it
    np.testing.assert_array_equal(again(likelihood.estimate)[1], likelihood(likelihood.estimate)[1])


def test_a_variance_of_0_is_inside(pedigree, records):
    noise = records.assign(y=np.random.default_rng(8).normal(size=N))
    objective = flmm.lmm_nodes(animal_model(pedigree, noise, terms=("animal",)))[0].flat_objective()
    likelihood = over_theta.InterpolatedLikelihood(objective, 1e-7)
    likelihood.make(np.random.default_rng(0), lambda done, note: None)
    for theta in ([0.0, 1.0], [1e-12, 1.3], [0.03, 0.8]):
        value, slope = likelihood.smooth(np.array(theta))
        state = objective.state(np.array(theta))
        assert value == pytest.approx(state.loglik, abs=1e-6)
        np.testing.assert_allclose(slope, objective.gradient(np.array(theta), state), rtol=1e-4)


@pytest.mark.parametrize("sampler", ["pymc", "nutpie"])
def test_nuts_draws_from_the_posterior_of_quadrature(pedigree, records, sampler):
    formula, prior = "y ~ x + (1 | animal) + (1 | herd)", flmm.priors.SharePrior({"residual": 2})
    exact = flmm.find_reml(formula, records, known={"animal": pedigree}, progressbar=False).posterior(prior)
    model = flmm.lmm_model(formula, records, known={"animal": pedigree}, priors=prior)
    idata = flmm.sample(1000, model=model, nuts_sampler=sampler, **QUIET)
    assert idata.posterior.attrs["y_loglik_error"] < 1e-4
    assert len(idata.posterior.attrs["y_loglik_nodes"]) == 2
    assert idata.posterior.attrs["y_loglik_draws_outside"] <= 2
    for name in ("animal", "herd", "residual"):
        draws = idata.posterior["share"].sel(component=name)
        ess, sd = float(arviz_stats.ess(draws)), exact.sd(f"share[{name}]")
        assert ess > 500
        assert float(draws.mean()) == pytest.approx(exact.mean(f"share[{name}]"), abs=4 * sd / np.sqrt(ess))
        assert float(draws.std()) == pytest.approx(sd, rel=4 * np.sqrt(1.0 / ess))
    total = idata.posterior["total"]
    assert float(total.mean()) == pytest.approx(exact.mean("total"), abs=4 * float(total.std()) / np.sqrt(500))


def test_what_else_a_model_has_is_in_its_posterior(pedigree, records):
    """A second measurement of a standard deviation moves the posterior as the product of two densities does."""
    model = animal_model(pedigree, records, terms=("animal",))
    with model:
        pm.Normal("measured", model["animal"], 0.05, observed=0.7)
        other = pm.Normal("other", model["e"], 1.0)
    idata = flmm.sample(800, tune=400, model=model, **QUIET)
    exact = flmm.find_reml("y ~ x + (1 | animal)", records, known={"animal": pedigree}, progressbar=False).posterior()
    v = {k: d for k, d in exact.draws(60_000, random_seed=2).items() if k in ("animal", "residual")}
    a, e, total = np.sqrt(v["animal"]), np.sqrt(v["residual"]), v["animal"] + v["residual"]
    # from shares and total to standard deviations: ∂(share, total)/∂(a, e) = 4 a e / total
    log_w = norm.logpdf(a, scale=2) + norm.logpdf(e, scale=2) + norm.logpdf(0.7, a, 0.05)
    log_w -= np.log(a * e / total) - 2 * np.log(total) - exact.prior.total_scale / total
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    sampled, ess = idata.posterior["animal"], float(arviz_stats.ess(idata.posterior["animal"]))
    error = np.sqrt(1 / ess + (w**2).sum())
    sd = np.sqrt(w @ (a - w @ a) ** 2)
    assert float(sampled.mean()) == pytest.approx(w @ a, abs=4 * sd * error)
    assert float(sampled.std()) == pytest.approx(sd, rel=0.15)
    assert float((idata.posterior["other"] - idata.posterior["e"]).mean()) == pytest.approx(0, abs=0.2)
    assert other.name in idata.posterior


def test_the_region_follows_a_prior_that_contradicts_the_data(pedigree, records):
    """The posterior lies far from the REML estimate: the interpolant is made anew there, before anything is drawn."""
    model = animal_model(pedigree, records, terms=("herd",), scale=100.0)
    with model:
        pm.Normal("said", pm.math.log(model["herd"]), 0.02, observed=np.log(60.0))
    frozen = freeze_dims_and_data(model)
    nodes = interpolation.to_interpolate(frozen, 1e-4, pytest.fail)
    with lent(frozen, find_node(frozen, "y"), nodes) as kept:
        interpolation.interpolate(nodes.values(), kept, np.random.default_rng(1), lambda said: None, progressbar=False)
        likelihood = nodes["y"].interpolated
        assert likelihood.smooth(np.array([3000.0, 1.0])) is None
        posterior_seed(kept, nodes["y"], chains=2, rng=np.random.default_rng(2))
    assert likelihood.smooth(np.array([3000.0, 1.0])) is not None
    idata = flmm.sample(200, model=model, **QUIET)
    assert idata.posterior.attrs["y_loglik_draws_outside"] == 0
    assert idata.posterior.attrs["y_loglik_error"] < 1e-4
    assert float(idata.posterior["herd"].mean()) > 40


def test_nothing_is_interpolated_with_a_tolerance_of_0(pedigree, records):
    model = animal_model(pedigree, records, terms=("animal",))
    with mock.patch.object(interpolation.InterpolatedLoglik, "evaluate", side_effect=AssertionError):
        idata = flmm.sample(model=model, loglik_tolerance=0, **BRIEF)
    assert not [key for key in idata.posterior.attrs if "loglik" in key]
    for wrong in (-1e-3, np.inf, np.nan):
        with pytest.raises(ValueError, match="loglik_tolerance must be a number from 0 on"):
            flmm.sample(model=model, loglik_tolerance=wrong)


def test_a_large_error_at_draws_is_said(pedigree, records, monkeypatch):
    monkeypatch.setattr(interpolation, "_LARGEST", 1e-12)
    with pytest.warns(UserWarning, match=r"of y is interpolated with an error of .*smaller loglik_tolerance"):
        flmm.sample(model=animal_model(pedigree, records, terms=("animal",)), **BRIEF)


def test_nodes_are_added_along_another_axis_where_they_are_too_many_along_the_neediest():
    def closer(counts, tails):
        return finer(SimpleNamespace(interpolant=SimpleNamespace(counts=counts), tails=np.array(tails)))

    assert closer((5, 5, 5), [1.0, 3.0, 2.0]) == (5, 9, 5)
    assert closer((17, 17, 9), [3.0, 2.0, 1.0]) == (17, 17, 17)  # 33 · 17 · 9 are more than 5000
    assert closer((17, 17, 17), [3.0, 2.0, 1.0]) is None


def messages(caplog, model, **options):
    caplog.set_level(logging.INFO, "pymc")
    caplog.clear()
    idata = flmm.sample(model=model, **(BRIEF | {"quiet": False} | options))
    assert not [key for key in idata.posterior.attrs if "loglik" in key]
    (said,) = [record.getMessage() for record in caplog.records if "not interpolated" in record.getMessage()]
    assert said.startswith("The likelihood of y is not interpolated, and each step of NUTS is one exact evaluation or")
    return said


def test_models_that_are_not_interpolated_say_why(pedigree, records, caplog):
    model = animal_model(pedigree, records, beta_cov=np.eye(2))
    assert "β is not integrated out under a flat prior: leave beta= and beta_cov= out" in messages(caplog, model)
    with pm.Model() as mean:
        m = pm.Normal("m")
        v = pm.HalfNormal("v", 2)
        herd = flmm.Term(records["herd"], cov.scalar(v), name="herd")
        flmm.StructuredLMM("y", terms=[herd], mu=m * np.ones(N), sigma2_e=v, observed=records["y"])
    assert "free variables are in the mean of y" in messages(caplog, mean)
    with pm.Model() as matrix:
        L, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2, sd_dist=pm.HalfNormal.dist(2, shape=2), compute_corr=True)
        columns = np.column_stack([np.ones(N), records["x"]])
        slopes = flmm.Term(records["herd"], cov.unstructured(cholesky=L), columns=columns, name="herd")
        flmm.StructuredLMM(
            "y", X=np.ones((N, 1)), terms=[slopes], sigma2_e=pm.HalfNormal("v", 2), observed=records["y"]
        )
    assert "interpolation is for the scalar variances of one to 3 terms" in messages(caplog, matrix)


def test_what_pymc_is_asked_for_besides_can_leave_no_place(pedigree, records, caplog):
    model = animal_model(pedigree, records, terms=("animal",))
    said = messages(caplog, model, idata_kwargs={"dims": {}})
    assert "idata_kwargs=, symbolic initial values and variables of pymc.dims leave no place" in said


def test_without_an_estimate_the_likelihood_stays_exact(records, pedigree, caplog):
    twice = animal_model(pedigree, records.assign(again=records["herd"]), terms=("herd", "again"))
    assert "the information on the variances is singular" in messages(caplog, twice)


def test_draws_without_the_variables_are_not_compared(pedigree, records):
    model = animal_model(pedigree, records, terms=("animal",))
    idata = flmm.sample(model=model, var_names=["animal"], **BRIEF)
    assert "y_loglik_nodes" in idata.posterior.attrs
    assert "y_loglik_error" not in idata.posterior.attrs


def test_another_model_of_the_structure_has_its_own_interpolant(pedigree, records):
    one, other = (animal_model(pedigree, records.assign(y=c * records["y"]), terms=("animal",)) for c in (1.0, 0.5))
    alone = flmm.sample(60, model=other, **QUIET)
    flmm.sample(60, model=one, **QUIET)
    again = flmm.sample(60, model=other, **QUIET)
    np.testing.assert_array_equal(alone.posterior["animal"], again.posterior["animal"])
