# %% [markdown]
# # Which genes vary in space?
#
# A slice of tissue lies on 2000 spots, and at each the expression of 10 000 genes is counted. A gene is spatially
# variable if spots that are close have similar values, beyond what chance does:
#
# $$y \sim N(X\beta,\ \sigma^2 (K + \delta I)),\qquad K_{ij} = \exp(-d_{ij}^2 / 2\ell^2),$$
#
# with an intercept and the log of all counts of a spot as fixed effects. The share of variance that space explains is
# $h^2 = \sigma^2/(\sigma^2 + \delta\sigma^2)$. All genes share K and X, so each length scale $\ell$ is factored once.
#
# A yardstick: SpatialDE (Svensson, Teichmann & Stegle 2018, doi:10.1038/nmeth.4636) reports 332 s for 10 000 genes at
# 2000 spots on a desktop of 2013. Other machines differ; the stages below print what they take on this one.

# %%
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control

import pm_fastlmm as flmm

GENES, SPOTS = 10_000, 2_000
LENGTHS = (200.0, 500.0)  # micrometres
VARIABLE = 0.1  # prior probability that a gene is spatially variable
rng = np.random.default_rng(2018)
started = time.perf_counter()


def stage(name):
    """Print the seconds since the stage before."""
    global started
    now = time.perf_counter()
    print(f"{name:<58}{now - started:6.2f} s", flush=True)
    seconds[name], started = now - started, time.perf_counter()


seconds = {}

# %% [markdown]
# ## A tissue, and counts
#
# Spots lie on a hexagonal lattice of 100 µm inside the outline of a slice. One gene in ten follows a pattern: a layer,
# a centre of activity, a gradient from the rim, or a smooth random field. The strength varies; counts are Poisson.

# %%
column, row = np.meshgrid(np.arange(80), np.arange(80))
lattice = np.column_stack(
    [(100 * (column + 0.5 * (row % 2))).ravel(), (86.6 * row).ravel()]
) - [3950, 3420]
angle, radius = np.arctan2(lattice[:, 1], lattice[:, 0]), np.hypot(*lattice.T)
outline = 2560 * (
    1 + 0.16 * np.cos(2 * angle) - 0.10 * np.sin(3 * angle) + 0.05 * np.cos(5 * angle + 0.6)
)
inside = np.flatnonzero(radius < outline)
depth = (outline - radius)[inside]
order = np.sort(np.argsort(-depth, kind="stable")[:SPOTS])
spots, depth = lattice[inside][order], depth[order]
assert len(spots) == SPOTS

kind = np.where(rng.uniform(size=GENES) < VARIABLE, rng.integers(1, 5, size=GENES), 0)
centres = spots[rng.integers(SPOTS, size=GENES)]
waves = rng.normal(size=(GENES, 6, 2)) / 500
phases = rng.uniform(0, 2 * np.pi, size=(GENES, 6))
pattern = np.zeros((SPOTS, GENES))
for g in np.flatnonzero(kind):
    pattern[:, g] = (
        np.exp(-(((depth - rng.uniform(200, 1500)) / 180) ** 2)),
        np.exp(-((spots - centres[g]) ** 2).sum(-1) / (2 * rng.uniform(250, 600) ** 2)),
        depth / depth.max(),
        np.cos(spots @ waves[g].T + phases[g]).sum(-1),
    )[kind[g] - 1]
pattern /= np.where(kind > 0, pattern.std(axis=0), 1.0)
depth_of_spot = rng.lognormal(0, 0.3, size=(SPOTS, 1))
mean_count = rng.lognormal(1.0, 0.8, size=GENES)
strength = rng.uniform(0.05, 0.5, size=GENES)
rate = (
    depth_of_spot
    * mean_count
    * np.exp(strength * pattern + 0.25 * rng.normal(size=(SPOTS, GENES)))
)
counts = rng.poisson(rate)
stage(f"simulate {GENES} genes at {SPOTS} spots")

# %% [markdown]
# Square roots make the variance of counts alike; the size of a spot is a fixed effect.

# %%
Y = np.sqrt(counts + 0.25)
X = np.column_stack([np.ones(SPOTS), np.log(counts.sum(axis=1))])
distance = cdist(spots, spots)
stage("transform, distances")

# %% [markdown]
# ## Two length scales, each factored once
#
# For each: the spectrum, the rotation of all genes, their REML fits, the exact likelihood-ratio tests of h² = 0 (one
# null distribution for all genes), and their exact posteriors with the Bayes factor of "h² uniform" against "h² = 0".

# %%
fits, tests, posteriors = [], [], []
for length in LENGTHS:
    spectrum = flmm.Spectrum.from_covariance(np.exp(-0.5 * (distance / length) ** 2), X)
    stage(f"length {length:.0f} µm: spectrum, rank {spectrum.rank}")
    rotated = spectrum.rotate(Y)
    stage(f"length {length:.0f} µm: rotation of all genes")
    fit = flmm.reml(spectrum, rotated)
    fits.append(fit.to_dataset())
    stage(f"length {length:.0f} µm: REML, standard errors, β")
    tests.append(fit.test_no_variance(random_seed=1))
    stage(f"length {length:.0f} µm: exact tests")
    posteriors.append(flmm.exact_posterior(spectrum, rotated))
    stage(f"length {length:.0f} µm: exact posteriors, Bayes factors")

# %% [markdown]
# ## Which genes?
#
# The length scales are alternatives with equal prior weight, so their Bayes factors are averaged. With one gene in ten
# variable a priori, the posterior probability follows, and genes are taken until one in twenty is expected to be wrong.

