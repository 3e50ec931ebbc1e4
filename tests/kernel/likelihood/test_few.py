"""The loops in Python, which fit a few responses, return what the compiled ones do."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.kernel.likelihood import few, loops

RNG = np.random.default_rng(7)
K = 23
EIGVALS = np.sort(RNG.gamma(0.5, size=K))[::-1] / 3
Z, G = RNG.normal(size=K), RNG.normal(size=K)
C, ROOT = RNG.normal(size=(K, 2)) / 5, RNG.normal(size=(2, 2))
SUMS = {
    "_sums": lambda delta: (EIGVALS, Z**2, delta),
    "_weighted": lambda delta: (EIGVALS, Z * G, delta),
    "_residual_sums": lambda delta: (EIGVALS, Z, G, 0.3, delta),
    "corner_terms": lambda delta: (EIGVALS, C, ROOT @ ROOT.T, delta),
    "_log_shifted": lambda delta: (EIGVALS, delta),
    "_sums_at_ends": lambda delta: (EIGVALS, 1 / EIGVALS, (delta * Z) ** 2),
    "_cross_at_ends": lambda delta: (1 / EIGVALS, delta * Z, G),
}


@pytest.mark.parametrize("delta", [1e-12, 1e-3, 0.7, 40.0, 1e9])
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_is_that_of_the_compiled_loop(name, delta):
    arguments = SUMS[name](delta)
    assert_allclose(getattr(few, name)(*arguments), getattr(loops, name)(*arguments), rtol=1e-11, atol=1e-14)


def test_the_sums_at_an_estimate_are_those_of_the_compiled_loop():
    rows, g, e = RNG.normal(size=(4, K)), RNG.gamma(1.0, size=4), RNG.gamma(1.0, size=4)
    along, across = C.T.copy(), RNG.normal(size=(3, K))
    for given in (rows, rows[:1]):
        python, compiled = np.empty((4, 11)), np.empty((4, 11))
        few.estimate_rows(EIGVALS, given, g, e, along, across, python)
        loops.estimate_rows(EIGVALS, given, g, e, along, across, compiled)
        assert_allclose(python, compiled, rtol=1e-13)


def test_every_loop_over_the_spectrum_has_a_sum_in_numpy():
    """The others do without a loop over the eigenvalues; one that is forgotten would be slow, and not wrong."""
    with_loops = {
        name
        for name, function in vars(loops).items()
        if hasattr(function, "py_func") and "eigvals.size" in _source(function.py_func)
    }
    assert with_loops - {"_sums_at_ends", "_cross_at_ends"} <= set(SUMS) | {"estimate_rows"}


def _source(function):
    import inspect

    return inspect.getsource(function)


def test_where_numba_has_an_infinity_python_has_it_too():
    python = few.loops_for(1)
    model = (EIGVALS, 1 / EIGVALS, C[:, :0], ROOT[:0, :0], 0, 22.0, True, 0.1, (1.0, 1.0, 1.0))
    zero, null = np.zeros(K), np.zeros(3)
    for namespace in (python, loops):
        f = namespace.value(namespace.Model(*model), zero, np.empty(0), null, -1.0)[0]
        assert f == -np.inf
