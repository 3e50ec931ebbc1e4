"""The seed of NUTS: moments against the exact posterior's, starts, and what it says when it cannot be had."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy.special import digamma, polygamma

import pm_fastlmm as flmm
from pm_fastlmm.posterior import seed
from pm_fastlmm.posterior.kept import Kept
from pm_fastlmm.posterior.mode import SeedError
from pm_fastlmm.posterior.seed import posterior_mode, posterior_seed

# share of variance, columns of W, seed of the data
CASES = ((0.0, 80, 2), (0.5, 80, 3), (1.0, 80, 0), (0.0, 8, 2), (0.97, 8, 3))


def make_data(h2, n=60, m=80, seed=3):
    """y with a given share of variance of K = WWᵀ, scaled to mean diagonal 1; h2 = 0 leaves REML on its boundary."""
    rng = np.random.default_rng([seed, n, m])
    W = rng.normal(size=(n, m)) * rng.gamma(1, size=m)
    W *= np.sqrt(n / (W**2).sum())
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = X @ [1.0, 2.0] + np.sqrt(h2) * W @ rng.normal(size=m) + np.sqrt(1 - h2) * rng.normal(size=n)
    return flmm.Spectrum.from_factor(W, X), y


def exact_moments(posterior, residual):
    """Mean and covariance of (logit h², log total), or of (logit h², log σ²_e) for a residual parameterisation."""
    x, w = posterior.x, posterior.weights
    log_variance = np.log(posterior.scale) - digamma(posterior.shape)  # E log of an InverseGamma, its variance below
    if residual:
        log_variance = log_variance - np.logaddexp(0, x)
    points = np.column_stack([x, log_variance])
    mean = w @ points
    cov = (points - mean).T @ ((points - mean) * w[:, None])
    cov[1, 1] += polygamma(1, posterior.shape)
    return mean, cov


def seed_of(model, chains=4, random_seed=1):
    [node] = flmm.lmm_nodes(model)
    return posterior_seed(Kept.of(model, node), node, chains=chains, rng=np.random.default_rng(random_seed))


@pytest.fixture(scope="module", params=CASES)
def seeded(request):
    h2, m, data_seed = request.param
    spectrum, y = make_data(h2, m=m, seed=data_seed)
    model = flmm.kernel_model(y, spectrum=spectrum)
    return h2, spectrum, y, model, seed_of(model, chains=2000)


def test_moments_are_those_of_the_exact_posterior(seeded):
    _, spectrum, y, _, s = seeded
    residual = 2 * spectrum.rank < spectrum.df
    assert s.variables == ("h2_logodds__", "sigma2_e_log__" if residual else "total_log__")
    mean, cov = exact_moments(flmm.exact_posterior(spectrum, y), residual)
    sd = np.sqrt(np.diag(cov))
    np.testing.assert_allclose((s.mean - mean) / sd, 0, atol=0.02)
    np.testing.assert_allclose(np.sqrt(np.diag(s.cov)), sd, rtol=0.02)
    np.testing.assert_allclose(s.cov[0, 1] / sd.prod(), cov[0, 1] / sd.prod(), atol=0.02)


def test_the_cases_include_both_boundaries_of_reml():
    fits = [flmm.reml(*make_data(h2, m=m, seed=s)) for h2, m, s in CASES]
    assert [fit.boundary for fit in fits] == [("sigma2_g",), (), ("sigma2_e",), ("sigma2_g",), ()]


def test_starts_are_draws_of_the_posterior_one_for_each_chain(seeded):
    _, spectrum, y, model, s = seeded
    assert len(s.starts) == 2000
    assert set(s.starts[0]) == {rv.name for rv in model.free_RVs}
    h2 = np.array([start["h2"] for start in s.starts])
    posterior = flmm.exact_posterior(spectrum, y)
    # they are drawn with replacement from 2048 weighted points
    assert abs(h2.mean() - posterior.mean("h2")) < 6 * posterior.sd("h2") / np.sqrt(1000)
    np.testing.assert_allclose(h2.std(), posterior.sd("h2"), rtol=0.15)
    if "total" in s.starts[0]:
        total = np.log([start["total"] for start in s.starts])
        np.testing.assert_allclose(total.mean(), s.mean[1], atol=6 * total.std() / np.sqrt(1000))


def test_the_start_of_other_samplers_is_the_posterior_mode(seeded):
    _, spectrum, _, model, _ = seeded
    [node] = flmm.lmm_nodes(model)
    start = posterior_mode(Kept.of(model, node), node)
    assert set(start) == {rv.name for rv in model.free_RVs}
    unconstrained = {"h2_logodds__": np.log(start["h2"] / (1 - start["h2"]))}
    name = "sigma2_e" if 2 * spectrum.rank < spectrum.df else "total"
    unconstrained[f"{name}_log__"] = np.log(start[name])
    gradient = model.compile_dlogp(mode=seed.INTERPRETED)
    np.testing.assert_allclose(gradient(unconstrained), 0, atol=1e-3)


def test_the_same_generator_gives_the_same_seed():
    spectrum, y = make_data(0.5, n=30)
    model = flmm.kernel_model(y, spectrum=spectrum)
    first, second, other = (seed_of(model, random_seed=r) for r in (5, 5, 6))
    np.testing.assert_array_equal(first.cov, second.cov)
    assert first.starts == second.starts
    assert first.starts != other.starts


def test_units_of_y_do_not_matter():
    spectrum, y = make_data(0.5, n=30)
    reference = seed_of(flmm.kernel_model(y, spectrum=spectrum))
    tiny = seed_of(flmm.kernel_model(1e-8 * y, spectrum=spectrum))
    np.testing.assert_allclose(tiny.mean - reference.mean, [0, 2 * np.log(1e-8)], atol=0.02)
    np.testing.assert_allclose(tiny.cov, reference.cov, rtol=0.05, atol=0.002)


def test_moments_of_an_explicit_beta_model_are_those_of_its_gaussian_posterior():
    spectrum, y = make_data(0.5, n=40)
    with pm.Model() as model:
        pm.Normal("unrelated")
        beta = pm.Normal("beta", 0, 3, shape=2)
        flmm.FastLMM("y", sigma2_g=0.6, sigma2_e=0.4, beta=beta, spectrum=spectrum, observed=y)
    s = seed_of(model)
    assert s.variables == ("beta",)
    K = spectrum.covariance_root()
    V = 0.6 * (K[0] @ K[0].T + K[1] @ K[1].T) + 0.4 * np.eye(40)
    cov = np.linalg.inv(spectrum.X.T @ np.linalg.solve(V, spectrum.X) + np.eye(2) / 9)
    sd = np.sqrt(np.diag(cov))
    np.testing.assert_allclose((s.mean - cov @ spectrum.X.T @ np.linalg.solve(V, y)) / sd, 0, atol=0.02)
    np.testing.assert_allclose(s.cov / np.outer(sd, sd), cov / np.outer(sd, sd), atol=0.03)


def test_variables_that_do_not_reach_the_node_are_left_out_and_hyperparameters_are_in():
    spectrum, y = make_data(0.5, n=30)
    with pm.Model() as model:
        concentration = pm.Gamma("concentration", 2, 1)
        h2 = pm.Beta("h2", concentration, 1)
        noise = pm.HalfNormal("noise")
        pm.Normal("other", 0, noise, observed=[1.0, 2.0])
        total = pm.HalfNormal("total", 2)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=y)
    s = seed_of(model)
    assert sorted(s.variables) == ["concentration_log__", "h2_logodds__", "total_log__"]
    assert np.linalg.eigvalsh(s.cov)[0] > 0


def test_a_second_likelihood_of_the_same_parameters_and_a_potential_are_part_of_the_moments():
    spectrum, y = make_data(0.5, n=30)
    means = {}
    for extra in ("none", "likelihood", "potential"):
        with pm.Model() as model:
            h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", 2)
            flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=y)
            if extra == "likelihood":
                pm.Normal("log_total", pm.math.log(total), 0.01, observed=np.log(3.0))
            if extra == "potential":
                pm.Potential("near_three", -0.5 * ((pm.math.log(total) - np.log(3.0)) / 0.01) ** 2)
        means[extra] = seed_of(model).mean[1]
    assert abs(means["none"] - np.log(3)) > 0.1
    np.testing.assert_allclose([means["likelihood"], means["potential"]], np.log(3), atol=0.01)


@pytest.mark.usefixtures("as_written")
def test_many_parameters_are_seeded_by_their_laplace_approximation():
    spectrum, y = make_data(0.5, n=30)
    responses = np.stack([y + 0.1 * t for t in range(14)])
    with pm.Model() as model:
        h2, total = pm.Beta("h2", 2, 2, shape=14), pm.InverseGamma("total", 2, 2, shape=14)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=responses)
    s = seed_of(model)
    assert s.mean.shape == (28,)
    # adding a constant to y changes nothing, so the responses have the same block
    np.testing.assert_allclose(s.mean.reshape(2, 14), s.mean.reshape(2, 14)[:, :1] * np.ones(14), atol=1e-3)
    blocks = s.cov.reshape(2, 14, 2, 14)
    off = blocks.transpose(1, 3, 0, 2)[~np.eye(14, dtype=bool)]
    np.testing.assert_allclose(off, 0, atol=1e-6 * s.cov.max())
    np.testing.assert_allclose(blocks[:, 3, :, 3], blocks[:, 0, :, 0], rtol=1e-2, atol=1e-4)


def test_no_parameters_is_an_error_that_says_so():
    spectrum, y = make_data(0.5, n=20)
    with pm.Model() as model:
        pm.Normal("mu")
        flmm.FastLMM("y", h2=0.5, total=1.0, spectrum=spectrum, observed=y)
    with pytest.raises(SeedError, match="no free continuous variable reaches y"):
        seed_of(model)


def test_a_discrete_variable_that_reaches_the_node_is_an_error_that_says_so():
    spectrum, y = make_data(0.5, n=20)
    with pm.Model() as model:
        switch = pm.Bernoulli("switch", 0.5)
        h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", 2)
        flmm.FastLMM("y", h2=h2, total=total * (1 + switch), spectrum=spectrum, observed=y)
    with pytest.raises(SeedError, match="switch"):
        seed_of(model)


def test_too_many_parameters_is_an_error_that_counts_them(monkeypatch):
    spectrum, y = make_data(0.5, n=20)
    monkeypatch.setattr(seed, "_MAX_LAPLACE", 1)
    with pytest.raises(SeedError, match="2 parameters reach y, more than 1"):
        seed_of(flmm.kernel_model(y, spectrum=spectrum))


@pytest.mark.usefixtures("as_written")
def test_a_posterior_without_density_is_an_error_that_says_so():
    spectrum, y = make_data(0.5, n=20)
    with pm.Model() as model:
        h2 = pm.Beta("h2", 1, 1)
        pm.Potential("impossible", -np.inf * h2)
        flmm.FastLMM("y", h2=h2, total=1.0, spectrum=spectrum, observed=y)
    with pytest.raises(SeedError, match="the log-posterior is not finite at the REML estimate"):
        seed_of(model)


def random_slopes(unit_y, unit_x):
    """Random slopes of `sleepstudy` in other units, Σ = LLᵀ: the element of L below the diagonal has those of y/x."""
    data = flmm.datasets.sleepstudy()
    days, y = data["Days"].to_numpy(dtype=float) * unit_x, data["Reaction"].to_numpy(dtype=float) * unit_y
    with pm.Model() as model:
        scales = pm.HalfNormal.dist(np.array([50 * unit_y, 20 * unit_y / unit_x]), shape=2)
        L = pm.LKJCholeskyCov("L", n=2, eta=2.0, sd_dist=scales, compute_corr=True)[0]
        sigma_e = pm.HalfNormal("sigma_e", 50 * unit_y)
        columns = pd.DataFrame({"one": 1.0, "Days": days})
        term = flmm.Term(data["Subject"], flmm.covariance.unstructured(L @ L.T, size=2), columns=columns)
        X = np.column_stack([np.ones(len(y)), days])
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=sigma_e**2, observed=y)
    return model


def test_random_slopes_in_wild_units_have_the_seed_of_ordinary_ones():
    def seed_of(unit_y, unit_x):
        model = random_slopes(unit_y, unit_x)
        [node] = flmm.lmm_nodes(model)
        return posterior_seed(Kept.of(model, node), node, chains=2, rng=np.random.default_rng(0))

    ordinary = seed_of(1.0, 1.0)
    assert ordinary.exact
    for unit_y, unit_x in ((1e-6, 1.0), (1e6, 1.0), (1.0, 1e6), (1e4, 1e-5)):
        wild = seed_of(unit_y, unit_x)
        # log L₁₁, L₂₁, log L₂₂ and log σ_e
        size = np.array([1.0, unit_y / unit_x, 1.0, 1.0])
        moved = np.log([unit_y, 1.0, unit_y / unit_x, unit_y])
        sd = np.sqrt(np.diag(ordinary.cov))
        # 2048 quasi-random points of another proposal: means are good to some hundredths of a standard deviation
        assert (np.abs((wild.mean - moved) / size - ordinary.mean) < 0.1 * sd).all()
        np.testing.assert_allclose(np.sqrt(np.diag(wild.cov)) / size, sd, rtol=0.1)
