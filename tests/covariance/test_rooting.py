"""Unrooted trees, roots that are asked for, and what other software writes."""

from pathlib import Path

import numpy as np
import pytest
from newick_tree import RandomTree
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.covariance import phylogeny

ML = "(A:1,B:2,(C:3,D:4):5);"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            ML,
            r"The tree has 3 branches at its base, as programs write .*outgroup, root='<tip>' with the name",
        ),
        ("(A:1,B:2,(C:3,D:4):5):0.0;", "has 3 branches at its base"),  # RAxML
        ("[&U] ((A:1,B:2):2,(C:3,D:4):3);", r"is marked as unrooted, \[&U\], as programs write unrooted"),
        ("[&u](A:1,B:2,(C:3,D:4):5);", r"is marked as unrooted, \[&U\]"),
        (" [a tree] [&U] [&W 1/3] ((A:1,B:2):2,(C:3,D:4):3);", r"is marked as unrooted, \[&U\]"),
        ("(A:1,B:1,C:1,D:2);", "has 4 branches at its base"),
        ("(A:1,B:1,C:1.00001);", "has 3 branches at its base"),
        ("(A:0,B:0,C:0);", "has 3 branches at its base"),
        ("[&U](A:1,B:1,C:1);", r"is marked as unrooted, \[&U\]"),
    ],
)
def test_an_unrooted_tree_is_refused_until_a_root_is_given(tree, message):
    with pytest.raises(ValueError, match=message):
        phylogeny(tree)


def test_a_base_from_which_all_tips_are_equally_far_is_the_root():
    assert_array_equal(phylogeny("(A:1,B:1,C:1);"), np.eye(3))
    expected = [[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 2], [0, 0, 2, 3]]
    assert_array_equal(phylogeny("(A:3,B:3,(C:1,D:1):2);"), expected)
    assert_array_equal(phylogeny("(A:3,B:3,(C:1,D:1):2):5;"), expected)  # a stem
    assert_allclose(phylogeny("(A:0.333333,B:0.3333331,(C:0.1,D:0.1):0.233333);").loc["C", "D"], 0.233333)


def test_a_tree_that_says_it_is_rooted_is():
    expected = [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 8, 5], [0, 0, 5, 9]]
    for tree in ("[&R] " + ML, "[&r]" + ML, "[&U] [&R] " + ML):
        assert_array_equal(phylogeny(tree), expected)
    assert_array_equal(phylogeny(ML, root="base"), expected)
    assert_array_equal(phylogeny("[&U]" + ML, root="base"), expected)


def test_an_outgroup_and_the_midpoint_root_a_tree_of_four_tips():
    # the branch to A is halved
    assert_allclose(
        phylogeny(ML, root="A"), [[0.5, 0, 0, 0], [0, 2.5, 0.5, 0.5], [0, 0.5, 8.5, 5.5], [0, 0.5, 5.5, 9.5]]
    )
    both = [[3.5, 2.5, 0, 0], [2.5, 4.5, 0, 0], [0, 0, 5.5, 2.5], [0, 0, 2.5, 6.5]]
    assert_allclose(phylogeny(ML, root=["C", "D"]), both)
    assert_allclose(phylogeny(ML, root=("B", "A")), both)
    # the longest path is that from B to D, 11
    middle = phylogeny(ML, root="midpoint")
    assert_allclose(np.diag(middle), [4.5, 5.5, 4.5, 5.5])
    assert_allclose(middle.loc["A", "B"], 3.5)
    assert_allclose(middle.loc["C", "D"], 1.5)
    assert list(middle.index) == list("ABCD")


@pytest.mark.parametrize("base", [2, 3, 4])
def test_roots_equal_those_found_by_walking_the_tree(base):
    rng = np.random.default_rng(base)
    for _ in range(15):
        tree = RandomTree(rng, tips=int(rng.integers(4, 12)), base=base)
        text = tree.newick()
        assert_allclose(phylogeny(text, root="base"), tree.from_base(), atol=1e-12)
        tips = tree.tips()
        for node, (parent, length) in tree.edges.items():
            out = [tree.names[t] for t in tree.in_order(node) if t in tree.names]
            if len(out) == len(tips):
                continue
            share = 0.5
            if parent == 0 and base == 2:  # the base only divides one branch
                (other,) = set(tree.children[0]) - {node}
                whole = length + tree.edges[other][1]
                node, share = (
                    (node, whole / 2 / max(length, 1e-300))
                    if whole / 2 <= length
                    else (other, whole / 2 / tree.edges[other][1])
                )
            expected = tree.from_branch(node, share)
            assert_allclose(phylogeny(text, root=out), expected, atol=1e-12)
        nodes, D = tree.distances()
        ends = [nodes.index(t) for t in tips]
        between = D[np.ix_(ends, ends)]
        K = phylogeny(text, root="midpoint").to_numpy()
        assert_allclose(np.add.outer(np.diag(K), np.diag(K)) - 2 * K, between, atol=1e-12)
        assert_allclose(np.sort(np.diag(K))[-2:], between.max() / 2, atol=1e-12)
        assert K.min() > -1e-12


