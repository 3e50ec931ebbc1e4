"""lmm_model under a SharePrior: a Dirichlet of what terms contribute to an observation, REML and NUTS as ever."""

import json
from pathlib import Path

import arviz_stats as az
import numpy as np
import pandas as pd
import pymc as pm
import pytest
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose
from scipy.stats import beta, dirichlet, invgamma

import pm_fastlmm as flmm
from pm_fastlmm.priors import SharePrior

ALPHA = "yield ~ rep + (1|gen) + (1|rep:block)"


def density(model, point):
    """The log-density of a model at constrained values, without Jacobians."""
    values = {}
    for rv in model.free_RVs:
        x, name = np.asarray(point[rv.name], dtype=float), model.rvs_to_values[rv].name
        values[name] = np.log(x) if name.endswith("_log__") else np.log(x / (1 - x))
    return float(model.compile_logp(jacobian=False, mode=AS_WRITTEN)(values))


def at(model, names, point):
    values = {model[name]: np.asarray(value, dtype=float) for name, value in point.items()}
    return [model[name].eval(values, mode=AS_WRITTEN, on_unused_input="ignore") for name in names]


def contributions(model, point):
    """V of each term and of the residual, dense."""
    [node] = flmm.lmm_nodes(model)
    values = {model[name]: np.asarray(value, dtype=float) for name, value in point.items()}
    options = {"mode": AS_WRITTEN, "on_unused_input": "ignore"}
    parts = [term.Z @ term.covariance.dense().eval(values, **options) @ term.Z.T for term in node.terms]
    return [*parts, node.theta.eval(values, **options)[-1] * np.eye(node.n)]


def table(seed=3, n=60):
    rng = np.random.default_rng(seed)
    columns = {"y": rng.normal(5, 2, n), "x": 3 + rng.exponential(size=n), "z": rng.normal(size=n)}
    return pd.DataFrame(columns | {"g": rng.choice(list("abcd"), n)}, index=[f"r{i}" for i in range(n)])


def relationship():
    root = np.random.default_rng(1).normal(size=(4, 6)) * [[1], [2], [1], [3]]
    return pd.DataFrame(root @ root.T, list("dcba"), list("dcba"))


@pytest.mark.parametrize("concentration", [0.7, {"gen": 2.0, "residual": 3.5}])
def test_the_density_is_that_of_a_dirichlet_an_inverse_gamma_and_the_restricted_likelihood(oracle, concentration):
    data = flmm.datasets.john_alpha()
    model = flmm.lmm_model(ALPHA, data, priors=SharePrior(concentration, total_shape=2.5))
    assert [rv.name for rv in model.free_RVs] == ["total", "portion"]
    assert model.coords["component"] == ("gen", "rep:block", "residual")
    X = np.column_stack([np.ones(72), data["rep"] == "R2", data["rep"] == "R3"])
    y = data["yield"].to_numpy()
    residual = y - X @ np.linalg.lstsq(X, y)[0]
    same = [data[name].to_numpy() for name in ("gen",)] + [(data["rep"] + data["block"]).to_numpy()]
    K = [key[:, None] == key for key in same]
    alpha = [0.7] * 3 if concentration == 0.7 else [2.0, 1.0, 3.5]
    for total, first, second in ((0.4, 0.3, 0.9), (1.7, 0.85, 0.2)):
        shares = np.array([first, second * (1 - first), (1 - first) * (1 - second)])
        V = total * (shares[0] * K[0] + shares[1] * K[1] + shares[2] * np.eye(72))
        expected = (
            dirichlet.logpdf(shares, alpha) + np.log(1 - first)  # ∂shares/∂portions
            + invgamma.logpdf(total, 2.5, scale=residual @ residual / 69)
            + oracle.Dense(V, X, y, 1.0, 0.0).loglik_reml
        )  # fmt: skip
        point = {"total": total, "portion": [first, second]}
        assert_allclose(density(model, point), expected, rtol=1e-10)
        reported = at(model, ["share", "sigma_gen", "sigma_rep:block", "sigma_e"], point)
        assert_allclose(reported[0], shares)
        assert_allclose(reported[1:], np.sqrt(total * shares))


def test_one_kernel_has_the_prior_of_kernel_model():
    ids, rng = [f"i{k}" for k in range(20)], np.random.default_rng(2)
    root = rng.normal(size=(20, 30))
    K = pd.DataFrame(root @ root.T / 7, ids, ids)
    data = pd.DataFrame({"y": rng.normal(size=20), "id": ids}, index=ids)
    model = flmm.lmm_model("y ~ (1|id)", data, known={"id": K}, priors=SharePrior())
    kernel = flmm.kernel_model("y ~ 1", K=K, data=data)
    for h2, total in ((0.2, 0.5), (0.9, 3.0)):
        point = {"h2": h2, "total": total}
        assert_allclose(density(model, point), density(kernel, point), rtol=1e-10)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("random", ["(1|g)", "(0 + x|g)", "(x||g)", "(x|g)", "(x + z|g)", "(x|g) + (0 + z||g)"])
