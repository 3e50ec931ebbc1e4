"""Sobol' points are those of SciPy, bit by bit."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import qmc

from pm_fastlmm.posterior.seed import _MAX_QUADRATURE
from pm_fastlmm.posterior.sobol import sobol_points


@pytest.mark.parametrize("d", [1, 2, 3, 11, _MAX_QUADRATURE + 1])
def test_points_and_the_generator_afterwards_are_those_of_scipy(d):
    ours, theirs = np.random.default_rng(d), np.random.default_rng(d)
    assert_array_equal(sobol_points(d, 11, ours), qmc.Sobol(d, rng=theirs).random_base2(11))
    assert_array_equal(*(rng.spawn(1)[0].random(3) for rng in (ours, theirs)))
    assert ours.random() == theirs.random()
