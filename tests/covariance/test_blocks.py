"""blocks: G is put together again from its root and its repeated block, for any nesting."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytensor.tensor as pt
import pytest
from as_written import AS_WRITTEN
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from pm_fastlmm import covariance as cov
from pm_fastlmm.covariance.parameters import VARIANCE
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta


def matrix(seed, n, rank=None):
    W = np.random.default_rng(seed).normal(size=(n, rank or n))
    return W @ W.T / n


sizes = st.integers(1, 3)
values = st.floats(0.01, 9)


def leaves():
    return st.one_of(
        st.builds(cov.identity, sizes),
        st.builds(lambda v, n: cov.scalar(v, size=n), values, sizes),
        st.builds(lambda s, n, v: cov.known(matrix(s, n), v), st.integers(0, 99), sizes, values),
        st.builds(lambda s, v: cov.known(matrix(s, 3, rank=2), v), st.integers(0, 99), values),
        st.builds(lambda v, r, n: cov.ar1(v, r, size=n), values, st.floats(-0.9, 0.9), sizes),
        st.builds(lambda s, n: cov.unstructured(matrix(s, n)), st.integers(0, 99), sizes),
        st.builds(lambda v, n: cov.compound_symmetry(v, 1.0, size=n), values, sizes),
    )


def structures():
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.builds(cov.kronecker, inner, inner),
            st.builds(lambda a, v: a + cov.scalar(v, size=a.size), inner, values),
            st.builds(cov.block_diagonal, inner, inner),
        ),
        max_leaves=4,
    )


@given(structures().filter(lambda s: s.size <= 60))
@settings(deadline=None, max_examples=150)
def test_blocks_make_the_covariance_again(structure):
    found = cov.blocks(structure)
    assert found.size == structure.size == found.levels * found.width
    G = structure.dense()
    assert_allclose(found.dense(), G, atol=1e-12 * np.abs(G).max())


K3, B = matrix(1, 3), matrix(2, 2)


@pytest.mark.parametrize(
    ("structure", "levels", "width", "rooted"),
    [
        (cov.identity(6), 6, 1, False),
        (cov.scalar(2.0, size=6), 6, 1, False),
        (cov.known(K3, 2.0), 3, 1, True),
        (cov.known(matrix(3, 4, rank=2)), 4, 1, True),
        (cov.kronecker(cov.identity(5), cov.unstructured(B)), 5, 2, False),
        (cov.kronecker(cov.scalar(3.0, size=5), cov.unstructured(B)), 5, 2, False),
        (cov.kronecker(cov.known(K3, 2.0), cov.unstructured(B)), 3, 2, True),
        (cov.kronecker(cov.known(K3), cov.identity(4), cov.ar1(1.0, 0.3, size=2)), 12, 2, True),
        (cov.kronecker(cov.identity(4), cov.known(K3)), 12, 1, True),
        (cov.kronecker(cov.identity(2), cov.scalar(2.0, size=3)), 6, 1, False),
        (cov.kronecker(cov.scalar(2.0, size=3), cov.identity(2)), 6, 1, False),
        (cov.kronecker(cov.ar1(1.0, 0.3, size=3), cov.identity(2)), 1, 6, False),
        (cov.ar1(1.0, 0.3, size=3), 1, 3, False),
        (cov.scalar(1.0, size=3) + cov.known(K3), 1, 3, False),
        (cov.diagonal([1.0, 2.0]), 1, 2, False),
    ],
    ids=repr,
)
def test_levels_and_root_are_those_of_the_rules(structure, levels, width, rooted):
    found = cov.blocks(structure)
    assert (found.levels, found.width, found.root is not None) == (levels, width, rooted)
    assert_allclose(found.dense(), structure.dense(), atol=1e-14)


def test_the_block_keeps_the_tensors():
    v, r = pt.dscalar("v"), pt.dscalar("r")
    found = cov.blocks(cov.kronecker(cov.known(K3, v), cov.ar1(1.0, r, size=2)))
    assert set(found.block.parameters.values()) == {v, r, 1.0}
    G = found.dense().eval({v: 2.0, r: -0.4}, mode=AS_WRITTEN)
    assert_allclose(G, np.kron(2 * K3, [[1, -0.4], [-0.4, 1]]), atol=1e-14)
    scalar = cov.blocks(cov.scalar(v), size=7)
    assert (scalar.levels, scalar.width, scalar.block.sigma2) == (7, 1, v)


def test_the_factor_one_leaves_the_block_as_it_is():
    block = cov.unstructured(B)
    for outer in (cov.identity(4), cov.scalar(1.0, size=4), cov.known(matrix(1, 4))):
        assert cov.blocks(cov.kronecker(outer, block)).block is block
    assert repr(cov.blocks(cov.kronecker(cov.scalar(2.0, size=4), cov.identity(3))).block) == "Scalar(sigma2=2, size=1)"


def test_the_root_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        cov.blocks(cov.kronecker(cov.known(K3), cov.identity(2))).root[0] = 1


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Spread(cov.Covariance):
    """σ²D with known D = diag(1, 2, …): a structure of which the package has never heard."""

    sigma2: Any
    size: int | None = None
    _parameters: ClassVar = {"sigma2": VARIANCE}

    def _repeated(self):
        return np.diag(np.sqrt(np.arange(1.0, self.size + 1))), self.size, cov.scalar(self.sigma2, size=1)

    def _matrix(self, xp):
        return self.sigma2 * np.diag(np.arange(1.0, self.size + 1))


def test_a_structure_is_one_class():
    alone, product = (
        cov.blocks(Spread(2.0), size=4),
        cov.blocks(cov.kronecker(Spread(2.0, size=3), cov.unstructured(B))),
    )
    assert (alone.levels, alone.width, product.levels, product.width) == (4, 1, 3, 2)
    assert_allclose(alone.dense(), 2 * np.diag([1, 2, 3, 4]), rtol=1e-12)
    assert_allclose(product.dense(), np.kron(2 * np.diag([1, 2, 3]), B), rtol=1e-12)
    layout = Theta.of_terms([Term(["a", "b", "a"], Spread(2.0), name="level")], cov.scalar(1.0, 1))
    assert layout.names == ("level", "residual")
