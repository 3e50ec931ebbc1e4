"""Spectrum: the factors against K and X, what is refused, labels, copies."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal

from pm_fastlmm import Design, Spectrum, covariance, reml
from pm_fastlmm.results import Rotated


def some_K(n=8, seed=0, m=None):
    W = np.random.default_rng(seed).normal(size=(n, m or n + 3))
    return W @ W.T


# ---------------------------------------------------------------- the factors


def test_basis_diagonalises_K_orthogonal_to_X(problem):
    s = problem.spectrum
    Q = np.hstack([s.projection.Q1, s.basis])
    size = s.eigvals.max()
    assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=1e-12)
    assert_allclose(s.basis.T @ problem.K @ s.basis, np.diag(s.eigvals), atol=1e-12 * size)
    assert_allclose(s.C, s.basis.T @ problem.K @ s.projection.Q1, atol=1e-11 * size)
    K11 = s.projection.Q1.T @ problem.K @ s.projection.Q1
    assert_allclose(s.schur, K11 - s.C.T @ (s.C / s.eigvals[:, None]), atol=1e-11 * size)
    assert_allclose(s.corner_root @ s.corner_root.T, s.schur, rtol=1e-12, atol=1e-15 * size)
    assert (np.diff(s.eigvals) >= 0).all()
    assert (s.eigvals > 0).all()


def test_the_part_of_K_along_X_alone_has_its_exact_rank(build_problem):
    # W reaches X only together with directions off it: nothing of K is along X alone, not even rounding
    for kind in ("low-W", "low-K"):
        assert (build_problem(kind).spectrum.schur == 0).all()
    problem = build_problem("low-K")
    spectrum = Spectrum.from_covariance(problem.K + 2 * np.outer(problem.X[:, 2], problem.X[:, 2]), problem.X)
    assert np.linalg.matrix_rank(spectrum.schur) == 1
    R = spectrum.projection.R
    assert_allclose(spectrum.schur, 2 * np.outer(R[:, 2], R[:, 2]), atol=1e-9 * np.abs(spectrum.schur).max())


@pytest.mark.parametrize("route", ["factor", "covariance"])
def test_a_null_direction_hidden_by_X_leaves_an_exact_zero(route):
    # 11 columns for 12 observations: off the two columns of X all of K is seen, along them one direction has none of it
    rng = np.random.default_rng(0)
    W = rng.normal(size=(12, 11)) * 10 ** rng.uniform(-1.5, 1.5, size=11)
    X = np.column_stack([np.ones(12), rng.normal(size=12)])
    spectrum = Spectrum.from_factor(W, X) if route == "factor" else Spectrum.from_covariance(W @ W.T, X)
    assert spectrum.nullity == 0
    sizes = np.linalg.norm(spectrum.corner_root, axis=0)
    assert (sizes == 0).sum() == 1


def test_nullity_counts_the_directions_that_neither_X_nor_K_reaches(problem):
    s = problem.spectrum
    r = 0 if problem.X is None else 3
    rank = min(23 - r, problem.W.shape[1])
    assert (s.n, s.rank, s.nullity, s.df) == (23, rank, 23 - r - rank, 23 - r)


def test_covariance_root_reproduces_K(problem):
    root, corner = problem.spectrum.covariance_root()
    assert_allclose(root @ root.T + corner @ corner.T, problem.K, atol=1e-11 * np.abs(problem.K).max())
    assert_allclose(problem.spectrum.diagonal, np.diag(problem.K), rtol=1e-10)


def test_mean_diagonal_and_mean_eigenvalue_are_traces(problem):
    s = problem.spectrum
    Q1 = s.projection.Q1
    M = np.eye(23) - Q1 @ Q1.T
    assert_allclose(s.mean_diagonal, np.trace(problem.K) / 23, rtol=1e-12)
    assert_allclose(s.mean_eigval, np.trace(M @ problem.K @ M) / s.df, rtol=1e-10)


def test_X_is_given_back(build_problem):
    problem = build_problem("full-K")
    assert_allclose(problem.spectrum.X, problem.X, atol=1e-12 * np.abs(problem.X).max())


def test_loadings_are_the_rotated_factor(build_problem):
    problem = build_problem("low-W")
    s = problem.spectrum
    assert_allclose(s.loadings, s.basis.T @ problem.W, atol=1e-12)
    assert_allclose(s.loadings_fixed, s.projection.Q1.T @ problem.W, atol=1e-12)
    assert build_problem("low-K").spectrum.loadings is None


def test_covariance_and_factor_give_the_same_spectrum(build_problem):
    for kind in ("full", "low"):
        from_K, from_W = build_problem(f"{kind}-K").spectrum, build_problem(f"{kind}-W").spectrum
        assert_allclose(from_K.eigvals, from_W.eigvals, rtol=1e-9)
        assert from_K.nullity == from_W.nullity
        assert_allclose(from_K.mean_diagonal, from_W.mean_diagonal, rtol=1e-12)


def test_inputs_are_not_changed(build_problem):
    problem = build_problem("low-W")
    K, W, X, y = (np.array(a) for a in (problem.K, problem.W, problem.X, problem.y))
    for spectrum in (Spectrum.from_covariance(K, X), Spectrum.from_factor(W, X), Spectrum.from_factor(W)):
        spectrum.rotate(y)
    for mine, theirs in ((K, problem.K), (W, problem.W), (X, problem.X), (y, problem.y)):
        assert_array_equal(mine, theirs)


# ---------------------------------------------------------------- rank and tolerance


@pytest.mark.parametrize("size", [1e-45, 1e-9, 1e-4, 1.0, 1e9])
def test_rank_does_not_depend_on_the_scale_of_K(size):
    full, low = some_K() * size, some_K(m=3) * size
    X = np.ones((8, 1))
    assert Spectrum.from_covariance(full, X).rank == 7
    assert (Spectrum.from_covariance(low, X).rank, Spectrum.from_covariance(low, X).nullity) == (3, 4)


@pytest.mark.parametrize("size", [1e-22, 1e-9, 1e9])
def test_rank_does_not_depend_on_the_scale_of_W(size):
    W = np.random.default_rng(1).normal(size=(8, 5))
    W[:, 4] = W[:, 0] - W[:, 1]
    spectrum = Spectrum.from_factor(size * W, np.ones((8, 1)))
    assert (spectrum.rank, spectrum.nullity) == (4, 3)


def test_a_kernel_along_X_alone_leaves_only_null_directions():
    for spectrum in (
        Spectrum.from_covariance(np.full((6, 6), 0.7), np.ones((6, 1))),
        Spectrum.from_factor(np.full((6, 2), 0.7), np.ones((6, 1))),
    ):
        assert (spectrum.rank, spectrum.nullity) == (0, 5)


def test_rtol_forgives_a_covariance_that_was_rounded_when_it_was_stored():
    rounded = some_K(m=4).round(3)
    with pytest.raises(ValueError, match=r"not positive semi-definite: its smallest eigenvalue is -.* rtol=1e-0[0-9]"):
        Spectrum.from_covariance(rounded)
    spectrum = Spectrum.from_covariance(rounded, rtol=1e-3)
    assert (spectrum.rank, spectrum.nullity) == (4, 4)


@pytest.mark.parametrize("rtol", [-1e-9, 1.0, "small", np.nan])
def test_a_tolerance_outside_its_range_is_refused(rtol):
    with pytest.raises(ValueError, match="rtol must be a number between 0 and 1, got"):
        Spectrum.from_covariance(some_K(), rtol=rtol)


def test_single_precision_is_judged_by_its_own_rounding():
    K = some_K(m=4).astype(np.float32)
    spectrum = Spectrum.from_covariance((K + K.T) / 2)
    assert (spectrum.rank, spectrum.nullity) == (4, 4)


@pytest.mark.parametrize("X", [None, np.ones((8, 1))])
def test_an_indefinite_matrix_is_refused(X):
    K = some_K()
    K[0, 0] -= 20
    with pytest.raises(ValueError, match="K is not positive semi-definite: its smallest eigenvalue is -"):
        Spectrum.from_covariance(K, X)


def _negative_along(case):
    """K and X, where K is negative in X alone, and how much of XXᵀ makes it a covariance."""
    rng = np.random.default_rng(3)
    B = rng.normal(size=(8, 12))
    if case == "intercept":
        return B @ B.T / 12 - 0.5 * np.ones((8, 8)), np.ones((8, 1)), 2.0
    K = np.diag(np.arange(1.0, 9.0))
    K[0, 1] = K[1, 0] = 1.7  # K₁₁ > 0 as well: only the Schur complement is negative
    return K, np.eye(8)[:, :1], 2.0


@pytest.mark.parametrize("case", ["intercept", "corner"])
def test_a_matrix_that_is_negative_along_X_alone_is_taken_as_the_covariance_that_differs_along_X(case):
    K, X, more = _negative_along(case)
    assert np.linalg.eigvalsh(K)[0] < -0.1
    spectrum, covariance = Spectrum.from_covariance(K, X), Spectrum.from_covariance(K + more * X @ X.T, X)
    y = np.random.default_rng(4).normal(size=8)
    found, expected = reml(spectrum, y), reml(covariance, y)
    assert_allclose([found.loglik, found.sigma2_g, found.sigma2_e, *found.beta],
                    [expected.loglik, expected.sigma2_g, expected.sigma2_e, *expected.beta], rtol=1e-9)  # fmt: skip
    apart = np.eye(8) - X @ np.linalg.pinv(X)
    assert_allclose(apart @ found.blup(), apart @ expected.blup(), atol=1e-10)
    assert np.linalg.eigvalsh(np.atleast_2d(found.beta_cov))[0] > 0


def test_negative_eigenvalues_are_zeros_where_that_is_asked_for():
    rng = np.random.default_rng(5)
    U = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    values = np.array([-0.4, -0.01, 0, 0.2, 0.5, 1, 1.5, 2, 3])
    K, cut, y = U * values @ U.T, U * np.maximum(values, 0) @ U.T, rng.normal(size=9)
    with pytest.raises(ValueError, match=r"cuts [23] negative eigenvalues, 4\.8 % of all"):
        Spectrum.from_covariance(K)
    found = reml(Spectrum.from_covariance(K, negative="zero"), y)
    expected = reml(Spectrum.from_covariance(cut), y)
    assert_allclose([found.loglik, found.delta], [expected.loglik, expected.delta], rtol=1e-9)
    who = np.repeat(np.arange(9), 2)
    twice = reml(Spectrum.from_covariance(K, np.ones((18, 1)), individual=who, negative="zero"), rng.normal(size=18))
    assert twice.spectrum.rank == 6
    with pytest.raises(ValueError, match=r"not positive semi-definite.*negative='zero'"):
        Spectrum.from_covariance(K, np.ones((18, 1)), individual=who)


def test_a_semi_definite_matrix_of_many_scales_is_accepted():
    # null directions hidden by X make the Schur complement along X singular, and small eigenvalues magnify the rounding
    # in it by 1/λ: that is no indefinite K
    refused = []
    for seed in range(200):
        rng = np.random.default_rng([99, seed])
        n = int(rng.integers(4, 13))
        eigenvalues = 10 ** rng.uniform(-11, 2, size=n)
        eigenvalues[: int(rng.integers(1, 3))] = 0
        W = np.linalg.qr(rng.normal(size=(n, n)))[0] * np.sqrt(eigenvalues)
        X = np.column_stack([np.ones(n), rng.normal(size=n)])
        try:
            spectrum = Spectrum.from_covariance(W @ W.T, X)
        except ValueError as error:
            refused.append((seed, str(error)))
            continue
        root, corner = spectrum.covariance_root()
        assert_allclose(root @ root.T + corner @ corner.T, W @ W.T, atol=1e-6 * np.abs(W @ W.T).max())
    assert not refused


@pytest.mark.parametrize("length", [0.1, 0.5, 3.0])
def test_a_smooth_kernel_whose_eigenvalues_decay_to_rounding_is_accepted(length):
    t = np.linspace(0, 3, 60)
    K = np.exp(-((t[:, None] - t) ** 2) / (2 * length**2))
    spectrum = Spectrum.from_covariance(K, np.column_stack([np.ones(60), t]))
    root, corner = spectrum.covariance_root()
    # K is known to n eps, so that the square root of its smallest eigenvalues is known to √(n eps) = 1e-7
    assert_allclose(root @ root.T + corner @ corner.T, K, atol=1e-6)


# ---------------------------------------------------------------- bad kernels and designs


def with_nan(K):
    K[2, 3] = K[3, 2] = np.nan
    return K


@pytest.mark.parametrize(
    ("K", "error", "message"),
    [
        (some_K()[:, :5], ValueError, r"K must be square, got shape \(8, 5\): a factor W .* Spectrum.from_factor"),
        (np.arange(8.0), ValueError, r"K must be 2-dimensional, got shape \(8,\)"),
        (np.zeros((0, 0)), ValueError, "K is empty: there are no observations"),
        (
            with_nan(some_K()),
            ValueError,
            r"K has 2 values that are NaN or infinite, the first at \(2, 3\): a covariance",
        ),
        (some_K() * np.inf, ValueError, r"K has 64 values that are NaN or infinite"),
        (np.triu(some_K()), ValueError, "K must be symmetric, but differs from its transpose by up to"),
        (some_K() * 1j, TypeError, "K must be real numbers, got complex"),
        ([["a", "b"], ["b", "a"]], TypeError, "K must be real numbers, got <U1"),
        ([[1.0, 0.0], [0.0]], TypeError, "K must be an array of numbers, got rows of different lengths"),
        (some_K() * 1e-80, ValueError, "K has entries of size .* choose another unit"),
    ],
)
def test_bad_covariances_are_refused(K, error, message):
    with pytest.raises(error, match=message):
        Spectrum.from_covariance(K)


@pytest.mark.parametrize(
    ("W", "error", "message"),
    [
        (np.zeros((5, 0)), ValueError, r"W is empty, shape \(5, 0\)"),
        (np.zeros((0, 2)), ValueError, r"W is empty, shape \(0, 2\)"),
        (
            np.full((5, 2), np.nan),
            ValueError,
            r"W has 10 values that are NaN or infinite, the first at \(0, 0\): impute",
        ),
        (np.arange(5.0), ValueError, r"W must be 2-dimensional, got shape \(5,\)"),
        (np.ones((5, 2)) * 1j, TypeError, "W must be real numbers"),
    ],
)
def test_bad_factors_are_refused(W, error, message):
    with pytest.raises(error, match=message):
        Spectrum.from_factor(W)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((7, 1)), ValueError, "X has 7 rows but K has 8"),
        (np.full((8, 1), np.nan), ValueError, r"X has 8 values that are NaN or infinite, the first at \(0, 0\): drop"),
        (np.r_[np.ones(7), np.inf], ValueError, r"X has 1 values that are NaN or infinite, the first at \(7, 0\)"),
        (np.r_[np.inf, -np.inf, np.ones(6)], ValueError, "X has 2 values that are NaN or infinite"),
        (np.ones((8, 1, 1)), ValueError, r"X must be 1-dimensional or 2-dimensional, got shape \(8, 1, 1\)"),
        (pd.DataFrame({"sex": list("mfmfmfmf")}), TypeError, "X must be numbers, .* give a formula to flmm.Design"),
        (np.ones((8, 1)) * 1j, TypeError, "X must be real numbers"),
        ("1 + sex", TypeError, "X is the text '1 [+] sex': a formula needs a table"),
        (np.eye(8), ValueError, "X has rank 8 for 8 observations: nothing is left"),
    ],
)
def test_bad_designs_are_refused(X, error, message):
    with pytest.raises(error, match=message):
        Spectrum.from_covariance(some_K(), X)


def test_one_observation_with_an_intercept_is_refused():
    with pytest.raises(ValueError, match="X has rank 1 for 1 observations: nothing is left"):
        Spectrum.from_covariance(np.eye(1), np.ones((1, 1)))


def test_a_vector_is_a_design_of_one_column():
    assert_allclose(
        Spectrum.from_covariance(some_K(), np.arange(8.0)).eigvals,
        Spectrum.from_covariance(some_K(), np.arange(8.0)[:, None]).eigvals,
    )


def test_a_sparse_factor_is_read():
    W = np.kron(np.eye(3), np.ones((3, 1)))
    assert_allclose(Spectrum.from_factor(scipy.sparse.csr_array(W)).eigvals, Spectrum.from_factor(W).eigvals)


# ---------------------------------------------------------------- ids


@pytest.fixture
def labelled():
    rng = np.random.default_rng(8)
    ids = [f"cow{k}" for k in range(8)]
    K = pd.DataFrame(some_K(), index=ids, columns=ids)
    X = pd.DataFrame({"mean": 1.0, "age": rng.normal(size=8)}, index=ids)
    return K, X, pd.Series(rng.normal(size=8), index=ids), rng.permutation(8)


def test_ids_align_K_X_and_y_in_any_order(labelled):
    K, X, y, order = labelled
    expected = Spectrum.from_covariance(K.to_numpy(), X.to_numpy()).rotate(y.to_numpy())
    shuffled = Spectrum.from_covariance(K, X.iloc[order]).rotate(y.iloc[order[::-1]])
    assert_allclose(np.abs(shuffled.z), np.abs(expected.z), rtol=1e-9)
    assert_allclose(shuffled.y1, expected.y1, rtol=1e-12)
    assert shuffled.spectrum.ids == tuple(K.index)
    assert shuffled.spectrum.coef == ("mean", "age")


def test_ids_of_X_align_y_when_K_has_none(labelled):
    K, X, y, order = labelled
    spectrum = Spectrum.from_covariance(K.to_numpy(), X)
    assert_allclose(spectrum.rotate(y.iloc[order]).y1, spectrum.rotate(y.to_numpy()).y1, rtol=1e-12)


def test_ids_of_W_align_too(labelled):
    _, X, y, order = labelled
    W = pd.DataFrame(np.random.default_rng(2).normal(size=(8, 3)), index=y.index)
    expected = Spectrum.from_factor(W.to_numpy(), X.to_numpy()).rotate(y.to_numpy())
    assert_allclose(Spectrum.from_factor(W, X.iloc[order]).rotate(y.iloc[order]).rss, expected.rss, rtol=1e-9)


def test_a_mismatch_of_ids_names_them(labelled):
    K, X, y, _ = labelled
    wrong = X.rename(index={"cow3": "bull"})
    with pytest.raises(ValueError, match=r"1 ids of X are not in K \('bull'\); 1 ids of K are not in X \('cow3'\)"):
        Spectrum.from_covariance(K, wrong)
    spectrum = Spectrum.from_covariance(K, X)
    with pytest.raises(ValueError, match=r"ids of y are not in the spectrum \('calf'\).*not in y \('cow0'\)"):
        spectrum.rotate(y.rename(index={"cow0": "calf"}))


def test_duplicated_ids_are_refused(labelled):
    K, _, y, _ = labelled
    with pytest.raises(ValueError, match=r"y has duplicated ids \('cow1'\): each row needs an id of its own"):
        Spectrum.from_covariance(K).rotate(y.rename(index={"cow0": "cow1"}))


def test_a_kernel_whose_rows_and_columns_disagree_is_refused(labelled):
    K, _, _, _ = labelled
    for other in (K.rename(columns={"cow0": "bull"}), K.set_axis([*K.columns[1:], K.columns[1]], axis=1)):
        with pytest.raises(ValueError, match=r"K has other ids in its columns than in its rows: reindex it, K\.loc"):
            Spectrum.from_covariance(other)


def test_columns_of_a_kernel_in_another_order_are_put_into_that_of_its_rows(labelled):
    K, X, y, order = labelled
    mixed = K.iloc[:, order]
    expected = reml(Spectrum.from_covariance(K, X), y)
    for spectrum in (Spectrum.from_covariance(mixed, X), Design.from_arrays(y, X, K=mixed).spectrum()):
        fit = reml(spectrum, y)
        assert_allclose([fit.sigma2_g, fit.sigma2_e], [expected.sigma2_g, expected.sigma2_e], rtol=1e-8)
    known = covariance.known(mixed, sigma2=1.0)
    assert_array_equal(known.K, K)
    numbered = pd.DataFrame(np.eye(3) + np.arange(3)[:, None] * np.arange(3), [3, 1, 2], [3, 1, 2])
    as_text = numbered[[1, 2, 3]].rename(columns=str)
    assert_array_equal(covariance.known(as_text).K, numbered)


# ---------------------------------------------------------------- subset


@pytest.mark.parametrize("kind", ["full-K", "low-K", "low-W", "low-W-noX"])
def test_subset_is_the_spectrum_of_those_rows(build_problem, kind):
    problem = build_problem(kind)
    keep = np.arange(23) % 5 != 2
    X = None if problem.X is None else problem.X[keep]
    expected = Spectrum.from_covariance(problem.K[np.ix_(keep, keep)], X)
    for rows in (keep, np.flatnonzero(keep)):
        subset = problem.spectrum.subset(rows)
        assert (subset.n, subset.nullity) == (18, expected.nullity)
        fit, same = reml(subset, problem.y[keep]), reml(expected, problem.y[keep])
        assert_allclose([fit.loglik, fit.h2, *fit.beta], [same.loglik, same.h2, *same.beta], rtol=1e-6)


def test_subset_keeps_names_and_ids(labelled):
    K, X, y, _ = labelled
    subset = Spectrum.from_covariance(K, X).subset([1, 4, 5, 6])
    assert subset.ids == ("cow1", "cow4", "cow5", "cow6")
    assert subset.coef == ("mean", "age")
    with pytest.raises(ValueError, match="ids of y are not in the spectrum"):
        subset.rotate(y.iloc[:4])


def test_a_labelled_mask_is_aligned_by_its_ids(labelled):
    K, X, y, order = labelled
    keep = pd.Series(np.arange(8) % 3 != 0, index=y.index)
    assert Spectrum.from_covariance(K, X).subset(keep.iloc[order]).ids == tuple(y.index[keep])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 8], "rows must be a boolean mask of length 8, or different row numbers from 0 to 7"),
        ([-1, 2], "rows must be a boolean mask of length 8"),
        ([1, 1, 2], "rows must be a boolean mask of length 8"),
        ([], "rows must be a boolean mask of length 8"),
        ([0.5, 2.0], "rows must be a boolean mask of length 8"),
        (np.ones(7, dtype=bool), "rows has 7 rows but the spectrum has 8"),
    ],
)
def test_rows_that_are_not_there_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        Spectrum.from_covariance(some_K(), np.ones((8, 1))).subset(rows)


def test_subset_of_a_smooth_kernel_keeps_it_to_rounding():
    # δ is 1e-8 here: what the subset adds to K must be smaller still
    rng = np.random.default_rng(3)
    t = np.linspace(0, 1, 40)
    K = np.exp(-((t[:, None] - t) ** 2) / 0.5)
    X = np.column_stack([np.ones(40), t])
    keep = np.arange(40) % 4 != 1
    values, U = np.linalg.eigh(K)
    y = (U * np.sqrt(np.maximum(values, 0)) @ rng.normal(size=40) + 1e-4 * rng.normal(size=40))[keep]
    subset = reml(Spectrum.from_covariance(K, X).subset(keep), y)
    direct = reml(Spectrum.from_covariance(K[np.ix_(keep, keep)], X[keep]), y)
    assert 1e-10 < direct.delta < 1e-6
    assert_allclose([subset.loglik, subset.delta], [direct.loglik, direct.delta], rtol=1e-4)


# ---------------------------------------------------------------- immutability


def test_arrays_are_read_only(problem):
    for owner, names in (
        (problem.spectrum, ("eigvals", "basis", "C", "corner_root", "loadings", "loadings_fixed")),
        (problem.rotated, ("z", "y1", "rss", "norm2")),
    ):
        for name in names:
            array = getattr(owner, name)
            assert array is None or not array.flags.writeable, name


def test_attributes_cannot_be_set(problem):
    with pytest.raises(AttributeError):
        problem.spectrum.eigvals = np.ones(3)
    with pytest.raises(AttributeError):
        problem.rotated.z = np.ones(3)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_and_pickles_give_the_same_fit(problem, clone):
    spectrum, rotated = clone(problem.spectrum), clone(problem.rotated)
    assert isinstance(rotated, Rotated)
    expected = reml(problem.spectrum, problem.y).loglik
    assert reml(spectrum, problem.y).loglik == expected
    assert reml(rotated.spectrum, rotated).loglik == expected


def test_text_shows_sizes_and_names(labelled):
    K, X, y, _ = labelled
    spectrum = Spectrum.from_covariance(K, X)
    assert repr(spectrum) == "Spectrum(n=8, rank=6, nullity=0, fixed effects: mean, age)"
    assert repr(spectrum.rotate(y)) == "Rotated(1 response, rank=6, nullity=0)"
    assert repr(spectrum.rotate(pd.DataFrame({"a": y, "b": y}))) == "Rotated(2 responses, rank=6, nullity=0)"
    assert repr(Spectrum.from_covariance(some_K())).endswith("fixed effects: none)")


def test_a_subset_without_the_rows_of_an_indicator_drops_it():
    W, only = np.repeat(np.eye(8), 5, axis=0), (np.arange(40) == 7).astype(float)
    spectrum = Spectrum.from_factor(W, np.column_stack([np.ones(40), only]))
    assert np.abs(spectrum.X[only == 0, 1]).max() > 0  # rounding of QR
    with pytest.warns(UserWarning, match="'x1' dropped"):
        assert spectrum.subset(only == 0).coef == ("x0",)
    kept = spectrum.subset(np.arange(40) > 6)
    assert_allclose(kept.X, np.column_stack([np.ones(33), only[7:]]), atol=1e-14)
