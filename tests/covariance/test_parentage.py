"""Pedigrees as programs write them: codes of unknown parents, spellings and types of ids, clones."""

import datetime

import numpy as np
import pandas as pd
import pytest
from kinship import additive
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.covariance import UNKNOWN_PARENTS, parents_as_read, pedigree

# two founders, their offspring, a half-sib and an inbred one
FAMILY = {"1": (None, None), "2": (None, None), "3": ("1", "2"), "4": ("1", None), "5": ("3", "4")}
A = additive(FAMILY, list(FAMILY))


def family(code=None, write=str):
    """Return the columns of FAMILY, with a code for unknown parents and ids written in a way."""
    written = {key: write(key) for key in FAMILY} | {None: code}
    return [[written[v] for v in column] for column in (FAMILY, *zip(*FAMILY.values(), strict=True))]


CODES = [
    0, "0", "00", "0.0", 0.0, -9, "-9", -9.0, "-9.0", -1, "-1", -99, -998, "-998", -999, "-999", -9999, ".", "*", "?",
    "-", "NA", "na", "N/A", "#N/A", "<NA>", "nan", "NaN", "NaT", "None", "none", "NULL", "unknown", "Unknown", "UNK",
    "missing", "", " ", "\t", " 0 ", " NA", None, np.nan, pd.NA, pd.NaT, b"0", b"NA", np.int64(0), np.float64("nan"),
]  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_codes_that_programs_write_are_unknown_parents(code):
    K = pedigree(*family(code))
    assert_allclose(K, A)
    assert K.attrs["founders_added"] == 0
    assert K.attrs["founders"] == 2
    assert sum(K.attrs["unknown_codes"].values()) == 5
    assert list(K.index) == list(FAMILY)


@pytest.mark.parametrize("code", [-9, "*", "NA", "0", np.nan], ids=repr)
def test_heritability_is_that_of_the_pedigree_whatever_the_code(code):
    rng = np.random.default_rng(8)
    sire, dam = ([str(rng.integers(1, 21)) if i >= 20 else None for i in range(120)] for _ in range(2))
    people = {str(i + 1): pair for i, pair in enumerate(zip(sire, dam, strict=True))}
    G = additive(people, list(people))
    y = np.linalg.cholesky(G + 1e-9 * np.eye(120)) @ rng.normal(size=120) + rng.normal(size=120)
    coded = [[code if p is None else p for p in column] for column in (sire, dam)]
    fits = [flmm.reml(flmm.Spectrum.from_covariance(K, np.ones((120, 1))), y) for K in (G, pedigree(people, *coded))]
    assert_allclose(fits[1].h2, fits[0].h2, rtol=1e-6)


def test_codes_can_be_named_and_then_replace_the_default():
    assert_allclose(pedigree(*family("wild"), unknown=["WILD"]), A)
    assert_allclose(pedigree(*family("wild"), unknown="wild"), A)
    assert_allclose(pedigree(*family(7777), unknown=[*UNKNOWN_PARENTS, 7777]), A)
    zero_based = family(None, lambda key: int(key) - 1)
    with pytest.raises(ValueError, match=r"id 0 stands for an unknown parent: rename it, .*unknown=\['\*'\]"):
        pedigree(*zero_based)
    assert_allclose(pedigree(*zero_based, unknown=[]), A)
    assert_allclose(pedigree(*family("*", lambda key: {"1": "NA"}.get(key, key)), unknown=["*"]), A)


def test_a_code_that_is_not_known_is_refused_by_name_not_made_an_ancestor():
    for code in ("wild", 7777, "unknown2000", datetime.date(1900, 1, 1)):
        with pytest.raises(ValueError, match=r"is sire and dam but has no row of its own, as a code of unknown"):
            pedigree(*family(code))
    with pytest.raises(ValueError, match=r"Parent -3 is a negative number without a row, as BLUPF90 and DMU write"):
        pedigree([1, 2, 3], [-2, -2, 1], [-3, -3, 2], unknown=[-2])


