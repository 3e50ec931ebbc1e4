"""Intervals whose search steps beyond the range of floating point, as that of the logarithm of a lengthscale may."""

import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2

import pm_fastlmm as flmm


@pytest.fixture(scope="module")
def field():
    """The fit of a field at few places, which says little of its lengthscale."""
    rng = np.random.default_rng(7)
    places = rng.uniform(0, 10, size=(50, 2))
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    y = 3 + np.linalg.cholesky(2 * np.exp(-apart / 1.5) + 0.5 * np.eye(50)) @ rng.normal(size=50)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(
        places, kernel="matern12", lengthscale=(0.3, 8.0), X=np.ones((50, 1)), progressbar=False
    )
    with pm.Model() as model:
        flmm.LengthscaleLMM(
            "y", spectrum=spectrum, lengthscale=pm.Uniform("lengthscale", 0.3, 8.0),
            sigma2_g=pm.HalfNormal("g", 3), sigma2_e=pm.HalfNormal("e", 3), observed=y,
        )  # fmt: skip
    return flmm.find_reml(model, progressbar=False)


@pytest.mark.parametrize("name", ["lengthscale", "sigma2_g", "sigma2_e"])
def test_ends_are_where_the_profile_has_fallen_or_bounds(field, name):
    ends, place = np.array(field.interval(name)), field.objective.names.index(name)
    bounds = np.array([field.objective.lower[place], field.objective.upper[place]])
    fall, allowed = 2 * (field.loglik - field.profile(ends, name)), chi2.ppf(0.95, 1)
    inside = np.abs(ends - bounds) > 1e-3
    assert_allclose(fall[inside], allowed, rtol=1e-4)
    assert (fall <= allowed * (1 + 1e-4)).all()
