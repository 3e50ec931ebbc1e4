"""Fits whose covariance matrix is singular: where the iteration ends, and degrees of freedom there."""

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm


def noise(seed):
    """Random slopes fitted to data that have random intercepts alone."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=60) + np.repeat(rng.normal(size=12), 5) * 0.5
    data = pd.DataFrame({"y": y, "x": np.tile(np.arange(5.0), 12), "g": np.repeat(np.arange(12), 5)})
    return flmm.find_reml(flmm.lmm_model("y ~ x + (x | g)", data), progressbar=False)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_degrees_of_freedom_do_not_take_a_singular_matrix_for_known(seed):
    fit = noise(seed)
    assert fit.boundary == ("g[Intercept]", "g[Intercept, x]", "g[x]")
    df = fit.coefficients()["df"]
    assert (df > 9).all()
    assert (df < 58).all()  # n - r, what they would be without groups; regular fits of this design have 11
    with pytest.raises(ValueError, match="matrix of this fit is singular"):
        fit.coefficients("kenward-roger")


def test_an_intercept_variance_that_vanishes_before_its_slope_is_reached_from_the_other_end():
    fit = noise(0)
    assert fit.converged
    assert fit.loglik > -77.9599
    assert np.isfinite(fit.coefficients().to_numpy()).all()
