"""Sparse factorisations of mixed-model equations, beside CHOLMOD (in cvxopt) in the same process, and how they grow."""

import numpy as np
import pytest
import scipy.sparse as sp
from herds import mixed_model_matrices, simulate_herds
from threadpoolctl import threadpool_limits

from pm_fastlmm.sparse.cholesky import Analysis
from pm_fastlmm.sparse.tree import Tree

pytestmark = pytest.mark.benchmark

HERDS, RANDOM = {"sires": 60, "move": 0.01}, {"move": 1.0}
CASES = {  # 3·10⁵ animals that mate at random have a factor of some hundred million entries, and take minutes
    "100 animals": (100, {}, True),
    "10⁴ animals in herds": (10_000, HERDS, True),
    "10⁵ animals in herds": (100_000, HERDS, True),
    "3·10⁵ animals in herds": (300_000, HERDS, True),
    "10⁶ animals in herds": (1_000_000, HERDS, False),
    "10⁴ animals that mate at random": (10_000, RANDOM, True),
    "10⁵ animals that mate at random": (100_000, RANDOM, True),
}
LONG = 5e8  # multiplications of a factorisation of which each part is timed once


def equations(n, options, permanent):
    """WᵀW/σ²_e + A⁻¹/σ²_a (+ I/σ²_pe), with a little on the diagonal for empty columns and collinear groups."""
    matrices = list(mixed_model_matrices(simulate_herds(n, **options), permanent=permanent))
    C = sum(M / variance for M, variance in zip(matrices, (0.8, 0.3, 0.1), strict=False))
    return sp.csc_array(C + 1e-3 * sp.eye_array(C.shape[0]))


def peer(C):
    """Return CHOLMOD's factorisation, and the entries of L in the order of AMD."""
    cvxopt = pytest.importorskip("cvxopt")
    from cvxopt import amd, cholmod

    lower = sp.tril(C, format="coo")
    A = cvxopt.spmatrix(lower.data, lower.row.astype(int), lower.col.astype(int), C.shape)
    F = cholmod.symbolic(A)
    order = np.array(amd.order(A), np.int32).ravel()
    tree = Tree.of(C.indptr.astype(np.int64), C.indices.astype(np.int32), order)
    return lambda: cholmod.numeric(A, F), tree.below.sum() + len(order)


@pytest.mark.parametrize("case", CASES)
def test_numbers_of_a_mixed_model(case, measure, report):
    C = equations(*CASES[case])
    analyse = measure.loop(lambda: Analysis.of(C))
    analyse(1)
    analysis = Analysis.of(C)
    entries = analysis.entries(C)
    values = np.zeros(analysis.size)
    values[entries.place] = entries.value
    factor = analysis.factorise(values)
    rows = sp.random_array((C.shape[0], 16), density=3 / C.shape[0], rng=np.random.default_rng(0), format="csc")
    loops = {
        "factorisation": measure.loop(lambda: analysis.factorise(values)),
        "selected inverse": measure.loop(factor.inverse),
        "solve": measure.loop(lambda: factor.solve(values[: analysis.n])),
        "half solves of 16 new rows": measure.loop(lambda: factor.reached(rows)),
        "order and analysis": analyse,
    }
    if C.shape[0] < 800_000:  # whose order takes CHOLMOD a minute
        numeric, entries_amd = peer(C)
        loops["CHOLMOD"] = measure.loop(numeric)
    once = analysis.flops > LONG or C.shape[0] > 300_000
    seconds = measure.take_turns(loops, rounds=1 if once else 5, counts=dict.fromkeys(loops, 1) if once else None)
    figure = f"sparse, {case}, {C.shape[0]} equations: factorisation"
    report(figure, 1e3 * seconds["factorisation"], "ms")
    report(figure, analysis.nnz / 1e6, "million", part="entries of L")
    report(figure, 16e-6 * analysis.stored, "MB", part="L and the selected inverse")
    for name in ("selected inverse", "solve", "half solves of 16 new rows", "order and analysis"):
        report(figure, 1e3 * seconds[name], "ms", part=name)
    report(figure, 1e6 * seconds["factorisation"] / C.shape[0], "µs", part="factorisation, for each equation")
    if "CHOLMOD" in seconds:
        report(figure, analysis.nnz / entries_amd, "×", part="entries of L / those in the order of AMD")
        for name in ("factorisation", "selected inverse"):
            report(figure, seconds[name] / seconds["CHOLMOD"], "×", part=f"{name} / factorisation by CHOLMOD")


def test_two_threads_of_blas_where_the_factor_is_filled(measure, report):
    """Wall-clock time: on a machine that others use as well the ratio says little."""
    C = equations(100_000, RANDOM, permanent=True)
    analysis = Analysis.of(C)
    entries, values = analysis.entries(C), np.zeros(analysis.size)
    values[entries.place] = entries.value
    analysis.factorise(values).inverse()
    seconds = {1: [], 2: []}
    for _ in range(3):
        for threads, found in seconds.items():
            with threadpool_limits(limits=threads):
                found.append(measure.wall(lambda: analysis.factorise(values).inverse())[0])
    figure = "sparse, 10⁵ animals that mate at random: factorisation and selected inverse, wall-clock"
    report(figure, seconds[1], "s")
    report(figure, np.divide(seconds[1], seconds[2]), "×", part="one thread of BLAS / two")