def test_a_code_in_one_column_is_asked_about_by_name():
    ids = [f"a{i}" for i in range(9)]
    sire, dam = ["S0"] * 6 + ["a0", "a1", "a0"], [None] * 6 + ["a2", "a3", "a3"]
    with pytest.warns(UserWarning, match="Parent 'S0' has no row, and of the 6 individuals .* 6 have it: .*unknown="):
        K = pedigree(ids, sire, dam)
    assert K.loc["a0", "a1"] == 0.25
    with pytest.warns(
        UserWarning, match=r"Parents 'S0', 'D0' have no row, and .* ancestors 6 and 6 have them: "
    ) as told:
        pedigree(ids, sire, ["D0"] * 6 + dam[6:])
    remedy = "[*flmm.covariance.UNKNOWN_PARENTS, 'S0', 'D0']"
    assert f"unknown={remedy};" in str(told[0].message)
    assert pedigree(ids, sire, ["D0"] * 6 + dam[6:], unknown=eval(remedy)).loc["a0", "a1"] == 0
    founders = pedigree(ids, sire, dam, unknown=["S0"])
    assert founders.loc["a0", "a1"] == 0


def test_half_sib_and_full_sib_families_of_parents_without_a_row_are_no_codes():
    sires = [f"bull{i // 10}" for i in range(40)]
    K = pedigree([f"calf{i}" for i in range(40)], sires, [None] * 40)
    assert_allclose(K, np.where(np.equal.outer(sires, sires), 0.25, 0) + 0.75 * np.eye(40))
    dams = [f"cow{i // 5}" for i in range(40)]
    assert pedigree([f"calf{i}" for i in range(40)], sires, dams).attrs["founders_added"] == 12


@pytest.mark.parametrize("code", ["ext", "WILD", "u", 99, 1000, "unknown_dam"])
@pytest.mark.parametrize("side", ["sire", "dam"])
def test_a_code_beside_a_known_parent_is_asked_about_by_name_with_remedies_that_work(code, side):
    rng = np.random.default_rng(3)
    known = [0] * 10 + rng.integers(1, 11, 50).tolist()
    coded = [0] * 10 + [code] * 50
    columns = {"sire": known, "dam": known, side: coded}
    message = rf"Parent '?{code}'? has no row, and is the {side} of 50 of the 50 individuals whose {side} is unknown"
    with pytest.warns(UserWarning, match=message) as caught:
        K = pedigree(range(1, 61), **columns)
    assert len(caught) == 1
    assert K.loc[[11], [12]].to_numpy().item() >= 0.25
    remedy = str(caught[0].message).split("such as unknown=")[1].split(";")[0]
    named = pedigree(range(1, 61), **columns, unknown=eval(remedy, {"flmm": flmm}))
    same = np.equal.outer(known[10:], known[10:])
    assert_allclose(named.iloc[10:, 10:], np.where(same, 0.25, 0) + 0.75 * np.eye(50))
    columns = {name: [*column, None] for name, column in columns.items()}
    assert_allclose(pedigree([*range(1, 61), code], **columns).iloc[:60, :60], K)


def test_few_offspring_of_a_text_among_numbers_are_asked_about_and_those_of_one_couple_are_not():
    with pytest.warns(UserWarning, match="'ext' has no row, and is the dam of 3 of the 4 individuals whose dam is unk"):
        pedigree([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 2], [0, 0, "ext", "ext", "ext", 0])
    couple = pedigree([1, 2, 3, 4], ["bull"] * 4, ["cow"] * 4)
    assert_allclose(couple, 0.5 + 0.5 * np.eye(4))


def test_a_code_is_asked_about_beside_another_that_is_known_and_parents_without_a_row():
    sire = [0] * 10 + [1 + i % 10 for i in range(50)]
    dam = [0] * 10 + [0] * 10 + ["ext"] * 26 + [f"cow{i}" for i in range(14)]
    with pytest.warns(UserWarning, match="'ext' has no row, and is the dam of 26 of the 50 individuals"):
        pedigree(range(1, 61), sire, dam)


