"""Three people with their files: each script is short, and gives what a dense computation gives, or what is true."""

import runpy
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from oracle import Dense
from users import files

import pm_fastlmm as flmm

USERS = Path(__file__).parent / "users"


@pytest.fixture
def act(tmp_path, monkeypatch):
    """Return the function that writes a user's files, runs the script among them, and returns its names."""

    def run(user):
        truth = getattr(files, user)(tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MPLBACKEND", "Agg")
        return runpy.run_path(str(USERS / f"{user}.py")) | {"truth": truth}

    return run


def drawn(file):
    """Return whether a file is a picture with something on it."""
    return matplotlib.image.imread(file).std() > 0.01


@pytest.mark.parametrize("user", ["modeller", "ecologist", "geneticist"])
def test_a_script_is_short(user):
    lines = [line for line in (USERS / f"{user}.py").read_text().splitlines() if line and not line.startswith('"""')]
    assert len(lines) < 25


def test_the_modeller_finds_slope_and_signal(act):
    names = act("modeller")
    posterior, truth = names["idata"].posterior, names["truth"]
    for name in ("slope", "h2"):
        low, high = posterior[name].quantile([0.025, 0.975])
        assert low < truth[name] < high
    assert names["summary"]["r_hat"].astype(float).max() < 1.02
    assert drawn("signal.png")


@pytest.mark.filterwarnings("ignore:2 of 187 rows dropped")
def test_the_ecologist_has_the_numbers_of_the_clean_table(act):
    names = act("ecologist")
    fit, table = names["fit"], names["truth"]["table"]
    formula = "Biomass ~ Grazing * Rain + (Rain | Site) + (1 | Site:Plot)"
    clean = flmm.find_reml(formula, table, progressbar=False)
    np.testing.assert_allclose(fit.theta, clean.theta, rtol=1e-8)
    assert len(names["sites"]) == 2 * 20
    rain, grazed = table["Rain"].to_numpy(), (table["Grazing"] == "yes").to_numpy(dtype=float)
    X = np.column_stack([np.ones(len(table)), grazed, rain, grazed * rain])
    site = pd.get_dummies(table["Site"]).to_numpy(dtype=float)
    plot = pd.get_dummies(table["Site"] + table["Plot"].astype(str)).to_numpy(dtype=float)
    a, c, b, p, e = fit.theta
    same = site @ site.T
    V = same * (a + c * (rain[:, None] + rain) + b * np.outer(rain, rain)) + p * plot @ plot.T
    dense = Dense(V, X, table["Biomass"].to_numpy(), 1.0, e)
    assert fit.loglik == pytest.approx(dense.loglik_reml, rel=1e-10)
    np.testing.assert_allclose(fit.beta, dense.beta, rtol=1e-8)
    np.testing.assert_allclose(names["expected"].mean, np.array([[1, 0, 1, 0], [1, 1, 1, 1]]) @ dense.beta, rtol=1e-8)
    low, high = fit.coefficients().loc["Grazing[T.yes]", ["lower", "upper"]]
    assert low < names["truth"]["grazing"] < high
    assert names["tests"]["p_value"].idxmin() == "Grazing"
    assert names["tests"].loc["Grazing:Rain", "F"] == pytest.approx(fit.coefficients()["t"].iloc[-1] ** 2)
    assert drawn("diagnostics.png")
    assert drawn("sites.png")


def test_the_geneticist_has_values_of_the_young_and_finds_the_marker(act):
    names = act("geneticist")
    fit, records, A = names["fit"], names["records"], names["A"]
    Z = (records["animal"].to_numpy()[:, None] == A.index.to_numpy()).astype(float)
    X = np.column_stack([np.ones(len(records)), records["sex"] == "ram", records["year"]]).astype(float)
    dense = Dense(Z @ A.to_numpy() @ Z.T, X, records["weight"].to_numpy(), fit.sigma2_g, fit.sigma2_e)
    assert fit.loglik == pytest.approx(dense.loglik_reml, rel=1e-9)
    u = pd.Series(fit.sigma2_g * A.to_numpy() @ Z.T @ dense.Py, A.index)
    np.testing.assert_allclose(names["young"]["blup"], u[names["young"].index], rtol=1e-6)
    assert set(names["young"].index) <= names["truth"]["young"]
    assert names["h2"].estimate == pytest.approx(fit.sigma2_g / (fit.sigma2_g + fit.sigma2_e))
    assert str(names["scan"].p_value.idxmin().values) == names["truth"]["causal"]
    assert drawn("scan.png")
    assert drawn("animals.png")
