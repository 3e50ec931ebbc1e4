# %% [markdown]
# # Heritability from markers, and an association scan
#
# A thousand people of three populations, five chromosomes of 800 markers. A trait depends on 200 markers of the first
# four chromosomes a little and on three more strongly; and it differs between the populations for reasons of their
# environment. How much of the variance do markers explain, and which markers?
#
# $$y \sim N(X\beta,\ \sigma^2 (K + \delta I)),\qquad K = \frac{\sum_j g_j g_j^\top}{2\sum_j p_j(1 - p_j)},$$
#
# with centred genotypes $g_j$ and allele frequencies $p_j$. The data are simulated, so that the answers are known.

# %%
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import chi2

import pm_fastlmm as flmm

matplotlib.use("Agg")
figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
figures.mkdir(exist_ok=True)
rng = np.random.default_rng(2012)
PEOPLE, CHROMOSOMES, MARKERS, H2 = 1000, 5, 800, 0.5

# %% [markdown]
# ## Genotypes
#
# Allele frequencies drift apart between populations (Balding and Nichols, F = 0.03). Neighbouring markers are
# correlated: a chromosome is copied from 30 ancestral ones of its population, in pieces of 40 markers on average.

# %%
population = rng.integers(3, size=PEOPLE)
ancestral = rng.uniform(0.1, 0.9, size=CHROMOSOMES * MARKERS)
odds = (1 - 0.03) / 0.03
frequency = rng.beta(ancestral * odds, (1 - ancestral) * odds, size=(3, ancestral.size))
chromosome = np.repeat(np.arange(1, CHROMOSOMES + 1), MARKERS)
founders = rng.uniform(size=(3, 30, ancestral.size)) < frequency[:, None]


def haplotypes():
    """One copy of every chromosome for each person."""
    breaks = rng.uniform(size=(PEOPLE, ancestral.size)) < 1 / 40
    piece = np.cumsum(breaks, axis=1) + np.arange(PEOPLE)[:, None] * ancestral.size
    source = rng.integers(30, size=PEOPLE * ancestral.size)[piece]
    return founders[population[:, None], source, np.arange(ancestral.size)]


genotypes = haplotypes().astype(np.int8) + haplotypes()
markers = pd.DataFrame(genotypes, columns=[f"rs{j}" for j in range(ancestral.size)])
markers = markers.loc[:, markers.std() > 0.1]
chromosome = chromosome[[int(name[2:]) for name in markers]]

# %% [markdown]
# ## A trait

# %%
standardised = ((markers - markers.mean()) / markers.std()).to_numpy()
causal = rng.choice(np.flatnonzero(chromosome < 5), size=203, replace=False)
strong = causal[:3]
effects = rng.normal(size=203) / np.sqrt(203)
effects[:3] = 0.35
genetic = standardised[:, causal] @ effects
genetic *= np.sqrt(H2 / genetic.var())
y = (
    genetic
    + np.array([0.0, 0.6, 1.2])[population]
    + rng.normal(scale=np.sqrt(1 - H2), size=PEOPLE)
)

# %% [markdown]
# ## How much do markers explain?
#
# The kinship matrix holds the populations too, so that their difference would count as heritability. Fixed effects for
# the populations take it out of both the trait and $K$.

# %%
K = flmm.covariance.markers(markers)
intercept = np.ones((PEOPLE, 1))
groups = np.eye(3)[population]
for label, X in (("intercept only", intercept), ("populations as fixed effects", groups)):
    spectrum = flmm.Spectrum.from_covariance(K, X)
    fit = flmm.reml(spectrum, y)
    print(
        f"{label:<30} share of variance explained {fit.pve:.2f}"
        f" ± {fit.standard_errors()['pve']:.2f}"
    )
