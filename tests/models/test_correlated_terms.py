"""Effects of several grouping columns over the same levels, (1 |id| a) + (1 |id| b), against dense algebra."""

from unittest import mock

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.structured import choice
from pm_fastlmm.models.correlated_terms import CorrelatedTerms

QUIET = {"progressbar": False}
SMALL = {"sparse equations": -1, "blocked elimination": 10**6}
FORMULA = "y ~ age + (1 |genes| animal) + (1 |genes| dam) + (1 | dam_env)"
SLOPES = "y ~ age + (1 + age |genes| animal) + (1 |genes| dam)"


@pytest.fixture(scope="module")
def pedigree():
    """Sixty animals, of which the first twelve are founders."""
    rng = np.random.default_rng(5)
    sire = [None] * 12 + [f"i{rng.integers(0, i // 2)}" for i in range(12, 60)]
    dam = [None] * 12 + [f"i{rng.integers(i // 2, i)}" for i in range(12, 60)]
    return cov.Pedigree([f"i{i}" for i in range(60)], sire, dam), dam


@pytest.fixture(scope="module")
def table(pedigree):
    """Two records of most animals that have a dam."""
    rng = np.random.default_rng(6)
    own = np.repeat(np.arange(12, 55), 2)
    dams = np.array(pedigree[1], dtype=object)[own]
    frame = {"animal": [f"i{i}" for i in own], "dam": dams, "dam_env": dams, "age": rng.uniform(0, 3, len(own))}
    return pd.DataFrame(frame).assign(y=rng.normal(size=len(own)) + rng.normal(size=60)[own])


def incidence(labels, levels):
    return (np.asarray(labels)[:, None] == np.asarray(levels)[None]).astype(float)


def dense(table, V, X):
    """The restricted log-likelihood, β̂ and Py."""
    Vinv = np.linalg.inv(V)
    C = X.T @ Vinv @ X
    beta = np.linalg.solve(C, X.T @ Vinv @ table["y"])
    Py = Vinv @ (table["y"] - X @ beta)
    logdet = np.linalg.slogdet(V)[1] + np.linalg.slogdet(C)[1]
    return -0.5 * ((len(V) - X.shape[1]) * np.log(2 * np.pi) + logdet + table["y"] @ Py), beta, Py


def columns_of(table, levels, slopes):
    """The columns Z of each effect of a level."""
    animal = incidence(table["animal"], levels)
    own = [animal, table["age"].to_numpy()[:, None] * animal] if slopes else [animal]
    return np.stack([*own, incidence(table["dam"], levels)])


@pytest.mark.parametrize("engine", SMALL)
@pytest.mark.parametrize("slopes", [False, True])
def test_direct_and_maternal_effects_by_formula_are_those_of_dense_algebra(pedigree, table, engine, slopes):
    ped, _ = pedigree
    formula = SLOPES if slopes else FORMULA
    with mock.patch.multiple(choice, _SMALL=SMALL[engine]):
        fit = flmm.find_reml(formula, table, known={"animal": ped, "dam": ped}, max_iterations=1, **QUIET)
    columns = ["animal[Intercept]", "animal[age]", "dam"] if slopes else ["animal", "dam"]
    L = np.tril(np.random.default_rng(1).normal(size=(3, 3)))[: len(columns), : len(columns)]
    G = L @ L.T + 0.1 * np.eye(len(columns))
    elements = {
        f"genes[{columns[j]}, {columns[i]}]" if i != j else f"genes[{columns[i]}]": G[i, j]
        for i in range(len(columns))
        for j in range(i + 1)
    }
    assert list(fit.theta.index) == [*elements, *(() if slopes else ("dam_env",)), "residual"]
    theta = np.array([*elements.values(), *(() if slopes else (0.3,)), 0.7])
    levels, A = list(ped.labels), ped.dense(ped.labels).to_numpy()
    Z = columns_of(table, levels, slopes)
    V = 0.7 * np.eye(len(table)) + np.einsum("ab,anq,qr,bmr->nm", G, Z, A, Z, optimize=True)
    if not slopes:
        environments = incidence(table["dam_env"], np.unique(table["dam_env"]))
        V += 0.3 * environments @ environments.T
    X = np.column_stack([np.ones(len(table)), table["age"]])
    loglik, beta, Py = dense(table, V, X)
    assert_allclose(fit.objective.log_likelihood(theta), loglik, rtol=1e-9)
    u = np.einsum("qr,bmr,m,ba->qa", A, Z, Py, G, optimize=True)
    effects = fit.effects("genes", theta=theta)
    assert_allclose(effects["blup"].unstack()[columns].loc[levels], u, atol=1e-9)
    P = np.linalg.inv(V) - np.linalg.inv(V) @ X @ np.linalg.solve(X.T @ np.linalg.solve(V, X), X.T @ np.linalg.inv(V))
    ZtP = np.einsum("qr,bmr,ba->aqm", A, Z, G, optimize=True)
    reliability = np.einsum("aqm,mn,aqn->qa", ZtP, P, ZtP, optimize=True) / np.outer(np.diag(A), np.diag(G))
    assert_allclose(effects["reliability"].unstack()[columns].loc[levels], reliability, atol=1e-8)
    assert_allclose(effects["accuracy"] ** 2, effects["reliability"], atol=1e-12)

    new = pd.DataFrame({"animal": ["i59", "i3"], "dam": ["i2", "i58"], "dam_env": ["i1", "i2"], "age": [1.0, 2.0]})
    mean = beta[0] + beta[1] * new["age"] + np.einsum("anq,qa->n", columns_of(new, levels, slopes), u)
    if not slopes:
        mean[1] += 0.3 * incidence(table["dam_env"], ["i2"])[:, 0] @ Py  # i1 is no dam of the data
        mean[0] += 0.3 * incidence(table["dam_env"], ["i1"])[:, 0] @ Py
    assert_allclose(fit.predict(data=new, theta=theta).mean, mean, atol=1e-9)


