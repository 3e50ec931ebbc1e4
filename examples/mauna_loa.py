# %% [markdown]
# # Carbon dioxide on Mauna Loa
#
# Weekly concentrations from 1958 to 2001 (the data of statsmodels): a trend, a yearly cycle, and what is left. The
# trend is a smooth Gaussian process, irregularities of some months another; both are Fourier features, and weeks
# without a measurement need nothing. The cycle is four harmonics in X, whose coefficients are integrated out.
#
# $$y(t) = X(t)\beta + f(t) + e,\qquad f \sim GP(0, v_1 k_{SE,\ell_1} + v_2 k_{Matérn-5/2,\ell_2})$$

# %%
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
from statsmodels.datasets import co2

import pm_fastlmm as flmm


def design(t):
    """Intercept, slope, and four harmonics of the year; columns by name."""
    columns = {"mean": np.ones(len(t)), "slope": (t - 1980) / 20}
    for k in range(1, 5):
        columns |= {f"cos{k}": np.cos(2 * np.pi * k * t), f"sin{k}": np.sin(2 * np.pi * k * t)}
    return pd.DataFrame(columns)


if __name__ == "__main__":  # NUTS runs its chains in processes, which import this file again
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)
    data = co2.load_pandas().data["co2"].dropna()
    t = np.asarray(data.index.year + (data.index.day_of_year - 1) / 365.25)
    y = data.to_numpy()
    print(f"{len(y)} weeks, {t.min():.1f} to {t.max():.1f}")

    # %% [markdown]
    # The basis is made for the shorter of the two lengthscales, and for the ten years after the data.

    # %%
    basis = flmm.FourierBasis(
        kernel="matern52", lengthscale=(0.8, 8.0), domain=(1958, 2012), n=len(y), noise_ratio_min=0.1
    )
    print(basis)
    statistics = basis.statistics(t, y, design(t))
    with pm.Model() as model:
        trend, long = pm.HalfNormal("trend", 10), pm.Uniform("long", 8, 30)
        medium, short = pm.HalfNormal("medium", 2), pm.Uniform("short", 0.8, 8)
        noise = pm.HalfNormal("noise", 1)
        kernel = trend**2 * pm.gp.cov.ExpQuad(1, ls=long) + medium**2 * pm.gp.cov.Matern52(1, ls=short)
        flmm.FourierLMM("co2", statistics=statistics, kernel=kernel, sigma2_e=noise**2)
    fit = flmm.find_reml(model, progressbar=False)
    print(fit)
    with model:
        idata = flmm.sample(500, chains=2, random_seed=1, progressbar=False, quiet=True)
    function = flmm.posterior_function(idata, model=model, draws=200)
    ahead = np.linspace(1958.1, 2011.9, 2500)
    prediction = function.predict(ahead, design(ahead))
    at_data = function.predict(t, design(t))
    covered = np.abs(y - at_data.mean) < 1.96 * np.sqrt(at_data.variance + at_data.residual_variance)
    print(f"{covered.mean():.1%} of the weeks lie within their 95 % intervals")
    assert fit.converged
    assert 0.92 < covered.mean() < 0.98

    # %% [markdown]
    # ## A figure

    # %%
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    band = 1.96 * prediction.se_observation
    left.fill_between(ahead, prediction.mean - band, prediction.mean + band, color="#9ecae1", label="95 % of weeks")
    left.plot(t, y, ".", ms=1, color="black", label="measured")
    left.axvline(t.max(), color="#bdbdbd", lw=0.8)
    left.set(xlabel="year", ylabel="CO₂ (ppm)", title="Mauna Loa, and ten years on")
    left.legend(frameon=False, loc="upper left")
    flat = design(ahead)
    cycle = [name for name in flat if name not in ("mean", "slope")]
    flat[cycle] = 0.0
    level = function.predict(ahead, flat)
    slope = np.gradient(level.mean, ahead)
    measured = ahead < t.max()
    right.plot(ahead[measured], slope[measured], color="#08519c")
    right.set(xlabel="year", ylabel="ppm per year", title="Growth, the yearly cycle taken out")
    figure.savefig(figures / "mauna_loa.png", dpi=150)
    print(f"figure written to {figures}: mauna_loa.png")
