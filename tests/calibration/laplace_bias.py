"""
Writes docs/laplace_bias.md: how far Laplace's approximation, PQL and exact inference estimate the variance of groups.

    python tests/calibration/laplace_bias.py [data sets of a case] [of them sampled by NUTS]

PQL is MASS::glmmPQL of R, by laplace_bias.R; without R its rows are left out.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import nutpie
import pandas as pd
import pymc as pm
from scipy.optimize import minimize, minimize_scalar
from scipy.special import gammaln, log_expit, logsumexp
from scipy.stats import chi2

import pm_fastlmm as flmm
from pm_fastlmm.aireml.iteration import Tolerances
from pm_fastlmm.engines.latent.node import LatentNode
from pm_fastlmm.families.choice import family_of
from pm_fastlmm.fitting.estimate import Options, estimate

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "laplace_bias.md"
LEVELS, VARIANCE, RECORDS, LEVEL = 100, 1.0, (1, 2, 5, 20), 0.95
FAMILIES = {"bernoulli": "Yes or no (logit)", "poisson": "Counts (Poisson, log)"}
PRIOR = 2.5  # scale of the half-normal prior of σ where NUTS samples
ZERO = 1e-3  # a variance below is at 0, which glmmPQL cannot reach
HEAD = """# Variances of responses that are not normal

Written by `python tests/calibration/laplace_bias.py`. {levels} groups, whose effects on η are normal with variance
σ² = 1 and an intercept of 0; 1, 2, 5 or 20 records of each group. {replicates} simulated data sets of each case,
the first {sampled} of them sampled by NUTS. How far is the estimate of σ² from 1?

* *Laplace (REML)* is `find_reml(…)`, β integrated out; *Laplace (ML)* is `method="ML"`, as glmer and glmmTMB fit.
* *PQL* is penalised quasi-likelihood, `MASS::glmmPQL` of R with the dispersion held at 1.
* *Exact likelihood* is maximised without approximation, each effect integrated out over a fine grid.
* *NUTS* samples all effects (`RelatedEffects`, `lmm_model(…, effects="sampled")`), with σ ~ HalfNormal({prior:g})
  and the intercept N(0, 3²); its estimate is the posterior median.

The tables have the mean of the estimates with its Monte Carlo error, their median, the percentage that is 0, and of
95 % intervals of σ (profile likelihood; quantiles of draws) the median ends and how many percent contain 1. The
Monte Carlo error of 95 % is {point:.1f} points, of NUTS {few:.1f}. A yes or no that is asked ten times of a group
is a binomial of ten trials: rows of binomial data count with their trials.
"""
TABLE = """
## {title}

| records | method | mean σ² | median | at 0, % | interval of σ | covers, % |
|---|---|---|---|---|---|---|
"""
MEANING = """
## What this means

**One yes or no of each group says nothing about σ²**, only that yes is so or so frequent: the exact likelihood,
with β maximised, is the same for every σ (to {flat:.0e} here). Nothing can be estimated, and what a method prints
is of its own making: Laplace's method ends at 0 in {at_zero:.0f} % (ML) or near {of_reml:.2f} whatever the data
(REML), and its intervals look like knowledge: they end near σ = {end:.1f}. NUTS gives back what the priors say,
with intervals that reach {nuts:.1f}. A tree, a pedigree or markers are better off, since relatives act as repeated
records, but the warning stands: `fit.check_laplace()` measures it for the data at hand.

**Two to five yes or no** identify σ², and Laplace's method has it too low (by {two:.0f} % of the exact estimate
with two records, by ML); PQL is lower still. Profile intervals inherit the bias: they contain the truth less often
than they say. Take the exact model instead, `lmm_model(…, effects="sampled")` or `RelatedEffects` in a model of
your own, with a prior of σ that you mean: few records leave a wide posterior, whose upper half depends on it.

**Twenty yes or no**, or twenty trials of a binomial, and the bias of Laplace's method is within its Monte Carlo
error, while that of PQL is not.

**Counts** that are not mostly 0 carry more: Laplace's method is off by some percent with one count a group whose
mean is near 1 and by next to nothing from two on. PQL is not.

