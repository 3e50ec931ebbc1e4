"""BLUE, BLUP, PEV, predictions and draws against dense formulas and Gaussian conditionals."""

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal

from pm_fastlmm import Spectrum
from pm_fastlmm.kernel.effects import effects

AT = [(0.8, 1.3), (0.03, 2.0), (5.0, 0.04)]


def size_of(array):
    return np.abs(array).max(initial=0)


def dense_at(problem, oracle, g, e):
    return oracle.Dense(problem.K, problem.X, problem.y, g, e)


def X_or_empty(problem, X):
    return np.zeros((len(X), 0)) if problem.X is None else X


# ---------------------------------------------------------------- given (σ²_g, σ²_e)


@pytest.mark.parametrize(("g", "e"), AT)
def test_blue_is_generalised_least_squares(problem, oracle, g, e):
    dense, fit = dense_at(problem, oracle, g, e), effects.blue(problem.rotated, g, e)
    assert_allclose(fit.beta, dense.beta, rtol=1e-9)
    assert_allclose(fit.cov, dense.beta_cov, rtol=1e-8, atol=1e-10 * size_of(dense.beta_cov))
    assert_array_equal(fit.cov, fit.cov.T)


@pytest.mark.parametrize(("g", "e"), AT)
def test_blup_is_the_dense_one(problem, oracle, g, e):
    dense = dense_at(problem, oracle, g, e)
    u = effects.blup(problem.rotated, g, e).lift(problem.spectrum)
    assert_allclose(u, dense.blup, atol=1e-10 * size_of(dense.blup))


@pytest.mark.parametrize(("g", "e"), AT)
def test_pev_is_the_dense_one(problem, oracle, g, e):
    dense = dense_at(problem, oracle, g, e)
    full = effects.pev(problem.spectrum, g, e, full=True)
    assert_allclose(full, dense.pev, atol=1e-9 * g * size_of(problem.K))
    assert_allclose(effects.pev(problem.spectrum, g, e), np.diag(full), rtol=1e-10)


@pytest.mark.parametrize(("g", "e"), AT)
def test_fitted_values_and_their_variance_are_the_dense_ones(problem, oracle, g, e):
    dense, fit = dense_at(problem, oracle, g, e), effects.fitted(problem.rotated, g, e)
    assert_allclose(fit.mean, dense.fitted, atol=1e-10 * size_of(dense.fitted))
    assert_allclose(fit.variance, np.diag(dense.fitted_cov), rtol=1e-8, atol=1e-10 * e)
    assert_allclose(fit.variance, np.diag(e * np.eye(23) - e**2 * dense.P), rtol=1e-8, atol=1e-10 * e)
    assert fit.residual_variance == e


@pytest.mark.parametrize("by_factor", [False, True])
@pytest.mark.parametrize(("g", "e"), AT)
def test_prediction_of_new_rows_and_its_variance_are_the_dense_ones(problem, oracle, g, e, by_factor):
    if by_factor and problem.spectrum.loadings is None:
        pytest.skip("a spectrum from a covariance has no factor")
    rows = {"W_new": problem.W_new} if by_factor else {"K_new": problem.K_new, "K_new_new": problem.K_new_new}
    new = effects.new_rows(problem.spectrum, problem.X_new, **rows)
    fit = effects.predict(problem.rotated, np.float64(g), np.float64(e), new)
    X_new = np.zeros((4, 0)) if problem.X is None else problem.X_new
    mean, cov = dense_at(problem, oracle, g, e).predict(X_new, problem.K_new, problem.K_new_new)
    assert_allclose(fit.mean, mean, rtol=1e-9)
    assert_allclose(fit.variance, np.diag(cov), rtol=1e-7)
    assert_allclose(fit.se**2, fit.variance, rtol=1e-12)
    assert_allclose(fit.se_observation**2, fit.variance + e, rtol=1e-12)


