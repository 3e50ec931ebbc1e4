"""Fits on the boundary, false zeros, unbounded likelihoods: labelled, and never a wrong optimum."""

import re

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov


def grouped(seed, groups=12, size=5, intercept=1.0, slope=1.0, correlation=0.0):
    """Groups with effects a + b·t, whose covariance has these deviations."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    t = np.tile(np.linspace(-1, 1, size), groups)
    S = np.array([[intercept**2, correlation * intercept * slope], [correlation * intercept * slope, slope**2]])
    values, vectors = np.linalg.eigh(S)
    u = rng.normal(size=(groups, 2)) @ (vectors * np.sqrt(np.maximum(values, 0))).T
    y = 3 + 2 * t + u[group, 0] + u[group, 1] * t + rng.normal(size=group.size)
    return pd.DataFrame({"group": group, "t": t, "one": 1.0, "y": y})


def slopes_model(data, parametrisation="elements"):
    with pm.Model() as model:
        if parametrisation == "lkj":
            sd = pm.HalfNormal.dist(2, shape=2)
            L, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2, sd_dist=sd, compute_corr=True)
            structure = cov.unstructured(cholesky=L)
        else:
            v, c = pm.HalfFlat("v", shape=2, initval=np.ones(2)), pm.Flat("c")
            structure = cov.unstructured(pt.stack([pt.stack([v[0], c]), pt.stack([c, v[1]])]), size=2)
        term = flmm.Term(data["group"], structure, columns=data[["one", "t"]], name="group")
        X = np.column_stack([np.ones(len(data)), data["t"]])
        flmm.StructuredLMM(
            "y", X=X, terms=[term], sigma2_e=pm.HalfFlat("e", initval=1.0), observed=data["y"].to_numpy()
        )
    return model


def best_by_brute_force(data, oracle):
    """The maximum over Cholesky factors, by Nelder–Mead from several points on the dense likelihood."""
    X, Z = np.column_stack([np.ones(len(data)), data["t"]]), data[["one", "t"]].to_numpy()
    same = data["group"].to_numpy()[:, None] == data["group"].to_numpy()

    def negative(x):
        L = np.array([[x[0], 0.0], [x[1], x[2]]])
        V = same * (Z @ L @ L.T @ Z.T) + np.exp(x[3]) * np.eye(len(data))
        return -oracle.Dense(V, X, data["y"].to_numpy(), 1.0, 0.0).loglik_reml

    options = {"xatol": 1e-7, "fatol": 1e-11, "maxiter": 4000, "maxfev": 4000}
    runs = [
        minimize(negative, x, method="Nelder-Mead", options=options) for x in ([1, 0.5, 0.5, 0], [0.3, -0.3, 0.1, 0])
    ]
    return -min(run.fun for run in runs)


@pytest.mark.parametrize("parametrisation", ["elements", "lkj"])
def test_a_singular_matrix_of_slopes_is_found_and_labelled(fit, oracle, parametrisation):
    data = grouped(9, groups=8, size=4, intercept=1.5, slope=0.2, correlation=1.0)
    found = fit(slopes_model(data, parametrisation))
    v0, c, v1, _ = found.theta
    assert_allclose(v0 * v1, c**2, rtol=1e-9)
    assert c != 0
    assert found.converged
    assert found.boundary == ("group[one]", "group[one, t]", "group[t]")
    assert found.standard_errors()[list(found.boundary)].isna().all()
    assert found.message.startswith(
        "the covariance matrix of group is singular; standard errors of its elements are undefined"
    )
    assert "fit.intervals() gives intervals of sd and correlations" in found.message
    assert re.search(r"converged in \d+ iterations?, but the covariance matrix of group", repr(found))
    assert_allclose(found.loglik, best_by_brute_force(data, oracle), rtol=0, atol=1e-7)
    if parametrisation == "lkj":
        assert np.isfinite(found.point["L"]).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_maximum_over_matrices_satisfies_the_conditions_of_kuhn_and_tucker(fit, seed):
    """∂ℓ/∂Σ is negative semi-definite, and orthogonal to Σ."""
    rng = np.random.default_rng(seed)
    data = grouped(seed, groups=8, size=4, intercept=rng.choice([0, 0.3, 2]), slope=rng.choice([0, 0.3]))
    for start in (None, [1e4, 0.0, 1e4, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1e-6, 0.0, 1e3, 1.0]):
        found = fit(slopes_model(data), start=start)
        assert found.converged
        v0, c, v1, e = found.theta
        S, scale = np.array([[v0, c], [c, v1]]), e / len(data)
        g = found.score
        G = np.array([[g.iloc[0], g.iloc[1] / 2], [g.iloc[1] / 2, g.iloc[2]]])
        assert np.linalg.eigvalsh(G)[-1] * scale < 1e-5
        assert np.abs(S @ G).max() < 1e-4
        assert_allclose(found.loglik, fit(slopes_model(data)).loglik, rtol=0, atol=1e-7)


def test_a_start_on_the_face_of_one_slope_leaves_it(models, lme4, fit):
    """From here the score of the intercept's variance is negative at covariance 0, and a covariance cannot move."""
    row = lme4("sleepstudy_slope_reml")
    start = {"Subject[one]": 0.0, "Subject[one, Days]": 0.0, "Subject[Days]": 52.7, "residual": 842.0}
    found = fit(models["sleepstudy_slope"], start=start)
    assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
    kinds = set(found.history.kind.to_numpy())
    assert kinds <= {"AI", "AI, halved", "secant", "escape", ""}


