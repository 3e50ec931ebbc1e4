"""Term: its incidence, its covariance and its blocks, against dummy coding by hand; labels of K are matched."""

import numpy as np
import pandas as pd
import pytensor.tensor as pt
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import coo_array, csr_array

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.covariance.terms import Term

IDS = [f"p{i}" for i in range(7)]
GEN = pd.Series(["g2", "g1", "g3", "g1", "g2", "g2", "g3"], IDS, name="gen")
REP = pd.Series([2, 1, 1, 2, 2, 1, 1], IDS, name="rep")
SLOPES = pd.DataFrame({"one": 1.0, "days": [0.5, 1, 2, 3, 5, 8, 13]}, IDS)
B = np.array([[2.0, 0.3], [0.3, 0.7]])
LABELS = ["g4", "g3", "g2", "g1"]
K = pd.DataFrame(np.eye(4) + np.outer([1, 2, 3, 4], [1, 2, 3, 4]) / 9, LABELS, LABELS)


def dummies(labels, levels):
    return np.array([[float(a == b) for b in levels] for a in labels])


def test_incidence_is_dummy_coding_with_sorted_levels():
    for given in (GEN, GEN.tolist(), GEN.to_numpy(), tuple(GEN), pd.Categorical(GEN), pd.Index(GEN)):
        Z, levels = cov.incidence(given)
        assert levels == ("g1", "g2", "g3")
        assert isinstance(Z, csr_array)
        assert_array_equal(Z.toarray(), dummies(GEN, levels))
    Z, levels = cov.incidence(GEN, drop_first=True)
    assert levels == ("g2", "g3")
    assert_array_equal(Z.toarray(), dummies(GEN, levels))


def test_levels_keep_the_order_of_the_categories_and_unused_ones_have_no_column():
    ordered = pd.Categorical(GEN, categories=["g3", "g9", "g1", "g2"])
    Z, levels = cov.incidence(ordered)
    assert levels == ("g3", "g1", "g2")
    assert_array_equal(Z.toarray(), dummies(GEN, levels))


def test_labels_without_an_order_are_in_that_of_their_appearance():
    assert cov.incidence([2, "b", None, 1], missing="no level").levels == (2, "b", 1)
    assert cov.incidence([10, 9, 10]).levels == (9, 10)
    assert cov.incidence([True, False]).levels == (False, True)


def test_an_interaction_has_the_combinations_that_occur():
    for given in ([GEN, REP], (GEN, REP.to_numpy()), pd.DataFrame({"gen": GEN, "rep": REP}), [list(GEN), list(REP)]):
        Z, levels = cov.incidence(given)
        assert levels == ("g1:1", "g1:2", "g2:1", "g2:2", "g3:1")
        assert_array_equal(Z.toarray(), dummies([f"{g}:{r}" for g, r in zip(GEN, REP, strict=True)], levels))
    third = ["x", "y", "x", "y", "x", "y", "x"]
    Z, levels = cov.incidence([GEN, REP, third])
    joined = [f"{g}:{r}:{t}" for g, r, t in zip(GEN, REP, third, strict=True)]
    assert levels == tuple(sorted(set(joined)))
    assert_array_equal(Z.toarray(), dummies(joined, levels))


def test_rows_belong_to_no_level_only_by_explicit_choice():
    holes = GEN.where(GEN != "g1", None)
    with pytest.raises(ValueError, match=r"gen is missing in 2 rows \(1, 3\): drop those rows, or keep them without"):
        cov.incidence(holes)
    Z, levels = cov.incidence(holes, missing="no level")
    assert levels == ("g2", "g3")
    assert_array_equal(Z.toarray(), dummies(GEN, levels))
    Z, levels = cov.incidence([holes, REP], missing="no level")
    assert levels == ("g2:1", "g2:2", "g3:1")
    assert_array_equal(Z.sum(axis=1), GEN != "g1")
    term = Term(cov.incidence(holes, missing="no level"), cov.scalar(1.0), name="gen")
    assert_array_equal(term.Z.toarray(), dummies(GEN, term.levels))


def test_a_random_intercept():
    v = pt.dscalar("v")
    term = flmm.Term(GEN, cov.scalar(v))
    assert (term.name, term.levels, term.columns, term.n, term.width) == ("gen", ("g1", "g2", "g3"), ("1",), 7, 1)
    assert term.ids == tuple(IDS)
    assert_array_equal(term.Z.toarray(), dummies(GEN, term.levels))
    assert term.covariance.size == 3
    assert (term.blocks.levels, term.blocks.root, term.blocks.block.sigma2) == (3, None, v)
    assert repr(term) == "Term('gen': 3 levels, Scalar(sigma2=v, size=3))"