def test_the_diagonal_of_the_new_covariance_is_enough(build_problem):
    problem = build_problem("full-K")
    spectrum, at = problem.spectrum, (np.float64(0.8), np.float64(1.3))
    full = effects.new_rows(spectrum, problem.X_new, problem.K_new, K_new_new=problem.K_new_new)
    diagonal = effects.new_rows(spectrum, problem.X_new, problem.K_new, K_new_new=np.diag(problem.K_new_new))
    assert_allclose(
        effects.predict(problem.rotated, *at, full).variance, effects.predict(problem.rotated, *at, diagonal).variance
    )


def test_columns_of_the_new_covariance_are_put_into_the_order_of_its_rows(build_problem):
    problem = build_problem("full-K")
    m = len(problem.K_new)
    ids, order = [f"new{i}" for i in range(m)], np.roll(np.arange(m), 1)
    K_new = pd.DataFrame(problem.K_new, index=ids, columns=problem.spectrum.ids or range(problem.spectrum.n))
    table = pd.DataFrame(problem.K_new_new, index=ids, columns=ids)
    for given in (table.iloc[:, order], table.iloc[order], table.iloc[order, ::-1]):
        new = effects.new_rows(problem.spectrum, problem.X_new, K_new, K_new_new=given)
        assert_array_equal(new.prior, problem.K_new_new)
    with pytest.raises(ValueError, match="K_new_new has other ids in its columns than in its rows: reindex it"):
        effects.new_rows(problem.spectrum, problem.X_new, K_new, K_new_new=table.rename(columns={"new0": "old"}))


def test_without_the_new_covariance_means_are_given_and_variances_are_nan(build_problem):
    problem = build_problem("full-K")
    at = (np.float64(0.8), np.float64(1.3))
    bare = effects.new_rows(problem.spectrum, problem.X_new, problem.K_new)
    full = effects.new_rows(problem.spectrum, problem.X_new, problem.K_new, K_new_new=problem.K_new_new)
    fit = effects.predict(problem.rotated, *at, bare)
    assert np.isnan(fit.variance).all()
    assert_allclose(fit.mean, effects.predict(problem.rotated, *at, full).mean)


def test_training_rows_given_as_new_are_the_fitted_values(problem):
    at = (np.float64(0.8), np.float64(1.3))
    new = effects.new_rows(problem.spectrum, problem.X, problem.K, K_new_new=problem.K)
    predicted, fitted = effects.predict(problem.rotated, *at, new), effects.fitted(problem.rotated, *at)
    assert_allclose(predicted.mean, fitted.mean, atol=1e-9 * size_of(fitted.mean))
    assert_allclose(predicted.variance, fitted.variance, rtol=1e-6)


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_many_pairs_equal_one_at_a_time(build_problem, kind):
    problem = build_problem(kind)
    g, e = np.array(AT).T
    new = effects.new_rows(problem.spectrum, problem.X_new, problem.K_new, K_new_new=problem.K_new_new)
    blue, blup = effects.blue(problem.rotated, g, e), effects.blup(problem.rotated, g, e).lift(problem.spectrum)
    pev, fitted = effects.pev(problem.spectrum, g, e), effects.fitted(problem.rotated, g, e)
    predicted = effects.predict(problem.rotated, g, e, new)
    for i, (gi, ei) in enumerate(np.array(AT)):
        one = effects.blue(problem.rotated, gi, ei)
        assert_allclose(blue.beta[i], one.beta, rtol=1e-11)
        assert_allclose(blue.cov[i], one.cov, rtol=1e-11)
        u = effects.blup(problem.rotated, gi, ei).lift(problem.spectrum)
        assert_allclose(blup[i], u, rtol=1e-9, atol=1e-12)
        assert_allclose(pev[i], effects.pev(problem.spectrum, gi, ei), rtol=1e-11)
        for batch, alone in (
            (fitted, effects.fitted(problem.rotated, gi, ei)),
            (predicted, effects.predict(problem.rotated, gi, ei, new)),
        ):
            assert_allclose(batch.mean[:, i], alone.mean, rtol=1e-10)
            assert_allclose(batch.variance[:, i], alone.variance, rtol=1e-10)
            assert_allclose(batch.se_observation[:, i], alone.se_observation, rtol=1e-10)


