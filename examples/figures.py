# %% [markdown]
# # Figures
#
# Every figure of `flmm.plots`, with the code that draws it. A colour has one meaning in all of them:
# vermillion is an estimate, blue a posterior, green what a model or a null hypothesis expects,
# grey the data. They are told apart by the colour-blind, and seen on white and on a dark page.
#
# A figure is made of Matplotlib axes, which come back and can be changed, or of a `PlotCollection` of
# arviz-plots. Text and background follow the style: `plt.style.use("dark_background")` makes figures
# for a dark page, as `keep` does here beside the light ones.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import pm_fastlmm as flmm

DARK = {f"{part}.facecolor": "#14181e" for part in ("figure", "axes", "savefig")}


def keep(file, draw):
    """Save a figure, and the same for a dark page."""
    for style, stem in (
        ("default", file.stem),
        (["dark_background", DARK], f"{file.stem}_dark"),
    ):
        with plt.style.context(style):
            draw()
            plt.savefig(file.with_stem(stem), dpi=160)
            plt.close()


if __name__ == "__main__":
    plt.switch_backend("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %% [markdown]
    # ## Random effects
    #
    # An oats trial with 24 varieties, and reaction times of 18 people. `plot_effects` takes a fit, or
    # the draws of `recover_effects`.

    # %%
    model = flmm.lmm_model(
        "yield ~ 1 + (1 | gen) + (1 | rep) + (1 | rep:block)", flmm.datasets.john_alpha()
    )
    oats = flmm.find_reml(model, progressbar=False)
    keep(
        figures / "figure_effects.png",
        lambda: flmm.plots.plot_effects(oats, "gen"),
    )

    # %% [markdown]
    # ![24 varieties in the order of their effects, from −0.8 to 0.5, each with an interval that crosses the line at 0
    # but for five](figure_effects.png
    # "Caterpillar plot: predictors (BLUPs) of 24 varieties with 95 % intervals of their prediction error. Intervals in
    # full colour do not contain 0.")

    # %%
    sleep = flmm.find_reml(
        "Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False
    )
    keep(
        figures / "figure_slopes.png",
        lambda: flmm.plots.plot_effects(sleep, "Subject"),
    )

    # %% [markdown]
    # ![Two panels of 18 people: intercepts in ascending order on the left, slopes of the same people, in no order, on
    # the right](figure_slopes.png
    # "A term with two columns: intercepts, and the slopes of the same people beside them.")

    # %%
    with model:
        idata = flmm.sample(random_seed=1, progressbar=False)
    idata = flmm.recover_effects(idata, model=model, random_seed=1)
    keep(
        figures / "figure_draws.png",
        lambda: flmm.plots.plot_effects(idata, "yield_gen"),
    )

    # %% [markdown]
    # ![A forest of 24 varieties in descending order, each a mean with a thick and a thin interval](figure_draws.png
    # "The same varieties, of posterior draws: mean, quartiles and 95 % interval, a PlotCollection of arviz-plots.")
    #
    # ## Shares of the variance

    # %%
    print(oats.share_intervals().round(3))
    keep(
        figures / "figure_shares.png",
        lambda: flmm.plots.plot_shares(oats),
    )

    # %% [markdown]
    # ![Four shares between 0.17 and 0.35 with wide intervals](figure_shares.png
    # "REML estimates of the shares, with intervals of the delta method on the logit scale.")

    # %%
    keep(
        figures / "figure_share_draws.png",
        lambda: flmm.plots.plot_shares(idata),
    )

    # %% [markdown]
    # ![A forest of four shares, that of the replicates with the widest interval](figure_share_draws.png
    # "The same shares, of posterior draws.")
    #
    # ## Residuals
    #
    # `fit.diagnostics()` has the numbers: residuals, each over its own standard deviation, the leverage of
    # each observation, and what the others predict for it.

    # %%
    print(sleep.diagnostics().nlargest(3, "leverage").round(2))
    keep(
        figures / "figure_diagnostics.png",
        lambda: flmm.plots.plot_diagnostics(sleep),
    )

    # %% [markdown]
    # ![Four panels: residuals around a flat line, quantiles that leave their envelope at both ends, a spread that
    # rises a little, and leverages from 0.1 to 0.3](figure_diagnostics.png
    # "Reaction times: two people's days (56, 59 and 7) are far outside what a normal distribution expects.")

    # %%
    keep(
        figures / "figure_residuals.png",
        lambda: flmm.plots.plot_residuals(sleep),
    )

    # %% [markdown]
    # ![Residuals against fitted values, with means of tenths near 0](figure_residuals.png
    # "Residuals against fitted values; the line joins the means of tenths of the observations.")

    # %%
    keep(
        figures / "figure_qq.png",
        lambda: flmm.plots.plot_residual_qq(sleep),
    )

    # %% [markdown]
    # ![Points along a straight line, flatter in the middle, with three points far outside of a band](figure_qq.png
    # "Quantiles of standardised residuals, with the band that holds each of them with probability 95 %.")

    # %%
    keep(
        figures / "figure_scale.png",
        lambda: flmm.plots.plot_scale_location(sleep),
    )

    # %% [markdown]
    # ![Roots of absolute residuals against fitted values, with means between 0.6 and 0.9](figure_scale.png
    # "Scale and location: the dashed line is the mean that a normal variable has.")

    # %%
    keep(
        figures / "figure_leverage.png",
        lambda: flmm.plots.plot_leverage(sleep),
    )

    # %% [markdown]
    # ![Columns of points at leverages from 0.09 to 0.29, all left of a dashed line](figure_leverage.png
    # "Leverage: the first and the last day of a person determine their line most.")

    # %%
    keep(
        figures / "figure_loo.png",
        lambda: flmm.plots.plot_loo(sleep),
    )

    # %% [markdown]
    # ![Observations along a diagonal line with vertical intervals; seven diamonds lie outside](figure_loo.png
    # "Each observation against what all others predict for it; 3.9 % are outside their 95 % intervals.")
    #
    # ## Profiles
    #
    # Of any parameter of a fit; of $h^2$ also with the exact posterior beside it.

    # %%
    penicillin = flmm.find_reml(
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        flmm.datasets.penicillin(),
        progressbar=False,
    )
    keep(
        figures / "figure_profile.png",
        lambda: flmm.plots.plot_profile(penicillin, "sample"),
    )

    # %% [markdown]
    # ![A curve that rises steeply to its maximum at 3.7 and falls slowly](figure_profile.png
    # "The variance between six samples of penicillin: the profile likelihood is far from symmetric. The interval has
    # the values above the dashed line.")

    # %%
    keep(
        figures / "figure_correlation.png",
        lambda: flmm.plots.plot_profile(sleep, "corr_Subject[Intercept, Days]"),
    )

    # %% [markdown]
    # ![A curve with its maximum near 0 that meets a dashed line at −0.5 and 0.7](figure_correlation.png
    # "The correlation of intercepts and slopes of sleepstudy, held at each value while all else is fitted again.")

    # %%
    dyestuff = flmm.datasets.dyestuff()
    batch = pd.get_dummies(dyestuff["Batch"]).astype(float)
    spectrum = flmm.Spectrum.from_factor(batch, np.ones((30, 1)))
    fit = flmm.reml(spectrum, dyestuff["Yield"])
    exact = flmm.exact_posterior(spectrum, dyestuff["Yield"])
    keep(
        figures / "figure_h2_profile.png", lambda: flmm.plots.plot_profile(fit, exact=exact)
    )

    # %% [markdown]
    # ![Two nearly equal curves with maxima at 0.42, above two bars of intervals](figure_h2_profile.png
    # "The share of variance between batches: profile likelihood and posterior under a uniform prior.")

    # %%
    draws = exact.to_datatree(random_seed=1)
    keep(
        figures / "figure_h2_posterior.png",
        lambda: flmm.plots.plot_h2_posterior(draws, fit, exact=exact, var_name="h2"),
    )

    # %% [markdown]
    # ![A histogram with a curve over it, and a line at 0.418 with a band](figure_h2_posterior.png
    # "Draws of h², their exact density, and the REML estimate ± its standard error.")

    # %%
    keep(
        figures / "figure_h2_intervals.png",
        lambda: flmm.plots.plot_h2_intervals(fit, random_seed=1),
    )

    # %% [markdown]
    # ![A curve with its minimum at 0.418 that crosses two thresholds, above four bars](figure_h2_intervals.png
    # "Intervals of h² by four methods; those of profile and inversion are where the curve is below a threshold.")

    # %%
    priors = flmm.priors.ready(spectrum.rotate(dyestuff["Yield"]))
    keep(
        figures / "figure_priors.png",
        lambda: flmm.plots.plot_implied_h2(priors),
    )

    # %% [markdown]
    # ![Six densities between 0 and 1, some flat, some high at the ends](figure_priors.png
    # "What six ready-made priors say of h².")
    #
    # ## A scan
    #
    # 400 simulated people with 2200 markers on 22 chromosomes, two of which have an effect on y; the others
    # have small ones together.

    # %%
    rng = np.random.default_rng(7)
    markers = rng.binomial(2, rng.uniform(0.1, 0.5, size=2200), size=(400, 2200)).astype(
        float
    )
    y = markers @ rng.normal(scale=0.02, size=2200) + rng.normal(size=400)
    y += 0.9 * (markers[:, 520] - markers[:, 1510])
    K = flmm.covariance.markers(markers)
    scan = flmm.scan(flmm.Spectrum.from_covariance(K, np.ones((400, 1))), y, markers)
    chromosome = np.repeat(np.arange(1, 23), 100)
    print(f"λ_GC = {flmm.genomic_inflation(scan):.3f}")
    keep(
        figures / "figure_manhattan.png",
        lambda: flmm.plots.plot_manhattan(scan, chromosome=chromosome),
    )

    # %% [markdown]
    # ![Points of 22 chromosomes below 4, and two far above a dashed threshold](figure_manhattan.png
    # "Manhattan plot: −log₁₀ p along the chromosomes, with Bonferroni's threshold of 2200 tests.")

    # %%
    keep(
        figures / "figure_scan_qq.png",
        lambda: flmm.plots.plot_scan_qq(scan),
    )

    # %% [markdown]
    # ![Points along a diagonal inside of a band, and two far above it](figure_scan_qq.png
    # "p-values against those of no effect, with a 95 % band for each, and the inflation λ_GC.")
    #
    # ## Relationship
    #
    # 100 species of lizards; their phylogeny gives the relationship.

    # %%
    anoles = flmm.covariance.phylogeny(flmm.datasets.anoles().attrs["newick"])
    keep(
        figures / "figure_kinship.png",
        lambda: flmm.plots.plot_kinship(anoles),
    )

    # %% [markdown]
    # ![A heat map with light blocks along the diagonal, in larger and darker ones](figure_kinship.png
    # "Relationship of 100 species of Caribbean anoles, in the order of clusters: clades are blocks.")
    #
    # ## Space
    #
    # A simulated field at 150 places, and a fit that estimates its lengthscale.

    # %%
    places = rng.uniform(0, 10, size=(150, 2))
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    V = 2 * np.exp(-apart / 1.5) + 0.5 * np.eye(150)
    field = 3 + np.linalg.cholesky(V) @ rng.normal(size=150)
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(
        places,
        kernel="matern12",
        lengthscale=(0.3, 8.0),
        X=np.ones((150, 1)),
        progressbar=False,
    )
    with pm.Model() as model:
        flmm.LengthscaleLMM(
            "field",
            spectrum=spectrum,
            lengthscale=pm.Uniform("lengthscale", 0.3, 8.0),
            sigma2_g=pm.HalfNormal("sigma2_g", 3),
            sigma2_e=pm.HalfNormal("sigma2_e", 3),
            observed=field,
        )
    spatial = flmm.find_reml(model, progressbar=False)
    print(spatial.variogram(places).head(3).round(2))
    keep(
        figures / "figure_variogram.png", lambda: flmm.plots.plot_variogram(spatial, places)
    )

    # %% [markdown]
    # ![Points that rise with distance and level off, around a smooth line](figure_variogram.png
    # "Variogram: half the mean squared difference of residuals by distance, and what the fit expects.")

    # %%
    estimate, interval = spatial.theta["lengthscale"], spatial.interval("lengthscale")
    keep(
        figures / "figure_correlation.png",
        lambda: flmm.plots.plot_correlation(
            "matern12", estimate, interval=interval, distance=10
        ),
    )

    # %% [markdown]
    # ![A curve that falls from 1 towards 0, in a band](figure_correlation.png
    # "Correlation of the field with distance at the estimated lengthscale; the band is between the curves of the ends
    # of its profile interval.")
