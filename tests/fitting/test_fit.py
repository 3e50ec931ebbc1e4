"""What a fit holds: history, derivatives at any θ, standard errors, V; and fits of functions V(θ)."""

import re

import numpy as np
import pandas as pd
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

FAR = {"Subject[one]": 10.0, "Subject[Days]": 1000.0, "residual": 100.0}


@pytest.fixture(scope="module")
def slopes(models):
    return flmm.find_reml(models["sleepstudy_slope"], start=FAR, progressbar=False)


@pytest.fixture(scope="module", params=["sleepstudy_slope", "sleepstudy_uncorrelated", "penicillin", "dyestuff"])
def found(request, models):
    return flmm.find_reml(models[request.param], progressbar=False)


@pytest.fixture(scope="module")
def sleep_dense(make):
    """The dense covariance of the slopes of sleepstudy by θ = (one, [one, Days], Days, residual)."""
    data, X, columns = make.sleep_columns()
    Z, subject = columns.to_numpy(), data["Subject"].to_numpy()
    same = subject[:, None] == subject

    def V(theta):
        a, c, b, e = theta
        return same * (Z @ np.array([[a, c], [c, b]]) @ Z.T) + e * np.eye(len(Z))

    return V, X, data["Reaction"].to_numpy()


def test_history_holds_every_iteration(slopes):
    h = slopes.history
    count = h.sizes["iteration"]
    assert h.theta.dims == ("iteration", "parameter")
    assert h.average_information.dims == ("iteration", "parameter", "parameter_")
    assert list(h.parameter.values) == list(slopes.theta.index)
    assert list(h.coef.values) == list(slopes.beta.index) == ["x0", "x1"]
    assert (np.diff(h.loglik) > 0).all()
    assert set(h.kind.values[:-1]) <= {"AI", "AI, halved", "EM", "secant"}
    assert h.kind.values[-1] == ""
    assert_allclose(h.theta[-1], slopes.theta)
    assert_allclose(h.beta[-1], slopes.beta)
    for i in range(count):
        assert_allclose(slopes.objective.log_likelihood(h.theta.values[i]), h.loglik[i], rtol=1e-12)
        assert_allclose(slopes.objective.score(h.theta.values[i]), h.score[i], rtol=1e-8, atol=1e-10)
    assert_allclose(h.decrement[-1], 0, atol=1e-11)


def test_best_and_last_are_iterations_of_the_history(slopes, models, fit):
    for part in (slopes.best, slopes.last):
        assert_allclose(part.theta, slopes.theta)
    early = fit(models["sleepstudy_slope"], start=FAR, max_iterations=1)
    assert not early.converged
    assert_allclose(early.last.theta, early.theta)
    assert float(early.best.loglik) == early.history.loglik.max()


def test_a_step_is_that_of_the_iteration(slopes):
    for i in np.flatnonzero(slopes.history.kind == "AI"):
        row = slopes.history.isel(iteration=i)
        assert_allclose(slopes.step(row.theta.values), row.theta + row.proposed, rtol=1e-8, atol=1e-8)
    assert_allclose(slopes.step(), slopes.theta, rtol=1e-5)


def test_derivatives_at_any_theta(found):
    theta = found.theta.to_numpy() * 1.3 + 0.01
    objective = found.objective
    score, information = objective.score(theta), objective.average_information(theta)
    V, slopes = objective.covariance(theta), objective.covariance_derivatives(theta)
    for i in range(len(theta)):
        h = 1e-5 * max(abs(theta[i]), 1.0)
        ends = [theta + sign * h * np.eye(len(theta))[i] for sign in (1, -1)]
        expected = (objective.log_likelihood(ends[0]) - objective.log_likelihood(ends[1])) / (2 * h)
        assert_allclose(score[i], expected, rtol=1e-5, atol=1e-6)
        assert_allclose(slopes[i], (objective.covariance(ends[0]) - objective.covariance(ends[1])) / (2 * h), atol=1e-6)
    X, y = found.node.projection.Q1 @ found.node.projection.R, found.node.observed
    Vinv = np.linalg.inv(V)
    P = Vinv - Vinv @ X @ np.linalg.solve(X.T @ Vinv @ X, X.T @ Vinv)
    q = np.column_stack([slope @ P @ y for slope in slopes])
    assert_allclose(information, 0.5 * q.T @ P @ q, rtol=1e-7, atol=1e-12)


