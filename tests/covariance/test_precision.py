"""Precisions of pedigrees, trees and others: against dense algebra, the definition of kinship, and ape."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinship import additive
from newick_tree import RandomTree
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from pm_fastlmm import covariance as cov

# ---------------------------------------------------------------- pedigrees


@st.composite
def families(draw, most=14):
    """Parents of each, of any sex, known or not, some selfed; and who is a clone of whom."""
    n = draw(st.integers(2, most))
    parent = [st.none() if i == 0 else st.one_of(st.none(), st.integers(0, i - 1)) for i in range(n)]
    pairs = [(draw(parent[i]), draw(parent[i])) for i in range(n)]
    order = draw(st.permutations(range(n)))
    clones = {i: draw(st.integers(0, i - 1)) for i in range(1, n) if pairs[i] == (None, None) and draw(st.booleans())}
    return pairs, order, clones


def columns(pairs, order):
    names = [f"i{i}" for i in range(len(pairs))]
    sire, dam = ([None if pairs[i][k] is None else names[pairs[i][k]] for i in order] for k in (0, 1))
    return [names[i] for i in order], sire, dam


@given(families())
@settings(deadline=None, max_examples=200)
def test_the_precision_of_a_pedigree_is_the_inverse_of_kinship(family):
    pairs, order, clones = family
    copies = {f"i{k}": f"i{v}" for k, v in clones.items()}
    ped = cov.Pedigree(*columns(pairs, order), clones=copies)
    root = {f"i{i}": f"i{i}" for i in range(len(pairs))}
    for i in range(len(pairs)):
        root[f"i{i}"] = root[copies[f"i{i}"]] if f"i{i}" in copies else f"i{i}"
    known = {f"i{i}": tuple(None if p is None else root[f"i{p}"] for p in pairs[i]) for i in range(len(pairs))}
    A = additive(known, ped.labels)
    assert set(ped.labels) == set(root.values())
    assert_allclose(ped.Q @ A, np.eye(len(A)), atol=1e-11)
    assert_array_equal(ped.Q.toarray(), ped.Q.toarray().T)
    assert_allclose(ped.logdet, np.linalg.slogdet(A)[1], atol=1e-10)
    assert_allclose(ped.variances, np.diag(A), rtol=1e-14)
    everybody = additive(known, [root[label] for label in columns(pairs, order)[0]])
    assert_allclose(ped.dense(), everybody, atol=1e-14)
    assert_allclose(ped.inbreeding, np.diag(everybody) - 1, atol=1e-14)
    assert [ped.labels[row] for row in ped.rows(root)] == list(root.values())
    pd.testing.assert_frame_equal(ped.dense(), cov.pedigree(*columns(pairs, order), clones=copies))


def random_pedigree(n, rng, sires, reach):
    """Offspring of few sires and many dams among the last `reach`, of whom some are unknown and some selfed."""
    sire, dam = np.full(n, -1), np.full(n, -1)
    for i in range(2, n):
        pool = np.arange(max(0, i - reach), i)
        sire[i], dam[i] = rng.choice(pool[:sires]), rng.choice(pool)
        if rng.random() < 0.05:
            sire[i] = dam[i]
        sire[i], dam[i] = (p if rng.random() > 0.05 else -1 for p in (sire[i], dam[i]))
    return sire, dam


@pytest.mark.parametrize(("sires", "reach"), [(3, 40), (10, 600), (40, 40)])
def test_a_pedigree_of_many_generations_keeps_its_digits(sires, reach):
    n = 600
    rng = np.random.default_rng(sires)
    sire, dam = random_pedigree(n, rng, sires, reach)
    A = np.zeros((n, n))
    for i in range(n):
        known = [p for p in (sire[i], dam[i]) if p >= 0]
        A[i, :i] = A[:i, i] = sum((0.5 * A[p, :i] for p in known), np.zeros(i))
        A[i, i] = 1 + (0.5 * A[known[0], known[1]] if len(known) == 2 else 0)
    order = rng.permutation(n)
    ped = cov.Pedigree(order + 1, sire[order] + 1, dam[order] + 1)
    A = A[np.ix_(order, order)]
    assert ped.labels == tuple((order + 1).tolist())
    assert_allclose(ped.variances, np.diag(A), rtol=1e-13)
    assert_allclose(ped.Q @ A, np.eye(n), atol=1e-10)
    assert_allclose(ped.logdet, np.linalg.slogdet(A)[1], rtol=1e-10)
    some = rng.permutation(order + 1)[:90]
    rows = ped.rows(some)
    assert_allclose(ped.dense(some), A[np.ix_(rows, rows)], atol=1e-13)


def test_parents_without_a_row_are_effects_after_those_with_one():
    ped = cov.Pedigree(["y", "x", "z"], ["bull", "bull", None], ["cow", "heifer", "cow"])
    assert ped.labels == ("y", "x", "z", "bull", "cow", "heifer")
    assert list(ped.dense().index) == list(ped.inbreeding.index) == ["y", "x", "z"]
    assert_allclose(ped.dense(["x", "bull"]), [[1, 0.5], [0.5, 1]])
    assert ped.dense().attrs["founders_added"] == 3


def test_a_clone_is_in_the_row_of_its_original():
    ped = cov.Pedigree([1, 2, 3, 4], [0, 0, 1, 0], [0, 0, 2, 3], clones={"2": 1})
    assert ped.labels == (1, 3, 4)
    assert dict(ped.aliases) == {2: 0}
    assert_array_equal(ped.rows([4, "2", 1, 9]), [2, 0, 0, -1])
    assert_allclose(ped.inbreeding, [0, 0, 0.5, 0])  # 3 is of one genotype, selfed


def test_offspring_of_a_selfed_line_without_variance_are_refused_and_have_relationships():
    n = 60
    ids, parents = [f"s{i}" for i in range(n)], [None, *(f"s{i}" for i in range(n - 1))]
    with pytest.raises(ValueError, match=r"'s55', .* differ from their parents by no variance, .*Name them in clones="):
        cov.Pedigree(ids, parents, parents)
    assert cov.pedigree(ids, parents, parents).iloc[-1, -1] == 2


@pytest.mark.parametrize(
    ("sire", "dam", "loop"),
    [
        ([None, "b", "d", "c"], [None] * 4, "'b' → 'b'"),  # the shortest loop, where there are several
        (["b", "c", "a", None], ["d", "d", "d", None], "'a' → 'c' → 'b' → 'a'"),
    ],
)
def test_a_loop_is_named_from_parent_to_offspring(sire, dam, loop):
    with pytest.raises(ValueError, match=rf"The pedigree has a loop, {loop} \(parent → offspring\): correct one"):
        cov.Pedigree(list("abcd"), sire, dam)


def test_an_unlisted_parent_that_is_sire_and_dam_is_refused():
    with pytest.raises(ValueError, match=r"Parent 'wild' is sire and dam but has no row of its own, as a code of"):
        cov.Pedigree(["a", "b", "c"], ["wild", "wild", "a"], ["x", "b0", "wild"])


def test_ids_that_are_not_in_the_pedigree_are_refused():
    ped = cov.Pedigree(["a", "b"], [None, "a"], [None, None])
    with pytest.raises(ValueError, match=r"ids 'c', 'A' are not in the pedigree: correct or drop them. 'A' and 'a' d"):
        ped.dense(["c", "A"])


def test_a_dense_matrix_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr("pm_fastlmm.base.memory.physical_memory", lambda: 1000.0)
    n = 20
    ped = cov.Pedigree(range(1, n + 1), [0] * n, [0] * n)
    message = r"A relationship matrix of 20 individuals needs 0.0 GB, and .*: give ids, or Pedigree and Tree to known="
    for call in (ped.dense, lambda: cov.pedigree(range(1, n + 1), [0] * n, [0] * n)):
        with pytest.raises(ValueError, match=message):
            call()
    assert ped.dense([3, 4]).shape == (2, 2)
    with pytest.raises(ValueError, match=r"The Cholesky factor of Q, of 20 effects, needs .*: it fills in too much"):
        cov.Precision(np.eye(20) + 1, range(20))


WAYS = {
    "integers": lambda c: pd.Series(c),
    "floats": lambda c: pd.Series(np.where(np.array(c) > 0, c, np.nan)),
    "Int64": lambda c: pd.Series(c).replace(0, None).astype("Int64"),
    "list": list,
    "text": lambda c: pd.Series(c).astype(str),
    "string": lambda c: pd.Series(c).astype("string"),
    "objects": lambda c: np.array([str(v) if v % 2 else v for v in c], dtype=object),
    "categories": lambda c: pd.Categorical(c),
    "float32": lambda c: np.array(c, dtype=np.float32),
    "text of floats": lambda c: [f"{v}.0" for v in c],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_columns_of_all_types_are_one_pedigree(way):
    rng = np.random.default_rng(3)
    sire, dam = random_pedigree(400, rng, 5, 60)
    expected = cov.Pedigree(np.arange(1, 401), sire + 1, dam + 1)
    for of_ids in (way, list):
        ped = cov.Pedigree(of_ids(range(1, 401)), way((sire + 1).tolist()), way((dam + 1).tolist()))
        assert (ped.Q != expected.Q).nnz == 0
        assert_array_equal(ped.inbreeding, expected.inbreeding)
        assert_array_equal(ped.rows([3, "400", 7.0, 3, "400"]), [2, 399, 6, 2, 399])


# ---------------------------------------------------------------- trees


@pytest.mark.parametrize("base", [2, 3, 4])
@pytest.mark.parametrize("root", ["base", "midpoint", "outgroup"])
def test_the_precision_of_a_tree_is_the_inverse_over_its_nodes(base, root):
    rng = np.random.default_rng(base)
    for _ in range(12):
        tree = RandomTree(rng, tips=int(rng.integers(4, 14)), base=base)
        text = tree.newick()
        given = tree.names[tree.tips()[1]] if root == "outgroup" else root
        K = cov.phylogeny(text, root=given)
        at_root = np.diag(K) == 0
        if at_root.any():
            with pytest.raises(ValueError, match=r"are at the root, without variance"):
                cov.Tree(text, root=given)
            continue
        made = cov.Tree(text, root=given)
        pd.testing.assert_frame_equal(made.dense(), K)
        assert made.tips == tuple(K.index)
        A = made.dense(made.labels).to_numpy()
        assert_allclose(made.Q @ A, np.eye(len(A)), atol=1e-11)
        assert_allclose(made.logdet, np.linalg.slogdet(A)[1], atol=1e-10)
        assert_allclose(made.variances, np.diag(A), rtol=1e-14)
        assert made.labels[0] == made.tips[0]


def test_nodes_without_a_branch_between_them_are_one_and_named_by_a_tip_first():
    tree = cov.Tree("((A:0,B:0,(C:1,D:2)cd:0)abcd:3,((E:1,F:1)ef:0)G_:2,H:1);", root="base")
    assert tree.labels == ("A", "C", "D", "E", "F", "H", "G_")
    assert dict(tree.aliases) == {"B": 0, "abcd": 0, "cd": 0, "ef": 6}
    expected = [[3, 3, 3, 0], [3, 3, 3, 0], [3, 3, 4, 0], [0, 0, 0, 2]]
    assert_array_equal(tree.dense(["A", "cd", "C", "ef"]), expected)


def test_inner_nodes_keep_names_and_support_values_are_none():
    tree = cov.Tree("(((A:1,B:1)95:1,(C:1,D:1)98.5/100:1)apes:1,((E:1,F:1)x:1,(G:1,H:1)x:1):1,node2:2);", root="base")
    assert tree.labels[-6:] == ("apes", "node1", "node3", "node4", "node5", "node6")


def test_a_tip_at_the_root_is_refused_by_name():
    with pytest.raises(ValueError, match=r"tips 'A', 'C' are at the root, without variance: drop them, or give"):
        cov.Tree("((A:0,B:1):0,C:0,D:2);", root="base")


def test_a_ladder_of_ten_thousand_tips_has_two_entries_per_branch():
    n = 10_000
    text = "(" * (n - 1) + "t0:1" + "".join(f",t{i}:1):1" for i in range(1, n)) + ";"
    tree = cov.Tree(text)
    assert len(tree) == 2 * n - 2
    assert tree.Q.nnz == len(tree) + 2 * (len(tree) - 2)
    assert tree.logdet == 0
    assert_array_equal(tree.dense(["t0", "t1", "t9999"]), [[n - 1, n - 2, 0], [n - 2, n - 1, 0], [0, 0, 1]])
    middle = cov.Tree(text, root="midpoint")
    assert middle.variances.max() == n / 2


NEXUS = """#NEXUS
[a comment with a ; in it]
BEGIN TAXA; DIMENSIONS NTAX=3; TAXLABELS A 'B b' C; END;
Begin trees;  [names come first]
    Translate
        1 A,
        2 'B b' , 3 Homo_sapiens;
    tree first = [&R] ((1:1,2:1):1,3:2);
    TREE * 'the second' = [&U] (1:1,2:2,3:3) ;
    utree third = ((1:1,2:1):1,3:2);
