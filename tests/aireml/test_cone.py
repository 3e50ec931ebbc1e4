"""The best step of a quadratic model among semi-definite matrices, and coordinates along their faces."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pm_fastlmm.aireml.cone import PackedMatrix, all_semidefinite, best_step, pack
from pm_fastlmm.aireml.face import Face, curvature, observed_information


def problem(seed, c, rank, *, scale=1.0):
    """A matrix of a rank, two parameters with the lower bound 0, of which one is there, and a quadratic model."""
    rng = np.random.default_rng(seed)
    m = c * (c + 1) // 2
    root = rng.normal(size=(m + 2, m + 2))
    information = root @ root.T + np.eye(m + 2)
    score = 10 * rng.normal(size=m + 2)
    L = rng.normal(size=(c, rank))
    units = np.concatenate([pack(np.outer(t := scale ** np.arange(c), t)), [1.0, 1.0]])
    omega = np.concatenate([pack(L @ L.T), [0.0, 1.0]])
    lower = np.concatenate([np.full(m, -np.inf), [0.0, 0.0]])
    return score / units, information / np.outer(units, units), omega * units, lower, PackedMatrix(slice(0, m), c)


def step_of(score, information, omega, lower, matrix):
    free = np.ones(len(omega), dtype=bool)
    return best_step(score, information, omega, lower, np.full(len(omega), np.inf), [matrix], free)


@pytest.mark.parametrize("c", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_the_best_step_satisfies_the_conditions_of_kuhn_and_tucker(c, seed):
    score, information, omega, lower, matrix = problem(seed, c, seed % (c + 1))
    step = step_of(score, information, omega, lower, matrix)
    left = score - information @ step
    X, G = matrix.read(omega + step), matrix.read(left)
    G = (G + np.diag(np.diag(G))) / 2  # elements off the diagonal stand for two
    size = np.abs(score).max()
    assert all_semidefinite(omega + step, [matrix])
    assert np.linalg.eigvalsh(G)[-1] < 1e-7 * size
    assert np.abs(G @ X).max() < 1e-7 * size * (1 + np.abs(X).max())
    single, rest = (omega + step)[-2:], left[-2:]
    assert (single >= 0).all()
    assert (rest < 1e-7 * size).all()
    assert np.abs(rest * single).max() < 1e-7 * size * (1 + single.max())


def test_a_step_that_stays_inside_is_newtons():
    score, information, omega, lower, matrix = problem(1, 3, 3)
    omega[matrix.place] = pack(100 * np.eye(3))
    omega[-2:] = 100.0
    assert_allclose(step_of(score, information, omega, lower, matrix), np.linalg.solve(information, score), rtol=1e-6)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_units_of_the_effects_do_not_matter(rank):
    plain = step_of(*problem(2, 3, rank))
    score, information, omega, lower, matrix = problem(2, 3, rank, scale=1e4)
    units = np.concatenate([pack(np.outer(t := 1e4 ** np.arange(3), t)), [1.0, 1.0]])
    assert_allclose(step_of(score, information, omega, lower, matrix) / units, plain, rtol=1e-5, atol=1e-6)


def test_the_rank_falls_exactly():
    score, information, omega, lower, matrix = problem(3, 4, 4)
    values = np.linalg.eigvalsh(matrix.read(omega + step_of(score - 50, information, omega, lower, matrix)))
    assert (np.abs(values) < 1e-14 * values[-1]).sum() >= 1
    assert not ((np.abs(values) > 1e-14 * values[-1]) & (values < 1e-9 * values[-1])).any()


class Quadratic:
    """ℓ(θ) = gᵀθ - ½θᵀHθ."""

    def __init__(self, g, H):
        self.g, self.H = g, H

    def state(self, theta):
        return theta

    def gradient(self, theta, state):
        return self.g - self.H @ theta

    def value(self, theta):
        return self.g @ theta - theta @ self.H @ theta / 2


def face_of(c, rank, seed=0):
    score, information, omega, lower, matrix = problem(seed, c, rank)
    upper, fixed = np.full(len(omega), np.inf), np.zeros(len(omega), dtype=bool)
    return Face.of(omega, information, [matrix], lower, upper, fixed), Quadratic(score, information), matrix, omega


@pytest.mark.parametrize(("c", "rank"), [(1, 1), (3, 3), (3, 2), (4, 1), (3, 0)])
def test_a_face_has_the_dimension_of_matrices_of_its_rank(c, rank):
    face, _, matrix, omega = face_of(c, rank)
    assert len(face.origin) == c * rank - rank * (rank - 1) // 2 + 2
    assert_allclose(face.external(face.origin), omega, atol=1e-12)
    rng = np.random.default_rng(1)
    x = face.origin + 0.3 * rng.normal(size=len(face.origin))
    assert np.linalg.matrix_rank(matrix.read(face.external(x)), tol=1e-8) == rank
    J, h = face.jacobian(x), 1e-6
    ends = [[face.external(x + sign * h * e) for sign in (1, -1)] for e in np.eye(len(x))]
    assert_allclose(J, np.array([(a - b) / (2 * h) for a, b in ends]).T, atol=1e-7)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_the_curvature_along_a_face_has_that_of_the_factor_in_it(rank):
    face, ell, _, _ = face_of(3, rank)
    h = 1e-4

    def value(move):
        return ell.value(face.external(face.origin + move))

    n = len(face.origin)
    steps = h * np.eye(n)
    expected = [[value(a - b) + value(b - a) - value(a + b) - value(-a - b) for b in steps] for a in steps]
    expected = np.array(expected) / (4 * h**2)
    exact = curvature(ell, face, np.full(n, 1e-4), central=True)
    assert_allclose(exact, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    forward = curvature(ell, face, np.full(n, 1e-7))
    assert_allclose(forward, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
    start = face.jacobian(face.origin).T @ ell.gradient(face.external(face.origin), None)
    assert_array_equal(curvature(ell, face, np.full(n, 1e-7), start=start), forward)


def test_an_observed_information_is_made_positive():
    face, ell, _, _ = face_of(3, 2)
    J = face.jacobian(face.origin)
    average = J.T @ ell.H @ J
    ell.g = ell.g + 100  # where ℓ rises steeply, FFᵀ bends it upward
    assert np.linalg.eigvalsh(curvature(ell, face, np.full(len(average), 1e-4), central=True))[0] < 0
    assert np.linalg.eigvalsh(observed_information(ell, face, average))[0] > 0
