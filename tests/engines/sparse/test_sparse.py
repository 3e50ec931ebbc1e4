"""Terms by sparse mixed-model equations: likelihood, effects and errors of dense algebra, and when they are taken."""

from unittest import mock

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.base import memory
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.engines.structured import choice
from pm_fastlmm.engines.structured.products import MixedProducts

QUIET = {"progressbar": False}


def small_is_sparse():
    """Let the sparse engine evaluate terms however few their effects are."""
    return mock.patch.multiple(choice, _SMALL=-1)


def small_is_dense():
    """Let blocked elimination do so however many they are."""
    return mock.patch.multiple(choice, _SMALL=10**6)


def genealogy(n, founders, rng):
    """Parents of n individuals, of which one is selfed and some have one known parent."""
    sire, dam = [None] * founders, [None] * founders
    for i in range(founders, n):
        sire.append(f"i{rng.integers(0, i)}" if rng.uniform() < 0.9 else None)
        dam.append(f"i{rng.integers(0, i)}")
    dam[founders + 2] = sire[founders + 2] = "i1"
    return [f"i{k}" for k in range(n)], sire, dam


@pytest.fixture(scope="module")
def herd():
    """Seventy related individuals, of which some have several records in twelve herds."""
    rng = np.random.default_rng(4)
    names, sire, dam = genealogy(70, 15, rng)
    pedigree = cov.Pedigree(names, sire, dam)
    u = np.linalg.cholesky(pedigree.dense(names).to_numpy()) @ rng.normal(size=(70, 2))
    own = rng.integers(20, 70, 130)
    table = pd.DataFrame(
        {"animal": np.array(names)[own], "herd": rng.integers(0, 12, 130), "age": rng.uniform(-1, 1, 130)}
    )
    table["weight"] = (
        u[own, 0] + u[own, 1] * table["age"] + 0.5 * rng.normal(size=12)[table["herd"]] + rng.normal(size=130)
    )
    table["w"] = rng.uniform(0.5, 2, 130)
    return pedigree, table


MODELS = {
    "a variance": "weight ~ age + (1 | animal)",
    "two terms": "weight ~ age + (1 | animal) + (1 | herd)",
    "correlated slopes": "weight ~ age + (age | animal) + (1 | herd)",
    "independent slopes": "weight ~ age + (age || animal)",
}


@pytest.fixture(scope="module", params=MODELS, ids=str)
def pair(request, herd):
    """The same fit by both engines: of a sparse inverse, and of a dense covariance of all individuals."""
    pedigree, table = herd
    formula, options = MODELS[request.param], {"weights": "w"} if request.param == "two terms" else {}
    everyone = table.assign(animal=pd.Categorical(table["animal"], list(pedigree.labels)))
    with small_is_sparse():
        sparse = flmm.find_reml(formula, table, known={"animal": pedigree}, **QUIET, **options)
    with small_is_dense():
        dense = flmm.find_reml(formula, everyone, known={"animal": pedigree.dense(pedigree.labels)}, **QUIET, **options)
    assert isinstance(sparse.node.products, SparseProducts)
    assert isinstance(dense.node.products, MixedProducts)
    return sparse, dense


def elsewhere(fit):
    """θ inside its bounds, not at the estimate."""
    values = {}
    for name, value in fit.theta.items():
        values[name] = 0.1 if "," in name else 0.8 * value + 0.2
    return np.array(list(values.values()))


