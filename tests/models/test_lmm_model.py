"""lmm_model: its density is the restricted likelihood and the documented priors, its names are those of the table."""

import json
from pathlib import Path

import arviz_stats as az
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from scipy.stats import beta as beta_law
from scipy.stats import halfnorm

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.kernel.likelihood.spectral import contrast_loglik

ALPHA = "yield ~ rep + (1|gen) + (1|rep:block)"
SLEEP = "Reaction ~ Days + (Days|Subject)"


def evaluated(model, expression, **point):
    """An expression of the model's variables at a point."""
    values = {model[name]: np.asarray(value, dtype=float) for name, value in point.items()}
    return expression.eval(values, mode=AS_WRITTEN)


def covariance_of_y(model, **point):
    """V, from the terms of the node and the residual standard deviation."""
    [node] = flmm.lmm_nodes(model)
    V = point["sigma_e"] ** 2 * np.eye(node.n)
    for term in node.terms:
        free = {name: value for name, value in point.items() if name != "sigma_e"}
        own = {n: v for n, v in free.items() if n.removeprefix("sigma_").removeprefix("chol_").startswith(term.name)}
        V += term.Z @ evaluated(model, term.covariance.dense(), **own) @ term.Z.T
    return V


def residual_sd(y, X):
    residual = y - X @ np.linalg.lstsq(X, y)[0]
    return np.sqrt(residual @ residual / (len(y) - np.linalg.matrix_rank(X)))


def prior_scale(model, name):
    """The scale of a half-normal variable, found from two values of its density."""
    variable = model[name]
    at = [pm.logp(variable, np.full(variable.type.shape, x)).eval(mode=AS_WRITTEN) for x in (0.0, 1.0)]
    return np.sqrt(0.5 / (at[0] - at[1]))


def test_no_stack_is_read_for_the_variables_and_those_of_others_have_theirs():
    limit = pytensor.config.traceback__limit
    model = flmm.lmm_model(SLEEP, flmm.datasets.sleepstudy())
    assert not model["sigma_e"].tag.trace
    assert pytensor.config.traceback__limit == limit
    assert pm.HalfNormal.dist(1.0).tag.trace


def test_a_model_is_built_without_cross_products():
    [node] = flmm.lmm_nodes(flmm.lmm_model(SLEEP, flmm.datasets.sleepstudy()))
    assert not {"W", "B", "within"} & vars(node.products).keys()


def test_a_model_of_two_random_intercepts(oracle):
    data = flmm.datasets.john_alpha()
    model = flmm.lmm_model(ALPHA, data)
    assert [rv.name for rv in model.free_RVs] == ["sigma_gen", "sigma_rep:block", "sigma_e"]
    assert model.observed_RVs[0].name == "yield"
    assert list(model.coords["obs"]) == list(data.index)
    assert list(model.coords["gen"]) == sorted(set(data["gen"]))
    assert list(model.coords["rep:block"]) == sorted(set(data["rep"] + ":" + data["block"]))
    point = {"sigma_gen": 0.4, "sigma_rep:block": 0.3, "sigma_e": 0.2}
    gen, block = data["gen"].to_numpy(), (data["rep"] + data["block"]).to_numpy()
    V = 0.16 * (gen[:, None] == gen) + 0.09 * (block[:, None] == block) + 0.04 * np.eye(72)
    assert_allclose(covariance_of_y(model, **point), V, atol=1e-14)
    X = np.column_stack([np.ones(72), data["rep"] == "R2", data["rep"] == "R3"])
    y = data["yield"].to_numpy()
    scale = 2 * residual_sd(y, X)
    values = {f"{name}_log__": np.log(value) for name, value in point.items()}
    got = model.compile_logp(mode=AS_WRITTEN)(values)
    priors = sum(halfnorm(scale=scale).logpdf(value) + np.log(value) for value in point.values())
    assert_allclose(got, priors + oracle.Dense(V, X, y, 1.0, 0.0).loglik_reml, rtol=1e-10)


