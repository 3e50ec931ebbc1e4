"""Draws of effects, predictions and densities of single observations, against the curvature at a dense mode."""

from unittest import mock

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import scipy.linalg
import xarray as xr
from scipy.sparse import csc_array

import pm_fastlmm as flmm
from engines.contract import CASES, CHAINED, DAY, GROUP, X_NEW, M, N, X, counted_laplace, shares_laplace
from engines.latent.oracle import Laplace, exact_by_group, poisson_counts, successes
from engines.test_contract import assert_moments
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.latent.products import LatentProducts

DRAWS = 1000
OF = {case.name: case for case in CASES if case.name.startswith("latent")}
TRUTH = {name: (shares_laplace if name == "latent, sparse" else counted_laplace)(case.values, **case.known)
         for name, case in OF.items()}  # fmt: skip
EACH = pytest.mark.parametrize("name", OF)


def draws_of(count=DRAWS, chains=1, **values):
    """Return a posterior of copies of a point."""
    data = {key: (("chain", "draw"), np.full((chains, count), value)) for key, value in values.items()}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(data, coords={"chain": range(chains), "draw": range(count)})})


def linear(truth, X_new, Z_new, known=0.0):
    """Return mean and covariance of the linear predictor at rows, of coefficients and effects given y."""
    r = truth.coefficients
    rows = np.hstack([X_new[:, :r], Z_new])
    mean, cov = truth.moments
    fixed = 0.0 if truth.b is None else X_new @ truth.b
    return known + fixed + rows @ mean, rows @ cov @ rows.T


@EACH
def test_effects_have_the_mean_and_the_curvature(name):
    case, truth = OF[name], TRUTH[name]
    posterior = flmm.recover_effects(case.draws(DRAWS), model=case.model, random_seed=1).posterior
    drawn = [posterior[f"y_{own}"].to_numpy()[0] for own in ("beta", "g", "d")]
    if truth.coefficients:
        drawn[0] = drawn[0] - (0.0 if truth.b is None else truth.b)
    else:
        np.testing.assert_array_equal(drawn[0], np.broadcast_to(truth.b, (DRAWS, 2)))
        drawn = drawn[1:]
    assert_moments(np.hstack(drawn), *truth.moments)


def test_coefficients_are_added_by_sample_with_the_same_moments():
    case, truth = OF["latent"], TRUTH["latent"]
    rng = np.random.default_rng(3)
    beta = case.node.coefficients(Draws(case.model, case.draws(DRAWS).posterior.to_dataset()), rng)
    mean, cov = truth.moments
    assert_moments(beta[0], mean[:2], cov[:2, :2])


@EACH
@pytest.mark.parametrize("kind", ["given", "new", "population"])
def test_the_linear_predictor_in_sample(name, kind):
    case, truth = OF[name], TRUTH[name]
    group = flmm.predict(case.draws(DRAWS), effects=kind, model=case.model, random_seed=2).posterior_predictive
    eta, mean, y = (group[own].to_numpy()[0] for own in ("y_eta", "y_mean", "y"))
    Z = truth.Z if kind == "given" else np.zeros_like(truth.Z)
    centre, cov = linear(truth, X, Z, truth.mu)
    assert_moments(eta, centre, cov + (truth.Z @ truth.G @ truth.Z.T if kind == "new" else 0.0))
    np.testing.assert_allclose(mean, case.node.family.mean(eta, np.zeros(0)))
    variance = case.node.family.variance(eta, np.zeros(0))
    assert (np.abs((y - mean).mean(axis=0)) <= 5 * np.sqrt(variance.mean(axis=0) / DRAWS)).all()
    assert (y == np.round(y)).all()


@pytest.mark.parametrize("name", ["latent", "latent, Gaussian"])
@pytest.mark.parametrize("kind", ["given", "population"])
def test_the_linear_predictor_of_new_rows_and_levels(name, kind):
    case, truth = OF[name], TRUTH[name]
    arguments = {"X_new": X_NEW} | ({"Z_new": {"g": [0, 3, 99], "d": [1, 2, 1]}} if kind == "given" else {})
    group = flmm.predict(case.draws(DRAWS), **arguments, effects=kind, model=case.model, random_seed=3).predictions
    Z = np.zeros((M, 9))
    if kind == "given":
        Z[[0, 1], [0, 3]] = 1.0
        Z[np.arange(M), [6, 7, 6]] = 1.0
    mean, cov = linear(truth, X_NEW, Z)
    fresh = np.diag([0.0, 0.0, case.values["v"] if kind == "given" else 0.0])
    assert_moments(group["y_eta"].to_numpy()[0], mean, cov + fresh)
    np.testing.assert_allclose(group["y_mean"], np.exp(group["y_eta"]))
    assert group["y"].dims == ("chain", "draw", "y_new")


