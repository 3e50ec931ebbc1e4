"""
Simulation-based calibration: ranks among posterior draws of parameters from the prior, and the envelope of their ECDF.

Talts et al. (2018), arXiv:1804.06788; Säilynoja, Bürkner & Vehtari (2022), doi:10.1007/s11222-022-10090-6. The figure
of docs/calibration.md is drawn by

    python tests/calibration/sbc.py docs/figures/calibration.png
"""

import sys

import numpy as np
from arviz_stats.ecdf_utils import ecdf_pit

import pm_fastlmm as flmm

DRAWS = 199  # of each replicate by quadrature
PROBABILITY = 0.999  # of an envelope, for the whole of a curve
QUANTITIES = ("h2", "total", "sigma2", "sigma2_e")
PRIORS = {
    "uniform h²": flmm.priors.VariancePrior(1.0, 1.0, 3.0, 3.0),
    "Beta(2, 4)": flmm.priors.VariancePrior(2.0, 4.0, 3.0, 3.0),
    "half-normal": flmm.priors.DeviationPrior("half-normal", 1.0, 0.7),
    "half-t": flmm.priors.DeviationPrior("half-t", 1.0, 0.7),
    "penalised complexity": flmm.priors.DeviationPrior.penalised_complexity(2.0, 0.05, scale_residual=0.7),
}


def draw_prior(prior, size, rng):
    """Draw (σ²_K, σ²_e) with NumPy alone."""
    if isinstance(prior, flmm.priors.VariancePrior):
        h2 = rng.beta(prior.h2_alpha, prior.h2_beta, size=size)
        total = prior.total_scale / rng.gamma(prior.total_shape, size=size)
        return h2 * total, (1 - h2) * total
    draw = {"half-normal": rng.normal, "half-t": lambda size: rng.standard_t(prior.df, size), "exponential": None}
    standard = draw[prior.family] or (lambda size: rng.exponential(size=size))
    return tuple((s * standard(size=size)) ** 2 for s in (prior.scale_kernel, prior.scale_residual))


def exact_ranks(prior, m, *, replicates=1000, n=24, seed=1):
    """Return ranks by quadrature for each quantity, K = WWᵀ with m columns; β, whose prior is flat, is fixed."""
    rng = np.random.default_rng([seed, m])
    W = rng.normal(size=(n, m)) / np.sqrt(m)
    X = np.column_stack([np.ones(n), np.linspace(-1, 2, n) ** 2])
    spectrum = flmm.Spectrum.from_factor(W, X)
    kernel, residual = draw_prior(prior, replicates, rng)
    sigma2 = kernel / spectrum.mean_diagonal
    y = X @ [[1.0], [-0.5]] + np.sqrt(sigma2) * (W @ rng.normal(size=(m, replicates)))
    y += np.sqrt(residual) * rng.normal(size=(n, replicates))
    truth = {"h2": kernel / (kernel + residual), "total": kernel + residual, "sigma2": sigma2, "sigma2_e": residual}
    draws = flmm.exact_posterior(spectrum, y, prior=prior).draws(DRAWS, random_seed=seed)
    return {name: (draws[name] < truth[name]).sum(0) for name in QUANTITIES}


def envelope(ranks, draws, *, probability=PROBABILITY, seed=0):
    """Return points, ECDF, and the lower and upper envelope of the ranks as probability integral transforms."""
    ranks = np.ravel(ranks)
    jitter = np.random.default_rng(seed).uniform(size=ranks.size)
    return ecdf_pit((ranks + jitter) / (draws + 1), probability, 2000)


def outside(ranks, draws, **options):
    """Return at how many points the ECDF leaves its envelope."""
    _, ecdf, lower, upper = envelope(ranks, draws, **options)
    return int(((ecdf < lower) | (ecdf > upper)).sum())


def plot(path):
    """Draw ECDF minus uniform with envelopes, a row for each prior, low and full rank side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, len(PRIORS), figsize=(15, 5.4), layout="constrained", sharex=True, sharey=True)
    for row, (m, label) in enumerate(((60, "K of full rank"), (5, "K of rank 5"))):
        for ax, (name, prior) in zip(axes[row], PRIORS.items(), strict=True):
            for quantity, ranks in exact_ranks(prior, m).items():
                x, ecdf, lower, upper = envelope(ranks, DRAWS, probability=0.95)
                ax.plot(x, ecdf - x, lw=1.2, label=quantity)
            ax.fill_between(x, lower - x, upper - x, color="0.88", zorder=0)
            ax.set_title(f"{name}, {label}", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=7)
    fig.supxlabel("rank of the truth among 199 draws, as a share")
    fig.supylabel("ECDF - uniform, 95 % envelope")
    fig.savefig(path, dpi=130)


if __name__ == "__main__":
    plot(sys.argv[1])
