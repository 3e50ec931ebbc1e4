# %% [markdown]
# # A Gaussian process on a million points
#
# A curve of unknown smoothness through a million noisy points,
#
# $$y_i = \beta + f(x_i) + e_i,\qquad f \sim GP(0, \sigma^2 k_\ell),\qquad e_i \sim N(0, \sigma_e^2),$$
#
# with a Matérn-5/2 kernel of unknown lengthscale. A dense covariance would take eight terabytes. On Fourier features
# one pass over the data leaves some thousand sums, and they are all that REML, NUTS and predictions need.

# %%
import sys
import time
from pathlib import Path

import arviz_stats as azs
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_fastlmm as flmm

N = 1_000_000
SIGMA2_E = 0.5


def truth(x):
    """Slow and fast parts, and a bend."""
    return (
        np.sin(9 * x)
        + 0.4 * np.sin(40 * x) * np.exp(-(((x - 0.6) / 0.2) ** 2))
        + np.abs(x - 0.3)
    )


def clock(label, start):
    print(f"{label}: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":  # chains run in processes, which import this file again
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)
    rng = np.random.default_rng(1886)
    x = rng.beta(2, 1.5, size=N)
    y = truth(x) + np.sqrt(SIGMA2_E) * rng.normal(size=N)

    # %% [markdown]
    # ## One pass

    # %%
    basis = flmm.FourierBasis(
        kernel="matern52", lengthscale=(0.08, 0.4), domain=(0, 1), n=N, noise_ratio_min=0.05
    )
    print(basis)
    start = time.perf_counter()
    statistics = flmm.FourierStatistics.from_arrays(basis, x, y, np.ones(N))
    clock("one pass over a million rows", start)

    # %% [markdown]
    # ## The model, REML and NUTS

    # %%
    start = time.perf_counter()
    with pm.Model() as model:
        ell = pm.Uniform("ell", *basis.lengthscale)
        sigma2, sigma2_e = pm.HalfNormal("sigma2", 3), pm.HalfNormal("sigma2_e", 3)
        flmm.FourierLMM(
            "y", statistics=statistics, lengthscale=ell, sigma2=sigma2, sigma2_e=sigma2_e
        )
    clock("\nspectra at the nodes of the lengthscale", start)
    print(flmm.lmm_nodes(model)[0].spectra)
    start = time.perf_counter()
    fit = flmm.find_reml(model, progressbar=False)
    clock("REML", start)
    print(fit)
    start = time.perf_counter()
    with model:
        idata = flmm.sample(1000, random_seed=1, progressbar=False, quiet=True)
    clock("\n4 chains of 1000 draws, compilation included", start)
    summary = azs.summary(idata, var_names=["ell", "sigma2", "sigma2_e"])
    print(summary)
    assert float(summary["ess_bulk"].astype(float).min()) > 400
    assert (
        abs(idata.posterior["sigma2_e"].mean() - SIGMA2_E)
        < 5 * idata.posterior["sigma2_e"].std()
    )

    # %% [markdown]
    # ## A million predictions
    #
    # Mean and variance are averaged over the posterior of the parameters.

    # %%
    start = time.perf_counter()
    function = flmm.posterior_function(idata, model=model, draws=100)
    clock("\nthe posterior of the function over 100 draws of the parameters", start)
    start = time.perf_counter()
    everywhere = function.predict(x, np.ones(N))
    clock("mean and variance at a million points", start)
    inside = np.abs(truth(x) - everywhere.mean) < 1.96 * everywhere.se
    print(f"the truth is within 95 % intervals at {inside.mean():.1%} of the points")
    assert inside.mean() > 0.85

    # %% [markdown]
    # ## A figure

    # %%
    grid = np.linspace(0.005, 0.995, 800)
    curve = function.predict(grid, np.ones(800))
    draws = function.draw(grid, np.ones(800), draws=20, random_seed=2)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    shown = rng.choice(N, 4000, replace=False)
    left.plot(
        x[shown], y[shown], ".", ms=1.5, color="#bdbdbd", label="4000 of a million rows"
    )
    left.plot(grid, curve.mean, color="#08519c", label="posterior mean")
    left.plot(grid, truth(grid), ":", color="#d94801", label="truth")
    left.set(xlabel="x", ylabel="y", title="A million rows")
    left.legend(frameon=False)
    right.fill_between(
        grid, -1.96 * curve.se, 1.96 * curve.se, color="#9ecae1", label="95 % interval"
    )
    right.plot(grid, (draws - curve.mean).T, lw=0.4, color="#08519c")
    right.plot(grid, truth(grid) - curve.mean, color="#d94801", label="truth")
    right.set(
        xlabel="x",
        ylabel="less the posterior mean",
        title="What is left to know, and 20 draws of the function",
    )
    right.legend(frameon=False)
    figure.savefig(figures / "million_points.png", dpi=150)
    print(f"figure written to {figures}: million_points.png")

    # %% [markdown]
    # ![Left, a curve through grey points; right, the truth within a narrow band around the posterior
    # mean](million_points.png "A million rows and a function of unknown smoothness. Left: 4000 of the rows and the
    # posterior mean. Right: what is left to know, as the distance from that mean.")
