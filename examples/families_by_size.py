# %% [markdown]
# # One heritability, or four? Mixed models inside a PyMC model
#
# Are people of large families less alike than people of small ones? Galton's families are unrelated to each other, so
# that those of each size are data of their own, each with its kinship, its variance and its heritability,
#
# $$y_s \sim N(X_s\beta,\ \sigma_s^2 (K_s + \delta_s I)),\qquad
#   \mathrm{logit}\, h_s^2 \sim N(m, \tau^2),\qquad s = 1, \ldots, 4.$$
#
# The four share what they have in common: the effects of sex and generation, and a distribution of heritabilities,
# whose mean and spread are unknown. That is an ordinary PyMC model with four `FastLMM` nodes.

# %%
import sys
from pathlib import Path

import arviz_stats as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import pm_fastlmm as flmm

if __name__ == "__main__":  # chains run in processes, which import this file again
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %%
    people = flmm.datasets.galton_families()
    children = people["generation"].eq("child").groupby(people["family"]).transform("sum")
    sizes = pd.cut(
        children, [0, 4, 6, 8, 15], labels=["1 to 4", "5 or 6", "7 or 8", "9 to 15"]
    )
    designs = {}
    for size, some in people.groupby(sizes, observed=True):
        K = flmm.covariance.pedigree(some.index, some["father"], some["mother"])
        designs[size] = flmm.Design.from_formula("height ~ sex + generation", some, K=K)
        print(
            f"{size:>7} children: {some['family'].nunique():3} families, {len(some):3} people"
        )

    # %% [markdown]
    # ## Four separate fits

    # %%
    spectra = {size: design.spectrum() for size, design in designs.items()}
    alone = {
        size: flmm.exact_posterior(spectra[size], design.y)
        for size, design in designs.items()
    }
    for size, posterior in alone.items():
        low, high = posterior.interval("h2")
        print(
            f"{size:>7} children: h² {posterior.mean('h2'):.2f} ({low:.2f} to {high:.2f})"
        )

    # %% [markdown]
    # ## One model
    #
    # `beta=` makes the coefficients random variables that all nodes share. K was factored once for each node, so that
    # an evaluation of all four densities and their gradient still costs microseconds, and no covariance matrix is ever
    # factored while sampling.

    # %%
    with pm.Model(coords={"size": list(designs), "coef": designs["1 to 4"].coef}) as model:
        beta = pm.Normal("beta", [64, 0, 0], [10, 10, 10], dims="coef")
        m = pm.Normal("m", 0, 1.5)
        tau = pm.HalfNormal("tau", 0.5)
        offset = pm.Normal("offset", dims="size")
        h2 = pm.Deterministic("h2", pm.math.invlogit(m + tau * offset), dims="size")
        total = pm.LogNormal("total", np.log(6), 0.5, dims="size")
        for k, (size, design) in enumerate(designs.items()):
            name = f"height in families of {size}"
            flmm.FastLMM(
                name,
                h2=h2[k],
                total=total[k],
                beta=beta,
                spectrum=spectra[size],
                observed=design.y,
            )
        idata = pm.sample(random_seed=1886, progressbar=False, target_accept=0.95)
    print(
        az.summary(
            idata, var_names=["h2", "tau", "beta"], ci_prob=0.95, ci_kind="eti", round_to=3
        ).to_string()
    )
    assert int(idata.sample_stats["diverging"].sum()) == 0

    # %% [markdown]
    # ## Pooled, but not forced together
    #
    # Groups of few families say little on their own and borrow from the others. The spread τ is estimated rather than
    # assumed to be none.

    # %%
    figure, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
    pooled = (
        idata.posterior["h2"]
        .stack(sample=("chain", "draw"))
        .transpose("size", "sample")
        .to_numpy()
    )
    for k, posterior in enumerate(alone.values()):
        for place, interval, mean, colour, label in (
            (k + 0.12, posterior.interval("h2"), posterior.mean("h2"), "#bdbdbd", "alone"),
            (
                k - 0.12,
                np.quantile(pooled[k], [0.025, 0.975]),
                pooled[k].mean(),
                "#08519c",
                "in one model",
            ),
        ):
            ax.plot(interval, [place, place], color=colour, lw=3, solid_capstyle="round")
            ax.plot(mean, place, "o", color=colour, ms=8, label=label if k == 0 else None)
    common = idata.posterior["m"].to_numpy().ravel()
    ax.axvline(
        np.mean(1 / (1 + np.exp(-common))),
        color="#d94801",
        ls="--",
        lw=1,
        label="mean of all",
    )
    ax.set(
        yticks=range(4),
        yticklabels=list(designs),
        xlabel="heritability of height",
        ylabel="children in the family",
    )
    ax.set_title("Posterior means and 95 % intervals")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(figures / "families_by_size.png", dpi=130)
    print(f"figure written to {figures}: families_by_size.png")

    # %% [markdown]
    # ![Four pairs of intervals of h² by the size of the family; those of one model are shorter and closer to the mean
    # of all](families_by_size.png "Heritability of height by the number of children: each group alone, and all in one
    # model in which the groups inform each other.")
