"""What is kept of a structure serves every model of it, and no model of another."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.engines.free_variables import FreeVariables, Link
from pm_fastlmm.engines.graphs import once_for_a_structure

GROUPS = np.repeat(list("abcdef"), 4)
Y = np.random.default_rng(3).normal(size=24) + np.repeat(np.random.default_rng(4).normal(size=6), 4)


def model(y=Y, *, prior=lambda: pm.HalfNormal("v", 1.0), factor=1.0):
    with pm.Model() as made:
        term = flmm.Term(GROUPS, flmm.covariance.scalar(factor * prior()), name="g")
        flmm.StructuredLMM("y", X=np.ones((24, 1)), terms=[term], sigma2_e=pm.HalfNormal("e", 1.0), observed=y)
    return made


def point(**kwargs):
    fit = flmm.find_reml(model(**kwargs), progressbar=False)
    return fit.point, fit.theta


def test_a_constant_of_the_map_and_other_data_give_their_own_answers():
    (one, theta), (half, same), (larger, fourfold) = point(), point(factor=2.0), point(y=2 * Y)
    assert_allclose(same, theta, rtol=1e-8)
    assert_allclose(half["v"], one["v"] / 2, rtol=1e-6)
    assert_allclose(fourfold, 4 * theta, rtol=1e-6)
    assert_allclose(larger["v"], 4 * one["v"], rtol=1e-6)


PRIORS = {
    "HalfNormal": (lambda: pm.HalfNormal("v", 1.0), 0.0, np.inf, 1.0),
    "of another scale": (lambda: pm.HalfNormal("v", 3.0), 0.0, np.inf, 3.0),
    "with an initial value": (lambda: pm.HalfNormal("v", 1.0, initval=0.7), 0.0, np.inf, 0.7),
    "Uniform": (lambda: pm.Uniform("v", 0.0, 4.0), 0.0, 4.0, 2.0),
    "of another end": (lambda: pm.Uniform("v", 1.0, 7.0), 1.0, 7.0, 4.0),
    "Normal": (lambda: pm.Normal("v", 0.5, 1.0), -np.inf, np.inf, 0.5),
    "without a transform": (lambda: pm.HalfNormal("v", 1.0, default_transform=None), -np.inf, np.inf, 1.0),
}


@pytest.mark.parametrize("turn", [1, 2])
def test_each_prior_has_its_own_support_and_start(turn):
    for prior, low, high, start in PRIORS.values():
        made = model(prior=prior)
        variables = FreeVariables.of(made, "y", [made["v"] ** 2])
        assert_allclose([variables.lower, variables.upper, variables.initial], [[low], [high], [start]], rtol=1e-12)


def test_data_inside_the_map_are_read_anew():
    with pm.Model() as made:
        v = pm.HalfNormal("v", pm.Data("width", 2.0))
        theta = pt.stack([v * pm.Data("scale", 3.0)])
    for scale, width in ((3.0, 2.0), (5.0, 4.0)):
        with made:
            pm.set_data({"scale": scale, "width": width})
        variables = FreeVariables.of(made, "y", [theta])
        assert_allclose(variables.initial, width)
        assert_allclose(Link.of(variables, theta).theta(np.array([2.0])), [2 * scale])


def test_a_structure_is_made_once_and_by_many_threads_alike():
    made = []

    @once_for_a_structure
    def make(inputs, outputs, power):
        made.append(power)
        return inputs[0] is outputs[0].owner.inputs[0]

    for constant in (1.0, 1.0, 2.0):
        for power in (1, 2):
            x = pt.vector("x")
            assert make([x], [x * np.float64(constant)], power)
    assert made == [1, 2, 1, 2]
    with ThreadPoolExecutor(4) as threads:
        fits = list(threads.map(lambda k: point(y=k * Y)[0]["v"] / k**2, range(1, 9)))
    assert_allclose(fits, fits[0], rtol=1e-6)


def test_large_constants_are_not_kept():
    made = []
    make = once_for_a_structure(lambda inputs, outputs: made.append(outputs))
    for _ in range(2):
        make([], [pt.constant(np.zeros(1000)) + 1])
    assert len(made) == 2
    assert_array_equal(made[0][0].eval(), np.ones(1000))
