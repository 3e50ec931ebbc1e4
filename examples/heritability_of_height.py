# %% [markdown]
# # How heritable is height?
#
# Francis Galton measured 934 children in 205 families, and their parents, for his paper of 1886. Children share half of
# their genes with each parent and with each other, so their covariance is known up to two variances:
#
# $$y \sim N(X\beta,\ \sigma^2 (K + \delta I)),$$
#
# with K the additive relationship matrix of the pedigree, and sex and generation as fixed effects. The heritability is
# $h^2 = \sigma^2 / (\sigma^2 + \delta\sigma^2)$.

# %%
import sys
from pathlib import Path

import arviz_stats as az
import matplotlib

import pm_fastlmm as flmm

if __name__ == "__main__":  # chains run in processes, which import this file again
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %% [markdown]
    # The pedigree gives K; a formula gives X. Both are labelled by person, and are aligned.

    # %%
    people = flmm.datasets.galton_families()
    K = flmm.covariance.pedigree(people.index, people["father"], people["mother"])
    design = flmm.Design.from_formula("height ~ sex + generation", people, K=K)
    spectrum = design.spectrum()

    # %% [markdown]
    # ## A point estimate: restricted maximum likelihood

    # %%
    fit = flmm.reml(spectrum, design.y)
    print(fit, end="\n\n")

    # %% [markdown]
    # ## The posterior: NUTS, seeded by that fit
    #
    # `kernel_model` writes the PyMC model with its default priors, h² uniform and a vague total variance. A one-kernel
    # model also has its posterior by quadrature: it checks the sampler.

    # %%
    model = flmm.kernel_model(design.y, spectrum=spectrum, name="height")
    with model:
        idata = flmm.sample(random_seed=1886, progressbar=False)
    idata = flmm.recover_effects(idata, model=model, random_seed=1886)
    names = [f"height_{name}" for name in ("h2", "sigma2", "delta", "sigma2_e", "beta")]
    print("\nposterior, 95 % equal-tailed intervals")
    print(
        az.summary(
            idata, var_names=names, ci_prob=0.95, ci_kind="eti", round_to=3
        ).to_string(),
        end="\n\n",
    )

    exact = flmm.exact_posterior(spectrum, design.y)
    print(f"h², exact posterior: mean {exact.mean('h2'):.4f}, sd {exact.sd('h2'):.4f}")

    # %% [markdown]
    # ## Two figures

    # %%
    ax = flmm.plots.plot_h2_posterior(idata, fit, exact=exact, var_name="height_h2")
    ax.set_title("Heritability of height, Galton 1886")
    ax.figure.savefig(figures / "height_h2_posterior.png", dpi=150)

    ax = flmm.plots.plot_profile(fit, exact=exact)
    ax.set_title("Heritability of height: profile likelihood and posterior")
    ax.figure.savefig(figures / "height_h2_profile.png", dpi=150)
    print(f"figures written to {figures}: height_h2_posterior.png, height_h2_profile.png")

    # %% [markdown]
    # ![A histogram of draws between 0.52 and 0.85 under the exact posterior curve, with a line at the REML estimate
    # 0.689](height_h2_posterior.png "The heritability of height in Galton's families: draws of NUTS, the exact
    # posterior by quadrature, and the REML estimate with its standard error.")
    #
    # ![Two curves over h² that lie on each other, with their 95 % intervals, from 0.60 to 0.77, below
    # them](height_h2_profile.png "The profile of the restricted likelihood, and the posterior density under a uniform
    # prior of h², with their intervals.")
