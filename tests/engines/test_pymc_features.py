"""FastLMM as a citizen of PyMC: data containers, transformations, pickling, graphs, dims, optimisation, chains."""

import copy

import arviz as az
import cloudpickle
import numpy as np
import pymc as pm
import pymc.dims as pmd
import pytest
from pymc.model.transform.optimization import freeze_dims_and_data, freeze_model

import pm_fastlmm as flmm
from pm_fastlmm.engines.callbacks import CalledBack

AT = {"h2": 0.37, "total": 2.2}
b = np.array([1.0, -2.0, 0.5])


@pytest.fixture(scope="module")
def p(build):
    return build("factor", n=24)


def make_model(p, observed, coords=True, **kwargs):
    with pm.Model(coords={"obs": [f"id{i}" for i in range(p.n)]} if coords else None) as model:
        variances = {"h2": pm.Beta("h2", 1, 1), "total": pm.Gamma("total", 2, 1)}
        dims = {"dims": "obs"} if coords else {}
        flmm.FastLMM("y", spectrum=p.spectrum, observed=observed, **variances, **dims, **kwargs)
    return model


@pytest.fixture(scope="module")
def model(p):
    return make_model(p, p.y)


def expected(p, y, h2=AT["h2"], total=AT["total"]):
    return p.dense.flat(y, h2 * total / p.dense.kbar, (1 - h2) * total)


def logp_at(model, evaluate, h2=AT["h2"], total=AT["total"]):
    """The log-density of the node y at given values of the model's variables, whatever these are."""
    node = next(node for node in flmm.lmm_nodes(model) if node.name == "y")
    [logp] = model.logp(vars=[node.rv], jacobian=False, sum=False)
    constrained = {"h2": h2, "total": total}
    given = {}
    for rv in model.free_RVs:
        transform = model.rvs_to_transforms[rv]
        value = constrained[rv.name]
        value = value if transform is None else evaluate(transform.forward(np.asarray(value), *rv.owner.inputs))
        given[model.rvs_to_values[rv]] = value
    return evaluate(logp, given)


def test_the_node_of_a_model_has_the_density_of_y_and_its_parameters(p, model, evaluate):
    [node] = flmm.lmm_nodes(model)
    assert (node.name, node.treatment, node.spectrum) == ("y", "flat", p.spectrum)
    np.testing.assert_array_equal(node.observed, p.y)
    np.testing.assert_allclose(logp_at(model, evaluate), expected(p, p.y), rtol=1e-12)
    g, e = evaluate([node.sigma2_g, node.sigma2_e], {model["h2"]: 0.37, model["total"]: 2.2})
    np.testing.assert_allclose([g, e], [0.37 * 2.2 / p.dense.kbar, 0.63 * 2.2])


@pytest.mark.parametrize(
    "change",
    [pm.Model.copy, freeze_dims_and_data, freeze_model, lambda m: cloudpickle.loads(cloudpickle.dumps(m))],
    ids=["copy", "freeze_dims_and_data", "freeze_model", "cloudpickle"],
)
def test_node_and_density_survive(p, evaluate, change):
    with pm.Model(coords={"obs": range(p.n)}) as model:
        y = pm.Data("data", p.y, dims="obs")
        h2, total = pm.Beta("h2", 1, 1), pm.Gamma("total", 2, 1)
        flmm.FastLMM("y", spectrum=p.spectrum, h2=h2, total=total, observed=y, dims="obs")
    changed = change(model)
    changed = getattr(changed, "model", changed)
    [node] = flmm.lmm_nodes(changed)
    np.testing.assert_array_equal(node.spectrum.eigvals, p.spectrum.eigvals)
    np.testing.assert_array_equal(node.observed, p.y)
    np.testing.assert_allclose(logp_at(changed, evaluate), expected(p, p.y), rtol=1e-12)


def test_do_fixes_a_parameter(p, model, evaluate):
    intervened = pm.do(model, {"h2": 0.9})
    assert [node.spectrum for node in flmm.lmm_nodes(intervened)] == [p.spectrum]
    assert [rv.name for rv in intervened.free_RVs] == ["total"]
    np.testing.assert_allclose(logp_at(intervened, evaluate), expected(p, p.y, h2=0.9), rtol=1e-12)


def test_do_on_the_node_leaves_no_node(p, model):
    assert flmm.lmm_nodes(pm.do(model, {"y": p.y})) == []


