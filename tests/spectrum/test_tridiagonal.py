"""Eigenvalues and coordinates without eigenvectors against those of LAPACK's eigendecomposition."""

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from pm_fastlmm.spectrum.tridiagonal import coordinates


def matrices():
    rng = np.random.default_rng(4)
    W = rng.normal(size=(60, 150))
    basis = np.linalg.qr(W)[0]
    t = np.arange(60)
    return {
        "ordinary": W @ W.T,
        "graded": (basis * 10.0 ** np.linspace(-12, 6, 60)) @ basis.T,
        "singular": W[:, :7] @ W[:, :7].T,
        "repeated": np.kron(np.eye(12), np.ones((5, 5))),
        "diagonal": np.diag(rng.normal(size=60)),
        "indefinite": W[:, :60] + W[:, :60].T,
        "smooth": np.exp(-((t[:, None] - t) ** 2) / 200.0),
        "zero": np.zeros((60, 60)),
        "huge": 1e40 * W @ W.T,
        "two": W[:2] @ W[:2].T,
        "one": np.array([[3.0]]),
    }


@pytest.mark.parametrize("name", list(matrices()))
def test_eigenvalues_and_coordinates_are_those_of_an_eigendecomposition(name):
    A = matrices()[name]
    n = len(A)
    B = np.random.default_rng(5).normal(size=(n, 3))
    before = B.copy()
    values, rows = coordinates(A.copy(order="F"), B)
    size = np.abs(A).max() * n
    assert_allclose(values, np.linalg.eigvalsh(A), rtol=0, atol=4e-16 * n * size)
    assert_allclose(B, before)
    # UᵀB up to signs and turns within equal eigenvalues: Bᵀ f(A) B is the same for any function f
    assert_allclose(rows.T @ rows, B.T @ B, rtol=1e-12, atol=1e-12)
    assert_allclose(rows.T @ (values[:, None] * rows), B.T @ A @ B, rtol=0, atol=1e-13 * size * n)
    shift = np.abs(values).max() * 1.5 + 1e-3
    solved = scipy.linalg.solve(A + shift * np.eye(n), B)
    assert_allclose(rows.T @ (rows / (values + shift)[:, None]), B.T @ solved, rtol=1e-10, atol=1e-12 * n / shift)


def test_the_lower_triangle_alone_is_read():
    A = matrices()["ordinary"]
    B = np.eye(60)[:, :1]
    whole, lower = coordinates(A.copy(order="F"), B), coordinates(np.asfortranarray(np.tril(A)), B)
    assert_allclose(lower[0], whole[0], rtol=1e-12)
    assert_allclose(lower[1] ** 2, whole[1] ** 2, rtol=1e-9, atol=1e-15)


def test_a_failed_iteration_is_an_error(monkeypatch):
    monkeypatch.setattr("pm_fastlmm.spectrum.implicit_ql.implicit_ql", lambda d, e, B: False)
    with pytest.raises(RuntimeError, match=r"did not converge: use flmm.reml\(flmm.Spectrum.from_covariance"):
        coordinates(matrices()["ordinary"], np.ones((60, 1)))