def lme4_fits():
    rows = json.loads((Path(__file__).parents[1] / "reference" / "lme4_nlme.json").read_text())
    rows = [row for row in rows if row["software"].startswith("lme4") and row["data"] != "dyestuff2.csv"]
    return [pytest.param(row, id=row["name"]) for row in rows]


@pytest.mark.parametrize("fit", lme4_fits())
def test_the_fit_of_the_model_is_that_of_lme4(fit):
    model = flmm.lmm_model(fit["formula"], getattr(flmm.datasets, fit["data"].removesuffix(".csv"))())
    found = flmm.find_reml(model, method=fit["method"], progressbar=False)
    assert found.converged
    assert_allclose(found.loglik, fit["loglik"], rtol=0, atol=1e-9)
    # lme4's optimiser is good to about 1e-7 relative in variances, to 1e-6 for penicillin
    assert_allclose(sorted(found.theta), sorted(fit["vcov"]), rtol=3e-6)
    assert_allclose(found.beta, fit["beta"], rtol=1e-6)


def test_correlated_slopes_have_an_lkj_prior_with_scaled_deviations():
    data = flmm.datasets.sleepstudy()
    model = flmm.lmm_model(SLEEP, data)
    assert [rv.name for rv in model.free_RVs] == ["chol_Subject", "sigma_e"]
    assert [d.name for d in model.deterministics] == ["sigma_Subject", "corr_Subject"]
    assert model.coords["Subject_effects"] == ("Intercept", "Days")
    assert model.named_vars_to_dims["sigma_Subject"] == ("Subject_effects",)
    assert model.named_vars_to_dims["corr_Subject"] == ("Subject_pairs",)
    assert model.coords["Subject_pairs"] == ("Intercept, Days",)
    X = np.column_stack([np.ones(180), data["Days"]])
    s = residual_sd(data["Reaction"].to_numpy(), X)
    days = data["Days"].to_numpy()
    scales = 2 * s * np.array([np.sqrt(1 + days.mean() ** 2 / days.var()), 1 / days.std()])
    # the density of [l11, l21, l22] with sd₁ = l11, sd₂ r = l21, sd₂ √(1 - r²) = l22
    for l11, l21, l22 in ((20.0, 3.0, 5.0), (200.0, -40.0, 9.0)):
        sd2 = np.hypot(l21, l22)
        r = l21 / sd2
        expected = (
            halfnorm(scale=scales[0]).logpdf(l11) + halfnorm(scale=scales[1]).logpdf(sd2)
            + np.log(beta_law(2, 2).pdf((r + 1) / 2) / 2) + np.log(np.sqrt(1 - r**2) / sd2)
        )  # fmt: skip
        got = pm.logp(model["chol_Subject"], np.array([l11, l21, l22])).eval(mode=AS_WRITTEN)
        assert_allclose(got, expected, rtol=1e-9)
        L = np.array([[l11, 0], [l21, l22]])
        V = covariance_of_y(model, chol_Subject=[l11, l21, l22], sigma_e=2.0)
        same = data["Subject"].to_numpy()[:, None] == data["Subject"].to_numpy()
        assert_allclose(V, same * (X @ L @ L.T @ X.T) + 4 * np.eye(180), rtol=1e-12, atol=1e-9)
        sigma = evaluated(model, model["sigma_Subject"], chol_Subject=[l11, l21, l22])
        assert_allclose(sigma, [l11, sd2])
        corr = evaluated(model, model["corr_Subject"], chol_Subject=[l11, l21, l22])
        assert_allclose(corr, [r])


