"""Intervals: the dense profile at their ends, boundaries, several modes, inversion, bootstrap, the table."""

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

import pm_fastlmm as flmm
from pm_fastlmm.kernel.inference.null import critical_values
from pm_fastlmm.kernel.likelihood.profile import Profile
from pm_fastlmm.kernel.likelihood.region import Allowed, likelihood_region

METHODS = ("REML", "ML")
SHARES = ("h2", "pve", "delta")
CUT = chi2.ppf(0.95, 1)


def dense_rise(problem, oracle, fit, name, value, method):
    """2[max ℓ - max ℓ given one quantity], the second maximum by brute force over δ."""
    kbar = np.trace(problem.K) / len(problem.y)

    def minus(x):
        delta = np.exp(x)
        sigma2 = {"sigma2_g": value, "sigma2": value, "sigma2_e": value / delta, "total": value / (kbar + delta)}[name]
        dense = oracle.Dense(problem.K, problem.X, problem.y, sigma2, delta * sigma2)
        return -(dense.loglik_reml if method == "REML" else dense.loglik_ml)

    grid = np.linspace(-6, 9, 120)
    values = [minus(x) for x in grid]
    i = int(np.argmin(values))
    best = minimize_scalar(minus, bounds=(grid[max(i - 1, 0)], grid[min(i + 1, 119)]), method="bounded")
    return 2 * (fit.loglik + min(best.fun, min(values)))


def coefficient_rise(problem, oracle, j, value, method):
    """2[max ℓ - max ℓ given one coefficient], the others eliminated: its column is moved to the left side."""
    others = np.delete(problem.X, j, axis=1)

    def highest(b):
        delta, y = np.exp(np.linspace(-6, 9, 3001)), problem.y - b * problem.X[:, j]
        return oracle.profile_loglik(problem.K, others, y, delta, method).max()

    near = flmm.reml(problem.spectrum, problem.y, method=method)
    width = near.beta_se.iloc[j]
    best = minimize_scalar(lambda b: -highest(b), bounds=(near.blue[j] - width, near.blue[j] + width), method="bounded")
    return 2 * (-best.fun - highest(value))


@pytest.mark.parametrize("method", METHODS)
def test_the_profile_falls_to_the_quantile_at_the_limits_of_a_share(problem, method):
    fit = flmm.reml(problem.spectrum, problem.y, method=method)
    low, high = fit.interval("h2")
    assert low <= fit.h2 <= high
    for limit, end in ((low, 0.0), (high, 1.0)):
        rise = 2 * (fit.loglik - float(fit.profile(limit)))
        if limit == end:
            assert rise <= CUT
        else:
            assert_allclose(rise, CUT, atol=1e-7)


def test_shares_have_one_interval(problem):
    fit = flmm.reml(problem.spectrum, problem.y)
    s = problem.spectrum
    (h_low, h_high), (p_low, p_high), (d_low, d_high) = (fit.interval(name) for name in SHARES)
    kbar, lbar = s.mean_diagonal, s.mean_eigval
    assert_allclose([h_low, h_high], [kbar / (kbar + d_high), kbar / (kbar + d_low)], rtol=1e-10)
    assert_allclose([p_low, p_high], [lbar / (lbar + d_high), lbar / (lbar + d_low)], rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["sigma2_g", "sigma2_e", "total"])
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_the_dense_profile_falls_to_the_quantile_at_the_limits_of_a_variance(build_problem, oracle, kind, name, method):
    problem = build_problem(kind)
    fit = flmm.reml(problem.spectrum, problem.y, method=method)
    for limit in fit.interval(name):
        if limit > 0:
            assert_allclose(dense_rise(problem, oracle, fit, name, limit, method), CUT, atol=1e-6)
        else:
            assert name == "sigma2_g"
            assert 2 * (fit.loglik - fit.loglik_null) < CUT


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["full-K", "low-W"])
@pytest.mark.parametrize("j", [0, 1, 2])
def test_the_dense_profile_falls_to_the_quantile_at_the_limits_of_a_coefficient(build_problem, oracle, kind, j, method):
    problem = build_problem(kind)
    fit = flmm.reml(problem.spectrum, problem.y, method=method)
    for limit in fit.interval(f"beta[x{j}]"):
        assert_allclose(coefficient_rise(problem, oracle, j, limit, method), CUT, atol=2e-4)


def test_the_only_coefficient_has_the_full_likelihood_after_reml_too(build_problem):
    """With no other coefficient to eliminate, the restricted likelihood that keeps it is the likelihood."""
    problem = build_problem("low-K")
    spectrum = flmm.Spectrum.from_covariance(problem.K, problem.X[:, 1:2])
    reml, ml = (flmm.reml(spectrum, problem.y, method=m).interval("beta[x0]") for m in METHODS)
    assert_allclose(reml, ml, rtol=1e-8)


