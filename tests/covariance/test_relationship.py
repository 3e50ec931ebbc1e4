"""Known covariances against exact enumeration, independent oracles and textbook values."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_fastlmm.covariance import grouping, markers, pedigree, phylogeny

# ---------------------------------------------------------------- pedigree


def enumerate_gene_drops(parents):
    """A by definition, twice the probability that random alleles of i and j are copies of one founder allele.

    `parents[i]` are positions below i or None; all the ways in which the alleles can descend are enumerated.
    """
    n = len(parents)
    links = [(i, slot) for i in range(n) for slot in (0, 1) if parents[i][slot] is not None]
    choices = np.array(list(itertools.product((0, 1), repeat=len(links))), dtype=int).reshape(
        2 ** len(links), len(links)
    )
    draws = np.arange(len(choices))
    alleles = np.empty((len(choices), n, 2), dtype=int)
    for i in range(n):
        for slot in (0, 1):
            parent = parents[i][slot]
            if parent is None:
                alleles[:, i, slot] = 2 * i + slot
            else:
                alleles[:, i, slot] = alleles[draws, parent, choices[:, links.index((i, slot))]]
    same = alleles[:, :, None, :, None] == alleles[:, None, :, None, :]
    return 2 * same.mean(axis=(0, 3, 4))


def henderson_inverse(ids, sire, dam, A):
    """A⁻¹ by Henderson's rules, from the parents and the diagonal of A alone (known parents have a row)."""
    place = {label: i for i, label in enumerate(ids)}
    inverse = np.zeros((len(ids), len(ids)))
    for i, pair in enumerate(zip(sire, dam, strict=True)):
        known = [place[p] for p in pair if p is not None]
        mendelian = 1 - sum(A[p, p] for p in known) / 4
        contrast = np.zeros(len(ids))
        contrast[i] = 1
        for p in known:
            contrast[p] -= 0.5
        inverse += np.outer(contrast, contrast) / mendelian
    return inverse


@st.composite
def pedigrees(draw, max_size=6):
    n = draw(st.integers(2, max_size))
    parent = [st.none() if i == 0 else st.one_of(st.none(), st.integers(0, i - 1)) for i in range(n)]
    return [(draw(parent[i]), draw(parent[i])) for i in range(n)]


def columns_of(parents):
    names = [f"i{i}" for i in range(len(parents))]
    sire, dam = ([None if pair[slot] is None else names[pair[slot]] for pair in parents] for slot in (0, 1))
    return names, sire, dam


def test_pedigree_reproduces_the_inbred_textbook_example():
    # Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, 3rd ed., example 2.1
    K = pedigree([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 4, 5], [0, 0, 2, 0, 3, 2])
    upper = [
        [1.0, 0.0, 0.5, 0.5, 0.5, 0.25],
        [0.0, 1.0, 0.5, 0.0, 0.25, 0.625],
        [0.5, 0.5, 1.0, 0.25, 0.625, 0.5625],
        [0.5, 0.0, 0.25, 1.0, 0.625, 0.3125],
        [0.5, 0.25, 0.625, 0.625, 1.125, 0.6875],
        [0.25, 0.625, 0.5625, 0.3125, 0.6875, 1.125],
    ]
    np.testing.assert_array_equal(K, upper)
    counts = {"founders": 2, "founders_added": 0, "unknown_codes": {"0": 5}, "inbred": 2}
    assert K.attrs == {"scale_factor": 1.0, "mean_diagonal": 6.25 / 6} | counts
    assert list(K.index) == list(K.columns) == [1, 2, 3, 4, 5, 6]


@given(pedigrees())
@settings(deadline=None, max_examples=60)
def test_pedigree_equals_the_enumeration_of_all_gene_drops(parents):
    np.testing.assert_allclose(pedigree(*columns_of(parents)), enumerate_gene_drops(parents), rtol=0, atol=1e-14)


