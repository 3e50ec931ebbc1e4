"""Columns of any dtype in a formula: texts are factors, numbers doubles; numbers that are text or codes are told."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm


def frame(n=40, seed=0):
    rng = np.random.default_rng(seed)
    numbers = {name: rng.exponential(size=n) for name in ("y", "x", "w", "yield", "lambda", "log", "a.b", "my x", "C")}
    text = {"f": rng.choice(list("uvw"), n), "g": rng.choice(list("abcdef"), n), "class": rng.choice(list("pq"), n)}
    return pd.DataFrame(numbers | text | {"k": rng.integers(0, 5, n), "b": rng.random(n) > 0.5})


def design(formula, data=None):
    return flmm.MixedDesign.from_formula(formula, frame() if data is None else data)


@pytest.mark.parametrize("dtype", ["string", "string[pyarrow]", "str", "object", "category", "arrow"])
def test_texts_of_every_dtype_are_factors(dtype):
    data = frame()
    if dtype == "arrow":
        pyarrow = pytest.importorskip("pyarrow")
        other = data.astype({"f": pd.ArrowDtype(pyarrow.string())})
        wide = data.convert_dtypes(dtype_backend="pyarrow")
    else:
        if "arrow" in dtype:
            pytest.importorskip("pyarrow")
        other, wide = data.astype({"f": dtype}), data.convert_dtypes()
    formula = "y ~ f*x + b + k + factor(k) + (f|g) + (0 + b|class)"
    expected = design(formula, data)
    for given in (other, wide):
        made = design(formula, given)
        assert made.columns == expected.columns
        assert_array_equal(made.X, expected.X)
        for ours, theirs in zip(made.random, expected.random, strict=True):
            assert_array_equal(ours.values, theirs.values)
        assert_array_equal(made.encode(given.iloc[3:9]), expected.X[3:9])
        assert_array_equal(made.encode(data.iloc[3:9]), expected.X[3:9])  # new rows of another dtype


def test_missing_values_of_nullable_columns_are_dropped():
    data = frame().convert_dtypes()
    for row, name in enumerate(["k", "f", "b", "x", "y", "g"], start=3):
        data.loc[row, name] = pd.NA
    with pytest.warns(UserWarning, match="6 of 40 rows dropped, .*: 3, 4, 5, 6, 7 and 1 more"):
        made = design("y ~ k + f + b + I(x^2) + (1|g)", data)
    assert_array_equal(made.X, design("y ~ k + f + b + I(x^2) + (1|g)", frame().drop(index=range(3, 9))).X)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float32", "Int8", "Float32"])
def test_numbers_are_doubles_as_in_R(dtype):
    data = frame().assign(v=np.arange(40) + 60).astype({"v": dtype})
    v = np.arange(60.0, 100)
    made = design("y ~ I(v^3) + v:k + I(v * v * v) + poly(v, 3, raw=TRUE) + I(1/v) + exp(v/10)", data)
    expected = [v**3, v**3, v, v**2, v**3, 1 / v, np.exp(v / 10), v * data["k"]]
    assert_allclose(made.X[:, 1:], np.column_stack(expected), rtol=1e-14)
    large = frame().assign(v=3_000_000_000 + np.arange(40))
    assert_allclose(design("y ~ I(v^3) + v:v:k", large).X[:, 1], large["v"].astype(float) ** 3)


@pytest.mark.parametrize("kind", [object, Decimal])
def test_numbers_among_objects_are_numbers(kind):
    data = frame()
    values = data["x"].round(2)
    given = values.astype(object) if kind is object else pd.Series([Decimal(str(v)) for v in values])
    made = design("y ~ x + I(x^2)", data.assign(x=given))
    assert_allclose(made.X, np.column_stack([np.ones(40), values, values**2]))
    assert design("x ~ k", data.assign(x=given)).y.sum() == pytest.approx(values.sum())


def test_conditions_are_factors_as_in_R():
    data = frame()
    assert design("y ~ 0 + b").columns == ("b[False]", "b[True]")
    assert design("y ~ 0 + I(x > 1)").columns == ("I(x > 1)[False]", "I(x > 1)[True]")
    assert design("b ~ x").y.sum() == data["b"].sum()
    assert_allclose(design("y ~ I(x * b)").X[:, 1], data["x"] * data["b"])
    assert_array_equal(design("y ~ b").encode(data[data["b"]])["b[T.True]"], 1)


@pytest.mark.parametrize("kind", ["datetime", "date", "timedelta", "period"])
def test_dates_are_asked_for_their_unit(kind):
    days = pd.Series(pd.date_range("2020-01-01", periods=40))
    values = {
        "datetime": days, "date": days.dt.date, "timedelta": days - days[0], "period": days.dt.to_period("M")
    }[kind]  # fmt: skip
    data = frame().assign(t=values)
    with pytest.raises(ValueError, match=r"the column 't' holds dates or durations .*make it a number first"):
        design("y ~ t", data)
    with pytest.raises(ValueError, match=r"the term 'I\(t\)' is .*, which is no number|formula 'y ~ I\(t\)' does not"):
        design("y ~ I(t)", data)
    if kind == "datetime":
        assert_array_equal(design("y ~ I(t.dt.day)", data).X[:, 1], days.dt.day)


def test_new_rows_are_matched_to_the_levels_as_people_read_them():
    data = frame().assign(k=frame()["k"].astype(str))
    made = design("y ~ k", data)
    assert_array_equal(made.encode(frame()), made.X)  # numbers for a text: formulaic would multiply by them
    assert_array_equal(design("y ~ k", frame().astype({"k": "category"})).encode(data), made.X)
    with pytest.raises(ValueError, match=r"new data have levels of a fixed factor that have no coefficient: .*7"):
        made.encode(frame().assign(k=7))
    with pytest.raises(ValueError, match="the column 'x' of the new data is no number as it was at the fit"):
        design("y ~ x").encode(frame().assign(x="a"))


# ---------------------------------------------------------------- numbers as text, and codes for missing values


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda x: x.round(3).astype(str).where(x.index != 7, "n.d."), "'n.d.' .row 7."),
        (lambda x: x.round(3).astype(object).where(x.index != 7, "n.d."), "'n.d.' .row 7."),
        (lambda x: (1000 * x).round().astype(int).astype(str).where(x.index != 7, "?"), "'[?]' .row 7."),
        (lambda x: x.round(3).astype("string").where(x.index != 7, "<0.5"), "'<0.5' .row 7."),
        (lambda x: x.round(3).astype(str).str.replace(".", ","), "and 3. more"),
        (lambda x: x.round(3).astype(str) + " %", "and 3. more"),
    ],
)
def test_numbers_that_became_text_are_named(make, value):
    data = frame()
    given = data.assign(x=make(data["x"]))
    for formula in ("y ~ x", "y ~ (0 + x|g)"):
        with pytest.warns(UserWarning, match=f"the column 'x' is text because of .*{value}.*factor with .* levels"):
            design(formula, given)
    with pytest.raises(ValueError, match="it has no numbers"):
        design("y ~ log(x)", given)


def test_a_response_that_became_text_names_the_value():
    given = frame().assign(y=frame()["y"].round(3).astype(str).where(frame().index != 7, "n.d."))
    with pytest.raises(
        ValueError, match=r"the response 'y' is not numeric, .*: its value 'n.d.' in row 7 is no number"
    ):
        design("y ~ x", given)


@pytest.mark.parametrize(
    "levels",
    [["1", "2", "3", "control"], ["0.2", "0.4", "0.6"], ["R1", "R2"], ["1", "2", "12"], ["2.5 mg", "5 mg", "placebo"],
     [str(k) for k in range(18)] + ["control"]],
)  # fmt: skip
def test_levels_that_look_like_numbers_are_levels(levels):
    data = frame(n=120)
    data["f"] = [levels[i % len(levels)] for i in range(120)]
    assert len(design("y ~ f", data).columns) == len(levels)


def test_ids_are_no_numbers_that_became_text():
    data = frame().assign(g=[str(1000 + i // 2) for i in range(40)])
    data.loc[3, "g"] = "unknown"
    assert len(design("y ~ x + (1|g)", data).random[0].levels) == 21


MISSING = "{} is {} in {} of .* rows, and .* in the others: it is taken as a value. .* replace it by NaN"


@pytest.mark.parametrize(
    ("code", "values"),
    [
        (-9, "normal"), (-9, "height"), (-9, "case"), (-9, "score"), (-99, "normal"), (-999, "height"),
        (-9999, "normal"), (9999, "height"), (999, "normal"), (99, "case"),
    ],
)  # fmt: skip
def test_codes_for_missing_values_are_told_from_values(code, values):
    rng = np.random.default_rng(4)
    made = {
        "normal": rng.normal(size=60), "height": rng.normal(170, 10, 60), "case": rng.integers(1, 3, 60).astype(float),
        "score": rng.integers(0, 50, 60).astype(float),
    }[values]  # fmt: skip
    made[[5, 17, 40]] = code
    data = frame(60).assign(y=made)
    with pytest.warns(UserWarning, match=MISSING.format("y", code, 3)):
        design("y ~ x + (1|g)", data)
    with pytest.warns(UserWarning, match=MISSING.format("x", code, 3)):
        design("y ~ x", frame(60).assign(x=made))
    spectrum = flmm.Spectrum.from_factor(np.eye(60)[:, :20])
    with pytest.warns(UserWarning, match=MISSING.format("y", code, 3)):
        flmm.reml(spectrum, made)
    with pytest.warns(UserWarning, match=MISSING.format("second", code, 3)):
        flmm.reml(spectrum, pd.DataFrame({"first": rng.normal(size=60), "second": made}))


@pytest.mark.parametrize("values", [range(30), [0, 1, 2, 3, 5], [0.0] * 20 + [40.0, 7.0]])
def test_minus_one_is_a_code_as_the_only_negative_number_among_counts(values):
    rng = np.random.default_rng(8)
    counts = np.r_[[-1] * 10, rng.choice(values, size=80), max(values)]
    data = frame(91).assign(y=counts)
    with pytest.warns(UserWarning, match=MISSING.format("y", -1, 10)) as caught:
        model = flmm.lmm_model("y ~ x + (1|g)", data)
    remedy = re.search(r"data\['y'\]\.replace\(.*?\)", str(caught[0].message))[0]
    mended = eval(remedy, {"data": data, "np": np})
    with pytest.warns(UserWarning, match="10 rows are dropped|10 of 91 rows"):
        left = design("y ~ x + (1|g)", data.assign(y=mended))
    assert_array_equal(left.y, counts[10:])
    assert flmm.find_reml(model).converged  # and no second warning of the same data
    with pytest.warns(UserWarning, match=MISSING.format("y", -1, 10)):
        flmm.reml(flmm.Spectrum.from_factor(np.eye(91)[:, :20]), counts)


CODED_LEVELS = {"NA": "NA", "dot": ".", "missing": "missing", "blank": " ", "unknown": "Unknown", "n/a": "n/a"}


@pytest.mark.parametrize("code", [*CODED_LEVELS.values(), -9, -1, -999])
def test_a_level_that_looks_like_a_code_is_named_once_with_a_remedy_that_works(code):
    data = frame()
    data["g"] = [code] * 6 + [f"s{i // 4}" if isinstance(code, str) else i // 4 for i in range(34)]
    with pytest.warns(UserWarning, match=r"the grouping factor 'g' has the level .* 6 of 40 rows") as caught:
        design("y ~ x + (1|g) + (0 + x|g:f)", data)
    assert len(caught) == 1
    assert f"has the level {code!r}, 6 of" in str(caught[0].message)
    remedy = re.search(r"data\['g'\]\.replace\(.*?\), ?|data\['g'\]\.replace\(.*\):", str(caught[0].message))[0]
    mended = eval(remedy.rstrip(":, "), {"data": data, "np": np})
    with pytest.warns(UserWarning, match="6 rows are dropped|6 of 40 rows"):
        left = design("y ~ x + (1|g)", data.assign(g=mended))
    assert len(left.y) == 34
    assert len(left.random[0].levels) == 9


@pytest.mark.parametrize(
    "levels",
    [["none", "low", "high", "top"], ["NA", "EU", "AS", "AF"], [-1, 0, 1], [-1, 1], [-2, -1, 0, 1], [99, 1, 2, 3],
     [-9.5, 1, 2, 3], [True, False], ["n", "a", "-1"], ["NAD", "unknown soldier"]],
)  # fmt: skip
def test_ordinary_levels_are_no_codes(levels):
    data = frame()
    data["g"] = np.resize(np.array(levels, dtype=object), 40)
    assert len(design("y ~ x + (1|g)", data).random[0].levels) == len(levels)


@pytest.mark.parametrize("seed", range(8))
def test_ordinary_numbers_are_no_codes(seed):
    rng = np.random.default_rng(seed)
    n = 300
    ordinary = [
        rng.integers(-20, 30, n), rng.normal(0, 9, n).round(), rng.poisson(3, n) - 9, rng.integers(0, 100, n),
        np.r_[rng.normal(-4, 3, n - 1).round(), -9], rng.integers(0, 1000, n), np.r_[rng.exponential(30, n - 1), 99],
        rng.standard_t(2, n).round(2), rng.normal(-9, 1, n).round(), np.full(n, -9), np.r_[np.zeros(n - 1), -9],
        np.r_[rng.integers(0, 50, n - 1), -9], np.r_[rng.integers(0, 50, n - 1), -1], rng.integers(-1, 2, n),
        rng.integers(-1, 5, n), rng.choice([-1, 1], n), rng.integers(-2, 30, n), rng.integers(-1, 8, n) + 0.5,
    ]  # fmt: skip
    for values in ordinary:
        design("y ~ x", frame(n).assign(y=values))
    design("y ~ x", frame(n).assign(x=rng.integers(-1, 12, n)))  # the visit before the first


def test_a_design_names_the_coefficients_of_its_fit():
    data = frame().assign(again=lambda d: 2 * d["x"] + 1)
    K = pd.DataFrame(np.eye(40) + np.kron(np.eye(2), np.ones((20, 20))))
    both = flmm.Design.from_formula("y ~ x + again + f", data, K=K)
    mixed = design("y ~ x + again + f + (1|g)", data)
    with pytest.warns(UserWarning, match="'again' dropped"):
        fit = flmm.reml(both.spectrum(), both.y)
    for made in (both, mixed):
        assert made.coef == fit.coef == ("Intercept", "x", "f[T.v]", "f[T.w]")
        assert made.columns == ("Intercept", "x", "again", "f[T.v]", "f[T.w]")
        assert made.X.shape == (40, 5)


def test_a_code_in_a_column_names_what_replaces_it():
    data = pd.DataFrame({"a{b}": [1.0, 2, 3, 4, -999], "x": np.arange(5.0)})
    with pytest.warns(UserWarning, match=r"replace it by NaN, data\['a\{b\}'\].replace\(-999, np.nan\): flmm"):
        flmm.Design.from_formula("`a{b}` ~ x", data, K=np.eye(5))
    data["a{b}"] = data["a{b}"].replace(-999, np.nan)
    with pytest.warns(UserWarning, match="1 of 5 rows dropped"):
        assert len(flmm.Design.from_formula("`a{b}` ~ x", data, K=np.eye(5)).y) == 4
