"""KernelStatistics: any split of the rows, any order, against the factorisation of all rows in memory."""

import copy
import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from quantities import quantity

import pm_fastlmm as flmm
from pm_fastlmm import KernelStatistics, Spectrum

ROUTES = ("gram", "tsqr")
SHARES = ("h2", "pve", "delta", "sigma2_g", "sigma2_e", "total", "h2_se", "sigma2_g_se", "loglik")


def rows(n=40, m=6, T=None, seed=3, intercept=True):
    rng = np.random.default_rng([seed, n, m])
    time = np.linspace(0, 1, n) ** 2
    X = np.column_stack(
        [2 * np.ones(n) if intercept else time, 40 * time + rng.normal(size=n), rng.exponential(size=n)]
    )
    W = rng.normal(size=(n, m)) * rng.exponential(size=m) + 0.7 + time[:, None]
    Y = X @ rng.normal(size=(3, T or 1)) + W @ rng.normal(size=(m, T or 1)) + 2 * rng.normal(size=(n, T or 1)) + 30
    return X, W, Y if T else Y[:, 0]


def split(parts, cuts, **options):
    """Statistics of the pieces between the cuts, one after the other."""
    edges = [0, *sorted(cuts), len(parts[1])]
    pieces = [[part[i:j] for part in parts] for i, j in itertools.pairwise(edges) if j > i]
    c = KernelStatistics.from_arrays(*pieces[0], **options)
    for piece in pieces[1:]:
        c = c.update(*piece)
    return c


def assert_same(factored, spectrum, rotated, rtol=1e-9):
    """Everything that a fit depends on; signs of eigenvectors are free."""
    s, r = factored
    assert (s.n, s.rank, s.nullity, s.coef) == (spectrum.n, spectrum.rank, spectrum.nullity, spectrum.coef)
    size = spectrum.mean_diagonal * spectrum.n
    assert_allclose(s.eigvals, spectrum.eigvals, rtol=rtol, atol=1e-13 * size)
    assert_allclose(s.mean_diagonal, spectrum.mean_diagonal, rtol=rtol)
    assert_allclose(np.abs(s.projection.R), np.abs(spectrum.projection.R), rtol=rtol, atol=1e-10)
    assert_allclose(np.abs(r.z), np.abs(rotated.z), rtol=rtol, atol=1e-9 * np.sqrt(rotated.norm2.max()))
    for field in ("rss", "norm2"):
        assert_allclose(getattr(r, field), getattr(rotated, field), rtol=rtol)
    assert_allclose(np.abs(r.y1), np.abs(rotated.y1), rtol=rtol)
    assert_allclose(s.schur.trace(), spectrum.schur.trace(), rtol=rtol, atol=1e-9 * size)
    for method in ("REML", "ML"):
        fit, expected = flmm.reml(s, r, method=method), flmm.reml(spectrum, rotated, method=method)
        for name in SHARES:
            assert_allclose(quantity(fit, name), quantity(expected, name), rtol=1e-7, err_msg=name)
        assert_allclose(fit.beta, expected.beta, rtol=1e-7, atol=1e-9)
        assert_allclose(
            fit.blue_cov, expected.blue_cov, rtol=1e-6, atol=1e-9 * np.abs(expected.blue_cov).max(initial=0.0)
        )


# ---------------------------------------------------------------- equal to the factorisation in memory


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("T", [None, 4])
@pytest.mark.parametrize("intercept", [True, False])
def test_factor_is_that_of_all_rows(route, T, intercept):
    X, W, Y = rows(T=T, intercept=intercept)
    spectrum = Spectrum.from_factor(W, X)
    c = split((X, W, Y), (1, 2, 5, 21), method=route)
    assert (c.n, c.constant) == (40, 0 if intercept else None)
    assert_same(c.factor(), spectrum, spectrum.rotate(Y))
    assert c.factor()[1].names == (None if T is None else ("y0", "y1", "y2", "y3"))


@pytest.mark.parametrize("route", ROUTES)
def test_without_fixed_effects(route):
    _, W, y = rows()
    spectrum = Spectrum.from_factor(W)
    c = KernelStatistics.from_arrays(None, W[:9], y[:9], method=route).update(None, W[9:], y[9:])
    assert_same(c.factor(), spectrum, spectrum.rotate(y))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("n", [7, 9, 12])