def test_coefficients_and_their_covariance_are_those_at_the_estimate(found):
    for own, again in zip((found.blue, found.blue_cov), found.objective.blue(found.at()), strict=True):
        assert_allclose(own, again, rtol=1e-12)


def test_standard_errors_are_those_of_the_curvature(found):
    theta, k = found.theta.to_numpy(), found.theta.size
    se = found.standard_errors().to_numpy()[:k]
    hessian = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            a, b = 0.02 * se[i] * np.eye(k)[i], 0.02 * se[j] * np.eye(k)[j]
            f = found.objective.log_likelihood
            hessian[i, j] = (f(theta + a + b) - f(theta + a - b) - f(theta - a + b) + f(theta - a - b)) / (
                4 * 0.02**2 * se[i] * se[j]
            )
    assert_allclose(found.cov, np.linalg.inv(-hessian), rtol=5e-3, atol=5e-3 * np.outer(se, se).min())


def test_parts_of_theta_by_name_keep_the_others(slopes):
    theta = slopes.theta.copy()
    theta["residual"] = 700.0
    loglik = slopes.objective.log_likelihood
    assert (slopes.at({"residual": 700.0}) == theta.to_numpy()).all()
    assert (slopes.at(theta) == theta.to_numpy()).all()
    assert loglik(slopes.at()) == pytest.approx(slopes.loglik, rel=1e-14)
    assert loglik(slopes.at({"residual": -1.0})) == -np.inf
    with pytest.raises(ValueError, match=r"V is not positive definite at .*residual = -1"):
        slopes.objective.score(slopes.at({"residual": -1.0}))
    with pytest.raises(ValueError, match="theta names 'sigma', which is no parameter"):
        slopes.objective.covariance(slopes.at({"sigma": 1.0}))


def test_V_and_its_derivatives_are_dense_matrices(slopes, sleep_dense):
    V, _, _ = sleep_dense
    assert_allclose(slopes.objective.covariance(slopes.at()), V(slopes.theta), rtol=1e-12)
    derivatives = slopes.objective.covariance_derivatives(slopes.at())
    for i, E in enumerate(np.eye(4)):
        assert_allclose(derivatives[i], V(E), atol=1e-12)


def test_the_summary_and_the_text(slopes):
    table = slopes.summary()
    assert list(table.index) == [*slopes.theta.index, "beta[x0]", "beta[x1]"]
    assert_allclose(table["estimate"], np.r_[slopes.theta, slopes.beta])
    assert_allclose(table["se"], slopes.standard_errors())
    text = repr(slopes)
    assert "REML fit of y ~ N(Xβ, ΣZGZᵀ + σ²_eI)\n180 observations, 18 levels of Subject\n" in text
    assert "log-likelihood -871.8141360" in text
    assert re.search(r"converged in \d+ iterations$", text)


# --- functions V(θ) -------------------------------------------------------------------------------------------------

START = {"a": 100.0, "c": 0.0, "b": 10.0, "e": 100.0}


def derivative(V):
    return lambda theta: [V(E) for E in np.eye(4)]


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_a_function_with_its_derivative(sleep_dense, lme4, method):
    V, X, y = sleep_dense
    row = lme4(f"sleepstudy_slope_{method.lower()}")
    found = flmm.reml_covariance(V, y, X, start=START, derivative=derivative(V), method=method, progressbar=False)
    assert found.converged
    assert_allclose(found.loglik, row["loglik"], rtol=0, atol=1e-7)
    assert_allclose(sorted(found.theta), sorted(row["vcov"]), rtol=3e-6)
    assert_allclose(found.beta, row["beta"], rtol=1e-8)
    assert_allclose(found.beta_cov, np.reshape(row["vcov_beta"], (2, 2)), rtol=1e-5)
    assert found.point == {}
    assert found.node.rv is None
    assert list(found.theta.index) == ["a", "c", "b", "e"]