posterior = flmm.exact_posterior(spectrum, y)
within = genetic - groups @ np.linalg.lstsq(groups, genetic, rcond=None)[0]
noise = y - genetic - groups @ np.linalg.lstsq(groups, y - genetic, rcond=None)[0]
truth = within.var() / (within.var() + noise.var())
low, high = posterior.interval("pve", 0.95)
print(
    f"truth within populations {truth:.2f}; posterior {posterior.mean('pve'):.2f}"
    f" ({low:.2f} to {high:.2f})"
)
assert low < truth < high

# %% [markdown]
# ## Which markers?
#
# Each marker is tested as a fixed effect, with a kinship matrix that leaves its chromosome out. Beside it the test
# without kinship, which takes every marker that differs between populations for a cause. The trait depends on nothing
# on chromosome 5: there the tests must look like chance.

# %%
spectra = {
    c: flmm.Spectrum.from_covariance(
        flmm.covariance.markers(markers.loc[:, chromosome != c]), intercept
    )
    for c in range(1, CHROMOSOMES + 1)
}
mixed = flmm.scan(spectra, y, markers, groups=chromosome, progressbar=False)
r = standardised.T @ (y - y.mean()) / (PEOPLE * y.std())
plain = chi2.sf(r**2 / (1 - r**2) * (PEOPLE - 2), 1)
p_values = {"with kinship": mixed.p_value.to_numpy(), "without": plain}
threshold = 0.05 / markers.shape[1]
innocent = chromosome == 5
for label, p in p_values.items():
    inflation = np.median(chi2.isf(p[innocent], 1)) / chi2.median(1)
    hits, wrong, right = (
        int((p[which] < threshold).sum()) for which in (chromosome < 5, innocent, strong)
    )
    print(
        f"{label:<13} beyond Bonferroni's threshold: {right} of the 3 strong markers,"
        f" {hits} of chromosomes 1 to 4, "
    )
    print(
        f"{'':<13} {wrong} of chromosome 5, where the median of the statistics is inflated"
        f" {inflation:.2f} times"
    )

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.4), width_ratios=[2.3, 1], layout="constrained"
)
position = np.arange(markers.shape[1])
for c in range(1, CHROMOSOMES + 1):
    on = chromosome == c
    left.plot(
        position[on],
        -np.log10(p_values["with kinship"][on]),
        ".",
        ms=3,
        color=["#08519c", "#6baed6"][c % 2],
    )
left.plot(
    strong,
    -np.log10(p_values["with kinship"][strong]),
    "o",
    mfc="none",
    color="#d94801",
    ms=9,
    label="the three strong ones",
)
left.axhline(-np.log10(threshold), color="0.5", ls="--", lw=1)
middle = [position[chromosome == c].mean() for c in range(1, CHROMOSOMES + 1)]
left.set_xticks(middle, range(1, CHROMOSOMES + 1))
left.set(xlabel="chromosome", ylabel="-log₁₀ p", title="Association scan, with kinship")
left.legend(frameon=False)
expected = -np.log10((np.arange(innocent.sum()) + 0.5) / innocent.sum())
for (label, p), colour in zip(p_values.items(), ("#08519c", "#fd8d3c"), strict=True):
    right.plot(
        expected, -np.log10(np.sort(p[innocent])), ".", ms=4, color=colour, label=label
    )
right.plot([0, expected[0]], [0, expected[0]], color="0.5", lw=1)
right.set(
    xlabel="expected -log₁₀ p", ylabel="observed", title="Chromosome 5, where nothing is"
)
right.legend(frameon=False)
figure.savefig(figures / "marker_heritability.png", dpi=130)
print(f"figure written to {figures}: marker_heritability.png")

# %% [markdown]
# ![Left, a Manhattan plot in which three circled markers pass the threshold; right, observed against expected
# p-values, on the diagonal with kinship and far above it without](marker_heritability.png "A scan of five
# chromosomes. Left: the three strong markers pass Bonferroni's threshold. Right: on a chromosome without effects,
# p-values are inflated unless kinship is in the model.")
