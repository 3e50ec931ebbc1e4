"""Coercion, labels, alignment and the texts of input errors."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
from numpy.testing import assert_array_equal

from pm_fastlmm.base.arrays import (
    Labelled,
    align,
    common_ids,
    frozen,
    read,
    read_covariance,
    require_finite,
    require_length,
    require_range,
    shown,
)


def test_plain_arrays_and_lists_carry_no_labels():
    for values in (np.arange(3), [0, 1, 2], (0.0, 1.0, 2.0), np.array([True, False, True])):
        labelled = read(values, "y", ndim=(1,))
        assert labelled.values.dtype == np.float64
        assert (labelled.ids, labelled.names) == (None, None)


def test_every_index_is_a_label_the_default_one_too():
    assert read(pd.Series([1.0, 2.0]), "y", ndim=(1,)).ids == (0, 1)
    assert read(pd.Series([1.0, 2.0, 3.0])[1:], "y", ndim=(1,)).ids == (1, 2)
    assert read(pd.Series([1.0, 2.0], index=["b", "a"]), "y", ndim=(1,)).ids == ("b", "a")


def test_data_frames_carry_ids_and_column_names():
    labelled = read(pd.DataFrame({"a": [1, 2], 3: [4, 5]}, index=["u", "v"]), "X", ndim=(2,))
    assert labelled.ids == ("u", "v")
    assert labelled.names == ("a", "3")
    assert_array_equal(labelled.values, [[1, 4], [2, 5]])


def test_data_arrays_are_oriented_by_the_dimension_obs():
    array = xr.DataArray(
        np.arange(6).reshape(2, 3), dims=("gene", "obs"), coords={"obs": list("abc"), "gene": ["g", "h"]}
    )
    labelled = read(array, "y", ndim=(1, 2))
    assert_array_equal(labelled.values, np.arange(6).reshape(2, 3).T)
    assert labelled.ids == ("a", "b", "c")
    assert labelled.names == ("g", "h")


def test_data_arrays_without_obs_or_coordinates_are_read_row_by_row():
    bare = read(xr.DataArray(np.arange(6).reshape(2, 3), dims=("row", "column")), "y", ndim=(2,))
    assert bare.values.shape == (2, 3)
    assert (bare.ids, bare.names) == (None, None)
    one = read(xr.DataArray([1.0, 2.0], dims="person", coords={"person": ["p", "q"]}), "y", ndim=(1,))
    assert one.ids == ("p", "q")


def test_sparse_matrices_are_made_dense():
    dense = np.eye(4)[:, :2]
    assert_array_equal(read(scipy.sparse.csc_matrix(dense), "W", ndim=(2,)).values, dense)


def test_what_was_read_passes_unchanged():
    labelled = Labelled(np.ones(2), ("a", "b"), None)
    assert read(labelled, "y", ndim=(1,)) is labelled


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones(3) * 1j, TypeError, "y must be real numbers, got complex128"),
        (["a", "b"], TypeError, r"y must be real numbers, got <U1: .* flmm.Design.from_formula"),
        ([object()], TypeError, "y must be numbers, got object values"),
        ([[1.0, 2.0], [3.0]], TypeError, "y must be an array of numbers, got rows of different lengths"),
        (
            np.ma.array([1.0, 2.0], mask=[False, True]),
            TypeError,
            "y is a masked array: fill the masked values with NaN",
        ),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), TypeError, "y must be real numbers, got datetime64"),
        (np.ones((2, 2, 2)), ValueError, r"y must be 1-dimensional or 2-dimensional, got shape \(2, 2, 2\)"),
        (
            pd.Series([1.0, 2.0, 3.0], index=["a", "b", "a"]),
            ValueError,
            r"y has duplicated ids \('a'\): each row needs",
        ),
    ],
)
def test_unreadable_values_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        read(values, "y", ndim=(1, 2))


def test_nan_may_pass_the_reader():
    assert np.isnan(read([1.0, np.nan], "y", ndim=(1,)).values[1])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([1.0, np.nan, 2.0], "y has 1 values that are NaN or infinite, the first at 1: mend it"),
        ([[1.0, 2.0], [3.0, -np.inf]], r"y has 1 values that are NaN or infinite, the first at \(1, 1\): mend it"),
        ([np.inf, -np.inf], "y has 2 values that are NaN or infinite, the first at 0: mend it"),
        ([np.inf, np.nan, 0.0], "y has 2 values that are NaN or infinite, the first at 0: mend it"),
    ],
)
@pytest.mark.parametrize("require", [require_finite, require_range])
def test_the_first_value_that_is_not_finite_is_named(array, message, require):
    with pytest.raises(ValueError, match=message):
        require(np.array(array), "y", "mend it")


def test_finite_values_pass_even_when_their_sum_overflows():
    require_finite(np.zeros(0), "y", "")
    require_finite(np.full(4, 1e308), "y", "")


def test_symmetry_is_judged_relative_to_the_size_of_K():
    K = np.array([[2.0, 1.0], [1.0, 2.0]])
    for size in (1e-9, 1.0, 1e9):
        rounded = K.copy()
        rounded[0, 1] += 1e-13
        assert_array_equal(read_covariance(size * rounded).values, size * rounded)
        wrong = K.copy()
        wrong[0, 1] += 1e-6
        with pytest.raises(
            ValueError, match=r"K must be symmetric, .* up to .*: if that is rounding, pass \(K [+] K.T\) / 2"
        ):
            read_covariance(size * wrong)


def test_a_covariance_with_matching_labels_of_any_type_passes():
    K = pd.DataFrame(np.eye(2), index=[10, 20], columns=["10", "20"])
    assert read_covariance(K).ids == (10, 20)


def labelled(ids):
    return Labelled(np.arange(float(len(ids))), tuple(ids), None)


def test_align_returns_the_order_of_the_reference():
    order = align(("a", "b", "c"), labelled("cab"), name="y", reference_name="K")
    assert_array_equal(order, [1, 2, 0])
    assert_array_equal(labelled("cab").take(order), [1, 2, 0])


def test_nothing_moves_without_ids_or_in_the_same_order():
    assert align(None, labelled("ab"), name="y", reference_name="K") is None
    assert align(("a", "b"), Labelled(np.ones(2), None, None), name="y", reference_name="K") is None
    assert align(("a", "b"), labelled("ab"), name="y", reference_name="K") is None
    assert_array_equal(labelled("ab").take(None), [0, 1])


def test_ids_that_do_not_match_are_named_on_both_sides():
    with pytest.raises(ValueError, match=r"y and K do not have the same ids: 1 ids of y are not in K \('z'\)") as error:
        align(("a", "b", "c"), labelled("abz"), name="y", reference_name="K")
    assert "1 ids of K are not in y ('c')" in str(error.value)
    assert "plain array" in str(error.value)


def test_a_forgotten_index_is_guessed_when_ids_do_not_match():
    with pytest.raises(ValueError, match=r"One of them has the default index 0, 1, 2 …: set_index"):
        align(("a", "b"), labelled([0, 1]), name="y", reference_name="K")


def test_long_lists_of_ids_are_cut():
    assert shown(["a", 2]) == "'a', 2"
    assert shown(range(8)) == "0, 1, 2, 3, 4 and 3 more"


def test_the_first_part_with_ids_gives_them():
    bare, first, second = Labelled(np.ones(1), None, None), labelled("a"), labelled("b")
    assert common_ids(K=bare, X=None, y=first, z=second) == ("y", ("a",))
    assert common_ids(K=bare, X=None) == ("", None)


def test_lengths_must_agree():
    require_length(3, 3, "y", "K")
    with pytest.raises(ValueError, match="y has 2 rows but K has 3: they must describe the same observations"):
        require_length(2, 3, "y", "K")


@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_entries_whose_powers_leave_the_range_of_floats_are_refused(size):
    require_range(np.array([0.0, 1e-49, 1e49]), "y")
    require_range(np.zeros(3), "y")
    with pytest.raises(ValueError, match=r"y has entries of size 1.0e[-+]60, .* choose another unit"):
        require_range(np.array([0.0, -size]), "y")


def test_frozen_arrays_cannot_be_written():
    array = frozen(np.zeros(2))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
