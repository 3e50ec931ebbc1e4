"""Tests, intervals and degrees of freedom of structured fits: dense refits, lmerTest, lme4, a published ANOVA."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import chi2

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

CUT = chi2.ppf(0.95, 1)
OATS = """
111 130 157 174 117 114 161 141 105 140 118 156 61 91 97 100 70 108 126 149 96 124 121 144
68 64 112 86 60 102 89 96 89 129 132 124 74 89 81 122 64 103 132 133 70 89 104 117
62 90 100 116 80 82 94 126 63 70 109 99 53 74 118 113 89 82 86 104 97 99 119 121
"""  # Yates (1935), doi:10.2307/2983638: 6 blocks × 3 varieties × 4 amounts of nitrogen


def find(model, **kwargs):
    return flmm.find_reml(model, progressbar=False, **kwargs)


@pytest.fixture(scope="module")
def oats():
    cells = pd.MultiIndex.from_product([range(6), ["victory", "golden", "marvellous"], [0, 2, 4, 6]])
    table = cells.to_frame(index=False, name=["block", "variety", "nitrogen"]).astype({"nitrogen": str, "block": str})
    table["y"] = np.array(OATS.split(), dtype=float)
    model = flmm.lmm_model("y ~ variety * nitrogen + (1 | block) + (1 | block:variety)", table)
    return table, find(model)


def crossed(seed=0, n=60, slope=0.0):
    """Two crossed factors of unequal frequencies, and a covariate."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(6, size=n), rng.integers(5, size=n)
    x = rng.normal(size=n)
    y = rng.normal(size=6)[a] * 1.5 + slope * rng.normal(size=5)[b] + rng.normal(size=n) + x
    return pd.DataFrame({"y": y, "x": x, "a": a.astype(str), "b": b.astype(str)})


def dense_parts(table):
    parts = [np.equal.outer(table[f].to_numpy(), table[f].to_numpy()).astype(float) for f in ("a", "b")]
    return [*parts, np.eye(len(table))], np.column_stack([np.ones(len(table)), table["x"]])


def minus_loglik(theta, y, X, parts):
    V = sum(t * part for t, part in zip(theta, parts, strict=True))
    sign, logdet = np.linalg.slogdet(V)
    if sign <= 0:
        return 1e10
    Vinv = np.linalg.inv(V)
    A = X.T @ Vinv @ X
    residual = y - X @ np.linalg.solve(A, X.T @ Vinv @ y)
    return 0.5 * (logdet + np.linalg.slogdet(A)[1] + residual @ Vinv @ residual + (len(y) - 2) * np.log(2 * np.pi))


def highest(y, X, parts, held):
    """max ℓ over log variances with some held, by Nelder–Mead."""
    free = [i for i in range(3) if i not in held]

    def objective(logs):
        theta = np.zeros(3)
        theta[free] = np.exp(logs)
        for i, value in held.items():
            theta[i] = value
        return minus_loglik(theta, y, X, parts)

    options = {"xatol": 1e-8, "fatol": 1e-11, "maxiter": 5000}
    starts = ([0.0] * len(free), [-3.0] * (len(free) - 1) + [0.3])
    return -min(minimize(objective, s, method="Nelder-Mead", options=options).fun for s in starts)


# ---------------------------------------------------------------- fixed effects


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger", "residual"])
def test_a_kernel_beside_a_known_variance_has_the_degrees_of_freedom_of_any_V(df):
    table = crossed(seed=3)
    (J, _, _), X = dense_parts(table)
    held = {"residual": 1.5}
    kernel = find(flmm.lmm_model("y ~ x + (1 | a)", table), fixed=held)
    start = {"a": 1.0, "residual": 1.5}
    slopes = [J, np.eye(len(table))]
    dense = flmm.reml_covariance(
        lambda theta: theta[0] * J + theta[1] * np.eye(len(J)), table["y"], X, derivative=lambda theta: slopes,
        start=start, fixed=["residual"], progressbar=False,
    )  # fmt: skip
    assert_allclose(kernel.coefficients(df), dense.coefficients(df), rtol=1e-4)


