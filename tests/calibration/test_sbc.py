"""
Simulation-based calibration: parameters drawn from the prior have uniform ranks among draws of their posterior.

Talts et al. (2018), arXiv:1804.06788. Under a flat prior on β the posterior is equivariant in β, so that the ranks of
the coefficients and of the effects are uniform for a β held fixed.
"""

import arviz as az
import numpy as np
import pymc as pm
import pytest
from scipy.stats import chisquare

import pm_fastlmm as flmm

pytestmark = pytest.mark.slow

PRIOR = flmm.priors.VariancePrior(1.5, 1.0, 3.0, 3.0)
L = 199  # posterior draws for each replicate: ranks 0 … 199 in 20 bins of ten
BETA = np.array([1.0, -0.5])


def simulate(m, replicates, n=24, seed=1):
    """A covariance of n + 1 rows, the last one not observed, and replicates of everything drawn from the prior."""
    rng = np.random.default_rng([seed, m])
    W = (rng.normal(size=(n + 1, m)) * rng.exponential(size=m) + 0.3) / np.sqrt(m)
    X = np.column_stack([np.ones(n + 1), np.linspace(-1, 2, n + 1) ** 2])
    spectrum = flmm.Spectrum.from_factor(W[:n], X[:n])
    h2 = rng.beta(PRIOR.h2_alpha, PRIOR.h2_beta, size=replicates)
    total = PRIOR.total_scale / rng.gamma(PRIOR.total_shape, size=replicates)
    g, e = h2 * total / spectrum.mean_diagonal, (1 - h2) * total
    u = np.sqrt(g) * (W @ rng.normal(size=(m, replicates)))
    y = X @ BETA[:, None] + u + np.sqrt(e) * rng.normal(size=(n + 1, replicates))
    truth = {"h2": h2, "total": total, "sigma2": g, "sigma2_e": e}
    effects = {"beta": np.tile(BETA[:, None], replicates), "u": u[:n], "y_new": y[n], "f_new": (X @ BETA)[n] + u[n]}
    return spectrum, W, X, y[:n], truth | effects


def assert_uniform(ranks, name):
    """Chi-squared over twenty bins; 3 · 10⁻⁴ for each of about twenty tests with a fixed seed."""
    counts = np.histogram(ranks, bins=20, range=(0, L + 1))[0]
    assert chisquare(counts).pvalue > 3e-4, f"{name}: {counts}"


def rank(draws, truth):
    return (draws < truth).sum(0)


@pytest.fixture(scope="module", params=[60, 5], ids=["full rank", "low rank"])
def exact(request):
    spectrum, W, X, Y, truth = simulate(request.param, replicates=2000)
    return spectrum, W, X, Y, truth, flmm.exact_posterior(spectrum, Y, prior=PRIOR).draws(L, random_seed=0)


def test_exact_posterior_is_calibrated(exact):
    *_, truth, draws = exact
    for name in ("h2", "total", "sigma2", "sigma2_e"):
        assert_uniform(rank(draws[name], truth[name]), name)


def test_effects_and_predictions_are_calibrated(exact):
    spectrum, W, X, Y, truth, draws = exact
    tree = az.from_dict({"posterior": {name: draws[name][None] for name in ("h2", "total", "sigma2_e")}})
    model = flmm.kernel_model(Y, spectrum=spectrum, prior=PRIOR)
    tree = flmm.recover_effects(tree, model=model, random_seed=1)
    tree = flmm.predict(tree, X[-1:], W_new=W[-1:], model=model, random_seed=2)
    for j in range(2):
        assert_uniform(rank(tree.posterior["y_beta"].to_numpy()[0, ..., j], truth["beta"][j]), f"beta {j}")
    for i in (0, 11, 23):
        assert_uniform(rank(tree.posterior["y_u"].to_numpy()[0, ..., i], truth["u"][i]), f"u {i}")
    assert_uniform(rank(tree.predictions["y_mean"].to_numpy()[0, ..., 0], truth["f_new"]), "new f")
    assert_uniform(rank(tree.predictions["y"].to_numpy()[0, ..., 0], truth["y_new"]), "new y")


@pytest.mark.parametrize("m", [60, 5], ids=["full rank", "low rank"])
def test_nuts_is_calibrated(m):
    """Four runs of sixty independent responses each; every tenth draw of NUTS is nearly independent."""
    spectrum, _, _, Y, truth = simulate(m, replicates=240, seed=2)
    ranks = {"h2": [], "total": [], "sigma2": [], "sigma2_e": []}
    for block in np.split(np.arange(240), 4):
        model = flmm.kernel_model(Y[:, block], spectrum=spectrum, prior=PRIOR)
        tree = flmm.sample(
            1000, chains=2, cores=1, model=model, nuts_sampler="nutpie", random_seed=int(block[0]),
            progressbar=False, quiet=True,
        )  # fmt: skip
        names = {"h2": "h2", "total": "total", "sigma2": "y_sigma2", "sigma2_e": "y_sigma2_e"}
        for quantity, name in names.items():
            thinned = tree.posterior[name].to_numpy()[:, ::10].reshape(200, -1)[:L]
            ranks[quantity].append(rank(thinned, truth[quantity][block]))
    for quantity, values in ranks.items():
        assert_uniform(np.concatenate(values), quantity)


def test_nuts_with_a_gaussian_prior_on_beta_is_calibrated():
    """β ~ N(0, I) integrated out by the node, and drawn afterwards; every fifth draw of 15 steps is independent."""
    spectrum, _, X, Y, truth = simulate(60, replicates=240, seed=3)
    beta = np.random.default_rng(4).normal(size=(2, 240))
    Y = Y + X[:-1] @ (beta - BETA[:, None])
    ranks = {"h2": [], "beta 0": [], "beta 1": []}
    for block in np.split(np.arange(240), 4):
        with pm.Model() as model:
            h2 = pm.Beta("h2", PRIOR.h2_alpha, PRIOR.h2_beta, shape=60)
            total = pm.InverseGamma("total", PRIOR.total_shape, PRIOR.total_scale, shape=60)
            flmm.FastLMM("y", spectrum=spectrum, h2=h2, total=total, beta_cov=np.eye(2), observed=Y[:, block].T)
        tree = flmm.sample(
            500, chains=2, cores=1, model=model, nuts_sampler="nutpie", random_seed=int(block[0]),
            progressbar=False, quiet=True,
        )  # fmt: skip
        tree = flmm.recover_effects(tree, model=model, random_seed=int(block[0]))
        posterior = tree.posterior.isel(draw=slice(None, None, 5))
        ranks["h2"].append(rank(posterior["h2"].to_numpy().reshape(200, -1)[:L], truth["h2"][block]))
        coefficients = posterior["y_beta"].to_numpy().reshape(200, 60, 2)[:L]
        for j in range(2):
            ranks[f"beta {j}"].append(rank(coefficients[..., j], beta[j][block]))
    for quantity, values in ranks.items():
        assert_uniform(np.concatenate(values), quantity)
