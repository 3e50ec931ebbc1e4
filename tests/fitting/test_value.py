"""Tests that a parameter has a value: against maxima that are found otherwise."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2

import pm_fastlmm as flmm

CORRELATION = "corr_Subject[Intercept, Days]"


@pytest.fixture(scope="module")
def sleepstudy():
    """Random intercepts and slopes."""
    return flmm.find_reml("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False)


def test_a_correlation_of_0_is_the_model_without_it(sleepstudy):
    without = flmm.find_reml("Reaction ~ Days + (Days || Subject)", flmm.datasets.sleepstudy(), progressbar=False)
    test = sleepstudy.test_value(CORRELATION, 0)
    assert_allclose(test.statistic, 2 * (sleepstudy.loglik - without.loglik), atol=1e-6)
    assert_allclose(test.p_value, chi2.sf(test.statistic, 1))


def test_a_correlation_of_1_is_a_half(sleepstudy):
    test = sleepstudy.test_value(CORRELATION, 1)
    assert test.df == (0, 1)
    assert test.statistic > 1
    assert_allclose(test.p_value, 0.5 * chi2.sf(test.statistic, 1))


def test_a_correlation_of_1_takes_those_with_other_effects_along():
    """Of three traits, a and b of the same effects: simulated, the statistic is as often above as the mixture says."""
    rng, n = np.random.default_rng(5), 120
    G = rng.normal(size=(n, 90))
    spectrum = flmm.Spectrum.from_covariance(G @ G.T / 90, np.ones((n, 1)))
    statistics = []
    for _ in range(30):
        u = G @ rng.normal(size=(90, 2)) @ [[1.0, 1.2, 0.5], [0.0, 0.0, 0.7]] / 90**0.5
        Y = pd.DataFrame(u + 0.7 * rng.normal(size=(n, 3)), columns=list("abc"))
        test = flmm.reml_traits(spectrum, Y).test_value("corr_K[a, b]", 1)
        assert test.df == (1, 2)
        statistics.append(test.statistic)
    assert 1.0 < np.mean(statistics) < 2.0  # 1.5 is that of (1, 2), 0.5 of (0, 1)


@pytest.mark.parametrize("name", ["Subject[Days]", "sd_Subject[Days]"])
def test_a_variance_of_0_takes_its_covariance_along(sleepstudy, name):
    without = flmm.find_reml("Reaction ~ Days + (1 | Subject)", flmm.datasets.sleepstudy(), progressbar=False)
    test = sleepstudy.test_value(name, 0)
    assert_allclose(test.statistic, 2 * (sleepstudy.loglik - without.loglik), rtol=1e-6)
    assert_allclose(test.p_value, (chi2.sf(test.statistic, 1) + chi2.sf(test.statistic, 2)) / 2)


def test_the_estimate_itself_is_not_rejected():
    table = pd.DataFrame({"y": np.tile(np.arange(5.0), 3), "batch": np.repeat(list("abc"), 5)})
    fit = flmm.find_reml("y ~ 1 + (1 | batch)", table, progressbar=False)
    test = fit.test_value("batch", 0)
    assert (test.statistic, test.p_value) == (0.0, 1.0)
    assert "p = 1" in repr(test)


def test_what_has_no_test_is_said(sleepstudy):
    with pytest.raises(ValueError, match=r"between -1 and 1: it cannot be tested to be 1\.5"):
        sleepstudy.test_value(CORRELATION, 1.5)
    with pytest.raises(ValueError, match="is a covariance, which is not held on its own"):
        sleepstudy.test_value("Subject[Intercept, Days]", 0)
    assert np.isfinite(sleepstudy.test_value("beta[Days]", 0).p_value)