def test_observe_gives_a_latent_node_its_data(p, evaluate):
    latent = make_model(p, None, beta=b)
    [node] = flmm.lmm_nodes(latent)
    assert (node.observed, node.treatment) == (None, "proper")
    observed = pm.observe(latent, {"y": p.y})
    [node] = flmm.lmm_nodes(observed)
    np.testing.assert_array_equal(node.observed, p.y)
    variances = AT["h2"] * AT["total"] / p.dense.kbar, (1 - AT["h2"]) * AT["total"]
    np.testing.assert_allclose(logp_at(observed, evaluate), p.dense.proper(p.y, *variances, b), rtol=1e-12)


def test_a_latent_node_has_a_density_as_a_free_variable(p, evaluate):
    latent = make_model(p, None, beta=b)
    value = latent.rvs_to_values[latent["y"]]
    [logp] = latent.logp(vars=[latent["y"]], jacobian=False, sum=False)
    others = {
        latent.rvs_to_values[latent["h2"]]: np.log(0.37 / 0.63),
        latent.rvs_to_values[latent["total"]]: np.log(2.2),
    }
    variances = AT["h2"] * AT["total"] / p.dense.kbar, (1 - AT["h2"]) * AT["total"]
    np.testing.assert_allclose(evaluate(logp, others | {value: p.y}), p.dense.proper(p.y, *variances, b), rtol=1e-12)


def test_set_data_changes_what_is_observed(p, evaluate):
    with pm.Model() as model:
        y = pm.Data("data", p.y)
        h2, total = pm.Beta("h2", 1, 1), pm.Gamma("total", 2, 1)
        flmm.FastLMM("y", spectrum=p.spectrum, h2=h2, total=total, observed=y)
        other = p.y**2
        pm.set_data({"data": other})
    np.testing.assert_array_equal(flmm.lmm_nodes(model)[0].observed, other)
    np.testing.assert_allclose(logp_at(model, evaluate), expected(p, other), rtol=1e-12)


def test_mu_may_be_a_data_container(p, evaluate):
    with pm.Model() as model:
        offset = pm.Data("offset", np.zeros(p.n))
        h2, total = pm.Beta("h2", 1, 1), pm.Gamma("total", 2, 1)
        flmm.FastLMM("y", spectrum=p.spectrum, h2=h2, total=total, mu=offset, observed=p.y)
        pm.set_data({"offset": np.sin(np.arange(p.n))})
    np.testing.assert_allclose(logp_at(model, evaluate), expected(p, p.y - np.sin(np.arange(p.n))), rtol=1e-12)


def test_compute_log_likelihood_is_the_joint_density_of_each_draw(p, model):
    h2, total = np.array([[0.1, 0.5, 0.9]]), np.array([[0.5, 1.0, 4.0]])
    tree = az.from_dict({"posterior": {"h2": h2, "total": total}})
    pm.compute_log_likelihood(tree, model=model, progressbar=False)
    densities = [[expected(p, p.y, *v) for v in zip(h2[0], total[0], strict=True)]]
    np.testing.assert_allclose(tree.log_likelihood.y, densities, rtol=1e-12)


def test_find_map_under_flat_priors_is_reml(p):
    with pm.Model():
        h2, total = pm.Uniform("h2", 0, 1), pm.HalfFlat("total", initval=1.0)
        flmm.FastLMM("y", spectrum=p.spectrum, h2=h2, total=total, observed=p.y)
        tree = pm.find_MAP(progressbar=False, return_inferencedata=True, jitter=False)
    fit = flmm.reml(p.spectrum, p.y)
    assert fit.boundary == ()
    point = tree.children[next(iter(tree.children))]
    np.testing.assert_allclose([point.h2.item(), point.total.item()], [fit.h2, fit.total], rtol=1e-4)


def test_graph_has_edges_from_the_parameters_to_the_node(model):
    text = pm.model_to_mermaid(model)
    assert "h2 --> y" in text
    assert "total --> y" in text
    assert "FastLMM" in text
    assert "obs (24)" in text


def test_graphviz_draws_the_node(model):
    pytest.importorskip("graphviz")
    source = pm.model_to_graphviz(model).source
    assert "FastLMM" in source
    assert "h2 -> y" in source


