"""Thousands of responses in one fit: each as if alone, none in a local mode, missing rows by pattern."""

import collections
import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from quantities import quantity

from pm_fastlmm import Spectrum, log_likelihood, reml

METHODS = ("REML", "ML")
NUMBERS = ("h2", "pve", "sigma2_g", "sigma2_e", "total", "loglik", "loglik_null", "h2_se", "sigma2_e_se", "beta")


def responses(spectrum, K, T, rng):
    """Responses whose true h² is anywhere in [0, 1], both ends included, with different sizes."""
    # with null directions h² = 1 leaves rounding there, which is not the same in every matrix product
    h2 = np.r_[np.zeros(30), np.full(5, 1.0 if spectrum.nullity == 0 else 0.9999), rng.uniform(size=T - 35)]
    values, U = np.linalg.eigh(K / (np.trace(K) / len(K)))
    u = U @ (np.sqrt(np.maximum(values, 0))[:, None] * rng.normal(size=(len(K), T)))
    Y = np.sqrt(h2) * u + np.sqrt(1 - h2) * rng.normal(size=(len(K), T))
    return (Y + (3 if spectrum.coef else 0)) * 10 ** rng.uniform(-3, 3, size=T)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["full-K", "full-K-noX", "low-W", "low-W-noX"])
def test_each_response_is_fitted_as_if_alone(build_problem, kind, method):
    problem = build_problem(kind, n=60)
    Y = responses(problem.spectrum, problem.K, 300, np.random.default_rng(5))
    fits = reml(problem.spectrum, Y, method=method)
    assert fits.names == tuple(f"y{t}" for t in range(300))
    seen = collections.Counter(map(str, fits.boundary))
    assert seen["()"] > 100
    assert seen["('sigma2_g',)"] > 5
    alone = [reml(problem.spectrum, Y[:, t], method=method) for t in range(300)]
    for t, one in enumerate(alone):
        assert (one.boundary, one.converged, one.message) == (fits.boundary[t], fits.converged[t], fits.message[t])
    for name in NUMBERS:
        assert_allclose(quantity(fits, name), [quantity(one, name) for one in alone], rtol=1e-9, err_msg=name)


def rough_batch(seed, T=50):
    """A small spectrum over eight decades, with or without null directions, and T rough responses."""
    rng = np.random.default_rng([77, seed])
    n = int(rng.integers(4, 13))
    r = int(rng.integers(0, min(3, n - 2) + 1))
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])[:, :r] if r else None
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    eigenvalues = 10 ** rng.uniform(-4, 4, size=n)
    if seed % 3 == 0:
        eigenvalues[: int(rng.integers(1, n - 1))] = 0
    W = (basis * np.sqrt(eigenvalues))[:, eigenvalues > 0]
    Y = basis @ (10 ** rng.uniform(-2, 2, size=(n, T)) * rng.choice([-1, 1], size=(n, T)))
    return W @ W.T, W, X, Y


def test_no_likelihood_is_lost_in_two_thousand_small_cases(oracle):
    seen = collections.Counter()
    for seed in range(40):
        K, W, X, Y = rough_batch(seed)
        spectrum = Spectrum.from_covariance(K, X) if seed % 2 else Spectrum.from_factor(W, X)
        labelled = xr.DataArray(Y, dims=("obs", "gene"))
        fits = reml(spectrum, labelled if len(K) != Y.shape[1] else Y)
        assert fits.converged.all()
        positive = np.linalg.eigvalsh(K)[-W.shape[1] :]
        delta = np.geomspace(positive.min() * 1e-6, positive.max() * 1e6, 400)
        for t in range(Y.shape[1]):
            grid = oracle.profile_loglik(K, X, Y[:, t], delta)
            assert fits.loglik[t] >= grid.max() - 1e-8 * max(1, abs(grid.max())), (seed, t)
            seen[str(fits.boundary[t])] += 1
            seen["several modes"] += int((np.diff(np.sign(np.diff(grid))) < 0).sum() > 1)
        interior = ~fits.at_zero.any(axis=1)
        attained = log_likelihood(spectrum.rotate(labelled), fits.sigma2_g, fits.sigma2_e)
        assert_allclose(fits.loglik[interior], attained[interior], rtol=0, atol=1e-8)
    assert sum(seen[kind] for kind in ("()", "('sigma2_g',)", "('sigma2_e',)")) == 2000
    for kind in ("()", "('sigma2_g',)", "('sigma2_e',)", "several modes"):
        assert seen[kind] >= 50, seen


@pytest.mark.parametrize("method", METHODS)
def test_loglik_null_is_that_of_ordinary_least_squares(problem, method):
    fit = reml(problem.spectrum, problem.y, method=method)
    df = problem.spectrum.df if method == "REML" else 23
    null = log_likelihood(problem.rotated, 0.0, problem.rotated.norm2 / df, method=method)
    assert_allclose(fit.loglik_null, null, rtol=1e-12)
    assert fit.loglik >= fit.loglik_null


def test_the_dataset_carries_every_number_by_name(build_problem):
    problem = build_problem("low-W")
    Y = pd.DataFrame({"a": problem.y, "flat": 2.0, "b": problem.y[::-1]})
    fits = reml(problem.spectrum, Y)
    data = fits.to_dataset()
    assert dict(data.sizes) == {"response": 3, "coef": 3}
    for name in ("h2", "h2_se", "sigma2", "delta", "sigma2_g", "sigma2_e", "pve", "loglik", "loglik_null", "converged"):
        assert_array_equal(data[name], quantity(fits, name))
    assert_array_equal(data.beta.sel(response="b"), fits.beta.loc["b"])
    assert_array_equal(data.beta_se.sel(coef="x1"), fits.beta_se["x1"])
    assert data.boundary.dtype.kind == data.message.dtype.kind == "U"
    assert "X explains y exactly" in str(data.message.sel(response="flat").values)
    assert data.attrs["method"] == "REML"
    assert data.attrs["patterns"] == 1
    one = reml(problem.spectrum, problem.y).to_dataset()
    assert dict(one.sizes) == {"coef": 3}
    assert_allclose(one.h2, data.h2.sel(response="a"), rtol=1e-9)