def test_with_an_intercept_the_root_changes_h2_but_not_the_likelihood():
    rng = np.random.default_rng(3)
    tree = RandomTree(rng, tips=40, base=3, polytomies=0)
    K = phylogeny(tree.newick(), root="base")
    y = np.linalg.cholesky(K + 4 * np.eye(40)) @ rng.normal(size=40)
    roots = ("base", "midpoint", tree.names[tree.tips()[3]])
    kernels = [phylogeny(tree.newick(), root=root).to_numpy() for root in roots]
    fits = [flmm.reml(flmm.Spectrum.from_covariance(K, np.ones((40, 1))), y) for K in kernels]
    assert 0.05 < fits[0].h2 < 0.95
    assert_allclose([f.loglik for f in fits], fits[0].loglik, rtol=1e-8)
    assert_allclose([f.sigma2_g for f in fits], fits[0].sigma2_g, rtol=1e-4)
    assert np.ptp([f.h2 for f in fits]) > 1e-3


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("X", "root names 'X', which are not tips of the tree: give 'midpoint', 'base' or tips"),
        ("a", "'a' and 'A' differ only in their spelling"),
        (["A", "C"], "root 'A', 'C' is no outgroup: no branch of the tree has these tips on one side"),
        (list("ABCD"), "is no outgroup"),
    ],
)
def test_a_root_that_cannot_be_is_refused(root, message):
    with pytest.raises(ValueError, match=message):
        phylogeny(ML, root=root)


def test_a_covariance_has_its_root():
    with pytest.raises(ValueError, match="root= is for Newick text: a covariance of shared paths has its root"):
        phylogeny(phylogeny(ML, root="base"), root="A")
    with pytest.raises(ValueError, match="name= is for the text of a NEXUS file with several trees"):
        phylogeny(phylogeny(ML, root="base"), name="A")


def test_a_stem_below_the_base_is_kept_or_dropped_with_the_root():
    stem = "(((A:1,B:2):1,C:3):7);"
    assert_array_equal(np.diag(phylogeny(stem)), [9, 10, 10])
    assert_allclose(phylogeny(stem, root="C"), phylogeny("((A:1,B:2):1,C:3);", root="C"))
    assert_allclose(phylogeny(stem, root="midpoint"), phylogeny("((A:1,B:2):1,C:3);", root="midpoint"))


# ---------------------------------------------------------------- what other software writes


def test_apostrophes_within_a_name_are_read_as_ape_writes_them():
    assert list(phylogeny("(it's:1,B_2_x:2);").index) == ["it's", "B_2_x"]
    assert list(phylogeny("('it''s':1,5'UTR:2);").index) == ["it's", "5'UTR"]
    with pytest.raises(ValueError, match="quote a name that holds blanks or punctuation"):
        phylogeny("(A:1,B_2 x:2);")


def test_nexus_text_is_read_with_its_translate_table():
    nexus = "#NEXUS\nBEGIN TREES;\n TRANSLATE 1 A, 2 B;\n TREE t = [&R] (1:1,2:2);\nEND;\n"
    for text in (nexus, "\n " + nexus.lower()):
        K = phylogeny(text)
        assert_array_equal(K, [[1, 0], [0, 2]])
        assert [label.upper() for label in K.index] == ["A", "B"]


def test_an_object_or_a_path_is_refused_with_the_way_to_text():
    with pytest.raises(TypeError, match=r"tree must be Newick text.*got .*Path: read a file, Path\(file\)\.read_text"):
        phylogeny(Path("tree.nwk"))


def test_branches_without_length_and_negative_ones_are_told_apart():
    with pytest.raises(ValueError, match=r"but 1 of 4 have none, 2 of 4 are negative; the first is the branch above"):
        phylogeny("((A:1,B:-1):-2,C);")
    with pytest.raises(ValueError, match=r"2 of 4 are negative.* with length -2.*neighbour joining makes"):
        phylogeny("((A:1,B:-1):-2,C:1);")
    with pytest.raises(ValueError, match=r"but 1 of 2 are infinite; the first .* above 'B'"):
        phylogeny("(A:1,B:1e999);")
