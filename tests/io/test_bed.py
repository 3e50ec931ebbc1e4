"""Genotypes of .bed files against what plink 1.9 prints of the same file."""

import copy
import gzip
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.genotypes import blocks

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="module")
def counts():
    """--recode A counts A1."""
    with gzip.open(FILES / "counts.raw.gz", "rt") as lines:
        return pd.read_csv(lines, sep=" ", dtype={"IID": str}, index_col="IID").iloc[:, 5:]


@pytest.fixture(scope="module")
def bed():
    return flmm.io.read_bed(FILES / "people.bed")


def test_counts_are_those_that_plink_prints(bed, counts):
    read = bed.read()
    assert_array_equal(read, counts.to_numpy())
    assert read.dtype == np.float32
    assert bed.ids == tuple(counts.index)
    assert_array_equal(
        [f"{name}_{a}" for name, a in zip(read.variant.values, read.counted.values, strict=True)], counts.columns
    )


def test_the_other_allele_is_counted_and_named(bed, counts):
    other = flmm.io.read_bed(FILES / "people", counted="A2")
    assert_array_equal(other.read(), 2 - counts.to_numpy())
    assert_array_equal(other.variants["counted"], bed.variants["other"])
    assert repr(other) == "Bed(60 people, 200 variants of chromosomes 1, 2, 22, 23; counts A2)"


def test_blocks_are_parts_of_the_whole(bed, monkeypatch):
    monkeypatch.setattr("pm_fastlmm.genotypes.blocks.BLOCK", 60 * 7)
    parts = list(bed)
    assert len(parts) == len(bed) == 29
    assert [part.shape[1] for part in parts] == [7] * 28 + [4]
    assert_array_equal(np.concatenate(parts, axis=1), bed.read())
    assert_array_equal(np.concatenate([part.position for part in parts]), bed.variants["position"])


def test_a_part_is_selected_by_person_chromosome_and_variant(bed, counts):
    people = ["0050", "0007", "0001"]
    part = bed.select(people, chromosomes=["2", "22"], variants=["rs100", "rs81", "rs3"])
    assert_array_equal(part.read(), counts.loc[people, [c for c in counts if c.startswith(("rs81_", "rs100_"))]])
    mask = np.arange(200) % 9 == 2
    assert_array_equal(bed.select(variants=mask).read(), counts.to_numpy()[:, mask])
    assert bed.select(chromosomes="autosomes").shape == (60, 180)
    assert bed.select(chromosomes="chr1").shape == (60, 80)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_a_copy_reads_the_same(bed, way):
    bed.read()
    assert_array_equal(way(bed).read(), bed.read())


def test_frequencies_and_missing_genotypes_are_plink2s(bed):
    theirs = pd.read_csv(FILES / "all.afreq", sep="\t", index_col="ID").iloc[:180]
    found = bed.summary().iloc[:180]
    np.testing.assert_allclose(found["frequency"], theirs["ALT_FREQS"], atol=1e-6)
    np.testing.assert_allclose(60 * (1 - found["missing"]), theirs["OBS_CT"] / 2)
    np.testing.assert_allclose(found["maf"], np.minimum(theirs["ALT_FREQS"], 1 - theirs["ALT_FREQS"]), atol=1e-6)
    part = bed.select(bed.ids[:9]).summary()
    assert part["missing"].iloc[0] == np.isnan(bed.read()[:9, 0]).mean()


def test_names_that_say_nothing_are_made_of_the_place_and_the_alleles():
    names = blocks.named_variants(
        [".", "rs1", "rs1", "."], ["1", "1", "2", "1"], [5, 6, 7, 5], list("ACGA"), list("TGTT")
    )
    assert names.tolist() == ["1:5:A:T#0", "1:6:C:G", "2:7:G:T", "1:5:A:T#1"]


