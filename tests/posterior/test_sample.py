"""Seeded NUTS: against the exact posterior within Monte-Carlo error, and in models that hold more than the node."""

import arviz as az
import numpy as np
import pymc as pm
import pymc.dims as pmd
import pytest
from pymc.backends.arviz import find_constants, find_observations
from pymc.model.core import ValueGradFunction

import pm_fastlmm as flmm
from pm_fastlmm.posterior import seed

QUIET = {"progressbar": False, "quiet": True, "cores": 1, "chains": 2}
# share of variance, columns of W (80 of them give K full rank), seed of the data
CASES = ((0.0, 80, 2), (0.5, 80, 3), (1.0, 80, 0), (0.0, 8, 2), (0.5, 8, 3), (0.97, 8, 3))


def make_data(h2, m, seed, n=60):
    rng = np.random.default_rng([seed, n, m])
    W = rng.normal(size=(n, m)) * rng.gamma(1, size=m)
    W *= np.sqrt(n / (W**2).sum())
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = X @ [1.0, 2.0] + np.sqrt(h2) * W @ rng.normal(size=m) + np.sqrt(1 - h2) * rng.normal(size=n)
    return flmm.Spectrum.from_factor(W, X), y


@pytest.fixture(scope="module")
def data():
    return make_data(0.5, 80, 3)


@pytest.fixture(scope="module")
def exact(data):
    return flmm.exact_posterior(*data)


def default_priors(exact):
    """The prior of `kernel_model`, for models that are written by hand."""
    return pm.Beta("h2", 1, 1), pm.InverseGamma("total", exact.prior.total_shape, exact.prior.total_scale)


def assert_agrees(posterior, exact, names, z=4.0):
    """Means lie within z Monte-Carlo standard errors of the exact ones, and so do the tail probabilities of h²."""
    for quantity, name in names.items():
        draws = posterior[name]
        error = az.mcse(draws.to_numpy())
        assert abs(draws.mean().item() - exact.mean(quantity)) < z * error, quantity
    for probability in (0.1, 0.5, 0.9):
        below = (posterior[names["h2"]] < exact.quantile("h2", probability)).to_numpy()
        assert abs(below.mean() - probability) < z * az.mcse(below.astype(float)), probability


NAMES = {"h2": "h2", "total": "total", "sigma2": "y_sigma2", "sigma2_e": "y_sigma2_e", "pve": "y_pve"}


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"h2={c[0]}, {'full rank' if c[1] == 80 else 'low rank'}")
def run(request):
    spectrum, y = make_data(*request.param)
    with flmm.kernel_model(y, spectrum=spectrum):
        tree = flmm.sample(1000, random_seed=11, **QUIET)
    return spectrum, tree, flmm.exact_posterior(spectrum, y)


def test_nuts_agrees_with_the_exact_posterior(run):
    _, tree, exact = run
    assert_agrees(tree.posterior, exact, NAMES)


def test_the_seed_makes_a_short_warm_up_enough(run):
    _, tree, _ = run
    assert tree.posterior.attrs["tuning_steps"] == 100
    assert tree.sample_stats.diverging.sum().item() == 0
    assert 0.5 < tree.sample_stats.step_size.mean().item() < 2.0  # the covariance makes the posterior round
    for name in ("h2", "total"):
        draws = np.log(tree.posterior[name].to_numpy())
        assert az.ess(draws) > 400
        assert az.rhat(draws) < 1.02


def test_derived_variables_are_functions_of_the_same_draw(run):
    spectrum, tree, _ = run
    p = tree.posterior
    kbar, lbar = spectrum.mean_diagonal, spectrum.eigvals.sum() / spectrum.df
    g, e = p.h2 * p.total / kbar, (1 - p.h2) * p.total
    derived = {"sigma2": g, "sigma2_g": g, "sigma2_e": e, "delta": e / g, "h2": p.h2, "pve": lbar * g / (lbar * g + e)}
    for name, value in derived.items():
        assert p[f"y_{name}"].dims == ("chain", "draw")
        np.testing.assert_allclose(p[f"y_{name}"], value, rtol=1e-9)


