# %% [markdown]
# # How much does lost sleep slow people down?
#
# Eighteen people slept three hours a night; their reaction time was measured on ten days (Belenky and others 2003; the
# first two days are practice). Each has an intercept and a slope of their own, which may be correlated:
#
# $$y_{ij} = \beta_0 + \beta_1 t_j + u_{0i} + u_{1i} t_j + e_{ij},\qquad (u_{0i}, u_{1i}) \sim N(0, \Sigma).$$

# %%
import sys
from pathlib import Path

import arviz_stats as az
import matplotlib.pyplot as plt
import numpy as np

import pm_fastlmm as flmm

if __name__ == "__main__":  # NUTS runs its chains in processes, which import this file again
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %%
    sleep = flmm.datasets.sleepstudy()
    model = flmm.lmm_model("Reaction ~ Days + (Days | Subject)", sleep)

    # %% [markdown]
    # ## Restricted maximum likelihood
    #
    # lme4 prints variances 612.10 and 35.07, correlation 0.07, residual 654.94 and REML criterion 1743.6, which is
    # -2 times the log-likelihood.

    # %%
    fit = flmm.find_reml(model, progressbar=False)
    print(fit)
    intercept, covariance, slope = fit.theta.iloc[:3]
    print(
        f"correlation {covariance / np.sqrt(intercept * slope):.3f}, REML criterion {-2 * fit.loglik:.4f}", end="\n\n"
    )

    # %% [markdown]
    # ## The posterior

    # %%
    with model:
        idata = flmm.sample(random_seed=2003, progressbar=False)
    idata = flmm.recover_effects(idata, model=model, random_seed=2003)
    names = ["sigma_Subject", "corr_Subject", "sigma_e", "Reaction_beta"]
    print("\nposterior, 95 % equal-tailed intervals")
    print(az.summary(idata, var_names=names, ci_prob=0.95, ci_kind="eti", round_to=3).to_string(), end="\n\n")

    # %% [markdown]
    # ## Partial pooling
    #
    # A line fitted to one person alone follows ten points. The posterior mean draws it towards the line of all, the
    # more the less these points say.

    # %%
    beta = idata.posterior["Reaction_beta"].mean(("chain", "draw")).to_numpy()
    effects = idata.posterior["Reaction_Subject"]
    days = np.arange(10)
    lines = idata.posterior["Reaction_beta"].to_numpy()[:, :, None] + effects.to_numpy()  # (chain, draw, subject, 2)
    figure, axes = plt.subplots(3, 6, figsize=(11, 6), sharex=True, sharey=True, layout="constrained")
    for k, (ax, (subject, own)) in enumerate(zip(axes.flat, sleep.groupby("Subject"), strict=True)):
        drawn = lines[:, :, k, :1] + lines[:, :, k, 1:] * days
        low, high = np.quantile(drawn.reshape(-1, days.size), [0.025, 0.975], axis=0)
        ax.plot(own["Days"], own["Reaction"], ".", color="0.3")
        ax.plot(days, np.polyval(np.polyfit(own["Days"], own["Reaction"], 1), days), ":", color="C1", label="alone")
        ax.plot(days, beta[0] + beta[1] * days, "--", color="0.6", lw=1, label="all")
        ax.plot(days, drawn.mean((0, 1)), color="C0", label="partially pooled")
        ax.fill_between(days, low, high, color="C0", alpha=0.2, lw=0)
        ax.set_title(subject, fontsize=9)
    figure.supxlabel("days")
    figure.supylabel("reaction time, ms")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    figure.savefig(figures / "sleepstudy_pooling.png", dpi=150)
    print(f"figure written to {figures}: sleepstudy_pooling.png")
