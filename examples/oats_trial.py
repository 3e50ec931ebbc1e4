# %% [markdown]
# # Which oats yield most?
#
# 24 varieties of oats were grown in three replicates of six blocks of four plots (John and Williams 1995). It is an
# alpha design: a block holds only some of the varieties, so that varieties and blocks must be told apart. Both are
# random, replicates are fixed,
#
# $$y = X\beta + Z_1 u_\mathrm{gen} + Z_2 u_\mathrm{rep:block} + e,\qquad
#   u_\mathrm{gen} \sim N(0, \sigma^2_\mathrm{gen} I),\ \ldots$$

# %%
import sys
from pathlib import Path

import arviz_stats as az
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import rankdata

import pm_fastlmm as flmm

if __name__ == "__main__":  # chains run in processes, which import this file again
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %% [markdown]
    # ## A point estimate: restricted maximum likelihood
    #
    # The formula is lme4's.

    # %%
    oats = flmm.datasets.john_alpha()
    fit = flmm.find_reml(
        "yield ~ rep + (1 | gen) + (1 | rep:block)", oats, progressbar=False
    )
    print(fit, end="\n\n")

    # %% [markdown]
    # ## The posterior, and the shares of the variance
    #
    # `fit.model` is the PyMC model of the formula, with documented default priors.

    # %%
    trial = fit.model
    with trial:
        idata = flmm.sample(random_seed=1995, progressbar=False)
    idata = flmm.recover_effects(idata, model=trial, random_seed=1995)
    names = ["sigma_gen", "sigma_rep:block", "sigma_e", "yield_share"]
    print("\nposterior, 95 % equal-tailed intervals")
    print(
        az.summary(
            idata, var_names=names, ci_prob=0.95, ci_kind="eti", round_to=3
        ).to_string(),
        end="\n\n",
    )

    # %% [markdown]
    # ## The varieties, ranked
    #
    # The effects are exact draws, one for each draw of the variances. A rank is as uncertain as they are: the last
    # column is the probability of being among the best five.

    # %%
    effect = (
        idata.posterior["yield_gen"]
        .stack(sample=("chain", "draw"))
        .transpose("gen", "sample")
    )
    best = (rankdata(effect, axis=0) > effect.sizes["gen"] - 5).mean(axis=1)
    low, high = np.quantile(effect, [0.025, 0.975], axis=1)
    order = np.argsort(effect.mean("sample").to_numpy())[::-1]
    print("variety  effect  (95 % interval)   among the best five")
    for i in order:
        mean = float(effect[i].mean())
        print(
            f"{effect['gen'].values[i]:7}  {mean:+.2f}"
            f"  ({low[i]:+.2f} to {high[i]:+.2f})   {best[i]:.0%}"
        )

    # %%
    figure, ax = plt.subplots(figsize=(6, 6.5), layout="constrained")
    place = np.arange(len(order))[::-1]
    middle = effect.mean("sample").to_numpy()[order]
    ax.hlines(place, low[order], high[order], color="C0", alpha=0.6)
    ax.plot(middle, place, "o", color="C0", label="posterior mean, 95 % interval")
    # without blocks and shrinkage: each variety has one plot in each replicate
    raw = oats.groupby("gen")["yield"].mean() - oats["yield"].mean()
    ax.plot(
        raw.loc[effect["gen"].values[order]],
        place,
        "|",
        color="0.3",
        ms=10,
        label="mean of its plots",
    )
    ax.axvline(0, color="0.8", lw=1, zorder=0)
    ax.set(
        yticks=place,
        yticklabels=effect["gen"].values[order],
        xlabel="effect on yield, t/ha",
        title="Varieties of oats",
    )
    ax.legend(loc="lower right", frameon=False)
    figure.savefig(figures / "oats_varieties.png", dpi=150)
    print(f"\nfigure written to {figures}: oats_varieties.png")

    # %% [markdown]
    # ![24 varieties in the order of their effects, from −0.8 to 0.5 t/ha, with intervals; the means of their plots
    # lie further out](oats_varieties.png "Effects of 24 varieties of oats on yield: the posterior means are drawn
    # towards zero from the means of the plots.")
