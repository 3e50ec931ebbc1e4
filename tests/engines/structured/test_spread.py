"""Variances of effects and predictions of several terms, against sixty digits, where a difference would lose them."""

import mpmath as mp
import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

N, LEVELS, PARTS = 48, 8, 5
GROUP, PART = np.arange(N) % LEVELS, np.arange(N) % PARTS
NEW_GROUP, NEW_PART = np.array([0, 3, 7]), np.array([1, 1, 4])


def exactly(inverse, C, S, X=None, X_new=None):
    """Return the diagonal of S - CᵀV⁻¹C, and with a flat β what its estimate adds, in sixty digits, from V⁻¹."""
    with mp.workdps(60):
        out = S - C.T * inverse * C
        if X is not None:
            X, X_new = mp.matrix(X.tolist()), mp.matrix(X_new.tolist())
            a = X_new - C.T * inverse * X
            out += a * (X.T * inverse * X) ** -1 * a.T
        return np.array([float(out[i, i]) for i in range(out.rows)])


def of(values):
    return mp.matrix(np.asarray(values, dtype=float).tolist())


@pytest.fixture(scope="module")
def y():
    rng = np.random.default_rng(0)
    return 1 + rng.normal(size=LEVELS)[GROUP] + rng.normal(size=PARTS)[PART] + rng.normal(size=N)


@pytest.mark.parametrize("centre", [0.0, 30.0, 1000.0])
def test_a_wide_prior_of_beta_on_an_uncentred_column_leaves_the_variance_of_a_prediction(y, centre):
    B, x = 100.0, centre + np.random.default_rng(1).normal(size=N)
    X, X_new = np.column_stack([np.ones(N), x]), np.column_stack([np.ones(3), centre + np.array([0.5, -2.0, 9.0])])
    with pm.Model() as model:
        v, w, e = (pm.HalfFlat(name, initval=1.0) for name in "vwe")
        terms = [flmm.Term(GROUP, cov.scalar(v), name="g"), flmm.Term(PART, cov.scalar(w), name="h")]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=e, beta_cov=B * np.eye(2), observed=y)
    fit = flmm.find_reml(model, progressbar=False)
    g, h, e = fit.theta.tolist()
    got = fit.predict(X_new=X_new, Z_new={"g": NEW_GROUP, "h": NEW_PART})
    with mp.workdps(60):
        rows = [(g, GROUP, NEW_GROUP), (h, PART, NEW_PART)]
        V = e * of(np.eye(N)) + B * of(X) * of(X).T
        C, S = B * of(X) * of(X_new).T, B * of(X_new) * of(X_new).T
        for variance, old, new in rows:
            V += variance * of(old[:, None] == old)
            C += variance * of(old[:, None] == new)
            S += variance * of(new[:, None] == new)
        inverse = V**-1
    assert_allclose(np.asarray(got.se) ** 2, exactly(inverse, C, S), rtol=1e-7)


@pytest.mark.parametrize("small", [1.0, 1e-4, 1e-6])
def test_errors_of_effects_beside_a_small_residual_are_its_own(small):
    rng = np.random.default_rng(2)
    y = rng.normal(size=LEVELS)[GROUP] + rng.normal(size=PARTS)[PART] + small * rng.normal(size=N)
    with pm.Model() as model:
        v, w, e = (pm.HalfFlat(name, initval=1.0) for name in "vwe")
        terms = [flmm.Term(GROUP, cov.scalar(v), name="g"), flmm.Term(PART, cov.scalar(w), name="h")]
        flmm.StructuredLMM("y", X=np.ones((N, 1)), terms=terms, sigma2_e=e, observed=y)
    fit = flmm.find_reml(model, progressbar=False)
    g, h, e = fit.theta.tolist()
    with mp.workdps(60):
        inverse = (e * of(np.eye(N)) + g * of(GROUP[:, None] == GROUP) + h * of(PART[:, None] == PART)) ** -1
        new = g * of(GROUP[:, None] == NEW_GROUP) + h * of(PART[:, None] == NEW_PART)
        S = g * of(NEW_GROUP[:, None] == NEW_GROUP) + h * of(NEW_PART[:, None] == NEW_PART)
    got = fit.predict(X_new=np.ones((3, 1)), Z_new={"g": NEW_GROUP, "h": NEW_PART})
    assert_allclose(np.asarray(got.se) ** 2, exactly(inverse, new, S, np.ones((N, 1)), np.ones((3, 1))), rtol=1e-6)
    for name, variance, labels, count in (("g", g, GROUP, LEVELS), ("h", h, PART, PARTS)):
        with mp.workdps(60):
            C = variance * of(labels[:, None] == np.arange(count))
            errors = exactly(inverse, C, variance * of(np.eye(count)), np.ones((N, 1)), np.zeros((count, 1)))
        assert_allclose(np.asarray(fit.pev()[name]).ravel(), errors, rtol=1e-6)


def test_slopes_on_years_are_predicted_with_their_variance():
    rng = np.random.default_rng(3)
    years = 2000.0 + np.arange(N) // LEVELS
    y = rng.normal(size=LEVELS)[GROUP] + 0.3 * rng.normal(size=LEVELS)[GROUP] * (years - 2003) + rng.normal(size=N)
    columns, new_columns = np.column_stack([np.ones(N), years]), np.column_stack([np.ones(3), [2002.0, 2010.0, 1999.0]])
    Sigma = np.array([[1.0, 0.0], [0.0, 0.09]])
    Sigma = np.array([[1.0, -2003.0], [0.0, 1.0]]) @ Sigma @ np.array([[1.0, -2003.0], [0.0, 1.0]]).T
    with pm.Model() as model:
        e = pm.HalfFlat("e", initval=1.0)
        term = flmm.Term(GROUP, cov.unstructured(Sigma), columns=columns, name="g")
        flmm.StructuredLMM("y", X=columns, terms=[term], sigma2_e=e, observed=y)
    fit = flmm.find_reml(model, progressbar=False)
    residual = float(fit.theta.iloc[-1])
    with mp.workdps(60):
        K = of(Sigma)

        def between(a, left, b, right):
            inner = of(left) * K * of(right).T
            same = a[:, None] == b
            return mp.matrix([[inner[i, j] if same[i, j] else 0 for j in range(len(b))] for i in range(len(a))])

        inverse = (residual * of(np.eye(N)) + between(GROUP, columns, GROUP, columns)) ** -1
        C = between(GROUP, columns, NEW_GROUP, new_columns)
        S = between(NEW_GROUP, new_columns, NEW_GROUP, new_columns)
    got = fit.predict(X_new=new_columns, Z_new={"g": (NEW_GROUP, new_columns)})
    assert_allclose(np.asarray(got.se) ** 2, exactly(inverse, C, S, columns, new_columns), rtol=1e-6)
