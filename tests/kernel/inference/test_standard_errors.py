"""Standard errors of both kinds of information, against dense matrices and differences, in both classes of fits."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

METHODS = ("REML", "ML")
FUNCTIONS = {
    "sigma2_g": lambda g, e, s: g,
    "sigma2": lambda g, e, s: g,
    "sigma2_e": lambda g, e, s: e,
    "delta": lambda g, e, s: e / g,
    "h2": lambda g, e, s: s.mean_diagonal * g / (s.mean_diagonal * g + e),
    "pve": lambda g, e, s: s.mean_eigval * g / (s.mean_eigval * g + e),
    "total": lambda g, e, s: s.mean_diagonal * g + e,
}


def projected(V, X):
    """P = V⁻¹ - V⁻¹X(XᵀV⁻¹X)⁻¹XᵀV⁻¹."""
    Vinv = np.linalg.inv(V)
    return Vinv if X is None else Vinv - Vinv @ X @ np.linalg.solve(X.T @ Vinv @ X, X.T @ Vinv)


def average_information(V, slopes, X, y):
    """½ qᵢᵀPqⱼ, qᵢ = V_iPy."""
    P = projected(V, X)
    q = np.column_stack([slope @ P @ y for slope in slopes])
    return 0.5 * q.T @ P @ q


def loglik(theta, slopes, X, y, method):
    """The (restricted) log-likelihood of Σ θ_i V_i, without constants."""
    V = np.tensordot(theta, slopes, 1)
    out = np.linalg.slogdet(V)[1] + y @ projected(V, X) @ y
    return -0.5 * (out + (np.linalg.slogdet(X.T @ np.linalg.solve(V, X))[1] if method == "REML" else 0.0))


def curvature(theta, size, f):
    """-∂²f/∂θ² by differences of the fourth order."""
    k, out = len(theta), np.empty((len(theta), len(theta)))
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    for i in range(k):
        for j in range(k):
            steps = [(a * b, 0.01 * size * (m * np.eye(k)[i] + n * np.eye(k)[j])) for m, a in weights.items()
                     for n, b in weights.items()]  # fmt: skip
            out[i, j] = -sum(w * f(theta + step) for w, step in steps) / (1e-4 * size[i] * size[j])
    return out


@pytest.mark.parametrize("method", METHODS)
def test_average_information_of_one_kernel_is_the_dense_one(problem, method):
    fit = flmm.reml(problem.spectrum, problem.y, method=method)
    g, e, s = fit.sigma2_g, fit.sigma2_e, problem.spectrum
    slopes = [problem.K, np.eye(len(problem.y))]
    cov = np.linalg.inv(average_information(g * problem.K + e * slopes[1], slopes, problem.X, problem.y))
    errors = fit.standard_errors("average")
    for name, function in FUNCTIONS.items():
        gradient = np.array([function(g + 1e-30j, e, s).imag, function(g, e + 1e-30j, s).imag]) / 1e-30
        assert_allclose(errors[name], np.sqrt(gradient @ cov @ gradient), rtol=1e-7, err_msg=name)
    assert_allclose(errors.filter(like="beta["), fit.beta_se)
    pd.testing.assert_series_equal(fit.summary("average")["se"], errors, check_names=False)


def crossed():
    """Two crossed factors, an intercept and a covariate; K of one factor and of a kernel."""
    rng = np.random.default_rng(8)
    a, b = rng.integers(7, size=70), rng.integers(5, size=70)
    table = pd.DataFrame({"x": rng.normal(size=70), "a": a.astype(str), "b": b.astype(str)})
    table["y"] = table["x"] + 1.5 * rng.normal(size=7)[a] + rng.normal(size=5)[b] + rng.normal(size=70)
    slopes = np.stack([*(np.equal.outer(f, f).astype(float) for f in (a, b)), np.eye(70)])
    return table, np.column_stack([np.ones(70), table["x"]]), slopes


@pytest.mark.parametrize("method", METHODS)
def test_both_kinds_of_several_terms_are_the_dense_ones(method):
    table, X, slopes = crossed()
    y = table["y"].to_numpy()
    model = flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", table)
    fit = flmm.find_reml(model, method=method, progressbar=False)
    theta = fit.theta.to_numpy()
    average, observed = (fit.standard_errors(kind)[:3] for kind in ("average", "observed"))
    dense = average_information(np.tensordot(theta, slopes, 1), slopes, X, y)
    assert_allclose(average, np.sqrt(np.diag(np.linalg.inv(dense))), rtol=1e-7)
    size = np.minimum(observed.to_numpy(), theta)
    dense = curvature(theta, size, lambda t: loglik(t, slopes, X, y, method))
    assert_allclose(observed, np.sqrt(np.diag(np.linalg.inv(dense))), rtol=1e-4)
    assert np.abs(average / observed - 1).max() > 0.003


@pytest.mark.parametrize("method", METHODS)
def test_one_kernel_has_the_same_errors_and_shares_in_every_fit(method):
    table, X, (J, _, identity) = crossed()
    frame = pd.DataFrame(X, columns=["Intercept", "x"])
    exact = flmm.reml(flmm.Spectrum.from_covariance(J, frame), table["y"].to_numpy(), method=method)
    by_term = flmm.find_reml(flmm.lmm_model("y ~ x + (1 | a)", table), method=method, progressbar=False)
    dense = flmm.reml_covariance(
        lambda theta: theta[0] * J + theta[1] * identity, table["y"], frame, derivative=lambda theta: [J, identity],
        start={"g": 1.0, "e": 1.0}, bounds={"g": (0, np.inf), "e": (0, np.inf)}, method=method, progressbar=False,
    )  # fmt: skip
    names = ["sigma2_g", "sigma2_e", "beta[Intercept]", "beta[x]"]
    for fit in (by_term, dense):
        for kind in ("observed", "average"):
            assert_allclose(fit.standard_errors(kind), exact.standard_errors(kind)[names], rtol=1e-4, err_msg=kind)
    assert_allclose(by_term.shares, exact.shares, rtol=1e-6)
    assert_allclose([by_term.h2, by_term.shares.sum()], [exact.h2, 1.0], rtol=1e-6)
    with pytest.raises(ValueError, match="does not say which part of V is a component"):
        dense.h2  # noqa: B018


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["observed", "average"])
def test_beside_a_variance_of_zero_the_residual_has_the_error_of_a_model_without_it(method, kind):
    table = pd.DataFrame({"g": np.repeat(list("abcd"), 6), "y": np.tile([1.0, 2, 4, 3, 6, 2], 4), "x": np.arange(24)})
    by_term = flmm.find_reml(flmm.lmm_model("y ~ x + (1 | g)", table), method=method, progressbar=False)
    W, X = pd.get_dummies(table["g"], dtype=float), np.column_stack([np.ones(24), table["x"]])
    exact = flmm.reml(flmm.Spectrum.from_factor(W, X), table["y"].to_numpy(), method=method)
    assert exact.boundary == ("sigma2_g",)
    assert by_term.boundary == ("g",)
    y = table["y"].to_numpy()
    rss = float(np.sum((y - X @ np.linalg.lstsq(X, y)[0]) ** 2))
    df = 22 if method == "REML" else 24
    for errors, zero, residual in (
        (exact.standard_errors(kind), ["sigma2_g", "sigma2", "delta", "h2", "pve", "total"], "sigma2_e"),
        (by_term.standard_errors(kind), ["g"], "residual"),
    ):
        assert_allclose(errors[residual], rss / df * np.sqrt(2 / df), rtol=1e-5)
        assert errors[zero].isna().all()
    intervals = exact.intervals("delta", quantities=["sigma2_e", "h2"])
    assert intervals.loc["sigma2_e"].notna().all()
    assert intervals.loc["h2", ["lower", "upper"]].isna().all()


def test_beside_no_residual_variance_the_kernel_has_the_error_of_a_known_V(cases):
    K, X, y = cases.delta0_ar1()
    fit = flmm.reml(flmm.Spectrum.from_covariance(K, X), y)
    assert fit.boundary == ("sigma2_e",)
    errors = fit.standard_errors()
    assert_allclose(errors[["sigma2_g", "sigma2"]], fit.sigma2_g * np.sqrt(2 / (len(y) - X.shape[1])), rtol=1e-8)
    assert errors[["sigma2_e", "delta", "h2", "pve", "total"]].isna().all()


def test_unknown_information_is_refused(problem):
    fit = flmm.reml(problem.spectrum, problem.y)
    with pytest.raises(ValueError, match="information must be 'observed' or 'average', got 'expected'"):
        fit.standard_errors("expected")