def test_independent_slopes_are_a_vector():
    data = flmm.datasets.sleepstudy()
    model = flmm.lmm_model("Reaction ~ Days + (Days||Subject)", data)
    assert [rv.name for rv in model.free_RVs] == ["sigma_Subject", "sigma_e"]
    assert model.named_vars_to_dims["sigma_Subject"] == ("Subject_effects",)
    V = covariance_of_y(model, sigma_Subject=[20.0, 5.0], sigma_e=3.0)
    same = data["Subject"].to_numpy()[:, None] == data["Subject"].to_numpy()
    assert_allclose(V, same * (400 + 25 * np.outer(data["Days"], data["Days"])) + 9 * np.eye(180))


def test_variances_of_columns_are_named_by_them():
    fit = flmm.find_reml(
        flmm.lmm_model("Reaction ~ Days + (Days||Subject)", flmm.datasets.sleepstudy()), progressbar=False
    )
    assert list(fit.theta.index) == ["Subject[Intercept]", "Subject[Days]", "residual"]


def test_quantities_of_a_prediction_carry_their_own_names():
    data = flmm.datasets.sleepstudy()
    fit = flmm.find_reml(flmm.lmm_model("Reaction ~ Days + (1 | Subject)", data), progressbar=False)
    new = fit.predict(data=pd.DataFrame({"Days": [0.0], "Subject": ["308"]}, index=["row"]))
    assert [s.name for s in (new.mean, new.variance, new.se, new.se_observation)] == [
        "mean", "variance", "se", "se_observation"
    ]  # fmt: skip


def mixed_table(seed=3, n=60):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"y": rng.normal(5, 2, n), "x": rng.exponential(size=n), "f": np.resize(list("uvw"), n),
         "g": rng.choice(list("abcd"), n)}, index=[f"r{i}" for i in range(n)]
    )  # fmt: skip


def test_parts_of_a_term_of_which_some_are_correlated_are_numbered():
    data = mixed_table()
    model = flmm.lmm_model("y ~ x + (x + f || g)", data)
    assert [rv.name for rv in model.free_RVs] == ["sigma_g_1", "sigma_g_2", "chol_g_3", "sigma_e"]
    assert model.coords["g_effects"] == ("Intercept", "x", "f[u]", "f[v]", "f[w]")
    assert model.coords["g_3_effects"] == ("f[u]", "f[v]", "f[w]")
    assert model.named_vars_to_dims["sigma_g_3"] == ("g_3_effects",)
    assert model.coords["g_3_pairs"] == ("f[u], f[v]", "f[u], f[w]", "f[v], f[w]")
    L = np.array([[1.0, 0, 0], [0.5, 2, 0], [-1, 0.3, 1.5]])
    V = covariance_of_y(model, sigma_g_1=2.0, sigma_g_2=0.5, chol_g_3=L[np.tril_indices(3)], sigma_e=1.0)
    F = (data["f"].to_numpy()[:, None] == np.array(list("uvw"))).astype(float)
    same = data["g"].to_numpy()[:, None] == data["g"].to_numpy()
    expected = same * (4 + 0.25 * np.outer(data["x"], data["x"]) + F @ L @ L.T @ F.T) + np.eye(60)
    assert_allclose(V, expected, atol=1e-12)


def test_a_single_slope_has_a_scalar_deviation_in_its_unit():
    data = mixed_table()
    model = flmm.lmm_model("y ~ x + (0 + x|g)", data)
    assert model["sigma_g"].type.shape == ()
    s = residual_sd(data["y"].to_numpy(), np.column_stack([np.ones(60), data["x"]]))
    assert_allclose(prior_scale(model, "sigma_g"), 2 * s / np.sqrt(np.mean(data["x"] ** 2)), rtol=1e-6)
    assert_allclose(prior_scale(model, "sigma_e"), 2 * s, rtol=1e-6)