def with_data(spectrum, y, exact):
    """The model of `kernel_model` with named data, for samplers that PyMC does not convert the results of."""
    with pm.Model(coords={"batch": list("ab")}) as model:
        pm.Data("covariate", [0.5, 1.0], dims="batch")
        h2, total = default_priors(exact)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=pm.Data("response", y))
    return model


@pytest.fixture(scope="module")
def nutpie():
    """Draws of a longer run, the response and its exact posterior."""
    spectrum, y = make_data(0.0, 80, 2)
    exact = flmm.exact_posterior(spectrum, y)
    with with_data(spectrum, y, exact):
        return flmm.sample(10_000, random_seed=3, nuts_sampler="nutpie", **QUIET), y, exact


@pytest.fixture(scope="module")
def numpyro(data, exact, sample_by_numpyro):
    return sample_by_numpyro(with_data(*data, exact), 500, chains=4, cores=None), data[1], exact


def test_a_longer_run_agrees_with_the_exact_posterior_in_its_tails_too(nutpie):
    tree, _, exact = nutpie
    assert tree.posterior.attrs["tuning_steps"] == 300
    assert_agrees(tree.posterior, exact, NAMES)
    for quantity in ("total", "sigma2", "sigma2_e"):
        draws = tree.posterior[NAMES[quantity]]
        for probability in (0.02, 0.25, 0.75, 0.98):
            below = (draws < exact.quantile(quantity, probability)).to_numpy()
            assert abs(below.mean() - probability) < 4 * az.mcse(below.astype(float)), (quantity, probability)


def test_numpyro_agrees_with_the_exact_posterior(numpyro):
    tree, _, exact = numpyro
    assert tree.posterior.attrs["inference_library"] == "numpyro"
    assert tree.posterior.attrs["tuning_steps"] == 300
    assert tree.posterior["h2"].sizes["chain"] == 4
    assert tree.posterior_predictive["y"].shape == (4, 500, 60)
    assert_agrees(tree.posterior, exact, NAMES)


@pytest.fixture(scope="module")
def mixed(data, exact):
    """The node beside a discrete variable, a second likelihood with parameters of its own, data, and a user's y_h2."""
    spectrum, y = data
    counts = np.array([3, 5, 2, 8])
    with pm.Model(coords={"obs": range(60), "batch": list("abcd")}) as model:
        covariate = pm.Data("covariate", [0.5, 1.0, 1.5, 2.0], dims="batch")
        response = pm.Data("response", y, dims="obs")
        h2, total = default_priors(exact)
        pm.Deterministic("y_h2", 100 * h2)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=response, dims="obs")
        switch = pm.Bernoulli("switch", 0.3)
        rate = pm.Gamma("rate", 2, 1)
        pm.Poisson("counts", rate * covariate * (1 + switch), observed=counts, dims="batch")
        tree = flmm.sample(500, tune=500, random_seed=5, **QUIET)
    return model, tree


def test_other_variables_leave_the_posterior_of_the_node_exact(mixed, exact):
    assert_agrees(mixed[1].posterior, exact, {"h2": "h2", "total": "total", "sigma2": "y_sigma2"})
    assert mixed[1].sample_stats.diverging.sum().item() == 0


def test_other_variables_get_their_own_posterior(mixed):
    posterior = mixed[1].posterior
    # Gamma(2, 1) prior, 18 events over an exposure of 5 or 10, with evidence for either
    means = {0: 20 / 6, 1: 20 / 11}
    odds = 0.3 / 0.7 * (10 / 5) ** 18 * (6 / 11) ** 20
    probability = odds / (1 + odds)
    switch, rate = posterior["switch"].to_numpy(), posterior["rate"].to_numpy()
    assert abs(switch.mean() - probability) < 4 * az.mcse(switch.astype(float))
    assert abs(rate.mean() - ((1 - probability) * means[0] + probability * means[1])) < 4 * az.mcse(rate)