def test_likelihood_score_and_information_are_those_of_dense_algebra(pair):
    sparse, dense = (fit.objective for fit in pair)
    theta = elsewhere(pair[0])
    assert_allclose(sparse.log_likelihood(theta), dense.log_likelihood(theta), rtol=1e-12)
    scale = np.sqrt(np.diag(dense.average_information(theta)))
    assert_allclose(sparse.score(theta) / scale, dense.score(theta) / scale, atol=1e-9)
    information = [o.average_information(theta) / np.outer(scale, scale) for o in (sparse, dense)]
    assert_allclose(*information, atol=1e-10)
    for one, other in zip(sparse.blue(theta), dense.blue(theta), strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_estimates_effects_and_their_errors_agree(pair):
    sparse, dense = pair
    assert sparse.converged
    assert_allclose(sparse.loglik, dense.loglik, rtol=1e-10)
    assert sparse.boundary == dense.boundary
    theta = elsewhere(sparse)
    for term, table in dense.effects(theta=theta).items():
        own = sparse.effects(term, theta=theta).loc[table.index]
        for column in ("blup", "se", "reliability"):
            assert_allclose(own[column], table[column], rtol=1e-8, atol=1e-9)
        known = [fit.conditional_variance(term, theta=theta) for fit in pair]
        assert_allclose(known[0].loc[known[1].index], known[1], rtol=1e-8)


def test_predictions_and_what_is_left_out_agree(pair, herd):
    _, table = herd
    sparse, dense = pair
    theta = elsewhere(sparse)
    new = table.head(6).assign(age=0.3)
    one, other = (fit.predict(data=new, theta=theta) for fit in pair)
    assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-10)
    assert_allclose(one.variance, other.variance, rtol=1e-9)
    assert_allclose(sparse.loo(theta=theta), dense.loo(theta=theta), rtol=1e-8, atol=1e-9)
    groups = table["herd"].to_numpy()
    left = [fit.loo_groups(groups, theta=theta).to_numpy(dtype=float) for fit in pair]
    assert_allclose(*left, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("formula", list(MODELS.values())[1:3])
def test_maximum_likelihood_has_the_maximum_of_dense_algebra(herd, formula):
    pedigree, table = herd
    with small_is_sparse():
        sparse = flmm.find_reml(formula, table, known={"animal": pedigree}, method="ML", **QUIET)
    with small_is_dense():
        dense = flmm.find_reml(formula, table, known={"animal": pedigree}, method="ML", **QUIET)
    assert_allclose(sparse.loglik, dense.loglik, rtol=1e-10)
    theta = elsewhere(sparse)
    assert_allclose(sparse.objective.score(theta), dense.objective.score(theta), rtol=1e-7, atol=1e-8)


def test_a_variance_of_zero_is_a_labelled_estimate(herd):
    pedigree, table = herd
    rng = np.random.default_rng(0)
    table = table.assign(weight=rng.normal(size=len(table)), block=rng.integers(0, 9, len(table)))
    with small_is_sparse():
        fit = flmm.find_reml("weight ~ 1 + (1 | animal) + (1 | block)", table, known={"animal": pedigree}, **QUIET)
    assert fit.converged
    assert fit.boundary
    assert (fit.theta[list(fit.boundary)] == 0).all()
    assert (fit.score[list(fit.boundary)] <= 0).all()
    assert (fit.effects(fit.boundary[0])["blup"] == 0).all()


def test_individuals_of_a_tree_are_its_tips_and_inner_nodes():
    text = "((a:1,b:1)ab:1,(c:1.5,(d:0.5,e:0.5):1)cde:0.5);"
    tree, rng = cov.Tree(text), np.random.default_rng(1)
    table = pd.DataFrame({"species": list("abcdeabcde") * 3, "size": rng.normal(size=30)})
    table["size"] += table["species"].map(dict(zip("abcde", 2 * rng.normal(size=5), strict=True)))
    with small_is_sparse():
        fit = flmm.find_reml("size ~ 1 + (1 | species)", table, known={"species": tree}, **QUIET)
    dense = flmm.find_reml("size ~ 1 + (1 | species)", table, known={"species": tree.dense(list("abcde"))}, **QUIET)
    assert_allclose(fit.loglik, dense.loglik, rtol=1e-9)
    assert_allclose(fit.theta, dense.theta, rtol=1e-5)
    effects = fit.effects("species")
    assert set(tree.labels) == set(effects.index)
    assert_allclose(effects["blup"][list("abcde")], dense.effects("species")["blup"][list("abcde")], rtol=1e-5)


def test_a_clone_has_the_effect_of_its_original():
    rng = np.random.default_rng(2)
    names, sire, dam = ["a", "b", "c", "twin"], [None, None, "a", None], [None, None, "b", None]
    pedigree = cov.Pedigree(names, sire, dam, clones={"twin": "c"})
    animal = rng.choice(names, 40)
    table = pd.DataFrame({"animal": animal, "y": rng.normal(size=40) + np.where(np.isin(animal, ["c", "twin"]), 2, 0)})
    with small_is_sparse():
        fit = flmm.find_reml("y ~ 1 + (1 | animal)", table, known={"animal": pedigree}, **QUIET)
    same = flmm.find_reml(
        "y ~ 1 + (1 | animal)", table.replace({"animal": {"twin": "c"}}), **QUIET,
        known={"animal": pedigree.dense(["a", "b", "c"])},
    )  # fmt: skip
    assert_allclose(fit.loglik, same.loglik, rtol=1e-9)
    assert_allclose(fit.effects("animal")["blup"]["c"], same.effects("animal")["blup"]["c"], rtol=1e-5)


def test_records_of_animals_that_the_pedigree_lacks_are_refused_by_name(herd):
    pedigree, table = herd
    strange = pd.concat([table, table.tail(1).assign(animal="i700")], ignore_index=True)
    with pytest.raises(ValueError, match=r"'animal' lacks 1 of the \d+ levels in the data \('i700'\): .*rows"):
        flmm.find_reml(MODELS["a variance"], strange, known={"animal": pedigree}, **QUIET)


def test_the_engine_is_chosen_by_what_an_evaluation_takes(herd):
    pedigree, table = herd
    chosen = flmm.find_reml(MODELS["two terms"], table, known={"animal": pedigree}, **QUIET).node.products
    assert isinstance(chosen, MixedProducts)  # seventy related individuals are few
    rng = np.random.default_rng(3)
    engines = []
    for levels in (2100, 1900):  # of the factor that is not eliminated
        table = pd.DataFrame({"a": rng.integers(0, 2500, 9000), "b": np.arange(9000) % levels})
        model = flmm.lmm_model("y ~ 1 + (1|a) + (1|b)", table.assign(y=rng.normal(size=9000)))
        engines.append(type(find_node(model, "y").products))
    assert engines == [SparseProducts, MixedProducts]
    with pm.Model():
        term = flmm.Term(rng.normal(size=(60, 2300)), cov.scalar(pm.HalfNormal("v")), name="markers")  # a full matrix
        flmm.StructuredLMM("y", terms=[term], sigma2_e=pm.HalfNormal("e"), observed=rng.normal(size=60))
        assert isinstance(find_node(pm.modelcontext(None), "y").products, MixedProducts)


def test_equations_that_do_not_fit_in_memory_are_refused_before_they_are_factored(herd):
    pedigree, table = herd
    refused = pytest.raises(ValueError, match=r"\d+ mixed-model equations.* needs .* GB, .* leave out individuals")
    with small_is_sparse(), mock.patch.object(memory, "physical_memory", return_value=1e4), refused:
        flmm.find_reml(MODELS["two terms"], table, known={"animal": pedigree}, **QUIET)


def test_seeded_sampling_finds_the_variances_of_a_pedigree(herd):
    pedigree, table = herd
    with small_is_sparse():
        model = flmm.lmm_model(MODELS["two terms"], table, known={"animal": pedigree})
        fit = flmm.find_reml(model, **QUIET)
        idata = flmm.sample(model=model, draws=150, tune=100, chains=2, random_seed=1, **QUIET)
    assert_allclose(float(idata.posterior["sigma_e"].mean()), fit.point["sigma_e"], rtol=0.15)
    drawn = flmm.recover_effects(idata, model=model)
    means = drawn.posterior["weight_animal" if "weight_animal" in drawn.posterior else "animal"].mean(("chain", "draw"))
    found = fit.effects("animal")["blup"]
    assert np.corrcoef(means.to_series().loc[found.index], found)[0, 1] > 0.97


@pytest.fixture(scope="module")
def lambs(herd):
    """Weights that have a part of the animal's genes and one of its dam's."""
    pedigree, _ = herd
    rng = np.random.default_rng(9)
    parents = cov.parents_as_read(*genealogy(70, 15, np.random.default_rng(4)))
    own = rng.permutation(np.repeat(np.array(pedigree.labels)[10:], 2))
    table = pd.DataFrame({"animal": own, "dam": parents["dam"].reindex(own).to_numpy(), "y": rng.normal(size=len(own))})
    return pedigree, table


def roles(pedigree, table, across=None):
    """A model of direct and maternal effects, correlated between levels and within."""
    with pm.Model() as model:
        L, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1), compute_corr=True)
        term = flmm.Term(
            {"direct": table["animal"], "maternal": table["dam"]}, cov.unstructured(cholesky=L),
            across=cov.known(pedigree) if across is None else across, name="genes",
        )  # fmt: skip
        e = pm.HalfNormal("e", 1)
        flmm.StructuredLMM("y", X=np.ones((len(table), 1)), terms=[term], sigma2_e=e**2, observed=table["y"].to_numpy())
    return model