def test_random_slopes_are_columns_within_levels():
    term = Term(GEN, cov.unstructured(B), columns=SLOPES)
    expected = np.column_stack(
        [dummies(GEN, [level])[:, 0] * SLOPES[column] for level in term.levels for column in SLOPES]
    )
    assert_array_equal(term.Z.toarray(), expected)
    assert term.columns == ("one", "days")
    assert_array_equal(term.covariance.dense(), np.kron(np.eye(3), B))
    assert (term.blocks.levels, term.blocks.width) == (3, 2)
    V = np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            if GEN.iloc[i] == GEN.iloc[j]:
                V[i, j] = SLOPES.iloc[i] @ B @ SLOPES.iloc[j]
    assert_allclose(term.Z @ term.covariance.dense() @ term.Z.T, V)


def test_columns_may_be_one_or_unnamed_and_the_covariance_takes_their_number():
    assert Term(GEN, cov.scalar(2.0), columns=SLOPES["days"]).columns == ("days",)
    term = Term(GEN.tolist(), cov.scalar(2.0), columns=SLOPES.to_numpy())
    assert term.columns == ("x0", "x1")
    assert term.ids is None
    assert_array_equal(term.covariance.dense(), 2 * np.eye(6))
    assert Term(GEN.tolist(), cov.diagonal([1.0, 2.0]), columns=SLOPES).ids == tuple(IDS)


def test_columns_are_aligned_with_the_factor_by_id():
    shuffled = SLOPES.sample(frac=1, random_state=3)
    assert_array_equal(
        Term(GEN, cov.unstructured(B), columns=shuffled).Z.toarray(),
        Term(GEN, cov.unstructured(B), columns=SLOPES).Z.toarray(),
    )


def test_across_is_the_covariance_over_levels():
    term = Term(GEN, cov.unstructured(B), columns=SLOPES, across=cov.known(K, 1.5))
    order = ["g1", "g2", "g3"]
    assert_allclose(term.covariance.dense(), np.kron(1.5 * K.loc[order, order], B))
    assert (term.blocks.levels, term.blocks.width) == (3, 2)
    assert_allclose(term.blocks.dense(), term.covariance.dense(), rtol=1e-13)
    ordered = Term(REP, cov.unstructured(B), columns=SLOPES, across=cov.ar1(1.0, 0.4))
    assert_allclose(ordered.covariance.dense(), np.kron([[1, 0.4], [0.4, 1]], B))


def test_a_labelled_K_is_matched_to_the_levels_and_may_have_more():
    term = Term(GEN, cov.known(K, 2.0))
    assert term.levels == ("g1", "g2", "g3")
    assert_allclose(term.covariance.dense(), 2 * K.loc[["g1", "g2", "g3"], ["g1", "g2", "g3"]])
    assert_allclose(term.blocks.root @ term.blocks.root.T, K.loc[["g1", "g2", "g3"], ["g1", "g2", "g3"]])
    everyone = Term(pd.Categorical(GEN, categories=["g1", "g4", "g2", "g3", "g5"]), cov.known(K))
    assert everyone.levels == ("g1", "g4", "g2", "g3")  # g5 neither occurs nor is in K
    assert_allclose(everyone.covariance.dense(), K.loc[list(everyone.levels), list(everyone.levels)])
    assert_array_equal(everyone.Z.toarray(), dummies(GEN, everyone.levels))


@pytest.mark.parametrize("first", [0, 1])
def test_a_K_without_labels_is_of_levels_that_are_the_numbers_of_its_rows(first):
    numbers = GEN.str[1:].astype(int) - 1 + first
    for given in (K.to_numpy()[:3, :3], csr_array(K.to_numpy()[:3, :3])):
        term = Term(numbers, cov.known(given))
        assert term.levels == (first, first + 1, first + 2)
        assert_array_equal(term.covariance.dense(), K.to_numpy()[:3, :3])
    later = Term(numbers, cov.unstructured(B), columns=SLOPES, across=cov.known(K.to_numpy()[:3, :3]))
    assert_array_equal(later.covariance.dense(), np.kron(K.to_numpy()[:3, :3], B))


