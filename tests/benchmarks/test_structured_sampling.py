"""Milliseconds per effective draw of random slopes: effects integrated out, and sampled as PyMC models are written."""

import math

import arviz_stats
import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

SHARED = ("sigma_Subject", "corr_Subject", "sigma_e")
ROUNDS = 3


def plain(*, centred):
    """The model of lmm_model with its priors and with β and u sampled; u by subject, or as standard normals."""
    data = flmm.datasets.sleepstudy()
    subject, levels = data["Subject"].factorize()
    days, y = data["Days"].to_numpy(), data["Reaction"].to_numpy()
    U = np.column_stack([np.ones(len(days)), days])
    coef, rss, *_ = np.linalg.lstsq(U, y)
    s = math.sqrt(rss[0] / (len(y) - 2))
    scale = 2 * s * np.sqrt(len(y) * np.diag(np.linalg.inv(U.T @ U)))
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=2, initval=coef)
        sd = pm.HalfNormal.dist(scale, shape=2)
        start = np.diag(scale / 4)[np.tril_indices(2)]  # as lmm_model: a start that needs no C compiler
        options = {"n": 2, "eta": 2, "sd_dist": sd, "compute_corr": True, "store_in_trace": False, "initval": start}
        chol, corr, sigma = pm.LKJCholeskyCov("chol", **options)
        pm.Deterministic("sigma_Subject", sigma)
        pm.Deterministic("corr_Subject", corr[0, 1])
        sigma_e = pm.HalfNormal("sigma_e", 2 * s)
        if centred:
            u = pm.MvNormal("u", mu=np.zeros(2), chol=chol, shape=(len(levels), 2))
        else:
            u = pm.Normal("z", shape=(len(levels), 2)) @ chol.T
        pm.Normal("y", beta[0] + u[subject, 0] + (beta[1] + u[subject, 1]) * days, sigma_e, observed=y)
    return model


@pytest.fixture(scope="module")
def models():
    return {
        "effects integrated out": flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy()),
        "sampled, non-centred": plain(centred=False),
        "sampled, centred": plain(centred=True),
    }


def minimum_ess(idata):
    return min(float(values.min()) for values in arviz_stats.ess(idata, var_names=list(SHARED)).data_vars.values())


def compare(sample, models, report, sampler):
    """Report time per effective draw of each model, ratios to the first, and divergences, the models by turns."""
    cost = {name: [] for name in models}
    divergences = dict.fromkeys(models, 0)
    for seed in range(ROUNDS):
        for name in models:
            idata, seconds = sample(name, seed)
            cost[name].append(1e3 * seconds / minimum_ess(idata))
            divergences[name] += int(idata.sample_stats["diverging"].sum())
    first = next(iter(models))
    for name in models:
        figure = f"{sampler}, random slopes, {name}, per effective draw"
        report(figure, cost[name], "ms")
        report(figure, divergences[name], "", part=f"divergences in {ROUNDS} × 4 × 1000 draws")
        if name != first:
            report(figure, np.array(cost[name]) / cost[first], "times", part="as long as integrated out")


def test_pymc_after_compilation(models, report):
    """The time that PyMC records for tuning and draws, without what it compiles; each as its users call it."""

    def sample(name, seed):
        draw = flmm.sample if name == "effects integrated out" else pm.sample
        options = {"nuts_sampler": "pymc", "chains": 4, "cores": 1, "progressbar": False, "quiet": True}
        idata = draw(1000, model=models[name], random_seed=seed, **options)
        return idata, idata.sample_stats.attrs["sampling_time"]

    compare(sample, models, report, "PyMC's NUTS")


def test_nutpie_after_compilation(models, report, measure):
    nutpie = pytest.importorskip("nutpie")
    compiled = {name: nutpie.compile_pymc_model(model) for name, model in models.items()}

    def sample(name, seed):
        kept = []
        options = {"draws": 1000, "tune": 400, "chains": 4, "cores": 1, "seed": seed, "progress_bar": False}
        (seconds,) = measure.wall(lambda: kept.append(nutpie.sample(compiled[name], **options)))
        return kept[0], seconds

    for name in models:
        sample(name, ROUNDS)  # what the first call does once
    compare(sample, models, report, "nutpie")
