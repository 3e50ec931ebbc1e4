"""Var(u | y, β) beside the prediction error variance, against lme4 and dense algebra."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.kernel.effects.effects import conditional_variance


@pytest.mark.parametrize("k", range(5))
def test_it_is_that_of_lme4(reference, k):
    case = reference.json("conditional_lme4.json")[k]
    fit = flmm.find_reml(flmm.lmm_model(case["formula"], getattr(flmm.datasets, case["data"])()), progressbar=False)
    for group, expected in case["condvar"].items():
        got = fit.conditional_variance(group)
        got = got.to_frame() if got.ndim == 1 else got
        assert_allclose(got.loc[expected["levels"]].to_numpy().T, expected["variance"], rtol=2e-5)
        pev = fit.pev(group)
        assert (np.asarray(pev).reshape(got.shape) > got.to_numpy()).all()


@pytest.mark.parametrize("across", [False, True])
def test_a_known_covariance_of_levels_by_dense_algebra(across):
    rng = np.random.default_rng(1)
    n, q = 60, 8
    A = rng.normal(size=(q, 12))
    K = pd.DataFrame(A @ A.T / 12, index=list("abcdefgh"), columns=list("abcdefgh"))
    d = pd.DataFrame({"g": rng.choice(list("abcdefgh"), n), "h": rng.choice(list("klmn"), n), "x": rng.normal(size=n)})
    d["y"] = d.x + rng.normal(size=n) + rng.normal(size=8)[d.g.map("abcdefgh".index)]
    formula = "y ~ x + (x|g) + (1|h)" if across else "y ~ x + (1|g) + (1|h)"
    fit = flmm.find_reml(flmm.lmm_model(formula, d, known={"g": K}), progressbar=False)
    V, Z = fit.objective.covariance(fit.at()), (d.g.to_numpy()[:, None] == np.array(list("abcdefgh"))).astype(float)
    if across:
        S = np.array([fit.theta[f"g[{name}]"] for name in ("Intercept", "Intercept, x", "Intercept, x", "x")])
        G = np.kron(K, S.reshape(2, 2))
        Z = np.stack([Z, Z * d.x.to_numpy()[:, None]], axis=-1).reshape(n, -1)
    else:
        G = fit.theta["g"] * K.to_numpy()
    expected = np.diag(G - G @ Z.T @ np.linalg.solve(V, Z @ G))
    got = fit.conditional_variance("g")
    assert got.index.tolist() == list("abcdefgh")
    assert_allclose(np.ravel(got), expected, rtol=1e-8)
    H = (d.h.to_numpy()[:, None] == np.array(list("klmn"))).astype(float)
    v = fit.theta["h"]
    assert_allclose(fit.conditional_variance()["h"], np.diag(v * np.eye(4) - v**2 * H.T @ np.linalg.solve(V, H)))


@pytest.mark.parametrize("ratio", [1e-8, 1e-3, 1.0, 1e4])
def test_one_kernel(problem, ratio):
    n, g = len(problem.y), 1.7
    e = g / ratio
    V = g * problem.K + e * np.eye(n)
    got = conditional_variance(problem.spectrum, np.array([g, 2 * g]), np.array([e, 2 * e]))
    # where K explains little its part is what counts, gK - gKV⁻¹gK; where it explains nearly all, σ²_e(I - σ²_eV⁻¹)
    expected = np.diag(g * problem.K - g**2 * problem.K @ np.linalg.solve(V, problem.K))
    assert_allclose(got[0], expected, rtol=1e-9 * max(1, ratio))
    assert_allclose(got[1], 2 * got[0], rtol=1e-12)
    fit = flmm.reml(problem.spectrum, problem.y)
    more = np.asarray(fit.pev()) - fit.conditional_variance()
    X, V = problem.X, fit.sigma2_g * problem.K + fit.sigma2_e * np.eye(n)
    if X is None:
        assert_allclose(more, 0, atol=1e-10 * np.max(fit.pev()))
    else:
        moved = fit.sigma2_g * problem.K @ np.linalg.solve(V, X)
        expected = np.einsum("ni,ij,nj->n", moved, fit.beta_cov, moved)
        assert_allclose(more, expected, rtol=1e-6, atol=1e-9 * np.max(fit.pev()))


def test_at_the_boundaries_it_is_zero():
    y = np.array([3.0, 1, 2, 1, 2, 3, 2, 3, 1])
    spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(3), 3, axis=0), np.ones((9, 1)))
    fit = flmm.reml(spectrum, y)
    assert fit.boundary == ("sigma2_g",)
    assert (fit.conditional_variance() == 0).all()
    assert (conditional_variance(spectrum, np.array(1.0), np.array(0.0)) == 0).all()


def test_a_known_beta_has_no_other_and_one_with_a_prior_is_refused():
    rng = np.random.default_rng(2)
    g, y = np.repeat(np.arange(6), 5), rng.normal(size=30)

    def fit(**treatment):
        with pm.Model() as model:
            v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
            term = flmm.Term(g, cov.scalar(v), name="g")
            flmm.StructuredLMM("y", X=np.ones((30, 1)), terms=[term], sigma2_e=e, observed=y, **treatment)
        return flmm.find_reml(model, method="ML", progressbar=False)

    known = fit(beta=np.zeros(1))
    assert_allclose(known.conditional_variance("g"), known.pev("g"))
    with pytest.raises(ValueError, match=r"β has a prior here, so that it is not known given y: pev\(\) has"):
        fit(beta_mean=np.zeros(1), beta_cov=np.eye(1)).conditional_variance("g")
    with pytest.raises(ValueError, match="there is no term 'h': the model has g"):
        known.conditional_variance("h")