def test_new_rows_of_successes_have_one_trial_each():
    case = OF["latent, sparse"]
    arguments = {"X_new": X_NEW, "Z_new": {"g": [0, 3, 6], "d": [1, 2, 1]}}
    group = flmm.predict(case.draws(50), **arguments, model=case.model, random_seed=3).predictions
    assert set(np.unique(group["y"])) == {0.0, 1.0}
    np.testing.assert_allclose(group["y_mean"], 1 / (1 + np.exp(-group["y_eta"])))
    truth = TRUTH["latent, sparse"]
    Z = np.hstack([np.eye(7)[[0, 3, 6]], np.eye(4)[[1, 2, 1]]])
    drawn = flmm.predict(case.draws(DRAWS), **arguments, model=case.model, random_seed=4).predictions["y_eta"]
    assert_moments(drawn.to_numpy()[0], *linear(truth, X_NEW, Z))
    assert CHAINED.shape == (7, 7)


def test_predictions_of_ordered_categories_have_a_probability_of_each():
    group = np.repeat(np.arange(6), 5)
    y = np.random.default_rng(1).integers(0, 3, 30)
    with pm.Model() as model:
        v = pm.HalfNormal("v")
        cutpoints = pm.Normal("c", [-1.0, 1.0], 1.0, shape=2)
        term = flmm.Term(group, cov.scalar(v), name="g")
        flmm.LatentLMM("y", family="ordinal", terms=[term], cutpoints=cutpoints, observed=y)
    idata = draws_of(200, v=0.5)
    idata.posterior["c"] = xr.DataArray(np.tile([-0.7, 0.9], (1, 200, 1)), dims=("chain", "draw", "c_dim_0"))
    found = flmm.predict(idata, model=model, random_seed=1).posterior_predictive
    p = found["y_probability"]
    assert p.dims == ("chain", "draw", "y_dim_0", "y_category")
    eta = found["y_eta"].to_numpy()[..., None]
    below = 1 / (1 + np.exp(eta - np.array([-0.7, 0.9])))
    expected = np.diff(np.concatenate([0 * eta, below, 1 + 0 * eta], axis=-1), axis=-1)
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    np.testing.assert_allclose(found["y_mean"], expected @ np.arange(3.0), rtol=1e-12)
    assert set(np.unique(found["y"])) == {0.0, 1.0, 2.0}


def test_categories_of_a_formula_keep_their_names_and_trials_of_new_rows_are_those_of_their_table():
    rng = np.random.default_rng(4)
    table = pd.DataFrame({"g": np.repeat(list("abcdef"), 5), "x": rng.normal(size=30)})
    table["grade"] = pd.Categorical(rng.choice(["low", "mid", "high"], 30), ["low", "mid", "high"], ordered=True)
    table["m"], table["hits"] = 7, rng.integers(0, 8, 30)
    ordered = flmm.lmm_model("grade ~ x + (1 | g)", table, family="ordinal")
    shares = flmm.lmm_model("hits ~ x + (1 | g)", table, family="binomial", trials="m")
    for model in (ordered, shares):
        options = {"chains": 1, "cores": 1, "random_seed": 1, "progressbar": False, "quiet": True}
        idata = flmm.sample(20, tune=20, model=model, **options)
        new = table.head(3).assign(m=[1, 50, 1000], g=["a", "b", "new"])
        found = flmm.predict(idata, data=new, model=model, random_seed=1).predictions
        if model is ordered:
            assert list(found["grade_probability"]["grade_category"]) == ["low", "mid", "high"]
            np.testing.assert_allclose(found["grade_probability"].sum("grade_category"), 1.0)
        else:
            p = 1 / (1 + np.exp(-found["hits_eta"]))
            np.testing.assert_allclose(found["hits_mean"], p * [1, 50, 1000])
            assert (found["hits"] <= [1, 50, 1000]).all()


# ---------------------------------------------------------------- given all others


@EACH
def test_each_observation_given_the_others_is_the_approximation_without_its_part(name):
    case, truth = OF[name], TRUTH[name]
    idata = flmm.pointwise_log_likelihood(case.draws(2), model=case.model, progressbar=False)
    group = flmm.predict(idata, effects="left_out", model=case.model, random_seed=1).posterior_predictive
    for i in range(0, N, 3):
        density, eta, weights = truth.left_out(i)
        np.testing.assert_allclose(idata.log_likelihood["y"][0, 1, i], density, atol=1e-8)
        trials = getattr(case.node.family, "trials", np.ones(N))[i]
        means = trials / (1 + np.exp(-eta)) if name == "latent, sparse" else np.exp(eta)
        np.testing.assert_allclose(group["y_mean"][0, 1, i], weights @ means, rtol=1e-7)
    np.testing.assert_allclose(idata.log_likelihood["y"].sum("y_dim_0") + idata.log_likelihood["y_remainder"],
                               case.loglik(case.values), rtol=1e-9)  # fmt: skip