def test_fewer_rows_than_columns_of_W(route, n):
    X, W, y = rows(n=n, m=9)
    spectrum = Spectrum.from_factor(W, X)
    c = split((X, W, y), (2,), method=route)
    s, r = c.factor()
    assert (s.rank, s.nullity) == (spectrum.rank, spectrum.nullity)
    assert_allclose(s.eigvals, spectrum.eigvals, rtol=1e-8)
    assert_allclose(flmm.log_likelihood(r, 0.7, 1.3), flmm.log_likelihood(spectrum.rotate(y), 0.7, 1.3), rtol=1e-9)


@pytest.mark.parametrize("route", ROUTES)
def test_incidence_with_an_intercept_loses_exactly_one_direction(route):
    # the columns of W sum to the constant: once it is projected out one of them is a combination of the others
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(12), [*range(14, 25), 91]))  # λ that differ
    W, X, y = np.eye(12)[group], np.ones((300, 1)), rng.normal(size=300) + rng.normal(size=12)[group]
    c = split((X, W, y), (100, 200), method=route)
    spectrum = Spectrum.from_factor(W, X)
    assert (c.factor()[0].rank, c.factor()[0].nullity) == (11, 288)
    assert_same(c.factor(), spectrum, spectrum.rotate(y))


@pytest.mark.parametrize("route", ROUTES)
def test_the_lost_direction_is_found_among_many_rows_and_pieces(route):
    rng = np.random.default_rng(1)
    share = np.arange(1, 41) ** 2.0
    group = rng.choice(40, p=share / share.sum(), size=120_000)
    y = 1e5 + rng.normal(size=40)[group] + rng.normal(size=120_000)
    c = None
    for rows in np.array_split(np.arange(120_000), 7):
        block = np.ones((rows.size, 1)), np.eye(40)[group[rows]], y[rows]
        c = KernelStatistics.from_arrays(*block, method=route) if c is None else c.update(*block)
    spectrum, rotated = c.factor()
    assert (spectrum.rank, spectrum.nullity) == (39, 120_000 - 40)
    in_memory = Spectrum.from_factor(np.eye(40)[group], np.ones((120_000, 1)))
    fit, expected = flmm.reml(spectrum, rotated), flmm.reml(in_memory, y)
    for name in SHARES:
        assert_allclose(quantity(fit, name), quantity(expected, name), rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("route", ROUTES)
def test_collinear_columns_of_X_are_dropped_with_the_warning_of_a_spectrum(route):
    X, W, y = rows()
    X = np.column_stack([X, X[:, 0] - 3 * X[:, 1], np.zeros(40), W[:, 0]])
    c = split((X, W, y), (3, 20), method=route)
    with pytest.warns(UserWarning, match="X has rank 4 but 6 columns: 'x3', 'x4' dropped"):
        factored = c.factor()
    with pytest.warns(UserWarning, match="dropped"):
        spectrum = Spectrum.from_factor(W, X)
    assert_same(factored, spectrum, spectrum.rotate(y))


@pytest.mark.parametrize("route", ROUTES)
def test_what_X_explains_is_exactly_zero(route):
    X, W, _ = rows()
    c = split((X, W, X @ [1e6, 1.0, -2.0]), (7,), method=route)
    rotated = c.factor()[1]
    assert (rotated.z == 0).all()
    assert rotated.rss == rotated.norm2 == 0


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.filterwarnings("ignore:what K and X leave of y")
def test_what_W_and_X_explain_leaves_no_rss(route):
    X, W, _ = rows()
    spectrum, rotated = split((X, W, X @ [1.0, 1.0, -2.0] + W @ np.arange(1.0, 7)), (7,), method=route).factor()
    assert rotated.rss == 0
    fit = flmm.reml(spectrum, rotated)
    assert not fit.converged
    assert ("method='tsqr'" in fit.message) == (route == "gram")


# ---------------------------------------------------------------- any split, any order


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, 39), max_size=8), T=st.sampled_from([None, 2]), seed=st.integers(0, 5))
def test_statistics_do_not_depend_on_the_split(route, cuts, T, seed):
    parts = rows(T=T, seed=seed)
    whole, pieces = split(parts, (), method=route), split(parts, cuts, method=route).shifted(split(parts, ()).shift)
    for name in ("n", "dropped", "columns"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name)) or name == "columns"
    assert_array_equal(whole.constants, pieces.constants)
    size = np.linalg.norm(parts[1]) ** 2
    for name in ("gram", "cross", "squares"):
        assert_allclose(getattr(pieces, name), getattr(whole, name), rtol=1e-10, atol=1e-12 * size)
    assert_allclose(pieces.triangle.R, whole.triangle.R, rtol=1e-9, atol=1e-11 * np.sqrt(size))
    assert_allclose(pieces.triangle.C, whole.triangle.C, rtol=1e-9, atol=1e-11 * np.sqrt(size))


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)), seed=st.integers(0, 5), intercept=st.booleans())
def test_merging_in_any_order_is_the_same_model(route, order, seed, intercept):
    parts = rows(seed=seed, intercept=intercept)
    edges = [0, 1, 6, 20, 33, 40]
    pieces = [KernelStatistics.from_arrays(*(p[edges[i] : edges[i + 1]] for p in parts), method=route) for i in order]
    merged = (pieces[0].merge(pieces[1])).merge(pieces[2].merge(pieces[3].merge(pieces[4])))
    spectrum = Spectrum.from_factor(parts[1], parts[0])
    assert merged.n == 40
    assert_same(merged.factor(), spectrum, spectrum.rotate(parts[2]))


