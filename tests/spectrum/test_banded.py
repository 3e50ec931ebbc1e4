"""A band has the eigenvalues of the matrix, and its first coordinates are those of the columns that were given."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.spectrum.banded import banded


@pytest.mark.parametrize(("n", "width"), [(100, 8), (97, 16), (250, 48), (40, 32), (20, 32), (33, 16), (5, 4)])
@pytest.mark.parametrize("kind", ["ordinary", "low rank", "diagonal"])
def test_the_band_is_the_matrix_in_other_coordinates(kind, n, width):
    rng = np.random.default_rng(n)
    W = rng.normal(size=(n, 3 if kind == "low rank" else 2 * n))
    K = np.diag(np.arange(n) + 1.0) if kind == "diagonal" else W @ W.T
    head = np.eye(n)[:, :4] if kind == "diagonal" else rng.normal(size=(n, 4))
    before = K.copy(), head.copy()
    R, diagonals = banded(K, head, width)
    assert_allclose(K, before[0], rtol=0)
    assert_allclose(head, before[1], rtol=0)
    B = sum(np.diag(diagonals[k, : n - k], -k) for k in range(min(width + 1, n)))
    B = B + np.tril(B, -1).T
    assert_allclose(np.linalg.eigvalsh(B), np.linalg.eigvalsh(K), rtol=0, atol=1e-13 * np.abs(K).max() * n)
    assert_allclose(R, np.triu(R), rtol=0)
    for power in range(4):
        expected = head.T @ np.linalg.matrix_power(K, power) @ head
        ours = R.T @ np.linalg.matrix_power(B, power)[:4, :4] @ R
        assert_allclose(ours, expected, rtol=0, atol=1e-13 * n * np.abs(expected).max())
