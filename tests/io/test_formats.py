"""The recipes of the guide for VCF, PGEN and BGEN, as they stand there, give the genotypes of the .bed file."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import pm_fastlmm as flmm

FILES = Path(__file__).parent / "files"
GUIDE = Path(__file__).parents[2] / "docs" / "genotype_files.md"


@pytest.fixture(scope="module")
def bed():
    return flmm.io.read_bed(FILES / "people").read()


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Run the block of the guide that imports a package, in a folder with the files, and return its names."""

    def run(package):
        pytest.importorskip(package)
        (code,) = [block for block in re.findall(r"```py\n(.*?)```", GUIDE.read_text(), re.DOTALL) if package in block]
        for file in FILES.glob("people.*"):
            shutil.copy(file, tmp_path / file.name.replace("people", "study"))
        monkeypatch.chdir(tmp_path)
        names = {"np": np, "pd": pd, "flmm": flmm}
        exec(compile(code, GUIDE.name, "exec"), names)
        return names

    return run


def assert_same(genotypes, bed, counted):
    """They are the same people, variants and alleles; where the other allele is counted, so many of two are missing."""
    assert list(genotypes.obs.values) == list(bed.obs.values)
    for name in ("variant", "position"):
        assert_array_equal(genotypes[name], bed[name])
    chromosomes = pd.Series(genotypes.chromosome.values).replace("X", "23")
    assert_array_equal(chromosomes, bed.chromosome)
    assert_array_equal(genotypes.counted, bed[counted])
    assert_array_equal(genotypes.other, bed["other" if counted == "counted" else "counted"])
    assert_array_equal(genotypes, bed if counted == "counted" else 2 - bed)


def test_the_recipe_for_vcf(recipe, bed):
    names = recipe("cyvcf2")
    assert_same(names["genotypes"], bed, "counted")
    codes = np.array([v.gt_types.copy() for v in names["VCF"]("study.vcf.gz")]).T
    assert_array_equal(codes == 2, bed.isnull())  # without gts012
    assert_array_equal(codes == 3, bed == 2)


def test_the_recipe_for_pgen(recipe, bed):
    names = recipe("pgenlib")
    assert_same(names["genotypes"], bed, "counted")
    with names["pgenlib"].PgenReader(b"study.pgen") as pgen:
        dosages = np.empty((200, 60), np.float32)
        pgen.read_dosages_range(0, 200, dosages)
    assert_array_equal(dosages == -9, bed.isnull().T)


def test_the_recipe_for_bgen(recipe, bed):
    assert_same(recipe("bgen")["genotypes"], bed, "other")  # REF, which is the other allele of the .bim file


def test_bed_reader_counts_what_the_guide_says(bed):
    bed_reader = pytest.importorskip("bed_reader")
    reader = bed_reader.open_bed(FILES / "people.bed")
    assert_array_equal(reader.read(), bed)
    assert_array_equal(bed_reader.open_bed(FILES / "people.bed", count_A1=False).read(), 2 - bed)
    assert_array_equal(reader.read(dtype="int8") == -127, bed.isnull())
    assert_array_equal(reader.iid, bed.obs)


def test_what_they_read_is_one_kinship_and_one_scan(recipe, bed):
    genotypes = recipe("pgenlib")["genotypes"]
    K = flmm.covariance.markers(genotypes.assign_coords(chromosome=bed.chromosome))
    assert_array_equal(K, flmm.covariance.markers(bed))