@pytest.mark.parametrize("route", ROUTES)
def test_a_column_that_is_constant_in_the_first_blocks_only(route):
    # the shift hung on it must be taken back when it changes, exactly
    X, W, y = rows(intercept=False)
    X[:25, 1] = 5.0
    early = split((X[:25], W[:25], y[:25]), (4,), method=route)
    assert early.constant == 1
    assert (early.shift != 0).all()
    late = early.update(X[25:], W[25:], y[25:])
    other = early.merge(KernelStatistics.from_arrays(X[25:], W[25:], y[25:], method=route))
    spectrum = Spectrum.from_factor(W, X)
    for c in (late, other):
        assert c.constant is None
        assert (c.shift == 0).all()
        assert_same(c.factor(), spectrum, spectrum.rotate(y))


def test_nothing_is_shifted_without_a_constant():
    c = split(rows(intercept=False), (10,))
    assert c.shifted(np.zeros(7)) is c
    with pytest.raises(ValueError, match="X has no constant column, so that rows cannot be shifted"):
        c.shifted(np.ones(7))


@pytest.mark.parametrize("route", ROUTES)
def test_shifts_that_differ_by_much_are_reconciled(route):
    X, W, y = rows()
    y = y + 1e5 * (np.arange(40) >= 20)
    X = np.column_stack([X, np.arange(40) >= 20])
    left, right = (KernelStatistics.from_arrays(X[i], W[i], y[i], method=route) for i in (slice(20), slice(20, 40)))
    assert abs(left.shift[-1] - right.shift[-1]) > 9e4
    spectrum = Spectrum.from_factor(W, X)
    assert_same(left.merge(right).factor(), spectrum, spectrum.rotate(y))


def test_updates_do_not_change_what_there_was():
    parts = rows()
    first = KernelStatistics.from_arrays(*(p[:10] for p in parts))
    before = pickle.loads(pickle.dumps(first))
    first.update(*(p[10:] for p in parts))
    first.merge(first)
    for name in ("n", "gram", "cross", "squares", "shift"):
        assert_array_equal(getattr(first, name), getattr(before, name))
    with pytest.raises(ValueError, match="read-only"):
        first.gram[0, 0] = 1.0
    with pytest.raises(AttributeError):
        first.n = 3


def test_copies_and_pickles_are_the_same_statistics():
    c = split(rows(T=2), (10,))
    for same in (copy.copy(c), copy.deepcopy(c), pickle.loads(pickle.dumps(c))):
        assert repr(same) == repr(c)
        assert_array_equal(same.triangle.R, c.triangle.R)
        assert_array_equal(flmm.reml(*same.factor()).h2, flmm.reml(*c.factor()).h2)
    spectrum, rotated = pickle.loads(pickle.dumps(c.factor()))
    assert flmm.reml(spectrum, rotated).coef == ("x0", "x1", "x2")


def test_repr_says_what_there_is():
    X, W, y = rows()
    y[3] = np.nan
    c = KernelStatistics.from_arrays(X, W, y, missing="drop")
    assert repr(c) == "KernelStatistics(39 rows, X: 3 columns, W: 6 columns, 1 response, method='gram', 1 rows dropped)"


# ---------------------------------------------------------------- names, ids, missing values