@pytest.mark.parametrize(
    "make",
    [
        lambda A: Term(GEN, cov.known(A)),
        lambda A: Term(GEN, cov.known(csr_array(A))),
        lambda A: Term(GEN.astype("category"), cov.known(A)),
        lambda A: Term(GEN.map({"g1": 308, "g2": 309, "g3": 335}), cov.known(A)),
        lambda A: Term(GEN.map({"g1": 0, "g2": 2, "g3": 3}), cov.known(A)),
        lambda A: Term(GEN, cov.known(A) + cov.scalar(1.0)),
        lambda A: Term(GEN, cov.known(A) * cov.equicorrelation(1.0, 0.5)),
        lambda A: Term(GEN, cov.unstructured(B), columns=SLOPES, across=cov.known(A)),
        lambda A: Term(cov.incidence(GEN), cov.known(A)),
        lambda A: Term(pd.DataFrame(dummies(GEN, ["g3", "g1", "g2"]), IDS, ["g3", "g1", "g2"]), cov.known(A)),
    ],
)
def test_a_K_without_labels_is_refused_for_levels_with_names(make):
    with pytest.raises(ValueError, match=r"is an array without labels, but the levels have names .*pd.DataFrame\(K"):
        make(K.to_numpy()[:3, :3])


def test_a_K_with_the_default_index_is_told_to_get_names():
    with pytest.raises(ValueError, match=r"K has the default index 0, 1, 2 … in place of names: give pd.DataFrame"):
        Term(GEN, cov.known(K.reset_index(drop=True).set_axis(range(len(K)), axis=1)))


def test_categories_without_data_are_steps_of_ar1_and_nothing_to_independent_levels():
    year = pd.Categorical([2001, 2003, 2001, 2004], categories=[2001, 2002, 2003, 2004])
    term = Term(year, cov.ar1(1.0, 0.5))
    assert term.levels == (2001, 2002, 2003, 2004)
    V = term.Z @ term.covariance.dense() @ term.Z.T
    assert_allclose(V[0], [1, 0.25, 1, 0.125])
    assert Term(year, cov.scalar(1.0)).levels == (2001, 2003, 2004)
    assert Term(year, cov.diagonal([1.0, 2, 3, 4])).levels == (2001, 2002, 2003, 2004)
    assert Term(year, cov.diagonal([1.0, 2, 3])).levels == (2001, 2003, 2004)


def test_a_matrix_may_take_the_place_of_the_factor():
    M = pd.DataFrame(dummies(GEN, ["g3", "g1", "g2"]), IDS, ["g3", "g1", "g2"])
    term = Term(M, cov.known(K), name="gen")
    assert term.levels == ("g3", "g1", "g2")
    assert term.ids == tuple(IDS)
    assert_allclose(term.Z @ term.covariance.dense() @ term.Z.T, K.loc[GEN, GEN])
    for given in (M.to_numpy(), csr_array(M.to_numpy()), coo_array(M.to_numpy())):
        term = Term(given, cov.scalar(3.0))
        assert (term.name, term.levels, term.ids) == ("u", (0, 1, 2), None)
        assert_array_equal(term.Z.toarray(), M)
        assert isinstance(term.Z, csr_array)
    weighted = Term(csr_array(M.to_numpy() * 0.5), cov.unstructured(B), columns=SLOPES)
    assert_array_equal(
        weighted.Z.toarray(), [np.kron(0.5 * m, s) for m, s in zip(M.values, SLOPES.values, strict=True)]
    )


def test_an_interaction_may_be_given_as_factors():
    term = Term([GEN, REP], cov.scalar(1.0))
    assert term.name == "gen:rep"
    assert term.levels == ("g1:1", "g1:2", "g2:1", "g2:2", "g3:1")
    assert term.ids == tuple(IDS)


def test_a_sparse_matrix_with_repeated_entries_is_their_sum():
    Z = coo_array(([1.0, 2.0], ([0, 0], [1, 1])), shape=(1, 2))
    assert_array_equal(Term(Z, cov.scalar(1.0)).Z.toarray(), [[0, 3]])


