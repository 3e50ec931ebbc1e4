"""traits_model: dense algebra, both routes, the documented priors, gaps, and what is refused."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from as_written import AS_WRITTEN
from scipy.linalg import block_diag

import pm_fastlmm as flmm

QUIET = {"progressbar": False}
SIGMA_G = np.array([[1.2, 0.5], [0.5, 0.7]])
SIGMA_L = np.array([[0.4, -0.1], [-0.1, 0.3]])
SIGMA_E = np.array([[0.9, -0.2], [-0.2, 1.1]])


def make_table(n=36, seed=5):
    """Two traits with gaps, covariates of which one has a gap, and K by label in another order."""
    rng = np.random.default_rng(seed)
    ids = [f"cow{i}" for i in range(n)]
    G = rng.normal(size=(n, 50)) * rng.exponential(size=50)
    K = G @ G.T / 50
    u = np.linalg.cholesky(K) @ rng.normal(size=(n, 2)) @ np.linalg.cholesky(SIGMA_G).T
    Y = u + rng.normal(size=(n, 2)) @ np.linalg.cholesky(SIGMA_E).T + [30.0, -2.0]
    table = pd.DataFrame(Y, columns=["milk", "fat"], index=ids)
    table = table.assign(sex=np.where(rng.uniform(size=n) > 0.4, "m", "f"), age=rng.exponential(size=n))
    table = table.assign(litter=rng.integers(6, size=n).astype(str), animal=ids, w=rng.uniform(0.5, 2, size=n))
    table.loc["cow3", "milk"] = table.loc["cow8", "fat"] = np.nan
    table.loc["cow5", ["milk", "fat"]] = np.nan
    table.loc["cow7", "age"] = np.nan
    labelled = pd.DataFrame(K, index=ids, columns=ids)
    order = rng.permutation(ids)
    return table, labelled, labelled.loc[order, order]


TABLE, K, SHUFFLED = make_table()
KEPT = TABLE.drop(index=["cow5", "cow7"])
FORMULA = "milk + fat ~ sex + scale(age)"
GAPS = pytest.mark.filterwarnings("ignore:[12] of 36 rows dropped")


def wide_design(table):
    return np.column_stack([np.ones(len(table)), table["sex"] == "m", table["age"]])


def dense(table, X, parts, sigma_e, weights=None):
    """The restricted log-likelihood and β̂ of the rows that were observed, V = Σ Σ_k ⊗ C_k + Σ_e ⊗ W⁻¹."""
    seen = table[["milk", "fat"]].notna().to_numpy().T.ravel()
    w = np.ones(len(table)) if weights is None else weights
    V = sum(np.kron(sigma, C) for sigma, C in parts) + np.kron(sigma_e, np.diag(1 / w))
    V, D = V[np.ix_(seen, seen)], block_diag(X, X)[seen]
    y = table[["milk", "fat"]].to_numpy().T.ravel()[seen]
    C = D.T @ np.linalg.solve(V, D)
    beta = np.linalg.solve(C, D.T @ np.linalg.solve(V, y))
    left = y - D @ beta
    logdets = np.linalg.slogdet(V)[1] + np.linalg.slogdet(C)[1]
    return -0.5 * ((len(y) - D.shape[1]) * np.log(2 * np.pi) + logdets + left @ np.linalg.solve(V, left)), beta


def held(*names):
    values = {"K": SIGMA_G, "animal": SIGMA_G, "litter": SIGMA_L, "residual": SIGMA_E}
    return {name: values[name] for name in names}


ROUTES = {
    "kernel": ("", {"K": SHUFFLED}, "K"),
    "rows": (" + (1 | animal)", {"known": {"animal": SHUFFLED}}, "animal"),
}


@GAPS
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("weights", [None, "w", TABLE["w"]], ids=["", "column", "array"])
def test_likelihood_is_that_of_dense_algebra_with_gaps(route, weights):
    more, kernel, term = ROUTES[route]
    formula = f"milk + fat ~ sex + age{more}"
    fit = flmm.find_reml(formula, TABLE, **kernel, weights=weights, fixed=held(term, "residual"), **QUIET)
    w = None if weights is None else KEPT["w"].to_numpy()
    C = K.loc[KEPT.index, KEPT.index].to_numpy()
    loglik, beta = dense(KEPT, wide_design(KEPT), [(SIGMA_G, C)], SIGMA_E, w)
    np.testing.assert_allclose(fit.loglik, loglik, rtol=1e-10)
    names = [f"{trait}: {column}" for trait in ("milk", "fat") for column in ("Intercept", "sex[T.m]", "age")]
    np.testing.assert_allclose(fit.beta[names], beta, rtol=1e-9)


@GAPS
def test_routes_have_the_same_estimates_and_predictions():
    kernel = flmm.find_reml(FORMULA, TABLE, K=SHUFFLED, **QUIET)
    rows = flmm.find_reml(FORMULA + " + (1 | animal)", TABLE, known={"animal": SHUFFLED}, **QUIET)
    np.testing.assert_allclose(kernel.theta, rows.theta, rtol=1e-5)
    np.testing.assert_allclose(kernel.loglik, rows.loglik, rtol=1e-10)
    pd.testing.assert_series_equal(kernel.beta, rows.beta[kernel.beta.index], rtol=1e-6)
    assert [*kernel.beta.index[:3]] == ["milk: Intercept", "milk: sex[T.m]", "milk: scale(age)"]
    assert [*rows.theta.index[:3]] == ["animal[milk]", "animal[milk, fat]", "animal[fat]"]
    new = pd.DataFrame({"trait": ["fat", "milk"], "record": ["cow1", "cow8"], "sex": ["f", "m"], "age": [0.3, 2.0]})
    new = new.assign(animal=new["record"])
    ours, theirs = kernel.predict(data=new), rows.predict(data=new)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5)
    np.testing.assert_allclose(ours.se, theirs.se, rtol=1e-4)


@GAPS
@pytest.mark.filterwarnings("ignore:X has rank")
def test_routes_have_the_same_tests_and_know_what_is_not_determined():
    table = TABLE.assign(house=np.where(TABLE["sex"] == "m", "north", "south"))
    formula = "milk + fat ~ age + sex + house"
    fits = [
        flmm.find_reml(formula, table, K=SHUFFLED, **QUIET),
        flmm.find_reml(f"{formula} + (1 | animal)", table, known={"animal": SHUFFLED}, **QUIET),
    ]
    new = pd.DataFrame({"trait": ["fat", "fat"], "record": ["cow1", "cow1"], "sex": ["m", "m"], "age": [0.3, 0.3]})
    new = new.assign(animal=new["record"], house=["north", "south"])
    for fit in fits:
        tests = fit.anova()
        assert tests.index.tolist() == ["trait:1", "trait:age", "trait:sex", "trait:house"]
        assert tests["df_num"].tolist() == [2, 2, 0, 0]
        with pytest.warns(UserWarning, match="the data do not determine the fixed effects of 1 of 2 new rows"):
            mean = fit.predict(data=new).mean
        assert np.isnan(np.asarray(mean)).tolist() == [False, True]
    pvalues = [fit.anova()["p_value"].iloc[:2].to_numpy() for fit in fits]
    np.testing.assert_allclose(*pvalues, rtol=1e-4)
    names = [f"{trait}: {column}" for trait in ("milk", "fat") for column in ("Intercept", "age", "sex[T.m]")]
    assert [fit.beta.index.tolist() for fit in fits] == [names, names]


@GAPS
def test_other_terms_and_slopes_are_those_of_dense_algebra():
    fit = flmm.find_reml(
        "milk + fat ~ sex + (1 | litter)",
        TABLE.fillna({"age": 1.0}),
        K=K,
        fixed=held("litter", "K", "residual"),
        **QUIET,
    )
    table = TABLE.drop(index="cow5")
    C, Z = K.loc[table.index, table.index].to_numpy(), pd.get_dummies(table["litter"]).to_numpy(float)
    loglik, _ = dense(table, wide_design(table)[:, :2], [(SIGMA_G, C), (SIGMA_L, Z @ Z.T)], SIGMA_E)
    np.testing.assert_allclose(fit.loglik, loglik, rtol=1e-10)

    slopes = flmm.find_reml(
        "milk + fat ~ sex + age + (0 + age | litter)", TABLE, fixed=held("litter", "residual"), **QUIET
    )
    assert [*slopes.theta.index[:2]] == ["litter[milk: age]", "litter[milk: age, fat: age]"]
    Z = pd.get_dummies(KEPT["litter"]).to_numpy(float) * KEPT["age"].to_numpy()[:, None]
    np.testing.assert_allclose(
        slopes.loglik, dense(KEPT, wide_design(KEPT), [(SIGMA_L, Z @ Z.T)], SIGMA_E)[0], rtol=1e-10
    )


@GAPS
def test_direct_and_maternal_effects_of_each_trait_covary():
    dams = np.r_[np.repeat("none", 6), KEPT.index[np.random.default_rng(1).integers(6, size=len(KEPT) - 6)]]
    table = KEPT.assign(dam=dams)
    known = K.reindex(index=[*K.index, "none"], columns=[*K.index, "none"], fill_value=0.0)
    known.loc["none", "none"] = 1.0
    root = np.random.default_rng(3).normal(size=(4, 6)) / 2
    sigma = root @ root.T
    fit = flmm.find_reml(
        "milk + fat ~ 1 + (1 |g| animal) + (1 |g| dam)", table, known={"animal": known, "dam": known},
        fixed={"g": sigma, "residual": SIGMA_E}, **QUIET,
    )  # fmt: skip
    names = ["animal[milk]", "animal[fat]", "dam[milk]", "dam[fat]"]
    assert fit.theta.index[9] == f"g[{names[3]}]"
    Z = [
        np.array(pd.get_dummies(table[who]).reindex(columns=known.index, fill_value=0), float)
        for who in ("animal", "dam")
    ]
    parts = [
        (sigma[2 * a : 2 * a + 2, 2 * b : 2 * b + 2], Z[a] @ known.to_numpy() @ Z[b].T) for a in (0, 1) for b in (0, 1)
    ]
    loglik, _ = dense(table, np.ones((len(table), 1)), parts, SIGMA_E)
    np.testing.assert_allclose(fit.loglik, loglik, rtol=1e-10)
    assert {"chol_g", "chol_e"} == {rv.name for rv in fit.model.free_RVs}


def test_repeated_records_have_the_kernel_of_individuals():
    rng = np.random.default_rng(8)
    who = [*K.index, *rng.choice(K.index, size=12)]
    table = pd.DataFrame(rng.normal(size=(48, 2)), columns=["milk", "fat"]).assign(animal=who, sex="f")
    given = {"K": {"K": K}, "W": {"W": pd.DataFrame(np.linalg.cholesky(K), index=K.index)}}
    C = K.loc[who, who].to_numpy()
    loglik, _ = dense(table, np.ones((48, 1)), [(SIGMA_G, C)], SIGMA_E)
    for kernel in given.values():
        fit = flmm.find_reml(
            "milk + fat ~ 1", table, individual="animal", **kernel, fixed=held("animal", "residual"), **QUIET
        )
        np.testing.assert_allclose(fit.loglik, loglik, rtol=1e-10)


def deviations(table, X):
    """Residual standard deviations of each trait over its own rows."""
    out = []
    for trait in ("milk", "fat"):
        own = table[trait].notna().to_numpy()
        left = table.loc[own, trait] - X[own] @ np.linalg.lstsq(X[own], table.loc[own, trait])[0]
        out.append(np.sqrt(left @ left / (own.sum() - X.shape[1])))
    return np.array(out)


@GAPS
@pytest.mark.parametrize("route", ROUTES)
def test_priors_are_those_documented(route):
    more, kernel, term = ROUTES[route]
    model = flmm.traits_model(FORMULA + more, TABLE, **kernel)
    s = deviations(KEPT, wide_design(KEPT))
    seen = KEPT[["milk", "fat"]].notna()
    diagonal = np.diag(K.loc[KEPT.index, KEPT.index])
    mean = diagonal.mean() if route == "kernel" else diagonal[np.nonzero(seen.to_numpy().T)[1]].mean()
    expected = {f"chol_{term}": 2 * s / np.sqrt(mean), "chol_e": 2 * s}
    assert {rv.name for rv in model.free_RVs} == set(expected)
    for name, scale in expected.items():
        value = np.array([0.7, 0.2, 0.6])
        prior = pm.LKJCholeskyCov.dist(n=2, eta=2, sd_dist=pm.HalfNormal.dist(scale), compute_corr=False)
        own, theirs = (pm.logp(rv, value).eval(mode=AS_WRITTEN) for rv in (model[name], prior))
        np.testing.assert_allclose(own, theirs, rtol=1e-8)


def test_priors_may_be_others():
    given = {"sigma_K": pm.Exponential.dist(2, shape=2), "eta_K": 5.0}
    model = flmm.traits_model("milk + fat ~ 1", KEPT, K=K.loc[KEPT.index, KEPT.index], priors=given)
    prior = pm.LKJCholeskyCov.dist(n=2, eta=5, sd_dist=pm.Exponential.dist(2, shape=2), compute_corr=False)
    value = np.array([0.7, 0.2, 0.6])
    own, theirs = (pm.logp(rv, value).eval(mode=AS_WRITTEN) for rv in (model["chol_K"], prior))
    np.testing.assert_allclose(own, theirs, rtol=1e-8)


@GAPS
def test_variables_and_coordinates_have_readable_names():
    kernel = flmm.traits_model(FORMULA, TABLE, K=K)
    assert kernel.coords["trait"] == ("milk", "fat")
    assert kernel.coords["K_pairs"] == kernel.coords["e_pairs"] == ("milk, fat",)
    assert kernel.coords["obs"] == tuple(KEPT.index)
    rows = flmm.traits_model(FORMULA + " + (1 | animal) + (1 | litter)", TABLE, known={"animal": K}, name="cows")
    assert [rv.name for rv in rows.free_RVs] == ["chol_animal", "chol_litter", "chol_e"]
    assert rows.coords["obs"][:2] == ("milk, cow0", "milk, cow1")
    assert rows.named_vars_to_dims["h2"] == kernel.named_vars_to_dims["h2"] == ("trait",)
    assert rows.observed_RVs[0].name == "cows"


@GAPS
@pytest.mark.parametrize("route", ROUTES)
def test_heritability_is_the_share_of_the_kernel(route):
    more, kernel, term = ROUTES[route]
    model = flmm.traits_model(FORMULA + more, TABLE, **kernel)
    point = {f"sigma_{term}": np.array([1.1, 0.4]), "sigma_e": np.array([0.5, 0.8])}
    h2 = model["h2"].eval({model[name]: value for name, value in point.items()}, mode=AS_WRITTEN)
    seen = KEPT[["milk", "fat"]].notna().to_numpy().T
    diagonal = np.diag(K.loc[KEPT.index, KEPT.index])
    mean = diagonal.mean() if route == "kernel" else diagonal[np.nonzero(seen)[1]].mean()
    variance = point[f"sigma_{term}"] ** 2 * mean
    np.testing.assert_allclose(h2, variance / (variance + point["sigma_e"] ** 2), rtol=1e-10)


@GAPS
@pytest.mark.parametrize("route", ROUTES)
def test_fit_of_a_formula_is_that_of_its_model(route):
    more, kernel, _ = ROUTES[route]
    fit = flmm.find_reml(FORMULA + more, TABLE, **kernel, **QUIET)
    again = flmm.find_reml(fit.model, **QUIET)
    np.testing.assert_allclose(again.loglik, fit.loglik, rtol=1e-12)
    for name, value in fit.point.items():
        np.testing.assert_allclose(again.point[name], value, rtol=1e-4, atol=1e-6)
    refit = fit.refit(fit.node.observed)
    np.testing.assert_allclose(refit.theta, fit.theta, rtol=1e-8)


def test_one_trait_is_the_kernel_model():
    table = TABLE[["fat", "sex"]].dropna()
    C = K.loc[table.index, table.index]
    fit = flmm.find_reml("fat ~ sex", table, K=C, **QUIET)
    theirs = flmm.find_reml(flmm.kernel_model("fat ~ sex", data=table, K=C), **QUIET)
    np.testing.assert_allclose(fit.theta, theirs.theta, rtol=1e-10)
    np.testing.assert_allclose(fit.loglik, theirs.loglik, rtol=1e-12)
    model = flmm.traits_model("fat ~ sex", table, K=C)
    assert [rv.name for rv in model.free_RVs] == ["sigma_K", "sigma_e"]
    np.testing.assert_allclose(flmm.find_reml(model, **QUIET).loglik, theirs.loglik, rtol=1e-10)


def test_arrays_are_brought_into_order_and_rows_without_traits_dropped():
    X = pd.DataFrame({"one": 1.0, "age": TABLE["age"].fillna(1.0)})
    with pytest.warns(UserWarning, match=r"1 of 36 rows dropped, with missing values \(milk 1, fat 1\): 'cow5'"):
        model = flmm.traits_model(TABLE[["milk", "fat"]], X=X.iloc[::-1], K=SHUFFLED)
    fit = flmm.find_reml(model, fixed=held("K", "residual"), **QUIET)
    table = TABLE.drop(index="cow5")
    C = K.loc[table.index, table.index].to_numpy()
    loglik, _ = dense(table, X.loc[table.index].to_numpy(), [(SIGMA_G, C)], SIGMA_E)
    np.testing.assert_allclose(fit.loglik, loglik, rtol=1e-10)
    spectrum = flmm.Spectrum.from_covariance(C, X.loc[table.index].to_numpy())
    same = flmm.traits_model(table[["milk", "fat"]].to_numpy(), spectrum=spectrum)
    assert same.coords["trait"] == ("y0", "y1")
    np.testing.assert_allclose(flmm.find_reml(same, fixed=held("K", "residual"), **QUIET).loglik, loglik, rtol=1e-10)


def test_rows_that_are_dropped_are_counted():
    with pytest.warns(UserWarning, match=r"2 of 36 rows dropped, with missing values \(age 1, every trait 1\)"):
        fit = flmm.find_reml(FORMULA, TABLE, K=K, fixed=held("K", "residual"), **QUIET)
    assert "2 rows dropped (age 1, every trait 1)" in str(fit)
    with pytest.warns(UserWarning, match="rows dropped") as caught:
        flmm.find_reml(FORMULA + " + (1 | litter)", TABLE, K=K, fixed=held("litter", "K", "residual"), **QUIET)
    assert len(caught) == 1


def test_there_may_be_no_fixed_effects():
    Y = KEPT[["milk", "fat"]] - [30.0, -2.0]
    C = K.loc[Y.index, Y.index]
    fit = flmm.find_reml("milk + fat ~ 0", Y, K=C, fixed=held("K", "residual"), **QUIET)
    loglik, _ = dense(Y, np.zeros((len(Y), 0)), [(SIGMA_G, C.to_numpy())], SIGMA_E)
    np.testing.assert_allclose(fit.loglik, loglik, rtol=1e-10)


def test_each_column_is_warned_of_once():
    table = TABLE.assign(age=TABLE["age"].fillna(1.0)).drop(index="cow5")
    table.loc["cow1", "milk"] = table.loc["cow2", "age"] = -999
    with pytest.warns(UserWarning, match="is -999 in") as caught:
        flmm.find_reml(
            "milk + fat ~ age", table, K=K.drop("cow5").drop(columns="cow5"), fixed=held("K", "residual"), **QUIET
        )
    assert [str(warning.message).split()[0] for warning in caught] == ["milk", "age"]


@pytest.mark.parametrize(
    "formula",
    ["cbind(milk, log1p(age)) ~ sex", "milk + log1p(age) ~ factor(sex)", "milk + log1p(age) ~ . - age - animal"],
)
def test_responses_may_be_calls_and_bound(formula):
    table = TABLE.dropna()[["milk", "age", "sex", "animal"]]
    C = K.loc[table.index, table.index]
    fit = flmm.find_reml(formula, table, K=C, fixed=held("K", "residual"), **QUIET)
    y = pd.DataFrame({"milk": table["milk"], "fat": np.log1p(table["age"])})
    X = np.column_stack([np.ones(len(table)), table["sex"] == "m"])
    np.testing.assert_allclose(fit.loglik, dense(y, X, [(SIGMA_G, C)], SIGMA_E)[0], rtol=1e-10)


@pytest.fixture(scope="module")
def posterior():
    model = flmm.traits_model("milk + fat ~ sex", KEPT, K=K.loc[KEPT.index, KEPT.index])
    return model, flmm.sample(100, model=model, tune=200, chains=2, random_seed=3, quiet=True, **QUIET)


def test_posterior_has_the_variables_by_trait(posterior):
    model, draws = posterior
    found = draws["posterior"]
    assert found["sigma_K"].dims == ("chain", "draw", "trait")
    assert found["corr_K"].sizes["K_pairs"] == 1
    assert (found["h2"].mean(("chain", "draw")) > 0.1).all()
    np.testing.assert_allclose(found["h2"], found["Y_h2"], rtol=1e-6)  # of the variances of the node
    effects = flmm.recover_effects(draws, model=model, random_seed=1)["posterior"]["Y_K"]
    assert effects.sizes["draw"] == 100


def test_rows_of_a_table_are_predicted_as_the_entries_that_they_are(posterior):
    model, draws = posterior
    some = KEPT.index[:6]
    rows = KEPT.loc[some, ["sex"]].assign(trait=["milk", "fat"] * 3, record=some)
    found = flmm.predict(draws, model=model, data=rows, random_seed=1)["predictions"]["Y_mean"]
    whole = flmm.predict(draws, model=model, random_seed=2)["posterior_predictive"]["Y_mean"]
    assert found.dims == ("chain", "draw", "Y_new")
    for i, (record, trait) in enumerate(zip(some, rows["trait"], strict=True)):
        own = whole.sel(trait=trait, obs=record)
        error = np.hypot(own.std(), found[..., i].std()) / np.sqrt(own.size)
        assert abs(float(own.mean() - found[..., i].mean())) < 5 * error
    with pytest.raises(ValueError, match="one trait of one record each"):
        flmm.predict(draws, model=model, data=rows.drop(columns="trait"))


def test_prior_draws_have_the_size_of_the_data(posterior):
    model, _ = posterior
    drawn = pm.sample_prior_predictive(draws=50, model=model, random_seed=1, compile_kwargs={"mode": AS_WRITTEN})
    assert drawn["prior_predictive"]["Y"].dims == ("chain", "draw", "trait", "obs")
    assert drawn["prior"]["h2"].dims == ("chain", "draw", "trait")
