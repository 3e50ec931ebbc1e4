"""What was read, matched and left out is printed, unless it is kept back."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

FILES = Path(__file__).parents[1] / "io" / "files"


@pytest.fixture
def said(caplog):
    """The lines since the last call."""

    def lines():
        found = [record.getMessage() for record in caplog.records if record.name == "pm_fastlmm"]
        caplog.clear()
        return found

    return lines


def test_each_reader_counts_what_it_found(said, tmp_path):
    flmm.io.read_bed(FILES / "people")
    flmm.io.read_table(FILES / "people.fam")
    flmm.io.read_relationship(FILES / "plink2.grm.bin")
    flmm.io.read_relationship(FILES / "plink2.rel")
    (tmp_path / "a.ped").write_text("a 0 0\nb 0 NA\nc a b\nd a x\n")
    (tmp_path / "a.nwk").write_text("((human:6,chimp:6):10,macaque:16);")
    flmm.io.read_pedigree(tmp_path / "a.ped")
    flmm.io.read_tree(tmp_path / "a.nwk")
    assert said() == [
        "people.bed: 60 people, 200 variants of chromosomes 1, 2, 22, 23; counts A1",
        "people.fam: 60 people; missing: PHENOTYPE 5 (-9)",
        "plink2.grm.bin: 60 people, each pair of 167 to 179 markers",
        "plink2.rel: 60 people",
        "a.ped: 4 individuals, 1 parents without a row; 3 founders; unknown parents: 0 3, NA 1",
        "a.nwk: 3 tips, 1 inner nodes",
    ]


def test_codes_of_missing_values_are_counted_one_by_one(said, tmp_path):
    (tmp_path / "y.txt").write_text("IID,a,b\n1,-9,2\n2,NA,\n3,NA,1\n4,5,6\n")
    flmm.io.read_table(tmp_path / "y.txt")
    assert said() == ["y.txt: 4 people; missing: a 2 (NA), 1 (-9), b 1 (empty)"]
    variants = pd.DataFrame({"chromosome": ["1", "1"]})
    block = flmm.io.label_genotypes([[0, -9.0], [np.nan, -127], [-9, 1]], list("abc"), variants, missing=[-9, -127])
    assert block.attrs["missing"] == {"nan": 1, "-9": 2, "-127": 1}


@pytest.mark.filterwarnings("ignore:20 of 57 people", "ignore:3 of 37 rows", "ignore:1 of 80 candidates")
def test_a_scan_counts_people_and_variants_where_its_files_meet(said):
    bed = flmm.io.read_bed(FILES / "people")
    table = flmm.io.read_table(FILES / "people.fam").iloc[3:]
    part = bed.select(bed.ids[:40])
    analysed = [person for person in table.dropna().index if person in part.ids]
    counts = part.select(analysed, chromosomes="autosomes").read().to_numpy()
    counts = counts[:, ~np.isnan(counts).all(axis=0)]
    varies = np.nanmax(counts, axis=0) > np.nanmin(counts, axis=0)
    said()
    flmm.genome_scan("PHENOTYPE ~ SEX", table, part, K="loco", progressbar=False)
    assert said() == [
        "34 of 57 people of the table are analysed (without genotypes 20, with missing values 3); 3 of the 40 with "
        "genotypes are not in it",
        "kinship of 34 people: 175 of 200 markers (do not vary 4, without genotypes 1, of other chromosomes 20); "
        f"{np.isnan(counts[:, varies]).sum()} missing genotypes imputed",
        "175 of 180 variants are tested (missing values 1, collinear with X 4); "
        f"{np.isnan(counts).sum()} missing genotypes imputed",
    ]


def test_relatives_without_records_are_counted(said):
    K = pd.DataFrame(np.eye(5), list("abcde"), list("abcde"))
    table = pd.DataFrame({"y": [1.0, 2, 2, 3, 5, 4, 1, 1.5], "id": list("aabbccaa")})
    flmm.find_reml("y ~ 1 + (1 | id)", table, known={"id": K}, progressbar=False)
    flmm.Design.from_formula("y ~ 1", table, K=K, individual="id")
    assert said() == ["id: 3 have records, K has 5", "individuals: 3 have records, K has 5"]
    flmm.find_reml("y ~ 1 + (1 | id)", table, known={"id": K.iloc[:3, :3]}, progressbar=False)
    assert said() == []


_READ = f"flmm.io.read_bed({str(FILES / 'people')!r})"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (_READ, ["people.bed: 60 people, 200 variants of chromosomes 1, 2, 22, 23; counts A1"]),
        (f"logging.getLogger('pm_fastlmm').setLevel('WARNING'); {_READ}", []),
        (
            f"logging.basicConfig(level='INFO', format='%(name)s says: %(message)s'); {_READ}",
            ["pm_fastlmm says: people.bed: 60 people, 200 variants of chromosomes 1, 2, 22, 23; counts A1"],
        ),
    ],
)
def test_lines_are_printed_where_nobody_has_set_up_logging(code, expected):
    """In a process of its own: pytest sets up logging."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import logging; import pm_fastlmm as flmm; {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == expected


def test_the_printer_writes_to_the_standard_error_of_the_time(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    flmm.io.read_bed(FILES / "people")
    assert capsys.readouterr().err == "people.bed: 60 people, 200 variants of chromosomes 1, 2, 22, 23; counts A1\n"
