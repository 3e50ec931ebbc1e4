"""A residual variance far below the other variances, with several terms: against sixty digits and closed forms."""

import math

import mpmath as mp
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import scipy.sparse as sp
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.covariance import theta
from pm_fastlmm.engines.structured import from_rows
from pm_fastlmm.engines.structured.loops import semidefinite_root
from pm_fastlmm.engines.structured.products import EffectBlock, MixedProducts
from pm_fastlmm.engines.structured.roots import matrix_root
from pm_fastlmm.engines.structured.state import MixedState
from pm_fastlmm.spectrum import orthonormal
from pm_fastlmm.spectrum.projection import Projection

PART, OPERATOR = np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6)
TREND = np.linspace(-1, 1, 18) ** 3
N, NOISE = 18, np.random.default_rng(8).normal(size=18)
ROUNDING = 30 * np.finfo(float).eps  # of y beside σ_e is what the log-likelihood may lose for each direction


def dummies(code):
    return (code[:, None] == np.arange(code.max() + 1)).astype(float)


def by_level(code, columns):
    return (dummies(code)[:, :, None] * columns[:, None, :]).reshape(len(code), -1)


class Exact:
    """ℓ of the error contrasts, its derivatives and the average information, in sixty digits."""

    def __init__(self, Z, sigma, e, X, y):
        with mp.workdps(60):
            n, r = X.shape
            V = mp.mpf(e) * mp.eye(n)
            self.slopes = []
            for z, s in zip(Z, sigma, strict=True):
                c = len(s)
                elements = [(a, b) for a in range(c) for b in range(a + 1)]
                for a, b in elements:
                    E = np.zeros((c, c))
                    E[a, b] = E[b, a] = 1.0
                    G = mp.matrix(np.kron(np.eye(z.shape[1] // c), E).tolist())
                    slope = mp.matrix(z.tolist()) * G * mp.matrix(z.T.tolist())
                    self.slopes.append(slope)
                    V += mp.mpf(float(s[a][b])) * slope
            self.slopes.append(mp.eye(n))
            P, logdet = mp.inverse(V), mp.log(mp.det(V))
            if r:
                M = mp.matrix(X.tolist())
                XVX = M.T * P * M
                logdet += mp.log(mp.det(XVX)) - mp.log(mp.det(M.T * M))
                P = P - P * M * mp.inverse(XVX) * M.T * P
            v = mp.matrix([mp.mpf(float(value)) for value in y])
            Py = P * v
            self.loglik = float(-((n - r) * mp.log(2 * mp.pi) + logdet + (v.T * Py)[0]) / 2)
            q = [slope * Py for slope in self.slopes]
            trace = [mp.fsum((P * slope)[i, i] for i in range(n)) for slope in self.slopes]
            self.score = np.array([float(((Py.T * a)[0] - t) / 2) for a, t in zip(q, trace, strict=True)])
            self.information = np.array([[float((a.T * P * b)[0] / 2) for b in q] for a in q])
            self.Py = np.array([float(value) for value in Py])


def design(kind):
    """Z, widths, Σ and X of terms that explain most of y."""
    rng, X = np.random.default_rng(1), np.ones((N, 1))
    x = rng.normal(size=N)
    slopes = by_level(PART, np.column_stack([np.ones(N), x]))
    definite, singular = [[1.0, 0.3], [0.3, 0.5]], [[1.0, 1.0], [1.0, 1.0]]
    A = rng.normal(size=(N, 5))
    known = np.linalg.cholesky(0.3 * np.ones((6, 6)) + np.eye(6))
    return {
        "crossed": ([dummies(PART), dummies(OPERATOR)], [[[1.0]], [[0.5]]], X),
        "one of them 0": ([dummies(PART), dummies(OPERATOR)], [[[1.0]], [[0.0]]], X),
        "nested": ([dummies(PART), dummies(PART // 2)], [[[1.0]], [[0.5]]], X),
        "nested, 0": ([dummies(PART), dummies(PART // 2)], [[[1.0]], [[0.0]]], X),
        "slopes": ([slopes], [definite], X),
        "slopes and factor": ([slopes, dummies(OPERATOR)], [definite, [[0.5]]], np.column_stack([X, x])),
        "singular slopes": ([slopes, dummies(OPERATOR)], [singular, [[0.5]]], np.column_stack([X, x])),
        "uncentred slopes": (
            [by_level(PART, np.column_stack([np.ones(N), 50 + x])), dummies(OPERATOR)], [definite, [[0.5]]], X
        ),
        "known": ([dummies(PART) @ known, dummies(OPERATOR)], [[[1.0]], [[0.5]]], X),
        "unequal": ([A, dummies(OPERATOR)], [[[1.0]], [[1e-6]]], X),
        "no fixed effects": ([dummies(PART), dummies(OPERATOR)], [[[1.0]], [[0.5]]], np.zeros((N, 0))),
    }[kind]  # fmt: skip


def problem(kind, s):
    """Products and a response whose residuals have the standard deviation s."""
    Z, sigma, X = design(kind)
    sigma = [np.array(m) for m in sigma]
    rng = np.random.default_rng(2)
    y = X @ np.full(X.shape[1], 2.0) + s * NOISE
    for z, m in zip(Z, sigma, strict=True):
        values, vectors = np.linalg.eigh(m)
        root = vectors * np.sqrt(np.maximum(values, 0))
        y = y + z @ (rng.normal(size=(z.shape[1] // len(m), len(m))) @ root.T).ravel()
    blocks = [EffectBlock(sp.csr_array(z), z.shape[1] // len(m), len(m)) for z, m in zip(Z, sigma, strict=True)]
    return MixedProducts.from_rows(blocks, Projection.from_design(X), flat=True), Z, sigma, X, y


KINDS = ("crossed", "one of them 0", "nested", "nested, 0", "slopes", "slopes and factor", "singular slopes",
         "uncentred slopes", "known", "unequal", "no fixed effects")  # fmt: skip


@pytest.mark.parametrize("s", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_score_and_information_lose_no_more_than_the_rounding_of_y(kind, s):
    p, Z, sigma, X, y = problem(kind, s)
    state, exact = MixedState.at(p, p.response(y), sigma, s**2), Exact(Z, sigma, s**2, X, y)
    assert state.rows is not None
    rounding = N * ROUNDING * np.abs(y).max() / s
    assert_allclose(state.loglik, exact.loglik, rtol=0, atol=max(rounding, 1e-11))
    score, directions = [], []
    for k, m in enumerate(sigma):
        for a in range(len(m)):
            for b in range(a + 1):
                E = np.zeros(m.shape)
                E[a, b] = E[b, a] = 1.0
                score.append(float((state.gradient.sigma[k] * E).sum()))
                directions.append((k, E))
    size = np.sqrt(np.diag(exact.information))
    scaled = (np.array([*score, state.gradient.noise[0, 0]]) - exact.score) / size
    assert_allclose(scaled, 0, atol=max(100 * rounding, 1e-9))
    information = state.average_information([*directions, (theta.NOISE, np.eye(1))])
    assert_allclose((information - exact.information) / np.outer(size, size), 0, atol=max(100 * rounding, 1e-9))


def test_inner_products_would_have_lost_them(monkeypatch):
    p, Z, sigma, X, y = problem("nested", 1e-6)
    exact = Exact(Z, sigma, 1e-12, X, y)
    by_rows = MixedState.at(p, p.response(y), sigma, 1e-12)
    assert_allclose(by_rows.loglik, exact.loglik, rtol=0, atol=1e-7)
    monkeypatch.setattr(from_rows, "LOST", math.inf)
    by_products = MixedState.at(p, p.response(y), sigma, 1e-12)
    assert by_products is None or abs(by_products.loglik - exact.loglik) > 1e-6


@pytest.mark.parametrize("treatment", ["flat", "beta", "mu", "beta_cov"])
@pytest.mark.parametrize("s", [1e-4, 1e-7])
def test_the_log_density_of_the_node_and_its_gradient(s, treatment):
    rng = np.random.default_rng(4)
    y = rng.normal(size=6)[PART] + rng.normal(size=3)[OPERATOR] + s * NOISE
    a, b, e, mean = pt.dscalar("a"), pt.dscalar("b"), pt.dscalar("e"), pt.dvector("mean")
    options = {"flat": {}, "beta": {"beta": mean}, "mu": {"mu": mean[0] * TREND},
               "beta_cov": {"beta_mean": mean, "beta_cov": np.eye(1)}}[treatment]  # fmt: skip
    terms = [flmm.Term(PART, cov.scalar(a), name="part"), flmm.Term(OPERATOR, cov.scalar(b), name="operator")]
    logp = pm.logp(flmm.StructuredLMM.dist(X=np.ones((N, 1)), terms=terms, sigma2_e=e, **options), y)
    wrt = [a, b, e] if treatment == "flat" else [a, b, e, mean]
    f = pytensor.function([a, b, e, mean], [logp, *pytensor.grad(logp, wrt)], mode=AS_WRITTEN, on_unused_input="ignore")
    found, *gradient = f(1.0, 0.5, s**2, [0.3])
    Z, sigma = [dummies(PART), dummies(OPERATOR)], [[[1.0]], [[0.5]]]
    if treatment == "beta_cov":
        Z, sigma = [*Z, np.ones((N, 1))], [*sigma, [[1.0]]]
    X = np.zeros((N, 0)) if treatment.startswith("beta") else np.ones((N, 1))
    along = {"flat": np.zeros(N), "mu": TREND}.get(treatment, np.ones(N))
    exact = Exact(Z, sigma, s**2, X, y - 0.3 * along)
    constant = 0.5 * math.log(N) if X.size else 0.0  # the node has -½ log|XᵀX|
    rounding = N * ROUNDING * np.abs(y).max() / s
    assert_allclose(found + constant, exact.loglik, rtol=1e-12, atol=rounding)
    assert_allclose(gradient[:2], exact.score[:2], rtol=1e-7)
    assert_allclose(s**2 * gradient[2], s**2 * exact.score[-1], rtol=1e-12, atol=rounding)
    if treatment != "flat":
        assert_allclose(gradient[3], exact.Py @ along, rtol=1e-6)


def closed_form(y, a, b, method):
    """σ² of a balanced two-way layout without replication, whose mean squares are all above the residual's."""
    Y = y.reshape(a, b)
    rows, columns, mean = Y.mean(1), Y.mean(0), Y.mean()
    residual = ((Y - rows[:, None] - columns + mean) ** 2).sum() / ((a - 1) * (b - 1))
    across = [b * ((rows - mean) ** 2).sum() / (a - 1), a * ((columns - mean) ** 2).sum() / (b - 1)]
    assert method == "REML"
    assert min(across) > residual
    sigma2 = [(across[0] - residual) / b, (across[1] - residual) / a, residual]
    terms = [(a - 1) * math.log(across[0]), (b - 1) * math.log(across[1]), (a - 1) * (b - 1) * math.log(residual)]
    p = a * b - 1
    return sigma2, -0.5 * (p * math.log(2 * math.pi) + sum(terms) + p + math.log(a * b))


@pytest.mark.parametrize("s", [1e-2, 1e-4, 1e-5, 1e-8])
@pytest.mark.parametrize("operators", [1.0, 0.0])
def test_balanced_crossed_factors_have_the_estimates_of_their_mean_squares(s, operators):
    """At s = 1e-5 the residual variance was 1.5e-8 and the likelihood "not bounded", 76 log units below."""
    part, operator = np.repeat(np.arange(20), 3), np.tile(np.arange(3), 20)
    rng = np.random.default_rng(3)
    y = rng.normal(size=20)[part] + s * rng.normal(size=60) + operators * rng.normal(size=3)[operator]
    table = pd.DataFrame({"y": y, "part": part, "operator": operator})
    fit = flmm.find_reml(flmm.lmm_model("y ~ 1 + (1|part) + (1|operator)", table), progressbar=False)
    expected, loglik = closed_form(y, 20, 3, "REML")
    assert fit.converged, fit.message
    assert fit.message == ""
    assert_allclose(fit.theta, expected, rtol=1e-5 if s > 1e-6 else 1e-3)
    assert_allclose(fit.theta.iloc[2], expected[2], rtol=max(1e-8, 1e-14 / s))
    assert_allclose(fit.loglik, loglik, rtol=0, atol=max(1e-8, 1e-12 / s))


@pytest.mark.parametrize("s", [1e-3, 1e-6])
def test_ml_stands_at_the_maximum_of_the_exact_likelihood(s):
    rng = np.random.default_rng(3)
    y = rng.normal(size=6)[PART] + rng.normal(size=3)[OPERATOR] + s * NOISE
    table = pd.DataFrame({"y": y, "part": PART, "operator": OPERATOR})
    model = flmm.lmm_model("y ~ 1 + (1|part) + (1|operator)", table)
    fit = flmm.find_reml(model, method="ML", progressbar=False)
    assert fit.converged, fit.message
    sigma = [[[fit.theta.iloc[0]]], [[fit.theta.iloc[1]]]]
    Z, e = [dummies(PART), dummies(OPERATOR)], fit.theta.iloc[2]
    exact = Exact(Z, sigma, e, np.zeros((N, 0)), y - fit.beta.iloc[0])
    assert_allclose(fit.loglik, exact.loglik, rtol=0, atol=1e-12 / s)
    assert_allclose(exact.score / np.sqrt(np.diag(exact.information)), 0, atol=1e-4)


def test_slopes_beside_a_factor_down_to_a_residual_of_1e_16():
    rng, g = np.random.default_rng(5), np.repeat(np.arange(15), 6)
    h, x = np.tile(np.arange(6), 15), np.tile([0.0, 1, 2, 3, 4, 7], 15)
    u, v, w, noise = rng.normal(size=15), rng.normal(size=15), rng.normal(size=6), rng.normal(size=90)
    fits = []
    for s in (1e-4, 1e-8):
        table = pd.DataFrame({"y": u[g] + v[g] * x + w[h] + s * noise, "x": x, "g": g, "h": h})
        fits.append(flmm.find_reml(flmm.lmm_model("y ~ x + (x|g) + (1|h)", table), progressbar=False))
    assert all(fit.converged for fit in fits)
    first, second = (fit.theta.to_numpy() for fit in fits)
    assert_allclose(second[:-1], first[:-1], rtol=1e-3)
    assert_allclose(second[-1], 1e-8 * first[-1], rtol=1e-3)  # σ²_e is s² times the same


def test_what_is_below_the_digits_of_y_is_said():
    part, operator = np.repeat(np.arange(20), 3), np.tile(np.arange(3), 20)
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"y": rng.normal(size=20)[part] + 1e-13 * rng.normal(size=60), "p": part, "o": operator})
    fit = flmm.find_reml(flmm.lmm_model("y ~ 1 + (1|p) + (1|o)", table), progressbar=False)
    assert not fit.converged
    assert "the residual variance is below 1e-24 of the variance of y, beside which double precision cannot tell" in (
        fit.message
    )
    assert "not bounded" not in fit.message


def crossed_fit(y, part, operator):
    table = pd.DataFrame({"y": y, "p": part, "o": operator})
    return flmm.find_reml(flmm.lmm_model("y ~ 1 + (1|p) + (1|o)", table), progressbar=False)


def test_rows_that_are_too_many_are_said(monkeypatch):
    monkeypatch.setattr(orthonormal, "LARGEST", 10)
    monkeypatch.setattr("pm_fastlmm.engines.structured.products.LARGEST", 10)
    part, operator = np.repeat(np.arange(20), 3), np.tile(np.arange(3), 20)
    rng = np.random.default_rng(3)
    fit = crossed_fit(rng.normal(size=20)[part] + 1e-6 * rng.normal(size=60), part, operator)
    assert not fit.converged
    assert "it is not known whether the likelihood is bounded. Use fewer terms" in fit.message


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_streamed_inner_products_say_what_they_lose_and_a_triangle_does_not(method):
    rng = np.random.default_rng(9)
    W = pd.DataFrame(rng.normal(size=(400, 6)), columns=[f"m{j}" for j in range(6)])
    y = 1.0 + W.to_numpy() @ rng.normal(size=6) + 1e-5 * rng.normal(size=400)

    def fit(X, W, observed):
        with pm.Model() as model:
            a, b, e = (pm.HalfNormal(name, 2) for name in "abe")
            terms = [
                flmm.Term(W.iloc[:, :3], cov.scalar(a), name="a"),
                flmm.Term(W.iloc[:, 3:], cov.scalar(b), name="b"),
            ]
            flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=e, observed=observed)
        return flmm.find_reml(model, progressbar=False)

    rows = flmm.TermStatistics.from_arrays(np.ones((400, 1)), W, y, method=method)
    found, expected = fit(rows.X, rows.Z, rows), fit(np.ones((400, 1)), W, y)
    assert expected.message == ""
    if method == "gram":
        assert "up to which cross-products are precise: collect them again with method='tsqr'" in found.message
    else:
        assert found.message == ""
        assert_allclose(found.theta, expected.theta, rtol=1e-6)
        assert_allclose(found.loglik, expected.loglik, rtol=0, atol=1e-5)


def test_a_singular_matrix_whose_pivots_end_below_zero_is_semidefinite():
    """Rank 2, its second pivot 1e-11 of its variance: rounding makes the third one negative, and no root was found."""
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        a, b = rng.normal(size=3), rng.normal(size=3)
        W = np.column_stack([a, np.array([1e-6 * b[0], 1e-6 * b[1], 1e-2 * b[2]])])
        G = W @ W.T
        G = (G + G.T) / 2
        root, ok = matrix_root(G)
        assert ok
        plain = semidefinite_root(G)[1]  # which leaves out what stands beside a pivot that it takes for 0
        assert_allclose(root @ root.T, G, rtol=0, atol=(1e-7 if plain else 1e-13) * G.max())
        assert not np.triu(root, 1).any()
        refused += not plain
        assert not matrix_root(G - 1e-6 * G.max() * np.eye(3))[1]
    assert refused
