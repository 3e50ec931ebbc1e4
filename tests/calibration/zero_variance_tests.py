"""
What t tests of a mean reject where it is true, with variances of 0 known or free: `python zero_variance_tests.py`.

It prints the table of docs/tests_and_intervals.md. In a balanced one-way layout REML and Kenward–Roger's tests follow
from two mean squares: between groups where these exceed those within, pooled otherwise. What the package makes of a
pooled fit, its standard error over that of the pooled mean square and its degrees of freedom, is taken from one fit.
"""

import numpy as np
import pandas as pd
from scipy.stats import t

import pm_fastlmm as flmm

GROUPS, EACH, SETS = 6, 5, 400_000
N = GROUPS * EACH


def pooled(zero_variances):
    """Return (standard error)² over pooled mean square / N, and degrees of freedom, of a fit at 0."""
    y = np.tile([1.0, 2.0, 3.0, 5.0, 9.0], GROUPS)
    table = pd.DataFrame({"g": np.repeat(list("abcdef"), EACH), "y": y})
    fit = flmm.find_reml(flmm.lmm_model("y ~ 1 + (1 | g)", table), progressbar=False)
    row = fit.coefficients("kenward-roger", zero_variances=zero_variances).iloc[0]
    return row["se"] ** 2 * N / y.var(ddof=1), row["df"]


def main():
    """Simulate the mean squares and print."""
    rng = np.random.default_rng(1)
    at_zero = [pooled("known"), pooled("free")]
    for ratio in (0.0, 0.1, 0.2, 0.5):
        mean = rng.normal(size=SETS) * np.sqrt((1 + EACH * ratio) / N)
        between = (1 + EACH * ratio) * rng.chisquare(GROUPS - 1, SETS)
        within = rng.chisquare(N - GROUPS, SETS)
        zero = between / (GROUPS - 1) <= within / (N - GROUPS)
        cells = []
        for factor, df in at_zero:
            variance = np.where(zero, factor * (between + within) / (N - 1), between / (GROUPS - 1)) / N
            limit = np.where(zero, t.ppf(0.975, df), t.ppf(0.975, GROUPS - 1))
            rejected = np.abs(mean) > limit * np.sqrt(variance)
            cells.append((rejected.mean(), rejected[zero].mean()))
        overall, given_zero = zip(*cells, strict=True)
        print(f"| {ratio:g} | {zero.mean():.2f} |", *(f"{x:.3f} |" for x in (*overall, *given_zero)))


if __name__ == "__main__":
    main()