@given(pedigrees(max_size=12), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_permuting_the_rows_of_a_pedigree_permutes_the_matrix(parents, random):
    table = pd.DataFrame(dict(zip(("id", "sire", "dam"), columns_of(parents), strict=True)), dtype=object)
    order = random.sample(range(len(table)), len(table))
    K = pedigree(table["id"], table["sire"], table["dam"])
    shuffled = table.iloc[order]
    pd.testing.assert_frame_equal(
        pedigree(shuffled["id"], shuffled["sire"], shuffled["dam"]), K.iloc[order, order], rtol=1e-14
    )


def test_pedigree_times_hendersons_inverse_is_the_identity():
    rng = np.random.default_rng(20)
    n = 150
    names = [f"i{i}" for i in range(n)]
    sire = [names[rng.integers(i)] if i > 8 and rng.random() < 0.9 else None for i in range(n)]
    dam = [names[rng.integers(i)] if i > 8 and rng.random() < 0.8 else None for i in range(n)]
    A = pedigree(names, sire, dam).to_numpy()
    assert A.diagonal().max() > 1.1
    np.testing.assert_allclose(A @ henderson_inverse(names, sire, dam, A), np.eye(n), atol=1e-11)


def test_offspring_of_full_sibs_have_inbreeding_of_a_quarter():
    K = pedigree(list("sdabx"), [None, None, "s", "s", "a"], [None, None, "d", "d", "b"])
    assert K.loc["a", "b"] == 0.5
    assert K.loc["x", "x"] == 1.25
    assert K.loc["x", "a"] == 0.75


def test_each_selfing_halves_the_distance_to_complete_inbreeding():
    K = pedigree(list("abcd"), [None, "a", "b", "c"], [None, "a", "b", "c"])
    np.testing.assert_array_equal(np.diag(K), [1, 1.5, 1.75, 1.875])
    np.testing.assert_array_equal(K.loc["a"], [1, 1, 1, 1])
    assert K.attrs["inbred"] == 3


def test_parents_without_a_row_relate_their_offspring_but_have_no_row():
    K = pedigree(["y", "x", "z"], ["bull", "bull", None], ["cow", "heifer", "cow"])
    expected = pd.DataFrame(
        [[1, 0.25, 0.25], [0.25, 1, 0], [0.25, 0, 1]], index=["y", "x", "z"], columns=["y", "x", "z"]
    )
    pd.testing.assert_frame_equal(K, expected)
    assert K.attrs["founders_added"] == 3


@pytest.mark.parametrize("code", [None, np.nan, pd.NA, "", "0", 0, 0.0], ids=repr)
def test_every_missing_code_is_an_unknown_parent(code):
    K = pedigree(["a", "b", "c"], [code, "a", "a"], [code, code, "b"])
    np.testing.assert_array_equal(K, [[1, 0.5, 0.75], [0.5, 1, 0.75], [0.75, 0.75, 1.25]])
    assert K.attrs["founders_added"] == 0


def test_number_ids_match_the_float_parents_of_a_column_with_gaps():
    table = pd.DataFrame({"id": [1, 2, 3], "sire": [np.nan, 1, 1], "dam": [np.nan, np.nan, 2]})
    K = pedigree(table["id"], table["sire"], table["dam"])
    assert K.attrs["founders_added"] == 0
    assert K.loc[3, 3] == 1.25


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a", "b"], [None], [None, None]), ValueError, r"must be equally long, got \[2, 1, 2\]: give None"),
        ((["a", "b", "a"], [None] * 3, [None] * 3), ValueError, "id repeats 'a': make the names unique"),
        ((["a", None], [None] * 2, [None] * 2), ValueError, "id is missing in row 1: name every row"),
        ((["a", "0"], [None] * 2, [None] * 2), ValueError, "id '0' stands for an unknown parent: rename it"),
        (([0, 1], [None] * 2, [None] * 2), ValueError, "id 0 stands for an unknown parent: rename it"),
        (([], [], []), ValueError, "id has 0 names, expected at least 1"),
        ((["a", "b"], [None, "b"], [None, None]), ValueError, "loop, 'b' → 'b' .parent → offspring.: correct"),
        (("ab", [None] * 2, [None] * 2), TypeError, "id must be 1-D, one element per row, got str"),
        ((["a"], pd.DataFrame({"sire": [None]}), [None]), TypeError, "sire must be 1-D, .* got DataFrame"),
    ],
)
def test_a_bad_pedigree_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        pedigree(*arguments)