def test_a_share_is_the_mean_variance_of_the_rows(random, known):
    data = table()
    given = {"g": relationship()} if known else None
    model = flmm.lmm_model(f"y ~ {random}", data, known=given, priors=SharePrior())
    rng = np.random.default_rng(5)
    point = {rv.name: rng.uniform(0.2, 0.8, size=rv.type.shape) for rv in model.free_RVs} | {"total": 7.0}
    parts = contributions(model, point)
    share = at(model, ["share"], point)[0]
    assert_allclose([np.trace(V) / 60 for V in parts], [7 * share[:-1].sum(), 7 * share[-1]], rtol=1e-12)
    assert_allclose(share.sum(), 1)


def test_shares_of_uncorrelated_columns_are_theirs():
    data, K = table(), relationship()
    model = flmm.lmm_model("y ~ (x||g)", data, known={"g": K}, priors=SharePrior())
    assert model.coords["component"] == ("g[Intercept]", "g[x]", "residual")
    point = {"total": 2.0, "portion": [0.3, 0.4]}
    share, sigma = at(model, ["share", "sigma_g"], point)
    diagonal = np.diag(K.loc[data["g"], data["g"]])
    assert_allclose(sigma[0] ** 2 * diagonal.mean(), 2 * share[0])
    assert_allclose(sigma[1] ** 2 * (diagonal * data["x"] ** 2).mean(), 2 * share[1])


def test_correlated_columns_share_by_what_the_ones_before_leave():
    """The intercept at the mean of x, the slope by the standard deviation of x."""
    data = table()
    model = flmm.lmm_model("y ~ (x|g)", data, priors=SharePrior())
    point = {"total": 2.0, "portion": [0.3, 0.4], "partial_g": [0.8]}
    share, sigma, corr = at(model, ["share", "sigma_g", "corr_g"], point)
    off = sigma[0] * sigma[1] * corr[0]
    G, mean, sd = np.array([[sigma[0] ** 2, off], [off, sigma[1] ** 2]]), data["x"].mean(), data["x"].std(ddof=0)
    centred = np.array([[1, mean], [0, sd]]) @ G @ np.array([[1, mean], [0, sd]]).T
    assert_allclose(np.diag(centred), 2 * share[:2])
    assert_allclose(abs(centred[0, 1]) / np.sqrt(np.prod(np.diag(centred))), 0.6)


def test_the_prior_depends_on_neither_unit_nor_zero_of_a_covariate():
    data = table()
    point = {"total": 2.0, "portion": [0.3, 0.4], "partial_g": [0.8]}
    expected = density(flmm.lmm_model("y ~ x + (x|g)", data, priors=SharePrior()), point)
    other = flmm.lmm_model("y ~ x + (x|g)", data.assign(x=1000 * data["x"] - 7e4), priors=SharePrior())
    # the likelihood of X = [1, 1000 x - c] is lower by log 1000 = ½ log|XᵀX|
    assert_allclose(density(other, point), expected - np.log(1000), rtol=1e-7)


def test_correlations_are_lkj():
    """Of columns that are orthogonal already: log-densities differ by (η - 1) log|C|."""
    grid = np.array([[1, i, j] for i in (-1, 1) for j in (-1, 1)] * 15, dtype=float)
    data = table().assign(x=grid[:, 1], z=grid[:, 2])
    model = flmm.lmm_model("y ~ (x + z|g)", data, priors=SharePrior(eta=1.7))
    names, rest = ["partial_g"], {"total": 2.0, "portion": [0.3, 0.4, 0.5]}
    logp = pm.logp(model["partial_g"], model.rvs_to_values[model["partial_g"]]).sum()

    def lkj(x):
        found = at(model, ["corr_g"], rest | {names[0]: x})[0]
        C = np.eye(3)
        C[np.triu_indices(3, 1)] = found
        return found, np.linalg.slogdet(C + C.T - np.eye(3))[1]

    values = []
    for x in (np.array([0.2, 0.6, 0.9]), np.array([0.5, 0.45, 0.3])):
        steps = 1e-6 * np.eye(3)
        jacobian = np.stack([(lkj(x + h)[0] - lkj(x - h)[0]) / 2e-6 for h in steps])
        own = logp.eval({model.rvs_to_values[model["partial_g"]]: x}, mode=AS_WRITTEN)
        values.append((own - np.linalg.slogdet(jacobian)[1], 0.7 * lkj(x)[1]))
    assert_allclose(values[0][0] - values[1][0], values[0][1] - values[1][1], rtol=1e-7)


