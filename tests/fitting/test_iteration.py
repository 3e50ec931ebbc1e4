"""The iteration itself: a variance at 0 with an idle lengthscale, and curvature learnt from scores."""

from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.aireml.steps import Curvature


@pytest.fixture(scope="module")
def slow_and_fast():
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 12, size=80))
    return t, 3 * np.sin(t / 6) + 0.7 * np.sin(3 * t) + 0.2 * rng.normal(size=80)


def two_kernels(t, y):
    with pm.Model() as model:
        slow, fast = pm.HalfNormal("slow", 10), pm.HalfNormal("fast", 2)
        ell, noise = pm.Uniform("ell", 0.1, 8), pm.HalfNormal("noise", 1)
        kernel = slow**2 * pm.gp.cov.ExpQuad(1, ls=8.0) + fast**2 * pm.gp.cov.Matern52(1, ls=ell)
        V = kernel(t[:, None]) + noise**2 * np.eye(t.size)
        flmm.DenseLMM("y", X=np.ones((t.size, 1)), V=V, observed=y)
    return model


def test_a_component_is_not_left_out_for_the_lengthscale_at_which_it_vanished(slow_and_fast):
    model = two_kernels(*slow_and_fast)
    best = flmm.find_reml(model, progressbar=False, start={"slow": 3, "fast": 0.5, "ell": 0.5, "noise": 0.2})
    lost = flmm.find_reml(model, progressbar=False, start={"slow": 3, "fast": 1e-4, "ell": 8.0, "noise": 0.7})
    assert best.boundary == ()
    assert "escape" in lost.history["kind"]
    assert lost.converged
    assert lost.loglik == pytest.approx(best.loglik, abs=1e-6)
    assert_allclose(lost.theta, best.theta, rtol=1e-3)


def test_a_component_without_evidence_stays_at_zero_and_its_lengthscale_is_named(slow_and_fast):
    t, _ = slow_and_fast
    fit = flmm.find_reml(two_kernels(t, np.resize([1.0, -1.0], t.size)), progressbar=False)
    assert fit.converged
    assert set(fit.boundary) >= {"slow", "fast"}
    assert np.isnan(fit.standard_errors()["ell"])


def test_newton_steps_are_not_taken_where_those_of_average_information_are_cheaper():
    data = flmm.datasets.john_alpha()
    data = data.assign(y=data["yield"].to_numpy()[::-1])
    fit = flmm.find_reml("y ~ rep + (1|gen) + (1|rep:block)", data, progressbar=False)
    kinds = fit.history["kind"].values.tolist()
    assert fit.converged
    assert set(kinds) == {"AI", "secant", ""}
    assert len(kinds) <= 6  # Newton's came to 13 evaluations in 4 iterations


def test_nothing_is_learnt_where_there_is_no_information():
    objective = SimpleNamespace(fixed=np.zeros(2, dtype=bool))
    information = np.diag([2.0, 0.0])
    learnt = Curvature(np.zeros(2), np.zeros(2), information, difference=np.array([[1.0, 5.0], [5.0, 1e-9]]))
    np.testing.assert_array_equal(learnt.observed(objective), np.diag([3.0, 0.0]))


def test_the_learnt_curvature_is_that_of_a_quadratic():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(3, 3))
    H, information = root @ root.T + np.eye(3), np.diag([4.0, 0.5, 2.0])
    omega, curvature = np.zeros(3), None
    for _ in range(30):
        curvature = Curvature.at(omega, H @ (1 - omega), information, after=curvature)
        omega = omega + 0.1 * rng.normal(size=3)
    assert_allclose(curvature.information + curvature.difference, H, atol=1e-3 * np.abs(H).max())