@pytest.mark.parametrize("parametrised", [lambda v: v, lambda v: v**2, pt.exp], ids=["v", "sd", "log"])
@pytest.mark.parametrize("node", ["structured", "dense"])
def test_a_variance_of_zero_is_found_in_any_variable(fit, parametrised, node):
    """y has less variance between groups than within: σ²_group = 0, the residual variance is the mean square."""
    rng = np.random.default_rng(2)
    group, other = np.repeat(np.arange(8), 6), np.tile(np.arange(6), 8)
    y = rng.normal(size=48)
    y -= (y.reshape(8, 6).mean(1) * 0.9)[group]
    X = np.ones((48, 1))
    with pm.Model() as model:
        v, e = ((pm.Flat if parametrised is pt.exp else pm.HalfFlat)(n, initval=0.5) for n in ("v", "e"))
        v, e = parametrised(v), parametrised(e)
        if node == "dense":
            flmm.DenseLMM("y", X=X, V=v * (group[:, None] == group) + e * np.eye(48), observed=y)
        else:
            terms = [flmm.Term(group, cov.scalar(v), name="group"), flmm.Term(other, cov.scalar(1e-9), name="other")]
            flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=e, observed=y)
    found = fit(model)
    assert found.converged, found.message
    assert len(found.boundary) == 1
    residual = ((y - y.mean()) ** 2).sum() / 47
    expected = -0.5 * (47 * (np.log(2 * np.pi * residual) + 1) + np.log(48))
    assert_allclose(found.loglik, expected, rtol=0, atol=1e-6)


def low_rank(seed=5, n=120, m=15):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n, m)) / np.sqrt(m)
    return W, 1 + 2 * W @ rng.normal(size=m) + 0.5 * rng.normal(size=n)


@pytest.mark.parametrize("start", [-40.0, -12.0, -4.0, 0.0, 6.0, 20.0])
def test_logarithms_of_variances_do_not_stop_at_a_false_zero(fit, start):
    """With logarithms the score vanishes as a variance does: a start far below stops others there (numerics)."""
    W, y = low_rank()
    X = np.ones((len(y), 1))
    expected = flmm.reml(flmm.Spectrum.from_factor(W, X), y)
    with pm.Model() as model:
        a, b = pm.Flat("a", initval=start), pm.Flat("b", initval=0.3)
        flmm.DenseLMM("y", X=X, V=pt.exp(a) * (W @ W.T) + pt.exp(b) * np.eye(len(y)), observed=y)
    found = fit(model)
    assert_allclose(found.loglik, expected.loglik, rtol=0, atol=1e-7)
    assert_allclose(np.exp(found.theta), [expected.sigma2_g, expected.sigma2_e], rtol=1e-5)
    assert found.history.sizes["iteration"] - 1 <= 25


@pytest.mark.parametrize("start", [[1e-6, 1.0], [1.0, 1e-3], [1e6, 1e6], [1e-3, 1e-3]])
def test_standard_deviations_do_not_stop_at_a_false_zero(fit, start):
    W, y = low_rank(6)
    X = np.ones((len(y), 1))
    expected = flmm.reml(flmm.Spectrum.from_factor(W, X), y)
    with pm.Model() as model:
        a, b = pm.HalfFlat("a", initval=start[0]), pm.HalfFlat("b", initval=start[1])
        flmm.DenseLMM("y", X=X, V=a**2 * (W @ W.T) + b**2 * np.eye(len(y)), observed=y)
    found = fit(model)
    assert_allclose(found.loglik, expected.loglik, rtol=0, atol=1e-7)
    assert_allclose(found.theta**2, [expected.sigma2_g, expected.sigma2_e], rtol=1e-5)