def test_several_responses_with_their_own_variances_equal_one_at_a_time(build_problem):
    problem = build_problem("low-W")
    s = problem.spectrum
    Y = np.column_stack([problem.y, problem.y[::-1], np.cos(problem.y)])
    g, e = np.array(AT).T
    rotated = s.rotate(Y)
    new = effects.new_rows(s, problem.X_new, W_new=problem.W_new)
    together = (
        effects.blue(rotated, g, e).beta,
        effects.blup(rotated, g, e).lift(s),
        effects.fitted(rotated, g, e).mean.T,
        effects.predict(rotated, g, e, new).mean.T,
        effects.predict(rotated, g, e, new).variance.T,
    )
    for t in range(3):
        one = s.rotate(Y[:, t])
        alone = (
            effects.blue(one, g[t], e[t]).beta,
            effects.blup(one, g[t], e[t]).lift(s),
            effects.fitted(one, g[t], e[t]).mean,
            effects.predict(one, g[t], e[t], new).mean,
            effects.predict(one, g[t], e[t], new).variance,
        )
        for batch, single in zip(together, alone, strict=True):
            assert_allclose(batch[t], single, rtol=1e-8, atol=1e-10)


# ---------------------------------------------------------------- limits


def test_blup_vanishes_when_delta_grows(problem):
    u = effects.blup(problem.rotated, 1e-12, 1.0).lift(problem.spectrum)
    assert size_of(u) < 1e-9 * size_of(problem.y)
    assert size_of(effects.blup(problem.rotated, 0.0, 1.0).lift(problem.spectrum)) == 0


def test_blue_becomes_ordinary_least_squares_when_delta_grows(build_problem):
    problem = build_problem("full-K")
    beta, cov = effects.blue(problem.rotated, 0.0, 2.5)
    assert_allclose(beta, np.linalg.lstsq(problem.X, problem.y)[0], rtol=1e-9)
    assert_allclose(cov, 2.5 * np.linalg.inv(problem.X.T @ problem.X), rtol=1e-9)


@pytest.mark.parametrize("kind", ["full-K", "full-W", "full-K-noX"])
def test_the_fit_interpolates_y_when_there_is_no_residual_variance(build_problem, kind):
    problem = build_problem(kind)
    fit = effects.fitted(problem.rotated, 2.0, 0.0)
    assert_allclose(fit.mean, problem.y, rtol=1e-9)
    assert_allclose(fit.variance, 0, atol=1e-20)
    u = effects.blup(problem.rotated, 2.0, 0.0).lift(problem.spectrum)
    fixed = 0 if problem.X is None else problem.X @ effects.blue(problem.rotated, 2.0, 0.0).beta
    assert_allclose(fixed + u, problem.y, rtol=1e-8)


def test_pev_without_residual_variance_is_the_uncertainty_of_the_fixed_effects(build_problem):
    # u = y - Xβ then, so that Var(û - u) = X cov(β̂) Xᵀ; the difference K - KPK would cancel to nothing
    problem = build_problem("full-K")
    cov = effects.blue(problem.rotated, 2.0, 0.0).cov
    assert_allclose(
        effects.pev(problem.spectrum, 2.0, 0.0, full=True),
        problem.X @ cov @ problem.X.T,
        atol=1e-9 * size_of(problem.K),
    )