def test_direct_and_maternal_effects_of_one_pedigree_are_correlated(lambs):
    pedigree, table = lambs
    assert table["dam"].isna().any()  # a founder's dam has no effect
    with small_is_sparse():
        fit = flmm.find_reml(roles(pedigree, table), **QUIET)
    assert list(fit.theta.index) == ["genes[direct]", "genes[direct, maternal]", "genes[maternal]", "residual"]
    n, q = len(table), len(pedigree)
    place = {label: k for k, label in enumerate(pedigree.labels)}
    Z = np.zeros((2, n, q))
    for i, (animal, dam) in enumerate(zip(table["animal"], table["dam"], strict=True)):
        Z[0, i, place[animal]] = 1
        if isinstance(dam, str):
            Z[1, i, place[dam]] = 1
    A, theta = pedigree.dense(pedigree.labels).to_numpy(), np.array([0.6, -0.1, 0.4, 0.7])
    G = np.array([[0.6, -0.1], [-0.1, 0.4]])
    V = 0.7 * np.eye(n) + np.einsum("ab,anq,qr,bmr->nm", G, Z, A, Z, optimize=True)
    Vinv = np.linalg.inv(V)
    P = Vinv - np.outer(Vinv.sum(1), Vinv.sum(0)) / Vinv.sum()
    y = table["y"].to_numpy()
    logdet = np.linalg.slogdet(V)[1] + np.log(Vinv.sum())
    truth = -0.5 * ((n - 1) * np.log(2 * np.pi) + logdet + y @ P @ y)
    assert_allclose(fit.objective.log_likelihood(theta), truth, rtol=1e-11)
    u = np.einsum("qr,bmr,m,ba->qa", A, Z, P @ y, G, optimize=True)
    assert_allclose(fit.blup("genes", theta=theta), u, atol=1e-9)
    new = fit.predict(np.ones((2, 1)), {"genes": {"direct": ["i3", "i69"], "maternal": [None, "i5"]}}, theta=theta)
    beta = Vinv.sum(0) @ y / Vinv.sum()
    assert_allclose(new.mean, beta + np.array([u[place["i3"], 0], u[place["i69"], 0] + u[place["i5"], 1]]), atol=1e-9)


