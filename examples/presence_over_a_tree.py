# %% [markdown]
# # Where on the tree do lizards live on trunks and ground?
#
# Caribbean anoles have specialised, island by island, in the same few habitats: crowns of trees, twigs, grass, or
# trunks and the ground below. Is a species of the last kind because its ancestors were? Presence is yes or no,
#
# $$y_i \sim \text{Bernoulli}(\text{logit}^{-1}(\mu + u_i)),\qquad u \sim N(0, \sigma^2 A),$$
#
# and $u$ drifts along the branches of the tree: $A_{ij}$ is the time from the root to the last common ancestor of $i$
# and $j$. A is never formed: the effects of all 198 nodes have a sparse precision.

# %%
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
from matplotlib.collections import LineCollection
from scipy.special import expit
from scipy.stats import gaussian_kde

import pm_fastlmm as flmm

if __name__ == "__main__":
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %% [markdown]
    # ## The species
    #
    # The tree of 100 species is that of Mahler et al. (2010); the habitats of 82 are those which `anoletree` of R's
    # package phytools gives. The others belong to none of its six classes, and are left out of the fit.

    # %%
    on_ground = """ahli allogus armouri bremeri breslini confusus cooki cristatellus cybotes guafe gundlachi
    haetianus homolechis imias jubar lineatopus longitibialis marcanoi mestrei quadriocellifer rubribarbus
    sagrei shrevei strahmi whitemani"""
    in_no_class = """argenteolus argillaceus barbatus barbouri bartschi centralis chamaeleonides christophei
    etheridgei eugenegrahami fowleri guamuhaya lucius monticola porcus pumilis reconditus
    vermiculatus"""
    ground, unclassified = on_ground.split(), in_no_class.split()

    tree = flmm.covariance.Tree(flmm.datasets.anoles().attrs["newick"])
    species = [name for name in tree.tips if name not in unclassified]
    anoles = pd.DataFrame({"species": species, "ground": np.isin(species, ground)})
    print(f"{len(anoles)} species, {anoles['ground'].sum()} of trunk and ground")

    # %% [markdown]
    # ## An estimate
    #
    # The effects and μ are integrated out by Laplace's method, and one parameter is left, the variance σ² from the root
    # to the tips, on the scale of log odds.

    # %%
    options = {"family": "bernoulli", "known": {"species": tree}}
    formula = "ground ~ 1 + (1 | species)"
    fit = flmm.find_reml(formula, anoles, progressbar=False, **options)
    print(fit, end="\n\n")
    print(fit.intervals().round(2))
    assert fit.converged

    # %% [markdown]
    # A standard deviation of 7 is enormous on the scale of log odds: whole clades are certain. On the scale of what is
    # seen it is a share. "Liability" counts the noise of the logistic distribution, as the threshold model does, and is
    # the phylogenetic signal there; "expected" is about the probabilities, "observed" about the zeros and ones
    # themselves (de Villemereuil et al. 2016).

    # %%
    signal = fit.heritability("species").loc[["liability", "expected", "observed"]]
    print(signal.astype(float).round(2))

    # %% [markdown]
    # ## How far is the approximation off?
    #
    # One yes or no of a species says little about its effect, so that Laplace's approximation of each effect is rough.
    # `check_laplace` draws data from the fit, where the truth is known, and estimates again.

    # %%
    bias = fit.check_laplace(simulations=40, random_seed=1, progressbar=False)
    print(bias)

    # %% [markdown]
    # Estimates are far too low where σ² is as large as this. So let the same model be sampled without the
    # approximation: NUTS over all effects, by `effects="sampled"`. Beside it is the posterior under the
    # approximation. Both have the default prior, σ ~ HalfNormal(2.7), which holds σ below where the data would let it
    # go: the estimate has none.

    # %%
    approximate = flmm.lmm_model(formula, anoles, **options)
    with approximate:
        laplace = flmm.sample(random_seed=2, progressbar=False)
    exact = flmm.lmm_model(formula, anoles, effects="sampled", **options)
    with exact:
        nuts = pm.sample(
            1000, chains=4, target_accept=0.95, random_seed=2, progressbar=False, quiet=True
        )
    sigma = {
        name: idata.posterior["sigma_species"].to_numpy().ravel()
        for name, idata in {"Laplace": laplace, "NUTS": nuts}.items()
    }
    for name, draws in sigma.items():
        low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975])
        share = np.median(draws**2 / (draws**2 + np.pi**2 / 3))
        print(
            f"{name:8} σ {middle:.1f}, 95 % from {low:.1f} to {high:.1f}; signal {share:.2f}"
        )
    assert np.median(sigma["NUTS"]) > np.median(sigma["Laplace"])

    # %% [markdown]
    # ## Probabilities over the tree
    #
    # Effects of inner nodes come with those of the tips: the probability that an ancestor lived on trunk and ground, or
    # that one of the 18 species does which are in no class. Where the approximation has too little variance it is less
    # certain than it could be; which species are likely and which are not is the same.

    # %%
    nodes = list(tree.labels)
    predicted = fit.predict(data=pd.DataFrame({"species": nodes}), scale="mean")
    approximated = pd.Series(np.asarray(predicted.mean), nodes)
    eta = (
        nuts.posterior["ground_beta"].to_numpy()
        + nuts.posterior["ground_species"].to_numpy()
    )
    probability = pd.Series(expit(eta).mean(axis=(0, 1)), nodes)
    both = pd.DataFrame({"NUTS": probability, "Laplace": approximated})
    print(both.loc[unclassified].sort_values("NUTS", ascending=False).head(5).round(2))
    print(f"rank correlation of all nodes: {both.corr('spearman').iloc[0, 1]:.3f}")

    # %%
    Q, time = tree.Q.tocsc(), pd.Series(tree.variances, nodes)
    parent = {}
    for i, name in enumerate(nodes):
        others = [nodes[j] for j in Q.indices[Q.indptr[i] : Q.indptr[i + 1]] if j != i]
        parent[name] = next((o for o in others if time[o] < time[name]), "root")
    height = {name: float(k) for k, name in enumerate(tree.tips)}
    inner = [name for name in time.sort_values(ascending=False).index if name not in height]
    for name in [*inner, "root"]:
        height[name] = np.mean([height[child] for child in nodes if parent[child] == name])
    time["root"] = 0.0
    at_root = float(expit(nuts.posterior["ground_beta"].to_numpy()).mean())
    probability["root"] = at_root
    print(f"the common ancestor of all: {at_root:.2f}")

    # %%
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(11, 7.5), layout="constrained", gridspec_kw={"width_ratios": [2, 1]}
    )
    lines, colours = [], []
    for name in nodes:
        above = parent[name]
        corner = (time[above], height[name])
        lines.append([(time[above], height[above]), corner, (time[name], height[name])])
        colours.append((probability[name] + probability[above]) / 2)
    branches = LineCollection(lines, array=np.array(colours), cmap="viridis_r", lw=1.8)
    branches.set_clim(0, 1)
    left.add_collection(branches)
    for name in tree.tips:
        known = name not in unclassified
        colour = branches.cmap(float(name in ground)) if known else "white"
        left.scatter(1.015, height[name], s=17, color=colour, ec="0.4", lw=0.5, zorder=3)
    for name in both.loc[unclassified, "NUTS"].nlargest(3).index:
        left.annotate(
            f"{name}: {probability[name]:.2f}",
            (1.03, height[name]),
            va="center",
            fontsize=8,
        )
    left.set(
        xlim=(-0.01, 1.25),
        ylim=(-1, len(tree.tips)),
        yticks=[],
        xticks=[0, 1],
        xticklabels=["root", "today"],
        title="Probability of living on trunk and ground",
    )
    left.spines[["top", "right", "left"]].set_visible(False)
    fig.colorbar(branches, ax=left, shrink=0.35, anchor=(0, 0.05), pad=0)
    grid = np.linspace(0, 14, 300)
    for (name, draws), colour in zip(sigma.items(), ("#d94801", "#08519c"), strict=True):
        density = gaussian_kde(draws)(grid)
        right.fill_between(grid, density, color=colour, alpha=0.25, lw=0)
        right.plot(grid, density, color=colour, label=f"posterior, {name}")
    estimate = np.sqrt(fit.theta.iloc[0])
    right.axvline(
        estimate, ymax=0.8, color="0.3", ls="--", lw=1.2, label="estimate (flat prior)"
    )
    right.set(
        xlabel="σ, log odds from root to tip",
        yticks=[],
        xlim=(0, 14),
        ylim=(0, None),
        title="Standard deviation along the tree",
    )
    right.legend(frameon=False, loc="upper right", fontsize=9)
    right.spines[["top", "right", "left"]].set_visible(False)
    fig.savefig(figures / "presence_over_a_tree.png", dpi=130)
    print(f"figure written to {figures}: presence_over_a_tree.png")

    # %% [markdown]
    # ![A tree whose branches are dark in a few clades of trunk-ground species and light elsewhere; two posterior
    # densities of σ, that of NUTS to the right of that of Laplace's approximation](presence_over_a_tree.png "Left:
    # probability of living on trunk and ground along the tree of anoles, by NUTS over all effects; filled circles are
    # what was seen, open ones species that are in no class. Right: posteriors of σ with and without Laplace's
    # approximation.")
