"""QR of X in compact-WY form against explicit matrices."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.spectrum.projection import Projection


def oblique(n=11, r=4, seed=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, r)) @ rng.normal(size=(r, r)) + np.arange(n)[:, None]


def explicit_Q(projection):
    V, T = projection.V, projection.T
    return np.eye(len(V)) - V @ T @ V.T


def test_compact_wy_form_is_orthogonal_and_starts_with_Q1():
    projection = Projection.from_design(oblique())
    Q = explicit_Q(projection)
    assert_allclose(Q.T @ Q, np.eye(11), atol=1e-13)
    assert_allclose(Q[:, :4], projection.Q1, atol=1e-14)


def test_Q1_times_R_is_X_with_R_upper_triangular():
    X = oblique()
    projection = Projection.from_design(X)
    assert_allclose(projection.Q1 @ projection.R, X, rtol=1e-12)
    assert_allclose(np.tril(projection.R, -1), 0)
    assert projection.rank == 4


def test_split_and_lift_are_the_two_halves_of_the_rotation():
    projection = Projection.from_design(oblique())
    Q = explicit_Q(projection)
    Y = np.random.default_rng(1).normal(size=(11, 3))
    y1, y2 = projection.split(Y)
    assert_allclose(y1, Q[:, :4].T @ Y, atol=1e-13)
    assert_allclose(y2, Q[:, 4:].T @ Y, atol=1e-13)
    assert_allclose(projection.lift(y2), Q[:, 4:] @ y2, atol=1e-13)
    assert_allclose(projection.lift(y2[:, 0]), Q[:, 4:] @ y2[:, 0], atol=1e-13)
    assert_allclose(projection.split(Y[:, 0])[1], y2[:, 0], atol=1e-13)


def test_two_sided_projection_is_the_congruence_of_K():
    projection = Projection.from_design(oblique())
    Q = explicit_Q(projection)
    A = np.random.default_rng(4).normal(size=(11, 11))
    K = A @ A.T
    before = K.copy()
    K11, K21, K22 = projection.two_sided(K)
    expected = Q.T @ K @ Q
    assert_allclose(K11, expected[:4, :4], atol=1e-11)
    assert_allclose(K21, expected[4:, :4], atol=1e-11)
    assert_allclose(np.tril(K22), np.tril(expected[4:, 4:]), atol=1e-11)
    assert (before == K).all()


def test_without_columns_the_projection_is_the_identity():
    projection = Projection.from_design(np.zeros((5, 0)))
    K = np.diag(np.arange(5.0)) + 1
    K11, K21, K22 = projection.two_sided(K)
    assert K11.shape == (0, 0)
    assert K21.shape == (5, 0)
    assert_allclose(np.tril(K22), np.tril(K))
    assert projection.logdet_R == 0
    assert_allclose(projection.lift(np.arange(5.0)), np.arange(5.0))


def test_logdet_R_is_half_the_log_determinant_of_the_gram_matrix():
    X = oblique()
    assert_allclose(Projection.from_design(X).logdet_R, 0.5 * np.linalg.slogdet(X.T @ X)[1], rtol=1e-12)


def test_collinear_columns_are_dropped_from_the_right_and_named():
    X = oblique()
    wide = np.column_stack([X[:, 0], X[:, 1], X[:, 0] - 2 * X[:, 1], X[:, 2], 5 * X[:, 2], X[:, 3]])
    with pytest.warns(UserWarning, match=r"X has rank 4 but 6 columns: 'c', 'e' dropped"):
        projection = Projection.from_design(wide, tuple("abcdef"))
    assert projection.coef == ("a", "b", "d", "f")
    assert projection.columns.dropped == ("c", "e")
    assert_allclose(projection.Q1 @ projection.R, X, rtol=1e-11)


def test_a_column_of_zeros_is_dropped():
    with pytest.warns(UserWarning, match="'zero' dropped"):
        projection = Projection.from_design(np.column_stack([np.zeros(6), np.ones(6)]), ("zero", "one"))
    assert projection.coef == ("one",)


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_rank_does_not_depend_on_the_units_of_a_column(size):
    X = oblique()
    X[:, 2] *= size
    assert Projection.from_design(X).rank == 4


def test_nearly_collinear_columns_are_kept_and_exactly_collinear_ones_are_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    assert Projection.from_design(np.column_stack([x, x + 1e-7 * rng.normal(size=30)])).rank == 2
    with pytest.warns(UserWarning, match="X has rank 1 but 2 columns: 'x1' dropped"):
        assert Projection.from_design(np.column_stack([x, x / 3 + 1e-15 * rng.normal(size=30)])).rank == 1


def test_many_dropped_columns_are_counted_and_not_all_printed():
    with pytest.warns(UserWarning, match=r"'x1', 'x2', 'x3', 'x4', 'x5' and 3 more dropped"):
        Projection.from_design(np.outer(np.arange(1.0, 12), np.ones(9)))


@pytest.mark.parametrize("columns", [6, 7])
@pytest.mark.filterwarnings("ignore:X has rank")
def test_a_design_that_fills_the_space_is_refused(columns):
    X = np.random.default_rng(0).normal(size=(6, columns))
    with pytest.raises(ValueError, match=r"X has rank 6 for 6 observations: nothing is left .* Use fewer columns"):
        Projection.from_design(X)


def test_arrays_are_read_only():
    projection = Projection.from_design(oblique())
    for name in ("Q1", "R", "V", "T"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(projection, name)[0, 0] = 1