def test_both_engines_find_the_same_estimate_and_the_model_is_that_of_the_fit(pedigree, table):
    known = {"animal": pedigree[0], "dam": pedigree[0]}
    fits = []
    for small in SMALL.values():
        with mock.patch.multiple(choice, _SMALL=small):
            fits.append(flmm.find_reml(FORMULA, table, known=known, **QUIET))
    assert_allclose(fits[0].loglik, fits[1].loglik, rtol=1e-10)
    assert_allclose(fits[0].theta, fits[1].theta, rtol=1e-4, atol=1e-5)
    h2 = fits[0].function(lambda v: v["genes[animal]"] / (v["genes[animal]"] + v["genes[dam]"] + v["residual"]))
    assert 0 < h2.estimate < 1
    model = flmm.lmm_model(FORMULA, table, known=known)
    assert [variable.name for variable in model.free_RVs] == ["chol_genes", "sigma_dam_env", "sigma_e"]
    assert model.coords["genes_effects"] == ("animal", "dam")
    assert model.coords["genes_pairs"] == ("animal, dam",)
    assert len(model.coords["genes"]) == 60
    assert_allclose(flmm.find_reml(model, **QUIET).loglik, fits[0].loglik, rtol=1e-10)


def test_priors_have_the_scale_that_the_terms_have_alone(pedigree, table):
    known = {"animal": pedigree[0], "dam": pedigree[0]}
    both = flmm.lmm_model(SLOPES, table, known=known)
    alone = flmm.lmm_model("y ~ age + (1 + age | animal) + (1 | dam)", table, known=known)
    scales = [both["chol_genes"].owner.inputs[3].owner.inputs[-1].eval() * np.ones(3)]
    expected = [
        alone["chol_animal"].owner.inputs[3].owner.inputs[-1].eval(),
        alone["sigma_dam"].owner.inputs[-1].eval(),
    ]
    assert_allclose(scales[0], np.hstack(expected), rtol=1e-12)


def test_a_posterior_has_effects_of_both_columns(pedigree, table):
    model = flmm.lmm_model(
        "y ~ 1 + (1 |g| animal) + (1 |g| dam)", table, known=dict.fromkeys(("animal", "dam"), pedigree[0])
    )
    with model:
        idata = flmm.sample(20, tune=20, chains=1, random_seed=1, progressbar=False, quiet=True, loglik_tolerance=0)
        idata = flmm.recover_effects(idata, random_seed=1)
        idata = flmm.predict(idata, data=table.head(3), random_seed=1)
    assert dict(idata.posterior["y_g"].sizes) == {"chain": 1, "draw": 20, "g": 60, "g_effects": 2}
    assert np.isfinite(idata.predictions["y"]).all()


def test_levels_without_a_known_covariance_are_matched_by_label():
    rng = np.random.default_rng(2)
    people = np.array(list("abcdefgh"))
    pairs = np.array([(i, j) for i in range(8) for j in range(8) if i != j])
    table = pd.DataFrame({"giver": people[pairs[:, 0]], "receiver": people[pairs[:, 1]], "y": rng.normal(size=56)})
    fit = flmm.find_reml("y ~ (1 |p| giver) + (1 |p| receiver)", table, max_iterations=1, **QUIET)
    G, theta = np.array([[2.0, 0.5], [0.5, 1.0]]), [2.0, 0.5, 1.0, 0.7]
    Z = np.stack([incidence(table[name], people) for name in ("giver", "receiver")])
    V = 0.7 * np.eye(56) + np.einsum("ab,anq,bmq->nm", G, Z, Z)
    loglik, beta, Py = dense(table, V, np.ones((56, 1)))
    assert_allclose(fit.objective.log_likelihood(np.array(theta)), loglik, rtol=1e-9)
    new = pd.DataFrame({"giver": ["a", "new"], "receiver": ["new", "c"]})  # somebody who is in both roles, and unknown
    found = fit.predict(data=new, theta=theta)
    u = np.einsum("ab,bmq,m->qa", G, Z, Py)
    assert_allclose(found.mean, beta + np.array([u[0, 0], u[2, 1]]), atol=1e-9)