def test_a_function_that_is_differentiated(sleep_dense, lme4):
    V, X, y = sleep_dense
    parts = [V(E) for E in np.eye(4)]
    row = lme4("sleepstudy_slope_reml")

    def arithmetic(theta):
        return sum(theta[i] * part for i, part in enumerate(parts))

    def tensors(theta):
        L = pt.stack([pt.stack([pt.exp(theta[0]), 0.0]), pt.stack([theta[1], pt.exp(theta[2])])])
        S = L @ L.T
        return S[0, 0] * parts[0] + S[0, 1] * parts[1] + S[1, 1] * parts[2] + pt.exp(theta[3]) * parts[3]

    plain = flmm.reml_covariance(arithmetic, y, X, start=[100.0, 0.0, 10.0, 100.0], progressbar=False)
    assert_allclose(plain.loglik, row["loglik"], rtol=0, atol=1e-7)
    assert list(plain.theta.index) == ["theta0", "theta1", "theta2", "theta3"]
    logs = flmm.reml_covariance(tensors, y, X, start=[2.0, 0.0, 1.0, 5.0], progressbar=False)
    assert_allclose(logs.loglik, row["loglik"], rtol=0, atol=1e-7)
    assert_allclose(np.exp(logs.theta["theta3"]), row["vcov"][-1], rtol=1e-5)


def test_a_function_of_numpy_alone_is_refused(sleep_dense):
    _, X, y = sleep_dense

    def numbers(theta):
        return np.asarray(np.linalg.cholesky(np.diag(np.asarray(theta, dtype=float))))

    with pytest.raises(TypeError, match=r"V could not be called with a symbolic theta .*or give its derivative="):
        flmm.reml_covariance(numbers, y, X, start=START, progressbar=False)


def test_labels_bounds_and_fixed_parameters_of_a_function(sleep_dense):
    V, X, y = sleep_dense
    ids = [f"row{i}" for i in range(len(y))]
    design = pd.DataFrame(X, index=ids, columns=["one", "Days"])
    common = {"start": START, "derivative": derivative(V), "progressbar": False}
    plain = flmm.reml_covariance(V, y, X, **common)
    labelled = flmm.reml_covariance(V, pd.Series(y, ids), design.iloc[::-1], **common)
    assert_allclose(labelled.beta, plain.beta, rtol=1e-10)
    assert list(labelled.beta.index) == ["one", "Days"]
    fixed = flmm.reml_covariance(V, y, X, fixed={"c": 0.0}, **common)
    assert fixed.theta["c"] == 0.0
    assert fixed.loglik < plain.loglik
    bounded = flmm.reml_covariance(V, y, X, bounds={"b": (0.0, 20.0)}, **common)
    assert bounded.boundary == ("b",)
    assert bounded.theta["b"] == 20.0


def test_without_fixed_effects(sleep_dense, oracle):
    V, _, y = sleep_dense
    found = flmm.reml_covariance(V, y - y.mean(), start=START, derivative=derivative(V), progressbar=False)
    assert found.converged
    dense = oracle.Dense(V(found.theta), None, y - y.mean(), 1.0, 0.0)
    assert_allclose(found.loglik, dense.loglik_contrasts, rtol=1e-10)
    assert found.beta.size == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": "missing"}, "y has 1 values that are NaN"),
        ({"X": "short"}, r"X has \d+ rows|X has length|length"),
        ({"V": lambda theta: np.eye(3)}, r"V must return an \(180, 180\) matrix.*got shape \(3, 3\)"),
        ({"start": {"a": -1.0, "c": 0.0, "b": -1.0, "e": -1.0}}, "the likelihood is not defined at the start"),
        ({"method": "MAP"}, "method must be 'REML' or 'ML'"),
    ],
)
def test_bad_input_to_a_function_is_refused(sleep_dense, changes, message):
    V, X, y = sleep_dense
    given = {"V": V, "y": y, "X": X, "start": START, "derivative": derivative(V), "progressbar": False}
    if changes.get("y") == "missing":
        changes = {"y": np.r_[np.nan, y[1:]]}
    if changes.get("X") == "short":
        changes = {"X": X[1:]}
    with pytest.raises(ValueError, match=message):
        flmm.reml_covariance(**given | changes)
