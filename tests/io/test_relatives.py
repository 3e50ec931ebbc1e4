"""Pedigrees and trees from files are those of the same text."""

import gzip
from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from pm_fastlmm.io import read_pedigree, read_tree

FILES = Path(__file__).parent / "files"
LAYOUTS = {
    "header": "animal,sire,dam,born\n001,0,0,2001\n002,0,0,2002\n003,001,002,2003\n",
    "another order": "dam\tborn\tsire\tid\n0\t2001\t0\t001\nNA\t2002\t.\t002\n002\t2003\t001\t003\n",
    "no header": "001 0 0\n002 0 0\n003 001 002\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_one_pedigree(tmp_path, layout):
    (tmp_path / "a.txt").write_text(LAYOUTS[layout])
    A = read_pedigree(tmp_path / "a.txt").dense()
    assert list(A.index) == ["001", "002", "003"]
    assert_allclose(A.loc["003"], [0.5, 0.5, 1.0])


def test_columns_may_be_named_or_numbered(tmp_path):
    (tmp_path / "a.txt").write_text("who,mum,pop\n1,0,0\n2,0,0\n3,2,1\n")
    assert_allclose(read_pedigree(tmp_path / "a.txt", columns=["who", "pop", "mum"]).dense().loc["3", "1"], 0.5)
    (tmp_path / "b.txt").write_text("x 1 0 0\nx 2 0 0\nx 3 1 2\n")
    assert_allclose(read_pedigree(tmp_path / "b.txt", columns=[1, 2, 3]).dense().loc["3", "2"], 0.5)


def test_a_fam_file_is_a_pedigree():
    A = read_pedigree(FILES / "people.fam").dense()
    assert A.shape == (60, 60)
    assert A.loc["0041", "0001"] == A.loc["0041", "0002"] == 0.5
    assert A.loc["0041", "0043"] == 0


def test_trees_are_read_from_text_and_compressed_files(tmp_path):
    text = "((human:6,chimp:6):10,macaque:16);"
    (tmp_path / "a.nwk").write_text(text)
    (tmp_path / "a.nwk.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.nex").write_text(
        f"#NEXUS\nbegin trees;\n translate 1 human;\ntree t = [&R] {text.replace('human', '1')}\nend;\n"
    )
    for name in ("a.nwk", "a.nwk.gz", "a.nex"):
        assert_allclose(read_tree(tmp_path / name).dense().loc["human", "chimp"], 10)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("animal sire\n1 0\n", {}, r"header of a.txt \(animal, sire\) does not say which column has the dam"),
        ("1 0\n", {}, "a.txt has 2 columns, a pedigree has individual, sire and dam"),
        ("1 0 0\n", {"columns": [0, 1]}, "columns has 2 entries"),
        ("1 0 0\n", {"columns": [0, 1, 5]}, "a.txt has 3 columns, 0 to 2: there is no 5"),
        ("id a b\n1 0 0\n", {"columns": ["id", "a", "c"]}, "a.txt has no column 'c': its first line is id, a, b"),
    ],
)
def test_pedigrees_that_cannot_be_read_are_refused(tmp_path, text, options, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pedigree(tmp_path / "a.txt", **options)


def test_files_that_are_not_there_are_named_with_those_that_are_near(tmp_path):
    (tmp_path / "herd.csv.gz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"the pedigree '.*herd.csv' is not there: .* There is herd.csv.gz"):
        read_pedigree(tmp_path / "herd.csv")
