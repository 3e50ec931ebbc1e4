"""Relatives stand beside each other."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm


def families(rng):
    """Three families of unlike size, their members in a random order, and which family each is of."""
    family = rng.permutation(np.repeat([0, 1, 2], [4, 6, 3]))
    within = np.array([0.5, 0.4, 0.6])[family]
    K = np.where(family[:, None] == family, within[:, None], 0.02)
    np.fill_diagonal(K, 1.0)
    return family, pd.DataFrame(K, *[[f"i{j}" for j in range(13)]] * 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_members_of_a_family_are_a_block(seed):
    family, K = families(np.random.default_rng(seed))
    ax = flmm.plots.plot_kinship(K)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert sorted(names) == sorted(K.index)
    order = family[[int(name[1:]) for name in names]]
    assert np.count_nonzero(np.diff(order)) == 2  # three runs
    assert_allclose(ax.images[0].get_array(), K.loc[names, names])


def test_close_families_are_neighbours():
    between = np.array([[1.0, 0.1, 0.8], [0.1, 1.0, 0.1], [0.8, 0.1, 1.0]])
    K = np.kron(between, np.full((3, 3), 0.5)) + 0.5 * np.eye(9)
    ax = flmm.plots.plot_kinship(K)
    order = [int(label.get_text()) // 3 for label in ax.get_yticklabels()]
    assert order[3:6] != [1, 1, 1]


def test_the_order_of_K_can_be_kept():
    _, K = families(np.random.default_rng(1))
    assert_allclose(flmm.plots.plot_kinship(K, clusters=False).images[0].get_array(), K)


def test_what_is_no_covariance_is_refused():
    with pytest.raises(ValueError, match="K must be square"):
        flmm.plots.plot_kinship(np.ones((3, 2)))
