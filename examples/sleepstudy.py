# %% [markdown]
# # How much does lost sleep slow people down?
#
# Eighteen people slept three hours a night; their reaction time was measured on ten days (Belenky and others 2003; the
# first two days are practice). Each has an intercept and a slope of their own, which may be correlated:
#
# $$y_{ij} = \beta_0 + \beta_1 t_j + u_{0i} + u_{1i} t_j + e_{ij},\qquad (u_{0i}, u_{1i}) \sim N(0, \Sigma).$$

# %%
import sys
import warnings
from pathlib import Path

import arviz_plots as azp
import arviz_stats as az
import matplotlib.pyplot as plt
import numpy as np

import pm_fastlmm as flmm

if __name__ == "__main__":  # chains run in processes, which import this file again
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %%
    sleep = flmm.datasets.sleepstudy()

    # %% [markdown]
    # ## Restricted maximum likelihood
    #
    # lme4 prints variances 612.10 and 35.07, correlation 0.07, residual 654.94 and REML criterion 1743.6, which is
    # -2 times the log-likelihood.

    # %%
    fit = flmm.find_reml("Reaction ~ Days + (Days | Subject)", sleep, progressbar=False)
    print(fit)
    intercept, covariance, slope = fit.theta.iloc[:3]
    print(
        f"correlation {covariance / np.sqrt(intercept * slope):.3f},"
        f" REML criterion {-2 * fit.loglik:.4f}",
        end="\n\n",
    )

    # %% [markdown]
    # ## The posterior

    # %%
    model = fit.model
    with model:
        idata = flmm.sample(random_seed=2003, progressbar=False)
    idata = flmm.recover_effects(idata, model=model, random_seed=2003)
    names = ["sigma_Subject", "corr_Subject", "sigma_e", "Reaction_beta"]
    print("\nposterior, 95 % equal-tailed intervals")
    print(
        az.summary(
            idata, var_names=names, ci_prob=0.95, ci_kind="eti", round_to=3
        ).to_string(),
        end="\n\n",
    )

    # %% [markdown]
    # ## Partial pooling
    #
    # A line fitted to one person alone follows ten points. The posterior mean draws it towards the line of all, the
    # more the less these points say.

    # %%
    beta = idata.posterior["Reaction_beta"].mean(("chain", "draw")).to_numpy()
    effects = idata.posterior["Reaction_Subject"]
    days = np.arange(10)
    # (chain, draw, subject, 2)
    lines = idata.posterior["Reaction_beta"].to_numpy()[:, :, None] + effects.to_numpy()
    figure, axes = plt.subplots(
        3, 6, figsize=(11, 6), sharex=True, sharey=True, layout="constrained"
    )
    for k, (ax, (subject, own)) in enumerate(
        zip(axes.flat, sleep.groupby("Subject"), strict=True)
    ):
        drawn = lines[:, :, k, :1] + lines[:, :, k, 1:] * days
        low, high = np.quantile(drawn.reshape(-1, days.size), [0.025, 0.975], axis=0)
        ax.plot(own["Days"], own["Reaction"], ".", color="0.3")
        ax.plot(
            days,
            np.polyval(np.polyfit(own["Days"], own["Reaction"], 1), days),
            ":",
            color="C1",
            label="alone",
        )
        ax.plot(days, beta[0] + beta[1] * days, "--", color="0.6", lw=1, label="all")
        ax.plot(days, drawn.mean((0, 1)), color="C0", label="partially pooled")
        ax.fill_between(days, low, high, color="C0", alpha=0.2, lw=0)
        ax.set_title(subject, fontsize=9)
    figure.supxlabel("days")
    figure.supylabel("reaction time, ms")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=3,
        frameon=False,
    )
    figure.savefig(figures / "sleepstudy_pooling.png", dpi=150)
    print(f"figure written to {figures}: sleepstudy_pooling.png")

    # %% [markdown]
    # ![18 panels, a person each: ten points, and lines that are dotted for the person alone and solid with a band for
    # partial pooling](sleepstudy_pooling.png "Reaction times of 18 people over ten days: each person's own line, that
    # of all, and the partially pooled one with its 95 % interval.")
    #
    # ## Does the model predict what it has not seen?
    #
    # Observations of one person are dependent, so that leaving one out needs its density given all the others,
    # $p(y_i \mid y_{-i}, \theta)$, with β and the effects integrated out: exact at each draw. Leaving out a day of a
    # person asks about people that are known, leaving out a person about others; k > 0.7 counts what importance weights
    # do not settle.

    # %%
    subject = sleep["Subject"].to_numpy()
    simple = flmm.lmm_model("Reaction ~ Days + (1 | Subject)", sleep)
    with simple:
        idata_simple = flmm.sample(random_seed=2003, progressbar=False)
    both = {"slopes": (model, idata), "intercepts": (simple, idata_simple)}
    for own, tree in both.values():
        flmm.pointwise_log_likelihood(tree, model=own, progressbar=False)
        flmm.pointwise_log_likelihood(tree, groups=subject, model=own, progressbar=False)
    for what, name in (
        ("a day of a person", "Reaction"),
        ("a person", "Reaction_by_group"),
    ):
        print(f"\nleaving out {what}")
        # of k > 0.7, which are counted below
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            table = az.compare(
                {key: tree for key, (_, tree) in both.items()},
                var_name=name,
                round_to="none",
            )
            k = {
                key: az.loo(tree, var_name=name, pointwise=True).pareto_k
                for key, (_, tree) in both.items()
            }
        table["k > 0.7"] = [int((k[key] > 0.7).sum()) for key in table.index]
        print(table[["elpd", "p", "elpd_diff", "dse", "k > 0.7"]].round(1).to_string())

    # %% [markdown]
    # ## Are its predictions as wide as they should be?
    #
    # The probability integral transform of each observation given the others is uniform if they are. Here it lies too
    # often in the middle, and at both ends: a few jumps of two people, which no normal distribution expects, make σ_e
    # so large that the predictions of all others are too wide.

    # %%
    flmm.predict(idata, effects="left_out", model=model, random_seed=2003)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        pit = azp.plot_loo_pit(idata, var_names="Reaction", backend="matplotlib")
    pit.savefig(figures / "sleepstudy_loo_pit.png", dpi=150)
    flmm.predict(idata, effects="new", model=model, random_seed=2003)
    replicates = azp.plot_ppc_dist(
        idata, var_names="Reaction", num_samples=50, backend="matplotlib"
    )
    replicates.savefig(figures / "sleepstudy_replicates.png", dpi=150)
    print("\nthe observations that the others expect least")
    print(
        fit.loo()
        .nsmallest(4, "log_density")
        .round(3)
        .join(sleep[["Subject", "Days"]])
        .to_string()
    )
    print(
        f"figures written to {figures}: sleepstudy_loo_pit.png, sleepstudy_replicates.png"
    )

    # %% [markdown]
    # ![A line that falls to −0.1 at 0.25 and rises to 0.07 at 0.8](sleepstudy_loo_pit.png "The probability integral
    # transform of each observation given the others, less the uniform distribution that it has where predictions are
    # as wide as they should be.")
    #
    # ![Fifty blue densities of replicated data around a black density of the data, with its peak near 280
    # ms](sleepstudy_replicates.png "Reaction times in ms: the data (black), and fifty data sets that the model
    # predicts for new people.")
