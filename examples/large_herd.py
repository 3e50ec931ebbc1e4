# %% [markdown]
# # A hundred thousand cows
#
# A national evaluation in small: a pedigree of a hundred thousand animals in eight hundred herds, some hundred
# thousand lactations, and a model with three random terms. The relationship matrix would fill 80 GB. Its inverse has
# nine numbers for each animal, and that is all that is kept: `Pedigree` in place of `pedigree`, everything else as in
# [the animal model](animal_model.md).

# %%
import resource
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import pm_fastlmm as flmm

ADDITIVE, PERMANENT, HERD_YEAR, RESIDUAL = 0.35, 0.12, 0.20, 0.60
ANIMALS, HERDS, GENERATIONS, SIRES = 100_000, 800, 9, 60


def simulate(rng):
    """Daughters stay in the herd of their dam; sixty bulls, of dams with high first yields, are used in all herds."""
    size = ANIMALS // GENERATIONS
    n = size * GENERATIONS
    sire, dam = np.zeros((2, n), dtype=int)  # 0 is unknown
    born, herd = np.arange(n) // size, rng.integers(HERDS, size=n)
    male = rng.random(n) < 0.5
    value = np.sqrt(ADDITIVE) * rng.normal(size=n)
    permanent = np.sqrt(PERMANENT) * rng.normal(size=n)
    season = np.sqrt(HERD_YEAR) * rng.normal(size=(HERDS, GENERATIONS))
    noise = np.sqrt(RESIDUAL) * rng.normal(size=(n, 3))  # of three lactations
    first = np.zeros(n)
    for generation in range(GENERATIONS):
        now = np.flatnonzero(born == generation)
        if generation:
            before = now - size
            males, females = before[male[before]], before[~male[before]]
            best = males[np.argsort(-first[dam[males] - 1])[: 3 * SIRES]]
            father = rng.choice(rng.choice(best, size=SIRES, replace=False), size=size)
            mother = rng.choice(females, size=size)
            sire[now], dam[now], herd[now] = father + 1, mother + 1, herd[mother]
            value[now] = (value[father] + value[mother]) / 2 + value[now] / np.sqrt(2)
        first[now] = (
            value[now] + permanent[now] + season[herd[now], generation] + noise[now, 0]
        )
    cows = np.flatnonzero(~male)
    own = np.repeat(cows, rng.integers(1, 4, size=len(cows)))
    lactation = pd.Series(own).groupby(own).cumcount().to_numpy()
    milk = 30 + 2 * lactation + first[own] - noise[own, 0] + noise[own, lactation]
    ids = np.arange(1, n + 1)
    animals = pd.DataFrame({"animal": ids, "sire": sire, "dam": dam, "born": born})
    records = pd.DataFrame({"animal": own + 1, "lactation": lactation + 1, "milk": milk})
    records["herd_year"] = herd[own] * 100 + born[own]
    return animals, records, pd.Series(value, ids)


if __name__ == "__main__":
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)
    animals, records, truth = simulate(np.random.default_rng(2026))
    print(f"{len(animals)} animals, {len(records)} records", end="\n\n")

    # %% [markdown]
    # ## The pedigree
    #
    # Rows may come in any order. Inbreeding, the inverse and its determinant are made at once.

    # %%
    started = time.process_time()
    pedigree = flmm.covariance.Pedigree(animals["animal"], animals["sire"], animals["dam"])
    print(pedigree)
    print(
        f"{time.process_time() - started:.1f} s; mean inbreeding of the last generation"
        f" {pedigree.inbreeding.tail(ANIMALS // GENERATIONS).mean():.3f}",
        end="\n\n",
    )

    # %% [markdown]
    # ## The fit
    #
    # `permanent` has the same animals once more, as effects that are not related. The engine is chosen by what an
    # evaluation takes: here the mixed-model equations are factored as a sparse matrix.

    # %%
    records["permanent"] = records["animal"]
    started = time.process_time()
    fit = flmm.find_reml(
        "milk ~ lactation + (1 | herd_year) + (1 | animal) + (1 | permanent)",
        records,
        known={"animal": pedigree},
        progressbar=False,
    )
    seconds = time.process_time() - started
    print(fit, end="\n\n")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e9 if sys.platform == "darwin" else 1e6
    )
    print(f"{seconds:.1f} s of CPU, {memory:.1f} GB at most", end="\n\n")

    # %% [markdown]
    # Heritability and repeatability of a record within its herd and year:

    # %%
    h2 = fit.function(
        lambda v: v["animal"] / (v["animal"] + v["permanent"] + v["residual"])
    )
    repeatability = fit.function(
        lambda v: (
            (v["animal"] + v["permanent"]) / (v["animal"] + v["permanent"] + v["residual"])
        )
    )
    print(f"heritability   {h2}")
    print(f"repeatability  {repeatability}", end="\n\n")

    # %% [markdown]
    # ## Breeding values of all animals
    #
    # The errors come from the selected inverse, the entries of the inverse at the places of the factor: exact, and for
    # the price of another factorisation.

    # %%
    values = fit.effects("animal")
    values["daughters with records"] = (
        animals[animals["animal"].isin(records["animal"])].groupby("sire").size()
    ).reindex(values.index, fill_value=0)
    print(values.nlargest(5, "blup"), end="\n\n")
    r = values["blup"].corr(truth[values.index])
    print(f"correlation with the true values: {r:.2f}")

    # %%
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    born = animals.set_index("animal")["born"]
    for label, value, look in (("estimated", values["blup"], "o-"), ("true", truth, "s--")):
        trend = value.groupby(born).mean()
        left.plot(trend.index, trend, look, label=label)
    left.set(
        xlabel="generation", ylabel="mean breeding value", title="Selection of sires worked"
    )
    left.legend(frameon=False)
    sire, cow = values["daughters with records"] > 0, values["records"] > 0
    groups = {
        "bulls with daughters": values[sire],
        "cows with records": values[cow],
        "bulls without daughters": values[~sire & ~cow],
    }
    right.boxplot(
        [group["accuracy"] for group in groups.values()],
        tick_labels=[label.replace(" ", "\n", 1) for label in groups],
        whis=(1, 99),
        showfliers=False,
    )
    right.set(ylim=(0, 1), ylabel="accuracy", title="How well animals are known")
    figure.savefig(figures / "large_herd.png", dpi=130)

    # %% [markdown]
    # ![Left, two lines that rise together over nine generations; right, three groups of animals of which bulls with
    # daughters are known best](large_herd.png "Left: the mean breeding value of each generation, estimated and true.
    # Right: the accuracy of breeding values, of bulls with daughters, of cows, and of animals with relatives alone.")
