"""Messages that say what to do about rows that do not fit and tables that hold no numbers: what they print works."""

import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov

IDS = [f"S{i}" for i in range(12)]


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(20)


@pytest.fixture(scope="module")
def K():
    """Three families of four sibs."""
    blocks = np.kron(np.eye(3), np.full((4, 4), 0.5)) + 0.5 * np.eye(12)
    return pd.DataFrame(blocks, IDS, IDS)


@pytest.fixture
def data(rng):
    return pd.DataFrame({"y": rng.normal(size=8), "mass": rng.normal(size=8)}, pd.Index(IDS[2:10], name="id"))


SELECT_K = (
    r"K may have more individuals than the data: select theirs, K=K.loc\[data.index, data.index\], with the index"
)


def test_a_larger_K_names_the_selection_that_works(K, data):
    with pytest.raises(ValueError, match=r"4 ids of K are not in y \('S0', 'S1', 'S10', 'S11'\)\. " + SELECT_K):
        flmm.kernel_model("y ~ 1", data=data, K=K)
    selected = flmm.Design.from_formula("y ~ 1", data=data, K=K.loc[data.index, data.index])
    assert_allclose(selected.kernel, K.to_numpy()[2:10, 2:10])
    with pytest.raises(ValueError, match=SELECT_K):
        flmm.Design.from_arrays(data.y, K=K)
    with pytest.raises(ValueError, match="12 ids of X|4 ids of K are not in X .*" + SELECT_K):
        flmm.Spectrum.from_covariance(K, data[["mass"]])


def test_a_larger_W_names_the_selection_that_works(K, data):
    W = pd.DataFrame(np.linalg.cholesky(K), IDS)
    with pytest.raises(ValueError, match=r"individuals than the data: select theirs, W=W.loc\[data.index\], with"):
        flmm.Design.from_formula("y ~ 1", data=data, W=W)
    selected = flmm.Design.from_formula("y ~ 1", data=data, W=W.loc[data.index])
    assert_allclose(selected.kernel, W.to_numpy()[2:10])


def test_ids_of_two_types_are_told_to_be_one_before_the_selection(K, data):
    K, data = (table.set_axis(range(len(table))) for table in (K, data))
    K.columns = K.index
    data.index = data.index.astype(str)
    with pytest.raises(
        ValueError, match=r"Give the ids of both one type, such as index.astype\(str\). K may have more"
    ):
        flmm.Design.from_formula("y ~ 1", data, K=K)


def test_known_takes_a_larger_K(K, data):
    fit = flmm.find_reml(flmm.lmm_model("y ~ 1 + (1|id)", data.reset_index(), known={"id": K}), progressbar=False)
    K_data = K.loc[data.index, data.index]
    expected = flmm.reml(flmm.Spectrum.from_covariance(K_data, np.ones((8, 1))), data.y)
    assert_allclose(fit.loglik, expected.loglik, rtol=1e-7)


def test_where_rows_of_y_are_more_no_selection_of_K_is_named(K, data):
    more = pd.concat([data, data.rename(index=str.lower)])
    with pytest.raises(ValueError, match="Select the common ids first"):
        flmm.Design.from_formula("y ~ 1", more, K=K.loc[data.index, data.index])


REPEATED = (
    r"y has duplicated ids .*: data\.reset_index\('id'\), and individual='id' beside K or W of the individuals .*; "
    r"with other terms flmm\.lmm_model\('y ~ 1 [+] \(1\|id\)', data, known=\{'id': K\}\)\."
)


@pytest.mark.parametrize("kernel", ["K", "W"])
def test_repeated_records_are_told_of_both_models_and_they_agree(K, kernel):
    rng = np.random.default_rng(3)
    L = np.linalg.cholesky(K)
    y = np.tile(2 * L @ rng.normal(size=12), 2) + rng.normal(size=24)
    data = pd.DataFrame({"id": IDS * 2, "y": y}).set_index("id")
    given = {"K": K} if kernel == "K" else {"W": pd.DataFrame(L, IDS)}
    with pytest.raises(ValueError, match=REPEATED):
        flmm.kernel_model("y ~ 1", data=data, **given)
    data = data.reset_index("id")
    design = flmm.Design.from_formula("y ~ 1", data, individual="id", **given)
    first = flmm.reml(design.spectrum(), design.y)
    second = flmm.find_reml("y ~ 1 + (1|id)", data, known={"id": K}, progressbar=False)
    assert 0 < first.h2 < 1
    assert_allclose(first.loglik, second.loglik, rtol=1e-7)


def test_a_pedigree_or_a_tree_in_place_of_a_matrix_is_sent_where_it_is_read(data):
    table = pd.DataFrame({"id": [1, 2, 3, 4], "sire": [0, 0, 1, 1], "dam": [0, 0, 2, 3]})
    rows, text = data.rename_axis("id").reset_index(), table.astype(str).replace("0", "none")
    for given, error in ((table, ValueError), (text, TypeError), ("(a:1,b:1);", TypeError)):
        with pytest.raises(error, match=r"flmm.covariance.Pedigree\(id, sire, dam\), the text of a tree to flmm.cov"):
            flmm.find_reml("y ~ 1 + (1|id)", rows, known={"id": given}, progressbar=False)


