"""Tail probabilities against sixty digits, far beyond what floating point holds."""

import mpmath as mp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2, f

from pm_fastlmm.kernel.reml.tails import tail


def exact(x, q, nu):
    with mp.workdps(60):
        if nu == np.inf:
            return float(mp.log10(mp.gammainc(q / 2, mp.mpf(x) / 2, regularized=True)))
        return float(mp.log10(mp.betainc(nu / 2, q / 2, 0, nu / (nu + mp.mpf(x)), regularized=True)))


@pytest.mark.parametrize("nu", [50, 400, 4000, 2e4, np.inf])
@pytest.mark.parametrize("q", [1, 2, 3, 5, 20])
def test_logarithms_are_right_beyond_the_range_of_floats(q, nu):
    x = np.array([0.3, 4.0, 30.0, 1300.0, 1500.0, 5000.0, 1e6])
    assert_allclose(tail(x, q, nu)[1], [exact(value, q, nu) for value in x], rtol=1e-11, atol=1e-15)


def test_probabilities_are_those_of_scipy():
    x = np.array([0.0, 0.1, 3.0, 40.0])
    assert_allclose(tail(x, 3)[0], chi2(3).sf(x), rtol=1e-12)
    assert_allclose(tail(x, 3, 77)[0], f(3, 77).sf(x / 3), rtol=1e-12)


def test_what_is_no_number_stays_so_and_infinity_has_no_probability():
    p, log10 = tail(np.array([np.nan, np.inf]), 2, 10)
    assert np.isnan([p[0], log10[0]]).all()
    assert (p[1], log10[1]) == (0.0, -np.inf)
