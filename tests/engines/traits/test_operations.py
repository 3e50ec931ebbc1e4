"""The operation of several traits: the same in every mode of PyTensor, and no more work than is asked for."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.engines.traits.operations import TraitsLoglik
from pm_fastlmm.kernel.likelihood.traits import traits_loglik_and_gradient

P, T, NULLITY = 9, 3, 2


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(8)
    root_g, root_e = rng.normal(size=(2, T, T))
    outside = rng.normal(size=(NULLITY, T))
    return {
        "G": root_g[:, :2], "E": root_e + 2 * np.eye(T), "z": rng.normal(size=(P, T)),
        "outside": outside.T @ outside, "eigvals": rng.exponential(size=P),
    }  # fmt: skip


def expected(data):
    g, e = data["G"] @ data["G"].T, data["E"] @ data["E"].T
    loglik, by_g, by_e = traits_loglik_and_gradient(data["eigvals"], data["z"], data["outside"], NULLITY, g, e)
    return loglik, 2 * by_g @ data["G"], 2 * by_e @ data["E"]


def graph(data, z, outside):
    G, E = pt.tensor("G", shape=(T, 2)), pt.tensor("E", shape=(T, T))
    loglik = TraitsLoglik()(G @ G.T, E @ E.T, z, outside, data["eigvals"], NULLITY)[0]
    return G, E, loglik


def operations(function):
    return [node.op for node in function.maker.fgraph.toposort() if isinstance(node.op, TraitsLoglik)]


@pytest.mark.parametrize("mode", ["FAST_RUN", "NUMBA", "JAX"])
def test_value_and_gradient_in_the_variances(data, mode):
    G, E, loglik = graph(data, data["z"], data["outside"])
    function = pytensor.function([G, E], [loglik, *pt.grad(loglik, [G, E])], mode=mode)
    for found, right in zip(function(data["G"], data["E"]), expected(data), strict=True):
        assert_allclose(found, right, rtol=1e-12)
    assert [len(op.shapes(*[()] * 6)) for op in operations(function)] == [3]


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "NUMBA", "JAX"])
def test_gradient_in_the_response(data, mode):
    """By central differences of the value, which is exact for the squares that ℓ is in z and its products."""
    z, outside = pt.tensor("z", shape=(T, P)), pt.tensor("outside", shape=(T, T))
    G, E, loglik = graph(data, z.T, outside)
    function = pytensor.function([G, E, z, outside], [loglik, *pt.grad(loglik, [G, z, outside])], mode=mode)
    at = [data[name] for name in ("G", "E", "z", "outside")]
    at[2] = at[2].T
    value, by_G, by_z, by_outside = function(*at)
    assert_allclose([value, *by_G.ravel()], np.r_[expected(data)[0], expected(data)[1].ravel()], rtol=1e-12)
    rng = np.random.default_rng(3)
    for place, gradient in ((2, by_z), (3, by_outside)):
        way = rng.normal(size=gradient.shape)
        up, down = (function(*at[:place], at[place] + sign * way, *at[place + 1 :])[0] for sign in (1, -1))
        assert_allclose((up - down) / 2, (gradient * way).sum(), rtol=1e-10)
    assert [op.differentiable for op in operations(function)] == [4]


def test_arrays_of_any_layout_and_type(data):
    """What a graph hands over may be a view with gaps, in another order or read-only."""
    z = pt.tensor("z", shape=(2 * P, T))
    G, E, loglik = graph(data, z[::2], data["outside"])
    function = pytensor.function([G, E, z], [loglik, pt.grad(loglik, G)], mode="NUMBA")
    found = function(data["G"], data["E"], np.repeat(data["z"], 2, axis=0))
    assert_allclose(found[0], expected(data)[0], rtol=1e-12)
    assert_allclose(found[1], expected(data)[1], rtol=1e-12)


def test_there_is_no_second_derivative(data):
    G, _, loglik = graph(data, data["z"], data["outside"])
    with pytest.raises(NotImplementedError, match="the likelihood of several traits has first derivatives only"):
        pt.grad(pt.grad(loglik, G).sum(), G)
