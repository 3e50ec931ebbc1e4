"""Cross-products of several terms: their identities, moved responses, and what does not fit in memory."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose

from pm_fastlmm.base.arrays import to_read
from pm_fastlmm.engines.structured import products as mixed
from pm_fastlmm.engines.structured.products import EffectBlock, MixedProducts
from pm_fastlmm.spectrum.projection import Projection

SETS = [("factor", "crossed"), ("three slopes", "dense"), ("slopes",), ("dense", "known"), ("wide ar1", "nested")]


@pytest.fixture(params=SETS, ids=" + ".join)
def p(request, build_terms):
    return build_terms(*request.param)


def test_products_are_those_of_the_dense_matrices(p):
    products = p.products
    O, W = products.O.toarray(), products.W.toarray()  # noqa: E741
    if products.eliminated:
        levels, width = products.C.shape[:2]
        transposed = [np.asarray(products.C[j].T) for j in range(levels)]
        rebuilt = np.hstack([O[:, j * width : (j + 1) * width] @ transposed[j] for j in range(levels)])
        assert_allclose(rebuilt, p.rooted(products.order[0]), atol=1e-12)
        gram = O.T @ O
        assert_allclose(gram @ gram, gram, atol=1e-12)  # the identity on the levels' ranges
    rest = products.order[1:] if products.eliminated else products.order
    assert_allclose(W, np.hstack([*(p.rooted(k) for k in rest), p.projection.Q1]), atol=1e-14)
    M = np.eye(p.n) - O @ O.T
    assert_allclose(products.B.toarray(), O.T @ W, atol=1e-12)
    assert_allclose(products.within, W.T @ M @ W, atol=1e-11)
    assert products.fixed == 3
    assert products.df == p.n - 3


def test_what_compiled_loops_read_has_one_type_whoever_made_it(p):
    for integer in (np.int32, np.int64):
        B = p.products.B.copy()
        B.indptr, B.indices = B.indptr.astype(integer), B.indices.astype(integer)
        places = replace(p.products, B=B).constants[3:5]
        assert [array.dtype for array in places] == [np.int64, np.int64]
    assert not to_read(p.response.between).flags.writeable
    assert p.response.between.flags.writeable


def test_statistics_of_a_response(p):
    products, r = p.products, p.response
    O, W = products.O.toarray(), products.W.toarray()  # noqa: E741
    Q = p.projection.Q1
    y2 = p.y - Q @ (Q.T @ p.y)
    inside = y2 - O @ (O.T @ y2)
    assert_allclose(r.within, W.T @ inside, atol=1e-11)
    assert_allclose(r.between.ravel(), O.T @ y2, atol=1e-12)
    assert_allclose(r.rss, inside @ inside, rtol=1e-12)
    assert_allclose(r.y1, Q.T @ p.y, rtol=1e-12)


def test_shifted_statistics_are_those_of_the_moved_response(build_terms):
    p = build_terms("slopes", "crossed", flat=False)
    d = np.array([0.3, -2.0, 5.0])
    shifted = p.products.shifted(p.response, d)
    O, W = p.products.O.toarray(), p.products.W.toarray()  # noqa: E741
    Q = p.projection.Q1
    moved = p.y - Q @ (Q.T @ p.y) + Q @ d
    inside = moved - O @ (O.T @ moved)
    assert_allclose(shifted.within, W.T @ inside, atol=1e-11)
    assert_allclose(shifted.between.ravel(), O.T @ moved, atol=1e-12)
    assert_allclose(shifted.rss, inside @ inside, rtol=1e-10)


def test_pullback_is_the_transpose_of_the_derivative_of_the_statistics(p):
    products, rng = p.products, p.rng
    g = (rng.normal(size=products.W.shape[1]), rng.normal(size=p.response.between.shape), 0.7, rng.normal(size=3),
         rng.normal(size=p.n))  # fmt: skip
    pulled, h = products.response_pullback(p.y, *g), 1e-5
    for _ in range(3):
        step = rng.normal(size=p.n)
        ends = [products.response(p.y + sign * h * step) for sign in (1, -1)]
        change = [(np.asarray(a) - np.asarray(b)) / (2 * h) for a, b in zip(*ends, strict=True)]
        expected = sum((np.asarray(weight) * c).sum() for weight, c in zip(g, change, strict=True))
        assert_allclose(pulled @ step, expected, rtol=1e-6, atol=1e-7)


def test_a_level_with_one_row_of_a_random_slope_is_a_singular_block(build_terms):
    p = build_terms("three slopes")
    ranks = [np.linalg.matrix_rank(block) for block in p.products.C]
    assert min(ranks) == 0  # a level without rows
    assert 1 in ranks
    assert max(ranks) == 3


def test_what_cannot_fit_is_refused_with_its_sizes(monkeypatch):
    monkeypatch.setattr(mixed, "_MAX_DENSE", 10)
    n = 40
    codes = np.arange(n) % 20, np.arange(n) // 2 % 12
    blocks = [
        EffectBlock(sp.csr_array((c[:, None] == np.arange(m)).astype(float)), m, 1)
        for c, m in zip(codes, (20, 12), strict=True)
    ]
    message = (
        r"^the terms have 20, 12 random effects: one grouping factor is eliminated, but the other 12 fill a dense "
        r"matrix of that order, and 10 is the limit\. Use fewer levels, or a low-rank term\.$"
    )
    with pytest.raises(ValueError, match=message):
        MixedProducts.from_rows(blocks, Projection.from_design(np.ones((n, 1))), flat=True)
    MixedProducts.from_rows(blocks[:1], Projection.from_design(np.ones((n, 1))), flat=True)


def test_the_text_shows_the_sizes(build_terms):
    assert repr(build_terms("factor", "slopes").products) == (
        "MixedProducts(n=50, terms of 11 × 1, 9 × 2 effects, 3 fixed effects)"
    )
