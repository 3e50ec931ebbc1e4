"""Rotated: what is left of y, to rounding, and which responses are refused."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from pm_fastlmm import Spectrum
from pm_fastlmm.spectrum.spectrum import as_rotated


def some_K(n=8, seed=0):
    W = np.random.default_rng(seed).normal(size=(n, n + 3))
    return W @ W.T


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.arange(7.0), ValueError, "y has 7 rows but the spectrum has 8"),
        (np.arange(24.0).reshape(3, 8), ValueError, "y has 3 rows but the spectrum has 8"),
        (np.r_[1.0, np.nan, np.arange(6)], ValueError, r"y has 1 values .* at 1: .*spectrum.subset\(rows\)"),
        (np.r_[1.0, np.inf, np.arange(6)], ValueError, "y has 1 values that are NaN or infinite, the first at 1"),
        (np.r_[-np.inf, np.inf, np.arange(6)], ValueError, "y has 2 values that are NaN or infinite, the first at 0"),
        (np.ones((8, 8)), ValueError, r"y is a square array, shape \(8, 8\), without labels"),
        (np.ones((8, 2, 1)), ValueError, r"y must be 1-dimensional or 2-dimensional, got shape \(8, 2, 1\)"),
        (3.0, ValueError, r"y must be 1-dimensional or 2-dimensional, got shape \(\)"),
        ([], ValueError, "y has 0 rows but the spectrum has 8"),
        (list("abcdefgh"), TypeError, "y must be real numbers, got <U1"),
        (np.arange(8) * 1j, TypeError, "y must be real numbers, got complex"),
        (None, ValueError, r"y must be 1-dimensional or 2-dimensional, got shape \(\)"),
    ],
)
def test_bad_responses_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        Spectrum.from_covariance(some_K(), np.ones((8, 1))).rotate(y)


@pytest.mark.parametrize("size", [1e-80, 1e80, 1e308])
def test_responses_whose_powers_leave_the_range_of_floats_are_refused(size):
    spectrum = Spectrum.from_covariance(some_K(), np.ones((8, 1)))
    with pytest.raises(ValueError, match=r"y has entries of size .* choose another unit"):
        spectrum.rotate(size * (np.arange(8.0) / 7))


def test_a_square_response_with_labels_is_taken():
    spectrum = Spectrum.from_covariance(some_K(), np.ones((8, 1)))
    Y = np.random.default_rng(0).normal(size=(8, 8))
    ids = [f"i{k}" for k in range(8)]
    by_array = xr.DataArray(Y, dims=("obs", "gene"), coords={"obs": ids, "gene": list("abcdefgh")})
    expected = np.stack([spectrum.rotate(Y[:, t]).z for t in range(8)])
    for labelled in (by_array, by_array.T, pd.DataFrame(Y, index=ids, columns=list("abcdefgh"))):
        rotated = spectrum.rotate(labelled)
        assert_allclose(rotated.z, expected, atol=1e-12)
        assert rotated.names == tuple("abcdefgh")


def test_rotation_splits_y_into_parts_that_add_up(problem):
    s, rotated = problem.spectrum, problem.rotated
    Q1 = s.projection.Q1
    assert_allclose(rotated.z, s.basis.T @ problem.y, atol=1e-11)
    assert_allclose(rotated.y1, Q1.T @ problem.y, atol=1e-11)
    left = problem.y - Q1 @ rotated.y1 - s.basis @ rotated.z
    assert_allclose(rotated.rss, left @ left, rtol=1e-9, atol=1e-20)
    assert_allclose(rotated.norm2, (rotated.z**2).sum() + rotated.rss, rtol=1e-12)
    if s.nullity == 0:
        assert rotated.rss == 0


def test_several_responses_rotate_like_each_alone(problem):
    Y = np.column_stack([problem.y, problem.y[::-1], np.cos(problem.y)])
    together = problem.spectrum.rotate(Y)
    assert together.batch_shape == (3,)
    assert together.names == ("y0", "y1", "y2")
    for t in range(3):
        one = problem.spectrum.rotate(Y[:, t])
        assert (one.batch_shape, one.names) == ((), None)
        for field in ("z", "rss", "y1", "norm2"):
            assert_allclose(getattr(together, field)[t], getattr(one, field), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6])
def test_what_X_explains_to_rounding_is_exactly_zero(build_problem, offset):
    problem = build_problem("low-K")
    rotated = problem.spectrum.rotate(problem.X @ [offset, 1.0, -2.0])
    assert (rotated.z == 0).all()
    assert rotated.rss == rotated.norm2 == 0


@pytest.mark.parametrize("kind", ["low-W", "low-K"])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6])
def test_what_W_and_X_explain_to_rounding_leaves_no_rss(build_problem, kind, offset):
    # the rounding of y is relative to all of y, its mean included
    problem = build_problem(kind)
    y = problem.W @ np.arange(1.0, 7) + problem.X @ [offset, 1.0, -2.0]
    assert problem.spectrum.rotate(y).rss == 0


@pytest.mark.parametrize("size", [1e6, 1e9, 1e12])
def test_a_response_that_varies_little_beside_its_mean_is_no_constant(build_problem, size):
    problem = build_problem("full-K")
    rotated = problem.spectrum.rotate(problem.y + size * problem.X[:, 0])
    # y is rounded to eps · size
    assert_allclose(rotated.z, problem.rotated.z, rtol=0, atol=1e-14 * size)
    assert_allclose(rotated.norm2, problem.rotated.norm2, rtol=1e-14 * size)


def test_a_small_but_real_remainder_is_kept(build_problem):
    problem = build_problem("low-W")
    y = problem.W @ np.arange(1.0, 7) + 1e-9 * problem.rng.normal(size=23)
    rotated = problem.spectrum.rotate(y)
    left = y - np.hstack([problem.W, problem.X]) @ np.linalg.lstsq(np.hstack([problem.W, problem.X]), y)[0]
    assert rotated.rss > 0
    assert_allclose(rotated.rss, left @ left, rtol=1e-4)


def test_a_rotated_response_passes_for_its_own_spectrum_only(build_problem):
    problem = build_problem("low-W")
    assert as_rotated(problem.spectrum, problem.rotated) is problem.rotated
    other = build_problem("low-W").spectrum
    with pytest.raises(ValueError, match="y was rotated by another spectrum"):
        as_rotated(other, problem.rotated)
    with pytest.raises(TypeError, match="spectrum must be a Spectrum, got ndarray: build it with"):
        as_rotated(problem.K, problem.y)