def test_a_variable_of_the_user_is_not_overwritten(mixed):
    posterior = mixed[1].posterior
    np.testing.assert_allclose(posterior["y_h2"], 100 * posterior["h2"])
    assert "y_pve" in posterior


def test_data_groups_are_those_of_pymc(mixed):
    model, tree = mixed
    for group, reference in (("constant_data", find_constants(model)), ("observed_data", find_observations(model))):
        assert set(tree[group].data_vars) == set(reference)
        for name, values in reference.items():
            np.testing.assert_array_equal(tree[group][name], values)
    assert tree.constant_data["covariate"].dims == ("batch",)
    assert list(tree.constant_data["batch"].values) == list("abcd")


def test_the_users_model_is_left_as_it_was(mixed):
    model, _ = mixed
    assert [v.name for v in model.data_vars] == ["covariate", "response"]
    assert [v.name for v in model.free_RVs] == ["h2", "total", "switch", "rate"]


@pytest.mark.usefixtures("as_written")
def test_the_tree_serves_pymc_afterwards(mixed):
    model, tree = mixed
    with model:
        drawn = pm.sample_posterior_predictive(tree, var_names=["counts"], random_seed=1, progressbar=False)
    assert drawn.posterior_predictive["counts"].dims == ("chain", "draw", "batch")


@pytest.mark.parametrize("sampler", ["nutpie", "numpyro"])
def test_other_samplers_keep_the_data_groups(sampler, request):
    tree, y, _ = request.getfixturevalue(sampler)
    np.testing.assert_array_equal(tree.constant_data["covariate"], [0.5, 1.0])
    np.testing.assert_array_equal(tree.observed_data["y"], y)


def test_a_hyperprior_on_h2_has_its_exact_posterior(data, exact):
    spectrum, y = data
    with pm.Model() as model:
        a = pm.Gamma("a", 3, 2)
        h2 = pm.Beta("h2", a, 1)
        total = pm.InverseGamma("total", 1, exact.prior.total_scale)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=y)
    posterior = flmm.sample(1000, model=model, random_seed=7, **QUIET).posterior
    grid = np.linspace(0.05, 12, 100)
    fits = [
        flmm.exact_posterior(spectrum, y, prior=flmm.priors.VariancePrior(v, 1, 1, exact.prior.total_scale))
        for v in grid
    ]
    log_weights = 2 * np.log(grid) - 2 * grid + [fit.log_evidence for fit in fits]
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    for name, values in {"a": grid, "h2": [fit.mean("h2") for fit in fits]}.items():
        draws = posterior[name].to_numpy()
        assert abs(draws.mean() - weights @ values) < 4 * az.mcse(draws)


def test_explicit_beta_with_a_flat_prior_has_the_exact_posterior(data, exact):
    spectrum, y = data
    with pm.Model() as model:
        h2, total = default_priors(exact)
        flmm.FastLMM("y", h2=h2, total=total, beta=pm.Flat("beta", shape=2), spectrum=spectrum, observed=y)
    tree = flmm.sample(1000, model=model, random_seed=7, **QUIET)
    assert tree.posterior.attrs["tuning_steps"] == 100
    assert_agrees(tree.posterior, exact, {"h2": "h2", "total": "total", "sigma2": "y_sigma2"})
    draws, (mean, cov) = tree.posterior.beta.to_numpy(), exact.beta()
    for j in range(2):
        assert abs(draws[..., j].mean() - mean[j]) < 4 * az.mcse(draws[..., j])
    np.testing.assert_allclose(np.cov(draws.reshape(-1, 2).T), cov, rtol=0.2, atol=0.1 * cov.max())


