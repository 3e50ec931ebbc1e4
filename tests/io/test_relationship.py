"""Relationship matrices of plink 1.9, plink2 and GEMMA, and those that are written and read again."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.io import read_relationship, write_grm

FILES = Path(__file__).parent / "files"
IDS = [f"{i + 1:04d}" for i in range(60)]


@pytest.fixture(scope="module")
def square():
    return np.loadtxt(FILES / "plink2.rel")


@pytest.mark.parametrize(("name", "tolerance"), [("plink2.rel", 0), ("plink2.grm.bin", 6e-6), ("plink2.grm", 6e-6)])
def test_plink2s_files_are_one_matrix(square, name, tolerance):
    K = read_relationship(FILES / name)
    assert list(K.index) == list(K.columns) == IDS
    assert_allclose(K, square, atol=tolerance)
    if "grm" in name:
        seen = (~np.isnan(flmm.io.read_bed(FILES / "people").select(chromosomes="autosomes").read())).to_numpy()
        pairs = seen.astype(int) @ seen.T.astype(int)
        assert K.attrs["markers"] == (pairs.min(), pairs.max())


@pytest.mark.parametrize("name", ["plink1.grm.gz", "plink1.rel.bin"])
def test_plink1s_files_are_one_matrix(name):
    K = read_relationship(FILES / name)
    assert list(K.index) == IDS
    assert_allclose(K, np.loadtxt(FILES / "plink1.rel.gz"), atol=6e-6)


def test_gemmas_matrix_has_the_ids_that_are_given():
    K = read_relationship(FILES / "gemma.cXX.txt", FILES / "people.fam")
    assert list(K.index) == IDS
    assert_array_equal(K, read_relationship(FILES / "gemma.cXX.txt", IDS))
    assert read_relationship(FILES / "gemma.cXX.txt", FILES / "people.fam", people="fid:iid").index[0] == "F00:0001"


def _triangle(values):
    return "\n".join("\t".join(f"{v:.9g}" for v in row[: i + 1]) for i, row in enumerate(values)) + "\n"


@pytest.mark.parametrize("form", ["square", "triangle", "zeros above"])
@pytest.mark.parametrize("kind", [".rel", ".rel.gz", ".rel.bin", "float.rel.bin"])
def test_forms_of_rel_files_are_told_from_their_size(square, tmp_path, form, kind):
    path = tmp_path / f"a{kind}"
    shutil.copy(FILES / "plink2.rel.id", tmp_path / f"{path.name.split('.')[0]}.rel.id")
    if kind.endswith("bin"):
        values = square[np.tril_indices(60)] if form == "triangle" else square
        values.astype("<f4" if "float" in kind else "<f8").tofile(path)
    else:
        values = np.tril(square) if form == "zeros above" else square
        text = _triangle(square) if form == "triangle" else "\n".join("\t".join(f"{v:.9g}" for v in r) for r in values)
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    assert_allclose(read_relationship(path), square, atol=1e-6 if "float" in kind else 1e-8)


def test_a_matrix_that_was_written_is_read_again_and_by_plink_and_gcta(square, tmp_path):
    K = pd.DataFrame(square, IDS, IDS)
    path = write_grm(K, tmp_path / "again", markers=179)
    found = read_relationship(path)
    assert_allclose(found, square, rtol=1e-7)
    assert found.attrs == {"markers": (179, 179), "file": "again.grm.bin"}
    # the bytes are those that plink2 writes: row by row, the lower triangle, in single precision
    assert (tmp_path / "again.grm.bin").read_bytes() == square[np.tril_indices(60)].astype("<f4").tobytes()
    assert (tmp_path / "again.grm.id").read_text().splitlines()[0] == "0001\t0001"
    both = write_grm(
        K.set_axis([f"F{i}:{i}" for i in range(60)]).T.set_axis([f"F{i}:{i}" for i in range(60)]),
        tmp_path / "b.grm.bin",
    )
    assert (tmp_path / "b.grm.id").read_text().splitlines()[59] == "F59\t59"
    assert read_relationship(both, people="fid:iid").index[59] == "F59:59"


def test_a_matrix_of_pairwise_deletion_is_analysed_where_its_negative_direction_is_the_intercept(square):
    K = read_relationship(FILES / "plink2.grm.bin")
    assert np.linalg.eigvalsh(square)[0] < -1e-3
    y = np.random.default_rng(1).normal(size=60)
    with pytest.raises(ValueError, match=r"divided by its own number of markers .* negative='zero', which cuts"):
        flmm.Spectrum.from_covariance(K)
    fit = flmm.reml(flmm.Spectrum.from_covariance(K, np.ones((60, 1)), negative="zero"), y)
    assert np.isfinite(float(fit.loglik))


def _copies(folder, **changed):
    for name in (
        "plink2.grm.bin",
        "plink2.grm.N.bin",
        "plink2.grm.id",
        "gemma.cXX.txt",
        "plink1.grm.gz",
        "plink1.grm.id",
    ):
        shutil.copy(FILES / name, folder / name)
    for name, content in changed.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"),
    [
        ("plink2.grm.bin", {"plink2__grm__id": "F 1\nF 2\n"}, ValueError, "has 1830 numbers, which 2 people do not: 4"),
        ("plink2.grm.bin", {"plink2__grm__id": "F 1\n" * 60}, ValueError, "plink2.grm.id repeats the ids '1'"),
        ("plink1.grm.gz", {"plink1__grm__id": "F 1\nF 2\n"}, ValueError, "has 1830 numbers, which 2 people do not"),
        ("gemma.cXX.txt", {}, ValueError, "gemma.cXX.txt has no ids, as GEMMA writes none"),
        ("plink2", {"plink2__rel": "1"}, ValueError, "there are plink2.grm.bin, plink2.rel: say which"),
        ("a.csv", {"a__csv": "1"}, ValueError, "'a.csv' is no relationship matrix that is known: names"),
        ("a.rel.zst", {"a__rel__zst": "1"}, ValueError, "compressed by Zstandard: unpack it"),
        ("a.rel", {"a__rel": "1 x\nx 1", "a__rel__id": "F 1\nF 2"}, ValueError, "has something other than numbers"),
        ("b.rel", {"b__rel": "1 0\n0 1"}, FileNotFoundError, r"the file of ids '.*b.rel.id' is not there"),
        ("none.grm.bin", {}, FileNotFoundError, "the relationship matrix '.*none.grm.bin' is not there"),
        ("a.rel", {"a__rel": "1 0.5\n0.4 1", "a__rel__id": "F 1\nF 2"}, ValueError, "a.rel must be symmetric"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(tmp_path, name, changed, error, message):
    with pytest.raises(error, match=message):
        read_relationship(_copies(tmp_path, **changed) / name)


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (np.eye(2), "K has no ids, which the file needs"),
        (pd.DataFrame(np.eye(2), ["a b", "c"], ["a b", "c"]), "the person 'a b' has blanks in its name"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, K, message):
    with pytest.raises(ValueError, match=message):
        write_grm(K, tmp_path / "a")