@pytest.mark.parametrize("kind", ["low-W", "low-K"])
@pytest.mark.parametrize("e", [1e-10, 1e-16, 1e-22])
def test_a_factor_becomes_a_set_of_free_columns_when_delta_vanishes(build_problem, kind, e):
    # then β̂ is the least-squares fit on [X W], whose covariance σ²_e(XᵀM_W X)⁻¹ is far below the rounding of σ²_gK
    problem = build_problem(kind)
    beta, cov = effects.blue(problem.rotated, 1.0, e)
    both = np.hstack([problem.X, problem.W])
    free = problem.X - problem.W @ np.linalg.lstsq(problem.W, problem.X)[0]
    assert_allclose(beta, np.linalg.lstsq(both, problem.y)[0][:3], rtol=1e-6)
    expected = e * np.linalg.inv(free.T @ free)
    assert_allclose(cov, expected, rtol=1e-5, atol=1e-6 * size_of(expected))


# ---------------------------------------------------------------- labels and bad input of new rows


@pytest.fixture
def named(build_problem):
    problem = build_problem("low-W")
    ids = [f"i{k}" for k in range(23)]
    new = list("abcd")
    X = pd.DataFrame(problem.X, index=ids, columns=["mean", "age", "dose"])
    K = pd.DataFrame(problem.K, index=ids, columns=ids)
    X_new = pd.DataFrame(problem.X_new, index=new, columns=["mean", "age", "dose"])
    K_new = pd.DataFrame(problem.K_new, index=new, columns=ids)
    spectrum = Spectrum.from_covariance(K, X)
    return problem, spectrum, X_new, K_new


def mean_of(spectrum, y, *args, **kwargs):
    new = effects.new_rows(spectrum, *args, **kwargs)
    return effects.predict(spectrum.rotate(y), np.float64(0.8), np.float64(1.3), new).mean


def test_columns_of_new_rows_are_found_by_name_and_id(named):
    problem, spectrum, X_new, K_new = named
    expected = mean_of(spectrum, problem.y, problem.X_new, problem.K_new)
    shuffled = mean_of(spectrum, problem.y, X_new[["dose", "mean", "age"]].assign(other=1.0), K_new.iloc[:, ::-1])
    assert_allclose(shuffled, expected, rtol=1e-10)


def test_new_rows_of_X_and_K_are_aligned_by_their_ids(named):
    problem, spectrum, X_new, K_new = named
    expected = mean_of(spectrum, problem.y, X_new, K_new)
    assert_allclose(mean_of(spectrum, problem.y, X_new.iloc[::-1], K_new), expected, rtol=1e-10)


def test_the_covariance_of_new_rows_is_aligned_too(named):
    problem, spectrum, X_new, K_new = named
    K_new_new = pd.DataFrame(problem.K_new_new, index=X_new.index, columns=X_new.index)
    at = (spectrum.rotate(problem.y), np.float64(0.8), np.float64(1.3))
    expected = effects.predict(*at, effects.new_rows(spectrum, X_new, K_new, K_new_new=K_new_new)).variance
    shuffled = K_new_new.iloc[::-1, ::-1]
    new = effects.new_rows(spectrum, X_new, K_new, K_new_new=shuffled)
    assert_allclose(effects.predict(*at, new).variance, expected, rtol=1e-10)
    assert_allclose(new.prior, problem.K_new_new)


def test_new_rows_of_X_and_K_with_different_ids_are_refused(named):
    problem, spectrum, X_new, K_new = named
    with pytest.raises(ValueError, match="do not have the same ids"):
        mean_of(spectrum, problem.y, X_new.rename(index={"a": "z"}), K_new)


