"""A PyMC modeller with a tree: does body mass follow the phylogeny, and does brain mass follow body mass?"""

from pathlib import Path

import arviz_stats as az
import pandas as pd
import pymc as pm

import pm_fastlmm as flmm

species = pd.read_csv("species.csv", index_col="species")
K = flmm.covariance.phylogeny(Path("tree.nwk").read_text(), scale="mean_diagonal")
design = flmm.Design.from_formula("log_brain ~ log_body", species, K=K)
with pm.Model() as model:
    h2 = pm.Beta("h2", 1, 1)
    total = pm.HalfNormal("total", 1)
    slope = pm.Normal("slope", 0.75, 0.5)
    intercept = pm.Normal("intercept", 0, 5)
    beta = pm.math.stack([intercept, slope])
    flmm.FastLMM("log_brain", h2=h2, total=total, beta=beta, spectrum=design.spectrum(), observed=design.y)
    idata = flmm.sample(500, chains=2, random_seed=1, progressbar=False, quiet=True)
summary = az.summary(idata, var_names=["slope", "h2"])
figure = flmm.plots.plot_h2_posterior(idata).figure
figure.savefig("signal.png")
