"""Phenotypes and covariates: layouts, ids, codes for missing values."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.io import read_table

FILES = Path(__file__).parent / "files"


def written(folder, text, name="a.txt"):
    (folder / name).write_text(text)
    return folder / name


LAYOUTS = {
    "FID and IID": "FID IID height site\nF1 0001 171.5 3\nF1 0002 -9 4\n",
    "#FID": "#FID\tIID\theight\tsite\nF1\t0001\t171.5\t3\nF1\t0002\tNA\t4\n",
    "#IID": "#IID height site\n0001 171.5 3\n0002 nan 4\n",
    "commas": "IID,height,site\n0001,171.5,3\n0002,,4\n",
    "blanks": "  FID   IID  height site \n  F1  0001   171.5   3 \n  F1  0002   .   4\n",
    "another order": "height IID site FID\n171.5 0001 3 F1\n-9.0 0002 4 F1\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_one_table(tmp_path, layout):
    table = read_table(written(tmp_path, LAYOUTS[layout]))
    expected = pd.DataFrame(
        {"height": [171.5, np.nan], "site": [3.0, 4.0]}, pd.Index(["0001", "0002"], name="id", dtype=object)
    )
    pd.testing.assert_frame_equal(table, expected)
    (code,) = table.attrs["missing"]["height"].values()
    assert code == 1


def test_a_file_without_a_header_has_fid_and_iid_first(tmp_path):
    table = read_table(written(tmp_path, "F1 0001 171.5 3\nF1 0002 -9 4\n"), columns=["height", "site"], text=["site"])
    assert table["site"].tolist() == ["3", "4"]
    assert list(read_table(tmp_path / "a.txt").columns) == ["y1", "y2"]
    assert list(read_table(tmp_path / "a.txt", ids="fid:iid").index) == ["F1:0001", "F1:0002"]


def test_a_fam_file_is_a_table():
    table = read_table(FILES / "people.fam")
    assert list(table.columns) == ["PAT", "MAT", "SEX", "PHENOTYPE"]
    assert table.attrs["missing"]["PHENOTYPE"] == {"-9": 5}
    assert table["PHENOTYPE"].isna().sum() == 5


def test_codes_are_those_that_are_named(tmp_path):
    path = written(tmp_path, "IID y z\na 0 x\nb -9 NA\nc -99 y\nd 2 -9\ne 3 x\nf 1 x\ng 2 x\n")
    with pytest.warns(UserWarning, match=r"y is -99 in 1 of 6 rows.*replace it by NaN, na=\[…, '-99'\]"):
        table = read_table(path)
    assert_array_equal(table["y"], [0, np.nan, -99, 2, 3, 1, 2])
    assert table["z"].tolist()[:3] == ["x", np.nan, "y"] or pd.isna(table["z"].iloc[1])
    assert table.attrs["missing"] == {"y": {"-9": 1}, "z": {"NA": 1, "-9": 1}}
    named = read_table(path, na=["-9", "-99", "na"])
    assert_array_equal(named["y"], [0, np.nan, np.nan, 2, 3, 1, 2])
    with pytest.warns(UserWarning, match="y is -9 in 1 of 6 rows"):
        assert_array_equal(read_table(path, na=["-99", "NA"])["y"], [0, -9, np.nan, 2, 3, 1, 2])


def test_ids_of_a_table_are_those_of_genotypes():
    """Text in both, leading zeros and all: a fit takes 4 lines."""
    bed, table = flmm.io.read_bed(FILES / "people"), read_table(FILES / "people.fam")
    K = flmm.covariance.markers(bed)
    with pytest.warns(UserWarning, match=r"5 of 60 rows dropped, with missing values \(PHENOTYPE 5\)"):
        fit = flmm.find_reml("PHENOTYPE ~ SEX + (1 | id)", table.reset_index(), known={"id": K}, progressbar=False)
    assert fit.coefficients().shape[0] == 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("FID y\nF 1\n", {}, "a.txt has a FID and no IID in its header"),
        ("F 1\nF 2\n", {}, "a.txt has 2 columns and no header with IID"),
        ("id family height\na F 1\nb F 2\n", {}, "looks like a header, but does not name IID: rename the column"),
        ("IID y\na 1\na 2\n", {}, "a.txt repeats the ids 'a': each person needs"),
        ("IID y y\na 1 2\n", {}, "a.txt has several columns 'y'"),
        ("IID y\na 1 2\nb 1 2 3\n", {}, "a.txt is no table"),
        ("IID y\na 1\n", {"columns": ["p", "q"]}, "columns has 2 names for 1 columns of a.txt"),
        ("IID y\na 1\n", {"text": ["q"]}, "text names 'q', but the columns of a.txt are y"),
        ("IID y\na 1\n", {"ids": "fid:iid"}, "a.txt has no FID: ids='iid'"),
        ("IID,y\n,1\nb,2\n", {}, "a.txt has no id in row 1"),
        ("", {}, "a.txt has no rows"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        read_table(written(tmp_path, text), **options)
