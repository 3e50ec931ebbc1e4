"""SparseProjection is Projection of an X that is never dense: same columns, same coefficients, same new rows."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from pm_fastlmm.base.arrays import Labelled
from pm_fastlmm.spectrum import sparse_projection
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.sparse_projection import SparseProjection, read_fixed_effects, read_large

N, HERDS = 200, 12


def dummies(codes, k):
    return (codes[:, None] == np.arange(k)).astype(float)


@pytest.fixture(scope="module")
def columns():
    """Two factors, one nested in the other, and covariates, one of which is the same within a level."""
    rng = np.random.default_rng(5)
    fine = rng.integers(0, HERDS, size=N)
    return {
        "intercept": np.ones((N, 1)), "coarse": dummies(fine // 3, 4), "fine": dummies(fine, HERDS),
        "age": rng.normal(50, 4, size=(N, 1)), "within": (1.5 * (fine // 3) + 2)[:, None], "zero": np.zeros((N, 1)),
    }  # fmt: skip


DESIGNS = {
    "of full rank": ("fine", "age"),
    "an intercept beside all levels": ("intercept", "fine", "age"),
    "nested, coarse first": ("coarse", "fine"),
    "nested, fine first": ("age", "fine", "coarse"),
    "constant within a level": ("intercept", "coarse", "within", "fine"),
    "a column of zeros": ("zero", "fine", "zero", "age"),
}


def both(columns, parts):
    X = np.hstack([columns[part] for part in parts])
    names = tuple(f"{part}{j}" for part in parts for j in range(columns[part].shape[1]))
    texts, found = [], []
    for make, given in ((Projection, X), (SparseProjection, sp.csr_array(X))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append(make.from_design(given, names))
        texts.append([str(warning.message) for warning in caught])
    return X, *found, texts


@pytest.mark.parametrize("parts", DESIGNS.values(), ids=DESIGNS)
def test_columns_that_depend_on_others_are_those_of_the_dense_projection(columns, parts):
    X, dense, sparse, texts = both(columns, parts)
    assert sparse.columns.kept == dense.columns.kept
    assert sparse.columns.left == dense.columns.left
    assert texts[1] == texts[0]
    np.testing.assert_allclose(sparse.columns.B.toarray(), dense.columns.B, atol=1e-12)
    np.testing.assert_allclose(sparse.columns.E.toarray(), dense.columns.E, atol=1e-12)
    np.testing.assert_allclose(sparse.X @ sparse.columns.E.toarray(), X, atol=1e-11)
    for j in range(len(dense.columns.left)):
        assert sparse.columns.relation(j) == dense.columns.relation(j)
        assert sparse.columns.involved(j) == dense.columns.involved(j)


@pytest.mark.parametrize("parts", DESIGNS.values(), ids=DESIGNS)
def test_what_is_along_x_and_what_is_not_is_that_of_the_dense_projection(columns, parts):
    _, dense, sparse, _ = both(columns, parts)
    rng = np.random.default_rng(1)
    y, Y, beta = 100 + rng.normal(size=N), rng.normal(size=(N, 3)), rng.normal(size=dense.rank)
    for values in (y, Y):
        (d, rest), (d0, rest0) = sparse.apart(values), dense.apart(values)
        np.testing.assert_allclose(rest, rest0, atol=1e-11)
        np.testing.assert_allclose(sparse.along(d), dense.along(d0), atol=1e-11)
        np.testing.assert_allclose(sparse.coefficients(d.T).T if d.ndim > 1 else sparse.coefficients(d),
                                   dense.coefficients(d0), rtol=1e-9)  # fmt: skip
    np.testing.assert_allclose(sparse.times(beta), dense.times(beta), rtol=1e-11)
    np.testing.assert_allclose(sparse.along(sparse.coordinates(beta)), dense.times(beta), rtol=1e-11)
    np.testing.assert_allclose(sparse.over(sparse.X[:5]) @ sparse.coordinates(beta), dense.times(beta)[:5], rtol=1e-11)
    np.testing.assert_allclose(sparse.logdet_R, dense.logdet_R, rtol=1e-12)
    np.testing.assert_allclose(sparse.logdet_basis, np.linalg.slogdet((sparse.basis.T @ sparse.basis).toarray())[1])
    Z = sp.csc_array(dummies(rng.integers(0, 7, size=N), 7)).T
    along, along0 = sparse.orthonormal(Z), dense.orthonormal(Z)
    np.testing.assert_allclose(along @ along.T, along0 @ along0.T, atol=1e-11)


def test_shares_along_x_are_those_of_an_orthonormal_basis(columns):
    _, dense, sparse, _ = both(columns, DESIGNS["nested, coarse first"])
    groups = np.array_split(np.arange(N), 20)
    np.testing.assert_allclose(sparse.shares(None), (dense.Q1**2).sum(-1), atol=1e-12)
    expected = [np.linalg.norm(dense.Q1[rows], 2) ** 2 for rows in groups]
    np.testing.assert_allclose(sparse.shares(groups), expected, atol=1e-12)


def test_rows_times_root_weights(columns):
    X, dense, sparse, _ = both(columns, DESIGNS["constant within a level"])
    root = np.sqrt(np.random.default_rng(2).uniform(0.5, 2, size=N))
    scaled, scaled0 = sparse.scaled(root), dense.scaled(root)
    assert scaled.columns.names == scaled0.columns.names
    assert scaled.columns.kept == scaled0.columns.kept
    np.testing.assert_allclose(scaled.columns.E.toarray(), scaled0.columns.E, atol=1e-11)
    np.testing.assert_allclose(scaled.logdet_R, scaled0.logdet_R, rtol=1e-12)
    np.testing.assert_allclose(scaled.columns.size, scaled0.columns.size)
    # where rows were lost, further columns depend on others
    some = X[:, :5].any(axis=1) & (X[:, -1] == 0) & (X[:, -2] == 0)
    with pytest.warns(UserWarning, match="X has rank"):
        inner = SparseProjection.from_design(sparse.X[some], sparse.coef).within(sparse.columns)
    with pytest.warns(UserWarning, match="X has rank"):
        inner0 = Projection.from_design(X[some][:, dense.columns.kept], dense.coef).within(dense.columns)
    assert inner.columns.kept == inner0.columns.kept
    np.testing.assert_allclose(inner.columns.B.toarray(), inner0.columns.B, atol=1e-10)
    np.testing.assert_allclose(inner.columns.size, inner0.columns.size)


def test_new_rows_are_kept_columns_and_nan_where_the_data_do_not_determine_them(columns):
    X, dense, sparse, _ = both(columns, DESIGNS["an intercept beside all levels"])
    new = X[:6].copy()
    new[1, 1:-1] = 0.0  # of no herd, whose intercept nobody knows
    new[4, -1] = 1e6  # far from the data, but determined
    labelled = Labelled(new, tuple("abcdef"), dense.columns.names)
    with pytest.warns(UserWarning, match="rows 'b'") as told:
        expected = dense.new_rows(labelled, 6)
    with pytest.warns(UserWarning, match="rows 'b'") as also:
        found = sparse.new_rows(Labelled(sp.csr_array(new), *(labelled.ids, labelled.names)), 6)
    assert str(also[0].message) == str(told[0].message)
    assert np.isnan(expected[1]).all()
    known = ~np.isnan(expected).any(axis=1)
    np.testing.assert_array_equal(found.toarray()[known], expected[known])
    assert np.isnan(found @ np.ones(sparse.rank)).tolist() == (~known).tolist()
    shuffled = pd.DataFrame(new, columns=list(dense.columns.names)).iloc[:, ::-1]
    np.testing.assert_array_equal(sparse.new_rows(shuffled, 6, warn=False).toarray()[known], expected[known])


def test_bad_new_rows_are_refused(columns):
    X, _, sparse, _ = both(columns, DESIGNS["of full rank"])
    with pytest.raises(ValueError, match=r"X_new must be \(3, 13\), one row for each new observation"):
        sparse.new_rows(X[:3, :5], 3)
    with pytest.raises(ValueError, match="X_new has no column 'age0', and the fit has: give all 13 columns of X"):
        sparse.new_rows(pd.DataFrame(X[:3, :12], columns=list(sparse.columns.names[:12])), 3)
    with pytest.raises(ValueError, match="X_new is missing: the model has the fixed effects 'fine0'"):
        sparse.new_rows(None, 3)
    broken = X[:3].copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="fixed effects of new rows must be known"):
        sparse.new_rows(broken, 3)


def test_columns_that_are_nearly_combinations_are_refused():
    year = np.repeat([2000.0, 2001, 2002, 2003], 50)
    noise = 1e-4 * np.random.default_rng(0).normal(size=200)
    X = sp.csr_array(np.column_stack([np.ones(200), year, year + noise]))
    with pytest.raises(ValueError, match=r"columns 'c' of X are combinations of others but for .* centre and scale"):
        SparseProjection.from_design(X, tuple("abc"))


def test_x_without_rows_left_is_refused():
    with pytest.raises(ValueError, match="X has rank 4 for 4 observations"):
        SparseProjection.from_design(sp.eye_array(4), tuple("abcd"))


def test_factors_that_are_not_formed_are_refused(columns):
    _, _, sparse, _ = both(columns, DESIGNS["of full rank"])
    for name in ("Q1", "R", "V", "T"):
        text = "X, 200 × 13, is kept sparse, and this needs .* are not formed. fit.coefficients() has estimates"
        with pytest.raises(ValueError, match=text.replace("()", r"\(\)")):
            getattr(sparse, name)


def test_only_a_large_sparse_matrix_stays_sparse(columns, monkeypatch):
    X = sp.csr_array(columns["fine"])
    table = pd.DataFrame.sparse.from_spmatrix(X, index=[f"r{i}" for i in range(N)])
    assert isinstance(read_large(X, "X").values, np.ndarray)
    monkeypatch.setattr(sparse_projection, "LARGEST", 0)
    ids = tuple(table.index[::-1])
    assert sp.issparse(read_large(X, "X").values)
    found, projection = read_fixed_effects(table, N, ids, "y")
    assert found == ids
    np.testing.assert_array_equal(projection.X.toarray(), columns["fine"][::-1])
    assert projection.coef == tuple(map(str, range(HERDS)))
    assert isinstance(read_large(columns["fine"], "X").values, np.ndarray)
    with pytest.raises(ValueError, match="X has 200 rows but y has 199"):
        read_fixed_effects(X, 199, None, "y")
    with pytest.raises(ValueError, match="X has 1 values that are NaN or infinite"):
        read_fixed_effects(X * np.where(np.arange(N) == 3, np.inf, 1.0)[:, None], N, None, "y")
    with pytest.raises(TypeError, match="X must be real numbers, got complex128"):
        read_large(X * 1j, "X")


def test_a_dense_x_of_few_zeros_keeps_its_coordinates(columns):
    _, dense, _, _ = both(columns, DESIGNS["of full rank"])
    turned = SparseProjection.worthwhile(dense)
    assert isinstance(turned, SparseProjection)
    assert turned.X.nnz == 2 * N
    rng = np.random.default_rng(0)
    full = Projection.from_design(rng.normal(size=(N, 3)))
    assert SparseProjection.worthwhile(full) is full


def test_copies_are_read_only(columns):
    _, _, sparse, _ = both(columns, DESIGNS["an intercept beside all levels"])
    copy = pickle.loads(pickle.dumps(sparse))
    assert copy.columns.dropped == sparse.columns.dropped
    with pytest.raises(ValueError, match=re.escape("read-only")):
        copy.X.data[0] = 2.0