def test_one_response_is_taken_out_by_name(build_problem):
    problem = build_problem("low-W")
    Y = pd.DataFrame({"a": problem.y, "b": problem.y[::-1]})
    fits = reml(problem.spectrum, Y)
    one, alone = fits.response("b"), reml(problem.spectrum, Y["b"])
    assert repr(one) == repr(alone)
    assert_allclose(one.predict().mean, alone.predict().mean, rtol=1e-9)
    assert type(one.h2) is float
    with pytest.raises(ValueError, match="there is no response 'c'"):
        fits.response("c")
    with pytest.raises(ValueError, match="there is no response 'b'"):
        one.response("b")


# ---------------------------------------------------------------- missing values


def with_gaps(problem, T=12):
    rng = np.random.default_rng(8)
    Y = np.column_stack([problem.y + 0.3 * rng.normal(size=23) for _ in range(T)])
    Y[3, ::2] = np.nan
    Y[[5, 9], 4:8] = np.nan
    return Y


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_missing_rows_are_fitted_by_pattern_and_put_back_in_order(build_problem, kind):
    problem = build_problem(kind)
    Y = with_gaps(problem)
    fits = reml(problem.spectrum, Y, missing="by_pattern")
    for t in range(12):
        seen = np.isfinite(Y[:, t])
        one = reml(problem.spectrum.subset(seen), Y[seen, t])
        assert fits.n_obs[t] == seen.sum()
        for name in NUMBERS:
            assert_allclose(quantity(fits, name)[t], quantity(one, name), rtol=1e-8, err_msg=name)
    assert_array_equal(fits.pattern, [0, 1, 0, 1, 2, 3, 2, 3, 0, 1, 0, 1])
    assert fits.to_dataset().attrs["patterns"] == 4
    assert "20 to 23 observations, 12 responses" in repr(fits)
    for use in (fits.blup, fits.pev, fits.predict, lambda: fits.spectrum):
        with pytest.raises(ValueError, match=r"responses had different missing rows.*spectrum.subset"):
            use()


def test_one_pattern_keeps_its_spectrum(build_problem):
    problem = build_problem("low-W")
    y = problem.y.copy()
    y[[2, 6]] = np.nan
    fit = reml(problem.spectrum, y, missing="by_pattern")
    seen = np.isfinite(y)
    alone = reml(problem.spectrum.subset(seen), y[seen])
    assert fit.n_obs == 21
    assert repr(fit) == repr(alone)
    assert_allclose(fit.blup(), alone.blup(), rtol=1e-8, atol=1e-12)
    both = reml(problem.spectrum, np.column_stack([y, 2 * y]), missing="by_pattern")
    assert both.spectrum.n == 21
    assert_array_equal(reml(problem.spectrum, problem.y, missing="by_pattern").h2, reml(problem.spectrum, problem.y).h2)


def test_missing_rows_of_labelled_responses_are_matched_by_id(build_problem):
    problem = build_problem("full-K")
    ids = [f"p{i}" for i in range(23)]
    K = pd.DataFrame(problem.K, index=ids, columns=ids)
    spectrum = Spectrum.from_covariance(K, pd.DataFrame(problem.X, index=ids))
    Y = pd.DataFrame(with_gaps(problem), index=ids).add_prefix("gene")
    fits = reml(spectrum, Y, missing="by_pattern")
    shuffled = reml(spectrum, Y.sample(frac=1, random_state=1), missing="by_pattern")
    assert_allclose(shuffled.h2, fits.h2, rtol=1e-9)
    assert fits.names[:2] == ("gene0", "gene1")


def test_a_coefficient_that_a_pattern_cannot_estimate_is_nan_there(build_problem):
    problem = build_problem("full-K")
    X = np.column_stack([np.ones(23), np.r_[np.ones(3), np.zeros(20)]])
    Y = np.column_stack([problem.y, problem.y])
    Y[:3, 1] = np.nan
    with pytest.warns(UserWarning, match="X has rank 1 but 2 columns"):
        fits = reml(Spectrum.from_covariance(problem.K, X), Y, missing="by_pattern")
    assert np.isfinite(fits.blue[0]).all()
    assert np.isfinite(fits.blue[1, 0])
    assert math.isnan(fits.blue[1, 1])
    assert math.isnan(fits.blue_cov[1, 1, 1])


def test_missing_values_that_cannot_be_fitted_are_refused(build_problem):
    problem = build_problem("full-K")
    with pytest.raises(ValueError, match=r"y has 138 values that are NaN.*missing='by_pattern'"):
        reml(problem.spectrum, np.full((23, 6), np.nan))
    Y = with_gaps(problem)
    Y[:19, 3] = np.nan
    with pytest.raises(ValueError, match="response 'y3' has 4 values that are not missing, of which at least 5"):
        reml(problem.spectrum, Y, missing="by_pattern")
    Y[0, 0] = np.inf
    with pytest.raises(ValueError, match=r"y has 1 values that are NaN or infinite.*use NaN for those"):
        reml(problem.spectrum, Y, missing="by_pattern")
    with pytest.raises(ValueError, match="missing must be 'raise' or 'by_pattern', got 'drop'"):
        reml(problem.spectrum, problem.y, missing="drop")
