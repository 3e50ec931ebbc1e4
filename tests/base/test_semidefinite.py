"""One rule for all semi-definite matrices: what counts as zero, what is refused, and roots."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm import covariance as cov
from pm_fastlmm.base.semidefinite import eigen_root, require_semidefinite, semidefinite_root, zero_tolerance
from pm_fastlmm.spectrum.spectrum import Spectrum


def test_a_root_gives_its_matrices_back():
    W = np.random.default_rng(1).normal(size=(4, 3, 5, 2))  # of rank 2, many at once
    A = W @ np.swapaxes(W, -1, -2)
    R = semidefinite_root(A)
    assert_allclose(R @ np.swapaxes(R, -1, -2), A, atol=1e-13 * np.abs(A).max())


def test_eigenvalues_up_to_zero_leave_columns_of_zeros():
    R = eigen_root(np.array([-1e-20, 1e-12, 4.0]), np.eye(3), zero=1e-10)
    assert_allclose(R, np.diag([0.0, 0.0, 2.0]), rtol=0, atol=0)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_the_tolerance_follows_the_unit_and_is_that_of_double_precision(unit):
    eigvals = unit * np.array([0.0, 1.0, 2.0])
    assert zero_tolerance(eigvals) == 3 * np.finfo(float).eps * 2 * unit
    require_semidefinite(eigvals - np.array([0.9, 0, 0]) * zero_tolerance(eigvals), "K")
    with pytest.raises(ValueError, match=r"G is not positive semi-definite: .*give it with all its digits"):
        require_semidefinite(eigvals - np.array([1.1, 0, 0]) * zero_tolerance(eigvals), "G")


def test_all_readers_of_a_covariance_refuse_the_same_matrix():
    K = np.array([[1.0, 2.0], [2.0, 1.0]])
    for read in (cov.known, cov.unstructured, cov.phylogeny, Spectrum.from_covariance):
        with pytest.raises(ValueError, match="is not positive semi-definite: its smallest eigenvalue is -1, the large"):
            read(K)