def test_new_rows_may_be_lists(named):
    problem, spectrum, _, _ = named
    expected = mean_of(spectrum, problem.y, problem.X_new, problem.K_new)
    listed = mean_of(spectrum, problem.y, problem.X_new.tolist(), problem.K_new.tolist())
    assert_allclose(listed, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K_new": None}, "give exactly one of K_new .* and W_new"),
        ({"W_new": np.ones((4, 6))}, "give exactly one of K_new .* and W_new"),
        ({"X_new": None}, "X_new is missing: the model has the fixed effects mean, age, dose"),
        ({"X_new": np.ones((4, 2))}, r"X_new must be \(4, 3\), .* mean, age, dose; got shape \(4, 2\)"),
        ({"X_new": np.ones((5, 3))}, r"X_new must be \(4, 3\)"),
        ({"X_new": np.full((4, 3), np.nan)}, "X_new has 12 values that are NaN or infinite"),
        ({"K_new": np.ones((4, 22))}, "K_new has 22 columns but the spectrum has 23 observations"),
        ({"K_new": np.full((4, 23), np.inf)}, "K_new has 92 values that are NaN or infinite"),
        ({"K_new_new": np.ones((3, 3))}, r"K_new_new must be \(4, 4\) or its diagonal \(4,\), got shape \(3, 3\)"),
        ({"K_new": None, "W_new": np.ones((4, 6))}, "K_new_new is given together with W_new, which determines it"),
        ({"K_new_new": -np.ones(4)}, "K_new_new has a negative variance on its diagonal"),
        ({"K_new_new": np.full(4, np.nan)}, "K_new_new has 4 values that are NaN or infinite"),
        (
            {"K_new": None, "K_new_new": None, "W_new": np.ones((4, 6))},
            "W_new needs a spectrum built by Spectrum.from_factor",
        ),
    ],
)
def test_bad_new_rows_are_refused(named, change, message):
    problem, spectrum, _, _ = named
    rows = {"X_new": problem.X_new, "K_new": problem.K_new, "K_new_new": problem.K_new_new} | change
    with pytest.raises(ValueError, match=message):
        effects.new_rows(spectrum, **rows)


def test_unknown_ids_in_the_columns_of_K_new_are_named(named):
    _, spectrum, X_new, K_new = named
    with pytest.raises(
        ValueError, match=r"K_new \(its columns\) and the spectrum do not have the same ids: .*'stranger'"
    ):
        effects.new_rows(spectrum, X_new, K_new.rename(columns={"i3": "stranger"}))


def test_a_factor_of_other_columns_is_refused(build_problem):
    problem = build_problem("low-W")
    with pytest.raises(ValueError, match="W_new has 5 columns but W had 6"):
        effects.new_rows(problem.spectrum, problem.X_new, W_new=problem.W_new[:, :5])
    with pytest.raises(ValueError, match="W_new has 24 values that are NaN"):
        effects.new_rows(problem.spectrum, problem.X_new, W_new=np.full((4, 6), np.nan))


# ---------------------------------------------------------------- draws

DRAWS = 40_000


def assert_moments(draws, mean, cov):
    """Draws have this mean and covariance; along null directions of the covariance they do not move at all."""
    values, U = np.linalg.eigh(cov)
    size = values.max()
    coordinates = (draws - mean) @ U
    null = values < 1e-9 * size
    assert size_of(coordinates[:, null]) < 1e-4 * np.sqrt(size)
    white = coordinates[:, ~null] / np.sqrt(values[~null])
    N, q = white.shape
    assert size_of(white.mean(0)) < 4.5 / np.sqrt(N)
    assert size_of(np.cov(white.T) - np.eye(q)) < 4.5 * np.sqrt(2 / N)


def draw(problem, g, e, seed=0):
    shape = (DRAWS,)
    return effects.draw_effects(problem.rotated, np.full(shape, g), np.full(shape, e), np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ["full-K", "low-W", "low-K", "full-K-noX"])
@pytest.mark.parametrize(("g", "e"), AT[::2])
def test_draws_of_beta_and_u_have_the_exact_conditional_moments(build_problem, oracle, kind, g, e):
    problem = build_problem(kind)
    beta, u = draw(problem, g, e)
    mean, cov = dense_at(problem, oracle, g, e).posterior
    assert_moments(np.hstack([beta, u.lift(problem.spectrum)]), mean, cov)


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_draws_without_residual_variance_interpolate_y(build_problem, kind):
    problem = build_problem(kind)
    beta, u = draw(problem, 2.0, 0.0)
    if kind == "full-K":
        assert_allclose((problem.X @ beta.T).T + u.lift(problem.spectrum), np.tile(problem.y, (DRAWS, 1)), rtol=1e-7)
    else:
        assert np.isfinite(beta).all()


