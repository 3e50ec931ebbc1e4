"""Several random-effects terms from cross-products: against dense matrices, exact arithmetic and the two forms."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from pm_fastlmm.base.arrays import read_only
from pm_fastlmm.covariance.theta import NOISE
from pm_fastlmm.engines.structured import loops as crossproduct
from pm_fastlmm.engines.structured import products as mixed
from pm_fastlmm.engines.structured.state import MixedState

RESIDUAL = NOISE, np.eye(1)
SETS = [
    ("factor",),
    ("dense",),
    ("slopes",),
    ("known",),
    ("factor", "crossed"),
    ("crossed", "nested", "dense"),
    ("three slopes", "crossed"),
    ("crossed", "three slopes"),
    ("slopes", "three slopes", "known"),
    ("factor", "ar1", "slopes"),
    ("wide ar1", "crossed"),
    ("wide ar1",),
    ("factor", "dense", "wide ar1"),
    ("crossed", "two wide ar1"),
]


@pytest.fixture(params=SETS, ids=" + ".join)
def kinds(request):
    return request.param


def at(p, sigma=None, sigma2_e=None, products=None, response=None):
    products = p.products if products is None else products
    return MixedState.at(
        products, response or products.response(p.y), p.sigma if sigma is None else sigma,
        p.sigma2_e if sigma2_e is None else sigma2_e,
    )  # fmt: skip


def loglik(p, dense):
    """The dense log-likelihood in the engine's convention: X orthonormal, so without ½ log|XᵀX|."""
    return dense.loglik_contrasts if p.flat else dense.loglik_ml


def scores(p, dense):
    """½ Σ_levels [w wᵀ - Z_jᵀPZ_j] of each term, and that of σ²_e."""
    out = []
    for k, (_, levels, width, _) in enumerate(p.terms):
        Z = p.rooted(k)
        inner = np.outer(Z.T @ dense.Py, Z.T @ dense.Py) - Z.T @ dense.P @ Z
        out.append(0.5 * np.einsum("jsjt->st", inner.reshape(levels, width, levels, width)))
    return out, 0.5 * (dense.Py @ dense.Py - np.trace(dense.P))


def assert_score(p, state, dense, rtol=1e-9):
    expected, residual = scores(p, dense)
    for actual, matrix in zip(state.gradient.sigma, expected, strict=True):
        assert_allclose(actual, matrix, rtol=rtol, atol=rtol * np.abs(matrix).max())
    rounding = 1e-11 * p.n / state.sigma2_e  # Euler's identity divides what it subtracts by σ²_e
    atol = rtol * (np.trace(dense.P) + dense.Py @ dense.Py) + rounding
    assert_allclose(state.gradient.noise[0, 0], residual, rtol=rtol, atol=atol)


@pytest.mark.parametrize("flat", [True, False])
def test_likelihood_score_and_effects_equal_dense_matrices(build_terms, kinds, flat):
    p = build_terms(*kinds, flat=flat)
    if not flat:
        p.response = p.products.shifted(p.response, p.response.y1)
    state, dense = at(p, response=p.response), p.dense()
    if not flat:
        dense = p.dense(y=p.y)
    assert_allclose(state.loglik, loglik(p, dense), rtol=1e-11)
    assert_allclose(state.yPy, p.y @ dense.Py, rtol=1e-11)
    assert_score(p, state, dense)
    for k, (u, w) in enumerate(zip(state.effects(), state.gradient.effects, strict=True)):
        assert_allclose(w.ravel(), p.rooted(k).T @ dense.Py, rtol=1e-9, atol=1e-10)
        expected = p.G(k) @ p.terms[k][0].T @ dense.Py
        assert_allclose(u.ravel(), expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())