def test_random_slopes_have_lmertests_degrees_of_freedom():
    """lmerTest 3.1, sleepstudy: 17 for both, F = 45.853 for Days; the design is balanced, so Kenward–Roger agrees."""
    fit = find(flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy()))
    for df in ("satterthwaite", "kenward-roger"):
        table = fit.coefficients(df)
        assert_allclose(table["df"], 17, rtol=2e-5)
        assert_allclose(table["se"], [6.8246, 1.5458], rtol=2e-5)
        assert_allclose(fit.test_fixed("Days", df).statistic, 45.853, rtol=2e-5)
        both = fit.test_fixed(["Intercept", "Days"], df)
        assert both.df_num == 2
    # pbkrtest's F of both coefficients of 18 subjects is Hotelling's T² · 16/(2 · 17), on 2 and 16
    assert_allclose(both.df_den, 16, rtol=1e-4)
    assert_allclose(both.statistic, 2 * fit.test_fixed(["Intercept", "Days"]).statistic * 16 / 34, rtol=1e-4)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_the_split_plot_of_oats_has_its_analysis_of_variance(oats, df):
    """F(2, 10) = 1.485, F(3, 45) = 37.69, F(6, 45) = 0.3028: Venables & Ripley (2002), section 10.2."""
    _, fit = oats
    names = list(fit.beta.index)
    varieties, amounts = ["golden", "marvellous", "victory"], ["0", "2", "4", "6"]
    cell = pd.DataFrame(0.0, index=pd.MultiIndex.from_product([varieties, amounts]), columns=names)
    for (v, a), row in cell.iterrows():
        for name in names:
            parts = [] if name == "Intercept" else name.replace("variety", "").replace("nitrogen", "").split(":")
            levels = [p.strip("[]").removeprefix("T.") for p in parts]
            row[name] = float(all(level in (v, a) for level in levels))
        cell.loc[(v, a)] = row
    means = cell.to_numpy().reshape(3, 4, -1)
    variety = means.mean(1)[1:] - means.mean(1)[0]
    nitrogen = means.mean(0)[1:] - means.mean(0)[0]
    interaction = (means[1:, 1:] - means[1:, :1] - means[:1, 1:] + means[:1, :1]).reshape(6, -1)
    for L, F, q, d in ((variety, 1.48534, 2, 10), (nitrogen, 37.68562, 3, 45), (interaction, 0.30282, 6, 45)):
        test = fit.test_fixed(L, df)
        assert test.df_num == q
        assert_allclose(test.df_den, d, rtol=1e-4)
        assert_allclose(test.statistic, F, rtol=2e-5)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_differences_agree_with_the_closed_form_of_one_kernel(df):
    """The same model as a StructuredLMM whose parameters the spectral engine does not see, and by reml."""
    table = crossed()
    X = np.column_stack([np.ones(60), table["x"]])
    W = pd.get_dummies(table["a"]).to_numpy(float)
    exact = flmm.reml(flmm.Spectrum.from_factor(W, X), table["y"].to_numpy())
    found = flmm.reml_covariance(
        lambda theta: theta[0] * (W @ W.T) + theta[1] * np.eye(60), table["y"], X,
        start={"a": 1.0, "e": 1.0}, bounds={"a": (0, np.inf), "e": (0, np.inf)}, progressbar=False,
    )  # fmt: skip
    assert_allclose(found.coefficients(df), exact.coefficients(df), rtol=2e-5)
    for L in (np.eye(2), np.array([[1.0, 2.0]])):
        one, two = found.test_fixed(L, df), exact.test_fixed(L, df)
        assert_allclose([one.statistic, one.df_den], [two.statistic, two.df_den], rtol=2e-5)


