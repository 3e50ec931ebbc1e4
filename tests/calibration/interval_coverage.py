"""
Writes docs/coverage.md: how often intervals contain the truth, and tests reject it.

    python tests/calibration/interval_coverage.py [replicates]
"""

import sys
from pathlib import Path

import numpy as np

import pm_fastlmm as flmm

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
H2 = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)
SIZES = (50, 200)
LEVEL = 0.95
EACH, REPLICATES = 200, 400  # responses for what is made one by one, and draws of each bootstrap
HEAD = """# Coverage

Written by `python tests/calibration/interval_coverage.py`. Full sibs in families of 1 to 8 \
(K has 1 on its diagonal and ½ within a
family), an intercept, a covariate of each person and one of each family. \
Percentages of {many} simulated responses whose
95 % interval contains the truth, of {few} where the column has an asterisk; the Monte-Carlo standard error of 95 % is
{many_error:.1f} and {few_error:.1f} points. An interval that is undefined counts as one that does not contain it.
"""


def families(n, rng):
    """Return the spectrum of n full sibs, and a root of K."""
    family = np.repeat(np.arange(n), rng.integers(1, 9, size=n))[:n]
    K = np.where(np.equal.outer(family, family), 0.5, 0.0) + 0.5 * np.eye(n)
    X = np.column_stack([np.ones(n), rng.normal(size=n), rng.normal(size=n)[family]])
    return flmm.Spectrum.from_covariance(K, X), np.linalg.cholesky(K)


def share(low, high, truth):
    """Return the percentage of intervals that contain the truth."""
    return 100 * np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high)))


def of_h2(fits, h2, rng):
    """Coverage of intervals of h²."""
    seed = int(rng.integers(2**31))
    out = {"profile": share(*fits.interval("h2", "profile", LEVEL), h2)}
    out["inversion"] = share(*fits.interval("h2", "inversion", LEVEL, n_sim=10_000, random_seed=seed), h2)
    ends = {"bootstrap, percentile*": "percentile", "bootstrap, basic*": "basic"}
    drawn = [fits.response(name).bootstrap(REPLICATES, random_seed=rng) for name in fits.names[:EACH]]
    for title, kind in ends.items():
        out[title] = share(*np.transpose([d.interval("h2", LEVEL, kind=kind) for d in drawn]), h2)
    delta = fits.intervals("delta", LEVEL, quantities=["h2"])
    out["delta method"] = share(delta["lower"], delta["upper"], h2)
    return out


def of_others(fits, h2):
    """Coverage of profile intervals of a variance, and of intervals of the coefficient of a covariate of families."""
    few = [fits.response(name) for name in fits.names[:EACH]]
    out = {}
    for title, name, truth in (
        ("σ²_g, profile*", "sigma2_g", h2), ("σ²_e, profile*", "sigma2_e", 1 - h2), ("β, profile*", "beta[x2]", 0.0)
    ):  # fmt: skip
        out[title] = share(*np.transpose([fit.interval(name, "profile", LEVEL) for fit in few]), truth)
    for title, df in (("β, Satterthwaite", "satterthwaite"), ("β, Kenward–Roger", "kenward-roger")):
        table = fits.coefficients(df, LEVEL).xs("x2", level="coef")
        out[title] = share(table["lower"], table["upper"], 0.0)
    normal = fits.intervals("delta", LEVEL, quantities=["beta[x2]"])
    out["β, normal"] = share(normal["lower"], normal["upper"], 0.0)
    return out


def of_tests(fits, rng):
    """Percentage of rejections of h² = 0 at 5 %."""
    test = fits.test_no_variance(n_sim=20_000, random_seed=rng)
    return {"exact": 100 * np.mean(test.p_value <= 0.05), "½χ²₀ + ½χ²₁": 100 * np.mean(test.p_value_mixture <= 0.05)}


def table(title, rows):
    """Return a markdown table of rows by (n, h²)."""
    columns = list(next(iter(rows.values())))
    lines = [f"\n## {title}\n", f"| n | h² | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    lines += [
        f"| {n} | {h2:g} | {' | '.join(f'{row[column]:.1f}' for column in columns)} |" for (n, h2), row in rows.items()
    ]
    return lines


def main(replicates=4000):
    """Simulate, and write the page."""
    rng = np.random.default_rng(20)
    intervals, others, tests = {}, {}, {}
    for n in SIZES:
        spectrum, root = families(n, rng)
        for h2 in H2:
            genetic, noise = rng.normal(size=(2, n, replicates))
            Y = np.sqrt(h2) * (root @ genetic) + np.sqrt(1 - h2) * noise
            fits = flmm.reml(spectrum, Y)
            intervals[n, h2], others[n, h2], tests[n, h2] = (
                of_h2(fits, h2, rng),
                of_others(fits, h2),
                of_tests(fits, rng),
            )
            print(n, h2, intervals[n, h2], others[n, h2], tests[n, h2], flush=True)
    errors = {name: 100 * np.sqrt(LEVEL * (1 - LEVEL) / m) for name, m in (("many", replicates), ("few", EACH))}
    head = HEAD.format(many=replicates, few=EACH, many_error=errors["many"], few_error=errors["few"])
    lines = table("Intervals of h²", intervals)
    lines += table("Intervals of variances and of a coefficient", others)
    lines += table("Rejections of h² = 0 at 5 %", tests)
    PAGE.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
