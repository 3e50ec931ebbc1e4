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


def design(t):
    """Intercept, slope, and four harmonics of the year; columns by name."""
    columns = {"mean": np.ones(len(t)), "slope": (t - 1980) / 20}
    for k in range(1, 5):
        columns |= {f"cos{k}": np.cos(2 * np.pi * k * t), f"sin{k}": np.sin(2 * np.pi * k * t)}
    return pd.DataFrame(columns)


if __name__ == "__main__":
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)
    data = co2.load_pandas().data["co2"].dropna()
    t = np.asarray(data.index.year + (data.index.day_of_year - 1) / 365.25)
    y = data.to_numpy()
    print(f"{len(y)} weeks, {t.min():.1f} to {t.max():.1f}")

    # %% [markdown]
    # The basis is made for the shorter lengthscale to the longer one, and for four years after the data.

    # %%
    basis = flmm.FourierBasis(
        kernel="matern52", lengthscale=(0.1, TREND), domain=(1958, 2006), n=len(y), noise_ratio_min=0.3
    )
    print(basis)
    statistics = basis.statistics(t, y, design(t))
    with pm.Model() as model:
        trend, medium = pm.HalfNormal("trend", 10), pm.HalfNormal("medium", 2)
        short, noise = pm.Uniform("short", 0.1, TREND), pm.HalfNormal("noise", 1)
        kernel = trend**2 * pm.gp.cov.ExpQuad(1, ls=TREND) + medium**2 * pm.gp.cov.Matern52(1, ls=short)
        with warnings.catch_warnings():  # a few factorisations are all that REML takes
            warnings.filterwarnings("ignore", ".*features are factored at each evaluation")
            flmm.FourierLMM("co2", statistics=statistics, kernel=kernel, sigma2_e=noise**2)
    fit = flmm.find_reml(model, progressbar=False)
    print(fit)
    function = fit.function()
    ahead = np.linspace(1958.1, 2005.9, 2500)
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
    left.set(xlabel="year", ylabel="CO₂ (ppm)", title="Mauna Loa, and four years on")
    left.legend(frameon=False, loc="upper left")
    flat = design(ahead)
    cycle = [name for name in flat if name not in ("mean", "slope")]
    flat[cycle] = 0.0
    level = function.predict(ahead, flat)
    line = np.polynomial.Polynomial.fit(ahead, level.mean, 1)(ahead)
    right.fill_between(ahead, *(level.mean - line + z * level.se for z in (-1.96, 1.96)), color="#9ecae1")
    right.plot(ahead, level.mean - line, lw=0.7, color="#08519c")
    right.axvline(t.max(), color="#bdbdbd", lw=0.8)
    right.set(xlabel="year", ylabel="ppm", title="Without the yearly cycle, less a straight line")
    figure.savefig(figures / "mauna_loa.png", dpi=150)
    print(f"figure written to {figures}: mauna_loa.png")