INDEX = r"as R's write.csv writes them, read it by pd.read_csv\(file, index_col=0\)"


@pytest.mark.parametrize("names", ["text", "numbers"])
def test_a_covariance_whose_first_column_is_the_ids_is_read_with_them_as_index(tmp_path, K, data, names):
    if names == "numbers":
        K = K.set_axis(range(12), axis=0).set_axis(range(12), axis=1)
        data = data.set_axis(range(2, 10))
    file = tmp_path / "vcv.csv"
    K.to_csv(file)
    without, error = pd.read_csv(file), TypeError if names == "text" else ValueError
    for call in (
        lambda given: flmm.Design.from_formula("y ~ mass", data, K=given),
        lambda given: flmm.Spectrum.from_covariance(given),
        lambda given: flmm.lmm_model("y ~ 1 + (1|id)", data.rename_axis("id").reset_index(), known={"id": given}),
        lambda given: cov.phylogeny(given),
    ):
        with pytest.raises(error, match=INDEX):
            call(without)
    assert_allclose(cov.phylogeny(pd.read_csv(file, index_col=0)), K)
    K_read = pd.read_csv(file, index_col=0)
    with pytest.raises(ValueError, match=r"select theirs, K=K.*data.index") as told:
        flmm.Design.from_formula("y ~ mass", data, K=K_read)
    remedy = re.search(r"K=(K.*?\])", str(told.value))[1]
    design = flmm.Design.from_formula("y ~ mass", data, K=eval(remedy, {"K": K_read, "data": data}))
    assert_allclose(design.kernel, K.to_numpy()[2:10, 2:10])


def test_a_wide_matrix_is_still_told_of_factors():
    with pytest.raises(ValueError, match=r"must be square, .*: a factor W with K = W Wᵀ"):
        flmm.Spectrum.from_covariance(np.ones((4, 9)))


def test_markers_with_their_ids_as_a_column_are_told_of_the_index(tmp_path, rng):
    table = pd.DataFrame(rng.binomial(2, 0.4, (12, 5)), IDS)
    with pytest.raises(TypeError, match="genotypes must be numbers .*: texts for .*" + INDEX):
        cov.markers(table.reset_index())
    table.to_csv(tmp_path / "markers.csv")
    assert_allclose(cov.markers(pd.read_csv(tmp_path / "markers.csv", index_col=0)), cov.markers(table))


@pytest.mark.parametrize("container", [pd.DataFrame, np.asarray])
def test_texts_for_missing_genotypes_become_nan_as_the_message_says(K, rng, container):
    y = rng.normal(size=12)
    numbers = pd.DataFrame(rng.binomial(2, 0.4, (12, 5)).astype(float)).mask(rng.random((12, 5)) < 0.2)
    candidates = numbers.astype(object).where(numbers.notna(), "NA")
    spectrum = flmm.Spectrum.from_covariance(K.to_numpy(), np.ones((12, 1)))
    remedy = r"read as NaN by candidates.apply\(pd.to_numeric, errors='coerce'\), or by na_values= of pd.read_csv"
    with pytest.raises(TypeError, match="candidates must be numbers, .*" + remedy) as error:
        flmm.scan(spectrum, y, container(candidates))
    assert "formula" not in str(error.value)
    result = flmm.scan(spectrum, y, candidates.apply(pd.to_numeric, errors="coerce"))
    assert_allclose(result.beta, flmm.scan(spectrum, y, numbers).beta)


def test_a_text_in_y_is_read_as_missing_as_the_message_says():
    y = pd.Series([1.0, "NA", 2.0], dtype=object)
    with pytest.raises(TypeError, match=r"y must be numbers, .* pd.to_numeric\(y, errors='coerce'\)"):
        flmm.Design.from_arrays(y, K=np.eye(3))
    with pytest.warns(UserWarning, match="1 of 3 rows dropped"):
        assert flmm.Design.from_arrays(pd.to_numeric(y, errors="coerce"), K=np.eye(3)).y.tolist() == [1, 2]


@pytest.mark.parametrize(
    "new",
    [
        {"Days": [10], "Subject": ["new"]},  # no numbers
        {"Days": [10], "Subject": [308]},  # numbers, but not the columns of X
        {"Days": [10]},
    ],
)
def test_variables_given_as_X_new_are_told_of_data(new):
    table = pd.DataFrame(new)
    model = flmm.lmm_model("Reaction ~ Days + (Days|Subject)", flmm.datasets.sleepstudy())
    fit = flmm.find_reml(model, progressbar=False)
    with pytest.raises((TypeError, ValueError), match=r"X_new .* data=, predict\(..., data=table\)") as error:
        fit.predict(table)
    assert "from_formula" not in str(error.value)
    table = table.assign(Subject=["new"])
    assert_allclose(fit.predict(data=table).mean, [251.4051 + 10 * 10.46729], rtol=1e-5)  # lme4's fixed effects
