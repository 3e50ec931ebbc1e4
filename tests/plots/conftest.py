"""Fits that figures are drawn of."""

import matplotlib
import matplotlib.pyplot as plt
import pytest

import pm_fastlmm as flmm

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def sleep():
    return flmm.find_reml("Reaction ~ Days + (Days || Subject)", flmm.datasets.sleepstudy(), progressbar=False)


@pytest.fixture(scope="session")
def penicillin():
    formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    return flmm.find_reml(formula, flmm.datasets.penicillin(), progressbar=False)
