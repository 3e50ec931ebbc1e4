"""Effects as a table: reliabilities against the mixed-model equations, solved densely."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.special import ndtri

import pm_fastlmm as flmm

ANIMALS = list("abcdefgh")
SIRES = [None, None, "a", "a", "c", "c", "e", "e"]
DAMS = [None, None, "b", "b", "d", "d", "f", "d"]
A = flmm.covariance.pedigree(ANIMALS, SIRES, DAMS)


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(5)
    animal = np.repeat(ANIMALS, 4)
    table = pd.DataFrame({"animal": animal, "x": rng.normal(size=32)})
    u = np.linalg.cholesky(A.to_numpy()) @ rng.normal(size=8)
    return table.assign(y=1 + 2 * table["x"] + np.repeat(u, 4) + rng.normal(size=32))


def henderson(X, Z, G, e):
    """Diagonals of the prediction error variance from the inverse of the mixed-model equations, and G's."""
    equations = np.block([[X.T @ X / e, X.T @ Z / e], [Z.T @ X / e, Z.T @ Z / e + np.linalg.inv(G)]])
    return np.diag(np.linalg.inv(equations))[X.shape[1] :], np.diag(G)


def assert_table(table, pev, prior, blup):
    numbers, columns = table.columns[:6], table.columns[6:]
    assert list(numbers) == ["blup", "se", "lower", "upper", "reliability", "accuracy"]
    assert list(columns) in ([], ["records"])
    assert_allclose(table["blup"], blup)
    assert_allclose(table["se"], np.sqrt(pev), rtol=1e-7)
    assert_allclose(table["reliability"], 1 - pev / prior, rtol=1e-6)
    assert_allclose(table["accuracy"] ** 2, table["reliability"])
    assert_allclose(table["upper"] - table["blup"], ndtri(0.95) * table["se"])


def test_inbred_animals_have_the_reliability_of_their_own_variance(records):
    assert np.ptp(np.diag(A)) > 0
    known = {"animal": flmm.covariance.known(A)}
    fit = flmm.find_reml("y ~ x + (1 | animal)", records, known=known, progressbar=False)
    X = np.column_stack([np.ones(32), records["x"]])
    Z = pd.get_dummies(records["animal"]).to_numpy(dtype=float)
    pev, prior = henderson(X, Z, fit.theta["animal"] * A.to_numpy(), fit.theta["residual"])
    table = fit.effects("animal", 0.9)
    assert list(table.index) == ANIMALS
    assert_table(table, pev, prior, fit.blup("animal"))


def test_one_kernel_has_the_table_by_id(records):
    one = records.groupby("animal").mean()
    X = pd.DataFrame({"one": 1.0}, index=one.index)
    spectrum = flmm.Spectrum.from_covariance(A, X)
    fit = flmm.reml(spectrum, one["y"])
    assert fit.sigma2_g > 0
    pev, prior = henderson(X.to_numpy(), np.eye(8), fit.sigma2_g * A.to_numpy(), fit.sigma2_e)
    assert_table(fit.effects(0.9), pev, prior, fit.blup())
    assert list(fit.effects().index) == ANIMALS
    both = flmm.reml(spectrum, pd.DataFrame({"y": one["y"], "minus": -one["y"]}))
    np.testing.assert_allclose(both.effects().loc["minus", "reliability"], fit.effects()["reliability"])
    np.testing.assert_allclose(both.effects().loc["minus", "blup"], -fit.effects()["blup"])


def test_repeated_records_have_the_table_by_individual(records):
    seen = records[records["animal"] != ANIMALS[-1]].reset_index(drop=True)
    design = flmm.Design.from_formula("y ~ x", seen, K=A, individual="animal")
    fit = flmm.reml(design.spectrum(), design.y)
    assert fit.sigma2_g > 0
    Z = (seen["animal"].to_numpy()[:, None] == np.array(ANIMALS)).astype(float)
    X = np.column_stack([np.ones(len(seen)), seen["x"]])
    pev, prior = henderson(X, Z, fit.sigma2_g * A.to_numpy(), fit.sigma2_e)
    assert_table(fit.effects(0.9), pev, prior, fit.blup())
    assert list(fit.effects().index) == list(A.index)
    both = flmm.reml(design.spectrum(), pd.DataFrame({"y": design.y, "minus": -design.y}))
    np.testing.assert_allclose(both.effects(0.9).loc["minus", "se"], fit.effects()["se"])


def test_slopes_have_a_row_for_each_level_and_column():
    sleep = flmm.datasets.sleepstudy()
    fit = flmm.find_reml("Reaction ~ Days + (Days | Subject)", sleep, progressbar=False)
    table = fit.effects("Subject", 0.9)
    assert table.index[:2].tolist() == [("308", "Intercept"), ("308", "Days")]
    a, c, b, e = fit.theta
    X = np.column_stack([np.ones(180), sleep["Days"]])
    Z = (pd.get_dummies(sleep["Subject"]).to_numpy(dtype=float)[:, :, None] * X[:, None, :]).reshape(180, -1)
    pev, prior = henderson(X, Z, np.kron(np.eye(18), [[a, c], [c, b]]), e)
    assert_table(table, pev, prior, fit.blup("Subject").to_numpy().ravel())
    assert list(fit.effects()) == ["Subject"]


def test_effects_without_variance_have_no_reliability():
    data = flmm.datasets.dyestuff().assign(Yield=np.tile([1.0, 2, 3, 4, 5], 6))
    table = flmm.find_reml("Yield ~ 1 + (1 | Batch)", data, progressbar=False).effects("Batch")
    assert (table["blup"] == 0).all()
    assert table["reliability"].isna().all()
    with pytest.raises(ValueError, match="level"):
        flmm.find_reml("Yield ~ 1 + (1 | Batch)", data, progressbar=False).effects("Batch", 2.0)
