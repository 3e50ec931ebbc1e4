"""Thousands of fixed-effect levels: an X that is kept sparse gives what a dense one gives, by name."""

import contextlib
import warnings
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from scipy.stats import t as student

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines import term_products
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.engines.sparse import state
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.models.formulas import sparse_columns
from pm_fastlmm.models.formulas.sparse_columns import is_large
from pm_fastlmm.spectrum import sparse_projection

QUIET = {"progressbar": False}
N, ANIMALS, HERD_YEARS = 300, 50, 24


@contextlib.contextmanager
def kept_sparse():
    """Keep X sparse however small it is, and of cov β̂ the entries in the pattern alone."""
    with mock.patch.object(sparse_projection, "LARGEST", 0), mock.patch.object(state, "_WHOLE", 0):
        yield


@contextlib.contextmanager
def untold():
    """Say nothing of columns that are dropped, or of rows that have missing values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture(scope="module")
def table():
    """Records of related animals in years of six herds; some values are missing."""
    rng = np.random.default_rng(6)
    at = rng.integers(0, HERD_YEARS, N)
    made = pd.DataFrame(
        {
            "animal": rng.choice([f"a{i}" for i in range(ANIMALS)], N), "herd_year": [f"hy{i:02}" for i in at],
            "herd": at // 4, "sex": rng.choice(["f", "m"], N), "age": rng.uniform(1, 9, N), "w": rng.uniform(0.5, 2, N),
        },
        index=[f"row{i}" for i in range(N)],
    )  # fmt: skip
    effect = dict(zip(sorted(made["animal"].unique()), rng.normal(size=ANIMALS), strict=True))
    made["weight"] = (
        30 + made["animal"].map(effect) + 2 * rng.normal(size=HERD_YEARS)[at] + 0.3 * made["age"] + rng.normal(size=N)
    )
    made.loc["row5", "age"], made.loc["row9", "herd_year"], made.loc["row11", "animal"] = np.nan, None, None
    made["kind"] = made["weight"] > 30
    return made


@pytest.fixture(scope="module")
def pedigree():
    rng = np.random.default_rng(7)
    parent = [None if i < 10 else f"a{rng.integers(0, i)}" for i in range(ANIMALS)]
    other = [None if i < 10 else f"a{rng.integers(0, i)}" for i in range(ANIMALS)]
    return cov.Pedigree([f"a{i}" for i in range(ANIMALS)], parent, other)


FORMULAS = {
    "one factor": "weight ~ herd_year + (1 | animal)",
    "nested, with a covariate": "weight ~ factor(herd) + herd_year + age + (1 | animal)",
    "levels without an intercept, fewer of them first": "weight ~ 0 + herd_year + sex + factor(herd) + (1 | animal)",
    "an interaction with empty cells": "weight ~ sex:herd_year + poly(age, 2) + (1 | animal)",
    "a transform of y and of x": "log(weight) ~ herd_year + sex * log(age) + I(age > 4) + (age | animal)",
}
formulas = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


def both(formula, table, method="REML", **given):
    with untold():
        dense = flmm.find_reml(formula, table, method=method, **given, **QUIET)
        with kept_sparse():
            sparse = flmm.find_reml(formula, table, method=method, **given, **QUIET)
    assert sp.issparse(sparse.node.design.X)
    assert isinstance(sparse.node.products, SparseProducts)
    assert not sp.issparse(dense.node.design.X)
    return dense, sparse


@formulas
@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("weights", [None, "w"], ids=["plain", "weighted"])
def test_the_likelihood_is_that_of_a_dense_x(table, formula, method, weights):
    dense, sparse = both(formula, table, method, weights=weights)
    theta = 1.3 * dense.theta.to_numpy() + 0.01 * (dense.theta.to_numpy() == 0)
    a, b = dense.objective, sparse.objective
    assert sparse.coef == dense.coef
    assert b.n == a.n
    assert b.log_likelihood(theta) == pytest.approx(a.log_likelihood(theta), rel=1e-11)
    assert_allclose(b.score(theta), a.score(theta), rtol=1e-8, atol=1e-8)
    assert_allclose(b.average_information(theta), a.average_information(theta), rtol=1e-9)
    beta0, cov0 = a.blue(theta)
    with kept_sparse():
        beta, cov_beta = b.blue(theta)
    assert_allclose(beta, beta0, rtol=1e-8, atol=1e-9)
    assert sp.issparse(cov_beta)
    assert_allclose(cov_beta.diagonal(), np.diag(cov0), rtol=1e-8)
    rows, columns = cov_beta.nonzero()
    assert_allclose(cov_beta.toarray()[rows, columns], cov0[rows, columns], rtol=1e-7, atol=1e-10 * cov0.max())
    assert sparse.loglik == pytest.approx(dense.loglik, abs=1e-7)


@formulas
def test_what_comes_after_a_fit_is_that_of_a_dense_x(table, formula):
    dense, sparse = both(formula, table)
    at = dense.theta.to_numpy()
    assert_allclose(sparse.effects("animal", theta=at), dense.effects("animal", theta=at), rtol=1e-7, atol=1e-9)
    for kind in ("conditional", "marginal"):
        assert_allclose(sparse.fitted(kind, theta=at), dense.fitted(kind, theta=at), rtol=1e-9)
        assert_allclose(sparse.residuals(kind, theta=at), dense.residuals(kind, theta=at), atol=1e-8)
    groups = np.arange(dense.node.n) % 40
    with untold():  # of rows that alone determine a coefficient
        assert_allclose(sparse.loo(theta=at), dense.loo(theta=at), rtol=1e-7, atol=1e-8)
        assert_allclose(sparse.loo_groups(groups, theta=at), dense.loo_groups(groups, theta=at), rtol=1e-7)
    new = table.dropna().iloc[:7]
    for effects in ("given", "population"):
        found = sparse.predict(data=new, effects=effects, theta=at)
        expected = dense.predict(data=new, effects=effects, theta=at)
        assert_allclose(found.mean, expected.mean, rtol=1e-9)
        assert_allclose(found.variance, expected.variance, rtol=1e-8)
    assert list(sparse.predict(data=new).mean.index) == list(new.index)
    assert sparse.node.design.dropped == dense.node.design.dropped
    assert sparse.node.design.missing == dense.node.design.missing
    assert sparse.node.design.coef == dense.node.design.coef
    encoded = sparse.node.design.encode(new)
    assert_allclose(encoded.to_numpy(), dense.node.design.encode(new).to_numpy(), atol=1e-13)


def test_with_a_pedigree_all_is_as_with_a_dense_x(table, pedigree):
    dense, sparse = both(FORMULAS["nested, with a covariate"], table, known={"animal": pedigree})
    at = dense.theta.to_numpy()
    assert_allclose(sparse.effects("animal", theta=at), dense.effects("animal", theta=at), rtol=1e-6, atol=1e-9)
    assert sparse.loglik == pytest.approx(dense.loglik, abs=1e-7)


def test_columns_that_are_dropped_are_told_by_name_as_of_a_dense_x(table):
    formula, data = "weight ~ factor(herd) + herd_year + (1 | animal)", table.dropna()
    with pytest.warns(UserWarning, match="'herd_year") as told:
        flmm.find_reml(formula, data, **QUIET)
    with kept_sparse(), pytest.warns(UserWarning, match="'herd_year") as also:
        fit = flmm.find_reml(formula, data, **QUIET)
    assert [str(w.message) for w in also] == [str(w.message) for w in told]
    assert "without herd_year" in str(fit)


def test_a_cell_without_data_is_predicted_as_nan_and_named(table):
    data = table.dropna()
    lost = data[~((data["herd"] == 2) & (data["sex"] == "m"))]
    new = data[(data["herd"] == 2)].groupby("sex").head(1)
    dense, sparse = both("weight ~ factor(herd) * sex + (1 | animal)", lost)
    with pytest.warns(UserWarning, match="herd = 2, sex = m") as told:
        expected = dense.predict(data=new)
    with pytest.warns(UserWarning, match="herd = 2, sex = m") as also:
        found = sparse.predict(data=new)
    assert str(also[0].message) == str(told[0].message)
    assert_allclose(found.mean, expected.mean, rtol=1e-6)
    assert_allclose(found.variance, expected.variance, rtol=1e-6)
    assert np.isnan(found.mean).tolist() == (new["sex"] == "m").tolist()


def test_rows_in_which_a_transform_is_not_defined_are_dropped_as_of_a_dense_x(table):
    data = table.dropna().copy()
    data.iloc[3, data.columns.get_loc("age")] = -1.0
    data.iloc[8, data.columns.get_loc("weight")] = -1.0
    formula = "log(weight) ~ herd_year + sqrt(age) + (1 | animal)"
    with np.errstate(invalid="ignore"):
        dense, sparse = both(formula, data)
    assert len(dense.node.design.dropped) == 2
    assert sparse.node.design.dropped == dense.node.design.dropped
    assert sparse.node.design.missing == dense.node.design.missing
    assert sparse.loglik == pytest.approx(dense.loglik, abs=1e-7)


def test_infinite_values_and_new_levels_are_refused_by_name(table):
    data = table.dropna().copy()
    data.iloc[3, data.columns.get_loc("age")] = 0.0
    with kept_sparse(), np.errstate(divide="ignore"):
        with pytest.raises(ValueError, match=r"X has 1 infinite values, of log\(age\) in rows 'row3'"):
            flmm.MixedDesign.from_formula("weight ~ herd_year + log(age) + (1 | animal)", data)
        design = flmm.MixedDesign.from_formula("weight ~ herd_year + log(age + 1) + (1 | animal)", data)
    new = data.iloc[:2].assign(herd_year=["hy01", "elsewhere"])
    with pytest.raises(ValueError, match="elsewhere"):
        design.encode(new)
    with pytest.raises(ValueError, match="NaN or infinite, in rows 'row1'"), np.errstate(all="ignore"):
        design.encode(data.iloc[:2].assign(age=[1.0, -1.0]))


def test_a_term_of_other_rows_is_refused(table):
    with kept_sparse(), pytest.raises(ValueError, match="has another value in a row alone than among all rows"):
        flmm.MixedDesign.from_formula("weight ~ herd_year + I(age / np.max(age)) + (1 | animal)", table.dropna())


def test_standard_errors_and_t_tests_are_there_and_what_needs_all_covariances_is_refused(table):
    dense, sparse = both(FORMULAS["nested, with a covariate"], table)
    assert_allclose(sparse.beta_se, dense.beta_se, rtol=1e-6)
    found, expected = sparse.coefficients(), dense.coefficients("residual")
    assert_allclose(found, expected, rtol=1e-6)
    assert "degrees of freedom n - r, of 25 coefficients whose X is kept sparse" in str(found)
    row, df = found.loc["age"], dense.objective.residual_df
    assert row["p_value"] == pytest.approx(2 * student.sf(abs(row["t"]), df))
    assert_allclose(sparse.summary()["t"].dropna(), found["t"].dropna())
    text = "the covariance of 25 coefficients is not formed, only its diagonal"
    for refused in (
        lambda: sparse.beta_cov, lambda: sparse.coefficients("kenward-roger"), lambda: sparse.test_fixed("age"),
        lambda: sparse.test_fixed({"age": 1.0}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"is kept sparse, and this needs|" + text):
            refused()
    with pytest.raises(ValueError, match=text):
        _ = sparse.beta_cov
    with pytest.raises(ValueError, match=text):
        sparse.coefficients("kenward-roger")
    for refused in (sparse.anova, lambda: sparse.marginal_means("herd_year")):
        with pytest.raises(ValueError, match="X, 297 × 30, is kept sparse, and this needs hypotheses of all"):
            refused()
    with pytest.raises(ValueError, match="is kept sparse, and this needs an orthonormal basis"):
        sparse.variogram(np.arange(297.0))


def test_fits_with_a_sparse_x_are_compared_by_what_it_spans(table):
    data = table.dropna()
    _, small = both("weight ~ herd_year + (1 | animal)", data)
    _, large = both("weight ~ herd_year + (1 | animal) + (1 | sex)", data)
    dense, other = both("weight ~ herd_year + age + (1 | animal)", data)
    compared = flmm.compare_fits(small, large)
    assert compared["chi2"].iloc[1] == pytest.approx(max(2 * (large.loglik - small.loglik), 0), abs=1e-6)
    for another in (other, dense):
        with pytest.raises(ValueError, match="REML fits with different X"):
            flmm.compare_fits(small, another)


def models(table, formula):
    with untold():
        dense = flmm.lmm_model(formula, table)
        with kept_sparse():
            sparse = flmm.lmm_model(formula, table)
    return dense, sparse


@formulas
def test_the_model_has_the_density_of_a_dense_x(table, formula):
    dense, sparse = models(table.rename(columns={"weight": "y"}), formula.replace("weight", "y"))
    point = {v.name: np.full(v.type.shape, 0.1) for v in dense.value_vars}
    assert sparse.compile_logp()(point) == pytest.approx(dense.compile_logp()(point), rel=1e-11)
    assert_allclose(sparse.compile_dlogp()(point), dense.compile_dlogp()(point), rtol=1e-7, atol=1e-8)


def test_draws_of_the_node_are_orthogonal_to_x_with_the_covariance_of_what_is_left(table):
    _, model = models(table, "weight ~ herd_year + (1 | animal)")
    node = find_node(model, None)
    with untold(), model:
        values = pm.draw(pm.do(model, {"sigma_animal": 1.5, "sigma_e": 0.5})["weight"], 400, random_seed=1)
    assert_allclose(node.projection.X.T @ values.T, 0, atol=1e-9)
    Z = node.terms[0].Z.toarray()
    Q = np.linalg.qr(node.projection.X.toarray())[0]
    M = np.eye(len(Q)) - Q @ Q.T
    V = M @ (2.25 * Z @ Z.T + 0.25 * np.eye(len(Q))) @ M
    assert np.trace(np.cov(values.T)) == pytest.approx(np.trace(V), rel=0.03)
    assert_allclose(np.cov(values.T), V, atol=6 * np.sqrt(2 / 400) * V.max())


@pytest.fixture(scope="module")
def drawn(table):
    """Draws of the posterior of β and u at one θ, many times."""
    formula = "weight ~ herd_year + age + (1 | animal)"
    model = models(table, formula)[1]
    with untold():
        fit = flmm.find_reml(formula, table, **QUIET)
    theta = {"sigma_animal": np.full((1, 600), np.sqrt(fit.theta["animal"])),
             "sigma_e": np.full((1, 600), np.sqrt(fit.theta["residual"]))}  # fmt: skip
    import arviz as az

    return SimpleNamespace(fit=fit, model=model, idata=az.from_dict({"posterior": theta}))


def test_draws_of_beta_and_effects_have_their_posterior_moments(drawn):
    fit = drawn.fit
    posterior = flmm.recover_effects(drawn.idata, model=drawn.model, random_seed=3).posterior
    beta = posterior["weight_beta"].to_numpy()[0]
    se = fit.beta_se.to_numpy()
    assert_allclose((beta.mean(0) - fit.blue) / se, 0, atol=4.5 / np.sqrt(600))
    assert_allclose(beta.std(0) / se, 1, atol=4.5 / np.sqrt(1200))
    u, effects = posterior["weight_animal"].to_numpy()[0], fit.effects("animal")
    assert_allclose((u.mean(0) - effects["blup"]) / effects["se"], 0, atol=4.5 / np.sqrt(600))


def test_draws_of_predictions_have_their_posterior_moments(drawn, table):
    new = table.dropna().iloc[:4]
    found = flmm.predict(drawn.idata, model=drawn.model, data=new, random_seed=4)
    expected = drawn.fit.predict(data=new)
    f = found.predictions["weight_mean"].to_numpy()[0] if "weight_mean" in found.predictions else None
    y = found.predictions["weight"].to_numpy()[0]
    for values, se in ((f, expected.se), (y, expected.se_observation)):
        if values is not None:
            assert_allclose((values.mean(0) - expected.mean) / se, 0, atol=4.5 / np.sqrt(600))
            assert_allclose(values.std(0) / se, 1, atol=4.5 / np.sqrt(1200))


def by_hand(table, X, **given):
    data = table.dropna()
    with pm.Model() as model, untold():
        v, e = pm.HalfNormal("v", 3), pm.HalfNormal("e", 3)
        term = flmm.Term(data["animal"], cov.scalar(v), name="animal")
        beta = {} if "beta" not in given else {"beta": pm.Normal("beta", 0, 5, shape=given["beta"])}
        rest = {key: value for key, value in given.items() if key != "beta"}
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, observed=data["weight"], **beta, **rest)
    return model


def dummies(table):
    return pd.get_dummies(table.dropna()["herd_year"], dtype=float)


def test_a_sparse_matrix_or_table_by_hand(table):
    X = dummies(table)
    with kept_sparse():
        given = [sp.csc_array(X), X.astype(pd.SparseDtype(float, 0.0))]
        found = [flmm.find_reml(by_hand(table, x), **QUIET) for x in given]
    expected = flmm.find_reml(by_hand(table, X), **QUIET)
    assert found[1].coef == expected.coef
    assert found[0].coef[:2] == ("x0", "x1")
    for fit in found:
        assert fit.node.projection.sparse
        assert fit.loglik == pytest.approx(expected.loglik, abs=1e-8)
        assert_allclose(fit.beta_se, expected.beta_se, rtol=1e-6)
    new = {"X_new": X.iloc[:3], "Z_new": {"animal": table.dropna()["animal"].iloc[:3]}}
    assert_allclose(found[1].predict(**new).mean, expected.predict(**new).mean, rtol=1e-8)


def test_explicit_coefficients_of_a_sparse_x_have_density_and_gradient(table):
    X = dummies(table)
    with kept_sparse():
        sparse = by_hand(table, sp.csr_array(X), beta=X.shape[1])
    dense = by_hand(table, X, beta=X.shape[1])
    point = {v.name: np.full(v.type.shape, 0.2) for v in dense.value_vars}
    point["beta"] = np.linspace(25, 35, X.shape[1])
    assert sparse.compile_logp()(point) == pytest.approx(dense.compile_logp()(point), rel=1e-11)
    assert_allclose(sparse.compile_dlogp()(point), dense.compile_dlogp()(point), rtol=1e-8)


def test_a_prior_covariance_of_so_many_coefficients_is_refused(table):
    X = sp.csr_array(dummies(table))
    with kept_sparse(), pytest.raises(ValueError, match="beta_cov of 24 coefficients is a dense matrix, and X is kept"):
        by_hand(table, X, beta_cov=np.eye(24))


def test_x_is_kept_sparse_where_its_numbers_are_many_and_factors_make_them(monkeypatch):
    from pm_fastlmm.models.formula import _parsed

    data = pd.DataFrame({"herd": [f"h{i % 50}" for i in range(100)], "year": np.arange(100) % 7, "x": np.arange(100.0)})
    terms = {text: _parsed(text) for text in ("herd", "x", "year", "herd:x", "herd:year")}
    monkeypatch.setattr(sparse_columns.sparse_projection, "LARGEST", 4000)
    assert {text: is_large(parsed, data) for text, parsed in terms.items()} == {
        "herd": True, "x": False, "year": False, "herd:x": True, "herd:year": True,
    }  # fmt: skip
    monkeypatch.setattr(sparse_columns.sparse_projection, "LARGEST", 6000)
    assert not any(is_large(parsed, data) for parsed in terms.values())
    monkeypatch.setattr(sparse_columns.sparse_projection, "LARGEST", 9999)
    assert is_large(_parsed("herd + herd:x + herd:x:year"), data)
    monkeypatch.setattr(sparse_columns.sparse_projection, "LARGEST", 10_000)  # fewer rows than columns could be used
    assert not is_large(_parsed("herd + herd:x + herd:x:year"), data)


def test_traces_by_probes_are_near_and_the_fit_from_them_is_the_same(table, monkeypatch):
    _, exact = both("weight ~ herd_year + (1 | animal)", table)
    strides = (1,)
    gram = exact.node.products.moments(strides, exact.objective.y).gram
    monkeypatch.setattr(sparse_projection, "_BUDGET", 1)
    _, probed = both("weight ~ herd_year + (1 | animal)", table)
    near = probed.node.products.moments(strides, probed.objective.y).gram
    assert not np.array_equal(near, gram)
    assert_allclose(near, near.T)
    assert_allclose(near, gram, rtol=6 * np.sqrt(2 / (N * term_products._PROBES)) + 0.1)
    assert probed.loglik == pytest.approx(exact.loglik, abs=1e-7)


def test_the_whole_covariance_of_a_moderate_number_of_coefficients_is_formed(table):
    formula = "weight ~ herd_year + age + (1 | animal)"
    with untold():
        dense = flmm.find_reml(formula, table, **QUIET)
        with mock.patch.object(sparse_projection, "LARGEST", 0):
            sparse = flmm.find_reml(formula, table, **QUIET)
    assert sp.issparse(sparse.node.design.X)
    assert_allclose(sparse.beta_cov, dense.beta_cov, rtol=1e-6, atol=1e-9)
    assert_allclose(sparse.coefficients()["df"], dense.coefficients()["df"], rtol=1e-4)
    assert_allclose(sparse.coefficients("kenward-roger"), dense.coefficients("kenward-roger"), rtol=1e-4)
    low, high = sparse.interval("beta[age]")
    assert_allclose((low, high), dense.interval("beta[age]"), rtol=1e-5)
    found, expected = sparse.test_fixed({"age": 1.0}), dense.test_fixed({"age": 1.0})
    assert found.p_value == pytest.approx(expected.p_value, rel=1e-4)
    with pytest.raises(ValueError, match="is kept sparse, and this needs hypotheses of all its columns"):
        sparse.anova()


def test_a_design_of_one_kernel_has_a_dense_x(table):
    data = table.dropna()
    with kept_sparse():
        design = flmm.Design.from_formula("weight ~ herd_year", data, K=np.eye(len(data)))
    assert isinstance(design.X, np.ndarray)
