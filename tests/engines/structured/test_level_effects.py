"""Effects of all labels of a known K, those without data too: against dense V, and at no cost to the likelihood."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm

IDS = [f"a{i}" for i in range(12)]


def relationship(kind):
    """A definite K, one of rank 7, or one in which a10 is a clone of a3 that has data."""
    A = np.random.default_rng(1).normal(size=(12, 7 if kind == "singular" else 20))
    if kind == "clone":
        A[10] = A[3]
    return pd.DataFrame(A @ A.T / 10, IDS, IDS)


def records(n=50):
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"id": rng.choice(IDS[2:9], n), "x": rng.normal(size=n), "h": rng.choice(list("uvw"), n)})
    u = pd.Series(rng.normal(size=12), IDS)
    return table.assign(y=1 + table["x"] + 2 * u[table["id"]].to_numpy() + rng.normal(size=n))


def fitted(formula, K, table=None, **options):
    return flmm.find_reml(formula, records() if table is None else table, known={"id": K}, progressbar=False, **options)


def dense(fit, K, table, columns, within):
    """BLUPs GZᵀPy with PEV G - GZᵀPZG of all labels, β̂ estimated, and G - GZᵀV⁻¹ZG, β known."""
    n = len(table)
    incidence = (table["id"].to_numpy()[:, None] == np.array(IDS)).astype(float)
    Z = (incidence[:, :, None] * columns[:, None, :]).reshape(n, -1)
    G = np.kron(K.to_numpy(), within)
    H = pd.get_dummies(table["h"]).to_numpy(float)
    X = np.column_stack([np.ones(n), table["x"]])
    V = Z @ G @ Z.T + fit.theta["h"] * H @ H.T + fit.theta["residual"] * np.eye(n)
    inverse = np.linalg.inv(V)
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    blup, gain, known = G @ Z.T @ P @ table["y"].to_numpy(), G @ Z.T @ P @ Z @ G, G @ Z.T @ inverse @ Z @ G
    return blup, np.diag(G - gain), np.diag(G - known), np.diag(G)


@pytest.mark.parametrize("kind", ["definite", "singular", "clone"])
def test_individuals_without_records_have_the_dense_blup_and_its_error(kind):
    table, K = records(), relationship(kind)
    fit = fitted("y ~ x + (1 | id) + (1 | h)", K)
    blup, pev, known, prior = (
        pd.Series(values, IDS) for values in dense(fit, K, table, np.ones((50, 1)), np.array([[fit.theta["id"]]]))
    )
    effects = fit.effects("id")
    assert sorted(effects.index) == sorted(IDS)
    assert list(effects.index[:7]) == IDS[2:9]
    order = effects.index
    assert_allclose(effects["blup"], blup[order], atol=1e-10)
    assert_allclose(effects["se"] ** 2, pev[order], atol=1e-10)
    assert_allclose(effects["reliability"], 1 - pev[order] / prior[order], atol=1e-10)
    assert_allclose(fit.blup("id"), blup[order], atol=1e-10)
    assert_allclose(fit.pev("id"), pev[order], atol=1e-10)
    assert_allclose(fit.conditional_variance("id"), known[order], atol=1e-10)
    counts = table["id"].value_counts().reindex(order, fill_value=0)
    assert_array_equal(effects["records"].astype(int), counts)
    if kind == "clone":
        assert_allclose(effects.loc["a10", ["blup", "se"]], effects.loc["a3", ["blup", "se"]], rtol=1e-8)
    assert "records" not in fit.effects("h")


def test_slopes_of_individuals_without_records_are_predicted_too():
    table, K = records(), relationship("definite")
    fit = fitted("y ~ x + (x | id) + (1 | h)", K)
    a, c, b = (fit.theta[name] for name in ("id[Intercept]", "id[Intercept, x]", "id[x]"))
    columns = np.column_stack([np.ones(50), table["x"]])
    blup, pev, _, prior = dense(fit, K, table, columns, np.array([[a, c], [c, b]]))
    index = pd.MultiIndex.from_product([IDS, ["Intercept", "x"]])
    effects = fit.effects("id")
    order = effects.index
    assert_allclose(effects["blup"], pd.Series(blup, index)[order], atol=1e-9)
    assert_allclose(effects["se"] ** 2, pd.Series(pev, index)[order], atol=1e-9)
    assert_allclose(effects["reliability"], 1 - pd.Series(pev / prior, index)[order], atol=1e-9)
    assert fit.blup("id").shape == (12, 2)


def test_the_likelihood_is_that_of_the_levels_of_the_data():
    table, K = records(), relationship("definite")
    own = sorted(set(table["id"]))
    wide, narrow = (fitted("y ~ x + (1 | id) + (1 | h)", kernel) for kernel in (K, K.loc[own, own]))
    assert wide.objective.products.columns == narrow.objective.products.columns
    assert wide.loglik == narrow.loglik
    assert wide.theta.equals(narrow.theta)
    assert list(narrow.effects("id").index) == own
    categories = table.assign(id=pd.Categorical(table["id"], categories=IDS))
    among = fitted("y ~ x + (1 | id) + (1 | h)", K, categories)
    assert among.objective.products.columns > wide.objective.products.columns
    assert_allclose(among.theta, wide.theta, rtol=1e-4)
    at_the_same = among.effects("id", theta=wide.theta)
    assert_allclose(at_the_same["blup"][wide.effects("id").index], wide.effects("id")["blup"], atol=1e-8)
    assert (at_the_same["records"] == 0).sum() == 5


def test_the_model_and_weights_have_them_as_well():
    table, K = records(), relationship("definite")
    fit = fitted("y ~ x + (1 | id)", K, table.assign(w=1 + table["x"] ** 2), weights="w")
    model = flmm.lmm_model("y ~ x + (1 | id)", table.assign(w=1 + table["x"] ** 2), known={"id": K}, weights="w")
    same = flmm.find_reml(model, progressbar=False)
    assert_allclose(fit.effects("id").astype(float), same.effects("id").astype(float), atol=1e-4)
    assert len(same.effects("id")) == 12


def test_individuals_of_a_kernel_have_their_number_of_records():
    table, K = records(), relationship("definite")
    design = flmm.Design.from_formula("y ~ x", table, K=K, individual="id")
    fit = flmm.reml(design.spectrum(), design.y)
    effects = fit.effects()
    assert_array_equal(effects["records"].astype(int), table["id"].value_counts().reindex(IDS, fill_value=0))
    terms = fitted("y ~ x + (1 | id)", K).effects("id", theta=[fit.sigma2_g, fit.sigma2_e])
    assert_allclose(terms.loc[IDS].astype(float), effects.astype(float), atol=1e-8)
    both = flmm.reml(design.spectrum(), pd.DataFrame({"y": design.y, "minus": -design.y})).effects()
    assert_array_equal(both.loc["minus", "records"], effects["records"])