# %%
log_factors = np.stack([posterior.log_bayes_factor for posterior in posteriors])
top = log_factors.max(axis=0)
log_factor = top + np.log(np.exp(log_factors - top).mean(axis=0))
log_odds = log_factor + np.log(VARIABLE / (1 - VARIABLE))
wrong = 1 / (1 + np.exp(np.clip(log_odds, -700, 700)))
ranking = np.argsort(wrong)
expected_wrong = np.cumsum(wrong[ranking]) / np.arange(1, GENES + 1)
found = ranking[: int(np.searchsorted(expected_wrong, 0.05))]
best = log_factors.argmax(axis=0)
h2 = np.stack([fit.h2 for fit in fits])[best, np.arange(GENES)]
ratio = 2 * np.stack([fit.loglik - fit.loglik_null for fit in fits]).max(axis=0)
stage("Bayes factors to a list of genes")

true = np.flatnonzero(kind)
share, false = np.isin(true, found).mean(), (kind[found] == 0).mean()
print(
    f"\n{len(found)} genes found; of {len(true)} variable ones {share:.0%} are found,"
    f" {false:.1%} of the found are not"
)
p_value = np.minimum(1.0, len(LENGTHS) * np.min([test.p_value for test in tests], axis=0))
by_test = np.flatnonzero(false_discovery_control(p_value) < 0.05)
print(
    f"{len(by_test)} by the exact tests, at a false discovery rate of 5 %:"
    f" {np.isin(true, by_test).mean():.0%} of the variable ones,"
    f" {(kind[by_test] == 0).mean():.1%} are not,"
    f" and {np.isin(found, by_test).mean():.0%} of those above"
)
show = [int(next(g for g in ranking if kind[g] == k)) for k in (1, 2, 3, 4)]
for g in show:
    posterior = flmm.exact_posterior(posteriors[best[g]].spectrum, Y[:, g])
    low, high = posterior.interval("h2", 0.95, kind="hdi")
    evidence = log_factor[g] / np.log(10)
    print(
        f"gene {g:>5}: length {LENGTHS[best[g]]:.0f} µm,"
        f" share of variance {posterior.mean('h2'):.2f} "
        f"({low:.2f} – {high:.2f}), log10 Bayes factor {evidence:.0f}"
    )
analysis = sum(s for name, s in seconds.items() if not name.startswith("simulate"))
print(
    f"\nanalysis of {GENES} genes at {SPOTS} spots and {len(LENGTHS)} length scales: {analysis:.1f} s "
    f"(SpatialDE's published yardstick: 332 s, on a desktop of 2013)"
)

# %% [markdown]
# ## A figure
#
# Four genes on the tissue, and all genes: the evidence against the share of variance that space explains.

# %%
matplotlib.use("Agg")
import matplotlib.pyplot as plt

figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
figures.mkdir(exist_ok=True)
names = ("a layer", "a centre", "a gradient from the rim", "a smooth field")
fig = plt.figure(figsize=(12.5, 5.6), layout="constrained")
grid = fig.add_gridspec(2, 4, width_ratios=(1, 1, 0.07, 1.5))
adjusted = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]
for i, g in enumerate(show):
    ax = fig.add_subplot(grid[i // 2, i % 2])
    shown = adjusted[:, g] / adjusted[:, g].std()
    points = ax.scatter(
        *spots.T / 1000, c=shown, s=9, cmap="magma", vmin=-2, vmax=2.5, linewidths=0
    )
    ax.set_title(f"gene {g}: {names[i]}\nh² = {h2[g]:.2f}", fontsize=9)
    ax.set_aspect("equal")
    ax.set_axis_off()
fig.colorbar(
    points,
    cax=fig.add_subplot(grid[:, 2]),
    label="expression, adjusted for the size of the spot (sd)",
)
ax = fig.add_subplot(grid[:, 3])
called = np.isin(np.arange(GENES), found)
for chosen, colour, label in (
    (kind == 0, "#9aa5b1", "no pattern"),
    ((kind > 0) & ~called, "#d94801", "pattern, not found"),
    ((kind > 0) & called, "#08519c", "pattern, found"),
    ((kind == 0) & called, "black", "no pattern, found"),
):
    height = np.arcsinh(log_factor[chosen] / np.log(10))
    ax.scatter(
        h2[chosen],
        height,
        s=7,
        color=colour,
        linewidths=0,
        alpha=0.7,
        label=f"{label} ({chosen.sum()})",
    )
ticks = np.array([-1, 0, 1, 10, 100, 1000])
ax.set_yticks(np.arcsinh(ticks), [str(t) for t in ticks])
ax.set(
    xlabel="share of variance explained by space, h² (REML)",
    ylabel="log₁₀ Bayes factor against h² = 0",
)
ax.set_title(f"{GENES} genes, {SPOTS} spots, {len(LENGTHS)} length scales", fontsize=10)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="lower right", fontsize=9)
fig.savefig(figures / "spatially_variable_genes.png", dpi=110)
print(f"figure written to {figures}/spatially_variable_genes.png")

# %% [markdown]
# ![Left, four slices of tissue with a ring, a centre, a gradient and a smooth field; right, Bayes factors of ten
# thousand genes that grow with h²](spatially_variable_genes.png "Ten thousand genes at 2000 spots. Left: four of the
# genes. Right: the evidence for a pattern in space against the share of variance that it explains.")
