# %% [markdown]
# # What the prior does to a heritability
#
# Galton's families again, all of them and one family in twenty: six priors, the posterior of each by quadrature.

# %%
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import pm_fastlmm as flmm

if __name__ == "__main__":
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %%
    people = flmm.datasets.galton_families()
    K = flmm.covariance.pedigree(people.index, people["father"], people["mother"])
    design = flmm.Design.from_formula("height ~ sex + generation", people, K=K)
    everyone = design.spectrum()
    y = np.asarray(design.y, dtype=float)
    measured = people.loc[list(everyone.ids)]
    twentieth = measured[
        measured["father"].isin(measured["father"].dropna().unique()[::20])
    ]
    few = measured.index.isin(
        [*twentieth.index, *twentieth["father"], *twentieth["mother"]]
    )

    # %% [markdown]
    # The posterior of h² under each prior, and the probability that h² is below 0.5.

    # %%
    fig, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", sharex=True)
    flmm.plots.plot_implied_h2(flmm.priors.ready(everyone.rotate(y)), ax=axes[0])
    h2 = np.linspace(0.002, 0.998, 400)
    for ax, spectrum, height, title in (
        (axes[1], everyone.subset(few), y[few], f"posteriors, {few.sum()} people"),
        (axes[2], everyone, y, f"posteriors, {len(y)} people"),
    ):
        priors = flmm.priors.ready(spectrum.rotate(height))
        posteriors = {
            name: flmm.exact_posterior(spectrum, height, prior=prior)
            for name, prior in priors.items()
        }
        table = flmm.priors.sensitivity(spectrum, height, priors)
        table["P(h² < 0.5)"] = [
            flmm.rope(posterior, 0, 0.5) for posterior in posteriors.values()
        ]
        print(f"{title}\n{table.round(3).to_string()}\n")
        for line, posterior in zip(axes[0].lines, posteriors.values(), strict=True):
            look = {"color": line.get_color(), "linestyle": line.get_linestyle()}
            ax.plot(h2, posterior.h2_density(h2), lw=1.8, **look)
        ax.set(title=title, xlabel="h²")
    fig.savefig(figures / "priors_of_heritability.png", dpi=150)
    print(f"figure written to {figures}: priors_of_heritability.png")

    # %% [markdown]
    # ![Six prior densities of h² that differ widely; six posteriors of 68 people that differ less; six of 1344 people
    # that agree](priors_of_heritability.png "Six priors of h², and the posteriors of few and of many people: where
    # data are few, the prior speaks.")
