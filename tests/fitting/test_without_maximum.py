"""Likelihoods that rise for ever as variance and range of a correlation go to infinity together."""

from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy.linalg import qr
from scipy.spatial.distance import cdist

import pm_fastlmm as flmm

REFERENCE = Path(__file__).parents[1] / "reference" / "mixed_suite"


@pytest.fixture(scope="module")
def wheat():
    """Yields of 56 varieties of wheat in a field, over which they fall off linearly."""
    data = pd.read_csv(REFERENCE / "Wheat2.csv")
    place = data[["latitude", "longitude"]]
    return cdist(place, place), pd.get_dummies(data["variety"]).to_numpy(float), data["yield"].to_numpy(float)


@pytest.fixture(scope="module")
def limit(wheat):
    """Where range → ∞, σ² exp(-d/range) is -(σ²/range) d plus a constant, of which contrasts know nothing: the supremum
    is the maximum of REML with V = -slope · d + nugget · I on contrasts."""
    D, X, y = wheat
    Q = qr(X)[0][:, X.shape[1] :]
    best = -np.inf
    for ratio in np.exp(np.linspace(-6, 2, 2001)):
        V = Q.T @ (np.eye(len(y)) - ratio * D) @ Q
        sign, logdet = np.linalg.slogdet(V)
        z, p = Q.T @ y, Q.shape[1]
        scale = z @ np.linalg.solve(V, z) / p
        if sign > 0:
            best = max(best, -0.5 * (p * np.log(2 * np.pi * scale) + logdet + p))
    return best - 0.5 * np.linalg.slogdet(X.T @ X)[1]


def test_variance_and_range_without_a_maximum_are_no_estimates(wheat, limit):
    D, X, y = wheat
    assert limit == pytest.approx(-533.4186, abs=1e-3)
    with pm.Model() as model:
        s, reach, e = pm.HalfNormal("s", 30), pm.HalfNormal("range", 30), pm.HalfNormal("e", 5)
        flmm.DenseLMM("y", X=X, V=s**2 * pt.exp(-D / reach) + e**2 * np.eye(len(y)), observed=y)
    fit = flmm.find_reml(model, progressbar=False, max_iterations=40)
    assert not fit.converged
    assert f"it rises for ever, to about {limit:.2f}, as s and range go to infinity together" in fit.message
    assert "these are no estimates" in fit.message
    assert "with fixed=" in fit.message
    assert fit.loglik < limit


@pytest.mark.parametrize("logarithms", [False, True])
def test_it_is_said_in_any_coordinates(wheat, limit, logarithms):
    D, X, y = wheat
    eye = np.eye(len(y))
    if logarithms:
        V = lambda t: pt.exp(t[0] - D * pt.exp(-t[1])) + pt.exp(t[2]) * eye  # noqa: E731
        start, bounds = {"v": 3.0, "range": 3.0, "e": 3.0}, None
    else:
        V = lambda t: t[0] * pt.exp(-D / t[1]) + t[2] * eye  # noqa: E731
        start = {"v": 20.0, "range": 20.0, "e": 10.0}
        bounds = dict.fromkeys(start, (0, np.inf))
    fit = flmm.reml_covariance(V, y, X, start=start, bounds=bounds, progressbar=False)
    assert not fit.converged
    assert f"rises for ever, to about {limit:.2f}, as v and range go to infinity together" in fit.message


def test_a_range_that_is_held_has_a_maximum(wheat, limit):
    D, X, y = wheat
    V = lambda t: t[0] * pt.exp(-D / t[1]) + t[2] * np.eye(len(y))  # noqa: E731
    start = {"v": 20.0, "range": 50.0, "e": 10.0}
    bounds = dict.fromkeys(start, (0, np.inf))
    fit = flmm.reml_covariance(V, y, X, start=start, bounds=bounds, fixed=["range"], progressbar=False)
    assert fit.converged
    assert fit.loglik < limit


def test_an_iteration_that_is_cut_short_is_not_taken_for_one(wheat):
    """A Gaussian correlation has a maximum here."""
    D, X, y = wheat
    V = lambda t: t[0] * pt.exp(-((D / t[1]) ** 2)) + t[2] * np.eye(len(y))  # noqa: E731
    start = {"v": 1.0, "range": 1.0, "e": 10.0}
    bounds = dict.fromkeys(start, (0, np.inf))
    cut = flmm.reml_covariance(V, y, X, start=start, bounds=bounds, max_iterations=4, progressbar=False)
    assert not cut.converged
    assert cut.message.startswith("4 iterations were not enough")
    assert flmm.reml_covariance(V, y, X, start=start, bounds=bounds, progressbar=False).converged
