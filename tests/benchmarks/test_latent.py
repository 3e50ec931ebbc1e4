"""Responses that are not normal: fits beside glmer, and a binomial model over a tree beside a dense one and glmmPQL."""

import json
import resource
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

HERE = Path(__file__).parent
TABLES = HERE.parent / "reference"
SEED = 18
SPECIES, TRIALS = 11_742, 10
TRUE = {"beta": (-0.5, 0.5), "sigma": 1.0}
GROUPED = {
    "cbpp_logit": ("cbpp.csv", "incidence ~ factor(period) + (1 | herd)", {"family": "binomial", "trials": "size"}),
    "grouseticks": (
        "grouseticks.csv", "TICKS ~ factor(YEAR) + height + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
        {"family": "poisson"},
    ),
    "contraception_logit": (
        "contraception.csv", "used ~ age + age2 + urban + livch + (1 | district)", {"family": "bernoulli"},
    ),
    "contraception_slope_logit": (
        "contraception.csv", "used ~ age + age2 + urban + livch + (1 + urban | district)", {"family": "bernoulli"},
    ),
}  # fmt: skip


def rscript(*arguments):
    """Return what a script of R prints; skips without R or its packages."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    done = subprocess.run(["Rscript", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"R: {done.stderr.strip()[-200:]}")
    return done.stdout


@cache
def of_glmer():
    """Return {model: (CPU seconds of its quickest fit, log-likelihood)} of glmer."""
    lines = (line.split() for line in rscript(HERE / "glmer.R", TABLES).splitlines())
    return {name: (float(seconds), float(loglik)) for name, seconds, loglik in lines}


def table_of(file):
    """Return a table with the columns that formulas of R compute."""
    table = pd.read_csv(TABLES / file)
    if "HEIGHT" in table:
        table["height"] = (table["HEIGHT"] - table["HEIGHT"].mean()) / table["HEIGHT"].std()
    if "use" in table:
        table["used"], table["age2"] = table["use"] == "Y", table["age"] ** 2
    return table


@pytest.mark.parametrize("case", GROUPED)
def test_a_grouped_model_beside_glmer(case, measure, report):
    file, formula, options = GROUPED[case]
    table = table_of(file)

    def ours():
        return flmm.find_reml(formula, table, method="ML", progressbar=False, **options)

    fit = ours()
    seconds = measure.take_turns({"ours": measure.loop(ours)}, rounds=5)["ours"]
    figure = f"not normal, {case.replace('_', ' ')}: find_reml(method='ML')"
    report(figure, 1e3 * seconds, "ms")
    report(figure, len(fit.trace.iterations), "iterations", part="of average information")
    assert fit.converged
    peer, loglik = of_glmer()[case]
    report(figure, 1e3 * peer, "ms", part="glmer, the quickest of five")
    report(figure, seconds / peer, "×", part="beside glmer")
    assert fit.loglik > loglik - 1e-3  # glmer ends where its tolerance allows


@cache
def coalescent(n):
    """Return the Newick text of a random coalescent tree of height 1, whose tips are s0, s1 …."""
    rng = np.random.default_rng([SEED, n])
    k = np.arange(n, 1, -1)
    times = np.cumsum(rng.exponential(2 / (k * (k - 1))))
    times /= times[-1]
    nodes = [(f"s{i}", 0.0) for i in range(n)]
    for now in times:
        i, j = sorted(rng.choice(len(nodes), 2, replace=False))
        (a, age_a), (b, age_b) = nodes[i], nodes[j]
        nodes[i], nodes[j] = (f"({a}:{now - age_a:.17g},{b}:{now - age_b:.17g})", now), nodes[-1]
        nodes.pop()
    return nodes[0][0] + ";"


@cache
def simulated(n):
    """Return a tree and a table of its species: x, trials, y."""
    tree = flmm.covariance.Tree(coalescent(n))
    rng = np.random.default_rng([SEED, n, 1])
    species = [f"s{i}" for i in range(n)]
    with pm.Model():
        u = pm.draw(flmm.RelatedEffects("u", tree, sigma=TRUE["sigma"]), random_seed=SEED)
    x = rng.normal(size=n)
    eta = TRUE["beta"][0] + TRUE["beta"][1] * x + u[flmm.covariance.places(tree, species)]
    y = rng.binomial(TRIALS, 1 / (1 + np.exp(-eta)))
    return tree, pd.DataFrame({"species": species, "x": x, "trials": TRIALS, "y": y})


def integrated(n):
    """Return the model of LatentLMM."""
    tree, table = simulated(n)
    with pm.Model() as model:
        sigma = pm.HalfNormal("sigma", 1.5)
        term = flmm.Term(list(table["species"]), flmm.covariance.known(tree, sigma**2), name="species")
        X = pd.DataFrame({"Intercept": 1.0, "x": table["x"]})
        flmm.LatentLMM("y", family="binomial", trials=table["trials"], X=X, terms=[term], observed=table["y"])
    return model


def dense(n):
    """Return the model with the effects of all species as one variable, by the covariance of the tree."""
    _, table = simulated(n)
    A = flmm.covariance.phylogeny(coalescent(n)).loc[list(table["species"]), list(table["species"])]
    with pm.Model() as model:
        sigma, beta = pm.HalfNormal("sigma", 1.5), pm.Normal("beta", 0, 10, shape=2)
        u = pm.MvNormal("u", np.zeros(n), chol=np.linalg.cholesky(A))
        eta = beta[0] + beta[1] * table["x"].to_numpy() + sigma * u
        pm.Binomial("y", n=TRIALS, logit_p=eta, observed=table["y"])
    return model


def timed(work):
    """Return what work returns, its seconds, and those of the CPU in this process and its children."""
    wall, cpu = time.perf_counter(), cpu_of_all()
    result = work()
    return result, time.perf_counter() - wall, cpu_of_all() - cpu


def cpu_of_all():
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak():
    """Return the most memory that this process has had, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def sampled(model, **kwargs):
    """Return the posterior of σ and β."""
    with model:
        return flmm.sample(random_seed=SEED, progressbar=False, **kwargs)