REML or ML matters little here, as one intercept is estimated from a hundred groups; with many fixed effects and few
groups ML has variances too low, as everywhere.
"""
GROUPS = [f"g{i}" for i in range(LEVELS)]
Z = np.linspace(-9.0, 9.0, 1201)  # of the quadrature: so fine that a sum is the integral
HIGHEST = 50.0  # σ at which the search for the exact estimate ends
LAPLACE = {"Laplace (REML)": "REML", "Laplace (ML)": "ML"}
EXACT, PQL, NUTS = "exact likelihood (ML)", "PQL", "NUTS"
ORDER = (*LAPLACE, PQL, EXACT, NUTS)


def simulate(family, records, rng):
    """Return the total of each level: η of a level is normal with mean 0 and variance 1."""
    eta = np.sqrt(VARIANCE) * rng.normal(size=LEVELS)
    if family == "poisson":
        return rng.poisson(records * np.exp(eta)).astype(float)
    return rng.binomial(records, 1 / (1 + np.exp(-eta))).astype(float)


def laplace(family, records, total, method):
    """Return the fit by Laplace's method; totals of a level are sufficient for its records."""
    own = family_of("poisson") if family == "poisson" else family_of("binomial", trials=np.full(LEVELS, records))
    offset = np.full(LEVELS, np.log(records) if family == "poisson" else 0.0)
    term = flmm.Term(GROUPS, flmm.covariance.scalar(1.0), name="group")
    X = pd.DataFrame({"Intercept": np.ones(LEVELS)})
    node = LatentNode.from_terms("y", [term], X, total, None, family=own, mu=offset)
    options = Options(method, None, (), None, Tolerances(), 100, False, 0)
    return estimate(node.likelihood(node.constants(), method), None, node, options)


def of_laplace(family, records, total, method):
    """Return σ², the ends of the profile interval of σ, and whether it has the truth; NaN without convergence."""
    fit = laplace(family, records, total, method)
    if not fit.converged:
        return (np.nan,) * 4
    low, high = fit.interval("sd_group", "profile", LEVEL)
    return fit.theta.iloc[0], low, high, low <= np.sqrt(VARIANCE) <= high


class Exact:
    """The likelihood of a data set without approximation: a sum over a fine grid of the effect of a level."""

    def __init__(self, family, records, total):
        self.family, self.records = family, records
        self.total, self.count = np.unique(total, return_counts=True)

    def loglik(self, beta, sigma):
        """Return log p(y | β, σ)."""
        eta, y, m = beta + sigma * Z, self.total[:, None], self.records
        if self.family == "poisson":
            log_p = y * (eta + np.log(m)) - m * np.exp(eta) - gammaln(y + 1)
        else:
            log_p = y * log_expit(eta) + (m - y) * log_expit(-eta)
            log_p += gammaln(m + 1) - gammaln(y + 1) - gammaln(m - y + 1)
        weights = -0.5 * Z**2 - 0.5 * np.log(2 * np.pi) + np.log(Z[1] - Z[0])
        return float(self.count @ logsumexp(log_p + weights, axis=1))

    def profile(self, sigma):
        """Return log p(y | σ) with β maximised."""
        width = 3 + 3 * sigma
        found = minimize_scalar(lambda b: -self.loglik(b, sigma), bounds=(-width, width), method="bounded")
        return -found.fun

    def estimate(self):
        """Return σ², whether the profile interval of σ has the truth, and the highest log-likelihood."""
        found = minimize(
            lambda x: -self.loglik(x[0], x[1]), (0.0, 0.8), method="Nelder-Mead",
            bounds=[(-100, 100), (0, HIGHEST)], options={"xatol": 1e-5, "fatol": 1e-9, "maxiter": 2000},
        )  # fmt: skip
        at_zero = self.profile(0.0)
        variance, highest = (0.0, at_zero) if at_zero >= -found.fun - 1e-9 else (found.x[1] ** 2, -found.fun)
        inside = 2 * (highest - self.profile(np.sqrt(VARIANCE))) <= chi2.ppf(LEVEL, 1)
        return variance, inside


@cache
def sampler(family, centred):
    """Return the compiled model of a family, whose records and totals are exchanged."""
    with pm.Model() as model:
        records, total = pm.Data("records", np.ones(LEVELS)), pm.Data("total", np.ones(LEVELS))
        sigma = pm.HalfNormal("sigma", PRIOR)
        eta = pm.Normal("beta", 0, 3) + flmm.RelatedEffects("u", np.array(GROUPS), sigma=sigma, centred=centred)
        if family == "poisson":
            pm.Poisson("y", records * pm.math.exp(eta), observed=total)
        else:
            pm.Binomial("y", n=records.astype(int), logit_p=eta, observed=total)
    return nutpie.compile_pymc_model(model)


