"""θ of a list of terms: matrices and their derivatives as numbers."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from pytensor.compile.mode import Mode
from pytensor.gradient import pushforward

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.covariance.theta import NOISE, Theta

GROUPS = np.repeat(np.arange(6), 4)
K = 0.5 * np.eye(6) + 0.5
STRUCTURES = {
    "scalar": cov.scalar(2.0),
    "known": cov.known(K, 2.0),
    "diagonal": cov.diagonal(np.arange(1.0, 7)),
    "equicorrelation": cov.equicorrelation(1.0, 0.3),
    "compound symmetry": cov.compound_symmetry(1.0, 2.0),
    "ar1": cov.ar1(1.5, 0.4),
    "ar1 of a negative correlation": cov.ar1(1.5, -0.4),
    "ar1 without correlation": cov.ar1(1.5, 0.0),
    "unstructured": cov.unstructured(K),
    "factor analytic": cov.factor_analytic(np.arange(1.0, 7)[:, None], np.ones(6)),
    "gram": cov.gram(np.arange(12.0).reshape(6, 2)),
    "propagate": cov.propagate(np.tri(6), cov.diagonal(np.arange(1.0, 7))),
    "sum": cov.known(K) + cov.ar1(1.0, 0.3),
    "product": cov.known(K) * cov.ar1(2.0, 0.4),
    "kronecker": cov.kronecker(cov.ar1(1.0, 0.2, 3), cov.unstructured([[2.0, 1.0], [1.0, 3.0]])),
    "blocks": cov.block_diagonal(cov.scalar(2.0, 2), cov.ar1(1.0, 0.2, 4)),
}


@pytest.mark.parametrize("factor", [1.0, 0.7], ids=["inside", "elsewhere"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_derivatives_of_numbers_are_those_of_the_graph(name, factor):
    layout = Theta.of_terms([flmm.Term(GROUPS, STRUCTURES[name], name="g")], cov.scalar(1.0, 1))
    theta = factor * layout.pack()
    x = pt.vector("x", shape=(layout.size,))
    ((graph,), noise) = layout.matrices(x)
    graph = pt.as_tensor(graph)
    units = np.eye(layout.size)[: layout.size - 1]
    outputs = [graph, *(pushforward(graph, x, pt.constant(unit)) for unit in units)]
    value, *expected = pytensor.function([x], outputs, mode=Mode("py", None), on_unused_input="ignore")(theta)
    ((matrix,), own), (*slopes, last) = layout.numbers(theta), layout.slopes(theta)
    assert_allclose(own, noise.eval({x: theta}), rtol=1e-15)
    assert last == (NOISE, [[1.0]])
    assert_allclose(matrix, np.atleast_2d(value), rtol=1e-14, atol=1e-15)
    for slope, other in zip(slopes, expected, strict=True):
        assert_allclose(slope[1], np.broadcast_to(other, matrix.shape), rtol=1e-13, atol=1e-15)


def test_a_power_beyond_what_complex_numbers_do_exactly():
    """NumPy takes large complex powers by logarithms, whose imaginary part is π where the number is negative."""
    steps = np.arange(150)
    layout = Theta.of_terms([flmm.Term(np.repeat(steps, 2), cov.ar1(1.0, -0.98), name="t")], cov.scalar(1.0, 1))
    slopes = layout.slopes(np.array([1.0, -0.98, 1.0]))
    lag = np.abs(steps[:, None] - steps)
    assert_allclose(slopes[1][1], lag * (-0.98) ** np.maximum(lag - 1.0, 0.0), rtol=1e-12)


def test_values_outside_the_bounds_are_evaluated_not_refused():
    layout = Theta.of_terms([flmm.Term(GROUPS, cov.scalar(1.0), name="g")], cov.scalar(1.0, 1))
    assert layout.numbers(np.array([-2.0, 1.0])) == ([[[-2.0]]], [[1.0]])
