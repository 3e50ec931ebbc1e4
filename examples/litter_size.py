# %% [markdown]
# # How heritable is litter size?
#
# Sows of a simulated nucleus herd farrow one to five times. The number of piglets born is a count,
#
# $$y_i \sim \text{Poisson}(\exp \eta_i),\qquad
# \eta_i = \mu + \text{parity}_i + u_{\text{sow}(i)} + p_{\text{sow}(i)},$$
#
# with breeding values $u \sim N(0, \sigma_u^2 A)$ over the whole pedigree and permanent environments
# $p \sim N(0, \sigma_p^2)$ of the sows that farrowed. The relationship matrix A is never formed.

# %%
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import pm_fastlmm as flmm

if __name__ == "__main__":
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %% [markdown]
    # ## A herd
    #
    # Five generations of 200 animals, each from 8 boars and 60 sows of the one before. Breeding values are a draw of
    # the same variable that the model has.

    # %%
    rng = np.random.default_rng(7)
    size, generations = 200, 5
    sire, dam = np.full((2, generations * size), -1)
    for g in range(1, generations):
        before = np.arange((g - 1) * size, g * size)
        boars = rng.choice(before[::2], size=8, replace=False)
        mothers = rng.choice(before[1::2], size=60, replace=False)
        sire[g * size : (g + 1) * size] = rng.choice(boars, size=size)
        dam[g * size : (g + 1) * size] = rng.choice(mothers, size=size)
    herd = flmm.covariance.Pedigree(np.arange(len(sire)), sire, dam, unknown=[-1])
    sigma_u, sigma_p = 0.20, 0.10
    with pm.Model():
        breeding = flmm.RelatedEffects("u", herd, sigma=sigma_u)
        true = pm.draw(breeding, random_seed=8)
    sows = np.arange(1, len(sire), 2)
    litters = pd.DataFrame({"sow": np.repeat(sows, rng.integers(1, 6, size=len(sows)))})
    litters["parity"] = litters.groupby("sow").cumcount() + 1
    environment = rng.normal(0, sigma_p, size=len(sire))
    log_mean = 2.3 + 0.1 * (litters["parity"] > 1) + (true + environment)[litters["sow"]]
    litters["born"] = rng.poisson(np.exp(log_mean))
    print(herd)
    print(f"{len(litters)} litters of {len(sows)} sows, {litters['born'].mean():.1f} born")

    # %% [markdown]
    # ## The model
    #
    # The sampler walks in white noise, from which the pedigree makes breeding values, parents first.

    # %%
    with pm.Model() as model:
        deviation = pm.HalfNormal("sigma_u", 0.5)
        u = flmm.RelatedEffects("u", herd, sigma=deviation, dims="animal")
        lasting = pm.HalfNormal("sigma_p", 0.5)
        p = flmm.RelatedEffects("p", litters["sow"], sigma=lasting, dims="sow")
        eta = pm.Normal("mu", 2, 1) + pm.Normal("later", 0, 1) * (litters["parity"] > 1)
        eta += u[flmm.covariance.places(herd, litters["sow"])]
        eta += p[flmm.covariance.places(litters["sow"], litters["sow"])]
        pm.Poisson("born", pm.math.exp(eta), observed=litters["born"])
        idata = pm.sample(500, chains=2, random_seed=9, progressbar=False, quiet=True)

    # %% [markdown]
    # ## What comes back
    #
    # The variances, and the breeding value of every animal: of sows, and of boars that never have a litter but have
    # daughters that do.

    # %%
    posterior = idata.posterior
    for name, value in {"sigma_u": sigma_u, "sigma_p": sigma_p}.items():
        low, high = posterior[name].quantile([0.05, 0.95], ("chain", "draw")).values
        print(
            f"{name}: {float(posterior[name].mean()):.3f}, 90 % from {low:.3f} to {high:.3f}; {value} simulated"
        )
    mean = posterior["u"].mean(("chain", "draw")).to_numpy()
    fathers = np.unique(sire[sire >= 0])
    for name, some in {"sows": sows, "boars with daughters": fathers}.items():
        print(f"accuracy of {name}: {np.corrcoef(mean[some], true[some])[0, 1]:.2f}")
    assert np.corrcoef(mean[fathers], true[fathers])[0, 1] > 0.7

    # %%
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    axes[0].scatter(
        true[sows], mean[sows], s=9, alpha=0.6, color="#4477aa", lw=0, label="sows"
    )
    axes[0].scatter(
        true[fathers],
        mean[fathers],
        s=28,
        color="#cc6677",
        lw=0,
        label="boars with daughters",
    )
    ends = [-0.7, 0.7]
    axes[0].plot(ends, ends, color="0.5", lw=0.8)
    axes[0].set(
        xlabel="simulated breeding value (log piglets)",
        ylabel="posterior mean",
        xlim=ends,
        ylim=ends,
    )
    axes[0].legend(frameon=False, loc="upper left")
    for name, color, value, label in (
        ("sigma_u", "#4477aa", sigma_u, "σ of breeding values"),
        ("sigma_p", "#ddaa33", sigma_p, "σ of permanent environments"),
    ):
        axes[1].hist(
            posterior[name].to_numpy().ravel(),
            bins=25,
            density=True,
            color=color,
            alpha=0.7,
            label=label,
        )
        axes[1].axvline(value, color=color, lw=1.5, ls="--")
    axes[1].set(
        xlabel="standard deviation",
        ylabel="posterior density",
        xlim=(0, None),
        ylim=(0, 22),
    )
    axes[1].legend(framealpha=1, edgecolor="none", loc="upper right")
    fig.savefig(figures / "litter_size.png", dpi=150)
    print(f"figure written to {figures}: litter_size.png")

    # %% [markdown]
    # ![Posterior means of breeding values against simulated ones, along the diagonal and closer to 0; two posterior
    # densities, each around its dashed line](litter_size.png "Left: posterior means of breeding values beside those
    # that were simulated. Right: posteriors of the two standard deviations; dashed, what was simulated.")
