# %% [markdown]
# # As many points as patience allows
#
# The statistics of a Gaussian process on Fourier features add up over blocks of rows, so that no more than one block is
# in memory, and an interrupted pass goes on where it was. `python examples/billion_points.py --n 1000000000` streams a
# billion rows; the default is ten million.

# %%
import argparse
import time
from pathlib import Path

import numpy as np
import pymc as pm

import pm_fastlmm as flmm

BLOCK = 2_000_000
SIGMA2_E = 0.25


def truth(x):
    return np.sin(12 * x) + np.cos(5 * x)


def blocks(n):
    """Yield rows that exist here and nowhere else: in earnest this would read files."""
    for seed, start in enumerate(range(0, n, BLOCK)):
        rng = np.random.default_rng([7, seed])
        x = rng.random(min(BLOCK, n - start))
        yield x, truth(x) + np.sqrt(SIGMA2_E) * rng.standard_normal(len(x)), np.ones(len(x))


if __name__ == "__main__":  # chains run in processes, which import this file again
    parser = argparse.ArgumentParser()
    # every example takes a directory for figures; this one makes none
    parser.add_argument("figures", nargs="?")
    parser.add_argument("--n", type=int, default=10_000_000)
    parser.add_argument("--checkpoint", type=Path, help="where an interrupted pass goes on")
    arguments = parser.parse_args()
    basis = flmm.FourierBasis(
        kernel="se", lengthscale=(0.05, 0.4), domain=(0, 1), n=arguments.n
    )
    print(basis)
    start = time.perf_counter()
    statistics = flmm.FourierStatistics.from_blocks(
        basis, blocks(arguments.n), checkpoint=arguments.checkpoint, total_rows=arguments.n
    )
    print(
        f"simulated and summed {statistics.n:,} rows in {time.perf_counter() - start:.1f} s"
    )

    with pm.Model() as model:
        ell = pm.Uniform("ell", *basis.lengthscale)
        sigma2, sigma2_e = pm.HalfNormal("sigma2", 3), pm.HalfNormal("sigma2_e", 3)
        flmm.FourierLMM(
            "y", statistics=statistics, lengthscale=ell, sigma2=sigma2, sigma2_e=sigma2_e
        )
    start = time.perf_counter()
    fit = flmm.find_reml(model, progressbar=False)
    print(f"REML in {time.perf_counter() - start:.1f} s\n{fit}\n")
    start = time.perf_counter()
    with model:
        idata = flmm.sample(1000, random_seed=1, progressbar=False, quiet=True)
    print(
        f"4 chains of 1000 draws in {time.perf_counter() - start:.1f} s, compilation included"
    )
    x = np.linspace(0.01, 0.99, 200)
    curve = flmm.posterior_function(idata, model=model, draws=100).predict(x, np.ones(200))
    inside = np.abs(truth(x) - curve.mean) < 1.96 * curve.se
    print(
        f"the standard error of the function is {np.median(curve.se):.2g};"
        f" {inside.mean():.0%} of the truth is within"
    )
    assert (
        abs(idata.posterior["sigma2_e"].mean() - SIGMA2_E)
        < 5 * idata.posterior["sigma2_e"].std()
    )
    assert inside.mean() > 0.7  # 200 neighbours are some twenty independent points