def with_effects(model, idata):
    """Return a posterior with the effects of all nodes of the tree."""
    return flmm.recover_effects(idata, model=model, random_seed=SEED)


def test_a_binomial_model_over_a_tree_of_11_742_species(report):
    integrated_and_fitted(200)  # compiled
    before = peak()
    (model, fit), _, cpu = timed(lambda: integrated_and_fitted(SPECIES))
    figure = f"not normal, binomial over a tree of {SPECIES} species: estimate with β integrated out"
    report(figure, cpu, "s")
    report(figure, timed(lambda: flmm.find_reml(model, progressbar=False))[2], "s", part="without making the model")
    report(figure, len(fit.trace.iterations), "iterations", part="of average information")
    theta = fit.theta.to_numpy()
    state, _, value = timed(lambda: fit.objective.state(1.01 * theta))
    report(figure, 1e3 * value, "ms", part="a value, the mode searched from near")
    report(figure, 1e3 * timed(lambda: fit.objective.gradient(theta, state))[2], "ms", part="its gradient")
    report(figure, peak(), "GB", part=f"at most of this process so far, {before:.2f} GB before: run it alone")
    assert fit.converged
    assert abs(theta[0] - TRUE["sigma"] ** 2) < 0.2


def integrated_and_fitted(n):
    """Return the model and its fit; tree and table are there before."""
    simulated(n)
    model = integrated(n)
    return model, flmm.find_reml(model, progressbar=False)


def test_the_posterior_over_a_tree_of_11_742_species(report):
    small = integrated(200)
    with_effects(small, sampled(small, draws=20, chains=1))  # compiled
    model = integrated(SPECIES)
    idata, wall, cpu = timed(lambda: sampled(model, draws=1000, chains=4))
    beta_only = peak()
    idata, wall_effects, cpu_effects = timed(lambda: with_effects(model, idata))
    figure = f"not normal, binomial over a tree of {SPECIES} species: posterior of σ and β, and effects"
    report(figure, wall + wall_effects, "s")
    report(figure, cpu + cpu_effects, "s", part="of CPU, in all processes")
    report(figure, cpu, "s", part="of CPU, σ and β: 4 × 1000 draws")
    report(figure, cpu_effects, "s", part="of CPU, effects of all nodes at each draw")
    report(figure, beta_only, "GB", part="at most of this process, without effects: run it alone")
    report(figure, peak(), "GB", part="at most of this process, with them")
    report(figure, effective(idata.posterior["sigma"]), "draws", part="effective, of σ")
    low, high = idata.posterior["sigma"].quantile([0.005, 0.995], ("chain", "draw")).to_numpy()
    assert low < TRUE["sigma"] < high