def test_priors_follow_the_units_of_y_and_x_and_do_not_depend_on_the_zero_of_x():
    data = mixed_table()
    base = flmm.lmm_model("y ~ x + (x|g)", data)
    chol = np.array([1.3, 0.4, 0.8])

    def logp(table, packed):
        model = flmm.lmm_model("y ~ x + (x|g)", table)
        return float(pm.logp(model["chol_g"], packed).eval(mode=AS_WRITTEN))

    reference = float(pm.logp(base["chol_g"], chol).eval(mode=AS_WRITTEN))
    # three numbers change their unit by c; the slope's two by 1/c
    assert_allclose(logp(data.assign(y=1000 * data["y"]), 1000 * chol), reference - 3 * np.log(1000), rtol=1e-9)
    scaled = logp(data.assign(x=1000 * data["x"]), chol / [1, 1000, 1000])
    assert_allclose(scaled, reference + 2 * np.log(1000), rtol=1e-9)
    far = flmm.lmm_model("y ~ x + (x|g)", data.assign(x=data["x"] + 2000))
    starts = [model.rvs_to_initial_values[model["chol_g"]] for model in (base, far)]
    assert_allclose(starts[1][2], starts[0][2], rtol=1e-6)
    assert starts[1][0] > 100 * starts[0][0]


def test_a_known_K_is_matched_to_the_levels_and_its_unit_is_taken_out_of_the_prior():
    data = flmm.datasets.john_alpha()
    gens = ["G99", *sorted(set(data["gen"]), reverse=True)]
    W = np.random.default_rng(1).normal(size=(25, 30))
    K = pd.DataFrame(W @ W.T / 7, gens, gens)
    model = flmm.lmm_model(ALPHA, data, known={"gen": K})
    assert list(model.coords["gen"]) == sorted(set(data["gen"]))
    key = (data["rep"] + data["block"]).to_numpy()
    V = covariance_of_y(model, **{"sigma_gen": 0.5, "sigma_rep:block": 0.3, "sigma_e": 0.2})
    expected = 0.25 * K.loc[data["gen"], data["gen"]].to_numpy() + 0.09 * (key[:, None] == key) + 0.04 * np.eye(72)
    assert_allclose(V, expected, rtol=1e-12)
    plain = prior_scale(flmm.lmm_model(ALPHA, data), "sigma_gen")
    kbar = np.mean(np.diag(K.loc[data["gen"], data["gen"]]))
    assert_allclose(prior_scale(model, "sigma_gen"), plain / np.sqrt(kbar), rtol=1e-6)
    given = flmm.lmm_model(ALPHA, data, known={"gen": cov.known(K)})
    assert_allclose(prior_scale(given, "sigma_gen"), plain / np.sqrt(kbar), rtol=1e-6)


def test_a_known_K_without_labels_is_refused_for_levels_with_names_and_taken_for_the_numbers_of_its_rows():
    data = mixed_table()
    K = np.eye(4) + np.diag([0.1, 0.4, 0.2], 1) + np.diag([0.1, 0.4, 0.2], -1)
    for given in (K, csr_array(K), K.tolist()):
        with pytest.raises(ValueError, match=r"K of term 'g' is an array without labels, but the levels have names"):
            flmm.lmm_model("y ~ x + (1|g)", data, known={"g": given})
    with pytest.raises(ValueError, match=r"K has the default index 0, 1, 2 … in place of names: give pd.DataFrame"):
        flmm.lmm_model("y ~ x + (1|g)", data, known={"g": pd.DataFrame(K)})
    with pytest.raises(ValueError, match="the covariance of term 'g' has size 5, but there are 4 levels"):
        flmm.lmm_model("y ~ x + (1|g)", data, known={"g": np.eye(5)})
    for first in (0, 1):
        number = data["g"].map({level: first + i for i, level in enumerate("abcd")})
        model = flmm.lmm_model("y ~ x + (1|g)", data.assign(g=number), known={"g": K})
        V = covariance_of_y(model, sigma_g=1.0, sigma_e=1.0)
        assert_allclose(V, K[np.ix_(number - first, number - first)] + np.eye(60), atol=1e-12)