def test_sires_without_a_row_beside_known_dams_are_no_codes():
    dams = [None] * 20 + [11 + i % 10 for i in range(40)]
    others = [1 + i % 10 for i in range(36)]
    for sires in (
        [f"bull{i // 10}" for i in range(40)],  # families of one size
        [99 + i // 20 for i in range(40)],
        ["Rex"] * 4 + others,  # a few offspring
        [99] * 4 + others,
        [0] * 30 + [99] * 10,
    ):
        K = pedigree(range(1, 61), [None] * 20 + sires, dams)
        same = np.equal.outer(sires, sires) & (np.array(sires) != 0)
        half = 0.25 * (same + 1.0 * np.equal.outer(dams[20:], dams[20:]))
        assert_allclose(K.iloc[20:, 20:], np.where(np.eye(40), 1, half))


WAYS = {
    "integers": lambda columns: [pd.Series(c).astype(float).astype("Int64") for c in columns],
    "floats with NaN": lambda columns: [pd.Series(c).astype(float) for c in columns],
    "text of floats": lambda columns: [pd.Series(c).astype(float).astype(str) for c in columns],
    "strings": lambda columns: [pd.Series(c, dtype="string") for c in columns],
    "categories": lambda columns: [pd.Categorical(c) for c in columns],
    "text ids, float parents": lambda columns: [columns[0], *(pd.Series(c).astype(float) for c in columns[1:])],
    "integer ids, text parents": lambda columns: [np.array(columns[0], dtype=int), *columns[1:]],
    "blanks around": lambda columns: [[v and f" {v} " for v in c] for c in columns],
    "bytes": lambda columns: [[v and v.encode() for v in c] for c in columns],
    "mixed in one column": lambda columns: [[v and (int(v) if v in "24" else v) for v in c] for c in columns],
    "NumPy texts": lambda columns: [np.array([v or "" for v in c]) for c in columns],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_one_individual_in_several_spellings_and_types_is_one(way):
    columns = way(family())
    K = pedigree(*columns)
    assert_allclose(K, A)
    assert K.attrs["founders_added"] == 0
    ids = columns[0].tolist() if hasattr(columns[0], "tolist") else list(columns[0])
    assert list(K.index) == ids


def test_a_family_and_an_individual_within_it_are_one_id():
    ids, sire, dam = family("0")
    K = pedigree([("F", v) for v in ids], [("F", v) for v in sire], [("F", float(v)) for v in dam])
    assert_allclose(K, A)


@pytest.mark.parametrize(
    ("ids", "sire", "message"),
    [
        (["a", "b"], [None, "A"], "'A' and 'a' differ only in their spelling"),
        (
            ["0001", "0002"],
            ["0", "1"],
            "'1' and '0001' differ only in leading zeros: read both as text, dtype=str in pd.read_csv. Read all three",
        ),
        ([1, 2], ["", "001"], "'001' and 1 differ only in leading zeros"),
        (["Rex II", "b"], [None, "Rex_II"], "'Rex_II' and 'Rex II' differ"),
        (["Rex II", "b"], [None, "rex  ii"], "'rex  ii' and 'Rex II' differ"),
        ([100000, 2], [None, "1e+05"], "'1e.05' and 100000 differ"),
        (["1.50", "b"], [None, 1.5], "1.5 and '1.50' differ"),
        (pd.to_datetime(["2020-01-31", "2021-02-28"]), [None, "2020-01-31"], "'2020-01-31' and Timestamp"),
        (["a", "b", "c"], [None, "Rex", "rex"], "'rex' and 'Rex' differ only in their spelling"),
        (["a", "b"], [None, "\ufeffa"], "differ only in their spelling"),
        (["a", "b"], [None, "9.00719925474099e+15"], "a number in scientific notation, without all digits"),
    ],
)
def test_spellings_that_almost_meet_are_refused_in_pairs(ids, sire, message):
    with pytest.raises(ValueError, match=message):
        pedigree(ids, sire, [None] * len(ids))


PADDED = [f"{i:04d}" for i in range(1, 8)]
NUMBERS = {
    "integers": lambda c: pd.Series([int(v or 0) for v in c]),
    "array": lambda c: np.array([int(v or 0) for v in c]),
    "list": lambda c: [int(v or -9) for v in c],
    "floats": lambda c: pd.Series([float(v or "nan") for v in c]),
    "Int64": lambda c: pd.Series([int(v) if v else None for v in c], dtype="Int64"),
    "object": lambda c: pd.Series([int(v) if v else None for v in c], dtype=object),
}


@pytest.mark.parametrize("way", NUMBERS.values(), ids=NUMBERS)
def test_parents_in_a_column_of_numbers_are_the_ids_of_padded_digits(way):
    ids, sire, dam = family()
    padded = [f"{int(v):04d}" for v in ids]
    K = pedigree(padded, way(sire), way(dam))
    assert_allclose(K, A)
    assert list(K.index) == padded
    assert K.attrs["founders_added"] == 0
    read = flmm.covariance.parents_as_read(padded, way(sire), way(dam))
    assert set(read.sire.dropna()) | set(read.dam.dropna()) <= set(padded)


def test_a_plink_file_read_with_text_ids_and_number_parents(tmp_path):
    file = tmp_path / "a.fam"
    file.write_text("F 0001 0 0 1 -9\nF 0002 0 0 2 -9\nF 0003 1 2 1 -9\nF 0004 1 0 1 -9\n")
    names = ["fid", "id", "sire", "dam", "sex", "y"]
    fam = pd.read_csv(file, sep=r"\s+", header=None, names=names, dtype={"id": str})
    K = pedigree(fam.id, fam.sire, fam.dam)
    assert_allclose(K, [[1, 0, 0.5, 0.5], [0, 1, 0.5, 0], [0.5, 0.5, 1, 0.25], [0.5, 0, 0.25, 1]])


@pytest.mark.parametrize(
    ("ids", "sire"),
    [
        (["0001", "0002"], ["0", "1"]),  # a text carries its zeros
        (["0001", "0002"], pd.Series([None, "1"], dtype="string")),
        (["0001", "0002", "0003"], [0, 1, "1"]),  # not a column of numbers
        (["01", "001", "2"], [0, 0, 1]),  # which of two
        (["0001", "B2"], [0, 1]),  # ids that are not all numbers
        ([1, 2], ["", "0001"]),
    ],
)
def test_padded_digits_are_refused_where_it_is_not_clear_which_is_meant(ids, sire):
    with pytest.raises(ValueError, match=r"differ only in leading zeros: read both .* Read all three columns as"):
        pedigree(ids, sire, [None] * len(ids))


def test_a_number_without_a_row_stays_an_added_founder_among_padded_ids():
    K = pedigree(["0001", "0002", "0003"], [0, 7, 7], [0, 0, 1])
    assert K.attrs["founders_added"] == 1
    assert_allclose(K, [[1, 0, 0.5], [0, 1, 0.25], [0.5, 0.25, 1]])


def test_several_parents_are_spoken_of_in_the_plural():
    with pytest.raises(ValueError, match="Parents 'x', 'y' are sire and dam but have no row") as told:
        pedigree(list("abcd"), ["x", "y", "a", "a"], ["y", "x", "b", "b"])
    remedy = "[*flmm.covariance.UNKNOWN_PARENTS, 'x', 'y']"
    assert f"name them in unknown=, such as unknown={remedy}, or" in str(told.value)
    assert "Effects of groups of unknown parents are columns of X" in str(told.value)
    assert pedigree(list("abcd"), list("xyaa"), list("yxbb"), unknown=eval(remedy)).loc["c", "d"] == 0.5
    with pytest.raises(ValueError, match=r"Parents -3, -4 are negative numbers .*effects of groups are columns"):
        pedigree([1, 2, 3], [-3, -3, 1], [-4, -4, 2])
    with pytest.raises(ValueError, match=r"Parents '1e[+]20', '2e[+]20' are numbers in scientific notation"):
        pedigree(["a", "b"], ["1e+20", None], ["2e+20", None])


def test_ids_that_repeat_in_families_are_joined_as_the_message_says():
    columns = {"FID": "AAABB", "IID": "12312", "PAT": "00100", "MAT": "00200"}
    fam = {name: pd.Series(list(column)) for name, column in columns.items()}
    with pytest.raises(ValueError, match=r"id repeats '1', '2': make .* ids within a family") as told:
        pedigree(fam["IID"], fam["PAT"], fam["MAT"])
    ids = "FID + ':' + IID"
    parent = "(FID + ':' + PAT).where(PAT != '0', '0')"
    assert f"as {ids}, and its parents, as {parent}" in str(told.value)
    K = pedigree(*(eval(code, fam) for code in (ids, parent, parent.replace("PAT", "MAT"))))
    assert_allclose(K.loc["A:3"], [0.5, 0.5, 1, 0, 0])
    assert K.attrs["founders"] == 4


def test_different_ids_that_look_alike_are_kept_apart_when_each_has_a_row():
    K = pedigree(["a", "A", "001", "1", "b"], [None] * 4 + ["A"], [None] * 4 + ["1"])
    assert_allclose(K.loc["b"], [0, 0.5, 0, 0.5, 1])


def test_the_same_id_twice_in_two_types_is_refused():
    for other in ("1", 1.0, "1.0", " 1"):
        with pytest.raises(ValueError, match=r"id (has 1 and .*, which read the same: give the column|repeats 1)"):
            pedigree(pd.Series([1, other], dtype=object), [None] * 2, [None] * 2)


BIG = 9007199254740993


def test_ids_that_floating_point_cannot_hold_are_refused_and_integers_are_exact():
    for column in ([np.nan, float(BIG)], pd.Series([None, BIG], dtype=float)):
        with pytest.raises(ValueError, match=r"sire has 9007199254740992.0, a number in floating point from 2\^53 on"):
            pedigree([BIG, 2], column, [None, None])
    with pytest.raises(ValueError, match=r"id has 16777216.0, a number in floating point from 2\^24 on"):
        pedigree(np.array([16777217, 2], dtype=np.float32), [None, None], [None, None])
    K = pedigree([BIG - 1, BIG, 3], pd.Series([None, None, BIG], dtype="Int64"), [None, None, str(BIG - 1)])
    assert_allclose(K, [[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]])


# ---------------------------------------------------------------- what was read


def test_a_table_says_who_was_read_as_whose_parent():
    table = parents_as_read([1, 2, 3], ["-9", "1", 1.0], ["*", "7", "2"])
    expected = pd.DataFrame(
        {"sire": [None, 1, 1, None], "dam": [None, "7", 2, None], "row": [True, True, True, False]},
        index=pd.Index([1, 2, 3, "7"], dtype=object, name="id"),
        dtype=object,
    ).astype({"row": bool})
    pd.testing.assert_frame_equal(table, expected)
    assert table.attrs == {"founders_added": 1, "founders": 2, "unknown_codes": {"-9": 1, "*": 1}}


# ---------------------------------------------------------------- clones


def test_clones_have_the_genes_of_their_original():
    ids, sire, dam = ["m", "f", "t1", "t2", "c1", "c2"], [0, 0, "m", "m", "t1", "x"], [0, 0, "f", "f", "y", "t2"]
    K = pedigree(ids, sire, dam, clones={"t2": "t1"})
    one = {"t1": ("m", "f"), "c1": ("t1", "y"), "c2": ("x", "t1")}
    assert_allclose(K, additive(one, ["m", "f", "t1", "t1", "c1", "c2"]))
    assert K.loc["c1", "c2"] == 0.25  # half-sibs by genes, and not cousins
    assert K.attrs["founders"] == 4
    left_blank = pedigree(ids, [0, 0, "m", 0, "t1", "x"], [0, 0, "f", 0, "y", "t2"], clones={"t2": "t1"})
    assert_allclose(left_blank, K)
    assert_allclose(pedigree([1, 2, 3], [0] * 3, [0] * 3, clones={"3": 2.0, 2: "1"}), np.ones((3, 3)))


@pytest.mark.parametrize(
    ("clones", "message"),
    [
        ({"c": "z"}, "clones names 'z', without a row in the pedigree"),
        ({"c": "c"}, "clones has 'c' as a copy of itself"),
        ({"a": "b", "b": "a"}, "clones has 'a' as a copy of itself"),
        ({"d": "c"}, "'d' is a clone of 'c' but has other parents: give both the same"),
    ],
)
def test_clones_that_cannot_be_are_refused(clones, message):
    with pytest.raises(ValueError, match=message):
        pedigree(["a", "b", "c", "d"], [0, 0, "a", "b"], [0, 0, "b", 0], clones=clones)


def test_a_repeated_id_says_how_records_and_twins_are_stated():
    twice = r"id repeats 'a': make the names unique.*drop_duplicates\(\) keeps one.*twins and clones have names of"
    with pytest.raises(ValueError, match=twice):
        pedigree(["a", "a"], [None, None], [None, None])
