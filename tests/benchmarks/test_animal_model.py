"""REML of animal models from a pedigree and a table: how it grows, beside the factorisations that it is made of."""

import resource
import sys
import time

import numpy as np
import pandas as pd
import pytest
from herds import pedigree_columns, simulate_herds, simulate_records

import pm_fastlmm as flmm
from pm_fastlmm.aireml.iteration import Tolerances
from pm_fastlmm.fitting.estimate import Options
from pm_fastlmm.fitting.formula import OfFormula
from pm_fastlmm.models.mixed_terms import mixed_node

pytestmark = pytest.mark.benchmark

FIXED = "y ~ factor(herd_year) + (1 | animal)"
REPEATED = "y ~ 1 + (1 | herd_year) + (1 | animal) + (1 | permanent)"
CASES = {
    "3000 animals in herds": (3000, {}, REPEATED),
    "10 000 animals in herds": (10_000, {}, REPEATED),
    "100 000 animals in herds": (100_000, {}, REPEATED),
    "10 000 animals mating at random": (10_000, {"move": 1.0, "sires": 500}, REPEATED),
    "100 000 animals in herds, herd × generation fixed": (100_000, {}, FIXED),
    "a million animals in herds, herd × generation fixed": (1_000_000, {"move": 0.01, "sires": 60}, FIXED),
    "a million animals in herds": (1_000_000, {"move": 0.01, "sires": 60}, "y ~ 1 + (1 | herd_year) + (1 | animal)"),
}


def timed(work):
    """Return what work returns, and its seconds of CPU."""
    start = time.process_time()
    return work(), time.process_time() - start


@pytest.mark.parametrize("case", CASES)
def test_fit_of_an_animal_model(case, report):
    n, options, formula = CASES[case]
    fit_of(*simulated(500, {}), formula)  # compiled
    pedigree, table = simulated(n, options)
    known = {"animal": pedigree}
    design, reading = timed(lambda: flmm.MixedDesign.from_formula(formula, table))
    node, arranging = timed(lambda: arranged(design, known))
    fit, iterations = timed(lambda: OfFormula(design, known, OPTIONS).fit(node))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    effects, afterwards = timed(lambda: fit.effects("animal"))
    factorisation, inverse = evaluated(fit)
    figure = f"animal model, {case}, {len(table)} records: fit"
    report(figure, reading + arranging + iterations, "s")
    report(figure, reading, "s", part="the formula and its table")
    report(figure, arranging, "s", part="equations, their order and analysis")
    report(figure, iterations, "s", part="iterations")
    report(figure, len(fit.trace.iterations), "iterations", part="of average information")
    report(figure, factorisation + inverse, "s", part="one likelihood with its gradient")
    report(figure, iterations / (factorisation + inverse), "×", part="iterations / one likelihood with its gradient")
    report(figure, afterwards, "s", part=f"effects of {len(effects)} animals with their errors")
    report(figure, node.products.equations.analysis.nnz / 1e6, "million", part="entries of L")
    report(figure, peak, "GB", part="at most of this process so far, simulation included: run a case alone")
    assert fit.converged


OPTIONS = Options("REML", None, (), None, Tolerances(), 100, False, 0)  # those of find_reml


def arranged(design, known):
    """Return the node of a design, whose equations are analysed."""
    node = mixed_node(design, known)
    assert node.products.equations.analysis.nnz
    return node


def evaluated(fit):
    """Return the seconds of a factorisation and of a gradient, which has the selected inverse, the best of two."""
    theta = fit.theta.to_numpy()

    def once():
        state, factorisation = timed(lambda: fit.objective.state(theta))
        return factorisation, timed(lambda: fit.objective.gradient(theta, state))[1]

    return np.min([once(), once()], axis=0)


@pytest.mark.parametrize("residual", ["one variance", "two variances", "two traits"])
def test_fit_with_residuals_of_several_variances(residual, report):
    pedigree, table = simulated(100_000, {})
    table["half"] = np.where(table["animal"] % 2, "odd", "even")
    formula, options = REPEATED, {} if residual == "one variance" else {"residual": "half"}
    if residual == "two traits":  # the second of every other record
        first = table[["animal", "y"]].assign(record=range(len(table)), trait="milk")
        second = first[::2].assign(trait="fat", y=first["y"] / 2 + np.random.default_rng(0).normal(size=len(first)))
        table = pd.concat([first, second], ignore_index=True)
        formula, options = "y ~ 0 + trait + (0 + trait | animal)", {"residual": "(0 + trait | record)"}
    fit_of(*simulated(500, {}), REPEATED)  # compiled
    fit, seconds = timed(lambda: fit_of(pedigree, table, formula, **options))
    factorisation, inverse = evaluated(fit)
    figure = f"animal model, 100 000 animals, residuals of {residual}, {len(table)} rows: fit"
    report(figure, seconds, "s")
    report(figure, len(fit.trace.iterations), "iterations", part="of average information")
    report(figure, factorisation + inverse, "s", part="one likelihood with its gradient")
    assert fit.converged


def simulated(n, options):
    """Return a pedigree and its records."""
    herds = simulate_herds(n, **options)
    return flmm.covariance.Pedigree(*pedigree_columns(herds)), simulate_records(herds)


def fit_of(pedigree, table, formula, **options):
    """Fit by REML."""
    return flmm.find_reml(formula, table, known={"animal": pedigree}, progressbar=False, **options)