def test_kenward_roger_of_crossed_factors_is_its_definition():
    table = crossed(3, slope=1.0)
    fit = find(flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", table))
    assert not fit.boundary
    parts, X = dense_parts(table)
    theta = fit.theta.to_numpy()
    Vinv = np.linalg.inv(sum(t * part for t, part in zip(theta, parts, strict=True)))
    Phi = np.linalg.inv(X.T @ Vinv @ X)
    P = [-X.T @ Vinv @ D @ Vinv @ X for D in parts]
    project = Vinv - Vinv @ X @ Phi @ X.T @ Vinv
    expected = np.array([[0.5 * np.trace(project @ A @ project @ B) for B in parts] for A in parts])
    weights = np.linalg.inv(expected)
    middle = sum(
        weights[i, j] * (X.T @ Vinv @ parts[i] @ Vinv @ parts[j] @ Vinv @ X - P[i] @ Phi @ P[j])
        for i in range(3)
        for j in range(3)
    )
    table = fit.coefficients("kenward-roger")
    assert_allclose(table["se"] ** 2, np.diag(Phi + 2 * Phi @ middle @ Phi), rtol=1e-6)
    for k, row in enumerate(np.eye(2)):
        g = np.array([row @ Phi @ p @ Phi @ row for p in P])
        assert_allclose(table["df"].iloc[k], 2 * Phi[k, k] ** 2 / (g @ weights @ g), rtol=2e-5)


def test_a_component_on_the_boundary_is_taken_as_known(reference):
    data = pd.DataFrame(reference.table("dyestuff2.csv"))
    fit = find(flmm.lmm_model("Yield ~ 1 + (1 | Batch)", data))
    assert fit.boundary
    for df in ("satterthwaite", "kenward-roger"):
        assert_allclose(fit.coefficients(df)["df"], 29, rtol=1e-6)


# ---------------------------------------------------------------- profile intervals


def test_limits_of_variances_are_where_the_dense_profile_falls():
    table = crossed(3, slope=1.0)
    fit = find(flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", table))
    parts, X = dense_parts(table)
    y = table["y"].to_numpy()
    for i, name in enumerate(fit.theta.index):
        for limit in fit.interval(name):
            rise = 2 * (fit.loglik - highest(y, X, parts, {i: limit}))
            assert_allclose(rise, CUT, atol=1e-4) if limit > 0 else np.testing.assert_array_less(rise, CUT)


def test_one_kernel_has_the_intervals_of_lme4():
    """lme4's profile of Dyestuff (Bates 2010, chapter 1), which it interpolates by splines: good to about 2e-4."""
    model = flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
    fit = find(model, method="ML")
    assert_allclose(np.sqrt(fit.interval("Batch")), [12.19854, 84.06305], rtol=3e-4)
    assert_allclose(np.sqrt(fit.interval("residual")), [38.22998, 67.65770], rtol=3e-4)
    data = flmm.datasets.dyestuff()
    spectrum = flmm.Spectrum.from_factor(pd.get_dummies(data["Batch"]).to_numpy(float), np.ones((30, 1)))
    kernel = flmm.reml(spectrum, data["Yield"].to_numpy(), method="ML")
    assert_allclose(kernel.interval("beta[x0]"), [1486.451501, 1568.548494], rtol=3e-5)


def test_limits_of_a_dense_parameter_are_those_of_the_spectral_engine():
    table = crossed()
    X, W = np.column_stack([np.ones(60), table["x"]]), pd.get_dummies(table["a"]).to_numpy(float)
    exact = flmm.reml(flmm.Spectrum.from_factor(W, X), table["y"].to_numpy())
    found = flmm.reml_covariance(
        lambda theta: theta[0] ** 2 * (W @ W.T) + theta[1] ** 2 * np.eye(60), table["y"], X,
        start={"a": 1.0, "e": 1.0}, bounds={"a": (0, np.inf), "e": (0, np.inf)}, progressbar=False,
    )  # fmt: skip
    assert_allclose(np.square(found.interval("a")), exact.interval("sigma2_g"), rtol=1e-6)
    assert_allclose(np.square(found.interval("e")), exact.interval("sigma2_e"), rtol=1e-6)


def test_a_lower_limit_is_zero_where_the_likelihood_does_not_fall():
    fit = find(flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", crossed(1)))
    assert fit.interval("b")[0] == 0
    assert fit.interval("b")[1] > fit.theta["b"]


# ---------------------------------------------------------------- tests of a variance


def test_one_component_has_the_exact_test_of_its_kernel():
    data = flmm.datasets.dyestuff()
    spectrum = flmm.Spectrum.from_factor(pd.get_dummies(data["Batch"]).to_numpy(float), np.ones((30, 1)))
    kernel = flmm.reml(spectrum, data["Yield"].to_numpy()).test_no_variance(random_seed=1)
    test = find(flmm.lmm_model("Yield ~ 1 + (1 | Batch)", data)).test_no_variance("Batch", random_seed=1)
    assert_allclose([test.statistic, test.p_value], [kernel.statistic, kernel.p_value], rtol=1e-6)
    assert test.approximation == ""
    assert test.component == "Batch"


def test_the_statistic_of_one_of_two_components_is_the_dense_one():
    table = crossed(3, slope=0.7)
    fit = find(flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", table))
    parts, X = dense_parts(table)
    y = table["y"].to_numpy()
    for i, name in enumerate(("a", "b")):
        test = fit.test_no_variance(name, n_sim=500, random_seed=2)
        assert_allclose(test.statistic, 2 * (fit.loglik - highest(y, X, parts, {i: 0.0})), atol=1e-5)
        assert "pseudo-likelihood" in test.approximation
        assert "pseudo-likelihood" in repr(test)


@pytest.mark.slow
def test_the_size_of_the_approximation_is_near_the_level():
    """200 data sets without the second factor's variance, ten levels of the first."""
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"a": np.repeat(np.arange(10), 6).astype(str), "b": rng.integers(4, size=60).astype(str)})
    A = pd.get_dummies(table["a"]).to_numpy(float)
    p = []
    for _ in range(200):
        table["y"] = A @ rng.normal(size=10) + rng.normal(size=60)
        fit = find(flmm.lmm_model("y ~ 1 + (1 | a) + (1 | b)", table))
        p.append(fit.test_no_variance("b", n_sim=500, random_seed=3).p_value)
    p = np.array(p)
    assert 0.3 < (p == 1).mean() < 0.85
    for level in (0.2, 0.05):
        assert abs((p <= level).mean() - level) < 3 * np.sqrt(level * (1 - level) / 200)


def test_a_component_on_the_boundary_has_p_one(reference):
    fit = find(flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", crossed(8)))
    on = [name for name in fit.boundary if name != "residual"]
    if not on:
        fit = next(
            f
            for f in (find(flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", crossed(seed))) for seed in range(9, 40))
            if f.boundary
        )
        on = list(fit.boundary)
    test = fit.test_no_variance(on[0], n_sim=200)
    assert (test.statistic, test.p_value, test.p_value_se, test.n_sim, test.approximation) == (0, 1, 0, 0, "")


def test_random_slopes_have_the_test_and_the_intervals_that_messages_name():
    sleep = flmm.datasets.sleepstudy()
    without, with_, independent = (
        find(flmm.lmm_model(f"Reaction ~ Days + {term}", sleep))
        for term in ("(1 | Subject)", "(Days | Subject)", "(Days || Subject)")
    )
    table = flmm.compare_fits(without, with_)
    assert_allclose(table["chi2"].iloc[1], 2 * (-871.8141 + 893.2325), atol=2e-3)  # lme4 1.1-31
    assert table["reference"].iloc[1] == "½χ²₁ + ½χ²₂"
    assert {"lower", "upper"} <= set(with_.coefficients().columns)
    low, high = independent.interval("Subject[Days]")
    assert low < independent.theta["Subject[Days]"] < high


def test_bad_requests_are_refused_with_the_remedy():
    table = crossed(3, slope=1.0)
    model = flmm.lmm_model("y ~ x + (1 | a) + (1 | b)", table)
    fit = find(model)
    with pytest.raises(ValueError, match="no parameter 'c': they are a, b, residual"):
        fit.interval("c")
    with pytest.raises(ValueError, match="residual is no variance of a component"):
        fit.test_no_variance("residual")
    with pytest.raises(ValueError, match="method='REML'"):
        find(model, method="ML").test_no_variance("a")
    with pytest.raises(ValueError, match="restricted likelihood: fit with method='REML'"):
        find(model, method="ML").coefficients("kenward-roger")
    with pytest.raises(ValueError, match="a is fixed"):
        find(model, fixed={"a": 1.0}).interval("a")
    slopes = find(flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy()))
    with pytest.raises(ValueError, match=r"is a covariance, .*: corr_Subject\[Intercept, Days\], the correlation"):
        slopes.interval("Subject[Intercept, Days]")
    with pytest.raises(ValueError, match="element of an unstructured matrix"):
        slopes.test_no_variance(slopes.theta.index[0])
    with pytest.raises(ValueError, match=r"no parameter 'Subject': they are .*For all of Subject, flmm.compare_fits"):
        slopes.test_no_variance("Subject")
    with pytest.raises(ValueError, match=r"flmm.compare_fits\(without, with_\) tests random slopes .*\(x \|\| g\)"):
        slopes.test_no_variance("Subject[Days]")
    for ask, name in (
        (slopes.test_no_variance, "beta[Days]"),
        (slopes.test_no_variance, "Days"),
        (slopes.interval, "Days"),
    ):
        with pytest.raises(ValueError, match=r"is a fixed effect, .*: fit.coefficients\(\) has its t test"):
            ask(name)
    nonlinear = flmm.reml_covariance(
        lambda theta: np.exp(1) ** theta[0] * dense_parts(table)[0][0] + theta[1] * np.eye(60), table["y"],
        start={"log_a": 0.0, "e": 1.0}, X=np.ones((60, 1)), progressbar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="linear in its parameters"):
        nonlinear.coefficients("kenward-roger")
    assert np.isfinite(nonlinear.coefficients()["df"]).all()
    with pm.Model() as explicit:
        beta = np.array([0.0, 1.0])
        v = pm.HalfNormal("v", 1)
        term = flmm.Term(table["a"], cov.scalar(v), name="a")
        X = np.column_stack([np.ones(60), table["x"]])
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=pm.HalfNormal("e", 1), beta=beta, observed=table["y"])
    with pytest.raises(ValueError, match="estimates no fixed effects by REML"):
        find(explicit).coefficients()


# ---------------------------------------------------------------- other engines


def test_a_lengthscale_has_limits_where_its_profile_falls(lengthscales):
    example = lengthscales.Example()
    fit = find(example.model())
    low, high = fit.interval("lengthscale")
    assert low < fit.theta["lengthscale"] < high
    for limit in (low, high):
        best = flmm.reml(example.spectrum.at(limit), example.y)  # the variances by another engine, globally
        if lengthscales.RANGE[0] < limit < lengthscales.RANGE[1]:
            assert_allclose(2 * (fit.loglik - best.loglik), CUT, atol=1e-4)
    with pytest.raises(ValueError, match="restricted likelihood of terms"):
        fit.test_no_variance("sigma2_g")


def test_fourier_features_have_satterthwaite_tables_and_profile_intervals():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(size=300))
    X = np.column_stack([np.ones(300), rng.normal(size=300)])
    y = X @ [1.0, 0.5] + np.sin(6 * x) + 0.5 * rng.normal(size=300)
    basis = flmm.FourierBasis(x, "matern52", lengthscale=(0.1, 1.0), domain=(0.0, 1.0), noise_ratio_min=0.1)
    statistics = flmm.FourierStatistics.from_arrays(basis, x, y, X)
    with pm.Model() as model:
        s2, e2 = pm.HalfNormal("s2", 3), pm.HalfNormal("e2", 3)
        flmm.FourierLMM("y", statistics=statistics, lengthscale=0.3, sigma2=s2, sigma2_e=e2)
    fit = find(model)
    low, high = fit.interval("e2")
    assert low < fit.theta["e2"] < high
    for limit in (low, high):
        again = find(model, fixed={"e2": limit})
        assert_allclose(2 * (fit.loglik - again.loglik), CUT, atol=1e-5)
    df = fit.coefficients()["df"]
    assert 250 < df.iloc[1] < 298
