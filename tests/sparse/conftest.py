"""Patterns of symmetric matrices of every shape that a factorisation meets."""

import numpy as np
import pytest
import scipy.sparse as sp
from herds import mixed_model_matrices, simulate_herds


def grid(rows, columns):
    """Neighbours on a grid."""
    step = [sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(m, m)) for m in (rows, columns)]
    return sp.kron(step[0], sp.eye_array(columns)) + sp.kron(sp.eye_array(rows), step[1])


def arrow(n, hub):
    """One long row and column."""
    A = sp.lil_array((n, n))
    A[hub, :] = 1.0
    return A + A.T


def random_tree(n, seed):
    """Each node hangs on an earlier one."""
    rng = np.random.default_rng(seed)
    parent = [rng.integers(0, i) for i in range(1, n)]
    A = sp.coo_array((np.ones(n - 1), (np.arange(1, n), parent)), shape=(n, n))
    return A + A.T


def cliques(*members):
    """Every two of a set are neighbours."""
    n = 1 + max(map(max, members))
    A = np.zeros((n, n))
    for nodes in members:
        A[np.ix_(nodes, nodes)] = 1.0
    return sp.csc_array(A)


def random_symmetric(n, density, seed):
    R = sp.random_array((n, n), density=density, rng=np.random.default_rng(seed))
    return R + R.T


def animal_model(n, seed, **options):
    return sum(mixed_model_matrices(simulate_herds(n, per_herd=10, seed=seed), permanent=True, seed=seed))


def crossed(n, *levels, seed=0):
    rng = np.random.default_rng(seed)
    Z = sp.hstack(
        [sp.csr_array((np.ones(n), (np.arange(n), rng.integers(0, m, n))), shape=(n, m)) for m in levels], format="csr"
    )
    return Z.T @ Z


PATTERNS = {
    "one": sp.eye_array(1),
    "diagonal": sp.eye_array(7),
    "two": sp.csc_array(np.ones((2, 2))),
    "chain": sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(40, 40)),
    "dense, narrow": sp.csc_array(np.ones((20, 20))),
    "dense, wide": sp.csc_array(np.ones((90, 90))),
    "arrow, first": arrow(300, 0),
    "arrow, last": arrow(300, 299),
    "arrow, within": arrow(300, 150),
    "grid": grid(17, 23),
    "blocks": sp.block_diag([sp.csc_array(np.ones((k, k))) for k in (1, 5, 30, 2, 60, 1)]),
    "empty rows": sp.block_diag([sp.csc_array((5, 5)), grid(4, 4), sp.csc_array((3, 3))]),
    "cliques that share 150": cliques(range(350), range(200, 550), range(540, 570)),
    "tree": random_tree(200, 4),
    "animal model": animal_model(300, 5),
    "animal model, smaller": animal_model(40, 6),
    "crossed": crossed(400, 70, 30, 12),
    **{
        f"random {n}, {density}": random_symmetric(n, density, n)
        for n in (3, 12, 50, 150)
        for density in (0.02, 0.1, 0.4)
    },
}


@pytest.fixture(params=PATTERNS)
def pattern(request):
    return sp.csc_array(PATTERNS[request.param])


@pytest.fixture
def matrix(pattern):
    """A positive definite matrix of the pattern, its rows and columns in another order, with units of any size."""
    rng = np.random.default_rng(8)
    n = pattern.shape[0]
    upper = sp.triu(pattern, 1).tocoo()
    values = rng.normal(size=upper.nnz)
    off = sp.coo_array((values, (upper.row, upper.col)), shape=(n, n))
    off = off + off.T
    C = off + sp.diags_array(np.asarray(abs(off).sum(axis=1)).ravel() + rng.uniform(0.1, 1, size=n))
    order, units = rng.permutation(n), np.exp(rng.normal(size=n))
    return sp.csc_array(sp.diags_array(units) @ sp.csc_array(C)[order][:, order] @ sp.diags_array(units))