def test_several_responses_have_their_exact_posteriors(data):
    spectrum, y = data
    Y = np.column_stack([y, make_data(0.0, 80, 2)[1], np.roll(y, 7)])
    model = flmm.kernel_model(Y, spectrum=spectrum)
    tree = flmm.sample(500, model=model, random_seed=2, **QUIET)
    prior = flmm.priors.VariancePrior.scaled_to(spectrum.rotate(Y))
    for t, name in enumerate(spectrum.rotate(Y).names):
        exact = flmm.exact_posterior(spectrum, Y[:, t], prior=prior)
        assert_agrees(tree.posterior.to_dataset().sel(response=name), exact, NAMES)
    assert tree.posterior["y_delta"].dims == ("chain", "draw", "response")
    assert tree.posterior.attrs["tuning_steps"] == 100


@pytest.fixture(scope="module")
def two_nodes(data, exact):
    with pm.Model() as model:
        h2, total = default_priors(exact)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=data[0], observed=data[1])
        spectrum, y = make_data(0.5, 8, 3)
        sigma2_e = pm.HalfNormal("sigma2_e", 2)
        flmm.FastLMM("second", sigma2_g=total, sigma2_e=sigma2_e, spectrum=spectrum, observed=y)
    return model


@pytest.fixture
def few_points(monkeypatch):
    """The seed is a search of a few points, where the draws are not compared with a posterior."""
    monkeypatch.setattr(seed, "_POINTS", 256)


@pytest.mark.usefixtures("as_written", "few_points")
def test_one_of_two_nodes_seeds_and_both_are_reported(two_nodes):
    tree = flmm.sample(20, tune=20, model=two_nodes, var_name="second", random_seed=2, **QUIET)
    posterior = tree.posterior
    np.testing.assert_allclose(posterior["second_sigma2"], posterior["total"])
    np.testing.assert_allclose(posterior["second_delta"], posterior["sigma2_e"] / posterior["total"])
    np.testing.assert_allclose(posterior["y_h2"], posterior["h2"])


def test_two_nodes_need_a_name(two_nodes):
    with pytest.raises(ValueError, match=r"the model has several LMM nodes \(y, second\): name one with var_name="):
        flmm.sample(model=two_nodes)
    with pytest.raises(ValueError, match=r"no LMM node is called 'third': the model has y, second"):
        flmm.sample(model=two_nodes, var_name="third")


def test_a_model_without_a_node_is_refused():
    with pm.Model() as model:
        pm.Normal("mu")
    with pytest.raises(
        ValueError, match=r"MatrixLMM or StructuredLMM node: add one, or use pymc\.sample.*effects='integrated'"
    ):
        flmm.sample(model=model)
    with pytest.raises(TypeError, match="there is no model here"):
        flmm.sample()


@pytest.fixture(scope="module")
def model(data):
    return flmm.kernel_model(data[1], spectrum=data[0])


def test_the_random_seed_determines_the_draws(model):
    first, second, other = (flmm.sample(30, model=model, random_seed=s, **QUIET).posterior.h2 for s in (4, 4, 5))
    np.testing.assert_array_equal(first, second)
    assert not np.any(first.to_numpy() == other.to_numpy())
    assert not np.any(first.to_numpy()[0] == first.to_numpy()[1])


def test_chains_in_processes_draw_what_chains_in_one_process_draw(model):
    here, there = (flmm.sample(30, model=model, random_seed=4, **(QUIET | {"cores": c})).posterior for c in (1, 2))
    np.testing.assert_array_equal(here.h2, there.h2)


def test_tune_and_options_of_nuts_are_passed_on(model):
    tree = flmm.sample(200, tune=150, target_accept=0.98, max_treedepth=7, model=model, random_seed=4, **QUIET)
    assert tree.posterior.attrs["tuning_steps"] == 150
    assert tree.sample_stats.acceptance_rate.mean().item() > 0.94
    assert tree.sample_stats.tree_depth.max().item() <= 7
    shallow = flmm.sample(50, nuts={"target_accept": 0.98, "max_treedepth": 1}, model=model, random_seed=4, **QUIET)
    assert shallow.sample_stats.tree_depth.max().item() == 1


