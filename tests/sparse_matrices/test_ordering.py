"""Minimum degree: an order, and one that keeps fill small."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee

from pm_fastlmm.sparse.cholesky import Analysis
from pm_fastlmm.sparse.ordering import minimum_degree
from pm_fastlmm.sparse.tree import Tree


def arrays(pattern):
    pattern = sp.csc_array(pattern)
    return pattern.indptr.astype(np.int64), pattern.indices.astype(np.int32)


def fill(pattern, order):
    return int(Tree.of(*arrays(pattern), np.asarray(order, np.int32)).below.sum()) + len(order)


def test_each_column_comes_once(matrix):
    n = matrix.shape[0]
    np.testing.assert_array_equal(np.sort(minimum_degree(*arrays(matrix))), np.arange(n))
    tree = Analysis.of(matrix).tree
    np.testing.assert_array_equal(tree.order[tree.position], np.arange(n))


def test_subtrees_stand_together(matrix):
    """In a postorder the descendants of a column are those right before it."""
    parent = Analysis.of(matrix).tree.parent
    size = np.ones(len(parent), int)
    first = np.arange(len(parent))
    for j, above in enumerate(parent):
        if above >= 0:
            assert above > j
            size[above] += size[j]
            first[above] = min(first[above], first[j])
    np.testing.assert_array_equal(np.arange(len(parent)) - first + 1, size)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [2, 30, 3000])
def test_a_tree_has_no_fill(n, seed):
    rng = np.random.default_rng(seed)
    parent = (rng.random(n - 1) * np.arange(1, n)).astype(int)
    label = rng.permutation(n)
    A = sp.coo_array((np.ones(n - 1), (label[1:], label[parent])), shape=(n, n))
    assert Analysis.of(A + A.T).nnz == 2 * n - 1


def test_an_arrow_has_no_fill_wherever_its_head_is():
    for hub in (0, 700, 1999):
        A = sp.lil_array((2000, 2000))
        A[hub] = 1.0
        assert Analysis.of(A + A.T).nnz == 2 * 2000 - 1


def test_many_wide_rows_are_not_all_dense():
    """Blocks of 40 traits along a chain: every row is long, none is longer than others."""
    chain = sp.kron(sp.diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(50, 50)), np.ones((40, 40)))
    label = np.random.default_rng(1).permutation(2000)
    shuffled = sp.csc_array(chain)[label][:, label]
    assert Analysis.of(shuffled).nnz == Tree.of(*arrays(chain), np.arange(2000, dtype=np.int32)).below.sum() + 2000


def test_fill_is_below_that_of_a_small_bandwidth(pattern):
    if pattern.shape[0] > 50:
        bandwidth = reverse_cuthill_mckee(sp.csr_matrix(pattern), symmetric_mode=True)
        assert Analysis.of(pattern).nnz <= fill(pattern, bandwidth)


def test_fill_of_a_grid_grows_as_that_of_dissection():
    """Nested dissection of a grid of m × m has 7.75 m² log₂ m entries (George, 1973), natural order m³."""
    for m in (32, 64, 128):
        step = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(m, m))
        pattern = sp.kron(step, sp.eye_array(m)) + sp.kron(sp.eye_array(m), step)
        assert Analysis.of(pattern).nnz < 7.75 * m**2 * np.log2(m)
