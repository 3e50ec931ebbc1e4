"""
Simulation-based calibration of two traits of one kernel, MatrixLMM.

Parameters are drawn from the prior, Σ_g and Σ_e by standard deviations and a correlation, effects and residuals from
both, all with NumPy alone. β, whose prior is flat, is fixed. NUTS samples the posterior of complete data, in one model
whose data are changed. With entries that were not observed draws from the prior are weighed by their likelihood, and
coefficients, effects and the entries themselves are drawn from what the engine says of them.
"""

import numpy as np
import nutpie
import pymc as pm
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.engines.matrix.effects import draw_traits
from pm_fastlmm.engines.traits.products import TraitProducts

pytestmark = pytest.mark.slow

N, COUNT, L = 24, 200, 199  # rows, data sets, draws of each
CENTRE, SPREAD = -0.3, 0.4  # of the logarithms of standard deviations
BETA = np.array([[1.0, -0.5], [0.0, 2.0]])
TRAITS = ("milk", "fat")


def draw_covariances(size, rng):
    """Draw (size, 2, 2) from log-normal standard deviations and an LKJ(2) correlation, which of two is a beta."""
    sd, r = rng.lognormal(CENTRE, SPREAD, size=(size, 2)), 2 * rng.beta(2, 2, size=size) - 1
    out = sd[:, :, None] * sd[:, None, :]
    out[:, [0, 1], [1, 0]] *= r[:, None]
    return out


@pytest.fixture(scope="module")
def design():
    """X, a factor of K, and the spectrum."""
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(N), np.linspace(-1, 2, N) ** 2])
    W = rng.normal(size=(N, 60)) / np.sqrt(60)
    return X, W, flmm.Spectrum.from_covariance(W @ W.T, X)


def replicates(design, rng):
    """Return Σ_g, Σ_e, U and Y (COUNT, 2, N) of all data sets."""
    X, W, _ = design
    sigma_g, sigma_e = draw_covariances(COUNT, rng), draw_covariances(COUNT, rng)
    roots = [np.linalg.cholesky(sigma) for sigma in (sigma_g, sigma_e)]
    U = roots[0] @ rng.normal(size=(COUNT, 2, W.shape[1])) @ W.T
    return sigma_g, sigma_e, U, BETA @ X.T + U + roots[1] @ rng.normal(size=(COUNT, 2, N))


def quantities(sigma_g, sigma_e):
    """Return what is compared of two covariances (…, 2, 2)."""
    both = {}
    for name, sigma in (("g", sigma_g), ("e", sigma_e)):
        variances = np.diagonal(sigma, axis1=-2, axis2=-1)
        both |= {f"sd_{name}[{trait}]": np.sqrt(variances[..., i]) for i, trait in enumerate(TRAITS)}
        both[f"corr_{name}"] = sigma[..., 0, 1] / np.sqrt(variances.prod(axis=-1))
    both["h2[milk]"] = sigma_g[..., 0, 0] / (sigma_g[..., 0, 0] + sigma_e[..., 0, 0])
    both["genetic covariance"] = sigma_g[..., 0, 1]
    return both


def assert_within(sbc, ranks):
    for name, values in ranks.items():
        points = sbc.outside(values, L)
        print(f"{name}: {len(values)} ranks, mean {np.mean(values) / L:.3f}, {points} points outside the envelope")
        assert points == 0, name


def test_nuts_is_calibrated(design, sbc):
    _, _, spectrum = design
    sigma_g, sigma_e, _, Y = replicates(design, np.random.default_rng(2))
    with pm.Model() as model:
        roots = [
            pm.LKJCholeskyCov(name, n=2, eta=2, sd_dist=pm.LogNormal.dist(CENTRE, SPREAD, shape=2))[0]
            for name in ("g", "e")
        ]
        g, e = (pm.Deterministic(f"sigma_{name}", root @ root.T) for name, root in zip("ge", roots, strict=True))
        flmm.MatrixLMM("Y", spectrum=spectrum, Sigma_g=g, Sigma_e=e, observed=pm.Data("data", Y[0]))
    compiled, ranks = nutpie.compile_pymc_model(model), {}
    for k in range(COUNT):
        own = compiled.with_data(data=Y[k])
        draws = nutpie.sample(own, draws=10 * L, tune=500, chains=1, cores=1, seed=k, progress_bar=False).posterior
        thinned = [draws[f"sigma_{name}"].to_numpy()[0, ::10] for name in "ge"]
        for (name, values), truth in zip(
            quantities(*thinned).items(), quantities(sigma_g[k], sigma_e[k]).values(), strict=True
        ):
            ranks.setdefault(name, []).append(int((values < truth).sum()))
    assert_within(sbc, ranks)


def test_the_likelihood_and_draws_with_entries_that_were_not_observed_are_calibrated(design, sbc):
    X, _, spectrum = design
    rng = np.random.default_rng(3)
    sigma_g, sigma_e, U, Y = replicates(design, rng)
    seen = rng.uniform(size=(2, N)) > 0.15
    products = TraitProducts.of(spectrum, TRAITS, seen, flat=True)
    prior = draw_covariances(20_000, rng), draw_covariances(20_000, rng)
    some, all_entries = Y[:, seen], np.arange(products.n)
    loglik = np.empty((len(prior[0]), COUNT))
    for i, (g, e) in enumerate(zip(*prior, strict=True)):
        state = products.at(products.response(some[0]), [g], e)
        P = state.precision(some[0]).block(all_entries)
        squares = np.einsum("kn,kn->k", some @ P, some)
        loglik[i] = state.loglik - 0.5 * (squares - state.yPy)
    ranks, sizes = {}, []
    missing = np.flatnonzero(~seen.ravel())
    for k in range(COUNT):
        weights = np.exp(loglik[:, k] - loglik[:, k].max())
        weights /= weights.sum()
        sizes.append(1 / (weights**2).sum())
        chosen = rng.choice(len(weights), size=L, p=weights)
        g, e = (values[chosen] for values in prior)
        drawn = draw_traits(products, g, e, some[k], np.zeros(0), rng)
        u = drawn.effects(rng)
        residual = np.linalg.cholesky(e) @ rng.normal(size=(L, 2, N))
        beta = drawn.coefficients
        values = quantities(g, e) | {"beta[0]": beta[:, 0, 0], "beta[3]": beta[:, 1, 1]}
        truth = quantities(sigma_g[k], sigma_e[k]) | {"beta[0]": BETA[0, 0], "beta[3]": BETA[1, 1]}
        values["an effect"], truth["an effect"] = u[:, 1, 5], U[k, 1, 5]
        f = beta @ X.T + u
        for name, place in (("an entry", missing[0]), ("another entry", missing[-1])):
            values[name], truth[name] = (f + residual).reshape(L, -1)[:, place], Y[k].ravel()[place]
        for name, own in values.items():
            ranks.setdefault(name, []).append(int((own < truth[name]).sum()))
    print(f"effective draws: {np.quantile(sizes, [0, 0.1, 0.5]).round(0)}")
    assert_within(sbc, ranks)