def test_a_matrix_with_labels_is_the_known_covariance_of_both(pedigree, table):
    ped, _ = pedigree
    K = ped.dense(ped.labels)
    formula = "y ~ 1 + (1 |g| animal) + (1 |g| dam)"
    by_matrix = flmm.find_reml(formula, table, known={"animal": K, "dam": K}, max_iterations=1, **QUIET)
    by_pedigree = flmm.find_reml(formula, table, known={"animal": ped, "dam": ped}, max_iterations=1, **QUIET)
    theta = np.array([0.6, -0.1, 0.4, 0.7])
    assert_allclose(by_matrix.objective.log_likelihood(theta), by_pedigree.objective.log_likelihood(theta), rtol=1e-10)


def test_terms_of_an_id_are_shown():
    rows = {"a": list("uvw"), "b": list("vwu"), "x": [1.0, 2.0, 4.0], "y": [1.0, 3.0, 2.0]}
    (term,) = flmm.MixedDesign.from_formula("y ~ 1 + (1 |g| a) + (0 + x |g| a) + (x |g| b)", pd.DataFrame(rows)).random
    assert isinstance(term, CorrelatedTerms)
    assert term.columns == ("a[Intercept]", "a[x]", "b[Intercept]", "b[x]")
    assert repr(term) == "CorrelatedTerms((Intercept, x |g| a) + (Intercept, x |g| b), 3 levels)"
    Z = term.term(cov.unstructured(np.eye(4))).Z.toarray().reshape(3, 3, 4)
    assert Z[1].tolist() == [[0, 0, 0, 0], [1, 2, 0, 0], [0, 0, 1, 2]]


@pytest.mark.parametrize(
    ("formula", "known", "message"),
    [
        ("y ~ (1 |g| animal)", None, r"the id 'g' in one term alone.*write \(1 \| animal\), or give the id to"),
        ("y ~ (1 |g| animal/dam) + (1 |g| dam)", None, r"has the id 'g', and effects of a are not correlated with"),
        ("y ~ (1 ||g| animal) + (1 |g| dam)", None, r"'\(1 \|\|g\| animal\)' is not a random term"),
        ("y ~ (1 |dam| animal) + (1 |dam| mate) + (1 | dam)", None, r"'dam' as an id between two bars and as a group"),
        (
            "y ~ (1 |g| animal) + (1 |g| dam) + (1 | dam)",
            None,
            r"effects 'Intercept of dam' twice, with and without an",
        ),
        ("y ~ (1 |g| animal) + (1 |g| herd)", None, r"of 'animal' and of 'herd' has, but none is in both columns"),
        (
            "y ~ (1 |g| animal) + (1 |g| dam)",
            ["animal"],
            r"known has one for 'animal' alone.*\{'animal': K, 'dam': K\}",
        ),
        ("y ~ (1 |g| animal) + (1 |g| dam)", ["animal", "dam"], r"known has different ones for 'animal', 'dam': give"),
        ("y ~ (1 |e| animal) + (1 |e| dam)", None, r"an id is called 'e', but sigma_e is the residual's: rename it"),
    ],
)
def test_ids_that_make_no_sense_are_refused(table, formula, known, message):
    data = table.assign(herd=np.arange(len(table)) % 5, mate=table["dam"])
    K = None if known is None else {name: np.eye(60) for name in known}
    with pytest.raises(ValueError, match=message):
        flmm.lmm_model(formula, data, known=K)


def test_shares_of_a_total_have_no_place_for_a_covariance(pedigree, table):
    with pytest.raises(ValueError, match=r"a covariance of the terms of the id 'genes' is one more part"):
        flmm.lmm_model(
            FORMULA, table, known=dict.fromkeys(("animal", "dam"), pedigree[0]), priors=flmm.priors.SharePrior()
        )


def test_residuals_have_no_ids(table):
    with pytest.raises(ValueError, match=r"has an id between two bars, which residuals have not"):
        flmm.find_reml("y ~ (1 | dam)", table, residual="(0 + age |g| animal)", **QUIET)
