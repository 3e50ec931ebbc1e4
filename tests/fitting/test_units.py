"""Units of y, of columns within a level and of kernels change the estimates as they must, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

UNITS = [1e-9, 1e-6, 1e6, 1e9]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(8)
    group, x = np.resize([f"g{i}" for i in range(10)], 60), rng.normal(size=60)
    u, v = rng.normal(size=(2, 10))
    y = 1 + 0.5 * x + np.resize(u, 60) + np.resize(v, 60) * x + 0.7 * rng.normal(size=60)
    return pd.DataFrame({"y": y, "x": x, "g": group}, index=[f"r{i}" for i in range(60)])


@pytest.fixture(scope="module")
def slopes(table, fit):
    return fit(flmm.lmm_model("y ~ x + (x | g)", table))


def covariance_of_the_point(point):
    """Σ and σ²_e of the free variables of lmm_model."""
    L = np.zeros((2, 2))
    L[np.tril_indices(2)] = point["chol_g"]
    return [*(L @ L.T)[np.tril_indices(2)], point["sigma_e"] ** 2]


@pytest.mark.parametrize("c", UNITS)
def test_units_of_a_slope(table, slopes, fit, c):
    found = fit(flmm.lmm_model("y ~ x + (x | g)", table.assign(x=c * table["x"])))
    assert found.converged
    assert found.boundary == ()
    assert_allclose(found.loglik, slopes.loglik - np.log(c), rtol=0, atol=1e-8)  # -½log|XᵀX| is part of it
    assert_allclose(found.theta * [1, c, c**2, 1], slopes.theta, rtol=1e-4)
    assert_allclose(found.standard_errors()[:4] * [1, c, c**2, 1], slopes.standard_errors()[:4], rtol=1e-3)
    assert_allclose(found.beta * [1, c], slopes.beta, rtol=1e-5)
    assert_allclose(covariance_of_the_point(found.point), found.theta, rtol=1e-4)


@pytest.mark.parametrize("c", UNITS)
def test_units_of_y(table, slopes, fit, c):
    found = fit(flmm.lmm_model("y ~ x + (x | g)", table.assign(y=c * table["y"])))
    assert found.converged
    assert found.boundary == ()
    assert_allclose(found.loglik, slopes.loglik - 58 * np.log(c), rtol=0, atol=1e-8)
    assert_allclose(found.theta / c**2, slopes.theta, rtol=1e-6)
    assert_allclose(found.standard_errors()[:4] / c**2, slopes.standard_errors()[:4], rtol=1e-5)
    assert_allclose(covariance_of_the_point(found.point), found.theta, rtol=1e-4)


@pytest.mark.parametrize("c", UNITS)
def test_units_of_a_slope_in_a_term_that_is_not_eliminated(table, fit, c):
    data = table.assign(h=np.repeat([f"h{i}" for i in range(20)], 3))
    formula = "y ~ x + (1 | h) + (x | g)"
    expected = fit(flmm.lmm_model(formula, data))
    found = fit(flmm.lmm_model(formula, data.assign(x=c * data["x"])))
    assert found.converged
    assert found.boundary == expected.boundary
    assert_allclose(found.loglik, expected.loglik - np.log(c), rtol=0, atol=1e-8)


@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_units_of_a_kernel(table, fit, c):
    rng = np.random.default_rng(9)
    levels = sorted(set(table["g"]))
    root = rng.normal(size=(10, 10))
    K = pd.DataFrame(root @ root.T / 10, index=levels, columns=levels)
    expected = fit(flmm.lmm_model("y ~ x + (1 | g)", table, known={"g": K}))
    found = fit(flmm.lmm_model("y ~ x + (1 | g)", table, known={"g": c * K}))
    assert found.converged
    assert found.boundary == ()
    assert_allclose(found.theta * [c, 1], expected.theta, rtol=1e-6)
    assert_allclose(found.standard_errors()[:2] * [c, 1], expected.standard_errors()[:2], rtol=1e-6)
    assert_allclose(found.loglik, expected.loglik, rtol=0, atol=1e-8)
