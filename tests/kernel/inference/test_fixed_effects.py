"""Degrees of freedom: exact ones of balanced designs, lmerTest's, the formulas written out, and simulated size."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

SATTERTHWAITE, KENWARD_ROGER = "satterthwaite", "kenward-roger"
BOTH = (SATTERTHWAITE, KENWARD_ROGER)


def sleep():
    data = flmm.datasets.sleepstudy()
    subject = np.asarray(data["Subject"])
    W = (subject[:, None] == np.unique(subject)).astype(float)
    X = np.column_stack([np.ones(len(data)), data["Days"]])
    return flmm.reml(flmm.Spectrum.from_factor(W, X), np.asarray(data["Reaction"], dtype=float))


def unbalanced(seed=1, r=3):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(7), [2, 5, 3, 6, 1, 4, 3])
    W = (group[:, None] == np.arange(7)).astype(float)
    X = np.column_stack([np.ones(24), rng.normal(size=24), rng.normal(size=7)[group], rng.exponential(size=24)])[:, :r]
    y = X @ np.arange(1, r + 1) + W @ rng.normal(size=7) * 1.5 + rng.normal(size=24)
    return W, X, y


class Written:
    """Kenward & Roger's quantities from their definitions, V = σ²_gK + σ²_eI."""

    def __init__(self, K, X, g, e):
        parts = [K, np.eye(len(K))]
        Vinv = np.linalg.inv(g * K + e * np.eye(len(K)))
        self.X, self.parts = X, parts
        self.Phi = np.linalg.inv(X.T @ Vinv @ X)
        P = [-X.T @ Vinv @ D @ Vinv @ X for D in parts]
        Q = [[X.T @ Vinv @ A @ Vinv @ B @ Vinv @ X for B in parts] for A in parts]
        projector = Vinv - Vinv @ X @ self.Phi @ X.T @ Vinv
        expected = np.array([[0.5 * np.trace(projector @ A @ projector @ B) for B in parts] for A in parts])
        self.W, self.P = np.linalg.inv(expected), P
        middle = sum(self.W[i, j] * (Q[i][j] - P[i] @ self.Phi @ P[j]) for i in range(2) for j in range(2))
        self.adjusted = self.Phi + 2 * self.Phi @ middle @ self.Phi

    def f_test(self, L, beta):
        """Kenward & Roger (1997), section 3, as pbkrtest 0.5 writes it."""
        q, Phi, P, W = len(L), self.Phi, self.P, self.W
        theta = L.T @ np.linalg.inv(L @ Phi @ L.T) @ L
        U = [theta @ Phi @ P[i] @ Phi for i in range(2)]
        A1 = sum(W[i, j] * np.trace(U[i]) * np.trace(U[j]) for i in range(2) for j in range(2))
        A2 = sum(W[i, j] * np.trace(U[i] @ U[j]) for i in range(2) for j in range(2))
        B = (A1 + 6 * A2) / (2 * q)
        g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
        c1, c2, c3 = (x / (3 * q + 2 * (1 - g)) for x in (g, q - g, q + 2 - g))
        E = 1 / (1 - A2 / q)
        V = 2 / q * (1 + c1 * B) / ((1 - c2 * B) ** 2 * (1 - c3 * B))
        rho = V / (2 * E**2)
        m = 4 + (q + 2) / (q * rho - 1)
        estimate = L @ beta
        return m / (E * (m - 2)) / q * estimate @ np.linalg.solve(L @ self.adjusted @ L.T, estimate), m


def test_sleepstudy_has_the_degrees_of_freedom_of_lmertest():
    """lmerTest 3.1, Reaction ~ Days + (1 | Subject): 22.8102 and 161; the design is balanced in Days."""
    table = sleep().coefficients()
    assert_allclose(table["df"], [22.8102, 161.0], rtol=1e-5)
    assert_allclose(table["t"], [25.794, 13.015], rtol=1e-4)