def test_limits_are_exact_ends_where_the_profile_never_falls():
    rng = np.random.default_rng(1)
    W = rng.normal(size=(40, 80)) / 9
    spectrum = flmm.Spectrum.from_covariance(W @ W.T, np.ones((40, 1)))
    flat = flmm.reml(spectrum, rng.normal(size=40))
    assert flat.h2 < 0.2
    assert flat.interval("h2")[0] == 0
    assert flat.interval("delta")[1] == np.inf
    assert flat.interval("sigma2_g")[0] == 0
    full = flmm.reml(spectrum, W @ rng.normal(size=80) * 5)
    assert full.interval("h2")[1] == 1
    assert full.interval("delta")[0] == 0
    assert full.interval("sigma2_e")[0] == 0


def test_both_modes_are_in_the_interval_of_a_bimodal_likelihood(cases, oracle):
    """The interval is the hull of the dense region, and the gap between its parts is known."""
    K, X, y = cases.bimodal7()
    spectrum = flmm.Spectrum.from_covariance(K, X)
    fit, profile = flmm.reml(spectrum, y), Profile.from_rotated(spectrum.rotate(y), "REML")
    x = np.linspace(-15, 20, 20_001)
    rise = 2 * (fit.loglik - oracle.profile_loglik(K, X, y, np.exp(x)))
    lows = np.flatnonzero((rise[1:-1] < rise[:-2]) & (rise[1:-1] < rise[2:])) + 1
    assert len(lows) == 2
    hill = rise[lows[0] : lows[1]].max()
    second = rise[lows].max()
    for cut, whole in ((0.5 * second, True), (0.5 * (second + hill), False), (hill + 0.5, True)):
        inside = x[rise <= cut]
        low, high = fit.interval("delta", "profile", chi2.cdf(cut, 1))
        ends = [0.0 if inside[0] == x[0] else np.exp(inside[0]), np.inf if inside[-1] == x[-1] else np.exp(inside[-1])]
        assert_allclose([low, high], ends, rtol=2e-3)
        assert likelihood_region(profile, Allowed.constant(cut)).whole[0] == whole


def test_many_responses_have_the_intervals_of_each(build_problem):
    problem = build_problem("full-K")
    Y = np.random.default_rng(3).normal(size=(23, 60)) + problem.W @ np.random.default_rng(4).normal(size=(60, 60)) / 9
    fits = flmm.reml(problem.spectrum, Y)
    low, high = fits.interval("h2")
    assert low.shape == (60,)
    for t in range(0, 60, 7):
        assert_allclose(fits.response(f"y{t}").interval("h2"), (low[t], high[t]), rtol=1e-8, atol=1e-12)
    for name in ("sigma2_e", "beta[x1]"):
        low, high = flmm.reml(problem.spectrum, Y[:, :3]).interval(name)
        assert_allclose(fits.response("y2").interval(name), (low[2], high[2]), rtol=1e-7)


# ---------------------------------------------------------------- inversion


def test_critical_values_are_quantiles_of_dense_statistics(build_problem, oracle):
    """At h² = 0, at the middle and at h² = 1, 400 dense fits each."""
    problem, rng = build_problem("full-K"), np.random.default_rng(5)
    s = problem.spectrum
    allowed = critical_values(s, "REML", 0.9, 4000, rng)
    x = allowed.first + allowed.step * np.arange(allowed.levels.size)
    delta_grid = s.eigvals.max() * np.exp(np.linspace(-14, 9, 400))
    for h2 in (0.0, 0.9, 1.0):
        delta = s.mean_diagonal * (1 - h2) / h2 if h2 else np.inf
        root = np.linalg.cholesky(h2 * problem.K / s.mean_diagonal + (1 - h2 + 1e-12) * np.eye(23))
        exceeded = []
        with np.errstate(divide="ignore"):
            level = np.interp(np.log(delta / s.eigvals.max()), x, allowed.levels)
        at = np.clip(delta, delta_grid[0], delta_grid[-1])
        for _ in range(400):
            profile = oracle.profile_loglik(problem.K, problem.X, root @ rng.normal(size=23), np.r_[at, delta_grid])
            exceeded.append(2 * (profile.max() - profile[0]) > level)
        assert abs(np.mean(exceeded) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 400)