def test_text_of_the_model_names_the_distribution(model):
    assert "y ~ FastLMM(" in model.str_repr()


@pytest.mark.filterwarnings("ignore:draws of .* are error contrasts")
def test_coords_of_the_node_label_its_predictions(p, model):
    tree = pm.sample_prior_predictive(3, model=model, random_seed=1)
    assert tree.prior_predictive.y.dims == ("chain", "draw", "obs")
    assert list(tree.prior_predictive.obs.values) == [f"id{i}" for i in range(p.n)]
    assert list(tree.observed_data.obs.values) == [f"id{i}" for i in range(p.n)]


def test_variables_of_pymc_dims_are_parameters_through_values(p, evaluate):
    Y = np.stack([p.y, 2 * p.y])
    with pm.Model(coords={"response": ["a", "b"], "obs": range(p.n)}) as model:
        h2, total = pmd.Beta("h2", 1, 1, dims="response"), pmd.Gamma("total", 2, 1, dims="response")
        flmm.FastLMM(
            "y", spectrum=p.spectrum, h2=h2.values, total=total.values, observed=Y, dims=("response", "obs")
        )  # fmt: skip
    [logp] = model.logp(vars=[model["y"]], jacobian=False, sum=False)
    values = dict(zip(model.value_vars, (np.log([0.37 / 0.63, 1.0]), np.log([2.2, 3.0])), strict=True))
    np.testing.assert_allclose(evaluate(logp, values), [expected(p, Y[0]), expected(p, Y[1], 0.5, 3.0)], rtol=1e-12)


def test_a_variable_of_pymc_dims_is_refused_where_pymc_refuses_it(p):
    with pm.Model(), pytest.raises(TypeError, match=r"convert explicitly using `x.values`"):
        flmm.FastLMM("y", spectrum=p.spectrum, h2=pmd.Beta("h2", 1, 1), total=1.0, observed=p.y)


def test_nodes_are_listed_in_the_order_of_the_model_and_other_variables_are_not(p):
    with pm.Model() as model:
        pm.Normal("x")
        for name in ("second", "first"):
            flmm.FastLMM(name, spectrum=p.spectrum, h2=0.5, total=1.0, observed=p.y)
        flmm.FastLMM("latent", spectrum=p.spectrum, h2=0.5, total=1.0, beta=b)
    assert sorted(node.name for node in flmm.lmm_nodes(model)) == ["first", "latent", "second"]
    assert [node.name for node in flmm.lmm_nodes(model) if node.observed is not None] == ["second", "first"]


def test_the_node_of_a_rotated_response_gives_it_back(p):
    for y in (p.y, np.column_stack([p.y, p.y**2])):
        rotated = p.spectrum.rotate(y)
        with pm.Model() as model:
            flmm.FastLMM("y", spectrum=p.spectrum, h2=0.5, total=1.0, observed=rotated)
        for same in (model, freeze_dims_and_data(model), copy.deepcopy(model)):
            back = flmm.lmm_nodes(same)[0].rotated()
            for name in ("z", "rss", "norm2", "y1"):
                np.testing.assert_array_equal(getattr(back, name), getattr(rotated, name))


def test_sequential_monte_carlo_finds_the_posterior(p, model):
    tree = pm.sample_smc(
        200, chains=2, cores=1, model=model, progressbar=False, random_seed=1, compute_convergence_checks=False
    )
    # the prior of the model is not that of exact_posterior: compare with quadrature over a grid
    h2, total = np.meshgrid(np.linspace(0.005, 0.995, 60), np.geomspace(0.05, 60, 80), indexing="ij")
    logp = np.vectorize(lambda h, t: expected(p, p.y, h, t))(h2, total) + 2 * np.log(total) - total
    weights = np.exp(logp - logp.max())
    assert abs(tree.posterior.h2.mean().item() - (weights * h2).sum() / weights.sum()) < 0.05


def test_compiled_code_calls_operations_back_without_a_copy_of_their_data():
    """Numba copies the pickle of what it calls back at each call, and keeps what it was of."""
    from pm_fastlmm.engines.numba import _ByNumber

    data = np.arange(1_000_000.0)
    operation = _ByNumber(CalledBack(data))
    pickled = cloudpickle.dumps(operation)
    assert len(pickled) < 500
    assert cloudpickle.loads(pickled) is operation
    assert operation.op.data is data