def test_draws_without_kernel_variance_have_no_random_effects(build_problem):
    problem = build_problem("low-W")
    beta, u = draw(problem, 0.0, 2.0)
    assert size_of(u.lift(problem.spectrum)) == 0
    ols = np.linalg.lstsq(problem.X, problem.y)[0]
    assert_moments(beta, ols, 2 * np.linalg.inv(problem.X.T @ problem.X))


def test_each_draw_has_its_own_variances(build_problem, oracle):
    problem = build_problem("low-W")
    g, e = np.repeat([0.03, 5.0], DRAWS), np.repeat([2.0, 0.04], DRAWS)
    beta, u = effects.draw_effects(problem.rotated, g, e, np.random.default_rng(2))
    together = np.hstack([beta, u.lift(problem.spectrum)])
    for part, at in ((together[:DRAWS], (0.03, 2.0)), (together[DRAWS:], (5.0, 0.04))):
        assert_moments(part, *dense_at(problem, oracle, *at).posterior)


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
@pytest.mark.parametrize(("g", "e"), AT[::2])
def test_draws_given_a_gaussian_prior_of_beta_have_the_exact_moments(build_problem, oracle, kind, g, e):
    problem = build_problem(kind)
    b = np.array([1.0, -2.0, 0.5])
    root = np.array([[0.7, 0.0, 0.0], [-0.3, 0.1, 0.0], [0.5, 0.2, 0.4]])
    shape = (DRAWS,)
    flat = draw(problem, g, e)
    beta, u = effects.given_coefficients(
        problem.rotated, np.full(shape, g), np.full(shape, e), *flat, b, root, np.random.default_rng(1)
    )
    mean, cov = dense_at(problem, oracle, g, e).posterior_under(b, root @ root.T)
    assert_moments(np.hstack([beta, u.lift(problem.spectrum)]), mean, cov)


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_draws_given_known_coefficients_are_conditioned_on_them(build_problem, oracle, kind):
    problem = build_problem(kind)
    b, (g, e) = np.array([1.0, -2.0, 0.5]), AT[0]
    shape = (DRAWS,)
    beta, u = effects.given_coefficients(
        problem.rotated,
        np.full(shape, g),
        np.full(shape, e),
        *draw(problem, g, e),
        b,
        np.zeros((3, 3)),
        np.random.default_rng(1),
    )
    assert_allclose(beta, np.tile(b, (DRAWS, 1)), rtol=1e-12)
    _, cov = dense_at(problem, oracle, g, e).posterior_under(b, np.zeros((3, 3)))
    gain = g * problem.K @ np.linalg.inv(g * problem.K + e * np.eye(23))
    assert_moments(u.lift(problem.spectrum), gain @ (problem.y - problem.X @ b), cov[3:, 3:])


def test_draws_are_repeated_by_the_seed_and_only_by_it(build_problem):
    problem = build_problem("low-W")
    first, again, other = (draw(problem, 0.8, 1.3, seed=s)[0] for s in (4, 4, 5))
    assert_array_equal(first, again)
    assert size_of(first - other) > 0.1


def test_lifted_coordinates_lie_in_the_span_of_the_factor(build_problem):
    problem = build_problem("low-W")
    _, u = draw(problem, 0.8, 1.3)
    projector = problem.W @ scipy.linalg.pinv(problem.W)
    lifted = u.lift(problem.spectrum)[:50]
    assert_allclose(lifted @ projector, lifted, atol=1e-10 * size_of(lifted))