def test_a_residual_variance_that_goes_to_zero_is_no_estimate(fit):
    """Batches and days explain y exactly: the likelihood grows without bound."""
    batch, day = np.repeat(list("abc"), 4), np.tile(["mon", "tue"], 6)
    y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    with pm.Model() as model:
        v = [pm.HalfNormal(name, 5) for name in ("v_batch", "v_day", "v_e")]
        terms = [flmm.Term(batch, cov.scalar(v[0]), name="batch"), flmm.Term(day, cov.scalar(v[1]), name="day")]
        flmm.StructuredLMM("y", X=np.ones((12, 1)), terms=terms, sigma2_e=v[2], observed=y)
    found = fit(model)
    assert not found.converged
    assert "the residual variance goes to 0 and the likelihood is not bounded" in found.message
    assert "NOT CONVERGED" in repr(found)
    assert "residual" in found.boundary
    assert not any(word in found.message for word in ("interval", "standard error", "Kenward", "sample"))
    assert found.history.sizes["iteration"] <= 26


def bars(formula, scale=0.0, seed=0):
    """A fit of twelve groups whose slopes are `scale` times their intercepts."""
    rng = np.random.default_rng(seed)
    g, x, v = np.repeat(np.arange(12), 8), np.tile(np.arange(8.0), 12), rng.normal(size=12)
    y = scale * v[g] * (1 + x) + rng.normal(size=96)
    table = pd.DataFrame({"g": g, "x": x, "f": np.tile(list("abcd"), 24), "y": y})
    return flmm.find_reml(flmm.lmm_model(formula, table), progressbar=False)


KNOWN = (
    "fixed effects are tested with what is on the boundary known; "
    "as estimated: coefficients('kenward-roger', zero_variances='free')"
)


def test_a_variance_at_zero_has_one_sentence_and_its_remedies_work():
    found = bars("y ~ x + (x||g)")
    zero = found.boundary
    assert found.message == (
        f"on the boundary: {', '.join(zero)}; standard errors of these are undefined (NaN), fit.interval(name) "
        f"gives one. {KNOWN}"
    )
    for name in zero:
        low, high = found.interval(name)
        assert low == 0
        assert 0 < high < np.inf
    free = found.coefficients("kenward-roger", zero_variances="free")
    assert np.isfinite(free["se"]).all()


def test_a_singular_matrix_is_named_once_by_its_term():
    found = bars("y ~ x + (x|g)", 1.0, seed=1)
    assert found.message == (
        "the covariance matrix of g is singular; standard errors of its elements are undefined (NaN), "
        f"fit.intervals() gives intervals of sd and correlations. {KNOWN}"
    )
    low, high = found.interval("sd_g[x]")
    assert low <= np.sqrt(found.theta["g[x]"]) < high
    assert np.isfinite(found.coefficients("kenward-roger", zero_variances="free")["se"]).all()


def test_a_factor_with_two_bars_does_not_list_its_elements():
    found = bars("y ~ x + (f||g)")
    assert len(found.boundary) >= 10
    assert "the covariance matrix of g is singular" in found.message
    assert "g[f[" not in found.message


@pytest.mark.parametrize("node", ["structured", "dense", "sd"])
def test_a_residual_variance_of_zero_can_be_an_estimate(cases, fit, node):
    """Where K is definite the likelihood at σ²_e = 0 is finite, and can be the maximum."""
    K, X, y = cases.delta0_ar1()
    expected = flmm.reml(flmm.Spectrum.from_covariance(K, X), y)
    assert expected.delta == 0
    n = len(y)
    with pm.Model() as model:
        v, e = pm.HalfFlat("v", initval=1.0), pm.HalfFlat("e", initval=1.0)
        if node == "structured":
            terms = [flmm.Term(np.eye(n), cov.known(K, v), name="K"), flmm.Term(np.ones((n, 1)), cov.scalar(1e-12))]
            flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=e, observed=y)
        else:
            flmm.DenseLMM("y", X=X, V=v * K + (e**2 if node == "sd" else e) * np.eye(n), observed=y)
    found = fit(model)
    assert found.converged, found.message
    assert len(found.boundary) == 1
    # cross-products stop at 1e-8 of the variance of y, where the slope of ℓ is -270
    assert_allclose(found.loglik, expected.loglik, rtol=0, atol=1e-5 if node == "structured" else 1e-6)


def test_the_boundary_of_one_kernel_is_that_of_reml(models, lme4, fit):
    found = fit(models["dyestuff2"])
    assert found.boundary == ("Batch",)
    assert found.theta["Batch"] == 0.0
    assert found.point["v_Batch"] == 0.0
    assert found.score["Batch"] < 0
    assert np.isnan(found.standard_errors()["Batch"])
    assert np.isfinite(found.standard_errors()["residual"])


def test_two_modes_of_one_kernel(cases, fit):
    """The case `bimodal7`: a local search from the moments can end in the lower mode."""
    K, X, y = cases.bimodal7()
    expected = flmm.reml(flmm.Spectrum.from_covariance(K, X), y)
    with pm.Model() as model:
        h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", 5)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=flmm.Spectrum.from_covariance(K, X), observed=y)
    assert_allclose(fit(model).loglik, expected.loglik, rtol=0, atol=1e-9)
