"""Intervals of standard deviations, correlations, coefficients: lme4's, nested models, dense profiles, differences."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import chi2, norm

import pm_fastlmm as flmm

CUT = chi2.ppf(0.95, 1)
SD = ["sd_Subject[Intercept]", "corr_Subject[Intercept, Days]", "sd_Subject[Days]", "sd_residual"]


def find(formula, data, **kwargs):
    return flmm.find_reml(formula, data, progressbar=False, **kwargs)


def groups(slope, seed, n=10, m=6):
    """Groups with a random intercept and a slope that is a function of it and of a generator."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(n), m), np.tile(np.linspace(-1, 1, m), n)
    u = rng.normal(size=n)
    y = u[g] + slope(u, rng)[g] * x + rng.normal(size=n * m)
    return pd.DataFrame({"y": y, "x": x, "x2": x**2, "g": g.astype(str), "h": np.tile(np.arange(n), m).astype(str)})


@pytest.fixture(scope="module")
def sleep():
    return flmm.datasets.sleepstudy()


@pytest.fixture(scope="module")
def slopes(sleep):
    return find("Reaction ~ Days + (Days | Subject)", sleep)


@pytest.fixture(scope="module")
def table():
    return groups(lambda u, rng: 1.5 * rng.normal(size=u.size), seed=3)


@pytest.fixture(scope="module")
def flat():
    """No slope at all: its variance is about 0 and the matrix singular."""
    return find("y ~ x + (x | g)", groups(lambda u, rng: 0 * u, seed=1))


class Dense:
    """-ℓ_R of y ~ x + (x | g) in (log sd, log sd, atanh r, log sd of the residual), from the matrices themselves."""

    def __init__(self, table):
        self.y, self.X = table["y"].to_numpy(), np.column_stack([np.ones(len(table)), table["x"]])
        self.same, self.x = np.equal.outer(table["g"].to_numpy(), table["g"].to_numpy()), table["x"].to_numpy()

    def __call__(self, p):
        a, b, r, e = np.exp(p[0]), np.exp(p[1]), np.tanh(p[2]), np.exp(p[3])
        x = self.x
        K = a**2 + a * b * r * np.add.outer(x, x) + b**2 * np.outer(x, x)
        V = K * self.same + e**2 * np.eye(len(x))
        Vinv = np.linalg.inv(V)
        A = self.X.T @ Vinv @ self.X
        residual = self.y - self.X @ np.linalg.solve(A, self.X.T @ Vinv @ self.y)
        logdet = np.linalg.slogdet(V)[1] + np.linalg.slogdet(A)[1]
        return 0.5 * (logdet + residual @ Vinv @ residual + (len(x) - 2) * np.log(2 * np.pi))

    def highest(self, held):
        """Max over the parameters that are not held."""
        free = [i for i in range(4) if i not in held]

        def objective(values):
            p = np.zeros(4)
            p[free], p[list(held)] = values, list(held.values())
            return self(p)

        return -minimize(objective, np.zeros(3), method="BFGS", options={"gtol": 1e-6}).fun


# ---------------------------------------------------------------- profile


def test_the_table_is_what_confint_of_lme4_gives(sleep):
    """`confint(lmer(Reaction ~ Days + (Days|Subject), sleepstudy, REML = FALSE))`, the example of lme4's manual."""
    fit = find("Reaction ~ Days + (Days | Subject)", sleep, method="ML")
    expected = [
        [14.3814, 37.7160], [-0.4815, 0.6850], [3.8012, 8.7534], [22.8983, 28.8580],
        [237.6807, 265.1295], [7.3587, 13.5759],
    ]  # fmt: skip
    names = [*SD, "beta[Intercept]", "beta[Days]"]
    assert_allclose(fit.intervals(quantities=names)[["lower", "upper"]], expected, rtol=1e-5, atol=5e-5)
    assert [name for name in fit.intervals("delta").index if name in names] == names


def test_limits_are_where_the_dense_profile_falls(table):
    fit, dense = find("y ~ x + (x | g)", table), Dense(table)
    for name, place, to in (
        ("sd_g[Intercept]", 0, np.log),
        ("sd_g[x]", 1, np.log),
        ("corr_g[Intercept, x]", 2, np.arctanh),
    ):
        for limit in fit.interval(name):
            assert_allclose(2 * (fit.loglik - dense.highest({place: to(limit)})), CUT, atol=1e-5)
    assert_allclose(fit.interval("g[x]"), np.square(fit.interval("sd_g[x]")))


