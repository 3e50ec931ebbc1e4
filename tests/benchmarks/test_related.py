"""Effects with a known relation: value and gradient of a Poisson model through nutpie, beside what any model costs."""

import numpy as np
import pymc as pm
import pytest
from herds import pedigree_columns, simulate_herds

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

SEED = 18


def poisson_model(n, *, related, centred=False):
    """One record of each animal; without relation the effects are the white noise."""
    relation = flmm.covariance.Pedigree(*pedigree_columns(simulate_herds(n, seed=SEED)))
    y = np.random.default_rng(SEED).poisson(8.0, size=n)
    with pm.Model() as model:
        sigma = pm.HalfNormal("sigma", 0.3)
        u = flmm.RelatedEffects("u", relation if related else np.arange(n), sigma=sigma, centred=centred)
        pm.Poisson("y", pm.math.exp(2.0 + u), observed=y)
    return model


def test_value_and_gradient_of_a_pedigree_beside_independent_effects(measure, report):
    seconds = {}
    for n in (10_000, 100_000):
        kinds = {"independent": {"related": False}, "pedigree": {"related": True}}
        kinds["pedigree, centred"] = {"related": True, "centred": True}
        loops = {kind: measure.through_nutpie(poisson_model(n, **kwargs)) for kind, kwargs in kinds.items()}
        taken = measure.take_turns(loops)
        for kind in ("pedigree", "pedigree, centred"):
            seconds[kind, n] = taken[kind]
            report(f"{kind}, {n} animals, Poisson: value and gradient through nutpie", 1e3 * taken[kind], "ms")
            report(f"{kind}, {n} animals, Poisson: beside independent effects", taken[kind] / taken["independent"], "×")
    growth = seconds["pedigree", 100_000] / seconds["pedigree", 10_000]
    report("a pedigree of 100 000 animals beside one of 10 000: value and gradient", growth, "×")