def test_a_loop_is_refused_with_the_ids_on_it_and_no_others():
    with pytest.raises(ValueError, match="loop") as caught:
        pedigree(np.array([1, 2, 3, 4, 5]), [0, 4, 2, 3, 1], [0, 1, 1, 1, 2])
    loop = str(caught.value).removeprefix("The pedigree has a loop, ").split(" (")[0].split(" → ")
    assert loop[0] == loop[-1]
    assert sorted(loop[1:]) == ["2", "3", "4"]
    assert "→".join([*loop, *loop]).find("2→3→4") >= 0


# ---------------------------------------------------------------- markers


def vanraden(M, p):
    n, m = M.shape
    K = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            K[i, j] = sum((M[i, k] - 2 * p[k]) * (M[j, k] - 2 * p[k]) for k in range(m))
    return K / sum(2 * q * (1 - q) for q in p)


@pytest.fixture
def genotypes():
    table = [
        [0, 2, 1, 1, 2, 0, 1, 2, 0],
        [1, 1, 2, 0, 2, 0, 0, 1, 1],
        [2, 1, 1, 1, 1, 1, 2, 0, 0],
        [1, 0, 2, 0, 0, 2, 1, 2, 1],
        [0, 2, 0, 2, 1, 1, 1, 1, 2],
    ]
    return pd.DataFrame(table, dtype=float, index=list("vwxyz"), columns=[f"snp{j}" for j in range(9)])


def test_markers_equals_vanradens_sum_over_markers(genotypes):
    K = markers(genotypes)
    np.testing.assert_allclose(K, vanraden(genotypes.to_numpy(), genotypes.to_numpy().mean(axis=0) / 2), atol=1e-13)
    assert list(K.index) == list(K.columns) == list("vwxyz")
    np.testing.assert_array_equal(K, K.T)
    assert K.attrs["markers_used"] == 9


def test_dosages_are_used_as_they_are(genotypes):
    dosage = 0.9 * genotypes + 0.05
    np.testing.assert_allclose(markers(dosage), vanraden(dosage.to_numpy(), dosage.to_numpy().mean(axis=0) / 2))


def test_genotypes_of_the_user_are_not_changed(genotypes):
    array = genotypes.to_numpy(copy=True)
    array[0, 0] = np.nan
    before = array.copy()
    markers(array)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("container", ["float", "Int64", "object"])
def test_missing_genotypes_are_imputed_by_twice_the_frequency_and_counted(genotypes, container):
    holed = genotypes.copy()
    holed.iloc[0, 2] = holed.iloc[3, 2] = holed.iloc[4, 7] = np.nan
    p = holed.mean().to_numpy() / 2
    filled = holed.fillna(holed.mean()).to_numpy()
    if container != "float":
        holed = holed.astype("Int64").astype(container)
    K = markers(holed)
    np.testing.assert_allclose(K, vanraden(filled, p), atol=1e-13)
    assert K.attrs["missing_imputed"] == 3


def test_markers_that_do_not_vary_or_are_rare_are_dropped_and_counted(genotypes):
    expected = markers(genotypes)
    padded = genotypes.assign(zero=0, two=2.0, half_seen=[2, np.nan, 2, 2, np.nan], unseen=np.nan)
    K = markers(padded)
    np.testing.assert_allclose(K, expected, atol=1e-13)
    assert K.attrs["monomorphic_dropped"] == 3
    assert K.attrs["all_missing_dropped"] == 1
    assert K.attrs["missing_imputed"] == 0
    rare = markers(padded.assign(rare=[0, 0, 1, 0, 0]), min_maf=0.11)
    np.testing.assert_allclose(rare, expected, atol=1e-13)
    assert rare.attrs["rare_dropped"] == 1
    assert rare.attrs["monomorphic_dropped"] == 3


def test_a_marker_as_common_as_min_maf_is_kept():
    M = [[0, 1], [0, 0], [1, 2], [0, 1]]
    assert markers(M, min_maf=0.125).attrs["markers_used"] == 2
    assert markers(M, min_maf=0.126).attrs["markers_used"] == 1


