"""Ids are compared as people read them, wherever two tables meet."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm import Spectrum
from pm_fastlmm import covariance as cov
from pm_fastlmm.base.spelling import as_read, look_alikes, places, resemblance

RNG = np.random.default_rng(12)
N = 30
W = RNG.normal(size=(N, 40)) / 6
K = W @ W.T
Y = W @ RNG.normal(size=40) + RNG.normal(size=N)
ORDER = RNG.permutation(N)
TYPES = {
    "text": [str(i + 1) for i in range(N)],
    "integers": list(range(1, N + 1)),
    "floats": [float(i + 1) for i in range(N)],
    "text of floats": [f"{i + 1}.0" for i in range(N)],
    "blanks": [f" {i + 1}" for i in range(N)],
}


@pytest.mark.parametrize("of_y", TYPES)
@pytest.mark.parametrize("of_K", TYPES)
def test_rows_of_a_kernel_and_of_a_table_meet_whatever_their_types(of_K, of_y):
    kernel = pd.DataFrame(K, TYPES[of_K], TYPES[of_K])
    y = pd.Series(Y, TYPES[of_y]).iloc[ORDER]
    fit = flmm.reml(Spectrum.from_covariance(kernel), y)
    assert_allclose(fit.h2, flmm.reml(Spectrum.from_covariance(K), Y).h2, rtol=1e-10)
    design = flmm.Design.from_arrays(y, K=kernel)
    assert design.ids.tolist() == kernel.index.tolist()
    assert_array_equal(design.y, Y)


def test_levels_of_a_factor_meet_a_known_kernel_and_new_rows_whatever_their_types():
    B = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 2.0]])
    for of_K, of_levels in ((["1", "2", "3"], [3, 1, 1]), ([1.0, 2.0, 3.0], ["3", "1", "1"]), ([1, 2, 3], [3.0, 1, 1])):
        term = flmm.Term(of_levels, cov.known(pd.DataFrame(B, of_K, of_K)))
        assert_array_equal(term.covariance.dense(), B[np.ix_([0, 2], [0, 2])])
        assert term.levels == tuple(sorted(set(of_levels)))
    categories = pd.Categorical(["1", "3"], categories=["1", "2", "3"])
    assert flmm.Term(categories, cov.known(pd.DataFrame(B, [1, 2, 3], [1, 2, 3]))).levels == ("1", "2", "3")


def test_new_rows_in_another_type_have_the_effects_of_their_groups():
    table = pd.DataFrame({"g": np.repeat(np.arange(1, 9), 5), "y": np.repeat(RNG.normal(size=8), 5)})
    table["y"] += 0.3 * RNG.normal(size=40)
    model = flmm.lmm_model("y ~ 1 + (1 | g)", table)
    fit = flmm.find_reml(model=model)
    new = pd.DataFrame({"g": [3, 1]})
    expected = fit.predict(data=new)
    assert abs(expected.mean.iloc[0] - expected.mean.iloc[1]) > 0.1
    for typed in (["3", "1"], [3.0, 1.0], ["3.0", "1.0"]):
        assert_allclose(fit.predict(data=pd.DataFrame({"g": typed})).mean, expected.mean)


def test_tips_of_a_tree_and_ids_of_another_type_meet():
    tree = "((1:1,2:1):2,(3:2,007:2):1);"
    assert_array_equal(cov.phylogeny(tree, ids=[2, 1, 3.0]), [[3, 2, 0], [2, 3, 0], [0, 0, 3]])
    assert list(cov.phylogeny(tree, ids=[2, 1]).index) == [2, 1]
    with pytest.raises(ValueError, match=r"ids 7 are not tips of the tree: correct or drop them. 7 and '007' differ"):
        cov.phylogeny(tree, ids=[7])
    with pytest.raises(ValueError, match="'Homo sapiens' and 'Homo_sapiens' differ only in their spelling"):
        cov.phylogeny("(Homo_sapiens:1,Pan_paniscus:1);", ids=["Homo sapiens"])


def test_frequencies_meet_their_markers_in_any_type():
    M = pd.DataFrame([[0, 1], [2, 1], [1, 2]], columns=[101, 102])
    p = pd.Series({"102": 0.4, "101": 0.5})
    assert_allclose(cov.markers(M, frequencies=p), cov.markers(M, frequencies=[0.5, 0.4]))


def test_ids_that_almost_meet_are_shown():
    kernel = pd.DataFrame(np.eye(3), ["01", "b", "c"], ["01", "b", "c"])
    with pytest.raises(ValueError, match="1 and '01', 'B' and 'b' differ only in their spelling: write them alike"):
        Spectrum.from_covariance(kernel).rotate(pd.Series([1.0, 2.0, 3.0], [1, "B", "c"]))


def test_large_ids_in_floating_point_are_refused_when_tables_meet():
    ids = [9007199254740992, 9007199254740994]
    kernel = pd.DataFrame(np.eye(2), [*map(str, ids)], [*map(str, ids)])
    with pytest.raises(ValueError, match=r"ids has 9007199254740992.0, a number in floating point from 2\^53 on"):
        Spectrum.from_covariance(kernel).rotate(pd.Series([1.0, 2.0], [*map(float, ids)]))
    with pytest.raises(ValueError, match=r"herd has 9007199254740992.0, a number in floating point"):
        flmm.Term(pd.Series([float(ids[0]), 1.0], name="herd"), cov.scalar(1.0))


def test_levels_that_read_the_same_are_refused():
    # read_csv in pieces gives a column with both
    for levels in ([1, "1", 2], ["a", "a ", "b"], ["1", "1.0", "2"]):
        with pytest.raises(ValueError, match=r"herd has .* and .*, which read the same: give the column one type"):
            flmm.Term(pd.Series(levels, dtype=object, name="herd"), cov.scalar(1.0))
    with pytest.raises(ValueError, match=r"levels has 1 and '1', which read the same"):
        cov.grouping([1, "1", 2])


def test_a_label_that_may_be_either_of_two_is_refused():
    with pytest.raises(ValueError, match=r"'1' and ' 1' read the same, and 1 may be either"):
        places([1], ["1", " 1"])
    with pytest.raises(ValueError, match=r"1 and '1' read the same"):
        places([1, "1"], [1, 2])
    assert places(["1", 1], [1, "1"]) == [1, 0]


def test_what_is_read_and_what_only_resembles():
    assert as_read(True) == "True"
    assert as_read(("F", 1.0)) == ("F", "1")
    assert as_read("e\u0301") == "\u00e9"
    assert as_read(-0.0) == "0"
    assert resemblance("+7") == resemblance("007") == "7"
    assert resemblance("-07") == "-7"
    assert resemblance(("A", "01")) == ("a", "1")
    assert look_alikes(["X"], ["a"]) == []
