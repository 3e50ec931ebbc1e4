"""Synthetic one-kernel cases whose REML solutions are in cases.json, found with 40-digit arithmetic.

Each generator returns (K, X, y); NumPy's Generator streams make them reproducible (checksums in cases.json; K_sum of
bimodal7 is zero up to rounding). delta is the string "inf" at sigma2_g = 0.
"""

import math

import numpy as np


def grm300():
    rng = np.random.default_rng(20240601)
    n, m = 300, 600
    markers = rng.standard_normal((n, m))
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    u = markers @ rng.standard_normal(m) / math.sqrt(m)
    y = X @ np.array([1.0, 2.0, 3.0]) + math.sqrt(0.6) * u + math.sqrt(0.4) * rng.standard_normal(n)
    return markers @ markers.T / m, X, y


def lowrank400x20():
    rng = np.random.default_rng(20240602)
    n, m = 400, 20
    W = rng.standard_normal((n, m))
    X = np.column_stack([np.ones(n), np.linspace(0, 1, n)])
    y = X @ np.array([1.0, -1.0]) + W @ rng.standard_normal(m) * 0.2 + rng.standard_normal(n)
    return W @ W.T, X, y


def bimodal7():
    """Two interior modes of the profile likelihood; the second is at delta = 1546.967392670712."""
    n = 7
    H = np.zeros((n, n - 1))
    for j in range(1, n):
        H[:j, j - 1] = 1
        H[j, j - 1] = -j
        H[:, j - 1] /= math.sqrt(j * (j + 1))
    K = H @ np.diag([0.01, 0.1, 10, 200, 1000, 1000.0]) @ H.T
    return K, np.ones((n, 1)), 5 + H @ np.sqrt([0.1, 0.01, 300, 30, 300, 0.5])


def delta0_ar1():
    """The optimum is at delta = 0: no residual variance."""
    n = 40
    t = np.arange(n)
    K = 0.9 ** np.abs(t[:, None] - t[None])
    lam, U = np.linalg.eigh(K)
    rng = np.random.default_rng(20240603)
    signs = np.sign(rng.standard_normal(n))
    # the sign of each eigenvector is fixed so that the case does not depend on the LAPACK build
    U = U * np.where(U[np.abs(U).argmax(0), np.arange(n)] < 0, -1.0, 1.0)
    return K, np.ones((n, 1)), 3 + U @ (lam**0.9 * signs)


def h2zero_grm():
    """The optimum is at sigma2_g = 0 although K is dense."""
    rng = np.random.default_rng(20240604)
    n = 120
    G = rng.standard_normal((n, 300))
    K = G @ G.T / 300
    lam, U = np.linalg.eigh(K)
    U = U * np.where(U[np.abs(U).argmax(0), np.arange(n)] < 0, -1.0, 1.0)
    X = np.column_stack([np.ones(n), rng.standard_normal(n)])
    return K, X, U @ (rng.standard_normal(n) / lam**0.3) + 1.0


def scan_with_gaps():
    """Return (K, covariates, y, genotypes): 24 of 200 without y, 8 % of 12 genotypes missing; for make_gemma.py."""
    rng = np.random.default_rng(78)
    n, m = 200, 400
    markers = rng.binomial(2, 0.4, size=(n, m)).astype(float)
    markers -= markers.mean(0)
    genotypes = rng.binomial(2, 0.35, size=(n, 12)).astype(float)
    y = (markers @ rng.normal(size=m) / 20 + 0.5 * genotypes[:, 3] + rng.normal(size=n)).round(6)
    gaps = rng.random(genotypes.shape) < 0.08
    gaps[:, 0] = False
    y[rng.choice(n, 24, replace=False)] = np.nan
    covariates = np.column_stack([np.ones(n), rng.normal(size=(n, 3)).round(6)])
    return (markers @ markers.T / m).round(12), covariates, y, np.where(gaps, np.nan, genotypes)


def scan_of_traits():
    """Return (K, X, Y, genotypes): three traits of 200 people, 10 variants with gaps; for make_gemma_traits.py."""
    rng = np.random.default_rng(20261128)
    n, m = 200, 500
    markers = rng.binomial(2, rng.uniform(0.1, 0.5, m), size=(n, m)).astype(float)
    genotypes = markers[:, :10].copy()
    markers -= markers.mean(0)
    K = (markers @ markers.T / m).round(10)
    of_g = np.array([[1.0, 0, 0], [0.6, 0.7, 0], [-0.3, 0.2, 0.5]])
    of_e = np.array([[0.8, 0, 0], [0.1, 0.6, 0], [0.2, -0.3, 0.9]])
    X = np.column_stack([np.ones(n), rng.normal(size=n).round(6)])
    U = np.linalg.cholesky(K + 1e-8 * np.eye(n)) @ rng.normal(size=(n, 3)) @ of_g.T
    Y = X @ [[5.0, 0.0, -2.0], [0.5, 0.2, 0.0]] + U + rng.normal(size=(n, 3)) @ of_e.T
    Y += genotypes[:, [3]] * [0.9, 0.0, -0.9] + genotypes[:, [6]] * [0.4, 0.4, 0.4]
    genotypes[rng.random(genotypes.shape) < 0.05] = np.nan
    return K, X, Y.round(6), genotypes


def scan200():
    """Return (K, X, y, candidates), 40 allele counts; GEMMA's results are in scan_gemma.json."""
    rng = np.random.default_rng(20241122)
    n, m = 200, 500
    freq = rng.uniform(0.1, 0.5, m)
    markers = rng.binomial(2, freq, size=(n, m)).astype(float)
    standardised = (markers - markers.mean(0)) / markers.std(0)
    K = standardised @ standardised.T / m
    candidates = rng.binomial(2, rng.uniform(0.1, 0.5, 40), size=(n, 40)).astype(float)
    X = np.column_stack([np.ones(n), rng.standard_normal(n)])
    y = X @ np.array([0.5, -0.3]) + 0.6 * candidates[:, 3] - 0.4 * candidates[:, 17]
    y = y + standardised @ rng.standard_normal(m) * math.sqrt(0.5 / m) + math.sqrt(0.5) * rng.standard_normal(n)
    return K, X, y, candidates
