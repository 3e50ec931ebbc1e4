# %% [markdown]
# # Are five metabolites governed by the same genes?
#
# Glucosinolates are what mustard tastes of. Plants make those of this example in one pathway, which lengthens a chain
# carbon by carbon: C3 has three, C7 seven. Keurentjes et al. (2006) measured them in inbred lines of Arabidopsis from a
# cross of two parents. Lines that share markers share genes, and with them what genes do to several traits at once,
#
# $$\mathrm{vec}(Y) \sim N(\mathrm{vec}(XB),\ \Sigma_g \otimes K + \Sigma_e \otimes I).$$
#
# $\Sigma_g$ has the genetic correlations, $\Sigma_e$ those of what is left of each line.

# %%
import itertools
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import pm_fastlmm as flmm

matplotlib.use("Agg")
figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
figures.mkdir(exist_ok=True)

lines = flmm.datasets.arabidopsis_lines()
traits = ["C3", "C4", "C5", "C6", "C7"]
table = np.log(lines[traits]).dropna()
K = flmm.covariance.markers(lines.filter(like=":").loc[table.index], method="standardised")
fit = flmm.find_reml(f"{' + '.join(traits)} ~ 1", table, K=K, progressbar=False)
print(f"{len(table)} lines, {len(fit.theta)} variances and covariances: {fit.converged}")
print("h²:", fit.h2.round(2).to_dict())

# %% [markdown]
# ## Correlations and their intervals
#
# Intervals are those of the profile likelihood. Neighbours in the chain correlate most, and C3 is against all others: a
# plant that goes on lengthening has less of the shortest.

# %%
found = fit.intervals()
pairs = [", ".join(pair) for pair in itertools.combinations(traits, 2)]
genetic, residual = (
    found.loc[[f"corr_{what}[{pair}]" for pair in pairs]].astype(float)
    for what in ("K", "residual")
)
print(genetic.round(2))

# %% [markdown]
# Are C4 and C6 the same trait to the genes, and is there anything between C3 and C7? A correlation of 1 is a bound, and
# with it C4 and C6 would correlate equally with the other three: the test refers to a mixture of χ².

# %%
print(fit.test_value("corr_K[C4, C6]", 1))
print(fit.test_value("corr_K[C3, C7]", 0))

# %% [markdown]
# ## The posterior
#
# NUTS draws the thirty parameters of the same model, under half-normal and LKJ priors. LKJ(2) leans to 0, which shows
# where 158 lines say little. Draws answer what no single interval does, such as which of two correlations is larger.

# %%
idata = flmm.sample(500, model=fit.model, random_seed=1, progressbar=False, quiet=True)
draws = idata.posterior["corr_K"].sel(K_pairs=pairs)
low, middle, high = draws.quantile([0.025, 0.5, 0.975], ["chain", "draw"]).to_numpy()
print(f"posterior of C3 and C7: {middle[3]:.2f} ({low[3]:.2f} to {high[3]:.2f})")
below = (draws.sel(K_pairs="C4, C5") < draws.sel(K_pairs="C4, C7")).mean()
print(f"probability that C4 is closer to C7 than to C5: {float(below):.3f}")

# %% [markdown]
# ## The figure
#
# Genetic correlations stand above the diagonal, residual ones below, heritabilities on it.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 5), width_ratios=[1.15, 1], layout="constrained"
)
t = len(traits)
matrix = np.full((t, t), np.nan)
for (i, j), g, e in zip(
    itertools.combinations(range(t), 2),
    genetic.itertuples(),
    residual.itertuples(),
    strict=True,
):
    for row, column, r in ((i, j, g), (j, i, e)):
        matrix[row, column] = r.estimate
        left.text(
            column,
            row,
            f"{r.estimate:.2f}\n{r.lower:.2f} – {r.upper:.2f}".replace("-0.00", "0.00"),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if abs(r.estimate) > 0.6 else "black",
        )
for i, share in enumerate(fit.h2):
    left.text(i, i, f"h² {share:.2f}", ha="center", va="center", fontsize=9)
image = left.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
left.set_xticks(range(t), traits)
left.set_yticks(range(t), traits)
left.tick_params(length=0)
left.spines[:].set_visible(False)
left.set_title("Genetic correlations above, residual below")
figure.colorbar(image, ax=left, shrink=0.8, label="correlation")

place = np.arange(len(pairs))[::-1]
right.axvline(0, color="0.6", lw=1)
for r, shift, colour, label in (
    (genetic, 0.22, "#d55e00", "genetic, REML"),
    (residual, -0.22, "#707070", "residual, REML"),
):
    right.hlines(place + shift, r.lower, r.upper, color=colour, lw=2)
    right.plot(r.estimate, place + shift, "o", ms=5, color=colour, label=label)
right.hlines(place, low, high, color="#0077bb", lw=2)
right.plot(middle, place, "s", ms=4, color="#0077bb", label="genetic, posterior")
right.set_yticks(place, [pair.replace(", ", " – ") for pair in pairs])
right.set(xlim=(-1, 1), xlabel="correlation, 95 % interval", title="Pair by pair")
right.spines[["top", "right"]].set_visible(False)
right.legend(frameon=False, loc="lower left")
figure.savefig(figures / "genetic_correlations.png", dpi=130)
print(f"figure written to {figures}: genetic_correlations.png")

# %% [markdown]
# ![Left, a matrix of correlations, blue between C4 to C7 and red where C3 meets them; right, an interval for each
# pair](genetic_correlations.png "Left: genetic correlations above the diagonal, residual correlations below, with 95 %
# profile intervals, and heritabilities. Right: the same by pairs, with the posterior of the genetic correlations.")