def test_names_are_kept_and_ids_align_within_a_block():
    X, W, y = rows()
    ids = [f"i{k}" for k in range(40)]
    X, W = pd.DataFrame(X, ids, ["one", "a", "b"]), pd.DataFrame(W, ids, [f"snp{j}" for j in range(6)])
    Y = pd.DataFrame({"u": y, "v": y**2}, ids)
    shuffled = np.random.default_rng(0).permutation(20)
    c = KernelStatistics.from_arrays(X[:20].iloc[shuffled], W[:20], Y[:20].iloc[shuffled[::-1]])
    c = c.update(X[20:].to_numpy(), W[20:], Y[20:])
    spectrum, rotated = c.factor()
    assert (spectrum.coef, rotated.names) == (("one", "a", "b"), ("u", "v"))
    assert spectrum.factor_names == tuple(W.columns)
    assert flmm.reml(spectrum, rotated).factor_effects().mean.index.tolist() == list(W.columns)
    expected = Spectrum.from_factor(W, X)
    assert_same((spectrum, rotated), expected, expected.rotate(Y))


@pytest.mark.parametrize("route", ROUTES)
def test_rows_with_a_missing_value_are_dropped_and_counted_when_asked(route):
    X, W, y = rows()
    holed = [np.array(a) for a in (X, W, y)]
    holed[0][4, 1] = holed[1][4, 2] = holed[1][11, 0] = holed[2][30] = holed[2][31] = np.nan
    kept = np.setdiff1d(np.arange(40), [4, 11, 30, 31])
    c = KernelStatistics.from_arrays(*(a[:12] for a in holed), method=route, missing="drop")
    assert (c.n, c.dropped) == (10, 2)
    c = c.update(*(a[12:] for a in holed), missing="drop")
    assert (c.n, c.dropped) == (36, 4)
    spectrum = Spectrum.from_factor(W[kept], X[kept])
    assert_same(c.factor(), spectrum, spectrum.rotate(y[kept]))
    lost = KernelStatistics.from_arrays(X[:1], W[:1], [np.nan], method=route, missing="drop")
    assert (lost.n, lost.dropped) == (0, 1)
    for same in (lost.update(X, W, y), lost.merge(KernelStatistics.from_arrays(X, W, y, method=route))):
        assert (same.n, same.dropped) == (40, 1)
        whole = Spectrum.from_factor(W, X)
        assert_same(same.factor(), whole, whole.rotate(y))


def _with(values, index, value):
    out = np.array(values)
    out[index] = value
    return out


