# %% [markdown]
# # A genome-wide association study, from files to figures
#
# Genotypes in a PLINK file, phenotypes in a text file. The people are related, so a variant is tested with their
# kinship in the model,
#
# $$y \sim N(X\beta + g\alpha,\ \sigma^2(K + \delta I)),$$
#
# and the kinship leaves out the chromosome of the variant, whose effect it would take otherwise. The files are
# simulated: 600 people in 150 families, five chromosomes, a trait that 100 variants influence a little and one a lot.

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
    effects = np.zeros(at.size)
    effects[rng.choice(at.size, 100, replace=False)] = 0.25
    effects[1000] = 1.0
    sex, age = rng.integers(1, 3, 600), rng.integers(20, 70, 600)
    height = 170 + 9 * (sex == 1) + genotypes @ effects + 2.0 * rng.normal(size=600)
    people = [f"{k + 1:04d}" for k in range(600)]
    seen = np.where(rng.random(genotypes.shape) < 0.01, np.nan, genotypes)
    variants = pd.DataFrame(
        {
            "chromosome": np.repeat(np.arange(1, CHROMOSOMES + 1), MARKERS),
            "position": np.tile(np.arange(MARKERS) * 100_000, CHROMOSOMES),
            "counted": "G",
            "other": "A",
        },
        index=[f"rs{j}" for j in at],
    )
    flmm.io.write_bed(
        flmm.io.label_genotypes(seen, people, variants), folder / "cohort.bed"
    )
    table = pd.DataFrame({"IID": people, "sex": sex, "age": age, "height": height.round(1)})
    table.loc[::40, "height"] = -9
    table.sample(frac=0.95, random_state=1).to_csv(
        folder / "height.txt", sep="\t", index=False
    )


folder = Path(mkdtemp())
write_cohort(folder, np.random.default_rng(600))

# %% [markdown]
# ## Four files
#
# `cohort.bed` with its `.bim` and `.fam`, and a table of phenotypes: people are in another order there, some are
# missing, and -9 stands for a height that is not known.

# %%
print((folder / "height.txt").read_text()[:60])
bed = flmm.io.read_bed(folder / "cohort.bed")
table = flmm.io.read_table(folder / "height.txt", text=["sex"])
print(bed)
print(f"{len(table)} people in the table; missing: {table.attrs['missing']}")

# %% [markdown]
# ## Variants worth testing
#
# A variant that few carry, or that few were read at, says little.

# %%
seen = bed.summary()
bed = bed.select(variants=(seen["maf"] >= 0.05) & (seen["missing"] <= 0.05))
print(f"{bed.shape[1]} of {len(seen)} variants remain")

# %% [markdown]
# ## How much do all variants explain together?

# %%
K = flmm.covariance.markers(bed)
table = table.dropna()
fit = flmm.find_reml(
    "height ~ sex + age + (1 | id)", table.reset_index(), known={"id": K}, progressbar=False
)
print(fit)
print(fit.function(lambda v: v["id"] / (v["id"] + v["residual"])))

# %% [markdown]
# ## The scan
#
# One call: people are matched by id, and each chromosome is tested beside the kinship of the others, all of which are
# made in one pass over the file. δ is estimated anew with each variant, as GEMMA does; `delta="null"` keeps it, as
# EMMAX does. What happens without kinship is shown by [marker heritability](marker_heritability.md).

# %%
scan = flmm.genome_scan("height ~ sex + age", table, bed, K="loco", progressbar=False)
print(f"inflation of the statistics, λ = {flmm.genomic_inflation(scan):.2f}")

# %%
found = scan.to_dataframe()
threshold = 0.05 / len(found)
columns = [
    "chromosome",
    "position",
    "counted",
    "other",
    "frequency",
    "beta",
    "se",
    "p_value",
]
hits = found.loc[found["p_value"] < threshold, columns].sort_values("p_value")
print(hits.to_string(float_format="{:.3g}".format))
assert hits.index[0] == "rs1000"

# %% [markdown]
# `beta` is the effect of one more copy of the counted allele. Variants near a cause are inherited with it, and pass the
# threshold too: a peak is one finding. λ is above 1 although kinship is in the model, since a hundred variants have
# effects, and each is seen through its neighbours.

# %% [markdown]
# ## Figures

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), width_ratios=[2, 1], layout="constrained"
)
flmm.plots.plot_manhattan(scan, ax=left)
flmm.plots.plot_scan_qq(scan, ax=right)
figure.savefig(figures / "genome_scan.png", dpi=130)

# %% [markdown]
# ![Left, a Manhattan plot of five chromosomes with one peak on the second; right, observed against expected p-values,
# above the diagonal at their small end](genome_scan.png "Left: a marker of chromosome 2, and two that are inherited
# with it, pass Bonferroni's threshold. Right: the small p-values are smaller than chance gives, as befits a trait of
# many causes.")
#
# ## What else
#
# Other files, and the traps of each: [genotype files](../genotype_files.md). Genotypes are read in blocks, so that
# memory is that of the kinship. Hundreds of traits share one spectrum: [many responses](../many_responses.md).