def test_draws_of_observations_given_the_others():
    case, truth = OF["latent"], TRUTH["latent"]
    group = flmm.predict(case.draws(4000), effects="left_out", model=case.model, random_seed=5).posterior_predictive
    for i in (0, 7, 20):
        _, eta, weights = truth.left_out(i)
        mean = weights @ eta
        sd = np.sqrt(weights @ (eta - mean) ** 2)
        drawn = group["y_eta"].to_numpy()[0, :, i]
        assert abs(drawn.mean() - mean) < 5 * sd / np.sqrt(4000)
        assert abs(drawn.std() / sd - 1) < 5 / np.sqrt(8000)
        expected = weights @ np.exp(eta)
        variance = expected + weights @ np.exp(2 * eta) - expected**2
        assert abs(group["y"].to_numpy()[0, :, i].mean() - expected) < 5 * np.sqrt(variance / 4000)


@pytest.mark.parametrize(("level", "sd", "worst", "total"), [(4.0, 0.6, 0.05, 0.03), (6.0, 0.6, 0.02, 0.005)])
def test_counts_have_nearly_the_exact_density_given_the_others(level, sd, worst, total):
    """Nearer the larger they are: what is left of an error is that of the normal approximation without one count."""
    rng = np.random.default_rng(2)
    group, X1 = np.repeat(np.arange(6), 4), np.ones((24, 1))
    y = rng.poisson(np.exp(level + sd * rng.normal(size=6)[group])).astype(float)
    with pm.Model() as model:
        v = pm.HalfNormal("v")
        term = flmm.Term(group, cov.scalar(v), name="g")
        flmm.LatentLMM("y", family="poisson", X=X1, beta=[level], terms=[term], observed=y)
    idata = flmm.pointwise_log_likelihood(draws_of(1, v=sd**2), model=model, progressbar=False)
    rows, found = np.arange(24), idata.log_likelihood["y"].to_numpy()[0, 0]

    def exact(kept):
        return exact_by_group(y[kept], np.full(len(kept), level), group[kept], sd, poisson_counts)

    truth = np.array([exact(rows) - exact(rows[rows != i]) for i in rows])
    assert np.abs(found - truth).max() < worst
    assert abs(found.sum() - truth.sum()) < total


def test_groups_given_the_others_are_ratios_of_approximations():
    case = OF["latent"]
    idata = flmm.pointwise_log_likelihood(case.draws(2), groups=GROUP, model=case.model, progressbar=False)
    found, whole = idata.log_likelihood["y_by_group"].to_numpy()[0, 1], TRUTH["latent"]
    assert found.shape == (5,)
    for j in range(5):
        kept = j != GROUP
        without = Laplace(whole.y[kept], X[kept], whole.Z[kept], whole.G, poisson_counts)
        assert found[j] == pytest.approx(whole.loglik - without.loglik, abs=1e-8)
    total = idata.log_likelihood["y_by_group"].sum("group") + idata.log_likelihood["y_remainder"]
    np.testing.assert_allclose(total, whole.loglik, rtol=1e-9)


def test_an_observation_that_alone_determines_a_coefficient_is_named():
    own = np.column_stack([np.ones(N), np.arange(N) == 5])
    y = np.random.default_rng(1).poisson(3, N)
    with pm.Model() as model:
        v = pm.HalfNormal("v")
        flmm.LatentLMM("y", family="poisson", X=own, terms=[flmm.Term(DAY, cov.scalar(v), name="d")], observed=y)
    for verb in (flmm.pointwise_log_likelihood, lambda idata, **o: flmm.predict(idata, effects="left_out", **o)):
        with pytest.raises(ValueError, match=r"observations 5 of y alone determine a fixed effect"):
            verb(draws_of(2, v=0.5), model=model)


def test_terms_without_fixed_effects_are_predicted_of_a_normal_response_too():
    with pm.Model() as model:
        v = pm.HalfNormal("v")
        term = flmm.Term(GROUP, cov.scalar(v), name="g")
        flmm.StructuredLMM("y", terms=[term, flmm.Term(DAY, cov.scalar(v), name="d")], sigma2_e=1.0, observed=X[:, 1])
    found = flmm.predict(draws_of(3, v=0.5), model=model, random_seed=1).posterior_predictive
    assert found["y_mean"].shape == (1, 3, N)


# ---------------------------------------------------------------- the order of draws


