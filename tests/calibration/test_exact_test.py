"""The exact test and the mixture at five, ten and one percent, from 60 000 fits each."""

import numpy as np
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.slow

REPLICATES = 60_000
LAYOUTS = {
    "balanced": (np.repeat(np.arange(5), 6), (0.074, 0.037, 0.007), 0.574),
    "unbalanced": (np.repeat(np.arange(8), [16, 3, 3, 2, 2, 2, 1, 1]), None, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_size(layout):
    """For the balanced layout the mixture's size and the mass at zero are those that dense fits have shown."""
    group, mixture, mass = LAYOUTS[layout]
    n = len(group)
    spectrum = flmm.Spectrum.from_factor((group[:, None] == np.unique(group)).astype(float), np.ones((n, 1)))
    Y = np.random.default_rng(1).normal(size=(n, REPLICATES))
    test = flmm.reml(spectrum, Y).test_no_variance(n_sim=REPLICATES, random_seed=2)
    for place, level in enumerate((0.1, 0.05, 0.01)):
        error = np.sqrt(2 * level * (1 - level) / REPLICATES)  # of the responses and of the draws
        assert abs((test.p_value <= level).mean() - level) < 3.5 * error
        of_mixture = (test.p_value_mixture <= level).mean()
        assert of_mixture < level - 3.5 * error
        if mixture is not None:  # themselves from 60 000 fits
            assert abs(of_mixture - mixture[place]) < 3.5 * error
    assert abs((test.statistic == 0).mean() - test.mass_at_zero) < 0.01
    if mass is not None:
        assert abs(test.mass_at_zero - mass) < 0.006