def lme4_fits():
    rows = json.loads((Path(__file__).parents[1] / "reference" / "lme4_nlme.json").read_text())
    rows = [row for row in rows if row["software"].startswith("lme4") and row["data"] != "dyestuff2.csv"]
    return [pytest.param(row, id=row["name"]) for row in rows if row["method"] == "REML"]


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("row", lme4_fits())
def test_find_reml_reaches_the_estimate_of_lme4(row):
    data = getattr(flmm.datasets, row["data"].removesuffix(".csv"))()
    model = flmm.lmm_model(row["formula"], data, priors=SharePrior(3.0))
    fit = flmm.find_reml(model, progressbar=False)
    assert fit.converged
    assert_allclose(fit.loglik, row["loglik"], rtol=0, atol=1e-9)
    assert_allclose(sorted(fit.theta), sorted(row["vcov"]), rtol=3e-6)
    [node] = flmm.lmm_nodes(model)
    assert_allclose(node.theta.eval({model[n]: v for n, v in fit.point.items()}), fit.theta, rtol=1e-8, atol=1e-8)


def test_find_reml_reaches_a_share_of_zero_and_a_singular_matrix():
    data = table()  # y does not depend on g
    fit = flmm.find_reml(flmm.lmm_model("y ~ x + (x|g)", data, priors=SharePrior()), progressbar=False)
    plain = flmm.find_reml("y ~ x + (x|g)", data, progressbar=False)
    assert fit.boundary == plain.boundary != ()
    assert_allclose(fit.theta, plain.theta, atol=1e-7)
    one = flmm.find_reml(flmm.lmm_model("y ~ z + (1|g)", data, priors=SharePrior()), progressbar=False)
    assert one.boundary == ("g",)
    assert_allclose(one.point["h2"], 0, atol=1e-8)


def test_nuts_is_seeded_and_draws_the_exact_posterior():
    data = flmm.datasets.dyestuff()
    model = flmm.lmm_model("Yield ~ 1 + (1|Batch)", data, priors=SharePrior())
    idata = flmm.sample(1000, chains=2, model=model, random_seed=4, quiet=True, progressbar=False)
    Z = pd.get_dummies(data["Batch"], dtype=float).to_numpy()
    exact = flmm.exact_posterior(flmm.Spectrum.from_factor(Z, np.ones((30, 1))), data["Yield"].to_numpy())
    draws = idata.posterior["h2"]
    mean, sd = float(exact.mean("h2")), float(exact.sd("h2"))
    error = float(az.mcse(draws, method="mean"))
    assert abs(float(draws.mean()) - mean) < 4 * error
    assert error < sd / 20
    assert_allclose(float(draws.std()), sd, rtol=0.1)


def test_prior_draws_of_shares_are_beta():
    model = flmm.lmm_model(ALPHA, flmm.datasets.john_alpha(), priors=SharePrior({"residual": 2.0}))
    share = pm.draw(model["share"], 4000, random_seed=1, mode=AS_WRITTEN)
    assert_allclose(share.mean(axis=0), [0.25, 0.25, 0.5], atol=4 * 0.25 / np.sqrt(4000))
    quantiles = beta.ppf([0.1, 0.5, 0.9], 1, 3)
    assert_allclose((share[:, :2, None] < quantiles).mean(axis=0), [[0.1, 0.5, 0.9]] * 2, atol=4 * 0.5 / np.sqrt(4000))


@pytest.mark.parametrize(
    ("formula", "make", "message"),
    [
        ("y ~ (1|g)", lambda: SharePrior(0.0), "concentration must be positive and finite, got 0.0"),
        ("y ~ (1|g)", lambda: SharePrior({"g": -1}), "concentration of 'g' must be positive and finite, got -1"),
        ("y ~ (1|g)", lambda: SharePrior(total_scale=np.inf), "total_scale must be positive and finite, got inf"),
        ("y ~ (1|g)", lambda: SharePrior({"h": 1}), "concentration names 'h', but the shares are g, residual"),
        ("y ~ (1|total)", SharePrior, "a grouping factor is called 'total', which is a name in a model with a Share"),
        ("y ~ (x + v|g)", SharePrior, "the columns 'Intercept', 'x', 'v' of the term of 'g' are collinear or zero"),
    ],
)
def test_bad_input_is_refused(formula, make, message):
    data = table()
    data = data.assign(total=data["g"], v=2 * data["x"] - 1)
    with pytest.raises(ValueError, match=message):
        flmm.lmm_model(formula, data, priors=make())
