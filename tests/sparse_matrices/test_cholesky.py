"""Cholesky factors, half solves and selected inverses of sparse matrices, against dense algebra."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from herds import mixed_model_matrices, simulate_herds

from pm_fastlmm.sparse import loops, ordering, symbolic, tree
from pm_fastlmm.sparse.cholesky import Analysis, NotPositiveDefinite, dependent_columns


def factorise(C):
    analysis = Analysis.of(C)
    entries = analysis.entries(C)
    values = np.zeros(analysis.size)
    values[entries.place] += entries.value
    return analysis, entries, analysis.factorise(values)


def close(actual, expected):
    """To 1e-12 of the largest: units differ by orders of magnitude, so each entry is held to its own row and column."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * max(np.abs(expected).max(initial=0.0), 1e-300))


def test_log_determinant_solves_and_selected_inverse(matrix):
    dense = matrix.toarray()
    inverse, n = scipy.linalg.inv(dense), len(dense)
    _, entries, factor = factorise(matrix)
    assert factor.logdet == pytest.approx(np.linalg.slogdet(dense)[1], abs=1e-12 * n)
    b = np.random.default_rng(1).normal(size=(n, 3))
    close(factor.solve(b), inverse @ b)
    np.testing.assert_array_equal(factor.solve(b[:, 1]), factor.solve(b)[:, 1])
    close(factor.half(b).T @ factor.half(b), b.T @ inverse @ b)
    draws = factor.draw(np.eye(n))
    close(draws @ draws.T, inverse)
    selected = factor.inverse()
    assert len(entries.place) == np.count_nonzero(np.tril(dense))
    close(selected[entries.place], inverse[entries.row, entries.column])
    np.testing.assert_allclose(entries.trace(selected), n, rtol=1e-12)


def test_the_reached_rows_are_those_of_the_half_solve_that_are_not_zero(matrix):
    n = matrix.shape[0]
    B = sp.random_array((n, 4), density=min(1.0, 1.5 / n), rng=np.random.default_rng(3), format="csc")
    factor = factorise(matrix)[2]
    reached, half = factor.reached(B), factor.half(B.toarray())
    close(reached.T @ reached, B.T @ scipy.linalg.solve(matrix.toarray(), B.toarray()))
    np.testing.assert_array_equal(reached[(reached != 0).any(axis=1)], half[(half != 0).any(axis=1)])


def test_a_row_of_a_herd_reaches_few_columns():
    n = 2000
    C = sp.csc_array(sum(mixed_model_matrices(simulate_herds(n, per_herd=20))))
    C = C + 0.01 * sp.eye_array(C.shape[0])
    assert len(factorise(C)[2].reached(sp.csc_array(([1.0], ([0], [0])), shape=(C.shape[0], 1)))) < n / 4


def test_l_has_the_entries_that_the_analysis_counts(matrix):
    """The fill of elimination by hand, in the same order."""
    analysis = Analysis.of(matrix)
    order = analysis.tree.order
    filled = matrix.toarray()[np.ix_(order, order)] != 0
    np.fill_diagonal(filled, True)
    for k in range(analysis.n):
        below = np.flatnonzero(filled[k + 1 :, k]) + k + 1
        filled[np.ix_(below, below)] = True
    counts = np.tril(filled, -1).sum(axis=0)
    np.testing.assert_array_equal(analysis.tree.below, counts)
    assert analysis.nnz == counts.sum() + analysis.n <= analysis.stored
    assert analysis.flops == ((counts + 1.0) ** 2).sum()
    parents = [int(np.argmax(filled[k + 1 :, k])) + k + 1 if counts[k] else -1 for k in range(analysis.n)]
    np.testing.assert_array_equal(analysis.tree.parent, parents)


