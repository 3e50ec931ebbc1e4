# %% [markdown]
# # Carbon dioxide on Mauna Loa
#
# Monthly means of the concentrations from 1958 to 2001 (the weekly data of statsmodels): a trend, a yearly cycle, and
# what is left. The trend is a smooth Gaussian process, irregularities of some months another; both are Fourier
# features, and months without a measurement need nothing. The cycle is four harmonics in X, whose coefficients are
# integrated out. The last five years are forecast from the years before.
#
# $$y(t) = X(t)\beta + f(t) + e,\qquad f \sim GP(0, v_1 k_{SE,\ell_1} + v_2 k_{Matérn-5/2,\ell_2})$$

# %%
import sys
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
from statsmodels.datasets import co2

import pm_fastlmm as flmm

TREND = 8.0  # years: the lengthscale of what is smooth
LAST = 1997


def design(t):
    """Intercept, slope, and four harmonics of the year; columns by name."""
    columns = {"mean": np.ones(len(t)), "slope": (t - 1980) / 20}
    for k in range(1, 5):
        columns |= {
            f"cos{k}": np.cos(2 * np.pi * k * t),
            f"sin{k}": np.sin(2 * np.pi * k * t),
        }
    return pd.DataFrame(columns)


if __name__ == "__main__":
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)
    weeks = co2.load_pandas().data.dropna()
    weeks["t"] = weeks.index.year + (weeks.index.day_of_year - 1) / 365.25
    months = weeks.groupby(weeks.index.to_period("M")).mean()
    t, y = months["t"].to_numpy(), months["co2"].to_numpy()
    past = t < LAST
    print(
        f"{past.sum()} months from {t.min():.1f},"
        f" to forecast the {(~past).sum()} until {t.max():.1f}"
    )

    # %% [markdown]
    # The basis is made for the shorter lengthscale to the longer one, and for all years, not for those with data alone.

    # %%
    basis = flmm.FourierBasis(
        kernel="matern52",
        lengthscale=(0.2, TREND),
        domain=(1958, 2002),
        n=int(past.sum()),
        noise_ratio_min=1.0,
    )
    print(basis)
    statistics = flmm.FourierStatistics.from_arrays(
        basis, t[past], y[past], design(t[past])
    )
    with pm.Model() as model:
        trend, medium = pm.HalfNormal("trend", 10), pm.HalfNormal("medium", 2)
        short, noise = pm.Uniform("short", 0.2, TREND), pm.HalfNormal("noise", 1)
        kernel = trend**2 * pm.gp.cov.ExpQuad(1, ls=TREND) + medium**2 * pm.gp.cov.Matern52(
            1, ls=short
        )
        with warnings.catch_warnings():  # a few factorisations are all that REML takes
            warnings.filterwarnings("ignore", ".*features are factored at each evaluation")
            flmm.FourierLMM("co2", statistics=statistics, kernel=kernel, sigma2_e=noise**2)
    fit = flmm.find_reml(model, progressbar=False)
    print(fit)
    function = fit.posterior_function()
    future = function.predict(t[~past], design(t[~past]))
    covered = np.abs(y[~past] - future.mean) < 1.96 * future.se_observation
    error = np.sqrt(np.mean((y[~past] - future.mean) ** 2))
    print(
        f"{covered.mean():.0%} of the forecast months lie within their 95 % intervals;"
        f" typical error {error:.2f} ppm"
    )
    assert fit.converged
    # errors of the trend last for years: sixty months are few independent trials
    assert covered.mean() > 0.5

    # %% [markdown]
    # ## A figure

    # %%
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    ahead = np.linspace(LAST, 2001.9, 600)
    forecast = function.predict(ahead, design(ahead))
    band = 1.96 * forecast.se_observation
    left.fill_between(
        ahead,
        forecast.mean - band,
        forecast.mean + band,
        color="#9ecae1",
        label="95 % of months",
    )
    left.plot(ahead, forecast.mean, lw=0.8, color="#08519c", label="forecast")
    shown = t > 1990
    left.plot(t[shown], y[shown], ".", ms=3, color="black", label="measured")
    left.axvline(LAST, color="#bdbdbd", lw=0.8)
    left.set(xlabel="year", ylabel="CO₂ (ppm)", title="Five years, from the 39 before")
    left.legend(frameon=False, loc="upper left")
    years = np.linspace(1958.1, 2001.9, 2000)
    flat = design(years)
    flat[[name for name in flat if name not in ("mean", "slope")]] = 0.0
    level = function.predict(years, flat)
    line = np.polynomial.Polynomial.fit(years, level.mean, 1)(years)
    right.fill_between(
        years, *(level.mean - line + z * level.se for z in (-1.96, 1.96)), color="#9ecae1"
    )
    right.plot(years, level.mean - line, lw=0.7, color="#08519c")
    right.axvline(LAST, color="#bdbdbd", lw=0.8)
    right.set(
        xlabel="year", ylabel="ppm", title="Without the yearly cycle, less a straight line"
    )
    figure.savefig(figures / "mauna_loa.png", dpi=150)
    print(f"figure written to {figures}: mauna_loa.png")

    # %% [markdown]
    # ![Left, forecast months of CO₂ follow the measured ones; right, the trend without its yearly cycle, with an
    # interval that widens after 1997](mauna_loa.png "CO₂ at Mauna Loa. Left: five years forecast from the 39 before.
    # Right: the slow part alone, less a straight line.")
