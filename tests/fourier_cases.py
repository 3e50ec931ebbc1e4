"""Data of Gaussian processes in one and two dimensions, with the dense kernels written from their definitions."""

from types import SimpleNamespace

import numpy as np

import pm_fastlmm as flmm


def correlation(kernel, x, other, lengthscale):
    r = np.sqrt((((x[:, None] - other[None]) / lengthscale) ** 2).sum(-1))
    if kernel == "se":
        return np.exp(-(r**2) / 2)
    a = np.sqrt(3 if kernel == "matern32" else 5) * r
    return (1 + a + (a**2 / 3 if kernel == "matern52" else 0)) * np.exp(-a)


# kernel, dimensions, range of the lengthscale, the true one
CASES = {
    "se": ("se", 1, (0.1, 0.5), 0.2),
    "matern52": ("matern52", 1, (0.1, 0.5), 0.2),
    "matern32": ("matern32", 1, (0.1, 0.5), 0.2),
    "2-D se": ("se", 2, (0.2, 0.5), 0.3),
    "2-D matern52": ("matern52", 2, (0.8, 1.0), 0.9),
}
SIGMA2, SIGMA2_E = 1.5, 0.3


def make(name, n=500, seed=0):
    """Data with a trend in an asymmetric design, drawn from the dense model."""
    kernel, D, extent, truth = CASES[name]
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, D)) * [1.0, 0.8][:D]
    X = np.column_stack([np.ones(n), x[:, 0], rng.normal(size=n)])
    K = correlation(kernel, x, x, truth)
    noise = np.linalg.cholesky(SIGMA2 * K + SIGMA2_E * np.eye(n)) @ rng.normal(size=n)
    y = X @ [3.0, -2.0, 0.5] + noise
    basis = flmm.FourierBasis(
        kernel=kernel, lengthscale=extent, domain=[(0, 1), (0, 0.8)][:D], n=n, noise_ratio_min=0.1
    )
    return SimpleNamespace(kernel=kernel, x=x, X=X, y=y, K=K, truth=truth, basis=basis, n=n)