@pytest.mark.parametrize("h2", [0.0, 0.3, 1.0])
def test_inversion_covers_at_its_level_at_and_between_the_boundaries(h2):
    rng = np.random.default_rng(6)
    W = rng.normal(size=(40, 80)) / 9
    spectrum = flmm.Spectrum.from_covariance(W @ W.T, np.ones((40, 1)))
    scale = spectrum.mean_diagonal
    Y = np.sqrt(h2 / scale) * (W @ rng.normal(size=(80, 6000))) + np.sqrt(1 - h2) * rng.normal(size=(40, 6000))
    fits = flmm.reml(spectrum, Y)
    low, high = fits.interval("h2", "inversion", n_sim=10_000, random_seed=7)
    coverage = ((low <= h2) & (h2 <= high)).mean()
    assert abs(coverage - 0.95) < 4 * np.sqrt(0.95 * 0.05 * (1 / 6000 + 1 / 10_000))
    assert ((low <= fits.h2) & (fits.h2 <= high)).all()
    if h2 == 0:  # where that of the profile is far from its level
        low, high = fits.interval("h2")
        assert ((low <= h2) & (h2 <= high)).mean() > 0.96


# ---------------------------------------------------------------- bootstrap


def test_replicates_are_estimates_of_dense_responses(build_problem):
    problem, rng = build_problem("low-K"), np.random.default_rng(8)
    fit = flmm.reml(problem.spectrum, problem.y)
    replicates = fit.bootstrap(4000, random_seed=9)
    root = np.linalg.cholesky(fit.sigma2_g * problem.K + fit.sigma2_e * np.eye(23))
    dense = flmm.reml(problem.spectrum, (problem.X @ fit.beta)[:, None] + root @ rng.normal(size=(23, 4000)))
    for name in ("h2", "sigma2_g", "sigma2_e", "total"):
        for p in (0.2, 0.5, 0.8):
            expected = getattr(dense, name)
            cut = np.quantile(expected, p)
            difference = (replicates.draws[name] <= cut).mean() - (expected <= cut).mean()
            assert abs(difference) < 4 * np.sqrt(2 * 0.25 / 4000)
    betas = np.stack([replicates.draws[f"beta[x{j}]"] for j in range(3)], axis=-1)
    assert_allclose(betas.mean(0), fit.beta, atol=4 * betas.std(0).max() / np.sqrt(4000))
    sd = dense.blue.std(0)
    assert_allclose(np.cov((betas / sd).T), np.cov((dense.beta / sd).T), atol=0.12)


def test_bootstrap_intervals_and_table(build_problem):
    problem = build_problem("full-K")
    fit = flmm.reml(problem.spectrum, problem.y)
    replicates = fit.bootstrap(999, random_seed=1)
    low, high = replicates.interval("h2", 0.9)
    draws = np.sort(replicates.draws["h2"])
    assert (draws < low).sum() <= 50 <= (draws <= low).sum()
    assert ((draws < low) | (draws > high)).mean() <= 0.1
    basic = replicates.interval("total", 0.9, kind="basic")
    assert_allclose(np.array(basic)[::-1], 2 * fit.total - np.array(replicates.interval("total", 0.9)))
    assert list(replicates.summary().columns) == ["estimate", "sd", "lower", "upper"]
    assert replicates.to_dataset().beta.dims == ("draw", "coef")
    assert len(replicates) == 999
    assert "999 replicates" in repr(replicates)


def test_bootstrap_of_no_kernel_variance_is_drawn_without_it():
    rng = np.random.default_rng(2)
    W = np.repeat(np.eye(5), 4, axis=0)
    Y = rng.normal(size=(20, 30))
    fits = flmm.reml(flmm.Spectrum.from_factor(W, np.ones((20, 1))), Y)
    t = int(np.argmin(fits.h2))
    assert fits.h2[t] == 0
    replicates = fits.response(f"y{t}").bootstrap(2000, random_seed=1)
    assert 0.4 < (replicates.draws["h2"] == 0).mean() < 0.8
    assert replicates.interval("delta")[1] == np.inf


# ---------------------------------------------------------------- the table


def test_one_table_for_all_methods(build_problem):
    problem = build_problem("full-K")
    fit = flmm.reml(problem.spectrum, problem.y)
    tables = {m: fit.intervals(m, random_seed=1, n_sim=500) for m in ("profile", "inversion", "bootstrap", "delta")}
    for method, table in tables.items():
        assert list(table.columns) == ["estimate", "lower", "upper"]
        assert table.attrs == {"kind": method, "level": 0.95, "notes": {}}
        assert (table["lower"] <= table["upper"]).all()
        assert_allclose(table.loc["h2", "estimate"], fit.h2)
    assert list(tables["inversion"].index) == list(SHARES)
    assert len(tables["profile"]) == 10
    assert_allclose(
        tables["delta"].loc["sigma2_e", "upper"], fit.sigma2_e + 1.959964 * fit.standard_errors()["sigma2_e"], rtol=1e-6
    )
    assert_allclose(tables["profile"].loc["beta[x1]", ["lower", "upper"]], fit.interval("beta[x1]"))
    many = flmm.reml(problem.spectrum, np.column_stack([problem.y, problem.y[::-1]])).intervals("inversion", n_sim=200)
    assert many.index.names == ["response", "quantity"]
    assert list(many.index)[1] == ("y0", "pve")