def test_a_known_K_of_slopes_is_their_covariance_across_levels():
    data = mixed_table()
    K = pd.DataFrame(np.eye(4) + 0.5, list("dcba"), list("dcba"))
    L = np.array([[1.0, 0], [0.5, 2]])
    model = flmm.lmm_model("y ~ x + (x|g)", data, known={"g": K})
    V = covariance_of_y(model, chol_g=L[np.tril_indices(2)], sigma_e=1.0)
    U = np.column_stack([np.ones(60), data["x"]])
    expected = K.loc[data["g"], data["g"]].to_numpy() * (U @ L @ L.T @ U.T) + np.eye(60)
    assert_allclose(V, expected, atol=1e-10)


def test_an_animal_model_may_have_one_record_for_each_level():
    ids = [f"i{k}" for k in range(12)]
    data = pd.DataFrame({"y": np.random.default_rng(2).normal(size=12), "id": ids})
    W = np.random.default_rng(3).normal(size=(12, 20))
    model = flmm.lmm_model("y ~ (1|id)", data, known={"id": pd.DataFrame(W @ W.T / 20, ids, ids)})
    assert list(model.coords["id"]) == sorted(ids)


def test_nuts_draws_the_posterior_that_quadrature_finds():
    data = flmm.datasets.dyestuff()
    idata = flmm.sample(1000, chains=2, model=flmm.lmm_model("Yield ~ 1 + (1|Batch)", data), random_seed=4, quiet=True)
    y, Z = data["Yield"].to_numpy(), pd.get_dummies(data["Batch"], dtype=float).to_numpy()
    spectrum = flmm.Spectrum.from_factor(Z, np.ones((30, 1)))
    rotated, s = spectrum.rotate(y), np.std(y, ddof=1)
    grid = np.linspace(1e-3, 8, 1200) * s
    g, e = np.meshgrid(grid, grid[grid < 4 * s], indexing="ij")
    logp = contrast_loglik(rotated.z, rotated.rss, eigvals=spectrum.eigvals, nullity=spectrum.nullity,
                           sigma2_g=g**2, sigma2_e=e**2)  # fmt: skip
    weights = np.exp(logp - logp.max()) * halfnorm(scale=2 * s).pdf(g) * halfnorm(scale=2 * s).pdf(e)
    weights /= weights.sum()
    for name, values in (("sigma_Batch", g), ("sigma_e", e)):
        mean = (weights * values).sum()
        sd = np.sqrt((weights * (values - mean) ** 2).sum())
        draws = idata.posterior[name]
        error = float(az.mcse(draws, method="mean"))
        assert abs(float(draws.mean()) - mean) < 4 * error
        assert error < sd / 20
        assert_allclose(float(draws.std()), sd, rtol=0.15)


def test_other_priors_take_the_place_of_the_default():
    data = flmm.datasets.sleepstudy()
    model = flmm.lmm_model(
        SLEEP,
        data,
        priors={
            "sigma_e": pm.Exponential.dist(0.1),
            "sigma_Subject": pm.Exponential.dist([0.01, 0.1], shape=2),
            "eta_Subject": 1.0,
        },
    )
    assert_allclose(pm.logp(model["sigma_e"], 3.0).eval(mode=AS_WRITTEN), np.log(0.1) - 0.3)
    r = 3 / np.hypot(3, 4)
    expected = np.log(0.01) - 0.2 + np.log(0.1) - 0.5 + np.log(0.5) + np.log(np.sqrt(1 - r**2) / 5)
    got = pm.logp(model["chol_Subject"], np.array([20.0, 3.0, 4.0])).eval(mode=AS_WRITTEN)
    assert_allclose(got, expected, rtol=1e-9)
    vector = {"sigma_Subject": pm.HalfNormal.dist([1.0, 2.0], shape=2)}
    model = flmm.lmm_model("Reaction ~ Days + (Days||Subject)", data, priors=vector)
    assert model.named_vars_to_dims["sigma_Subject"] == ("Subject_effects",)
    assert_array_equal(prior_scale(model, "sigma_Subject").round(9), [1, 2])