X0, W0, Y0 = rows(n=12)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((X0, W0, Y0[:11]), {}, "y has 11 rows but W has 12"),
        ((X0[:5], W0, Y0), {}, "X has 5 rows but W has 12"),
        ((X0, W0[:, 0], Y0), {}, "W must be 2-dimensional"),
        ((X0, W0[:, :0], Y0), {}, "W has no columns"),
        ((X0, _with(W0, (3, 2), np.nan), Y0), {}, r"W has 1 values .* at \(3, 2\): .*missing='drop'"),
        ((X0, W0, _with(Y0, 5, np.nan)), {}, "y has 1 values that are NaN or infinite, the first at"),
        ((X0, W0, _with(Y0, 5, np.inf)), {"missing": "drop"}, "y has 1 values that are NaN or infinite"),
        ((_with(X0, (0, 1), 1e60), W0, Y0), {}, "X has entries of size 1.0e.60"),
        ((X0, W0, Y0), {"method": "svd"}, "method must be 'gram' or 'tsqr', got 'svd'"),
        ((X0, W0, Y0), {"missing": "ignore"}, "missing must be 'raise' or 'drop', got 'ignore'"),
    ],
)
def test_bad_blocks_are_refused(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        KernelStatistics.from_arrays(*arrays, **options)


def test_blocks_must_have_the_same_columns():
    c = KernelStatistics.from_arrays(pd.DataFrame(X0, columns=list("abc")), W0, Y0)
    with pytest.raises(ValueError, match="W of this block has 5 columns but that of the blocks before had 6"):
        c.update(X0, W0[:, 1:], Y0)
    with pytest.raises(ValueError, match="X of this block has the columns 'a', 'c', 'b', before they were 'a'"):
        c.update(pd.DataFrame(X0, columns=list("acb")), W0, Y0)
    with pytest.raises(ValueError, match="X of other has the columns"):
        c.merge(KernelStatistics.from_arrays(pd.DataFrame(X0, columns=list("acb")), W0, Y0))
    with pytest.raises(ValueError, match="the statistics are of different kinds"):
        c.merge(KernelStatistics.from_arrays(X0, W0, Y0, method="tsqr"))
    with pytest.raises(TypeError, match="other must be KernelStatistics, got ndarray: use update"):
        c.merge(W0)


def test_too_few_rows():
    with pytest.raises(ValueError, match="X has rank 3 for 3 observations: nothing is left"):
        KernelStatistics.from_arrays(X0[:3], W0[:3], Y0[:3]).factor()
    empty = KernelStatistics.from_arrays(X0[:1], W0[:1], [np.nan], missing="drop")
    with pytest.raises(ValueError, match="no rows were added, 1 were dropped"):
        empty.factor()


# ---------------------------------------------------------------- a spectrum without rows


@pytest.fixture(scope="module")
def streamed():
    X, W, y = rows()
    spectrum = Spectrum.from_factor(W, X)
    return X, W, y, spectrum, split((X, W, y), (9, 30)).factor()


def test_what_needs_rows_says_what_to_do(streamed):
    X, _, y, _, (spectrum, rotated) = streamed
    assert repr(spectrum) == "Spectrum(n=40, rank=6, nullity=31, fixed effects: x0, x1, x2, rows not kept)"
    fit = flmm.reml(spectrum, rotated)
    for needs_rows in (
        fit.blup, fit.pev, fit.predict, spectrum.covariance_root, lambda: spectrum.basis, lambda: spectrum.X,
        lambda: spectrum.diagonal, lambda: spectrum.rotate(y), lambda: spectrum.subset([0, 1, 2, 3]),
        lambda: spectrum.projection.split(y), lambda: spectrum.projection.V, lambda: spectrum.projection.T,
        lambda: fit.predict(X_new=X, K_new=np.ones((40, 40))), lambda: flmm.reml(spectrum, y),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="the rows of X, W and y were not kept, only their statistics"):
            needs_rows()


def test_fits_profiles_and_predictions_are_those_in_memory(streamed):
    X, W, y, spectrum, factored = streamed
    fit, expected = flmm.reml(*factored), flmm.reml(spectrum, y)
    assert_allclose(fit.profile([0.1, 0.5, 0.9]), expected.profile([0.1, 0.5, 0.9]), rtol=1e-10)
    new, in_memory = (f.predict(X[:5] + 0.1, W_new=W[:5] - 0.2) for f in (fit, expected))
    assert_allclose(new.mean, in_memory.mean, rtol=1e-9)
    assert_allclose(new.variance, in_memory.variance, rtol=1e-7)
    effects, others = fit.factor_effects(), expected.factor_effects()
    assert_allclose(effects.mean, others.mean, rtol=1e-8)
    assert_allclose(effects.se, others.se, rtol=1e-8)
    assert_allclose(W @ effects.mean, expected.blup(), rtol=1e-7)
    assert repr(effects) == "FactorEffects(6 columns of W: .mean, .variance, .se)"


def test_the_exact_posterior_is_that_in_memory(streamed):
    *_, y, spectrum, factored = streamed
    posterior, expected = flmm.exact_posterior(*factored), flmm.exact_posterior(spectrum, y)
    assert_allclose(posterior.log_evidence, expected.log_evidence, rtol=1e-10)
    assert_allclose(posterior.quantile("h2", 0.3), expected.quantile("h2", 0.3), rtol=1e-8)
    for mine, theirs in zip(posterior.beta(), expected.beta(), strict=True):
        assert_allclose(mine, theirs, rtol=1e-8)


def test_float32_and_integer_blocks():
    X, W, y = rows()
    genotypes = np.random.default_rng(1).integers(0, 3, size=W.shape, dtype=np.int8)
    a = KernelStatistics.from_arrays(X, genotypes, y.astype(np.float32)).factor()
    spectrum = Spectrum.from_factor(genotypes.astype(float), X)
    assert_same(a, spectrum, spectrum.rotate(y.astype(np.float32).astype(float)))


def test_no_warning_for_data_that_inner_products_resolve():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flmm.reml(*split(rows(), (10,)).factor())
        flmm.exact_posterior(*split(rows(), (10,)).factor())


def test_digits_of_y_that_a_gram_matrix_loses_along_small_eigenvalues_are_named():
    rng = np.random.default_rng(2)
    W, X, y = (
        np.diag(10.0 ** np.linspace(-6, 1, 12)) + 1e-7 * rng.normal(size=(12, 12)),
        np.ones((12, 1)),
        rng.normal(size=12),
    )
    with pytest.warns(UserWarning, match=r"W spans all 11 directions .* have lost digits of y .* method='tsqr'"):
        KernelStatistics.from_arrays(X, W, y).factor()
    rotated = KernelStatistics.from_arrays(X, W, y, method="tsqr").factor()[1]
    expected = Spectrum.from_factor(W, X).rotate(y)
    assert_allclose(rotated.norm2, expected.norm2, rtol=1e-12)