@pytest.mark.parametrize("df", BOTH)
def test_balanced_designs_have_their_exact_degrees_of_freedom(df):
    """Treatments between groups have a - t degrees of freedom and the F of group means; within, the residual's."""
    rng = np.random.default_rng(3)
    group, unit = np.repeat(np.arange(9), 4), np.tile(np.arange(4), 9)
    W = (group[:, None] == np.arange(9)).astype(float)
    between = (group % 3)[:, None] == np.arange(3)
    within = unit[:, None] == np.arange(4)
    X = np.column_stack([np.ones(36), between[:, 1:], within[:, 1:]]).astype(float)
    y = W @ rng.normal(size=9) * 2 + rng.normal(size=36) + X @ rng.normal(size=6)
    fit = flmm.reml(flmm.Spectrum.from_factor(W, X), y)
    assert fit.boundary == ()
    treatment, level = np.eye(6)[1:3], np.eye(6)[3:]
    whole, split = fit.test_fixed(treatment, df), fit.test_fixed(level, df)
    assert_allclose([whole.df_den, split.df_den], [6, 24], rtol=1e-7)
    means = y.reshape(9, 4).mean(1)
    arms = np.array([means[k::3].mean() for k in range(3)])
    residual = means - arms[np.arange(9) % 3]
    assert_allclose(whole.statistic, (3 * ((arms - arms.mean()) ** 2).sum() / 2) / (residual @ residual / 6), rtol=1e-7)
    assert_allclose(fit.coefficients(df)["df"].iloc[1:], [6, 6, 24, 24, 24], rtol=1e-7)
    if df == KENWARD_ROGER:  # the adjustment is none where Φ is linear in θ
        assert_allclose(fit.coefficients(df)["se"], fit.beta_se, rtol=1e-9)


@pytest.mark.parametrize("r", [2, 3, 4])
def test_kenward_roger_is_its_definition(r):
    W, X, y = unbalanced(r=r)
    fit = flmm.reml(flmm.Spectrum.from_factor(W, X), y)
    assert fit.boundary == ()
    written = Written(W @ W.T, X, fit.sigma2_g, fit.sigma2_e)
    table = fit.coefficients(KENWARD_ROGER)
    assert_allclose(table["se"], np.sqrt(np.diag(written.adjusted)), rtol=1e-8)
    assert (table["se"] > fit.beta_se * (1 + 1e-6)).any()
    for row in np.eye(r):
        F, m = written.f_test(row[None], fit.beta)
        found = fit.test_fixed(row, KENWARD_ROGER)
        assert_allclose([found.statistic, found.df_den], [F, m], rtol=1e-7)
    L = np.random.default_rng(0).normal(size=(2, r))
    found = fit.test_fixed(L, KENWARD_ROGER)
    assert_allclose([found.statistic, found.df_den], written.f_test(L, fit.beta), rtol=1e-7)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_satterthwaite_is_its_definition_by_differences(oracle, method):
    W, X, y = unbalanced()
    K = W @ W.T
    fit = flmm.reml(flmm.Spectrum.from_factor(W, X), y, method=method)
    theta = np.array([fit.sigma2_g, fit.sigma2_e])
    h = 1e-4 * theta

    def slopes(function):
        steps = np.diag(h)
        return np.stack([(function(theta + s) - function(theta - s)) / (2 * s.sum()) for s in steps])

    def score(t):
        return oracle.gradient(K, X, y, *t, method)

    A = np.linalg.inv(-slopes(score))
    for row in (*np.eye(3), np.array([1.0, -2.0, 0.5])):
        g = slopes(lambda t, row=row: row @ oracle.Dense(K, X, y, *t).beta_cov @ row)
        exact = 2 * (row @ fit.beta_cov @ row) ** 2 / (g @ A @ g)
        assert_allclose(fit.test_fixed(row).df_den, exact, rtol=1e-5)


def test_on_a_boundary_the_degrees_of_freedom_are_residual():
    rng = np.random.default_rng(4)
    W = np.repeat(np.eye(5), 4, axis=0)
    X = np.column_stack([np.ones(20), rng.normal(size=20)])
    Y = rng.normal(size=(20, 40))
    fits = flmm.reml(flmm.Spectrum.from_factor(W, X), Y)
    t = int(np.flatnonzero(fits.at_zero[:, 0])[0])
    for df in (*BOTH, "residual"):
        table = fits.coefficients(df).loc[f"y{t}"]
        assert_allclose(table["df"], 18, rtol=1e-9)
        ols = np.linalg.lstsq(X, Y[:, t], rcond=None)
        s2 = ols[1][0] / 18
        assert_allclose(table["se"], np.sqrt(s2 * np.diag(np.linalg.inv(X.T @ X))), rtol=1e-9)