def test_a_sum_of_matrices_has_the_values_of_its_parts():
    rng = np.random.default_rng(2)
    A, B = (sp.random_array((60, 60), density=0.05, rng=rng) for _ in range(2))
    A, B, E = A + A.T, B + B.T, sp.eye_array(60)
    analysis = Analysis.of(abs(A) + abs(B))
    values = np.zeros(analysis.size)
    parts = [analysis.entries(M) for M in (A, B, E)]
    for t, part in zip((0.5, -0.25, 20.0), parts, strict=True):
        values[part.place] += t * part.value
    dense = (0.5 * A - 0.25 * B + 20 * E).toarray()
    factor = analysis.factorise(values)
    assert factor.logdet == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-13)
    inverse = factor.inverse()
    for part, M in zip(parts, (A, B, E), strict=True):
        assert part.trace(inverse) == pytest.approx(np.trace(M @ np.linalg.inv(dense)), rel=1e-12)
        np.testing.assert_array_equal(M.toarray()[part.row, part.column], part.value)
        assert (part.row >= part.column).all()


def test_nothing_is_a_matrix_too():
    analysis, _, factor = factorise(sp.csc_array((0, 0)))
    assert analysis.n == analysis.size == analysis.nnz == factor.logdet == len(factor.inverse()) == 0
    assert factor.solve(np.zeros(0)).shape == (0,)
    assert factor.solve(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("bad", [-1.0, 0.0, np.nan])
@pytest.mark.parametrize("n", [1, 10, 60])
def test_a_bad_pivot_is_named_in_the_order_of_the_caller(n, bad):
    C = sp.diags_array(np.ones(n)).tocsc()
    C.data[n // 2] = bad
    with pytest.raises(NotPositiveDefinite, match=f"not positive definite: what is left of column {n // 2}, ") as error:
        factorise(C)
    assert error.value.index == n // 2


@pytest.mark.parametrize("bad", [-1.0, np.nan])
@pytest.mark.parametrize("n", [10, 60])
def test_a_bad_pivot_of_a_dense_block_is_the_first(n, bad):
    C = np.full((n, n), 0.5) + np.eye(n)
    C[n // 2, n // 2] = bad
    with pytest.raises(NotPositiveDefinite) as error:
        factorise(sp.csc_array(C))
    assert error.value.index == n // 2


def test_matrices_that_do_not_fit_are_refused():
    analysis = Analysis.of(sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(5, 5)))
    outside = sp.coo_array((np.ones(2), ([0, 3], [3, 0])), shape=(5, 5))
    with pytest.raises(ValueError, match=r"an entry in row (3, column 0|0, column 3), which the pattern .* lacks"):
        analysis.entries(outside)
    with pytest.raises(ValueError, match=r"M has 4 columns, but the analysis is of 5: give M of that order"):
        analysis.entries(sp.eye_array(4))
    one = sp.coo_array((np.ones(1), ([0], [1])), shape=(5, 5))
    for M in (one, one.T):
        with pytest.raises(ValueError, match=r"entries without their mirror image: give both triangles"):
            analysis.entries(M)
        with pytest.raises(ValueError, match=r"entries without their mirror image: give both triangles"):
            Analysis.of(M)
    with pytest.raises(ValueError, match=r"as many rows as columns, but this one is \(2, 3\)"):
        Analysis.of(sp.csc_array((2, 3)))


def test_entries_that_stand_twice_are_added_and_the_callers_matrix_stays():
    C = sp.csc_array((np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), np.array([0, 2, 3])), shape=(2, 2))
    before = C.data.copy()
    _, _, factor = factorise(C)
    assert factor.logdet == pytest.approx(np.log(9.0))
    np.testing.assert_array_equal(C.data, before)


def dependent_by_projection(X, tolerance=1e-7):
    """Columns with nothing left when the earlier ones are taken out."""
    found, kept = [], np.zeros((len(X), 0))
    for j in range(X.shape[1]):
        rest = X[:, j] - kept @ (kept.T @ X[:, j])
        rest -= kept @ (kept.T @ rest)
        if np.linalg.norm(rest) <= tolerance * max(np.linalg.norm(X[:, j]), 1e-300):
            found.append(j)
        else:
            kept = np.column_stack([kept, rest / np.linalg.norm(rest)])
    return found


@pytest.mark.parametrize("seed", range(12))
def test_dependent_columns_are_those_that_earlier_ones_make(seed):
    rng = np.random.default_rng(seed)
    n = 120
    factors = [np.eye(k)[rng.integers(0, k, n)] for k in rng.integers(2, 9, size=rng.integers(1, 5))]
    X = np.column_stack([np.ones(n), *factors, rng.normal(size=n)])
    twice = rng.integers(0, X.shape[1], 2)
    X = np.column_stack([X, X[:, twice] @ [1.0, -3.0], np.zeros(n)])[:, rng.permutation(X.shape[1] + 2)]
    X *= np.exp(3 * rng.normal(size=X.shape[1]))
    assert dependent_columns(sp.csc_array(X.T @ X), 1e-10).tolist() == dependent_by_projection(X)


@pytest.mark.parametrize("seed", range(3))
def test_dependent_columns_of_wide_blocks(seed):
    """Crossed factors of which the second is a dense block of many strips, and columns that are sums of levels."""
    rng = np.random.default_rng(seed)
    A, B = (np.eye(k)[rng.integers(0, k, 900)] for k in (90, 70))
    X = np.column_stack([A, B, rng.normal(size=(900, 5)), B @ rng.normal(size=(70, 3)), A[:, 5] + B[:, 8]])
    X = X[:, rng.permutation(X.shape[1])]
    found = dependent_columns(sp.csc_array(X.T @ X), 1e-10).tolist()
    assert found == dependent_by_projection(X)
    assert len(found) == 5


def test_a_regular_matrix_has_no_dependent_columns(matrix):
    assert dependent_columns(matrix, 1e-10).tolist() == []


def test_types_of_indices_and_values_compile_nothing_again():
    """Integers of SciPy, read-only arrays, values and vectors of any type and layout."""
    C = sp.csc_array(sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30)))
    expected = np.linalg.inv(C.toarray())
    for dtype in (np.int32, np.int64):
        for kind in (float, np.float32, int):
            M = sp.csc_array((C.data.astype(kind), C.indices.astype(dtype), C.indptr.astype(dtype)), shape=C.shape)
            for array in (M.data, M.indices, M.indptr):
                array.flags.writeable = False
            _, _, factor = factorise(M)
            for b in (np.eye(30), np.asfortranarray(np.eye(30)), np.eye(30, dtype=int), np.eye(60)[::2, ::2]):
                b.flags.writeable = False
                close(factor.solve(b), expected)
            factor.inverse()
    functions = [v for m in (ordering, tree, symbolic, loops) for v in vars(m).values() if hasattr(v, "py_func")]
    assert len(functions) > 20
    assert {f.py_func.__name__: f.nopython_signatures for f in functions if len(f.nopython_signatures) > 1} == {}


PROCESS = """
import numpy as np, scipy.sparse as sp
from pm_fastlmm.sparse import loops, ordering, symbolic, tree
from pm_fastlmm.sparse.cholesky import Analysis

n = 80
C = sp.csc_array(np.eye(n) + 0.5)
analysis = Analysis.of(C)
entries = analysis.entries(C)
values = np.zeros(analysis.size)
values[entries.place] = entries.value
factor = analysis.factorise(values)
trace = entries.trace(factor.inverse())
assert abs(trace - n) < 1e-10 and np.allclose(C @ factor.solve(np.ones(n)), 1)
functions = [v for m in (ordering, tree, symbolic, loops) for v in vars(m).values() if hasattr(v, "py_func")]
print(sum(sum(f.stats.cache_misses.values()) for f in functions), sum(bool(f.stats.cache_hits) for f in functions))
"""


def test_blas_is_found_again_by_what_a_later_process_reads_from_disk():
    """Addresses differ from process to process; what was compiled is not compiled again."""
    factorise(sp.csc_array(np.eye(80) + 0.5))[2].inverse()
    run = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, check=True)
    misses, hits = map(int, run.stdout.split())
    assert misses == 0
    assert hits >= 6