def test_a_hundred_thousand_levels_stay_sparse():
    labels = np.arange(200_000) % 100_000
    term = Term(labels, cov.unstructured(B), columns=np.ones((200_000, 2)))
    assert term.Z.shape == (200_000, 200_000)
    assert term.Z.nnz == 400_000
    assert (term.blocks.levels, term.blocks.width, term.blocks.root) == (100_000, 2, None)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Term("gen", cov.scalar(1.0)), TypeError, r"by must be a sequence of labels, .*table\['group'\]"),
        (lambda: Term(3, cov.scalar(1.0)), TypeError, "by must be a sequence of labels, one for each row, got int"),
        (lambda: Term(np.ones((2, 2, 2)), cov.scalar(1.0)), TypeError, "by must be 1-dimensional, got 3 dimensions"),
        (lambda: Term(GEN, 1.0), TypeError, "covariance must be a covariance structure, got float: wrap a variance as"),
        (lambda: Term(GEN, None), TypeError, "covariance must be a covariance structure, got NoneType"),
        (lambda: Term(GEN, cov.scalar(1.0), columns=SLOPES, across=B), TypeError, "across must be a covariance"),
        (lambda: Term(GEN, cov.scalar(1.0), across=cov.identity()), ValueError, "across= is the covariance over"),
        (lambda: Term([None, "a"], cov.scalar(1.0)), ValueError, r"by is missing in 1 rows \(0\): drop those rows"),
        (lambda: Term([GEN, REP[:3]], cov.scalar(1.0)), ValueError, "a factor of by has 3 rows but another has 7"),
        (lambda: Term([GEN, REP[::-1]], cov.scalar(1.0)), ValueError, "the factors of by have different indexes: take"),
        (lambda: Term([["a:b", "a"], ["c", "b:c"]], cov.scalar(1.0)), ValueError, "two levels of the interaction by"),
        (lambda: cov.incidence(pd.DataFrame(index=IDS)), ValueError, "is an interaction of no factors"),
        (lambda: cov.incidence(GEN, missing="drop"), ValueError, "missing must be 'raise' or 'no level', got 'drop'"),
        (lambda: Term(np.array([[1.0, np.nan]]), cov.scalar(1.0)), ValueError, "by has 1 values that are NaN or inf"),
        (lambda: Term(csr_array([[1.0, np.inf]]), cov.scalar(1.0)), ValueError, "by has 1 values that are NaN or inf"),
        (lambda: Term(GEN, cov.scalar(1.0), columns=[1.0, 2.0]), ValueError, "columns has 2 rows but by has 7"),
        (lambda: Term(GEN, cov.scalar(1.0), columns=np.full(7, np.nan)), ValueError, "columns has 7 values that are"),
        (lambda: Term(GEN, cov.scalar(1.0), columns=SLOPES.rename(index={"p0": "q"})), ValueError,
         r"1 ids of columns are not in by \('q'\)"),
        (lambda: Term(GEN, cov.unstructured(np.eye(3)), columns=SLOPES), ValueError,
         r"the covariance of term 'gen' has size 3, but there are 2 columns \('one', 'days'\)"),
        (lambda: Term(GEN, cov.diagonal([1.0, 2.0])), ValueError,
         r"the covariance of term 'gen' has size 2, but there are 3 levels \('g1', 'g2', 'g3'\)"),
        (lambda: Term(GEN, cov.known(K.iloc[1:3, 1:3])), ValueError,
         r"K of term 'gen' lacks 1 of its 3 levels \('g1'\): add them or drop rows"),
        (lambda: Term(["01", "02"], cov.known(pd.DataFrame(B, [1, 2], [1, 2]))), ValueError,
         r"K of term 'u' lacks 2 of its 2 levels \('01', '02'\): '01' and 1, '02' and 2 differ only in leading zeros"),
        (lambda: Term([2001, 2002, 2004], cov.ar1(1.0, 0.5)), ValueError, r"ar1 needs equally spaced levels, .*2004"),
        (lambda: Term([1, 2, 4], cov.ar1(1.0, 0.5) + cov.scalar(1.0)), ValueError, "ar1 needs equally spaced levels"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("by", [
    pd.array([1, 2, 1], dtype="Int64"), pd.array(["a", "b", "a"], dtype="string"), xr.DataArray(["a", "b", "a"]),
    pd.Index(["a", "b", "a"]), pd.Categorical(["a", "b", "a"]), pd.array(pd.to_datetime(["2020", "2021", "2020"])),
])  # fmt: skip
def test_any_array_of_one_dimension_is_a_factor_alone_and_in_an_interaction(by):
    term = Term(by, cov.scalar(1.0))
    assert_array_equal(term.Z.toarray(), [[1, 0], [0, 1], [1, 0]])
    crossed = Term([list("aab"), by], cov.scalar(1.0))
    assert_array_equal(crossed.Z.toarray(), np.eye(3))
    assert_array_equal(Term((by, by), cov.scalar(1.0)).Z.toarray(), term.Z.toarray())


def test_the_coordinates_of_an_array_are_the_ids_of_its_rows():
    by = xr.DataArray(["a", "b", "a"], coords={"obs": [5, 6, 7]}, dims="obs", name="sire")
    term = Term(by, cov.scalar(1.0))
    assert (term.name, term.ids) == ("sire", (5, 6, 7))