def test_score_is_the_central_difference_of_the_likelihood(build_terms, structures, kinds):
    p = build_terms(*kinds)
    gradient, h = at(p).gradient, 1e-5
    for k, (_, _, width, _) in enumerate(p.terms):
        for E in structures.basis(width)[:: max(1, width // 3)]:
            ends = [
                at(p, sigma=[s + sign * h * E if i == k else s for i, s in enumerate(p.sigma)]).loglik
                for sign in (1, -1)
            ]
            assert_allclose((gradient.sigma[k] * E).sum(), (ends[0] - ends[1]) / (2 * h), rtol=2e-6, atol=2e-6)
    ends = [at(p, sigma2_e=p.sigma2_e + sign * h).loglik for sign in (1, -1)]
    assert_allclose(gradient.noise[0, 0], (ends[0] - ends[1]) / (2 * h), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("flat", [True, False])
def test_average_information_is_its_definition(build_terms, structures, kinds, flat):
    p = build_terms(*kinds, flat=flat)
    directions = [
        (k, E) for k, (_, _, width, _) in enumerate(p.terms) for E in structures.basis(width)[:: max(1, width // 3)]
    ]
    response = p.response if flat else p.products.shifted(p.response, p.response.y1)
    state, dense = at(p, response=response), p.dense()
    q = np.column_stack([*(p.slope(k, E) @ dense.Py for k, E in directions), dense.Py])
    expected = 0.5 * q.T @ dense.P @ q
    size = np.sqrt(np.diag(expected))
    scale = np.outer(size, size) + 1e-3 * size.max() ** 2  # a level without rows has no information
    assert_allclose(state.average_information([*directions, RESIDUAL]) / scale, expected / scale, rtol=0, atol=1e-10)


def test_fixed_effects_equal_generalised_least_squares(build_terms, kinds):
    p = build_terms(*kinds)
    beta, cov = at(p).blue()
    dense = p.dense()
    assert_allclose(beta, dense.beta, rtol=1e-9)
    assert_allclose(cov, dense.beta_cov, rtol=1e-9)
    without = build_terms(*kinds, flat=False)
    assert [a.shape for a in at(without).blue()] == [(0,), (0, 0)]


def test_prediction_error_of_the_effects_is_that_of_dense_matrices(build_terms, kinds):
    p = build_terms(*kinds)
    state, dense = at(p), p.dense()
    for k, (Z, *_) in enumerate(p.terms):
        G = p.G(k)
        expected = np.diag(G - G @ Z.T @ dense.P @ Z @ G)
        assert_allclose(state.prediction_error(k).ravel(), expected, rtol=1e-8, atol=1e-10 * G.max())


def test_prediction_of_new_rows_is_the_universal_kriging_of_dense_matrices(build_terms, kinds):
    p = build_terms(*kinds)
    m = 5
    X_new = np.column_stack([np.ones(m), p.rng.normal(20, 12, size=m), p.rng.exponential(size=m)])
    Z_new = [np.abs(p.rng.normal(size=(m, term[0].shape[1]))) * (p.rng.random((m, term[0].shape[1])) < 0.3)
             for term in p.terms]  # fmt: skip
    unknown = p.rng.exponential(size=m)
    given = [sp.csr_array(Z) if k % 2 else Z for k, Z in enumerate(Z_new)]
    mean, variance = at(p).predict(X_new, given, unknown)
    cross = sum(Zn @ p.G(k) @ p.terms[k][0].T for k, Zn in enumerate(Z_new))
    prior = sum(Zn @ p.G(k) @ Zn.T for k, Zn in enumerate(Z_new))
    expected, cov = p.dense().predict(X_new, cross, prior)
    assert_allclose(mean, expected, rtol=1e-9)
    assert_allclose(variance, np.diag(cov) + unknown, rtol=1e-8)


def test_without_fixed_effects(build_terms, kinds):
    p = build_terms(*kinds, X=None)
    state, dense = at(p), p.dense()
    assert_allclose(state.loglik, dense.loglik_contrasts, rtol=1e-11)
    assert_score(p, state, dense)


@pytest.mark.parametrize(
    ("kinds", "n", "sparse"),
    [(("nested", "three slopes"), 18, True), (("nested", "factor"), 15, True), (("three slopes", "factor"), 80, False)],
    ids=str,
)
def test_the_cross_table_as_a_sparse_and_as_a_dense_matrix(build_terms, kinds, n, sparse):
    p = build_terms(*kinds, n=n, X=None)
    B = p.products.B
    assert (B.nnz < crossproduct._DENSE * np.prod(B.shape)) == sparse
    state, dense = at(p), p.dense()
    assert_allclose(state.loglik, dense.loglik_contrasts, rtol=1e-11)
    assert_score(p, state, dense)


SIZES = st.sampled_from(["definite", "singular", "zero"])


@settings(max_examples=40, deadline=None)
@given(
    chosen=st.lists(
        st.tuples(st.sampled_from(["factor", "crossed", "nested", "slopes", "three slopes", "dense", "known"]), SIZES),
        min_size=1, max_size=4,
    ),
    seed=st.integers(0, 10_000), n=st.integers(16, 80), log_e=st.floats(-3, 3), flat=st.booleans(),
)  # fmt: skip
def test_random_sets_of_terms_with_singular_and_zero_covariances(build_terms, chosen, seed, n, log_e, flat):
    kinds, sizes = zip(*chosen, strict=True)
    p = build_terms(*kinds, n=n, seed=seed, sizes=list(sizes), sigma2_e=10**log_e, flat=flat)
    response = p.response if flat else p.products.shifted(p.response, p.response.y1)
    state, dense = at(p, response=response), p.dense()
    condition = np.linalg.cond(dense.V)
    assert_allclose(state.loglik, loglik(p, dense), rtol=1e-12 * max(condition, 10), atol=1e-9)
    assert_score(p, state, dense, rtol=1e-13 * max(condition, 1e4))


def test_the_boundary_of_zero_variances_has_a_score(build_terms):
    """Σ_k = 0 for all: V = σ²_eI, whose score is in closed form."""
    p = build_terms("factor", "slopes", "dense", sizes=["zero"] * 3)
    state = at(p)
    N = p.dense().contrasts
    residual = N @ (N.T @ p.y)
    for k, (_, levels, width, _) in enumerate(p.terms):
        w = (p.terms[k][0].T @ residual / p.sigma2_e).reshape(levels, width)
        ZZ = p.terms[k][0].T @ N @ N.T @ p.terms[k][0] / p.sigma2_e
        expected = 0.5 * (w.T @ w - np.einsum("jsjt->st", ZZ.reshape(levels, width, levels, width)))
        assert_allclose(state.gradient.sigma[k], expected, rtol=1e-10, atol=1e-10)
    assert_allclose(np.concatenate([u.ravel() for u in state.effects()]), 0.0, atol=0)


@pytest.mark.parametrize("chosen", [("factor",), ("factor", "crossed"), ("slopes", "crossed"), ("dense",)], ids=str)
@pytest.mark.parametrize("sigma2_e", [1e-4, 1e-8, 1e-12])
def test_a_tiny_residual_variance_keeps_its_digits(build_terms, structures, chosen, sigma2_e):
    p = build_terms(*chosen, n=18, sigma2_e=sigma2_e)
    loglik = at(p).loglik + p.products.constant
    assert_allclose(loglik, structures.exact_loglik(p), rtol=1e-9)


def switched(p, k, factor):
    """A variance of term k just at the switch of the two forms of the score, times a factor."""
    state = at(p)
    levels, width = p.terms[k][1:3]
    F = state.factor[2]
    offset = state.products.offsets()[k]
    size = np.diag(F)[offset : offset + levels * width].mean()
    sigma = [np.array(s) for s in p.sigma]
    sigma[k] = factor * crossproduct._TINY * p.sigma2_e / size * np.eye(width)
    return sigma


@pytest.mark.parametrize(
    ("chosen", "k"), [(("factor", "crossed"), 1), (("three slopes", "slopes"), 1), (("dense",), 0)]
)
def test_the_two_forms_of_the_score_agree_at_their_switch(build_terms, chosen, k):
    p = build_terms(*chosen)
    below, above = (at(p, sigma=switched(p, k, f)) for f in (1 - 1e-12, 1 + 1e-12))
    assert_allclose(below.gradient.sigma[k], above.gradient.sigma[k], rtol=1e-9, atol=1e-10)
    assert_allclose(below.gradient.effects[k], above.gradient.effects[k], rtol=1e-9, atol=1e-10)
    for state, factor in ((below, 1 - 1e-12), (above, 1 + 1e-12)):
        assert_score(p, state, p.dense(sigma=switched(p, k, factor)))


@pytest.mark.parametrize("chosen", [("factor",), ("slopes", "factor"), ("three slopes", "ar1")], ids=" + ".join)
def test_what_is_eliminated_makes_no_difference(build_terms, structures, monkeypatch, chosen):
    p = build_terms(*chosen)
    first = at(p)
    assert p.products.eliminated
    monkeypatch.setattr(mixed, "elimination_order", lambda blocks: (tuple(range(len(blocks))), False))
    plain = p.make_products(True)
    assert not plain.eliminated
    second = at(p, products=plain)
    assert_allclose(first.loglik, second.loglik, rtol=1e-12)
    for a, b in zip(first.gradient.sigma, second.gradient.sigma, strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    assert_allclose(first.gradient.noise[0, 0], second.gradient.noise[0, 0], rtol=1e-8, atol=1e-9)
    for k in range(len(chosen)):
        assert_allclose(first.prediction_error(k), second.prediction_error(k), rtol=1e-8)
    directions = [(k, E) for k, t in enumerate(p.terms) for E in structures.basis(t[2])[:4]]
    assert_allclose(
        *(state.average_information([*directions, RESIDUAL]) for state in (first, second)), rtol=1e-8, atol=1e-12
    )


def test_the_largest_factor_is_eliminated_wherever_it_stands(build_terms):
    orders = [build_terms(*kinds).products.order for kinds in (("crossed", "factor", "dense"), ("factor", "crossed"))]
    assert orders == [(1, 0, 2), (0, 1)]
    assert not build_terms("dense", "known").products.eliminated
    assert not build_terms("ar1").products.eliminated


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_of_y_scale_the_variances_and_move_the_likelihood_by_a_constant(build_terms, scale):
    p = build_terms("factor", "slopes")
    base = at(p)
    scaled = at(p, response=p.products.response(scale * p.y), sigma=[scale**2 * s for s in p.sigma],
                sigma2_e=scale**2 * p.sigma2_e)  # fmt: skip
    df = p.n - p.X.shape[1]
    assert_allclose(scaled.loglik + df * np.log(scale), base.loglik, rtol=1e-10)
    for a, b in zip(scaled.gradient.sigma, base.gradient.sigma, strict=True):
        assert_allclose(scale**2 * a, b, rtol=1e-8, atol=1e-10)


def test_the_order_of_rows_and_what_lies_along_X_do_not_matter(build_terms):
    p = build_terms("factor", "three slopes", "dense")
    base = at(p).loglik
    assert_allclose(at(p, response=p.products.response(p.y + p.X @ [1e6, 30, -200])).loglik, base, rtol=1e-9)
    order = p.rng.permutation(p.n)
    p.terms = [(Z[order], *rest) for Z, *rest in p.terms]
    p.projection = type(p.projection).from_design(p.X[order])
    moved = p.make_products(True)
    assert_allclose(at(p, products=moved, response=moved.response(p.y[order])).loglik, base, rtol=1e-12)


@pytest.mark.parametrize(
    ("sigma", "sigma2_e"),
    [
        ([np.array([[-0.1]]), np.eye(2)], 1.0),
        ([np.eye(1), np.diag([1.0, -0.1])], 1.0),
        ([np.eye(1), np.array([[1.0, 2.0], [2.0, 1.0]])], 1.0),
        ([np.eye(1), np.array([[0.0, 0.5], [0.5, 1.0]])], 1.0),
        ([np.eye(1), np.eye(2)], 0.0),
        ([np.eye(1), np.eye(2)], -1.0),
        ([np.eye(1), np.eye(2)], np.nan),
        ([np.full((1, 1), np.nan), np.eye(2)], 1.0),
        ([np.eye(1), np.full((2, 2), np.inf)], 1.0),
    ],
)
@pytest.mark.parametrize("kinds", [("factor", "slopes"), ("crossed", "slopes")], ids=" + ".join)
def test_outside_the_parameter_space_there_is_no_state(build_terms, kinds, sigma, sigma2_e):
    p = build_terms(*kinds)
    assert at(p, sigma=sigma, sigma2_e=sigma2_e) is None
    products = p.products
    phi = np.concatenate([np.ravel(sigma[k]) for k in products.order])
    statistics = *read_only(p.response.within, p.response.between), p.response.rss  # compiled for one type of arguments
    value, *gradients = crossproduct.loglik_and_gradient(phi, np.zeros(0), sigma2_e, *statistics, *products.constants)
    assert value == -np.inf
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_where_no_term_is_eliminated_a_variance_that_overflows_has_no_state(build_terms, value):
    p = build_terms("dense", "known")
    assert not p.products.eliminated
    assert at(p, sigma=[np.full((1, 1), value), np.eye(1)]) is None


def test_gradient_with_respect_to_the_statistics_of_the_response(build_terms):
    p = build_terms("slopes", "crossed", "dense")
    products, r = p.products, p.response

    def evaluate(within, between, rss):
        phi = np.concatenate([p.sigma[k].ravel() for k in products.order])
        statistics = *read_only(within, between), rss
        return crossproduct.loglik_and_gradient(phi, np.zeros(0), p.sigma2_e, *statistics, *products.constants)

    _, _, _, d_within, d_between, d_rss = evaluate(r.within, r.between, r.rss)
    h = 1e-4
    for _ in range(3):
        a, b, c = p.rng.normal(size=r.within.shape), p.rng.normal(size=r.between.shape), p.rng.normal()
        ends = [evaluate(r.within + s * h * a, r.between + s * h * b, r.rss + s * h * c)[0] for s in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * h)
        assert_allclose((d_within * a).sum() + (d_between * b).sum() + d_rss * c, expected, rtol=1e-7)