def test_names_of_interactions_are_those_of_variables_in_figures_and_priors():
    graph = pm.model_to_graphviz(flmm.lmm_model(ALPHA, flmm.datasets.john_alpha())).source
    for name in ("sigma_gen", "sigma_rep", "sigma_e", "yield"):
        assert name in graph
    model = flmm.lmm_model(ALPHA, flmm.datasets.john_alpha(), priors={"sigma_rep:block": pm.HalfNormal.dist(0.1)})
    assert_allclose(prior_scale(model, "sigma_rep:block"), 0.1)


def test_a_design_takes_the_place_of_formula_and_table():
    data = flmm.datasets.john_alpha()
    data.loc[3, "yield"] = np.nan
    with pytest.warns(UserWarning, match="1 of 72 rows dropped, with missing values [(]yield 1[)]: 3"):
        design = flmm.MixedDesign.from_formula(ALPHA, data)
    model = flmm.lmm_model(design, name="oats")
    assert model.observed_RVs[0].name == "oats"
    assert list(model.coords["obs"]) == [i for i in data.index if i != 3]


def test_without_fixed_effects_the_scale_is_that_of_y():
    data = mixed_table()
    model = flmm.lmm_model("y ~ 0 + (1|g)", data)
    assert_allclose(prior_scale(model, "sigma_e"), 2 * np.sqrt(np.mean(data["y"] ** 2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("formula", "arguments", "error", "message"),
    [
        ("y ~ x", {}, ValueError, r"formula 'y ~ x' has no random term, such as \(1 \| group\)"),
        ("y ~ (1|r)", {}, ValueError, "the term of 'r' has 60 effects for 60 observations: they cannot be told from"),
        ("y ~ (1|g)", {"known": {"gen": np.eye(4)}}, ValueError, "known names 'gen', but the grouping factors are g"),
        (
            "y ~ (1|g)",
            {"known": {"g": np.eye(3)}},
            ValueError,
            "the covariance of term 'g' has size 3, but there",
        ),
        ("y ~ (1|g)", {"priors": {"sigma": 1}}, ValueError, "priors names 'sigma', but there are sigma_g, sigma_e"),
        ("y ~ (x|g)", {"priors": {"chol_g": 1}}, ValueError, "'chol_g', but there are sigma_g, eta_g, sigma_e"),
        (
            "y ~ (1|g)",
            {"priors": {"sigma_g": 2.0}},
            TypeError,
            "the prior of sigma_g must be an unregistered",
        ),
        (
            "y ~ (x|g)",
            {"priors": {"sigma_g": pm.HalfNormal.dist(1)}},
            ValueError,
            r"has shape \(\), but .* shape \(2",
        ),
        ("y ~ (x||g)", {"priors": {"sigma_g": pm.HalfNormal.dist(1)}}, ValueError, r"has shape \(\), but .* shape \(2"),
        ("y ~ (1|e)", {}, ValueError, "a grouping factor is called 'e', but sigma_e is the residual's: rename"),
        ("y ~ (1|obs)", {}, ValueError, "a grouping factor is called 'obs', which is a dimension of the observations"),
        ("y ~ (x + z|g)", {}, ValueError, "the columns 'Intercept', 'x', 'z' of the term of 'g' are collinear or zero"),
        ("y ~ (0 + zero|g)", {}, ValueError, "the columns 'zero' of the term of 'g' are collinear or zero"),
        ("x ~ x + (1|g)", {}, ValueError, "y has no residual variance after X"),
    ],
)
def test_bad_input_is_refused(formula, arguments, error, message):
    data = mixed_table()
    data = data.assign(e=data["g"], obs=data["g"], r=data.index, z=3 * data["x"] - 1, zero=0.0)
    with pytest.raises(error, match=message):
        flmm.lmm_model(formula, data, **arguments)


def test_tables_without_rows_or_real_numbers_are_refused():
    data = mixed_table()
    with pytest.raises(ValueError, match="data has no rows: there is nothing to fit"):
        flmm.lmm_model("y ~ x + (1|g)", data.iloc[:0])
    for name in ("x", "y"):
        with pytest.raises(ValueError, match=f"data are complex in '{name}': give real numbers"):
            flmm.lmm_model("y ~ x + (1|g)", data.assign(**{name: data[name] + 1j}))


def test_infinite_slopes_are_refused():
    data = mixed_table()
    with pytest.raises(
        ValueError, match=r"the columns of random terms have 1 infinite values, of x in rows 'r3': mend"
    ):
        flmm.lmm_model("y ~ 1 + (0 + x|g)", data.assign(x=data["x"].mask(data.index == "r3", np.inf)))


def test_levels_without_data_are_predicted_from_relatives_where_they_are_categories():
    data, levels = mixed_table(), [*"abcd", "new"]
    root = np.random.default_rng(4).normal(size=(4, 4))
    root = np.vstack([root, root[:1]])  # "new" is a twin of "a"
    K = pd.DataFrame(root @ root.T, index=levels, columns=levels)
    rows = pd.DataFrame({"x": 1.0, "g": ["a", "new"]}, index=["old", "new"])
    plain = flmm.find_reml(flmm.lmm_model("y ~ x + (x|g)", data, known={"g": K}), progressbar=False)
    with pytest.raises(ValueError, match=r"'g' has no levels 'new'.*related.*fit with them in K and as categories"):
        plain.predict(data=rows)
    wide = data.assign(g=pd.Categorical(data["g"], categories=levels))
    fit = flmm.find_reml(flmm.lmm_model("y ~ x + (x|g)", wide, known={"g": K}), progressbar=False)
    assert_allclose(fit.loglik, plain.loglik, rtol=0, atol=1e-8)
    predicted = fit.predict(data=rows)
    assert_allclose(predicted.mean["new"], predicted.mean["old"], rtol=1e-6)
    assert_allclose(predicted.mean["old"], plain.predict(data=rows.loc[["old"]]).mean["old"], rtol=1e-4)


def test_some_effects_of_several_terms_are_refused():
    model = flmm.lmm_model("y ~ x + (1|g)", mixed_table())
    with pytest.raises(
        ValueError, match="which= is for one kernel: y is a StructuredLMM, whose effects are added all together"
    ):
        flmm.recover_effects(None, which=("beta",), model=model)


def test_new_rows_are_refused_by_what_is_missing():
    data = mixed_table()
    model = flmm.lmm_model("y ~ x + f + (1|g)", data)
    with pytest.raises(ValueError, match="data has no rows: there is nothing to predict"):  # before any draw is used
        flmm.predict(None, model=model, data=data.iloc[:0])
    fit = flmm.find_reml(model, progressbar=False)
    with pytest.raises(ValueError, match="data has no rows: there is nothing to predict"):
        fit.predict(data=data.iloc[:0])
    with pytest.raises(ValueError, match=r"new data have missing values [(]x 1[)] in rows 'r0'"):
        fit.predict(data=data.iloc[:2].assign(x=[np.nan, 1.0]))


def test_a_known_covariance_of_zeros_is_refused():
    data, levels = mixed_table(), list("abcd")
    zeros = pd.DataFrame(np.zeros((4, 4)), index=levels, columns=levels)
    with pytest.raises(ValueError, match="known covariance of 'g' is zero for all levels: leave the random term out"):
        flmm.lmm_model("y ~ x + (1|g)", data, known={"g": zeros})


def test_a_design_holds_its_data():
    design = flmm.MixedDesign.from_formula("y ~ (1|g)", mixed_table())
    with pytest.raises(ValueError, match="'data' is given together with a MixedDesign, which holds it"):
        flmm.lmm_model(design, mixed_table())
    with pytest.raises(TypeError, match="data must be a pandas DataFrame, got NoneType"):
        flmm.lmm_model("y ~ (1|g)")