def test_given_frequencies_replace_those_of_the_data(genotypes):
    p = np.linspace(0.1, 0.6, 9)
    np.testing.assert_allclose(markers(genotypes, frequencies=p), vanraden(genotypes.to_numpy(), p))
    by_name = pd.Series(p, index=genotypes.columns).sample(frac=1, random_state=1)
    np.testing.assert_allclose(markers(genotypes, frequencies=by_name), vanraden(genotypes.to_numpy(), p), atol=1e-13)


@given(st.permutations(range(5)), st.permutations(range(9)), st.sets(st.integers(0, 8)))
@settings(deadline=None)
def test_markers_follows_its_rows_and_ignores_marker_order_and_counted_allele(rows, columns, swapped):
    M = np.random.default_rng(4).integers(0, 3, (5, 9)).astype(float)
    changed = M.copy()
    changed[:, list(swapped)] = 2 - changed[:, list(swapped)]
    K = markers(M).to_numpy()
    np.testing.assert_allclose(markers(changed[np.ix_(rows, columns)]), K[np.ix_(rows, rows)], atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"genotypes": pd.DataFrame([[0, 1], [2, -9]], index=["a", "b"], columns=["s", "t"])},
            ValueError,
            r"in \[0, 2\], got -9 in row 'b', marker 't' \(1 such values\): recode missing ones as NaN",
        ),
        ({"genotypes": [[0, np.inf], [3, 1]]}, ValueError, r"got inf in row 0, marker 1 \(2 such values\)"),
        ({"genotypes": [[0, 2], [0, 2]]}, ValueError, r"no polymorphic marker left \(\{'monomorphic_dropped': 2"),
        ({"genotypes": [[0, 2], [np.nan, np.nan]], "frequencies": [0.5, 0.5]}, ValueError, "no value in row 1"),
        ({"genotypes": [0, 1, 2]}, ValueError, r"must be 2-D \(individuals, markers\), got 1-D"),
        (
            {"genotypes": [["A/A", "A/B"], ["B/B", "A/B"]]},
            TypeError,
            "must be numbers .* coded as counts of one allele",
        ),
        ({"genotypes": [[0, 1], [2, 1]], "ids": ["a"]}, ValueError, "ids has 1 names, expected 2"),
        ({"genotypes": [[0, 1], [2, 1]], "ids": ["a", "a"]}, ValueError, "ids repeats 'a'"),
        ({"genotypes": [[0, 1], [2, 1]], "min_maf": 0.5}, ValueError, r"min_maf must be in \[0, 0.5\), got 0.5"),
        (
            {"genotypes": [[0, 1], [2, 1]], "frequencies": [0.5]},
            ValueError,
            r"must have shape \(2,\), got \(1,\): give one per marker",
        ),
        ({"genotypes": [[0, 1], [2, 1]], "frequencies": [0.5, 1.5]}, ValueError, r"\[0, 1\], got 1.5 for 1"),
        (
            {
                "genotypes": pd.DataFrame([[0, 1], [2, 1]], columns=["s", "t"]),
                "frequencies": pd.Series({"s": 0.5, "u": 0.5}),
            },
            ValueError,
            "got nan for 't'",
        ),
    ],
)
def test_bad_genotypes_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        markers(**arguments)


# ---------------------------------------------------------------- grouping


@given(st.lists(st.sampled_from(["a", "b", 3, 4.5]), min_size=1, max_size=12))
def test_grouping_equals_the_incidence_times_its_transpose(levels):
    names = list(dict.fromkeys(levels))
    Z = np.array([[level == name for name in names] for level in levels], dtype=float)
    K = grouping(levels)
    np.testing.assert_array_equal(K, Z @ Z.T)
    assert K.attrs == {"scale_factor": 1.0, "mean_diagonal": 1.0, "levels": len(names)}


