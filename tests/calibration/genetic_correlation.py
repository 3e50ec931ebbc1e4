"""
Writes docs/genetic_correlations.md: how often intervals contain a genetic correlation, and tests reject it.

    python tests/calibration/genetic_correlation.py [replicates]
"""

import sys
from pathlib import Path

import numpy as np
import pymc as pm

import pm_fastlmm as flmm

PAGE = Path(__file__).parents[2] / "docs" / "genetic_correlations.md"
N, MARKERS, H2, LEVEL = 400, 800, 0.4, 0.95
TRUTHS = (0.0, 0.5, 1.0)
NAME = "corr_K[milk, fat]"
HEAD = """# Coverage of genetic correlations

Written by `python tests/calibration/genetic_correlation.py`. Two traits of {n} individuals, K of {markers} simulated
genotypes, h² = {h2:g} of both, residuals that are independent. {replicates} simulated data sets for each genetic
correlation r; the Monte-Carlo standard error of 95 % is {error:.1f} points. An interval that is undefined counts as one
that does not contain r.

Percentages of 95 % intervals that contain r, and their median width; of estimates on the boundary, where Σ_g is
singular; and of data sets in which a test at 5 % rejects r = 0 and r = 1.

The delta method's interval is made on the scale of atanh r, where 1 is at infinity, and is undefined on the boundary:
where the genetic correlation may be 1, take the profile.

"""


def genotypes(rng):
    """Return the spectrum of K, and a root of it."""
    G = rng.binomial(2, rng.uniform(0.1, 0.5, size=MARKERS), size=(N, MARKERS)).astype(float)
    W = (G - G.mean(axis=0)) / G.std(axis=0) / np.sqrt(MARKERS)
    return flmm.Spectrum.from_covariance(W @ W.T, np.ones((N, 1))), W


def first_fit(spectrum):
    """Return a fit of any data, to be fitted again to others."""
    with pm.Model() as model:
        sigma_g, sigma_e = (
            (root := pm.LKJCholeskyCov(name, n=2, eta=2, sd_dist=pm.HalfNormal.dist(1, shape=2))[0]) @ root.T
            for name in "ge"
        )
        flmm.MatrixLMM(
            "Y", spectrum=spectrum, Sigma_g=sigma_g, Sigma_e=sigma_e, traits=["milk", "fat"],
            observed=np.random.default_rng(0).normal(size=(2, N)),
        )  # fmt: skip
    return flmm.find_reml(model, progressbar=False)


def simulate(W, r, rng):
    """Return Y (2, n)."""
    a, b = rng.normal(size=(2, W.shape[1]))
    u = W @ np.column_stack([a, r * a + np.sqrt(1 - r**2) * b])
    return (np.sqrt(H2) * u + np.sqrt(1 - H2) * rng.normal(size=(N, 2))).T


def summary(fits, r):
    """Return the row of the table of one truth."""
    out = {}
    for title, kind in (("profile", "profile"), ("delta method", "delta")):
        low, high = np.transpose([fit.interval(NAME, kind, LEVEL) for fit in fits])
        out[title] = 100 * np.mean((low <= r) & (r <= high))
        out[f"width, {title}"] = np.nanmedian(high - low)
    out["on the boundary"] = 100 * np.mean([bool(fit.boundary) for fit in fits])
    for value in (0, 1):
        out[f"r = {value} rejected"] = 100 * np.mean([fit.test_value(NAME, value).p_value <= 0.05 for fit in fits])
    return out


def main(replicates=300):
    """Simulate, and write the page."""
    rng = np.random.default_rng(17)
    spectrum, W = genotypes(rng)
    first, rows = first_fit(spectrum), {}
    for r in TRUTHS:
        fits = [first.refit(simulate(W, r, rng).ravel()) for _ in range(replicates)]
        rows[r] = summary(fits, r)
        print(r, rows[r], flush=True)
    columns = list(next(iter(rows.values())))
    lines = [f"| r | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for r, row in rows.items():
        cells = [f"{row[name]:.2f}" if name.startswith("width") else f"{row[name]:.1f}" for name in columns]
        lines.append(f"| {r:g} | {' | '.join(cells)} |")
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / replicates)
    head = HEAD.format(n=N, markers=MARKERS, h2=H2, replicates=replicates, error=error)
    PAGE.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
