# %% [markdown]
# # Do the batches differ, and by how much?
#
# Six batches of an intermediate product, five samples of dyestuff from each (Davies and Goldsmith 1972). Six batches
# are few: the chi-squared limits of likelihood ratios are not good enough, and the exact distributions cost little.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

import pm_fastlmm as flmm

if __name__ == "__main__":
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %%
    data = flmm.datasets.dyestuff()
    batch = pd.get_dummies(data["Batch"]).astype(float)
    spectrum = flmm.Spectrum.from_factor(batch, np.ones((len(data), 1)))
    fit = flmm.reml(spectrum, data["Yield"])

    # %% [markdown]
    # ## Is there a variance between batches at all?
    #
    # The restricted likelihood ratio, compared with its distribution for these six batches of five. The design is
    # balanced, so that the F test of the analysis of variance is exact too, and equivalent: the p-values agree.

    # %%
    test = fit.test_no_variance(n_sim=50_000, random_seed=1)
    print(test)
    means = data.groupby("Batch")["Yield"].mean()
    between = 5 * means.var()
    within = data.groupby("Batch")["Yield"].var().mean()
    F = between / within
    print(
        f"F = {F:.3f} on 5 and 24 degrees of freedom, p = {f_distribution.sf(F, 5, 24):.5f}",
        end="\n\n",
    )

    # %% [markdown]
    # ## How large is its share?
    #
    # The profile-likelihood interval takes the chi-squared quantile at every h²; the inverted test takes the quantile
    # that belongs to each h², and covers at its level at 0 as well.

    # %%
    for method in ("profile", "inversion", "bootstrap", "delta"):
        print(
            method,
            fit.intervals(method, quantities=["h2"], random_seed=1).round(3),
            sep="\n",
            end="\n\n",
        )
    ax = flmm.plots.plot_h2_intervals(fit, random_seed=1)
    ax.figure.savefig(figures / "h2_intervals.png", dpi=120)

    # %% [markdown]
    # ![A curve with its minimum at 0.418 that crosses two thresholds, above four bars of intervals](h2_intervals.png
    # "Intervals of h² of the dyestuff data. The curve is twice the fall of the log-likelihood; the inversion has the
    # values where it is below the exact threshold, the profile those where it is below that of χ².")
    #
    # ## Fixed effects
    #
    # Their degrees of freedom are those of the batches, not of the samples.

    # %%
    print(fit.coefficients("kenward-roger").round(3))