def test_grouping_takes_the_index_of_a_series_unless_ids_are_given():
    levels = pd.Series(["u", "v", "u"], index=["a", "b", "c"], dtype="category")
    assert list(grouping(levels).index) == ["a", "b", "c"]
    assert list(grouping(levels, ids=[7, 8, 9]).columns) == [7, 8, 9]
    assert list(grouping(levels.to_numpy()).index) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"levels": pd.Series(["u", None], index=["a", "b"])}, ValueError, "levels is missing in row 'b': name it"),
        ({"levels": [1.0, np.nan, 2.0]}, ValueError, "levels is missing in row 1"),
        ({"levels": ["u", "v"], "ids": ["a"]}, ValueError, "ids has 1 names, expected 2: give one name per row"),
        ({"levels": ["u", "v"], "ids": ["a", pd.NA]}, ValueError, "ids is missing in row 1"),
        ({"levels": pd.Series(["u", "v"], index=[5, 5])}, ValueError, "ids repeats 5"),
        ({"levels": "uv"}, TypeError, "levels must be 1-D, one element per row, got str"),
        ({"levels": np.eye(2)}, TypeError, "levels must be 1-D, one element per row, got ndarray"),
        ({"levels": []}, ValueError, "ids has 0 names, expected at least 1"),
    ],
)
def test_bad_levels_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        grouping(**arguments)


# ---------------------------------------------------------------- phylogeny

FOUR_TIPS = "((A:1,B:2):3,(C:1.5,D:0.5):1);"
FOUR_TIPS_COVARIANCE = [[4, 3, 0, 0], [3, 5, 0, 0], [0, 0, 2.5, 1], [0, 0, 1, 1.5]]


def test_phylogeny_of_four_tips_is_the_one_computed_by_hand():
    K = phylogeny(FOUR_TIPS)
    expected = pd.DataFrame(FOUR_TIPS_COVARIANCE, index=list("ABCD"), columns=list("ABCD"), dtype=float)
    pd.testing.assert_frame_equal(K, expected)
    assert K.attrs == {"scale_factor": 1.0, "mean_diagonal": 3.25, "tree_height": 5.0, "ultrametric": False}


@pytest.mark.parametrize(
    "dialect",
    [
        "((A:1,B:2):3,(C:1.5,D:0.5):1)",
        "((A:1,B:2)ab:3,(C:1.5,D:0.5)'c d':1)root:99;",
        " (\n\t( A : 1 , B:2 ) :3,\r\n(C:1.5,D :0.5): 1) ;\n",
        "[&R] ((A[one]:1,B:[&rate={1,2},x=(3)]2):3,(C:1.5[a[nested]b],D:0.5)[&p=1]:1);[end]",
        "((A:1e0,B:+2.0E+0):300e-2,(C:1.5,D:.5):1.):0;",
        "(('A':1,\"B\":2)95:3,('C':1.5,D:5.0e-1)0.99:1):-1;",
    ],
)
def test_newick_dialects_give_the_same_tree(dialect):
    pd.testing.assert_frame_equal(
        phylogeny(dialect), pd.DataFrame(FOUR_TIPS_COVARIANCE, list("ABCD"), list("ABCD"), dtype=float)
    )


def test_names_keep_quotes_blanks_underscores_and_unicode():
    names = """('Darwin''s finch':1,"a ""b"" (c);":1,Homo_sapiens:1,Ä.ö-1|x/y:1,'[no comment]':1);"""
    K = phylogeny(names, root="base")
    assert list(K.index) == ["Darwin's finch", 'a "b" (c);', "Homo_sapiens", "Ä.ö-1|x/y", "[no comment]"]


