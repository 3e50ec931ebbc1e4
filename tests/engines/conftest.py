"""Small problems with dense densities of their own, and the two ways to evaluate a graph."""

from types import SimpleNamespace

import numpy as np
import pytensor
import pytest
import scipy.linalg
from as_written import AS_WRITTEN
from scipy.stats import multivariate_normal

import pm_fastlmm as flmm
from pm_fastlmm.posterior import seed

collect_ignore = ["contract.py", "toy_gaussian.py", "toy_counts.py"]  # the toys register when they are imported
KINDS = ("full rank", "factor", "singular K", "full rank, no X", "factor, no X")


class Dense:
    """Densities of y from the n × n covariance."""

    def __init__(self, K, X):
        self.K, self.X, self.kbar = K, X, np.trace(K) / len(K)

    def V(self, g, e):
        return g * self.K + e * np.eye(len(self.K))

    @property
    def contrasts(self):
        """An orthonormal basis of what is orthogonal to X."""
        return np.eye(len(self.K)) if self.X is None else scipy.linalg.null_space(self.X.T)

    def flat(self, residual, g, e):
        """log ∫ p(y | β) dβ: the density of the error contrasts, less ½ log|XᵀX|."""
        A = self.contrasts
        logp = multivariate_normal.logpdf(residual @ A, np.zeros(A.shape[1]), A.T @ self.V(g, e) @ A)
        return logp if self.X is None else logp - 0.5 * np.linalg.slogdet(self.X.T @ self.X)[1]

    def proper(self, residual, g, e, b, B=0.0):
        """The density of y when β ~ N(b, B)."""
        cov = self.V(g, e) + self.X @ (B * np.eye(self.X.shape[1]) if np.ndim(B) == 0 else B) @ self.X.T
        return multivariate_normal.logpdf(residual, self.X @ b, cov)


def make_problem(kind, n=30, seed=4):
    rng = np.random.default_rng(seed)
    m = n + 20 if kind.startswith("full") else 5
    time = np.linspace(-1, 2, n) ** 2
    W = (rng.normal(size=(n, m)) * rng.exponential(size=m) + 0.4 + 0.3 * time[:, None]) / np.sqrt(m)
    X = np.column_stack([np.ones(n), 5 * time + rng.normal(size=n), rng.exponential(size=n)])
    y = X @ [2.0, -0.5, 1.0] + 1.3 * W @ rng.normal(size=m) + rng.normal(size=n)
    X = None if kind.endswith("no X") else X
    K = W @ W.T
    spectrum = flmm.Spectrum.from_factor(W, X) if kind.startswith("factor") else flmm.Spectrum.from_covariance(K, X)
    return SimpleNamespace(kind=kind, n=n, K=K, W=W, X=X, y=y, spectrum=spectrum, dense=Dense(K, X))


@pytest.fixture(scope="module", autouse=True)
def _few_points():
    """NUTS starts from a search of a few points: these tests are of what it samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seed, "_POINTS_LOG2", 8)
        yield


@pytest.fixture(scope="session", params=KINDS)
def problem(request):
    return make_problem(request.param)


@pytest.fixture(scope="session", params=["full rank", "factor"])
def problem_with_X(request):
    return make_problem(request.param)


@pytest.fixture(scope="session")
def full():
    return make_problem("full rank")


@pytest.fixture(scope="session")
def low():
    return make_problem("factor")


@pytest.fixture(scope="session")
def build():
    return make_problem


@pytest.fixture(scope="session")
def evaluate():
    """Evaluate graphs with PyTensor's Python loops: no compilation."""

    def run(outputs, given=None):
        given = given or {}
        function = pytensor.function(list(given), outputs, mode=AS_WRITTEN, on_unused_input="ignore")
        return function(*given.values())

    return run


@pytest.fixture(scope="session")
def assert_moments():
    """Draws (N, d) have this mean and covariance, entry by entry, within `z` standard errors of the estimates."""

    def check(draws, mean, cov, z=5.0):
        N = len(draws)
        variance = np.diag(cov)
        scale = np.sqrt(variance.max())
        np.testing.assert_array_less(np.abs(draws.mean(0) - mean), z * np.sqrt(variance / N) + 1e-9 * scale)
        error = np.sqrt((np.outer(variance, variance) + cov**2) / N)
        np.testing.assert_array_less(np.abs(np.cov(draws.T) - cov), z * error + 1e-9 * scale**2)

    return check
