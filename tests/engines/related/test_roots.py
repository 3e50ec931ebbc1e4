"""Roots of relations: RRᵀ is A whichever way R is given, in every mode, and its derivative is Rᵀ."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from relations import REGULAR, RELATIONS

from pm_fastlmm.engines.related.operations import Adjoint, Forward
from pm_fastlmm.engines.related.roots import root_of


def maps(name):
    """What a relation is multiplied by, root, inverse and whitening."""
    relation, W, A = RELATIONS[name]
    root = root_of(relation, W)
    inverse = np.linalg.inv(A) if name in REGULAR else None
    return root, A, inverse


@pytest.mark.parametrize("name", RELATIONS)
def test_the_root_is_one_of_the_covariance(name):
    root, A, _ = maps(name)
    R = np.eye(root.size) if root.root is None else root.root.forward(np.eye(root.innovations))
    assert_allclose(R @ R.T, A, atol=1e-13)
    if root.root is not None:
        assert_allclose(root.root.adjoint(np.eye(root.size)), R.T, atol=1e-13)


@pytest.mark.parametrize("name", REGULAR)
def test_squares_and_determinant_are_those_of_the_inverse(name):
    root, A, inverse = maps(name)
    u = np.random.default_rng(1).normal(size=(root.size, 3))
    assert_allclose(root.squares(pt.constant(u)).eval(), u.T @ inverse @ u, rtol=1e-11)
    assert_allclose(root.logdet, np.linalg.slogdet(A)[1], atol=1e-12)


@pytest.mark.parametrize("name", [name for name in RELATIONS if name not in ("singular covariance", "array")])
def test_an_inverse_is_not_claimed_of_what_has_none(name):
    root, *_ = maps(name)
    assert (root.logdet is None) == (name not in REGULAR)


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "NUMBA", "JAX"])
@pytest.mark.parametrize("name", ["pedigree", "tree", "precision", "factor"])
def test_products_and_their_derivatives_in_every_mode(name, mode):
    """Of views with gaps, too."""
    root, *_ = maps(name)
    R = root.root.forward(np.eye(root.innovations))
    rng = np.random.default_rng(2)
    z, g = pt.matrix("z"), pt.matrix("g")
    u = Forward(root.root)(z[::2])
    back = pt.grad((u * g).sum(), z)
    again = pt.grad((back[::2] * z[::2]).sum(), g)
    at_z, at_g = rng.normal(size=(2 * root.innovations, 3)), rng.normal(size=(root.size, 3))
    found = pytensor.function([z, g], [u, back[::2], again], mode=mode)(at_z, at_g)
    for value, right in zip(found, [R @ at_z[::2], R.T @ at_g, R @ at_z[::2]], strict=True):
        assert_allclose(value, right, atol=1e-12)


@pytest.mark.parametrize("name", ["pedigree", "covariance", "factor"])
def test_compiled_products_are_those_of_numpy(name):
    root, *_ = maps(name)
    rng = np.random.default_rng(3)
    for product in (root.root, root.inverse):
        if product is None:
            continue
        forward, adjoint = product.compiled()
        n, m = product.shape
        x, g = rng.normal(size=(m, 2)), rng.normal(size=(n, 2))
        assert_allclose(forward(x), product.forward(x), atol=1e-13)
        assert_allclose(adjoint(g), product.adjoint(g), atol=1e-13)


def test_what_is_singular_but_for_rounding_has_no_inverse():
    """A Cholesky factor of it may exist, with a pivot of rounding errors."""
    W = np.array([[1.0, 2.0], [0.5, 1.0 + 1e-16], [3.0, 1.0]])
    K = W @ W.T
    assert root_of(K, None).logdet is None
    assert root_of(K + np.eye(3), None).logdet is not None


def test_equal_maps_are_merged_and_others_are_not():
    a, b = (root_of(RELATIONS["pedigree"][0], None).root for _ in range(2))
    assert Forward(a) == Forward(a)
    assert Forward(a) != Forward(b)
    assert Forward(a) != Adjoint(a)
