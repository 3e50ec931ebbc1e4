"""How often candidates without an effect have small p-values: few people, three traits, all of them in families."""

import numpy as np
import pytest
from scipy.stats import chi2

import pm_fastlmm as flmm

pytestmark = pytest.mark.slow

N, T, CANDIDATES, STUDIES = 100, 3, 400, 60


def shares_below(level, rng):
    """Return the shares of p-values below a level in one study: with covariances of the null, of each candidate, χ²."""
    family = np.arange(N) // 5
    K = 0.5 * (family[:, None] == family) + 0.5 * np.eye(N)
    root, (A, B) = np.linalg.cholesky(K), rng.normal(size=(2, T, T))
    Y = np.sqrt(0.5) * (root @ rng.normal(size=(N, T)) @ A + rng.normal(size=(N, T)) @ B)
    spectrum, candidates = flmm.Spectrum.from_covariance(K, np.ones((N, 1))), root @ rng.normal(size=(N, CANDIDATES))
    null, each = (flmm.scan_traits(spectrum, Y, candidates, variances=way) for way in ("null", "each"))
    p = null.p_value, null.p_common, null.p_different, each.p_value, each.p_common, chi2(T).sf(each.statistic)
    return [float((np.asarray(values) < level).mean()) for values in p]


def test_null_covariances_are_a_little_conservative_and_those_of_each_candidate_less_liberal_than_chi2():
    rng = np.random.default_rng(103)
    shares = np.array([shares_below(0.05, rng) for _ in range(STUDIES)])
    mean, error = shares.mean(axis=0), shares.std(axis=0) / np.sqrt(STUDIES)
    assert (mean[:3] > 0.035).all()
    assert (mean[:3] - 2 * error[:3] < 0.05).all()
    each, each_common, of_chi2 = mean[3:]
    assert max(each, each_common) < 0.07
    assert each < of_chi2 - 0.005
