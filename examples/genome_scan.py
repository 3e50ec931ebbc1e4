# %% [markdown]
# # A genome-wide association study, end to end
#
# Two tables: who was measured, with sex and age; and who carries how many copies of an allele. The people are
# related, so a marker is tested with their kinship in the model,
#
# $$y \sim N(X\beta + g\alpha,\ \sigma^2(K + \delta I)),$$
#
# and the kinship leaves out the chromosome of the marker, whose effect it would take otherwise. The data are
# simulated: 600 people in 150 families, five chromosomes, a trait that 100 markers influence a little and one a lot.

# %%
import sys
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import pm_fastlmm as flmm

CHROMOSOMES, MARKERS = 5, 600
figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
figures.mkdir(exist_ok=True)
plt.switch_backend("Agg")


def write_cohort(folder, rng):
    """150 couples with four children; chromosomes are pieces of twenty ancestral ones."""
    at = np.arange(CHROMOSOMES * MARKERS)
    ancestral = rng.random((20, at.size)) < rng.uniform(0.1, 0.6, size=at.size)
    piece = np.where(
        rng.random((300, 2, at.size)) < 1 / 60, at, 0
    )  # where a new one begins
    ancestor = rng.integers(20, size=piece.shape)
    ancestor = np.take_along_axis(ancestor, np.maximum.accumulate(piece, axis=-1), axis=-1)
    parents = ancestral[ancestor, at]
    start = rng.random((600, 2, at.size)) < 1 / 200  # a crossing-over
    start[..., ::MARKERS] = rng.random((600, 2, CHROMOSOMES)) < 0.5
    strand = np.cumsum(start, axis=-1) % 2
    couple = np.repeat(np.arange(150), 4)
    genotypes = sum(parents[2 * couple[:, None] + p, strand[:, p], at] for p in (0, 1))
    names = [f"rs{j}" for j in range(at.size)]
    effects = np.zeros(at.size)
    effects[rng.choice(at.size, 100, replace=False)] = 0.25
    effects[1000] = 1.0
    people = pd.DataFrame(
        {"sex": rng.choice(["f", "m"], 600), "age": rng.integers(20, 70, 600)}
    )
    people["height"] = (
        170 + 9 * (people["sex"] == "m") + genotypes @ effects + 2.0 * rng.normal(size=600)
    ).round(1)
    people.index = pd.Index([f"P{k:03d}" for k in range(600)], name="person")
    table = pd.DataFrame(genotypes.astype(float), people.index, names)
    table = table.mask(rng.random(table.shape) < 0.01)  # some genotypes are missing
    people.sample(frac=0.95, random_state=1).to_csv(folder / "people.csv")
    table.sample(frac=1.0, random_state=2).to_csv(
        folder / "genotypes.csv", float_format="%g"
    )
    pd.DataFrame(
        {
            "chromosome": np.repeat(np.arange(1, CHROMOSOMES + 1), MARKERS),
            "position": np.tile(np.arange(MARKERS) * 1e5, CHROMOSOMES),
        },
        index=names,
    ).to_csv(folder / "map.csv")


folder = Path(mkdtemp())
write_cohort(folder, np.random.default_rng(600))

# %% [markdown]
# ## Three files
#
# People and genotypes come in different orders, and some people were genotyped but not measured. Tables with ids
# are matched by them.

# %%
people = pd.read_csv(folder / "people.csv", index_col="person")
genotypes = pd.read_csv(folder / "genotypes.csv", index_col="person")
places = pd.read_csv(folder / "map.csv", index_col=0)
genotypes = genotypes.loc[people.index]
print(
    f"{len(people)} people, {genotypes.shape[1]} markers,"
    f" {genotypes.isna().mean().mean():.1%} of the genotypes missing"
)

# %% [markdown]
# ## Markers worth testing
#
# A marker that few carry, or that few were read at, says little.

# %%
frequency = genotypes.mean() / 2
rare = np.minimum(frequency, 1 - frequency) < 0.05
unread = genotypes.isna().mean() > 0.05
genotypes, places = genotypes.loc[:, ~(rare | unread)], places[~(rare | unread)]
print(f"left out: {rare.sum()} rare, {unread.sum()} hardly read; {len(places)} remain")

# %% [markdown]
# ## How much do all markers explain together?

# %%
K = flmm.covariance.markers(genotypes)
design = flmm.Design.from_formula("height ~ sex + age", people, K=K)
fit = flmm.reml(design.spectrum(), design.y)
print(fit)
low, high = fit.interval("h2", "inversion")
print(f"h² {fit.h2:.2f} ({low:.2f} to {high:.2f})")

# %% [markdown]
# ## The scan
#
# One spectrum for each chromosome, of the markers of all others. δ is estimated anew with each marker, as GEMMA does;
# `delta="null"` keeps it, as EMMAX does. What happens without kinship is shown by
# [marker heritability](marker_heritability.md).

# %%
chromosome = places["chromosome"].to_numpy()
spectra = {}
for c in np.unique(chromosome):
    others = flmm.covariance.markers(genotypes.loc[:, chromosome != c])
    spectra[c] = flmm.Design.from_formula("height ~ sex + age", people, K=others).spectrum()
scan = flmm.scan(spectra, design.y, genotypes, groups=chromosome, progressbar=False)
print(f"inflation of the statistics, λ = {flmm.genomic_inflation(scan):.2f}")

# %%
table = scan[["beta", "se", "p_value", "h2"]].to_dataframe().join(places)
threshold = 0.05 / len(table)
hits = table[table["p_value"] < threshold].sort_values("p_value")
print(hits.to_string(float_format="{:.3g}".format))
assert hits.index[0] == "rs1000"

# %% [markdown]
# Markers near a cause are inherited with it, and pass the threshold too: a peak is one finding. λ is above 1 although
# kinship is in the model, since a hundred markers have effects, and each is seen through its neighbours.

# %% [markdown]
# ## Figures

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), width_ratios=[2, 1], layout="constrained"
)
flmm.plots.plot_manhattan(scan, chromosome=chromosome, position=places["position"], ax=left)
flmm.plots.plot_scan_qq(scan, ax=right)
figure.savefig(figures / "genome_scan.png", dpi=130)

# %% [markdown]
# ![Left, a Manhattan plot of five chromosomes with one peak on the second; right, observed against expected p-values,
# above the diagonal at their small end](genome_scan.png "Left: a marker of chromosome 2, and two that are inherited
# with it, pass Bonferroni's threshold. Right: the small p-values are smaller than chance gives, as befits a trait of
# many causes.")
#
# ## With genotypes that do not fit in memory
#
# `scan` takes an iterable of blocks of markers, and `KernelStatistics` forms K from blocks: see
# [large data](../large_data.md). Hundreds of traits share the spectrum:
# [many responses](../many_responses.md).