def posterior_of(n, **kwargs):
    """Return the posterior of σ, β and the effects over a tree of n species."""
    model = integrated(n)
    return with_effects(model, sampled(model, **kwargs))


def effective(draws):
    """Return the effective number of draws of σ (chain, draw)."""
    return float(az.ess(np.asarray(draws)))


def of_glmmpql(n, folder):
    """Return what glmm_peers.R prints of MASS::glmmPQL for the same data."""
    _, table = simulated(n)
    (folder / "tree.nwk").write_text(coalescent(n))
    table.to_csv(folder / "tips.csv", index=False)
    return json.loads(rscript(HERE / "glmm_peers.R", "fit", "pql", folder / "tree.nwk", folder / "tips.csv"))


def test_a_tree_beside_a_dense_latent_model(measure, report):
    """σ by NUTS over all effects, whose covariance is a matrix: what an effective draw costs, short runs."""
    nutpie = pytest.importorskip("nutpie")
    of_ours, of_dense = {}, {}
    for n in (500, 1000):
        posterior_of(n, draws=20, chains=1)  # compiled
        idata, _, cpu = timed(lambda n=n: posterior_of(n, draws=1000, chains=2))
        of_ours[n] = cpu / effective(idata.posterior["sigma"])
        figure = f"not normal, binomial over a tree of {n} species: an effective draw of σ"
        report(figure, 1e3 * of_ours[n], "ms")
        report(figure, cpu, "s", part="2000 draws with β and the effects")
        compiled = nutpie.compile_pymc_model(dense(n))
        settings = {"tune": 200, "draws": 200, "chains": 1, "seed": SEED, "progress_bar": False}
        idata, _, cpu = timed(lambda compiled=compiled, settings=settings: nutpie.sample(compiled, **settings))
        of_dense[n] = cpu / 2 / effective(idata.posterior["sigma"])  # the half of the run that is no warm-up
        steps = float(idata.sample_stats["n_steps"].mean())
        report(figure, 1e3 * of_dense[n], "ms", part="by pm.MvNormal and nutpie, warm-up not counted")
        report(figure, steps, "steps", part="a draw of it")
        report(figure, 1e3 * cpu / (400 * steps), "ms", part="a value and gradient of it, about")
        report(figure, of_ours[n] / of_dense[n], "×", part="beside it")
    figure = "not normal, binomial over a tree: 1000 species beside 500, an effective draw of σ"
    report(figure, of_ours[1000] / of_ours[500], "×")
    report(figure, of_dense[1000] / of_dense[500], "×", part="by pm.MvNormal and nutpie")


def test_a_tree_beside_glmmpql(report, tmp_path):
    of_ours, of_peer = {}, {}
    for n in (500, 1000):
        integrated_and_fitted(n)  # compiled
        (_, fit), _, of_ours[n] = timed(lambda n=n: integrated_and_fitted(n))
        figure = f"not normal, binomial over a tree of {n} species: estimate"
        report(figure, of_ours[n], "s")
        report(figure, float(fit.theta.iloc[0]), "", part="σ²")
        peer = of_glmmpql(n, tmp_path)
        of_peer[n] = peer["cpu"]
        report(figure, peer["cpu"], "s", part="MASS::glmmPQL")
        report(figure, peer["sigma2"], "", part="σ² of glmmPQL")
        report(figure, of_ours[n] / peer["cpu"], "×", part="beside glmmPQL")
        assert fit.converged
    figure = "not normal, binomial over a tree: 1000 species beside 500, estimate"
    report(figure, of_ours[1000] / of_ours[500], "×")
    report(figure, of_peer[1000] / of_peer[500], "×", part="MASS::glmmPQL")