@pytest.mark.usefixtures("as_written")
def test_step_and_initvals_leave_the_seed_out_and_the_variances_in(model, monkeypatch):
    for name in ("posterior_seed", "posterior_mode"):
        monkeypatch.setattr(f"pm_fastlmm.posterior.sample.{name}", lambda *a, **k: pytest.fail("the seed was computed"))
    metropolis = flmm.sample(20, tune=20, step=pm.Metropolis(model=model), model=model, random_seed=1, **QUIET)
    assert "accepted" in metropolis.sample_stats
    assert "y_delta" in metropolis.posterior
    started = flmm.sample(
        20, tune=20, initvals={"h2": 0.3}, nuts_sampler="pymc", model=model, random_seed=1, **QUIET
    )  # fmt: skip
    assert "y_delta" in started.posterior


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("reaches", ["nothing", "a discrete variable"])
def test_a_seed_that_fails_warns_and_falls_back(data, reaches):
    with pm.Model() as model:
        mu = pm.Normal("mu", 3, 0.1)
        variance = 1.0
        if reaches != "nothing":
            variance = pm.HalfNormal("variance") * (1 + pm.Bernoulli("switch", 0.5))
        flmm.FastLMM("y", h2=0.5, total=variance, spectrum=data[0], observed=data[1])
        pm.Normal("other", mu, 0.1, observed=3.0)
    with pytest.warns(
        UserWarning, match=r"NUTS could not be seeded for y \(.*\); PyMC's default initialisation is used"
    ):
        tree = flmm.sample(100, tune=100, model=model, random_seed=1, **QUIET)
    assert abs(tree.posterior["mu"].mean().item() - 3) < 0.1
    assert "y_sigma2" in tree.posterior


@pytest.mark.usefixtures("as_written", "few_points")
@pytest.mark.parametrize("other", [False, True], ids=["the node alone", "beside another variable"])
def test_the_log_posterior_is_compiled_once_for_the_seed_and_for_nuts(other, data, exact, monkeypatch):
    with pm.Model() as model:
        h2, total = default_priors(exact)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=data[0], observed=data[1])
        if other:
            pm.Normal("other")
    compiled = []
    monkeypatch.setattr(
        "pymc.model.core.ValueGradFunction.__init__",
        lambda self, *a, _init=ValueGradFunction.__init__, **k: compiled.append(1) or _init(self, *a, **k),
    )
    monkeypatch.setattr(
        "pm_fastlmm.posterior.seed._compile_marginal",
        lambda *a, _compile=seed._compile_marginal, **k: compiled.append(1) or _compile(*a, **k),
    )
    flmm.sample(5, tune=5, model=model, random_seed=1, **QUIET)
    assert len(compiled) == 1 + other  # the seed of a node beside others needs the density of its own variables


def test_var_names_keep_what_was_asked_for(model):
    tree = flmm.sample(20, tune=20, var_names=["h2"], model=model, random_seed=1, **QUIET)
    assert "h2" in tree.posterior
    assert "total" not in tree.posterior


def test_variables_of_pymc_dims_are_sampled(data, exact):
    with pm.Model(coords={"response": ["a", "b"], "obs": range(60)}) as model:
        h2 = pmd.Beta("h2", 1, 1, dims="response")
        total = pmd.InverseGamma("total", 1, exact.prior.total_scale, dims="response")
        Y = np.stack([data[1], -data[1]])
        flmm.FastLMM("y", h2=h2.values, total=total.values, spectrum=data[0], observed=Y, dims=("response", "obs"))
    posterior = flmm.sample(300, model=model, random_seed=1, **QUIET).posterior.to_dataset()
    for response in "ab":
        assert_agrees(posterior.sel(response=response), exact, NAMES)


def test_a_formula_is_sampled_as_its_model_is():
    formula, data = "Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff()
    options = {"draws": 20, "tune": 20, "chains": 1, "random_seed": 3, "progressbar": False, "quiet": True}
    drawn = flmm.sample(model=formula, data=data, **options)
    of_model = flmm.sample(model=flmm.lmm_model(formula, data), **options)
    np.testing.assert_allclose(drawn.posterior["sigma_Batch"], of_model.posterior["sigma_Batch"])
