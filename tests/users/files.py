"""The files that the three users have, simulated, and what is true of them."""

import numpy as np
import pandas as pd


def modeller(folder):
    """Write a tree of 60 species that split one after the other, and their body and brain masses."""
    rng = np.random.default_rng(61)
    nodes = [(f"Species_{k}", 0.0) for k in range(60)]  # subtrees, and the time from their base to the tips
    age = 0.0
    while len(nodes) > 1:
        age += rng.exponential(1 / len(nodes))
        i, j = rng.choice(len(nodes), size=2, replace=False)
        (a, below_a), (b, below_b) = nodes[i], nodes[j]
        nodes = [node for k, node in enumerate(nodes) if k not in (i, j)]
        nodes.append((f"({a}:{age - below_a:.6f},{b}:{age - below_b:.6f})", age))
    (folder / "tree.nwk").write_text(nodes[0][0] + ";\n")
    from pm_fastlmm import covariance

    K = covariance.phylogeny(nodes[0][0] + ";", scale="mean_diagonal")
    root = np.linalg.cholesky(K.to_numpy())
    body = 3 + root @ rng.normal(size=60)
    brain = -2 + 0.7 * body + 0.4 * root @ rng.normal(size=60) + 0.2 * rng.normal(size=60)
    table = pd.DataFrame({"log_body": body, "log_brain": brain}, index=pd.Index(K.index, name="species"))
    table.sample(frac=1, random_state=1).to_csv(folder / "species.csv")
    return {"slope": 0.7, "h2": 0.16 / 0.2}


def ecologist(folder):
    """Write a table with stray blanks, two words for missing values, a site in two spellings and few plots twice."""
    rng = np.random.default_rng(20)
    site, plot = np.divmod(np.repeat(np.arange(20 * 4), rng.integers(1, 5, size=80)), 4)
    rain = rng.normal(size=site.size).round(2)
    grazing = np.where(plot % 2, "yes", "no")
    a, b, c = rng.normal(size=20), 0.8 * rng.normal(size=20), 0.7 * rng.normal(size=(20, 4))
    biomass = 10 + (2 + b[site]) * rain - 3 * (grazing == "yes") + a[site] + c[site, plot] + rng.normal(size=site.size)
    names = [f"site{s:02d}" for s in site]
    table = pd.DataFrame(
        {" Site": names, "Plot ": plot, "Grazing": grazing, "Rain": rain, "Biomass": biomass.round(2)}
    ).astype({"Biomass": object})
    clean = table.set_axis(["Site", "Plot", "Grazing", "Rain", "Biomass"], axis=1)
    table.loc[[3, 50], "Biomass"] = ["-", "lost"]
    table.loc[::9, " Site"] = table.loc[::9, " Site"].str.upper() + " "
    table.to_csv(folder / "meadows.csv", index=False)
    return {"grazing": -3.0, "table": clean.drop(index=[3, 50]).astype({"Biomass": float})}


def geneticist(folder):
    """Write a pedigree of 200 animals, one to three records of most, and 400 markers of some."""
    rng = np.random.default_rng(200)
    sire, dam = np.full(200, -1), np.full(200, -1)
    sire[40:], dam[40:] = rng.integers(0, 20, size=160), rng.integers(20, 40, size=160)
    frequency = rng.uniform(0.2, 0.8, size=400)
    genotypes = rng.binomial(2, frequency, size=(200, 400))
    value = np.sqrt(4.0) * rng.normal(size=200)
    for k in range(40, 200):
        genotypes[k] = sum(rng.binomial(1, genotypes[parent] / 2) for parent in (sire[k], dam[k]))
        value[k] = (value[sire[k]] + value[dam[k]]) / 2 + np.sqrt(2.0) * rng.normal()
    effect = 2.0 * (genotypes[:, 7] - genotypes[:, 7].mean())
    names = np.array([f"{k:04d}" for k in range(1, 201)])
    of = np.repeat(np.arange(190), rng.integers(1, 4, size=190))  # the last ten are too young for a record
    sex, year = rng.integers(0, 2, size=200)[of], rng.integers(2020, 2023, size=of.size)
    weight = 50 + 5 * sex + (year - 2020) + value[of] + effect[of] + 2 * rng.normal(size=of.size)
    parents = {"sire": np.where(sire < 0, "0", names[sire]), "dam": np.where(dam < 0, "0", names[dam])}
    pd.DataFrame({"animal": names} | parents).sample(frac=1, random_state=1).to_csv(
        folder / "pedigree.csv", index=False
    )
    pd.DataFrame(
        {"animal": names[of], "sex": np.array(["ewe", "ram"])[sex], "year": year, "weight": weight.round(2)}
    ).to_csv(folder / "records.csv", index=False)
    pd.DataFrame(genotypes[20:], pd.Index(names[20:], name="animal"), [f"snp{j}" for j in range(400)]).sample(
        frac=1, random_state=2
    ).to_csv(folder / "genotypes.csv")
    return {"causal": "snp7", "young": set(names[190:].tolist())}
