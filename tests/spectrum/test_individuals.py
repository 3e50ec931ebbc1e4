"""Repeated records: a K between individuals and whose record a row is, against dense matrices and lme4."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

IDS = list("fabgced")  # g has no record


def relationship(rank=9):
    root = np.random.default_rng(1).normal(size=(7, rank))
    return pd.DataFrame(root @ root.T / 5, IDS, IDS)


def records(seed=3, n=24):
    rng = np.random.default_rng(seed)
    who = np.resize(list("abcdef"), n)
    rng.shuffle(who)
    return pd.DataFrame({"y": rng.normal(size=n) + np.vectorize("abcdef".index)(who), "x": rng.normal(size=n),
                         "id": who}, index=[f"r{i}" for i in range(n)])  # fmt: skip


def dense(K, data, g, e):
    """BLUP, its error variance and Var(u | y, β) of all individuals from the joint normal distribution."""
    Z = (data["id"].to_numpy()[:, None] == np.array(K.index)).astype(float)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    V = g * Z @ K.to_numpy() @ Z.T + e * np.eye(len(data))
    inverse, C = np.linalg.inv(V), g * K.to_numpy() @ Z.T
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    y = data["y"].to_numpy()
    return C @ P @ y, g * K.to_numpy() - C @ P @ C.T, np.diag(g * K.to_numpy() - C @ inverse @ C.T), V, X


@pytest.fixture(params=["K", "singular K", "W"])
def case(request):
    K, data = relationship(4 if request.param == "singular K" else 9), records()
    given = {"K": K}
    if request.param == "W":
        W = np.random.default_rng(2).normal(size=(7, 12))
        K, given = pd.DataFrame(W @ W.T, IDS, IDS), {"W": pd.DataFrame(W, IDS)}
    return K, data, flmm.Design.from_formula("y ~ x", data, individual="id", **given)


def test_effects_of_individuals_are_those_of_dense_matrices(case, oracle):
    K, data, design = case
    spectrum = design.spectrum()
    fit = flmm.reml(spectrum, design.y)
    g, e = float(fit.sigma2_g), float(fit.sigma2_e)
    mean, errors, given_beta, V, X = dense(K, data, g, e)
    assert_allclose(fit.loglik, oracle.Dense(V, X, design.y, 1.0, 0.0).loglik_reml, rtol=1e-10)
    assert_allclose(spectrum.mean_diagonal, np.diag(K.loc[data["id"], data["id"]]).mean())
    assert list(fit.blup().index) == IDS
    assert_allclose(fit.blup(), mean, atol=1e-10)
    assert_allclose(fit.pev(), np.diag(errors), atol=1e-10)
    assert_allclose(fit.pev(full=True), errors, atol=1e-10)
    assert_allclose(fit.conditional_variance(), given_beta, atol=1e-10)


def test_new_individuals_are_predicted_by_their_covariance_with_the_others(case):
    K, _, design = case
    fit = flmm.reml(design.spectrum(), design.y)
    X = np.column_stack([np.ones(7), np.zeros(7)])
    shuffled = K.loc[:, list("gfedcba")]
    found = fit.predict(pd.DataFrame(X, IDS, ["Intercept", "x"]), shuffled, K_new_new=K)
    assert_allclose(found.mean, fit.blue[0] + fit.blup(), atol=1e-8)
    with pytest.raises(ValueError, match="K_new has 6 columns but K has 7 individuals"):
        fit.predict(X[:1], K.to_numpy()[:1, :6])


def test_grouped_records_are_those_of_lme4(reference):
    data = flmm.datasets.dyestuff()
    batches = sorted(set(data["Batch"]))
    K = pd.DataFrame(np.eye(len(batches)), batches, batches)
    design = flmm.Design.from_formula("Yield ~ 1", data, K=K, individual="Batch")
    fit = flmm.reml(design.spectrum(), design.y)
    row = next(row for row in reference.json("lme4_nlme.json") if row["name"] == "dyestuff_reml")
    assert_allclose([fit.sigma2_g, fit.sigma2_e], row["vcov"], rtol=3e-6)
    assert fit.blup().shape == (6,)


def test_one_record_each_is_the_model_of_rows():
    K, data = relationship(), records()
    data = data.drop_duplicates("id").set_index("id", drop=False)
    y = data["y"]
    by_row = flmm.reml(flmm.Spectrum.from_covariance(K.loc[y.index, y.index], np.ones((6, 1))), y)
    fit = flmm.reml(flmm.Spectrum.from_covariance(K, np.ones((6, 1)), individual=data["id"]), y)
    assert_allclose(fit.loglik, by_row.loglik, rtol=1e-10)
    assert_allclose(fit.blup().loc[y.index], by_row.blup(), atol=1e-5)


def test_rows_are_aligned_dropped_and_subset():
    K, data = relationship(), records()
    y = data["y"].sample(frac=1, random_state=1)
    whole = flmm.Design.from_formula("y ~ x", data, K=K, individual="id")
    X = pd.DataFrame({"Intercept": 1.0, "x": data["x"]})
    shuffled = flmm.Design.from_arrays(y, X, K=K, individual=data["id"])
    fits = [flmm.reml(d.spectrum(), d.y) for d in (whole, shuffled)]
    assert_allclose(fits[0].blup(), fits[1].blup(), atol=1e-8)
    holes = data.assign(id=data["id"].mask(data.index == "r3"), y=data["y"].mask(data.index == "r5"))
    with pytest.warns(UserWarning, match="2 of 24 rows dropped, with missing values [(]y 1, id 1[)]: 'r3', 'r5'"):
        fewer = flmm.Design.from_formula("y ~ x", holes, K=K, individual="id")
    kept = ~data.index.isin(["r3", "r5"])
    part = flmm.reml(whole.spectrum().subset(kept), data["y"][kept])
    assert_allclose(part.blup(), flmm.reml(fewer.spectrum(), fewer.y).blup(), atol=1e-6)


def test_draws_of_effects_are_of_individuals():
    K, data = relationship(), records()
    model = flmm.kernel_model("y ~ x", K=K, data=data, individual="id")
    n = 4000
    values = {"h2": np.full((1, n), 0.5), "total": np.full((1, n), 2.0)}
    if "total" not in {rv.name for rv in model.free_RVs}:
        values["sigma2_e"] = np.full((1, n), 1.0)
    posterior = xr.Dataset({name: (("chain", "draw"), v) for name, v in values.items()})
    posterior = posterior.assign_coords(chain=[0], draw=np.arange(n))
    idata = flmm.recover_effects(xr.DataTree.from_dict({"posterior": posterior}), model=model, random_seed=1)
    u = idata.posterior["y_u"]
    assert u.dims == ("chain", "draw", "y_individual")
    assert list(u["y_individual"].values) == IDS
    [node] = flmm.lmm_nodes(model)
    mean, errors, *_ = dense(K, data, 1.0 / node.spectrum.mean_diagonal, 1.0)
    assert_allclose(u.mean(("chain", "draw")), mean, atol=5 * np.sqrt(np.diag(errors).max() / n))
    assert_allclose(np.cov(u.values[0].T), errors, atol=6 * np.diag(errors).max() / np.sqrt(n))


def test_arrays_without_labels_are_taken_by_number():
    K, data = relationship(), records()
    number = [IDS.index(label) for label in data["id"]]
    X = np.column_stack([np.ones(24), data["x"]])
    fit = flmm.reml(flmm.Spectrum.from_covariance(K.to_numpy(), X, individual=number), data["y"].to_numpy())
    named = flmm.reml(flmm.Spectrum.from_covariance(K, X, individual=data["id"]), data["y"])
    assert_allclose(fit.blup(), named.blup())


@pytest.mark.parametrize(
    ("individual", "change", "error", "message"),
    [
        (
            "id",
            lambda K: K.drop("a").drop(columns="a"),
            ValueError,
            "K lacks 1 individuals that have records .'a'.*Give",
        ),
        ("id", lambda K: K.reset_index(drop=True).T.reset_index(drop=True), ValueError, "K has the default index 0, 1"),
        ("id", lambda K: K.to_numpy(), ValueError, "K is an array without labels: individual must then be the numbers"),
        ("id", lambda K: K.loc[[*IDS, "a"], [*IDS, "a"]], ValueError, r"K has duplicated ids \('a'\)"),
        ("animal", lambda K: K, ValueError, "individual='animal' is not among the columns y, x, id"),
        (3, lambda K: K, TypeError, "individual must say whose record each row is"),
        (list("ab"), lambda K: K, ValueError, "y has 24 rows but individual has 2"),
        ("id", lambda K: K - 2 * np.eye(7), ValueError, "K is not positive semi-definite"),
    ],
)
def test_bad_input_is_refused(individual, change, error, message):
    with pytest.raises(error, match=message):
        flmm.Design.from_formula("y ~ x", records(), K=change(relationship()), individual=individual).spectrum()


def test_a_spectrum_wants_an_individual_for_each_record():
    data = records()
    with pytest.raises(ValueError, match=r"individual is missing in rows 2: leave those rows out"):
        flmm.Spectrum.from_covariance(relationship(), np.ones((24, 1)), individual=data["id"].mask(data.index == "r2"))
