# %% [markdown]
# # The animal model, from two files to breeding values
#
# A flock of sheep, weighed once a year. One file has the pedigree, one the weights. How heritable is weight, which
# animals are the best parents, and did selection work? The model has two random terms of the same animals,
#
# $$y = X\beta + Z a + Z p + e,\qquad a \sim N(0, \sigma^2_a A),\quad p \sim N(0, \sigma^2_p I),$$
#
# breeding values $a$ with the relationship matrix $A$ of the pedigree, and permanent environments $p$: what makes the
# records of an animal alike beside its genes. The flock is simulated, so that the answers are known.

# %%
import sys
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import pm_fastlmm as flmm

ADDITIVE, PERMANENT, RESIDUAL = 6.0, 5.0, 9.0


def write_flock(folder, rng):
    """Six years of 20 lambs, of the four best males; true breeding values come back."""
    animals = pd.DataFrame(
        {"animal": [f"S{k:03d}" for k in range(120)], "sire": None, "dam": None}
    )
    animals["born"] = 2015 + np.arange(120) // 20
    animals["sex"] = rng.choice(["female", "male"], size=120)
    value, seen = np.sqrt(ADDITIVE) * rng.normal(size=120), np.empty(120)
    permanent = np.sqrt(PERMANENT) * rng.normal(size=120)
    for year in range(2015, 2021):
        lambs = np.flatnonzero(animals["born"] == year)
        old = animals["born"] < year
        if old.any():
            males = np.flatnonzero(old & (animals["sex"] == "male"))
            sires = males[np.argsort(-seen[males])[:4]]
            sire = rng.choice(sires, size=20)
            dam = rng.choice(np.flatnonzero(old & (animals["sex"] == "female")), size=20)
            animals.loc[lambs, "sire"] = animals["animal"].to_numpy()[sire]
            animals.loc[lambs, "dam"] = animals["animal"].to_numpy()[dam]
            mendelian = np.sqrt(ADDITIVE / 2) * rng.normal(size=20)
            value[lambs] = (value[sire] + value[dam]) / 2 + mendelian
        seen[lambs] = value[lambs] + permanent[lambs] + 3 * rng.normal(size=20)
    of = np.repeat(np.arange(120), rng.integers(0, 6, size=120))  # some have no record
    records = animals.loc[of, ["animal", "sex"]].assign(age=rng.integers(1, 5, len(of)))
    records["weight"] = (
        45.0
        + 12.0 * (records["sex"] == "male")
        + 4.0 * records["age"]
        + value[of]
        + permanent[of]
        + np.sqrt(RESIDUAL) * rng.normal(size=len(of))
    ).round(1)
    records.iloc[[5, 100, 200], 1] = None
    animals[["animal", "sire", "dam", "born"]].fillna("0").to_csv(
        folder / "pedigree.csv", index=False
    )
    records.to_csv(folder / "weights.csv", index=False)
    return pd.Series(value, animals["animal"])


if __name__ == "__main__":  # chains run in processes, which import this file again
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)
    folder = Path(mkdtemp())
    truth = write_flock(folder, np.random.default_rng(2026))

    # %% [markdown]
    # ## The files
    #
    # `dtype=str` keeps ids as they are written. Unknown parents are 0 here; a dozen other codes are known, and rows
    # may come in any order.

    # %%
    pedigree = pd.read_csv(folder / "pedigree.csv", dtype={"sire": str, "dam": str})
    weights = pd.read_csv(folder / "weights.csv")
    print(pedigree.iloc[[0, 100]].to_string(index=False), end="\n\n")
    print(weights.head(3).to_string(index=False), end="\n\n")

    # %% [markdown]
    # ## Relationships
    #
    # $A$ has 1 on its diagonal, plus the inbreeding of an animal. Parents without records belong to it all the same.

    # %%
    A = flmm.covariance.pedigree(pedigree["animal"], pedigree["sire"], pedigree["dam"])
    inbreeding = pd.Series(np.diag(A) - 1, A.index)
    print(
        f"{len(A)} animals, {(inbreeding > 0).sum()} of them inbred,"
        f" at most {inbreeding.max():.3f}",
        end="\n\n",
    )

    # %% [markdown]
    # ## The fit
    #
    # A second column with the same animals is the second term. Only the first has a known covariance. The categories
    # of a column are its levels: those of $A$ ask for breeding values of all animals, also of those without a record.
    # A formula leaves rows with a missing value out, with a warning that counts them; here they are dropped before.

    # %%
    weights = weights.dropna().assign(permanent=weights["animal"])
    weights["animal"] = pd.Categorical(weights["animal"], categories=A.index)
    fit = flmm.find_reml(
        "weight ~ sex + age + (1 | animal) + (1 | permanent)",
        weights,
        known={"animal": A},
        progressbar=False,
    )
    print(fit, end="\n\n")

    # %% [markdown]
    # Heritability and repeatability are functions of the variances, and come with their errors. Is there a genetic
    # variance at all? The test holds at the boundary, where a variance is zero.

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
    print(f"repeatability  {repeatability}")
    test = fit.test_no_variance("animal", random_seed=1)
    print(f"no genetic variance: p = {test.p_value:.2g}", end="\n\n")

    # %% [markdown]
    # ## Breeding values
    #
    # Every animal of $A$ has one, with its reliability: an animal without a record from its relatives alone.

    # %%
    values = fit.effects("animal")
    print(values.nlargest(5, "blup"), end="\n\n")
    recorded = values.index.isin(weights["animal"])
    for label, group in (("with", values[recorded]), ("without", values[~recorded])):
        print(
            f"{len(group):3d} animals {label} a record:"
            f" accuracy {group['accuracy'].mean():.2f}"
        )
    print(
        f"correlation with the true values: {values['blup'].corr(truth[values.index]):.2f}",
        end="\n\n",
    )

    # %% [markdown]
    # ## The posterior
    #
    # The model behind the formula is a PyMC model. NUTS starts at the fit, and samples variances; breeding values are
    # integrated out.

    # %%
    with fit.model:
        idata = flmm.sample(500, chains=2, random_seed=1, progressbar=False)
        draws = flmm.variances(idata)
    share = draws["animal"] / (draws["animal"] + draws["permanent"] + draws["residual"])
    low, high = share.quantile([0.025, 0.975])
    print(f"heritability, posterior: {float(share.mean()):.2f} ({low:.2f} to {high:.2f})")
    assert low < ADDITIVE / (ADDITIVE + PERMANENT + RESIDUAL) < high

    # %% [markdown]
    # ## Did selection work?
    #
    # The mean breeding value of the lambs of a year, as estimated, and the truth.

    # %%
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    born = pedigree.set_index("animal")["born"]
    for label, value, look in (("estimated", values["blup"], "o-"), ("true", truth, "s--")):
        trend = value.groupby(born).mean()
        left.plot(trend.index, trend, look, label=label)
    left.set(
        xlabel="year of birth", ylabel="mean breeding value, kg", title="Genetic trend"
    )
    left.legend(frameon=False)
    flmm.plots.plot_shares(fit, ax=right)
    right.set_title("Shares of the variance")
    figure.savefig(figures / "animal_model.png", dpi=130)

    # %% [markdown]
    # ![Left, two lines that rise together over six years; right, three shares of the variance with their
    # intervals](animal_model.png "Left: the mean breeding value of the lambs of each year, estimated and true. Right:
    # the shares of the variance, with 95 % intervals.")