def test_polytomies_and_single_child_nodes_share_only_their_common_path():
    K = phylogeny("((((a:1):1):1,b:1,c:2):4,d:1,e:0);", root="base")
    expected = [[7, 4, 4, 0, 0], [4, 5, 4, 0, 0], [4, 4, 6, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(K, expected)


trees = st.recursive(
    st.just(()), lambda below: st.lists(below, min_size=1, max_size=4).map(tuple), max_leaves=12
).filter(bool)


@given(trees, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_phylogeny_equals_the_sum_of_the_branches_above_both_tips(shape, seed):
    rng = np.random.default_rng(seed)
    above = {}  # tip → the branches on its way to the root
    lengths = []

    def write(node, path):
        branch = len(lengths)
        lengths.append(rng.uniform(0.1, 3))
        name = f"t{branch}"
        if node:
            name = "(" + ",".join(write(child, {*path, branch}) for child in node) + ")"
        else:
            above[name] = {*path, branch}
        return f"{name}:{lengths[branch]!r}"

    newick = "(" + ",".join(write(child, set()) for child in shape) + ");"
    oracle = [[math.fsum(lengths[b] for b in above[i] & above[j]) for j in above] for i in above]
    K = phylogeny(newick, root="base")
    assert list(K.index) == list(above)
    np.testing.assert_allclose(K, oracle, rtol=1e-13)


def test_a_ladder_deeper_than_the_recursion_limit_is_read():
    n = 3000
    K = phylogeny("(" * (n - 1) + "t0:1" + "".join(f",t{i}:1):1" for i in range(1, n)) + ";")
    np.testing.assert_array_equal(K.iloc[0], [n - 1, *range(n - 2, -1, -1)])
    np.testing.assert_array_equal(np.diag(K)[1:], np.arange(n - 1, 0, -1))


@pytest.mark.parametrize("kind", ["newick", "frame"])
def test_ids_select_and_order_the_tips(kind):
    tree = FOUR_TIPS if kind == "newick" else phylogeny(FOUR_TIPS)
    K = phylogeny(tree, ids=["D", "A", "C"])
    np.testing.assert_array_equal(K, [[1.5, 0, 1], [0, 4, 0], [1, 0, 2.5]])
    assert list(K.index) == list(K.columns) == ["D", "A", "C"]
    assert K.attrs["tree_height"] == 4


def test_a_covariance_passes_through_and_ids_name_the_rows_of_an_array():
    K = phylogeny(np.array(FOUR_TIPS_COVARIANCE), ids=list("ABCD"))
    pd.testing.assert_frame_equal(K, phylogeny(FOUR_TIPS))
    pd.testing.assert_frame_equal(phylogeny(K), K)
    assert list(phylogeny(np.array(FOUR_TIPS_COVARIANCE)).index) == [0, 1, 2, 3]


def test_ultrametric_trees_are_recognised_up_to_rounding_and_become_correlations():
    K = phylogeny("((a:0.1,b:0.1):0.2,c:0.3);", scale="mean_diagonal")
    assert K.attrs["ultrametric"] is True
    assert K.attrs["tree_height"] == pytest.approx(0.3)
    np.testing.assert_allclose(K, [[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 0, 1]])
    assert phylogeny("((a:0.1,b:0.1):0.2,c:0.300001);").attrs["ultrametric"] is False


@pytest.mark.parametrize(
    ("newick", "message"),
    [
        (
            "tree.nwk",
            r"character 1: expected '\(' \(pass .*; of a file, pathlib.Path\(file\).read_text\(\)\), got 'tree.nwk'",
        ),
        ("", r"character 1: expected '\(' .* got 'the end of the text'"),
        ("((A:1,B:1):1,C:1;", r"character 17: the tree ends, but the '\(' at character 1 is not closed"),
        (" ((A:1,B:1", r"character 11: the tree ends, but the '\(' at character 3 is not closed"),
        ("(A:1,B:1)):1;", r"character 10: '\)' is outside all parentheses; add the '\(' that is missing"),
        ("(A:1,B:1),C:1;", r"character 10: ',' is outside all parentheses"),
        ("(A:1,B:1);(C:1,D:1);", r"character 11: expected one tree only, ended by ';', got '\('"),
        ("(A:1,Homo sapiens:1);", r"character 11: expected ':', .*quote a name that holds blanks.* got 'sapiens'"),
        ("(A:1,,B:1);", r"character 6: expected '\(' or the name of a tip, got ','"),
        ("(A:1,B:1 2);", r"character 10: expected ',', '\)' or ';', got '2'"),
        ("(A:1,B:x);", r"character 8: expected a branch length after ':', got 'x'"),
        ("(A:1,B:1_0);", r"character 8: expected a branch length after ':', got '1_0'"),
        ("(A:1,B:);", r"character 8: expected a branch length after ':', got '\)'"),
        ("(A:1,B:1)(C:1);", r"character 10: expected a name, ':', ',', '\)' or ';', got '\('"),
        ("(A:1,'B:1);", r"character 6: \"'\" opens or closes a quotation or a comment that has no other end"),
        ("(A:1,B[:1);", r"character 7: '\[' opens or closes a quotation or a comment"),
        ("(A,B);", "2 of 2 have none; the first is the branch above 'A' that begins at character 2, with no length"),
        ("((A:1,B:1),C:1);", "1 of 4 .* above the internal node that begins at character 2, with no length"),
        ("((A:1,B:1)ab,C:1);", "1 of 4 .* above 'ab' that begins at character 2, with no length"),
        ("(A:1,B:-0.5);", "1 of 2 .* above 'B' that begins at character 6, with length -0.5"),
        ("(A:1,B:1e999);", "above 'B' that begins at character 6, with length inf"),
        ("(A:1,(B:1,A:2):1);", "tree repeats 'A': make the names unique"),
        ("(A:0,B:0);", "The relationship matrix is zero"),
    ],
)
def test_a_malformed_newick_tree_is_refused_with_the_place(newick, message):
    with pytest.raises(ValueError, match=message):
        phylogeny(newick)


def test_unknown_and_repeated_tips_are_refused_by_name():
    with pytest.raises(ValueError, match="ids 'X', 'a' are not tips of the tree: correct or drop them"):
        phylogeny(FOUR_TIPS, ids=["A", "X", "a"])
    with pytest.raises(ValueError, match="ids repeats 'A'"):
        phylogeny(FOUR_TIPS, ids=["A", "A"])
    with pytest.raises(TypeError, match="ids must be 1-D, one element per row, got str"):
        phylogeny(FOUR_TIPS, ids="A")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[1, 0.5], [0.4, 1]]), "symmetric"),
        (np.array([[1, -0.5], [-0.5, 1]]), "tree must be non-negative, but is not by 0.5"),
        (
            np.array([[1.0, 2], [2, 1]]),
            "tree is not positive semi-definite: its smallest eigenvalue is -1, ",
        ),
        (np.array([[1, np.nan], [np.nan, 1]]), "tree has 2 values that are NaN"),
        (pd.DataFrame(np.eye(2), index=["a", "b"], columns=["b", "a"]), "tree is not positive semi-definite"),
        (pd.DataFrame(np.eye(2), columns=["a", "b"]), "other ids in its columns than in its rows"),
    ],
)
def test_a_matrix_that_no_tree_can_have_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        phylogeny(matrix)