def test_the_profile_meets_the_models_that_hold_a_parameter(table, slopes, sleep):
    """At 0 a standard deviation leaves a term without the effect, and a correlation the independent effects."""
    full = find("y ~ x + (x + x2 | g) + (1 | h)", table)
    without = find("y ~ x + (x2 | g) + (1 | h)", table)
    assert_allclose(full.profile([0.0], "sd_g[x]"), without.loglik, atol=1e-6)
    independent, intercepts = (
        find(f"Reaction ~ Days + {term}", sleep) for term in ("(Days || Subject)", "(1 | Subject)")
    )
    assert_allclose(slopes.profile([0.0], SD[1]), independent.loglik, atol=1e-6)
    assert_allclose(slopes.profile([0.0, 0.0], SD[2]), intercepts.loglik, atol=1e-6)
    sd = float(np.sqrt(slopes.theta["Subject[Days]"]))
    assert_allclose(slopes.profile([[sd]], SD[2]), [[slopes.loglik]])


def test_a_coefficient_has_the_limits_of_one_kernel():
    data = groups(lambda u, rng: 0 * u, seed=5)
    X, W = np.column_stack([np.ones(60), data["x"]]), pd.get_dummies(data["g"]).to_numpy(float)
    for method in ("REML", "ML"):
        kernel = flmm.reml(flmm.Spectrum.from_factor(W, X), data["y"].to_numpy(), method=method)
        found = flmm.reml_covariance(
            lambda theta: theta[0] * (W @ W.T) + theta[1] * np.eye(60), data["y"], X, start={"a": 1.0, "e": 1.0},
            bounds={"a": (0, np.inf), "e": (1e-6, np.inf)}, method=method, progressbar=False,
        )  # fmt: skip
        for j in range(2):
            assert_allclose(found.interval(f"beta[x{j}]"), kernel.interval(f"beta[x{j}]"), rtol=1e-5)


def test_what_the_data_do_not_exclude_is_said(flat):
    found = flat.intervals()
    assert flat.boundary[:3] == ("g[Intercept]", "g[Intercept, x]", "g[x]")
    assert found.loc["sd_g[x]", "lower"] == 0
    assert found.loc["corr_g[Intercept, x]", ["lower", "upper"]].tolist() == [-1, 1]
    notes = found.attrs["notes"]
    assert notes["sd_g[x]"] == "one-sided, the data do not exclude the bound 0"
    assert notes["corr_g[Intercept, x]"] == "the data exclude neither bound, -1 and 1"
    assert set(notes) == {name for name in found.index if found.loc[name, "lower"] == 0} | {"corr_g[Intercept, x]"}
    assert 2 <= len(notes) < 6
    for shown in (repr(found), found._repr_html_(), found.to_markdown()):
        assert "sd_g[x]: one-sided, the data do not exclude the bound 0" in shown
    nested = find("y ~ x + (1 | g)", groups(lambda u, rng: 0 * u, seed=1))
    assert 2 * (flat.loglik - nested.loglik) < CUT


def test_a_correlation_near_1_has_a_lower_limit_alone():
    fit = find("y ~ x + (x | g)", groups(lambda u, rng: u, seed=4))
    low, high = fit.interval("corr_g[Intercept, x]")
    assert 0 < low < high == 1
    assert_allclose(
        2 * (fit.loglik - Dense(groups(lambda u, rng: u, seed=4)).highest({2: np.arctanh(low)})), CUT, atol=1e-5
    )


# ---------------------------------------------------------------- delta and bootstrap


def test_delta_intervals_are_those_of_the_curvature_in_logarithms(table):
    fit, dense = find("y ~ x + (x | g)", table), Dense(table)
    a, c, b, e = fit.theta
    at, h = np.array([np.log(a) / 2, np.log(b) / 2, np.arctanh(c / np.sqrt(a * b)), np.log(e) / 2]), 1e-3
    E = h * np.eye(4)
    H = [
        [(dense(at + i + j) - dense(at + i - j) - dense(at - i + j) + dense(at - i - j)) / (4 * h * h) for i in E]
        for j in E
    ]
    half = norm.ppf(0.95) * np.sqrt(np.diag(np.linalg.inv(H)))
    ends = np.column_stack([at - half, at + half])
    expected = [np.exp(ends[0]), np.tanh(ends[2]), np.exp(ends[1]), np.exp(ends[3])]
    names = ["sd_g[Intercept]", "corr_g[Intercept, x]", "sd_g[x]", "sd_residual"]
    assert_allclose(fit.intervals("delta", 0.9, quantities=names)[["lower", "upper"]], expected, rtol=1e-4)


