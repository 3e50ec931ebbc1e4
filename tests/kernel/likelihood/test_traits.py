"""The likelihood of several traits against dense algebra, and where it is -∞."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from pm_fastlmm.kernel.likelihood import traits_loops
from pm_fastlmm.kernel.likelihood.spectral import contrast_loglik
from pm_fastlmm.kernel.likelihood.traits import one_type, traits_loglik_and_gradient

P, NULLITY = 7, 4


def covariance(rng, t, rank=None):
    root = rng.normal(size=(t, t if rank is None else rank))
    return root @ root.T


def problem(t, p=P, nullity=NULLITY, rank=None, seed=5):
    """λ with zeros for the null directions, the response in all directions, Σ_g and Σ_e."""
    rng = np.random.default_rng([seed, t, p])
    eigvals = np.r_[np.sort(rng.exponential(size=p))[::-1], np.zeros(nullity)]
    Y = rng.normal(size=(p + nullity, t)) * np.arange(1, t + 1)
    return eigvals, Y, covariance(rng, t, rank), covariance(rng, t) + 0.2 * np.eye(t)


def arguments(eigvals, Y, g, e, p=P):
    return eigvals[:p], Y[:p], Y[p:].T @ Y[p:], len(Y) - p, g, e


def dense(eigvals, Y, g, e):
    """The log-density of vec(Y) and its derivatives in Σ_g, Σ_e and Y, with the inverse of the whole V."""
    n, t = Y.shape
    V = np.kron(np.diag(eigvals), g) + np.kron(np.eye(n), e)
    inverse = np.linalg.inv(V)
    solved = inverse @ Y.ravel()
    M = (0.5 * (np.outer(solved, solved) - inverse)).reshape(n, t, n, t)
    loglik = multivariate_normal(cov=V).logpdf(Y.ravel())
    return loglik, np.einsum("iaib,i->ab", M, eigvals), np.einsum("iaib->ab", M), -solved.reshape(n, t)


@pytest.mark.parametrize(("t", "nullity", "rank"), [
    (1, NULLITY, None), (2, NULLITY, None), (3, NULLITY, None), (5, NULLITY, None),
    (2, 0, None), (2, NULLITY, 1), (3, 0, 1), (5, NULLITY, 2), (3, NULLITY, 0),
])  # fmt: skip
def test_value_and_gradient_are_those_of_dense_algebra(t, nullity, rank):
    eigvals, Y, g, e = problem(t, nullity=nullity, rank=rank)
    loglik, by_g, by_e, by_Y = dense(eigvals, Y, g, e)
    found = traits_loglik_and_gradient(*arguments(eigvals, Y, g, e))
    assert_allclose(found[0], loglik, rtol=1e-12)
    assert_allclose(found[1], by_g, rtol=1e-9, atol=1e-10 * abs(by_g).max())
    assert_allclose(found[2], by_e, rtol=1e-9, atol=1e-10 * abs(by_e).max())
    z, outside = arguments(eigvals, Y, g, e)[1:3]
    full = traits_loops.in_all(*one_type(g, e, z, outside, eigvals[:P], nullity))
    for own, narrow in zip(full, found, strict=False):
        assert_allclose(own, narrow, rtol=1e-14)
    assert_allclose(full[3], by_Y[:P], rtol=1e-9, atol=1e-12)
    assert_allclose(full[4], -0.5 * np.linalg.inv(e) * (nullity > 0), rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_single_entries():
    """dℓ = Σ_ab G_ab dΣ_ab over all entries: one of two that are equal is half of what both are."""
    own = list(arguments(*problem(3)))
    _, by_g, by_e = traits_loglik_and_gradient(*own)
    h = 1e-5
    for place, gradient in ((4, by_g), (5, by_e)):
        for a, b in np.ndindex(3, 3):
            values = []
            for step in (h, -h):
                changed = own[place].copy()
                changed[a, b] += step
                values.append(traits_loglik_and_gradient(*own[:place], changed, *own[place + 1 :])[0])
            assert_allclose((values[0] - values[1]) / (2 * h), gradient[a, b], rtol=1e-6, atol=1e-7)


def by_rows(eigvals, Y, g, e):
    V = eigvals[:, None, None] * g + e
    inverse = np.linalg.inv(V)
    solved = np.einsum("iab,ib->ia", inverse, Y)
    loglik = -0.5 * (Y.size * np.log(2 * np.pi) + np.linalg.slogdet(V)[1].sum() + (Y * solved).sum())
    M = 0.5 * (solved[:, :, None] * solved[:, None, :] - inverse)
    return loglik, np.einsum("iab,i->ab", M, eigvals), M.sum(0), -solved


@pytest.mark.parametrize(("p", "t"), [(1000, 1), (1000, 2), (1537, 5), (300, 20)])
def test_many_rows_and_many_traits(p, t):
    eigvals, Y, g, e = problem(t, p, nullity=0)
    expected = by_rows(eigvals, Y, g, e)
    found = traits_loops.in_all(*one_type(g, e, Y, np.zeros((t, t)), eigvals, 0))
    assert_allclose(found[0], expected[0], rtol=1e-13)
    for own, other in zip(found[1:4], expected[1:], strict=True):
        assert_allclose(own, other, atol=1e-11 * abs(other).max())


def test_one_trait_is_the_likelihood_of_one_response():
    eigvals, Y, g, e = problem(1)
    z, outside = Y[:P, 0], Y[P:].T @ Y[P:]
    one = contrast_loglik(z, outside[0, 0], eigvals=eigvals[:P], nullity=NULLITY, sigma2_g=g[0, 0], sigma2_e=e[0, 0])
    assert_allclose(traits_loglik_and_gradient(*arguments(eigvals, Y, g, e))[0], one, rtol=1e-12)


def test_the_products_behind_the_logarithms_do_not_overflow():
    eigvals, Y, g, e = problem(2, 400, nullity=0)
    eigvals = eigvals * np.geomspace(1e250, 1e-250, 400)
    loglik = traits_loglik_and_gradient(eigvals, Y, np.zeros((2, 2)), 0, g, e)[0]
    assert_allclose(loglik, by_rows(eigvals, Y, g, e)[0], rtol=1e-12)


def test_units_of_the_traits_do_not_matter():
    eigvals, Y, g, e = problem(4)
    units = np.array([1e-9, 1.0, 1e6, 1e-3])
    D = np.diag(units)
    expected = traits_loglik_and_gradient(*arguments(eigvals, Y, g, e))
    found = traits_loglik_and_gradient(*arguments(eigvals, Y * units, D @ g @ D, D @ e @ D))
    assert_allclose(found[0] + len(Y) * np.log(units).sum(), expected[0], rtol=1e-12)
    assert_allclose(D @ found[1] @ D, expected[1], rtol=1e-9)
    assert_allclose(D @ found[2] @ D, expected[2], rtol=1e-9)


@pytest.mark.parametrize("which", ["Σ_e singular", "Σ_e indefinite", "Σ_e NaN", "Σ_g indefinite", "Σ_g NaN"])
def test_what_is_no_covariance_has_no_likelihood(which):
    eigvals, Y, g, e = problem(3)
    bad = {
        "singular": covariance(np.random.default_rng(1), 3, 2), "indefinite": np.diag([1.0, 1.0, -1e-6]),
        "NaN": np.full((3, 3), np.nan),
    }[which.split()[1]]  # fmt: skip
    g, e = (bad, e) if which.startswith("Σ_g") else (g, bad)
    z, outside = arguments(eigvals, Y, g, e)[1:3]
    loglik, *gradient = traits_loops.in_all(*one_type(g, e, z, outside, eigvals[:P], NULLITY))
    assert loglik == -np.inf
    for own in gradient:
        assert_allclose(own, np.zeros_like(own), rtol=0, atol=0)


def test_a_negative_eigenvalue_of_rounding_is_zero():
    eigvals, Y, _, e = problem(3)
    root = np.random.default_rng(2).normal(size=(3, 1))
    g = root @ root.T
    found = traits_loglik_and_gradient(*arguments(eigvals, Y, g - 1e-17 * np.eye(3), e))
    assert_allclose(found[0], dense(eigvals, Y, g, e)[0], rtol=1e-12)


def test_loops_are_compiled_for_one_type_of_arguments():
    eigvals, z, outside, nullity, g, e = arguments(*problem(2))
    for function in (traits_loops.in_variances, traits_loops.in_all):
        function(*one_type(g, e, z, outside, eigvals, nullity))
        before = len(function.signatures)
        for array in (g, z, eigvals):
            array.flags.writeable = False
        function(*one_type(np.asfortranarray(g), e.tolist(), np.asfortranarray(z), outside, eigvals, np.int8(nullity)))
        function(*one_type(g[:1, :1], e[:1, :1], z[:, :1], outside[:1, :1], eigvals, nullity))
        assert len(function.signatures) == before