def test_draws_that_are_repeated_share_a_mode():
    case = OF["latent"]
    idata = draws_of(4, 2, v=0.9, w=0.5)
    idata.posterior["v"][1, 1:3] = 0.7
    expected = {(0, 0): 0.9, (1, 1): 0.7}
    counted = mock.Mock(side_effect=LatentProducts.laplace)
    with mock.patch.object(LatentProducts, "laplace", lambda self, *a: counted(self, *a)):
        flmm.recover_effects(idata, model=case.model, random_seed=1)
    assert counted.call_count == 2
    found = flmm.pointwise_log_likelihood(idata, model=case.model, progressbar=False).log_likelihood
    joint = found["y"].sum("y_dim_0") + found["y_remainder"]
    for place, value in expected.items():
        np.testing.assert_allclose(joint[place], counted_laplace({"v": value, "w": 0.5}).loglik, rtol=1e-9)


def test_a_draw_without_a_mode_is_named():
    case = OF["latent"]
    idata = draws_of(2, v=0.9, w=0.5)
    idata.posterior["v"][0, 1] = -1.0
    with pytest.raises(ValueError, match=r"likelihood of y has no mode at draw \(0, 1\).*a prior without mass there"):
        flmm.recover_effects(idata, model=case.model)


def test_what_the_terms_give_the_linear_predictor():
    case = OF["latent, sparse"]
    V = scipy.linalg.block_diag(0.9 * CHAINED, 0.5 * np.eye(4))
    Z = TRUTH["latent, sparse"].Z
    assert case.derived(case.values)["variance"].sum() == pytest.approx(np.trace(Z @ V @ Z.T) / N)


# ---------------------------------------------------------------- importance weights

FEW = np.repeat(np.arange(5), 6)
BINARY = np.random.default_rng(5).binomial(1, 1 / (1 + np.exp(-2.0 * np.sin(2 + FEW))))


def binary():
    with pm.Model() as model:
        v = pm.HalfNormal("v")
        term = flmm.Term(FEW, cov.scalar(v), name="g")
        flmm.LatentLMM("y", family="bernoulli", X=np.ones((30, 1)), beta=[0.2], terms=[term], observed=BINARY)
    return model


def exact_moments(sd):
    """Mean and standard deviation of each effect given y, by a fine grid."""
    u = np.linspace(-10, 10, 8001) * sd
    density = successes(np.ones(30))
    out = []
    for j in range(5):
        log = -0.5 * (u / sd) ** 2 + sum(density(BINARY[k], 0.2 + u, k)[0] for k in np.flatnonzero(j == FEW))
        w = np.exp(log - log.max())
        w /= w.sum()
        out.append((w @ u, np.sqrt(w @ (u - w @ u) ** 2)))
    return np.array(out).T


def test_effects_by_importance_have_the_exact_moments_given_the_parameters():
    mean, sd = exact_moments(2.0)
    model, errors = binary(), {}
    mode = Laplace(BINARY, np.ones((30, 1)), np.eye(5)[FEW], 4.0 * np.eye(5), successes(np.ones(30)), b=np.array([0.2]),
                   B=np.zeros((1, 1))).mode  # fmt: skip
    for by in ("curvature", "importance"):
        drawn = flmm.recover_effects(draws_of(4000, v=4.0), by=by, model=model, random_seed=1).posterior["y_g"][0]
        errors[by] = np.abs(drawn.mean("draw") - mean).to_numpy() / sd
    of_mode = np.abs(mode - mean) / sd
    assert errors["importance"].max() < 5 / np.sqrt(4000)  # five standard errors of a mean
    assert errors["curvature"].max() < of_mode.max() / 2


def test_unreliable_weights_are_refused_with_what_to_do_instead():
    rng = np.random.default_rng(1)
    group = np.arange(400)
    walk = cov.Precision(csc_array(np.diag(np.full(400, 2.1)) - np.eye(400, k=1) - np.eye(400, k=-1)), group)
    with pm.Model() as model:
        v = pm.HalfNormal("v")
        term = flmm.Term(group, cov.known(walk, v), name="g")
        flmm.LatentLMM("y", family="poisson", X=np.ones((400, 1)), terms=[term], observed=rng.poisson(1.0, 400))
    with pytest.raises(ValueError, match=r"weights do not stand for .* worth .*RelatedEffects.*effects='sampled'"):
        flmm.recover_effects(draws_of(3, v=2.0), by="importance", model=model)


def test_draws_that_are_exact_need_no_weights():
    with pm.Model() as model:
        v = pm.HalfNormal("v")
        flmm.StructuredLMM("y", terms=[flmm.Term(GROUP, cov.scalar(v), name="g")], sigma2_e=1.0, observed=X[:, 1])
    with pytest.raises(ValueError, match="y is a StructuredLMM, whose effects are drawn exactly"):
        flmm.recover_effects(draws_of(3, v=2.0), by="importance", model=model)