def test_roles_of_unrelated_levels_are_those_of_any_term():
    giver, receiver = ["a", "b", "c", "a"], ["b", "c", "d", "c"]
    term = flmm.Term({"gives": giver, "receives": receiver}, cov.unstructured([[2.0, 0.5], [0.5, 1.0]]), name="friends")
    assert term.levels == ("a", "b", "c", "d")
    assert term.columns == ("gives", "receives")
    Z = term.Z.toarray().reshape(4, 4, 2)
    assert Z[0].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert_allclose(term.blocks.dense(), np.kron(np.eye(4), [[2.0, 0.5], [0.5, 1.0]]))


def test_roles_that_do_not_fit_are_refused(lambs):
    pedigree, table = lambs
    G = cov.unstructured(np.eye(2))
    with pytest.raises(ValueError, match=r"by\['b'\]"):
        flmm.Term({"a": [1, 2], "b": [1, 2, 3]}, G)
    with pytest.raises(ValueError, match=r"several factors.*roles, a, b, to covariates, but got ndarray: leave a role"):
        flmm.Term({"a": [1, 2], "b": [2, 1]}, G, columns=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"several factors.*but it has 'c'"):
        flmm.Term({"a": [1, 2], "b": [2, 1]}, G, columns={"c": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"lacks 1 of .*'i99'"):
        flmm.Term({"a": ["i1", "i99"], "b": ["i2", "i1"]}, G, across=cov.known(pedigree), name="genes")
    with small_is_sparse():
        fit = flmm.find_reml(roles(pedigree, table), max_iterations=1, **QUIET)
    with pytest.raises(ValueError, match=r"has the roles 'a', but the term has direct, maternal"):
        fit.predict(np.ones((1, 1)), {"genes": {"a": ["i1"]}})
    with pytest.raises(ValueError, match=r"in the role 'maternal' one thing for another: give labels alone"):
        fit.predict(np.ones((1, 1)), {"genes": {"direct": ["i1"], "maternal": (["i2"], np.ones((1, 1)))}})


def test_roles_have_covariates_of_their_own(lambs):
    pedigree, table = lambs
    given = table.dropna().assign(age=lambda t: np.linspace(-1, 1, len(t)), Intercept=1.0)
    G = np.array([[0.6, 0.1, -0.1], [0.1, 0.3, 0.0], [-0.1, 0.0, 0.4]])
    with pm.Model() as model:
        e = pm.HalfNormal("e", 1)
        term = flmm.Term(
            {"animal": given["animal"], "dam": given["dam"]}, cov.unstructured(G),
            columns={"animal": given[["Intercept", "age"]]}, across=cov.known(pedigree), name="genes",
        )  # fmt: skip
        flmm.StructuredLMM("y", X=np.ones((len(given), 1)), terms=[term], sigma2_e=e**2, observed=given["y"])
    assert term.columns == ("animal[Intercept]", "animal[age]", "dam")
    by_hand = flmm.find_reml(model, fixed={"residual": 0.7}, **QUIET)
    by_formula = flmm.find_reml(
        "y ~ 1 + (1 + age |genes| animal) + (1 |genes| dam)", given, known={"animal": pedigree, "dam": pedigree},
        fixed={"genes": G, "residual": 0.7}, **QUIET,
    )  # fmt: skip
    assert_allclose(by_hand.loglik, by_formula.loglik, rtol=1e-12)
    new = given.tail(3)
    covariates = new[["age", "Intercept"]]  # by their names
    found = by_hand.predict(np.ones((3, 1)), {"genes": {"animal": (new["animal"], covariates), "dam": new["dam"]}})
    assert_allclose(found.mean, by_formula.predict(data=new).mean, rtol=1e-10)
    with pytest.raises(
        ValueError, match=r"in the role 'animal' one thing .* \(labels, columns\) of animal\[Intercept\]"
    ):
        by_hand.predict(np.ones((3, 1)), {"genes": {"animal": new["animal"], "dam": new["dam"]}})


def test_products_that_cancel_are_entries_all_the_same():
    rng = np.random.default_rng(8)
    table = pd.DataFrame({"g": np.repeat(np.arange(12), 8), "h": np.tile(np.repeat([0, 1, 2, 3], 2), 12)})
    table["x"] = rng.choice([-1.0, 1.0], 96)  # whose sum is 0 in many cells of two rows: there WᵀW is 0
    assert (table.groupby(["g", "h"])["x"].sum() == 0).mean() > 0.3
    table["y"] = rng.normal(size=12)[table["g"]] + table["x"] * table["h"] + rng.normal(size=96)
    formula = "y ~ 1 + (1 | g) + (0 + x | h)"
    with small_is_sparse():
        sparse = flmm.find_reml(formula, table, **QUIET)
    with small_is_dense():
        dense = flmm.find_reml(formula, table, **QUIET)
    theta = elsewhere(dense)
    assert_allclose(sparse.objective.log_likelihood(theta), dense.objective.log_likelihood(theta), rtol=1e-12)
    assert_allclose(sparse.loo(theta=theta), dense.loo(theta=theta), rtol=1e-8, atol=1e-9)
