"""Random sets of random-effects terms with their dense covariances: what the structured engine must equal."""

import math
from fractions import Fraction

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.engines.structured.products import EffectBlock, MixedProducts
from pm_fastlmm.spectrum.projection import Projection


def _levels(rng, n, count):
    """Unbalanced: one level has a single row, one has none, and the order of the rows is random."""
    code = np.r_[0, 2 + rng.integers(0, count - 2, size=n - 1)]
    return rng.permutation(code)


def _incidence(code, count):
    return (code[:, None] == np.arange(count)).astype(float)


def make_term(kind, n, rng):
    """A term: its incidence Z (n, levels · width), levels, width, and the root of a known covariance or None."""
    if kind in ("factor", "crossed", "nested"):
        count = {"factor": 11, "crossed": 6, "nested": 14}[kind]
        return _incidence(_levels(rng, n, count), count), count, 1, None
    if kind in ("slopes", "three slopes"):
        width, count = {"slopes": (2, 9), "three slopes": (3, 8)}[kind]
        Z = _incidence(_levels(rng, n, count), count)
        columns = np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(0, 2, size=n)])[:, :width]
        return (Z[:, :, None] * columns[:, None, :]).reshape(n, -1), count, width, None
    if kind == "dense":
        return rng.normal(size=(n, 7)), 7, 1, None
    if kind == "two wide ar1":  # more columns than a plain loop scales, and rows that several levels share
        return rng.normal(size=(n, 2 * 35)), 2, 35, None
    if kind == "known":
        A = rng.normal(size=(8, 8))
        return _incidence(_levels(rng, n, 8), 8), 8, 1, np.linalg.cholesky(A @ A.T / 8 + 0.1 * np.eye(8))
    count = {"ar1": 6, "wide ar1": 37}[kind]
    return _incidence(_levels(rng, n, count), count), 1, count, None


def make_sigma(kind, width, rng, size="definite"):
    """A covariance of one level: definite, singular (rank one) or 0."""
    if size == "zero":
        return np.zeros((width, width))
    if kind.endswith("ar1"):
        return rng.uniform(0.3, 2) * 0.6 ** np.abs(np.subtract.outer(np.arange(width), np.arange(width)))
    A = rng.normal(size=(width, 1 if size == "singular" else width + 1))
    return A @ A.T


class Structured:
    """y ~ N(Xβ, Σ Z_kG_kZ_kᵀ + σ²_eI), G_k = R_k(I ⊗ Σ_k)R_kᵀ: dense matrices, and the products of the engine."""

    def __init__(self, kinds, *, n=50, seed=1, sizes=None, sigma2_e=0.7, flat=True, oracle, X="oblique"):
        rng = np.random.default_rng([seed, n, len(kinds)])
        self.n, self.kinds, self.sigma2_e = n, kinds, sigma2_e
        time = np.linspace(0, 1, n) ** 2
        self.X = np.column_stack([np.ones(n), 40 * time + rng.normal(size=n), rng.exponential(size=n)])
        if X is None:
            self.X = np.zeros((n, 0))
        self.terms = [make_term(kind, n, rng) for kind in kinds]
        sizes = sizes or ["definite"] * len(kinds)
        self.sigma = [make_sigma(k, t[2], rng, s) for k, t, s in zip(kinds, self.terms, sizes, strict=True)]
        self.y = self.X @ [3.0, -0.2, 1.5][: self.X.shape[1]] + 2 * rng.normal(size=n)
        self.y += sum(self.rooted(k) @ rng.normal(size=self.rooted(k).shape[1]) for k in range(len(kinds)))
        self.projection = Projection.from_design(self.X)
        self.rng, self.oracle, self.flat = rng, oracle, flat
        self.products = self.make_products(flat)
        self.response = self.products.response(self.y)

    def make_products(self, flat):
        blocks = [
            EffectBlock(sp.csr_array(Z if root is None else Z @ root), levels, width, root)
            for Z, levels, width, root in self.terms
        ]
        return MixedProducts.from_rows(blocks, self.projection, flat=flat)

    def rooted(self, k):
        Z, _, _, root = self.terms[k]
        return Z if root is None else Z @ root

    def G(self, k, sigma=None):
        _, levels, _, root = self.terms[k]
        G = np.kron(np.eye(levels), self.sigma[k] if sigma is None else sigma)
        return G if root is None else root @ G @ root.T

    def slope(self, k, direction):
        """∂V in a direction of Σ_k."""
        Z = self.terms[k][0]
        return Z @ self.G(k, direction) @ Z.T

    def V(self, sigma=None, sigma2_e=None):
        sigma = self.sigma if sigma is None else sigma
        e = self.sigma2_e if sigma2_e is None else sigma2_e
        return e * np.eye(self.n) + sum(self.slope(k, s) for k, s in enumerate(sigma))

    def dense(self, sigma=None, sigma2_e=None, y=None):
        """The dense oracle; without fixed effects where β is not integrated out."""
        X = self.X if self.flat else np.zeros((self.n, 0))
        return self.oracle.Dense(self.V(sigma, sigma2_e), X, self.y if y is None else y, 1.0, 0.0)


def basis(width):
    """Symmetric directions that span the matrices."""
    out = []
    for i in range(width):
        for j in range(i + 1):
            E = np.zeros((width, width))
            E[i, j] = E[j, i] = 1.0
            out.append(E)
    return out


def exact_loglik(problem):
    """
    The log-likelihood in rational arithmetic: pivots of the bordered [[V, X, y], [Xᵀ, 0, 0], [yᵀ, 0, 0]].

    The first n make |V|, the next -XᵀV⁻¹X, the last is -yᵀPy; only their logarithms are rounded.
    """
    exact = np.vectorize(Fraction, otypes=[object])
    X = problem.X if problem.flat else np.zeros((problem.n, 0))
    V = exact(np.diag(np.full(problem.n, problem.sigma2_e)))
    for k, sigma in enumerate(problem.sigma):
        Z, levels = exact(problem.rooted(k)), problem.terms[k][1]
        V = V + Z @ exact(np.kron(np.eye(levels), sigma)) @ Z.T
    border = exact(np.column_stack([X, problem.y]))
    count = border.shape[1]
    M = np.block([[V, border], [border.T, exact(np.zeros((count, count)))]])
    pivots = []
    for i in range(len(M)):
        pivots.append(M[i, i])
        if i + 1 < len(M):
            M[i + 1 :, i + 1 :] -= np.outer(M[i + 1 :, i], M[i, i + 1 :]) / M[i, i]
    logs = [math.log(abs(p.numerator)) - math.log(p.denominator) for p in pivots[:-1]]
    return -0.5 * ((problem.n - X.shape[1]) * math.log(2 * math.pi) + sum(logs) + float(-pivots[-1]))
