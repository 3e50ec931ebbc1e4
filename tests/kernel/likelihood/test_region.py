"""Likelihood regions: the measure of log δ is the expected information, levels and heights are what they say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.kernel.likelihood.information import information
from pm_fastlmm.kernel.likelihood.profile import Profile
from pm_fastlmm.kernel.likelihood.region import Allowed, Scale, likelihood_region


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_heights_are_values_on_all_responses(build_problem, method):
    problem = build_problem("low-K")
    Y = np.random.default_rng(0).normal(size=(23, 200))
    profile = Profile.from_rotated(problem.spectrum.rotate(Y), method)
    x = np.linspace(-8, 8, 5)
    assert_allclose(profile.heights(x), profile.evaluate(x)[0], rtol=1e-13)


def test_distances_are_standard_deviations_of_log_delta(problem):
    """I(log δ) after σ² is projected out of the expected information of (σ²_g, σ²_e)."""
    s = problem.spectrum
    scale = Scale.of(Profile.from_rotated(problem.rotated, "REML"))
    for at in np.searchsorted(scale.x, (-3.0, 0.0, 2.0)):
        x = scale.x[at]
        delta = s.eigvals.max() * np.exp(x)
        expected = information(problem.rotated, np.array(1.0), np.array(delta)).expected
        J = np.array([[1.0, 0.0], [delta, delta]])  # of (σ²_g, σ²_e) in (log σ², log δ), at σ² = 1
        full = J.T @ expected @ J
        conditional = full[1, 1] - full[0, 1] ** 2 / full[0, 0]
        slope = (scale.s[at + 1] - scale.s[at - 1]) / (scale.x[at + 1] - scale.x[at - 1])
        assert_allclose(slope**2, conditional, rtol=2e-3)


def test_nodes_are_evenly_spaced_in_standard_deviations(problem):
    scale = Scale.of(Profile.from_rotated(problem.rotated, "REML"))
    nodes = scale.nodes(0.5, 30)
    steps = np.diff(np.interp(nodes, scale.x, scale.s))
    assert_allclose(steps, steps[0], rtol=1e-2)
    assert nodes.size <= 30
    assert_allclose([nodes[0], nodes[-1]], [scale.x[0], scale.x[-1]], rtol=1e-6)


def test_a_region_under_levels_that_vary_ends_where_the_curves_cross(build_problem):
    problem = build_problem("full-K")
    profile = Profile.from_rotated(problem.rotated, "REML")
    levels = np.linspace(1.0, 6.0, 200)
    allowed = Allowed(-10.0, 0.1, levels)
    region = likelihood_region(profile, allowed)
    for end in (region.low[0], region.high[0]):
        if np.isfinite(end):
            rise = profile.evaluate(end)[0][0, 0] - region.minimum[0]
            assert_allclose(rise, np.interp(end, -10 + 0.1 * np.arange(200), levels), atol=1e-8)
    assert region.low[0] < region.best[0] < region.high[0]
    assert region.whole[0]