def of_nuts(family, records, total, seed):
    """Return the posterior median of σ², the ends of the 95 % interval of σ, and whether it has the truth."""
    compiled = sampler(family, records >= 5).with_data(records=np.full(LEVELS, float(records)), total=total)
    settings = {"draws": 1000, "tune": 500, "chains": 2, "progress_bar": False}
    sigma = nutpie.sample(compiled, seed=seed, target_accept=0.9, **settings).posterior["sigma"].to_numpy().ravel()
    low, high = np.quantile(sigma, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return np.median(sigma**2), low, high, low <= np.sqrt(VARIANCE) <= high


def of_pql(sets):
    """Return σ² of each data set by MASS::glmmPQL; None without R."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.csv"
        rows = [pd.DataFrame({"set": i, "family": family, "level": GROUPS, "records": records, "total": total})
                for i, (family, records, total) in enumerate(sets)]  # fmt: skip
        pd.concat(rows).to_csv(file, index=False)
        command = ["Rscript", str(HERE / "laplace_bias.R"), str(file)]
        printed = subprocess.run(command, capture_output=True, text=True, check=False)
    if printed.returncode:
        print(f"without PQL: {printed.stderr.strip()}")
        return None
    found = dict(line.split() for line in printed.stdout.splitlines())
    return np.array([float("nan" if found[str(i)] == "NA" else found[str(i)]) for i in range(len(sets))])


def summary(variance, low=None, high=None, inside=None):
    """Return the row of a method: what its estimates of σ² are, and how many intervals have the truth."""
    known = np.asarray(variance)[np.isfinite(variance)]
    return {
        "missing": len(variance) - len(known),
        "mean": known.mean(), "error": known.std(ddof=1) / np.sqrt(len(known)), "median": np.median(known),
        "zero": 100 * np.mean(known < ZERO), "low": np.nan if low is None else np.nanmedian(low),
        "high": np.nan if high is None else np.nanmedian(high),
        "covered": np.nan if inside is None else 100 * np.nanmean(inside),
    }  # fmt: skip


def of_case(family, records, replicates, sampled, rng):
    """Return the row of each method, and the data sets; R comes later, for all cases at once."""
    totals = [simulate(family, records, rng) for _ in range(replicates)]
    rows = {}
    for title, method in LAPLACE.items():
        rows[title] = summary(*np.transpose([of_laplace(family, records, total, method) for total in totals]))
    exact = [Exact(family, records, total) for total in totals]
    if family == "bernoulli" and records == 1:
        profiles = [[one.profile(sigma) for sigma in (0.0, 1.0, 3.0)] for one in exact]
        rows[EXACT] = {"flat": float(np.ptp(profiles, axis=1).max())}
    else:
        variance, inside = np.transpose([one.estimate() for one in exact])
        rows[EXACT] = summary(variance, inside=inside)
    seeds = rng.integers(2**31, size=sampled)
    drawn = [of_nuts(family, records, total, int(seed)) for total, seed in zip(totals, seeds, strict=False)]
    if drawn:
        rows[NUTS] = summary(*np.transpose(drawn))
    return rows, totals


def page(cases, replicates, sampled):
    """Return the page."""
    points = np.sqrt(LEVEL * (1 - LEVEL)) * 100
    one, two = cases["bernoulli", 1], cases["bernoulli", 2]
    text = HEAD.format(
        levels=LEVELS, replicates=replicates, sampled=sampled, prior=PRIOR, point=points / np.sqrt(replicates),
        few=points / np.sqrt(max(sampled, 1)),
    )  # fmt: skip
    for family, title in FAMILIES.items():
        text += TABLE.format(title=title)
        text += "\n".join(line(records, name, cases[family, records][name])
                          for records in RECORDS for name in ORDER if name in cases[family, records])  # fmt: skip
        text += "\n"
    rows = [row for case in cases.values() for row in case.values()]
    if missing := sum(row.get("missing", 0) for row in rows):
        text += f"\n{missing} of the fits did not converge, and are left out.\n"
    reml, ml = (one[name] for name in LAPLACE)
    return text + MEANING.format(
        at_zero=ml["zero"], of_reml=reml["median"], end=reml["high"], nuts=one.get(NUTS, {"high": np.nan})["high"],
        two=100 * (two[EXACT]["mean"] - two["Laplace (ML)"]["mean"]) / two[EXACT]["mean"], flat=one[EXACT]["flat"],
    )  # fmt: skip


def line(records, title, row):
    """Return a row of the table."""
    if "flat" in row:
        return f"| {records} | {title} | none: the likelihood is flat | | | | |"
    covered = "" if np.isnan(row["covered"]) else f"{row['covered']:.0f}"
    ends = "" if np.isnan(row["high"]) else f"{row['low']:.2f} – {row['high']:.2f}"
    values = f"{row['mean']:.2f} ± {row['error']:.2f} | {row['median']:.2f} | {row['zero']:.0f} | {ends} | {covered}"
    return f"| {records} | {title} | {values} |"


def main(replicates=200, sampled=60):
    """Simulate, and write the page."""
    cases, sets = {}, []
    for family in FAMILIES:
        for records in RECORDS:
            rng = np.random.default_rng([18, records, len(family)])
            cases[family, records], totals = of_case(family, records, replicates, sampled, rng)
            sets += [(family, records, total) for total in totals]
            print(family, records, cases[family, records], flush=True)
    if (variances := of_pql(sets)) is not None:
        for (case, rows), own in zip(cases.items(), variances.reshape(len(cases), replicates), strict=True):
            rows[PQL] = summary(own)
            print(*case, rows[PQL], flush=True)
    PAGE.write_text(page(cases, replicates, sampled))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
