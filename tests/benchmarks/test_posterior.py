"""The posterior of an animal model, by quadrature and by NUTS on the interpolated likelihood: time, and error."""

import resource
import time
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from arviz_stats import ess
from herds import simulate_herds

import pm_fastlmm as flmm
from pm_fastlmm.quadrature.likelihood import Likelihood

pytestmark = pytest.mark.benchmark

CASES = {
    "10 000 animals": (10_000, {}, False),
    "10 000 animals, permanent environment": (10_000, {}, True),
    "100 000 animals": (100_000, {}, False),
    "100 000 animals, permanent environment": (100_000, {}, True),
    "1 000 000 animals": (1_000_000, {"sires": 60, "move": 0.01}, False),
}


def animal_model(n, options, permanent):
    """A fit to records of cows, one to three each, of animals whose breeding values follow their pedigree."""
    herds, rng = simulate_herds(n, **options), np.random.default_rng(1)
    u, shock = np.zeros(n), rng.normal(size=n)
    for i, (s, d) in enumerate(zip(herds.sire, herds.dam, strict=True)):
        known = [p for p in (s, d) if p >= 0]
        u[i] = u[known].sum() / 2 + np.sqrt(0.3 * (1 - len(known) / 4)) * shock[i]
    cows = np.flatnonzero(~herds.male)
    own, pe = np.repeat(cows, rng.integers(1, 4, size=len(cows))), np.sqrt(0.1) * rng.normal(size=n)
    y = u[own] + permanent * pe[own] + np.sqrt(0.6) * rng.normal(size=len(own))
    names = np.char.add("a", np.arange(n).astype(str)).astype(object)
    parents = [np.where(p < 0, None, names[p]) for p in (herds.sire, herds.dam)]
    data = pd.DataFrame({"y": y, "animal": names[own], "pe": names[own]})
    formula = "y ~ 1 + (1 | animal)" + " + (1 | pe)" * permanent
    known = {"animal": flmm.covariance.Pedigree(names, *parents)}
    return flmm.find_reml(formula, data, known=known, progressbar=False)


@pytest.mark.parametrize("case", CASES)
def test_beyond_the_fit(case, measure, report):
    fit = animal_model(*CASES[case])
    rounds = 1 if fit.objective.n > 50_000 else 3
    theta, found = fit.theta.to_numpy(), []
    loops = {
        "posterior": measure.loop(lambda: found.append(fit.posterior(random_seed=1, progressbar=False))),
        "evaluation": measure.loop(lambda: fit.objective.state(theta)),
    }
    counts = {"posterior": 1, "evaluation": 3}
    seconds = measure.take_turns(loops, rounds=rounds, counts=counts)
    posterior = found[-1]
    figure = f"posterior by quadrature, {case}, {fit.objective.n} records"
    report(figure, seconds["posterior"], "s")
    report(figure, posterior.evaluations, "", part="evaluations of the likelihood")
    report(figure, seconds["posterior"] / seconds["evaluation"], "×", part="one evaluation")
    report(figure, posterior.loglik_error, "", part="error of the log-likelihood at draws")
    report(figure, _error_in_region(fit, posterior), "", part="at 12 places of the whole region")


@pytest.mark.parametrize("case", ["10 000 animals, permanent environment", "100 000 animals, permanent environment"])
def test_nuts(case, report, monkeypatch):
    """CPU of 4 × 1000 draws, that of the processes of chains included: for the interpolant, and after it."""
    module, spent = import_module("pm_fastlmm.posterior.sample"), []
    make = module.interpolate
    monkeypatch.setattr(module, "interpolate", lambda *args, **options: spent.append(_timed(make, *args, **options)[1]))
    fit = animal_model(*CASES[case])
    model, figure = fit.model, f"NUTS on the interpolated likelihood, {case}, 4 × 1000 draws"
    for run in ("first", "second"):
        options = {"model": model, "random_seed": 1, "progressbar": False, "quiet": True}
        tree, seconds = _timed(flmm.sample, 1000, **options)
        report(figure, seconds - spent[-1], "s", part=f"{run} run, beside the interpolant")
    theta = fit.theta.to_numpy()
    _, exact = _timed(lambda: fit.objective.gradient(theta, fit.objective.state(theta)))
    steps, attributes = int(tree.sample_stats["n_steps"].sum()), tree.posterior.attrs
    report(figure, spent[-1], "s", part="the interpolant, REML included")
    report(figure, attributes["y_loglik_evaluations"], "", part="evaluations for it")
    report(figure, steps, "", part="steps of NUTS")
    report(figure, exact, "s", part="one evaluation with its gradient")
    report(figure, attributes["y_loglik_error"], "", part="error of the log-likelihood at draws")
    report(figure, attributes["y_loglik_draws_outside"], "", part="draws outside the region")
    report(figure, float(ess(tree.posterior["sigma_animal"])), "", part="effective draws of the sd of breeding values")


def _timed(work, *args, **options):
    start = _cpu()
    return work(*args, **options), _cpu() - start


def _cpu():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _error_in_region(fit, posterior):
    interpolated, ratios = posterior._found.interpolated, posterior._ratios
    at = np.random.default_rng(5).uniform(0.001, 0.999, size=(12, len(posterior.nodes)))
    r, pieces = interpolated.at(at)
    likelihood = Likelihood(fit.objective, ratios.unit, float(ratios.unit @ fit.theta), lambda done, note: None)
    exact = [float(ratios.log_likelihood(likelihood(row))) for row in r]
    return np.abs(ratios.log_likelihood(pieces) - exact).max()