def test_other_kinds_of_tree_are_refused():
    with pytest.raises(TypeError, match="tree must be Newick text or a covariance matrix, got dict"):
        phylogeny({"A": 1})


# ---------------------------------------------------------------- scaling

MAKERS = {
    "pedigree": lambda **scale: pedigree(list("sdabx"), ["", "", "s", "s", "a"], ["", "", "d", "d", "b"], **scale),
    "markers": lambda **scale: markers([[0, 1, 2, 0], [2, 1, 0, 1], [1, 2, 2, 0]], **scale),
    "grouping": lambda **scale: grouping(["u", "v", "u"], **scale),
    "phylogeny": lambda **scale: phylogeny(FOUR_TIPS, **scale),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_scaling_divides_by_the_mean_diagonal_and_says_so(make):
    raw, scaled = make(), make(scale="mean_diagonal")
    mean_diagonal = np.trace(raw) / len(raw)
    assert raw.attrs["scale_factor"] == 1.0
    assert raw.attrs["mean_diagonal"] == pytest.approx(mean_diagonal, rel=1e-15)
    assert scaled.attrs["scale_factor"] == pytest.approx(1 / mean_diagonal, rel=1e-15)
    assert scaled.attrs["mean_diagonal"] == pytest.approx(1, rel=1e-15)
    np.testing.assert_allclose(scaled, raw / mean_diagonal, rtol=1e-15)
    counts = raw.attrs.keys() - {"scale_factor", "mean_diagonal"}
    assert counts
    assert {key: raw.attrs[key] for key in counts} == {key: scaled.attrs[key] for key in counts}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_unknown_scale_is_refused(make):
    with pytest.raises(ValueError, match="scale must be 'none' or 'mean_diagonal', got 'trace'"):
        make(scale="trace")
