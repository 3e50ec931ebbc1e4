"""Whatever variables a model has, the optimum and its θ are the same, and `point` reaches it."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.aireml.objective import moment_start
from pm_fastlmm.engines.free_variables import LinkedObjective

FACTORS = {"plate": "plate", "sample": "sample"}


def penicillin(make, variances, names=("plate", "sample")):
    """Crossed intercepts with three given variances."""
    data = flmm.datasets.penicillin()
    terms = [flmm.Term(data[name], cov.scalar(v), name=name) for name, v in zip(names, variances, strict=False)]
    return make.structured(data["diameter"], np.ones((len(data), 1)), terms, variances[2])


def half(name, initval=1.0):
    return pm.HalfFlat(name, initval=initval)


def standard_deviations():
    return [half(f"s{i}") ** 2 for i in range(3)]


def logarithms():
    return [pt.exp(pm.Flat(f"log{i}")) for i in range(3)]


def precisions():
    return [1 / half(f"tau{i}") for i in range(3)]


def shares():
    total, share = half("total"), pm.Dirichlet("share", np.ones(3))
    return [total * share[i] for i in range(3)]


def ratios():
    sigma2 = half("sigma2")
    return [sigma2 * half("a"), sigma2 * half("b"), sigma2]


@pytest.mark.parametrize("variables", [standard_deviations, logarithms, precisions, ratios])
@pytest.mark.parametrize("start", [None, 1e-3, 1e6])
def test_crossed_intercepts_in_other_variables(make, lme4, fit, variables, start):
    with pm.Model() as model:
        node = penicillin(make, variables())
    row = lme4("penicillin_reml")
    given = None if start is None else {"plate": start, "sample": 1.0, "residual": start}
    found = fit(model, start=given)
    assert found.converged
    assert found.history.sizes["iteration"] - 1 <= 25
    assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
    assert_allclose(found.theta, row["vcov"], rtol=3e-6)
    [theta] = [n.theta for n in flmm.lmm_nodes(model)]
    assert_allclose(theta.eval({model[n]: v for n, v in found.point.items()}), found.theta, rtol=1e-8)
    assert node.name == "y"


def test_variables_constrained_as_a_whole_are_refused(make, fit):
    with pm.Model() as model:
        penicillin(make, shares())
    with pytest.raises(ValueError, match=r"share is constrained as a whole \(SimplexTransform\).*Give the variances"):
        fit(model)


def test_lkj_cholesky_factor(make, lme4, fit):
    with pm.Model() as model:
        sd = pm.HalfNormal.dist([30, 10], shape=2)
        L, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2, sd_dist=sd, compute_corr=True)
        make.sleep(cov.unstructured(cholesky=L), pm.HalfNormal("s_e", 30) ** 2)
    for method in ("REML", "ML"):
        row = lme4(f"sleepstudy_slope_{method.lower()}")
        found = fit(model, method=method)
        assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
        assert_allclose(sorted(found.theta), sorted(row["vcov"]), rtol=3e-6)
        packed = found.point["L"]
        root = np.zeros((2, 2))
        root[np.tril_indices(2)] = packed
        one, both, days = found.theta.iloc[:3]
        assert_allclose(root @ root.T, [[one, both], [both, days]], rtol=1e-6)


def test_share_and_total_of_one_kernel(lme4, fit, reference):
    data = reference.table("dyestuff.csv")
    K = (data["Batch"][:, None] == data["Batch"]).astype(float)
    spectrum = flmm.Spectrum.from_covariance(K, np.ones((len(K), 1)))
    with pm.Model() as model:
        h2, total = pm.Beta("h2", 2, 7), pm.Gamma("total", 2, 0.1)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=data["Yield"])
    row = lme4("dyestuff_reml")
    found = fit(model)
    assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
    assert_allclose(found.theta, row["vcov"], rtol=1e-6)
    g, e = row["vcov"]
    assert_allclose(found.point["h2"], g / (g + e), rtol=1e-6)
    assert_allclose(found.point["total"], g + e, rtol=1e-6)


def dense_penicillin(variances):
    data = flmm.datasets.penicillin()
    V = variances[2] * np.eye(len(data))
    for name, v in zip(("plate", "sample"), variances, strict=False):
        factor = data[name].to_numpy()
        V = V + v * (factor[:, None] == factor)
    return flmm.DenseLMM("y", X=np.ones((len(data), 1)), V=V, observed=data["diameter"].to_numpy())


@pytest.mark.parametrize("variables", [standard_deviations, logarithms, precisions, ratios])
def test_a_dense_covariance_in_other_variables(lme4, fit, variables):
    with pm.Model() as model:
        dense_penicillin(variables())
    row = lme4("penicillin_reml")
    found = fit(model)
    assert found.converged
    assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
    assert found.boundary == ()
    assert_allclose(found.point[next(iter(found.point))], found.theta.iloc[0])


def shared_maximum(oracle):
    """One variance for both factors, by brute force over the ratio."""
    data = flmm.datasets.penicillin()
    K = sum((f[:, None] == f).astype(float) for f in (data["plate"].to_numpy(), data["sample"].to_numpy()))
    y = data["diameter"].to_numpy()
    spectrum = flmm.Spectrum.from_covariance(K, np.ones((len(y), 1)))
    return flmm.reml(spectrum, y)


@pytest.mark.parametrize("squared", [False, True])
def test_a_shared_variance_is_one_parameter(make, fit, oracle, squared):
    with pm.Model() as model:
        shared, e = half("shared"), half("e")
        shared, e = (shared**2, e**2) if squared else (shared, e)
        penicillin(make, [shared, shared, e])
    [node] = flmm.lmm_nodes(model)
    objective, link = node.objective(model)
    assert isinstance(objective, LinkedObjective)
    assert link is None
    expected, found = shared_maximum(oracle), fit(model)
    assert_allclose(found.loglik, expected.loglik, rtol=0, atol=1e-9)
    power = 0.5 if squared else 1.0
    assert_allclose(found.theta, np.array([expected.sigma2_g, expected.sigma2_e]) ** power, rtol=1e-6)
    assert list(found.theta.index) == ["shared", "e"]
    assert_allclose([found.point["shared"], found.point["e"]], found.theta)
    state = found.objective.state(found.theta.to_numpy())
    assert_allclose(state.loglik, found.loglik)


def test_derivatives_of_a_shared_variance_follow_the_chain_rule(make, fit):
    with pm.Model() as model:
        s = half("s")
        penicillin(make, [s**2, 2 * s**2, half("e")])
    found = fit(model, start={"s": 0.7, "e": 0.4}, max_iterations=1)
    objective, at, h = found.objective, np.array([0.9, 0.5]), 1e-5
    for i in range(2):
        ends = [at + sign * h * np.eye(2)[i] for sign in (1, -1)]
        rise, change = (np.subtract(*map(f, ends)) / (2 * h) for f in (objective.log_likelihood, objective.covariance))
        assert_allclose(objective.score(at)[i], rise, rtol=1e-6)
        assert_allclose(objective.covariance_derivatives(at)[i], change, atol=1e-8)


def test_a_variance_that_is_a_number_is_held(make, fit, lme4):
    row = lme4("penicillin_reml")
    plate, sample, residual = row["vcov"]
    with pm.Model() as model:
        penicillin(make, [half("plate"), 1.0, half("e")])
    found = fit(model)
    assert found.theta["sample"] == 1.0
    assert found.converged
    assert_allclose(found.score[["plate", "residual"]], 0, atol=1e-5)
    assert abs(found.score["sample"]) > 0.1
    assert np.isnan(found.standard_errors()["sample"])
    with pm.Model() as model:
        penicillin(make, [half("plate"), sample, half("e")])
    assert_allclose(fit(model).theta, [plate, sample, residual], rtol=3e-6)


def test_a_matrix_with_a_constant_element_is_refused(make, fit):
    with pm.Model() as model:
        v = half("v")
        S = pt.stack([pt.stack([v, 0.0]), pt.stack([0.0, 35.0])])
        make.sleep(cov.unstructured(S, size=2), half("e"))
    with pytest.raises(ValueError, match="constant and free elements: use a structure with fewer parameters"):
        fit(model)


def test_the_estimate_outside_a_prior_is_said(make, fit):
    with pm.Model() as model:
        penicillin(make, [pm.Uniform("plate", 0, 0.1), half("sample"), half("e")])
    found = fit(model)
    assert found.theta["plate"] > 0.5
    assert found.point == {}
    assert "outside the support of the model's free variables" in found.message


def test_moments_are_those_of_rao():
    """Σ_j tr(MV_iMV_j) θ_j = yᵀMV_iMy for dense matrices: solved where the solution is positive."""
    n, rng = 30, np.random.default_rng(3)
    Z = [(rng.integers(0, m, size=n)[:, None] == np.arange(m)).astype(float) for m in (5, 7)]
    parts = [*(z @ z.T for z in Z), np.eye(n)]
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    M = np.eye(n) - X @ np.linalg.solve(X.T @ X, X.T)
    y = M @ (3 * Z[0] @ rng.normal(size=5) + 3 * Z[1] @ rng.normal(size=7) + rng.normal(size=n))
    gram = np.array([[np.trace(M @ A @ M @ B) for B in parts] for A in parts])
    squares = np.array([y @ A @ y for A in parts])
    expected = np.linalg.solve(gram, squares)
    assert (expected > 0.05 * expected.sum()).all()
    assert_allclose(moment_start(gram, squares) / moment_start(gram, squares)[-1], expected / expected[-1], rtol=1e-9)


def test_moments_of_the_terms_form_no_large_matrix(models, oracle):
    [node] = flmm.lmm_nodes(models["penicillin"])
    objective, _ = node.objective(models["penicillin"])
    moments = objective.products.moments(objective._strides(), objective.y)
    parts = [*((Zt.T @ Zt).toarray() for Zt in moments.rows), np.eye(node.n)]
    M = np.eye(node.n) - 1 / node.n
    gram = np.array([[np.trace(M @ A @ M @ B) for B in parts] for A in parts])
    squares = np.array([objective.y @ A @ objective.y for A in parts])
    assert_allclose(moments.gram, gram, rtol=1e-9, atol=1e-9)
    assert_allclose(moments.squares, squares, rtol=1e-9)
    assert_allclose(objective.start(), moment_start(gram, squares), rtol=1e-9)


def test_variables_may_have_the_names_of_number_types():
    y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    with pm.Model() as model:
        term = flmm.Term(np.repeat(list("abc"), 4), cov.scalar(pm.HalfNormal("long", 5)), name="batch")
        flmm.StructuredLMM("y", X=np.ones((12, 1)), terms=[term], sigma2_e=pm.HalfNormal("short", 5), observed=y)
    assert set(flmm.find_reml(model, progressbar=False).point) == {"long", "short"}
