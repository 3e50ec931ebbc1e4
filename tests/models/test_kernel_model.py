"""kernel_model: its prior is that of the exact posterior in both parameterisations, and its input is aligned."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from as_written import AS_WRITTEN
from scipy.integrate import simpson
from scipy.linalg import null_space
from scipy.stats import beta, invgamma, multivariate_normal

import pm_fastlmm as flmm

POINTS = ((0.3, 1.7), (0.9, 0.4), (0.02, 9.0))


def make_data(m, n=24, seed=2):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n, m)) * rng.exponential(size=m) / np.sqrt(m)
    X = np.column_stack([np.ones(n), rng.exponential(size=n), np.linspace(0, 3, n) ** 2])
    return W, X, X @ [1.0, 2.0, -0.3] + 1.5 * W @ rng.normal(size=m) + rng.normal(size=n)


def log_posterior(y, X, K, prior, h2, total):
    """Prior of (logit h², log total) and density of the error contrasts, all dense."""
    A = null_space(X.T)
    V = h2 * total / np.mean(np.diag(K)) * K + (1 - h2) * total * np.eye(len(y))
    return (
        beta.logpdf(h2, prior.h2_alpha, prior.h2_beta) + np.log(h2 * (1 - h2))
        + invgamma.logpdf(total, prior.total_shape, scale=prior.total_scale) + np.log(total)
        + multivariate_normal.logpdf(A.T @ y, np.zeros(A.shape[1]), A.T @ V @ A) - 0.5 * np.linalg.slogdet(X.T @ X)[1]
    )  # fmt: skip


def compiled(model):
    """The log-density of a model as a function of h² and the total variance, in either parameterisation."""
    density = model.compile_logp(mode=AS_WRITTEN)

    def logp(h2, total):
        h2, total = np.asarray(h2), np.asarray(total)
        values = {"h2_logodds__": np.log(h2 / (1 - h2))}
        if "total_log__" in {v.name for v in model.value_vars}:
            return density(values | {"total_log__": np.log(total)})
        return density(values | {"sigma2_e_log__": np.log((1 - h2) * total)})

    return logp


@pytest.fixture(scope="module", params=[30, 4], ids=["(h2, total)", "(h2, sigma2_e)"])
def case(request):
    W, X, y = make_data(request.param)
    return W, X, y, flmm.kernel_model(y, X, W=W)


def test_density_is_that_of_the_documented_prior_and_the_restricted_likelihood(case):
    W, X, y, model = case
    residual = y - X @ np.linalg.lstsq(X, y)[0]
    prior = flmm.priors.VariancePrior(1, 1, 1, residual @ residual / (len(y) - 3))
    for point in POINTS:
        np.testing.assert_allclose(compiled(model)(*point), log_posterior(y, X, W @ W.T, prior, *point), rtol=1e-10)


def test_prior_is_that_of_the_exact_posterior(case):
    W, X, y, model = case
    exact = flmm.exact_posterior(flmm.Spectrum.from_factor(W, X), y)
    logp = compiled(model)
    log_total = np.linspace(-6, 12, 401)
    # the total is integrated out by hand; what is left is the exact posterior of logit h², times its evidence
    nodes = np.searchsorted(exact.x, [-2.0, 0.0, 3.0])
    marginal = [
        simpson(np.exp([logp(h, np.exp(t)) for t in log_total]), x=log_total) for h in 1 / (1 + np.exp(-exact.x[nodes]))
    ]
    np.testing.assert_allclose(np.log(marginal), exact.log_density[nodes] + exact.log_evidence, atol=1e-7)


def test_another_prior_is_used(case):
    W, X, y, _ = case
    prior = flmm.priors.VariancePrior(2.0, 3.0, 2.5, 4.0)
    logp = compiled(flmm.kernel_model(y, X, W=W, prior=prior))
    for point in POINTS:
        np.testing.assert_allclose(logp(*point), log_posterior(y, X, W @ W.T, prior, *point), rtol=1e-12)


def test_prior_densities_are_those_of_scipy_in_double_precision():
    prior = flmm.priors.VariancePrior(2.1, 3.3, 2.7, 4.9)  # numbers that single precision does not hold
    for m in (30, 4):
        W, X, y = make_data(m)
        model = flmm.kernel_model(y, X, W=W, prior=prior)
        h2, x = 0.3, 1.7
        scale = prior.total_scale if m == 30 else (1 - h2) * prior.total_scale
        name = "total" if m == 30 else "sigma2_e"
        density = model.compile_logp(vars=[model["h2"], model[name]], jacobian=False, sum=False, mode=AS_WRITTEN)
        got = density({"h2_logodds__": np.log(h2 / (1 - h2)), f"{name}_log__": np.log(x)})
        reference = [beta.logpdf(h2, prior.h2_alpha, prior.h2_beta), invgamma.logpdf(x, prior.total_shape, scale=scale)]
        np.testing.assert_allclose(got, reference, rtol=1e-12)


def test_low_rank_takes_the_residual_variance_as_coordinate():
    for m, names in ((30, ["h2", "total"]), (12, ["h2", "total"]), (10, ["h2", "sigma2_e"]), (4, ["h2", "sigma2_e"])):
        W, X, y = make_data(m)
        model = flmm.kernel_model(y, X, W=W)
        assert [rv.name for rv in model.free_RVs] == names
        assert {"h2", "total"} <= set(model.named_vars)


def test_total_is_reported_when_it_is_derived():
    W, X, y = make_data(4)
    model = flmm.kernel_model(y, X, W=W)
    total = model["total"].eval({model["h2"]: 0.25, model["sigma2_e"]: 3.0}, mode=AS_WRITTEN)
    np.testing.assert_allclose(total, 4.0)
    [node] = flmm.lmm_nodes(model)
    g = node.sigma2_g.eval({model["h2"]: 0.25, model["sigma2_e"]: 3.0}, mode=AS_WRITTEN)
    np.testing.assert_allclose(g * node.spectrum.mean_diagonal, 1.0)


def same_model(a, b):
    for point in POINTS:
        np.testing.assert_allclose(compiled(a)(*point), compiled(b)(*point), rtol=1e-10)


def test_K_its_factor_and_the_spectrum_give_one_model():
    W, X, y = make_data(30)
    reference = flmm.kernel_model(y, X, W=W)
    same_model(flmm.kernel_model(y, X, W @ W.T), reference)
    same_model(flmm.kernel_model(y, spectrum=flmm.Spectrum.from_factor(W, X)), reference)


def test_missing_rows_are_dropped_counted_and_named():
    W, X, y = make_data(30)
    keep = np.ones(24, dtype=bool)
    keep[[3, 11, 20]] = False
    reference = flmm.kernel_model(y[keep], X[keep], W=W[keep])
    holes_y, holes_X = y.copy(), X.copy()
    holes_y[[3, 11]], holes_X[[11, 20], 1] = np.nan, np.nan
    with pytest.warns(UserWarning, match=r"3 of 24 rows dropped, with missing values [(]y 2, x1 2[)]: 3, 11, 20"):
        model = flmm.kernel_model(holes_y, holes_X, W @ W.T)
    same_model(model, reference)
    ids = [f"id{i}" for i in range(24)]
    with pytest.warns(UserWarning, match="'id3', 'id11', 'id20'"):
        model = flmm.kernel_model(pd.Series(holes_y, ids), holes_X, pd.DataFrame(W @ W.T, ids, ids))
    same_model(model, reference)
    assert list(model.coords["obs"]) == [i for i, kept in zip(ids, keep, strict=True) if kept]


def test_a_formula_and_a_table_are_aligned_with_K_by_id():
    W, X, y = make_data(30)
    ids = [f"id{i}" for i in range(24)]
    table = pd.DataFrame({"height": y, "age": X[:, 1], "dose": X[:, 2]}, index=ids)
    shuffled = table.iloc[np.random.default_rng(1).permutation(24)]
    model = flmm.kernel_model("height ~ age + dose", data=shuffled, K=pd.DataFrame(W @ W.T, ids, ids), name="height")
    same_model(model, flmm.kernel_model(y, X, W=W))
    [node] = flmm.lmm_nodes(model)
    assert node.name == "height"
    assert node.spectrum.coef == ("Intercept", "age", "dose")
    assert list(model.coords["obs"]) == ids
    assert model.named_vars_to_dims["height"] == ("obs",)
    np.testing.assert_array_equal(node.observed, y)


@pytest.mark.parametrize("m", [30, 4])
def test_several_responses_are_the_product_of_their_models(m):
    W, X, y = make_data(m)
    spectrum = flmm.Spectrum.from_factor(W, X)
    Y = np.column_stack([y, np.roll(y, 5), y**2])
    prior = flmm.priors.VariancePrior.scaled_to(spectrum.rotate(Y))
    singles = [compiled(flmm.kernel_model(column, spectrum=spectrum, prior=prior)) for column in Y.T]
    h2, total = np.array([0.3, 0.9, 0.02]), np.array([1.7, 0.4, 9.0])
    expected = sum(single(*v) for single, *v in zip(singles, h2, total, strict=True))
    table = pd.DataFrame(Y, columns=["u", "v", "w"])
    ids = [f"id{i}" for i in range(24)]
    models = {
        "y0": flmm.kernel_model(Y, spectrum=spectrum),
        "u": flmm.kernel_model(table, spectrum=spectrum),
        "named": flmm.kernel_model(table.set_axis(ids).iloc[::-1], X, W=pd.DataFrame(W, ids)),
    }
    for model in models.values():
        np.testing.assert_allclose(compiled(model)(h2, total), expected, rtol=1e-9)
        assert model.named_vars_to_dims["y"] == ("response", "obs")
        assert model.named_vars_to_dims["h2"] == model.named_vars_to_dims["total"] == ("response",)
    assert list(models["y0"].coords["response"]) == ["y0", "y1", "y2"]
    assert list(models["u"].coords["response"]) == ["u", "v", "w"]


def test_names_of_responses_survive_alignment():
    W, X, y = make_data(4)
    ids = [f"id{i}" for i in range(24)]
    table = pd.DataFrame({"u": y, "v": -y}, index=ids)
    model = flmm.kernel_model(table, X, W=pd.DataFrame(W, ids))
    assert list(model.coords["response"]) == ["u", "v"]


@pytest.mark.parametrize("seed", range(10))
def test_a_K_of_low_rank_is_not_taken_for_indefinite(seed):
    rng = np.random.default_rng(seed)
    n = 9
    W = rng.normal(size=(n, 5)) * rng.exponential(size=5) + 0.4
    X = np.column_stack([np.ones(n), 5 * np.linspace(-1, 2, n) ** 2 + rng.normal(size=n), rng.exponential(size=n)])
    y = rng.normal(size=n)
    model = flmm.kernel_model(y, X, W @ W.T)
    np.testing.assert_allclose(compiled(model)(0.3, 1.7), compiled(flmm.kernel_model(y, X, W=W))(0.3, 1.7), rtol=1e-6)


def test_the_prior_must_be_proper():
    W, X, y = make_data(4)
    with pytest.raises(ValueError, match="the prior of a PyMC model must be proper: give total_shape and total_scale"):
        flmm.kernel_model(y, X, W=W, prior=flmm.priors.VariancePrior())


def test_a_spectrum_excludes_what_it_holds():
    W, X, y = make_data(4)
    spectrum = flmm.Spectrum.from_factor(W, X)
    for extra in ({"X": X}, {"K": W @ W.T}, {"W": W}, {"data": pd.DataFrame({"y": y})}, {"weights": y**2}):
        with pytest.raises(
            ValueError, match="spectrum is given together with X, K, W, data, individual, weights or neg"
        ):
            flmm.kernel_model(y, spectrum=spectrum, **extra)


def test_exactly_one_of_K_and_W():
    W, X, y = make_data(4)
    for both in ({}, {"K": W @ W.T, "W": W}):
        with pytest.raises(ValueError, match=r"give exactly one of K \(covariance\) and W \(factor"):
            flmm.kernel_model(y, X, **both)


def test_missing_y_with_a_spectrum_is_refused_and_subset_is_named():
    W, X, y = make_data(4)
    y[3] = np.nan
    with pytest.raises(ValueError, match=r"y has 1 values that are NaN or infinite, the first at 3: .*subset"):
        flmm.kernel_model(y, spectrum=flmm.Spectrum.from_factor(W, X))


def test_a_response_that_X_explains_is_refused():
    W, X, _ = make_data(4)
    with pytest.raises(ValueError, match="y has no residual variance after X"):
        flmm.kernel_model(X @ np.ones(3), X, W=W)


def test_prior_predictive_h2_and_total_follow_the_prior():
    W, X, y = make_data(4)
    prior = flmm.priors.VariancePrior(2.0, 3.0, 3.0, 4.0)
    model = flmm.kernel_model(y, X, W=W, prior=prior)
    h2, total = pm.draw([model["h2"], model["total"]], draws=4000, random_seed=1, mode="FAST_COMPILE")
    for draws, law in ((h2, beta(2, 3)), (total, invgamma(3, scale=4))):
        for probability in (0.1, 0.5, 0.9):
            below = np.mean(draws < law.ppf(probability))
            assert abs(below - probability) < 5 * np.sqrt(probability * (1 - probability) / 4000)
    assert abs(np.corrcoef(h2, np.log(total))[0, 1]) < 5 / np.sqrt(4000)


def test_a_fit_prints_the_formula_of_the_model():
    data = flmm.datasets.dyestuff()
    data["x"] = np.arange(30.0)
    W = pd.get_dummies(data["Batch"], dtype=float)
    K = pd.DataFrame(np.eye(7), list("ABCDEFG"), list("ABCDEFG"))

    def first(fit):
        return str(fit).splitlines()[:2]

    model = flmm.kernel_model("Yield ~ x + I(x^2)", data=data, W=W, name="Yield")
    fit = flmm.find_reml(model, progressbar=False)
    assert first(fit) == ["REML fit of Yield ~ x + I(x^2) + u, u ~ N(0, σ²WWᵀ)", "30 observations"]
    records = flmm.kernel_model("Yield ~ x", data=data, K=K, individual="Batch")
    repeated = ["REML fit of Yield ~ x + u, u ~ N(0, σ²K)", "30 observations, 7 levels of individual"]
    assert first(flmm.find_reml(records, progressbar=False)) == repeated
    design = flmm.Design.from_formula("Yield ~ x", data, K=K, individual="Batch")
    assert first(flmm.reml(design.spectrum(), design.y)) == repeated
    assert first(flmm.reml(design.spectrum().subset(np.arange(29)), design.y[:29]))[0] == repeated[0]
    assert first(flmm.reml(design.spectrum(), -design.y))[0].startswith("REML fit of y ~")  # of another response
    named = pd.Series(-design.y, design.ids, name="loss")
    assert first(flmm.reml(design.spectrum(), named))[0].startswith("REML fit of loss ~")
    both = flmm.reml(design.spectrum(), pd.DataFrame({"gain": design.y, "loss": -design.y}, design.ids))
    assert first(both.response("loss"))[0].startswith("REML fit of loss ~")
    of_arrays = flmm.kernel_model(data["Yield"], np.ones((30, 1)), W=W)
    assert first(flmm.find_reml(of_arrays, progressbar=False))[0] == "REML fit of Yield ~ N(Xβ, σ²(K + δI))"