@pytest.mark.parametrize("df", BOTH)
def test_many_responses_have_the_tables_and_tests_of_each(df):
    W, X, y = unbalanced()
    Y = np.column_stack([y, y[::-1], np.random.default_rng(0).normal(size=24), np.ones(24)])
    fits = flmm.reml(flmm.Spectrum.from_factor(W, X), Y)
    table, tests = fits.coefficients(df), fits.test_fixed(["x1", "x2"], df)
    for t, name in enumerate(fits.names[:3]):
        alone = fits.response(name)
        assert_allclose(table.loc[name], alone.coefficients(df), rtol=1e-8)
        assert_allclose(tests.table().iloc[t, :3], [tests.statistic[t], 2, tests.df_den[t]])
        assert_allclose(alone.test_fixed(["x1", "x2"], df).p_value, tests.p_value[t], rtol=1e-8)
    assert table.loc["y3"].drop(columns="estimate").isna().all().all()
    assert np.isnan(tests.p_value[3])


@pytest.mark.parametrize("df", [*BOTH, "residual"])
def test_tests_do_not_depend_on_units_or_on_the_coding_of_X(df):
    W, X, y = unbalanced()
    fit = flmm.reml(flmm.Spectrum.from_factor(W, X), y)
    A = np.array([[1.0, 2, 0], [0, 3, 1], [0.5, 0, -2]])
    other = flmm.reml(flmm.Spectrum.from_factor(1e3 * W, X @ A), 1e-4 * y)
    L = np.array([[0.0, 1, 0], [0, 0, 1]])
    one, two = fit.test_fixed(L, df), other.test_fixed(L @ A, df)
    assert_allclose([one.statistic, one.df_den], [two.statistic, two.df_den], rtol=1e-6)


def test_contrasts_can_be_named():
    W, X, y = unbalanced()
    fit = flmm.reml(flmm.Spectrum.from_factor(W, X), y)
    assert_allclose(fit.test_fixed("x1").statistic, fit.coefficients().loc["x1", "t"] ** 2)
    assert_allclose(fit.test_fixed("x1").p_value, fit.coefficients().loc["x1", "p_value"])
    assert_allclose(fit.test_fixed({"x1": 1, "x2": -1}).estimate, fit.beta.iloc[1] - fit.beta.iloc[2])
    assert fit.test_fixed(["x1", "x2"]).df_num == 2
    assert "F(2, " in repr(fit.test_fixed(["x1", "x2"]))
    assert list(fit.test_fixed("x0").table().columns) == ["F", "df_num", "df_den", "p_value"]


def test_bad_requests_are_refused_with_the_remedy():
    W, X, y = unbalanced()
    spectrum = flmm.Spectrum.from_factor(W, X)
    fit = flmm.reml(spectrum, y)
    with pytest.raises(ValueError, match="L names 'z', which is no coefficient: the coefficients are x0, x1, x2"):
        fit.test_fixed("z")
    with pytest.raises(ValueError, match="finite with 3 columns"):
        fit.test_fixed([1.0, 0.0])
    with pytest.raises(ValueError, match="rows of L are collinear or zero"):
        fit.test_fixed([[1.0, 0, 0], [2.0, 0, 0]])
    with pytest.raises(ValueError, match="'satterthwaite', 'kenward-roger' or 'residual', got 'kr'"):
        fit.coefficients("kr")
    with pytest.raises(ValueError, match="level must be between"):
        fit.coefficients(level=95)
    with pytest.raises(ValueError, match="restricted likelihood: fit with method='REML'"):
        flmm.reml(spectrum, y, method="ML").coefficients(KENWARD_ROGER)


def test_the_size_of_t_tests_is_the_level_where_that_of_normal_quantiles_is_not():
    """A treatment between six unequal groups."""
    rng = np.random.default_rng(5)
    sizes = [3, 8, 5, 10, 4, 6]
    group = np.repeat(np.arange(6), sizes)
    W = (group[:, None] == np.arange(6)).astype(float)
    X = np.column_stack([np.ones(36), group % 2]).astype(float)
    Y = W @ rng.normal(size=(6, 6000)) * 2 + rng.normal(size=(36, 6000))
    fits = flmm.reml(flmm.Spectrum.from_factor(W, X), Y)
    size = {}
    for df in (*BOTH, "residual"):
        p = fits.coefficients(df)["p_value"].to_numpy().reshape(6000, 2)
        size[df] = (p[:, 1] <= 0.05).mean()
    error = np.sqrt(0.05 * 0.95 / 6000)
    assert abs(size[KENWARD_ROGER] - 0.05) < 5 * error
    assert abs(size[SATTERTHWAITE] - 0.05) < 5 * error
    assert size["residual"] > 0.1
