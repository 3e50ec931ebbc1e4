# %% [markdown]
# # Which oats yield most?
#
# 24 varieties of oats were grown in three replicates of six blocks of four plots (John and Williams 1995): an alpha
# design, in which a block holds only some of the varieties. Varieties and blocks within replicates are random,
#
# $$y = X\beta + Z_\text{gen} u_\text{gen} + Z_\text{block} u_\text{block} + e,$$
#
# with normal effects and replicates as fixed effects.

# %%
import sys
from pathlib import Path

import arviz_stats as az
import matplotlib
import numpy as np

import pm_fastlmm as flmm

if __name__ == "__main__":  # NUTS runs its chains in processes, which import this file again
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %% [markdown]
    # The formula is lme4's. The result is a PyMC model with documented default priors, and the only description of the
    # model: REML, NUTS and the effects all start from it.

    # %%
    oats = flmm.datasets.john_alpha()
    trial = flmm.lmm_model("yield ~ rep + (1 | gen) + (1 | rep:block)", oats)

    # %% [markdown]
    # ## A point estimate: restricted maximum likelihood

    # %%
    fit = flmm.find_reml(trial)
    print(fit, end="\n\n")

    # %% [markdown]
    # ## The posterior, and the shares of the variance

    # %%
    with trial:
        idata = flmm.sample(random_seed=1995)
    idata = flmm.recover_effects(idata, model=trial, random_seed=1995)
    posterior = idata.posterior