def test_what_an_interval_at_a_bound_is_stands_below_the_table():
    spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(6), 5, axis=0), np.ones((30, 1)))
    y = np.tile([1.0, 2, 3, 5, 9], 6)
    fit, fits = flmm.reml(spectrum, y), flmm.reml(spectrum, np.random.default_rng(0).normal(size=(30, 100)))
    for kind, said in {
        "profile": "one-sided, the data do not exclude the bound 0", "inversion": "one-sided", "delta": "undefined",
        "bootstrap": "the estimate is 0, a bound",
    }.items():  # fmt: skip
        table = fit.intervals(kind, n_sim=200, random_seed=1)
        assert table.attrs["notes"]["h2"].startswith(said)
        assert f"h2, pve{', delta' if kind == 'delta' else ''}" in repr(table)
    many = fits.intervals()
    assert set(many.attrs["notes"]) == set(many.index[many["lower"] == 0])
    assert len(repr(many).splitlines()) < 30


def test_a_narrower_level_gives_a_narrower_interval(problem):
    fit = flmm.reml(problem.spectrum, problem.y)
    wide, narrow = (fit.intervals("profile", level) for level in (0.99, 0.5))
    assert (wide["lower"] <= narrow["lower"]).all()
    assert (narrow["upper"] <= wide["upper"]).all()
    assert (narrow["upper"] - narrow["lower"]).drop(["delta"]).sum() < (wide["upper"] - wide["lower"]).drop(
        "delta"
    ).sum()


def test_bad_requests_are_refused_with_the_remedy(build_problem):
    problem = build_problem("full-K")
    fit = flmm.reml(problem.spectrum, problem.y)
    two = flmm.reml(problem.spectrum, np.column_stack([problem.y, problem.y]))
    with pytest.raises(ValueError, match=r"no quantity 'beta\[z\]': they are h2, pve, delta, .*beta\[x2\]"):
        fit.interval("beta[z]")
    with pytest.raises(ValueError, match=r"level must be between 0 and 1, as 0\.95, got 95"):
        fit.interval("h2", "profile", 95)
    with pytest.raises(ValueError, match=r"not for 'sigma2_g'.*kind='profile' takes any"):
        fit.interval("sigma2_g", "inversion")
    with pytest.raises(ValueError, match="'profile', 'inversion', 'bootstrap' or 'delta', got 'wald'"):
        fit.intervals("wald")
    with pytest.raises(ValueError, match=r"fits.response\(name\).bootstrap"):
        two.bootstrap()
    with pytest.raises(ValueError, match="n must be 2 replicates or more"):
        fit.bootstrap(1)
    with pytest.raises(ValueError, match="no quantity 'h3'"):
        fit.bootstrap(10, random_seed=0).interval("h3")
    with pytest.raises(ValueError, match="'percentile' or 'basic', got 'bca'"):
        fit.bootstrap(10, random_seed=0).interval("h2", kind="bca")
    constant = flmm.reml(problem.spectrum, problem.X @ [1.0, 2, 3])
    with pytest.raises(ValueError, match="no estimate to draw from: X explains y exactly"):
        constant.bootstrap()
    assert np.isnan(constant.interval("h2")).all()
    assert np.isnan(constant.interval("total")).all()


def test_the_figure_draws_the_intervals_where_they_are(build_problem):
    matplotlib.use("Agg")
    problem = build_problem("full-K")
    fit = flmm.reml(problem.spectrum, problem.y)
    ax = flmm.plots.plot_h2_intervals(fit, n_sim=300, random_seed=1)
    bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 5]
    assert len(bars) == 4
    assert_allclose(bars[2], fit.interval("h2"))
    curve, exact = (next(line for line in ax.lines if line.get_label().startswith(s)) for s in ("2 [max", "exact"))
    below = curve.get_xdata()[curve.get_ydata() <= exact.get_ydata()]
    assert_allclose(bars[3], [below.min(), below.max()], atol=2.5e-3)
    matplotlib.pyplot.close(ax.figure)


def test_critical_values_belong_to_the_inverted_test(build_problem):
    problem = build_problem("low-K")
    fit = flmm.reml(problem.spectrum, problem.y)
    low, high = fit.interval("h2", "inversion", 0.9, n_sim=500, random_seed=3)
    for limit, end in ((low, 0.0), (high, 1.0)):
        rise = 2 * (fit.loglik - float(fit.profile(limit)))
        critical = float(fit.critical_values(limit, 0.9, n_sim=500, random_seed=3))
        assert rise <= critical + 1e-9 if limit == end else abs(rise - critical) < 1e-6
    with pytest.raises(ValueError, match="h2 must be between 0 and 1"):
        fit.critical_values([0.5, 1.1])
