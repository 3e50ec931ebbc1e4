# %% [markdown]
# # Do lizards inherit the size of their ancestors?
#
# A hundred species of Caribbean anoles differ fivefold in length (Mahler, Revell, Glor & Losos 2010). If size drifts
# along the branches of their tree, species share what happened before they parted,
#
# $$y \sim N(\mu,\ \sigma^2 (K + \delta I)),$$
#
# where $K_{ij}$ is the time from the root to the last common ancestor of $i$ and $j$. The share
# $\lambda = 1/(1 + \delta)$ is the phylogenetic signal (Pagel's λ, Lynch's phylogenetic heritability): 1 if the tree
# explains all, 0 if relatives are no more alike than others.

# %%
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

import pm_fastlmm as flmm

matplotlib.use("Agg")
figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
figures.mkdir(exist_ok=True)

anoles = flmm.datasets.anoles()
K = flmm.covariance.phylogeny(anoles.attrs["newick"])
design = flmm.Design.from_formula("log_length ~ 1", anoles, K=K)
spectrum = design.spectrum()

# %% [markdown]
# ## An estimate at the boundary
#
# Brownian motion explains these sizes without any remainder: the likelihood is highest at $\delta = 0$. Such a fit is
# not a failure, but it has no standard error. By maximum likelihood instead of REML these are the numbers of
# `fitContinuous` in R's geiger: log-likelihood -4.700404, σ² 0.136160, mean at the root 4.065918.

# %%
fit = flmm.reml(spectrum, design.y)
print(fit, end="\n\n")
ml = flmm.reml(spectrum, design.y, method="ML")
print(
    f"ML: log-likelihood {ml.loglik:.6f}, sigma2 {ml.sigma2:.6f}, mean {ml.beta.iloc[0]:.6f}"
)
assert abs(ml.loglik + 4.700404) < 1e-6
assert abs(ml.sigma2 - 0.136160) < 1e-6

# %% [markdown]
# ## What the data say all the same
#
# The posterior has no difficulty with a boundary. It is computed by quadrature, under a uniform prior of the share.

# %%
posterior = flmm.exact_posterior(spectrum, design.y)
low, high = posterior.interval("h2", 0.95, kind="hdi")
print(f"phylogenetic signal: 95 % of the posterior between {low:.3f} and {high:.3f}")
print(f"Bayes factor against no signal: 10^{posterior.log_bayes_factor / np.log(10):.0f}")

# %% [markdown]
# ## A regression among relatives
#
# Do longer species have relatively longer legs? A slope of 1 on log scales is proportion. Species are no independent
# points, and least squares is too sure of itself: it counts a dozen giants as a dozen witnesses, although they
# inherited their size from a few ancestors.

# %%
legs = flmm.Design.from_formula("log_femur ~ log_length", anoles, K=K)
related = flmm.reml(legs.spectrum(), legs.y)
X, y = legs.X, np.asarray(legs.y)
naive, rss, *_ = np.linalg.lstsq(X, y, rcond=None)
naive_se = np.sqrt(rss[0] / (len(y) - 2) * np.linalg.inv(X.T @ X)[1, 1])
print(
    f"slope, species as relatives:          {related.beta.iloc[1]:.3f}"
    f" ± {related.beta_se.iloc[1]:.3f}"
)
print(f"slope, species as independent points: {naive[1]:.3f} ± {naive_se:.3f}")

# %% [markdown]
# ## The ancestors
#
# The tree gives the covariance of an ancestor with every living species, and `predict` its size and how uncertain that
# is. An ultrametric tree can be read off $K$: species that parted last are merged first.

# %%
shared = K.to_numpy()
n, height = len(K), shared.max()
merges = linkage(squareform(height - shared, checks=False), "average")
members = [[i] for i in range(n)]
time = [height] * n
for a, b, distance, _ in merges:
    members.append(members[int(a)] + members[int(b)])
    time.append(height - distance)
K_new = np.array(
    [np.minimum(time[v], shared[members[v]].max(axis=0)) for v in range(n, len(members))]
)
K_new_new = np.array(time[n:])
ancestors = fit.predict(np.ones((n - 1, 1)), K_new, K_new_new=K_new_new)
size = np.concatenate([design.y, np.asarray(ancestors.mean)])
low, high = np.exp(size[-1] + np.array([-1.96, 1.96]) * ancestors.se[-1])
print(f"the common ancestor of all: {np.exp(size[-1]):.0f} mm, {low:.0f} to {high:.0f}")

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 5), layout="constrained", gridspec_kw={"width_ratios": [2.2, 1]}
)
lines, colours = [], []
for v, (a, b, *_) in enumerate(merges, start=n):
    for child in (int(a), int(b)):
        lines.append([(time[v], size[v]), (time[child], size[child])])
        colours.append((size[v] + size[child]) / 2)
left.add_collection(LineCollection(lines, array=np.array(colours), cmap="viridis", lw=1.3))
left.autoscale()
for name in (
    "equestris",
    "garmani",
    "cuvieri",
    "cupeyalensis",
    "reconditus",
    "occultus",
    "bartschi",
):
    left.annotate(
        name,
        (height, anoles.log_length[name]),
        xytext=(4, -3),
        textcoords="offset points",
        fontsize=8,
    )
ticks = np.array([30, 40, 60, 80, 120, 160])
left.set_yticks(np.log(ticks), ticks)
left.set(
    xlim=(0, 1.13),
    xticks=[0, 0.5, 1],
    xticklabels=["root", "", "today"],
    ylabel="length, mm",
)
left.set_title("Body size along the tree of anoles")
left.spines[["top", "right"]].set_visible(False)
grid = np.linspace(0.85, 0.9999, 400)
right.fill_between(grid, posterior.h2_density(grid), color="#9ecae1")
right.plot(grid, posterior.h2_density(grid), color="#08519c", label="posterior")
right.axvline(fit.h2, color="#d94801", lw=2, label="REML: 1, no standard error")
right.set(
    xlabel="phylogenetic signal",
    yticks=[],
    xlim=(0.85, 1.005),
    ylim=(0, None),
    title="How much the tree explains",
)
right.legend(frameon=False, loc="upper left")
right.spines[["top", "right", "left"]].set_visible(False)
figure.savefig(figures / "body_size_of_anoles.png", dpi=130)
print(f"figure written to {figures}: body_size_of_anoles.png")

# %% [markdown]
# ![Left, branches that fan out from 58 mm at the root to between 32 and 165 mm today; right, a posterior density that
# rises to 1](body_size_of_anoles.png "Left: body size along the tree of anoles, with reconstructed ancestors. Right:
# the posterior of the share of variance that the tree explains; REML lies at the boundary.")
