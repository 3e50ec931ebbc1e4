"""The exact test of no kernel variance: against dense fits, the F test it is equivalent to, and its own promises."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import brentq
from scipy.stats import chi2
from scipy.stats import f as f_distribution

import pm_fastlmm as flmm

GROUPS, EACH = 5, 6


@pytest.fixture(scope="module")
def balanced():
    return flmm.Spectrum.from_factor(np.repeat(np.eye(GROUPS), EACH, axis=0), np.ones((GROUPS * EACH, 1)))


@pytest.fixture(scope="module")
def noise(balanced):
    return np.random.default_rng(1).normal(size=(balanced.n, 3000))


def statistic_of_F(F):
    """The restricted likelihood ratio of a balanced one-way layout is a function of its F statistic."""
    a, e = GROUPS - 1, GROUPS * (EACH - 1)
    return (a + e) * np.log((a * F + e) / (a + e)) - a * np.log(F) if F > 1 else 0.0


def dense_statistic(y, K, X):
    """The definition, by brute force over γ on a fine grid with dense matrices."""
    N = np.linalg.svd(np.eye(len(y)) - X @ np.linalg.pinv(X))[0][:, : len(y) - X.shape[1]]
    A, x = N.T @ K @ N, N.T @ y

    def ell(gamma):
        V = np.eye(len(x)) + gamma * A
        return -np.linalg.slogdet(V)[1] - len(x) * np.log(x @ np.linalg.solve(V, x))

    return max(ell(gamma) for gamma in [0.0, *np.exp(np.linspace(-9, 6, 200))]) - ell(0.0)


def test_p_values_are_those_of_the_F_test_of_a_balanced_layout_however_small(balanced):
    test = flmm.reml(balanced, np.random.default_rng(0).normal(size=30)).test_no_variance(n_sim=40_000, random_seed=1)
    for t in (0.5, 2.0, 5.0, 10.0, 30.0, 80.0):
        F = brentq(lambda F, t=t: statistic_of_F(F) - t, 1.0001, 1e9)
        exact = f_distribution.sf(F, GROUPS - 1, GROUPS * (EACH - 1))
        p, se = test.null.p_value(np.array(t), 0.0)
        assert abs(p - exact) < 4 * se
        assert se < 0.1 * exact
    assert_allclose(test.mass_at_zero, f_distribution.cdf(1, GROUPS - 1, GROUPS * (EACH - 1)), atol=0.015)


def test_the_statistic_is_the_dense_one_and_zero_on_the_boundary(build_problem):
    problem = build_problem("low-K")
    rng = np.random.default_rng(2)
    Y = rng.normal(size=(23, 40)) + problem.W @ rng.normal(size=(6, 40)) * 0.1
    test = flmm.reml(problem.spectrum, Y).test_no_variance(n_sim=200, random_seed=0)
    dense = [dense_statistic(y, problem.K, problem.X) for y in Y.T]
    assert_allclose(test.statistic, dense, atol=2e-3)
    at_zero = np.array(dense) < 1e-8
    assert at_zero.any()
    assert (~at_zero).any()
    assert (test.statistic[at_zero] == 0).all()
    assert (test.p_value[at_zero] == 1).all()
    assert (test.p_value[~at_zero] < 1).all()


def test_the_null_distribution_is_that_of_dense_fits(build_problem):
    problem = build_problem("full-K")
    rng = np.random.default_rng(3)
    dense = np.array([dense_statistic(y, problem.K, problem.X) for y in rng.normal(size=(400, 23))])
    null = flmm.reml(problem.spectrum, problem.y).test_no_variance(n_sim=20_000, random_seed=4).null
    for t in (0.05, 0.5, 1.5, 3.0):
        p = float(null.p_value(np.array(t), 0.0)[0])
        assert abs((dense >= t).mean() - p) < 4 * np.sqrt(p * (1 - p) / 400)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("layout", ["balanced", "unbalanced"])
def test_size_is_the_level_where_the_mixture_is_wrong(layout, method):
    sizes = [EACH] * GROUPS if layout == "balanced" else [20, 2, 2, 1, 1, 1]
    W = np.repeat(np.eye(len(sizes)), sizes, axis=0)
    spectrum = flmm.Spectrum.from_factor(W, np.ones((len(W), 1)))
    Y = np.random.default_rng(5).normal(size=(len(W), 8000))
    test = flmm.reml(spectrum, Y, method=method).test_no_variance(n_sim=20_000, random_seed=6)
    for level in (0.1, 0.05, 0.01):
        error = np.sqrt(level * (1 - level) / 8000)
        assert abs((test.p_value <= level).mean() - level) < 4 * error
    assert (test.p_value_mixture <= 0.05).mean() < 0.05 - 4 * np.sqrt(0.05 * 0.95 / 8000)


def test_p_values_do_not_depend_on_units_or_fixed_effects(balanced, noise):
    y = noise[:, :5] + np.repeat(np.eye(GROUPS), EACH, axis=0) @ np.ones((GROUPS, 5)) * np.arange(5)
    one = flmm.reml(balanced, y).test_no_variance(random_seed=7)
    scaled = flmm.Spectrum.from_factor(1e-3 * np.repeat(np.eye(GROUPS), EACH, axis=0), np.full((30, 1), 5.0))
    other = flmm.reml(scaled, 1e4 * y + 1e3).test_no_variance(random_seed=7)
    assert_allclose(one.statistic, other.statistic, atol=1e-8)
    assert_allclose(one.p_value, other.p_value, rtol=1e-6)


def test_a_response_has_the_same_test_alone_and_among_others(balanced, noise):
    Y = noise[:, :31]
    together = flmm.reml(balanced, Y).test_no_variance(n_sim=1000, random_seed=8)
    t = int(np.argmax(together.statistic))
    alone = flmm.reml(balanced, Y[:, t]).test_no_variance(n_sim=1000, random_seed=8)
    assert isinstance(alone.p_value, float)
    assert_allclose(alone.p_value, together.p_value[t], rtol=1e-12)
    assert_allclose(alone.p_value_mixture, 0.5 * chi2.sf(alone.statistic, 1))
    assert "5." not in repr(together)
    assert f"{alone.statistic:.4f}" in repr(alone)


def test_results_are_labelled_and_merge_with_the_fits(balanced, noise):
    Y = noise[:, :6].copy()
    Y[:, 2] = 1.0  # no estimate
    fits = flmm.reml(balanced, Y)
    test = fits.test_no_variance(n_sim=500, random_seed=9)
    merged = fits.to_dataset().merge(test.to_dataset(), combine_attrs="override")
    assert merged.p_value.dims == ("response",)
    assert list(test.table().index) == list(fits.names)
    assert np.isnan(test.table().loc["y2", ["statistic", "p_value", "p_value_se"]]).all()
    assert test.to_dataset().attrs["n_sim"] == 500


def test_nothing_is_simulated_where_no_statistic_is_positive(balanced, noise, monkeypatch):
    test = flmm.reml(balanced, noise).test_no_variance(n_sim=200, random_seed=1)
    at_zero = noise[:, test.statistic == 0]
    assert at_zero.shape[1] > 100
    monkeypatch.setattr(flmm.kernel.inference.variance_test, "kernel_null", lambda *_: pytest.fail("simulated"))
    one = flmm.reml(balanced, at_zero[:, 0]).test_no_variance()
    assert (one.statistic, one.p_value, one.p_value_se, one.p_value_mixture, one.n_sim) == (0, 1, 0, 1, 0)
    assert str(one) == (
        "restricted likelihood-ratio test of no variance of K, nothing was simulated\n"
        "statistic 0, p = 1: the likelihood is highest without the variance"
    )
    assert np.isnan(one.mass_at_zero)
    assert one.null is None
    several = np.column_stack([at_zero[:, :2], np.ones(30)])  # the last has no estimate
    assert_allclose(flmm.reml(balanced, several).test_no_variance().p_value, [1, 1, np.nan])


def test_no_p_value_is_zero_and_none_is_above_one(balanced, noise):
    groups = np.repeat(np.arange(GROUPS), EACH)
    y = 1e6 * groups + noise[:, 0]  # an F beyond all that is drawn
    test = flmm.reml(balanced, y).test_no_variance(n_sim=100, random_seed=10)
    assert 0 < test.p_value < 1e-30
    assert test.p_value_se >= 0.9 * test.p_value
    assert flmm.reml(balanced, noise).test_no_variance(n_sim=100, random_seed=11).p_value.max() == 1


def test_what_cannot_be_tested_is_refused(balanced, noise):
    with pytest.raises(ValueError, match="n_sim must be 100 or more, got 10"):
        flmm.reml(balanced, noise[:, 0]).test_no_variance(n_sim=10)
    identity = flmm.Spectrum.from_covariance(np.eye(30), np.ones((30, 1)))
    with pytest.raises(ValueError, match="multiple of the identity"):
        flmm.reml(identity, noise[:, 0]).test_no_variance()
    M = np.eye(30) - 1 / 30
    A = np.random.default_rng(0).normal(size=(30, 60))
    centred = flmm.Spectrum.from_covariance(M @ A @ A.T @ M, np.ones((30, 1)))
    with pytest.raises(ValueError, match="unbounded as delta goes to 0"):
        flmm.reml(centred, noise[:, 0], method="ML").test_no_variance()
    assert 0 < flmm.reml(centred, noise[:, 0]).test_no_variance(n_sim=200).p_value <= 1
