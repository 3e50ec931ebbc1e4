"""Sparse factorisations of mixed-model equations, beside CHOLMOD (in cvxopt) in the same process, and how they grow."""

import numpy as np
import pytest
import scipy.sparse as sp
from herds import mixed_model_matrices, simulate_herds

from pm_fastlmm.sparse.cholesky import Analysis
from pm_fastlmm.sparse.tree import Tree

pytestmark = pytest.mark.benchmark

CASES = {
    "100 animals": (100, {}, True),
    "10 000 animals": (10_000, {}, True),
    "100 000 animals": (100_000, {}, True),
    "1 000 000 animals": (1_000_000, {"sires": 60, "move": 0.01}, False),
}


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
    rounds = 1 if C.shape[0] > 500_000 else 5
    analyse = measure.loop(lambda: Analysis.of(C))
    analyse(1)
    analysis = Analysis.of(C)
    entries = analysis.entries(C)
    values = np.zeros(analysis.size)
    values[entries.place] = entries.value
    factor = analysis.factorise(values)
    loops = {
        "factorisation": measure.loop(lambda: analysis.factorise(values)),
        "selected inverse": measure.loop(factor.inverse),
        "solve": measure.loop(lambda: factor.solve(values[: analysis.n])),
        "order and analysis": analyse,
    }
    if C.shape[0] < 500_000:  # whose order takes CHOLMOD a minute
        numeric, entries_amd = peer(C)
        loops["CHOLMOD"] = measure.loop(numeric)
    seconds = measure.take_turns(loops, rounds=rounds)
    figure = f"sparse, {case}, {C.shape[0]} equations: factorisation"
    report(figure, 1e3 * seconds["factorisation"], "ms")
    report(figure, analysis.nnz / 1e6, "million", part="entries of L")
    for name in ("selected inverse", "solve", "order and analysis"):
        report(figure, 1e3 * seconds[name], "ms", part=name)
    if "CHOLMOD" in seconds:
        report(figure, analysis.nnz / entries_amd, "×", part="entries of L / those in the order of AMD")
        for name in ("factorisation", "selected inverse"):
            report(figure, seconds[name] / seconds["CHOLMOD"], "×", part=f"{name} / factorisation by CHOLMOD")