def test_ids_within_families_are_joined(tmp_path):
    for end in (".bed", ".bim"):
        shutil.copy(FILES / f"people{end}", tmp_path / f"a{end}")
    fam = (FILES / "people.fam").read_text().splitlines()
    fam[3] = fam[3].replace("0004", "0001")
    (tmp_path / "a.fam").write_text("\n".join(fam))
    with pytest.raises(ValueError, match=r"repeats the ids '0001': they are ids within families: ids='fid:iid'"):
        flmm.io.read_bed(tmp_path / "a.bed")
    assert flmm.io.read_bed(tmp_path / "a.bed", ids="fid:iid").ids[:4] == (
        "F00:0001",
        "F00:0002",
        "F01:0003",
        "F01:0001",
    )


def _altered(change):
    def make(folder):
        for end in (".bed", ".bim", ".fam"):
            shutil.copy(FILES / f"people{end}", folder / f"a{end}")
        change(folder)
        return folder / "a.bed"

    return make


def _cut(folder):
    path = folder / "a.bed"
    path.write_bytes(path.read_bytes()[:-1])


def _by_person(folder):
    path = folder / "a.bed"
    path.write_bytes(b"\x6c\x1b\x00" + path.read_bytes()[3:])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            _cut,
            ValueError,
            r"a.bed has 3002 bytes, but 60 people and 200 variants take 3003: .* or the file is cut off",
        ),
        (_by_person, ValueError, "in the order of people, as PLINK before 1.0 wrote it: write it anew"),
        (lambda folder: (folder / "a.bed").write_text("chr1"), ValueError, "no .bed file of PLINK 1"),
        (lambda folder: (folder / "a.fam").unlink(), FileNotFoundError, r"the file '.*a.fam' is not there"),
        (
            lambda folder: (folder / "a.fam").write_text("1 2 3\n"),
            ValueError,
            r"a.fam has 3 columns, where there should be 6",
        ),
        (lambda folder: (folder / "a.fam").write_text(""), ValueError, "a.fam has no rows"),
        (
            lambda folder: (folder / "a.bim").write_text("1 rs 0 x A C\n"),
            ValueError,
            "position that is no whole number",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        flmm.io.read_bed(_altered(change)(tmp_path))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"people": ["0001", "1"]}, r"people '1' are not in the file: leave them out. '1' and '0001' differ only in"),
        ({"chromosomes": ["7"]}, "there is no chromosome '7': they are '1', '2', '22', '23'"),
        ({"variants": ["rs7", "no"]}, "variants 'no' are not in the file"),
        ({"variants": [True, False]}, "variants has 2 entries for 200 variants"),
    ],
)
def test_parts_that_are_not_there_are_named(bed, part, message):
    with pytest.raises(ValueError, match=message):
        bed.select(**part)


def test_a_file_that_was_written_is_the_one_that_plink_wrote(bed, tmp_path):
    path = flmm.io.write_bed(bed, tmp_path / "again.bed")
    assert path.read_bytes() == (FILES / "people.bed").read_bytes()
    assert (tmp_path / "again.bim").read_text() == (FILES / "people.bim").read_text()
    again = flmm.io.read_bed(tmp_path / "again")
    assert again.ids == bed.ids
    pd.testing.assert_frame_equal(again.variants, bed.variants)


@pytest.mark.parametrize(
    ("genotypes", "message"),
    [
        (pd.DataFrame([[0.5, 1]], ["a"], ["x", "y"]), "variants 'x' have dosages, which a .bed file cannot hold"),
        (np.ones((2, 2)), "genotypes have no ids of people"),
        (pd.DataFrame([[0, 1]], ["a"], ["x y", "z"]), "the variant 'x y' has blanks in its name"),
        (pd.DataFrame([[0, 1]], ["a b"], ["x", "z"]), "the person 'a b' has blanks in its name"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, genotypes, message):
    with pytest.raises(ValueError, match=message):
        flmm.io.write_bed(genotypes, tmp_path / "a")