end;
begin other; tree x = (1:1,2:2); end;
"""


def test_trees_of_a_nexus_file_are_chosen_by_name_and_translated():
    first = cov.Tree(NEXUS, name="first")
    assert first.tips == ("A", "B b", "Homo_sapiens")
    assert_array_equal(first.dense(), [[2, 1, 0], [1, 2, 0], [0, 0, 2]])
    pd.testing.assert_frame_equal(cov.phylogeny(NEXUS, name="first"), first.dense())
    second = cov.Tree(NEXUS, name="the second", root="A")
    assert_allclose(second.dense(), [[0.5, 0, 0], [0, 2.5, 0.5], [0, 0.5, 3.5]])
    with pytest.raises(ValueError, match=r"3 trees, 'first', 'the second', 'third': say which by name=, such as"):
        cov.Tree(NEXUS)
    with pytest.raises(ValueError, match=r"has no tree 'x' but 'first', 'the second', 'third'"):
        cov.Tree(NEXUS, name="x")
    for unrooted in ("the second", "third"):
        with pytest.raises(ValueError, match=r"is marked as unrooted, \[&U\]"):
            cov.Tree(NEXUS, name=unrooted)


APE = json.loads((Path(__file__).parents[1] / "reference" / "ape_trees.json").read_text())["cases"]


@pytest.mark.parametrize("case", APE, ids=[case["name"] for case in APE])
def test_trees_are_those_of_ape(case):
    root = case["root"] or "base"
    tree = cov.Tree(case["newick"], root=root)
    assert_allclose(tree.dense(), case["vcv"], rtol=1e-12, atol=1e-12)
    assert_allclose(np.sort(tree.variances), case["heights"], rtol=1e-12)
    assert_allclose(tree.logdet, case["logdet"], rtol=1e-9)
    assert_allclose(cov.phylogeny(case["newick"], root=root), case["vcv"], rtol=1e-12, atol=1e-12)
    nexus = cov.Tree(case["nexus"], root=root)  # ape writes ten digits
    assert nexus.tips == tuple(case["tips"])
    assert_allclose(nexus.dense(), case["vcv"], atol=1e-8)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("#NEXUS\nbegin data; end;", {}, r"The NEXUS file has no tree: it needs a block BEGIN TREES;"),
        ("#nexus begin trees; tree a = (A,B); end;", {}, r"2 of 2 have none; the first is the branch above 'A'"),
        ("#nexus begin trees; tree 'a = (A:1,B:1); end;", {}, r"character 26: \"'\" opens or closes a quotation"),
        ("(A:1,B:1);", {"name": "a"}, r"name='a' is for trees of a NEXUS file, and this is a Newick tree"),
        ("((A,B),C);", {}, r"every branch needs a finite length ≥ 0, but 4 of 4 have none"),
        ("(A:1,A:1);", {}, r"tree repeats 'A'"),
        ("(A:1,B:1,C:2);", {}, r"has 3 branches at its base"),
    ],
)
def test_trees_that_cannot_be_read_are_refused(text, arguments, message):
    with pytest.raises(ValueError, match=message):
        cov.Tree(text, **arguments)


# ---------------------------------------------------------------- a precision of one's own

DAYS = ["mon", "tue", "wed"]
WALK = np.array([[2.0, -1, 0], [-1, 2, -1], [0, -1, 1]])


def test_a_precision_of_ones_own_is_the_inverse_of_its_covariance():
    rng = np.random.default_rng(2)
    n = 60
    L = np.eye(n) + np.tril(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.05), -1)
    A = np.linalg.inv(L @ L.T)
    labels = rng.permutation(n).tolist()
    for Q in (csr_array(L @ L.T), L @ L.T, pd.DataFrame(L @ L.T, labels, labels).iloc[:, ::-1]):
        own = cov.Precision(Q, labels)
        assert own.labels == tuple(labels)
        assert_allclose(own.logdet, np.linalg.slogdet(A)[1], atol=1e-10)
        assert_allclose(own.variances, np.diag(A), rtol=1e-10)
        assert_allclose(own.dense([labels[7], labels[3]]), A[np.ix_([7, 3], [7, 3])], rtol=1e-10)
        assert_allclose(own.dense(scale="mean_diagonal"), A / np.diag(A).mean(), rtol=1e-8, atol=1e-10)
    assert cov.Precision(csr_array(WALK), DAYS, 1e-9).logdet == 1e-9


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((WALK[:2], DAYS[:2]), ValueError, r"Q must be square, got shape \(2, 3\)"),
        ((WALK,), ValueError, r"Q has no labels: give labels="),
        ((WALK, DAYS[:2]), ValueError, r"labels has 2 names, expected 3"),
        ((WALK, ["a", "b", "a"]), ValueError, r"labels repeats 'a'"),
        ((np.tril(WALK), DAYS), ValueError, r"differs by 1 from its transpose at '\w+' and '\w+': give both triangles"),
        ((WALK * np.nan, DAYS), ValueError, r"Q has values that are NaN or infinite"),
        (
            (WALK - np.diag([1.0, 0, 0]), DAYS),
            ValueError,
            r"not positive definite: given others, '\w+' has no .*rows sum to 0, has none",
        ),
        (
            (WALK - 3 * np.eye(3), DAYS),
            ValueError,
            r"Q is not positive definite: given others, '\w+' has no positive precision left",
        ),
        ((2 * WALK, DAYS, np.log(8.0)), ValueError, r"logdet is 2.07944\d*, but log\|A\| = -log\|Q\| is -2.07944"),
        ((WALK.tolist(), DAYS), TypeError, r"Q must be a DataFrame or a scipy.sparse matrix, got list"),
        ((pd.DataFrame(WALK, DAYS, ["mon", "tue", "x"]),), ValueError, r"other labels in its columns than in its rows"),
    ],
)
def test_a_precision_that_is_none_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        cov.Precision(*arguments)


def test_an_intrinsic_precision_is_refused_though_rounding_hides_it():
    rng = np.random.default_rng(8)
    weights = np.triu(rng.uniform(size=(40, 40)) * (rng.random((40, 40)) < 0.3), 1)
    weights += weights.T
    with pytest.raises(ValueError, match=r"Q is not positive definite: given others, 'r[0-9]+' has no"):
        cov.Precision(np.diag(weights.sum(axis=0)) - weights, [f"r{i}" for i in range(40)])


MADE = {
    "pedigree": lambda: cov.Pedigree([1, 2, 3], [0, 0, 1], [0, 0, 2]),
    "tree": lambda: cov.Tree("((A:1,B:1):1,C:2);"),
    "own": lambda: cov.Precision(WALK, DAYS),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_are_the_same_and_read_only(make, way):
    made = make()
    again = way(made)
    assert type(again) is type(made)
    pd.testing.assert_frame_equal(again.dense(), made.dense())
    for one in (made, again):
        assert one.Q.shape == (len(one), len(one))
        with pytest.raises(ValueError, match="read-only"):
            one.Q.data[0] = 3.0
        with pytest.raises(AttributeError):
            one.logdet = 3.0
    assert repr(made).startswith(type(made).__name__)
    assert "log|A|" in made._repr_html_()