def test_a_delta_interval_on_the_boundary_is_undefined_and_says_so(flat):
    found = flat.intervals("delta")
    assert found.loc["sd_g[x]", ["lower", "upper"]].isna().all()
    assert "kind='profile' has an interval" in found.attrs["notes"]["sd_g[x]"]
    assert found.loc["sd_residual", "lower"] > 0


def test_replicates_are_fits_of_simulated_responses(slopes, sleep):
    replicates = slopes.bootstrap(6, random_seed=3)
    rng = np.random.default_rng(3)
    for i in range(6):
        drawn = sleep.assign(Reaction=slopes.simulate(1, random_seed=rng)[0].to_numpy())
        again = find("Reaction ~ Days + (Days | Subject)", drawn).summary()
        assert_allclose(
            replicates.draws["Subject[Intercept, Days]"][i], again.loc["Subject[Intercept, Days]", "estimate"]
        )
        assert_allclose(replicates.draws[SD[1]][i], again.loc["Subject[Intercept, Days]", "corr"], rtol=1e-6)
        assert_allclose(replicates.draws[SD[3]][i], again.loc["residual", "sd"])
        assert_allclose(replicates.draws["beta[Days]"][i], again.loc["beta[Days]", "estimate"])
    table = slopes.intervals("bootstrap", n_sim=6, random_seed=3)
    assert list(table.index) == list(replicates.draws)
    for name in table.index:
        assert tuple(table.loc[name, ["lower", "upper"]]) == replicates.interval(name)
    low, _ = replicates.interval("Subject[Intercept, Days]", kind="basic")
    assert_allclose(low + replicates.interval("Subject[Intercept, Days]")[1], 2 * slopes.theta.iloc[1])
    assert "6 replicates" in repr(replicates)


def test_one_kernel_is_drawn_in_its_rotated_coordinates():
    fit = find("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff())
    replicates, exact = fit.bootstrap(500, random_seed=1), fit.objective.exact.bootstrap(500, random_seed=1)
    assert_allclose(replicates.draws["sd_Batch"], np.sqrt(exact.draws["sigma2_g"]))
    assert_allclose(replicates.draws["beta[Intercept]"], exact.draws["beta[Intercept]"])
    assert fit.interval("sd_Batch", "bootstrap", n_sim=500, random_seed=1) == replicates.interval("sd_Batch")
    assert "% have Batch = 0; " in repr(replicates)
    assert_allclose(np.square(fit.interval("sd_Batch")), fit.interval("Batch"))


def test_replicates_of_an_estimate_at_0_are_said_to_be_so():
    data = flmm.datasets.penicillin()
    rng = np.random.default_rng(0)
    fits = (find("y ~ 1 + (1 | plate) + (1 | sample)", data.assign(y=rng.normal(size=len(data)))) for _ in range(20))
    fit = next(fit for fit in fits if len(fit.boundary) == 1)
    (at,) = fit.boundary
    found = fit.intervals("bootstrap", n_sim=4, random_seed=1, quantities=[f"sd_{at}", "sd_residual"])
    assert set(found.attrs["notes"]) == {f"sd_{at}"}
    assert "replicates were drawn as if it were the truth" in found.attrs["notes"][f"sd_{at}"]


def test_what_cannot_be_drawn_or_has_no_profile_is_refused(slopes, table):
    with pytest.raises(ValueError, match="2 replicates or more, got 1"):
        slopes.bootstrap(1)
    with pytest.raises(ValueError, match=r"'profile', 'bootstrap' and 'delta' are for any fit"):
        slopes.interval(SD[0], "inversion")
    with pytest.raises(ValueError, match=r"no parameter 'sd_Days': they are .*, sd_Subject\[Intercept\], corr_"):
        slopes.interval("sd_Days")
    with pytest.raises(ValueError, match=r"no parameter 'sd_Days': "):
        slopes.interval("sd_Days", "bootstrap")
    with pytest.raises(ValueError, match=r"no quantity 'sd_Days': "):
        slopes.interval("sd_Days", "delta")
    function = flmm.reml_covariance(
        lambda theta: theta[0] * np.eye(60), table["y"], start={"v": 1.0}, progressbar=False
    )
    with pytest.raises(ValueError, match=r"a function V\(θ\) was fitted, not a model"):
        function.bootstrap(2)
