"""Reading a formula with random slopes, against formulae, and how its cost grows with the levels."""

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

FORMULA = "y ~ x + (x | g)"


def table(levels, n=20_000):
    rng = np.random.default_rng(levels)
    g = np.concatenate([np.arange(levels), rng.integers(0, levels, n - levels)])
    return pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n), "g": g.astype(str)})


def design(data):
    [term] = flmm.MixedDesign.from_formula(FORMULA, data).random
    return term.term(flmm.covariance.identity()).Z


@pytest.mark.parametrize("levels", [1000, 4000])
def test_design_against_formulae(levels, measure, report):
    formulae = pytest.importorskip("formulae")
    data = table(levels)

    def peer():
        return formulae.design_matrices(FORMULA, data).group

    group = peer()
    assert group["x|g"].shape == (len(data), levels)
    assert design(data).shape == (len(data), 2 * levels)
    seconds = measure.take_turns({"ours": measure.loop(lambda: design(data)), "formulae": measure.loop(peer)}, rounds=3)
    figure = f"formula, {levels} levels with slopes, 20 000 rows: formulae / MixedDesign"
    report(figure, seconds["formulae"] / seconds["ours"], "times")
    report(figure, seconds["ours"], "s", part="MixedDesign")


def test_cost_of_levels(measure, report):
    few, many = table(100, n=200_000), table(100_000, n=200_000)
    loops = {"few": measure.loop(lambda: design(few)), "many": measure.loop(lambda: design(many))}
    seconds = measure.take_turns(loops, rounds=3)
    report("formula, 200 000 rows: 100 000 levels / 100 levels", seconds["many"] / seconds["few"], "times")
