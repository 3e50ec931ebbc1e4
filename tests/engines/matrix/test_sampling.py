"""Posteriors of two traits: NUTS against importance weights of a density that is written with NumPy alone."""

import arviz as az
import numpy as np
import pymc as pm
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_t

import pm_fastlmm as flmm

N, POINTS = 60, 20_000
NAMES = ("sd_g[0]", "sd_g[1]", "corr_g", "sd_e[0]", "sd_e[1]", "corr_e")


@pytest.fixture(scope="module")
def problem():
    """K of families, and Y whose traits are related."""
    rng = np.random.default_rng(12)
    family = np.arange(N) % 12
    K = 0.1 * np.eye(N) + 0.9 * np.equal.outer(family, family)
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    u = np.linalg.cholesky(K) @ rng.normal(size=(N, 2)) @ [[1.2, 0.6], [0.0, 1.0]]
    Y = u + rng.normal(size=(N, 2)) @ [[0.8, -0.2], [0.0, 0.6]]
    return K, X, Y.T


def covariance(a, b, r):
    return np.array([[a * a, r * a * b], [r * a * b, b * b]])


def log_posterior(K, X, Y):
    """Return the log-density of (log sd, atanh r) of Σ_g and Σ_e: half-normal standard deviations, LKJ(2)."""
    values, U = np.linalg.eigh((A := np.linalg.svd(X)[0][:, X.shape[1] :]).T @ K @ A)
    Z = U.T @ A.T @ Y.T

    def density(x):
        out = 0.0
        matrices = []
        for log_a, log_b, z in (x[:3], x[3:]):
            a, b, r = np.exp(log_a), np.exp(log_b), np.tanh(z)
            matrices.append(covariance(a, b, r))
            out += -0.5 * (a * a + b * b) / 1.5**2 + log_a + log_b + 2 * np.log1p(-r * r)  # LKJ(2), and the Jacobian
        V = values[:, None, None] * matrices[0] + matrices[1]
        det = V[:, 0, 0] * V[:, 1, 1] - V[:, 0, 1] ** 2
        square = V[:, 1, 1] * Z[:, 0] ** 2 - 2 * V[:, 0, 1] * Z[:, 0] * Z[:, 1] + V[:, 0, 0] * Z[:, 1] ** 2
        return out - 0.5 * (np.log(det) + square / det).sum()

    return density


@pytest.fixture(scope="module")
def weighted(problem):
    """Points of a multivariate t around the mode, and their importance weights."""
    density, rng = log_posterior(*problem), np.random.default_rng(3)
    mode = minimize(lambda x: -density(x), np.array([-0.3, -0.3, 0.3, -0.3, -0.3, 0.0]))
    centre, scale = mode.x, mode.hess_inv
    for power in (0.3, 0.6, 1.0, 1.0):  # centre and scale of the next round are those of the weights, flatter at first
        proposal = multivariate_t(centre, scale, df=4, seed=rng)
        x = proposal.rvs(POINTS)
        log_weights = np.array([density(point) for point in x]) - proposal.logpdf(x)
        weights = np.exp(log_weights - log_weights.max())
        own = weights**power / (weights**power).sum()
        centre, scale = own @ x, np.cov(x.T, aweights=own)
    values = x.copy()
    values[:, [0, 1, 3, 4]], values[:, [2, 5]] = np.exp(x[:, [0, 1, 3, 4]]), np.tanh(x[:, [2, 5]])
    return values, own


def test_nuts_has_the_moments_of_importance_sampling(problem, weighted):
    K, X, Y = problem
    with pm.Model() as model:
        prior = {"n": 2, "eta": 2, "sd_dist": pm.HalfNormal.dist(1.5, shape=2)}
        roots = [pm.LKJCholeskyCov(name, **prior)[0] for name in "ge"]
        spectrum = flmm.Spectrum.from_covariance(K, X)
        flmm.MatrixLMM("Y", spectrum=spectrum, Sigma_g=roots[0] @ roots[0].T, Sigma_e=roots[1] @ roots[1].T, observed=Y)
    idata = flmm.sample(
        1000, chains=4, cores=1, model=model, random_seed=2, progressbar=False, quiet=True, target_accept=0.95
    )
    posterior = idata.posterior
    assert idata.sample_stats["diverging"].mean() < 0.002
    drawn = {}
    for name in "ge":
        drawn |= {f"sd_{name}[{i}]": posterior[f"{name}_stds"][..., i] for i in range(2)}
        drawn[f"corr_{name}"] = posterior[f"{name}_corr"][..., 0, 1]
    values, w = weighted
    size = 1 / (w**2).sum()
    assert size > POINTS / 2
    for name, points in zip(NAMES, values.T, strict=True):
        draws = drawn[name].to_numpy()
        mean, sd = w @ points, np.sqrt(w @ (points - w @ points) ** 2)
        ess = float(az.ess(draws))
        assert abs(draws.mean() - mean) < 4 * sd * np.sqrt(1 / ess + 1 / size), name
        for q in (0.1, 0.5, 0.9):
            order = np.argsort(points)
            quantile = points[order][np.searchsorted(np.cumsum(w[order]), q)]
            assert abs((draws < quantile).mean() - q) < 4 * np.sqrt(q * (1 - q) * (1 / ess + 1 / size)) + 0.01, name


def test_what_is_derived_is_a_function_of_the_draws(problem):
    K, X, Y = problem
    spectrum = flmm.Spectrum.from_covariance(2 * K, X)
    with pm.Model(coords={"trait": ["milk", "fat"], "obs": range(N)}) as model:
        g, e = (pm.HalfNormal(name, shape=2) for name in "ge")
        flmm.MatrixLMM(
            "Y", spectrum=spectrum, Sigma_g=flmm.covariance.diagonal(g), Sigma_e=flmm.covariance.diagonal(e),
            observed=Y, dims=("trait", "obs"),
        )  # fmt: skip
    idata = flmm.sample(5, tune=50, chains=1, cores=1, model=model, random_seed=2, progressbar=False, quiet=True)
    posterior = idata.posterior
    assert list(posterior["Y_trait"]) == ["milk", "fat"]
    np.testing.assert_allclose(posterior["Y_variance_K"], 2 * posterior["g"])
    np.testing.assert_allclose(posterior["Y_h2"], 2 * posterior["g"] / (2 * posterior["g"] + posterior["e"].to_numpy()))
    assert posterior["Y_beta"].shape == (1, 5, 4)
