"""R's spellings mean what R means, Python's stay; columns of any name; what cannot be meant is refused."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.models.formulas.expression import as_python
from pm_fastlmm.models.formulas.names import plain

REFERENCE = Path(__file__).parents[1] / "reference"
# R codes the whole interaction of factors, formulaic the margin of one and the rest: the same space
OTHER_COLUMNS = ("y ~ f %in% a", "y ~ f:a", "y ~ l:f")


def table():
    return pd.read_csv(REFERENCE / "r_formulas.csv").astype({"f": "category", "a": "category"})


def frame(n=40, seed=0):
    rng = np.random.default_rng(seed)
    numbers = {name: rng.exponential(size=n) for name in ("y", "x", "w", "yield", "lambda", "log", "a.b", "my x", "C")}
    text = {"f": rng.choice(list("uvw"), n), "g": rng.choice(list("abcdef"), n), "class": rng.choice(list("pq"), n)}
    return pd.DataFrame(numbers | text | {"k": rng.integers(0, 5, n), "b": rng.random(n) > 0.5})


def design(formula, data=None):
    return flmm.MixedDesign.from_formula(formula, frame() if data is None else data)


def same_space(A, B, rtol=1e-8):
    """Whether two matrices of columns span the same space."""
    ranks = [np.linalg.matrix_rank(M / np.linalg.norm(M, axis=0), tol=rtol) for M in (A, B)]
    left = A - B @ np.linalg.lstsq(B, A)[0]
    return ranks[0] == ranks[1] and np.abs(left).max(initial=0.0) <= rtol * np.abs(A).max(initial=1.0)


def of_r():
    for row in json.loads((REFERENCE / "r_formulas.json").read_text()):
        yield pytest.param(row, id=row["formula"])


@pytest.mark.parametrize("row", list(of_r()))
def test_a_formula_of_R_has_the_columns_of_R(row):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* rows dropped")  # those outside of the classes of `cut`
        ours = design(row["formula"], table())
    theirs = np.array(row["X"], dtype=float).T.reshape(len(row["rows"]), -1)
    assert list(ours.ids) == row["rows"]
    assert_allclose(ours.y, row["y"], rtol=1e-9)
    assert same_space(ours.X, theirs)
    if row["formula"] not in OTHER_COLUMNS:
        assert ours.X.shape == theirs.shape
        for column in ours.X.T:
            assert np.abs(theirs - column[:, None]).max(axis=0).min() < 1e-8 * np.abs(column).max()
    assert_allclose(ours.encode(table().loc[list(ours.ids)]), ours.X, rtol=1e-12, atol=1e-12)


def test_a_power_is_no_exclusive_or():
    sleep = flmm.datasets.sleepstudy()
    fits = [
        flmm.find_reml(flmm.lmm_model(f"Reaction ~ Days + {square} + (1|Subject)", sleep), progressbar=False)
        for square in ("I(Days^2)", "I(Days**2)")
    ]
    assert_allclose([fit.loglik for fit in fits], -892.898, atol=5e-4)  # lme4 1.1-31
    slopes = design("Reaction ~ 1 + (I(Days^2)|Subject)", sleep).random[0]
    assert slopes.columns == ("Intercept", "I(Days ** 2)")
    assert_array_equal(slopes.values[:, 1], sleep["Days"] ** 2)


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("I(-x %% 2 * w)", "I(-x % 2 * w)"),
        ("I(w * x %% 2)", "I(w * (x % 2))"),
        ("I(x^-1)", "I(x ** (-1.0))"),
        ("I(x^2^w)", "I(x ** 2 ** w)"),
        ("I(-x^2)", "I(-x ** 2)"),
        ("I(x**5)", "I(x ** 5.0)"),
        ("I(x > 1 & w < 2 | b)", "I((x > 1) & (w < 2) | b)"),
        ("I(!x == w)", "I(~(x == w))"),
        ("splines::ns(x, df = 3L)", "ns(x, df=3)"),
        ("cut(x, 3, include.lowest = TRUE)", "cut(x, 3, include_lowest=TRUE)"),
        ("np.log(x)", "np.log(x)"),
        ("x.clip(0, 1)", "x.clip(0, 1)"),
        ("a.b.clip(0, 1)", "a.b.clip(0, 1)"),
        ("I(x // 2)", "I(x // 2)"),
        ("np.where(x > 0, 1, [2][0])", "np.where(x > 0, 1, [2][0])"),
        ("log(log)", "log(log)"),
        ("I(`my x` + lambda)", "I(`my x` + lambda)"),
        ("Q('my x')", "`my x`"),
    ],
)
def test_expressions_are_read_by_the_precedence_of_their_language(text, python):
    assert plain(as_python(text, set(frame().columns))) == python


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I(x > 1 | b)", r"is I\(\(\(x > 1\) \| b\)\) to R and I\(\(x > \(1 \| b\)\)\) to Python: write the parenth"),
        ("I(b == x & w)", "to R and .* to Python: write the parentheses"),
        ("I(data$x)", "cannot be read, neither as R nor as Python: name the column alone, x instead of data[$]x"),
        ("factor(1:3)", r"a range 1:3 is c\(1, 2, 3\), and an interaction of factors interaction\(a, b\)"),
        ("I(b && b)", "write & between the conditions of each row"),
        ("I(b || b)", "write | between the conditions of each row"),
        ("np.where(x > 0, x^2, [1])", r"a power is x \*\* 2 in Python"),
        ("I(x %o% w)", "has the sign %o%, which formulas do not know: they have %%, %/% and %in% of R"),
    ],
)
def test_what_R_and_Python_read_differently_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        as_python(text, set(frame().columns))


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ s(x)", r"smooth terms are `bs\(x, df=5\)` or `ns\(x, df=4\)`"),
        ("y ~ is.na(x)", "rows with a missing value .* are dropped before functions see them: make the column first"),
        ("y ~ I(x - mean(x))", r"a mean would be another one for new rows: center\(x\), or scale\(x\)"),
        ("y ~ foo(x)", "there is no function 'foo' here, define it or make a column first; known .*as.factor.*sqrt"),
        ("y ~ as.Date(x)", "there is no function 'as.Date' here"),
        ("y ~ x > 1", r"has '>' among its terms, which joins no terms: inside a call it is arithmetic, I\(x > 1\)"),
        ("y ~ data$x", "has '[$]' among its terms, which joins no terms: name the column alone, x instead of data[$]x"),
        ("y ~ 1/x", r"has arithmetic among its terms, 1/x: write it inside a call, I\(1/x\)"),
        ("y ~ f + x*2", r"has arithmetic among its terms, x\*2: write it inside a call, I\(x\*2\)"),
        ("y ~ C(f, 'contr.foo')", "there are no contrasts 'contr.foo': contr.treatment, contr.sum"),
        ("y ~ np.ones(3)", "does not fit the columns .*Length of values"),
        ("y ~ exp", "does not fit the columns"),
        ("y ~ (x - x)/f", "cannot be read"),
        ("y ~ x %% 2", r"cannot be read: .*Arithmetic such as x %% 2 goes into a call, I\(x %% 2\)"),
        ("y ~ {x ^ 2}", r"'x \^ 2' cannot be read, .*a power is x \*\* 2 in Python"),
        ("y ~ sqrt(f)", r"it has no numbers: as.numeric\(f\) is the number of a level"),
        ("y ~ as.numeric(f)", r"none of its texts is a number: as.numeric\(factor\(f\)\) is the number of a level"),
        ("y ~ relevel(f, ref='z')", "'z' is none of the levels u, v, w"),
        ("y ~ poly(k, 5)", "degree must be less than the number of different values, got 5"),
        ("y ~ cut(x, 1)", "cut needs two classes at least, got 1"),
        ("y ~ ns(x, df=0)", "df must be at least 1, got 0"),
        ("cbind(y, x) ~ f", r"has 2 responses \('y', 'x'\): flmm.traits_model"),
        ("f ~ x", "the response 'f' is not numeric"),
    ],
)
def test_what_a_formula_cannot_mean_is_refused_and_the_way_is_told(formula, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        design(formula)


def test_several_responses_of_R_are_those_of_a_design():
    data = frame()
    both = flmm.Design.from_formula("cbind(y, log(w)) ~ x", data, K=pd.DataFrame(np.eye(40)))
    assert both.responses == ("y", "log(w)")
    assert_allclose(both.y, np.column_stack([data["y"], np.log(data["w"])]))
    base = flmm.Design.from_formula("cbind(log(y, 2), w) ~ x", data, K=pd.DataFrame(np.eye(40)))  # commas of its own
    assert_allclose(base.y, np.column_stack([np.log2(data["y"]), data["w"]]))


def test_right_of_a_bar_every_column_is_a_factor():
    for spelling in ("factor(k)", "as.factor(k)", "factor(`k`)"):
        (term,) = design(f"y ~ (1|{spelling})").random
        assert (term.group, term.levels) == ("k", (0, 1, 2, 3, 4))


def test_a_function_that_new_rows_use_keeps_what_it_learnt():
    data = frame()
    made = design("y ~ ns(x, df=3) + cut(w, 3) + poly(x, 2) + scale(w) + bs(x, df=4) + factor(k) + ordered(k)", data)
    for rows in ([3], [3, 7, 11]):
        assert_allclose(made.encode(data.iloc[rows]), made.X[rows], rtol=1e-12, atol=1e-12)
    low, high = data["x"].min(), data["x"].max()
    outside = pd.DataFrame({"x": [low - 2, low - 1, low, high, high + 1, high + 2]})
    spline = design("y ~ 0 + ns(x, df=3)", data).encode(outside)
    assert_allclose(np.diff(spline.iloc[:3], n=2, axis=0), 0, atol=1e-12)  # straight outside
    assert_allclose(np.diff(spline.iloc[3:], n=2, axis=0), 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"the design of the new data has 1 values .*, in rows 5: a transform is not"):
        made.encode(data.assign(w=data["w"].where(data.index != 5, 1e3)))


@pytest.mark.parametrize("term", ["C(k, levels=[3, 1])", "factor(k, levels=c(3, 1))"])
def test_values_that_are_none_of_the_levels_are_missing_as_in_R(term):
    data = frame()
    some = data["k"].isin([1, 3])
    with pytest.warns(UserWarning, match=f"{(~some).sum()} of 40 rows dropped"):
        made = design(f"y ~ {term}", data)
    assert_array_equal(made.X[:, 1], data["k"][some] == 1)
    with pytest.raises(ValueError, match=f"the design of the new data has {(~some).sum()} values that are NaN"):
        made.encode(data)


def test_contrasts_may_be_named_as_in_R():
    assert_array_equal(design("y ~ C(f, 'contr.sum')").X, design("y ~ C(f, contr.sum)").X)
    assert_array_equal(design("y ~ C(f, contr='contr.helmert')").X, design("y ~ C(f, contr.helmert)").X)


def test_rows_outside_of_the_classes_are_dropped_and_counted_as_in_R():
    data = frame()
    inside = (data["x"] > 0.2) & (data["x"] <= 2)
    with pytest.warns(UserWarning, match=f"{(~inside).sum()} of 40 rows dropped"):
        made = design("y ~ cut(x, c(.2, 1, 2))", data)
    assert list(made.ids) == data.index[inside].tolist()
    assert_array_equal(made.X[:, 1], data["x"][inside] > 1)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("formula", "columns", "expected"),
    [
        ("y ~ log(yield) + yield", ("log(yield)", "yield"), lambda d: [np.log(d["yield"]), d["yield"]]),
        ("y ~ C(class)", ("C(class)[T.q]",), lambda d: [d["class"] == "q"]),
        ("y ~ I(lambda**2)", ("I(lambda ** 2)",), lambda d: [d["lambda"] ** 2]),
        ("y ~ I(`lambda`^2)", ("I(lambda ** 2)",), lambda d: [d["lambda"] ** 2]),
        ("y ~ log(a.b) + a.b", ("log(a.b)", "a.b"), lambda d: [np.log(d["a.b"]), d["a.b"]]),
        ("y ~ I(a.b * `my x`)", ("I(a.b * `my x`)",), lambda d: [d["a.b"] * d["my x"]]),
        ("y ~ log(log) + log", ("log(log)", "log"), lambda d: [np.log(d["log"]), d["log"]]),
        ("y ~ C + C(f)", ("C", "C(f)[T.v]", "C(f)[T.w]"), lambda d: [d["C"], d["f"] == "v", d["f"] == "w"]),
        ("log(yield) ~ np.sqrt(lambda)", ("np.sqrt(lambda)",), lambda d: [np.sqrt(d["lambda"])]),
    ],
)
def test_columns_may_be_called_like_keywords_functions_and_as_in_R(formula, columns, expected):
    data = frame()
    made = design(formula, data)
    assert made.columns == ("Intercept", *columns)
    assert_allclose(made.X[:, 1:], np.column_stack(expected(data)).astype(float))
    assert_allclose(made.encode(data.iloc[5:9]), made.X[5:9])
    name = next(name for name in ("yield", "class", "lambda", "a.b", "log", "C") if name in formula)
    gap = data.assign(**{name: data[name].where(data.index != 3)})
    with pytest.warns(UserWarning, match="1 of 40 rows dropped"):  # a missing value is found under any name
        assert design(formula, gap).dropped == (3,)


def test_a_slope_and_a_response_may_be_keywords():
    made = design("log(yield) ~ x + (lambda|class)")
    assert (made.response, made.random[0].columns) == ("log(yield)", ("Intercept", "lambda"))
    assert_allclose(made.y, np.log(frame()["yield"]))


def test_a_variable_of_the_caller_hides_no_function():
    C, scale, I, log, factor, poly, sqrt, bs = frame(), 3, None, np.ones(40), {}, "text", 1.0, frame()["x"]  # noqa: E741
    made = flmm.MixedDesign.from_formula(
        "y ~ C(f) + scale(x) + I(x^2) + log(x) + factor(k) + poly(x, 2) + sqrt(w) + bs(w, df=4) + I(x*scale)", frame()
    )
    assert_allclose(made.X[:, list(made.columns).index("log(x)")], np.log(frame()["x"]))
    assert_allclose(made.X[:, -1], 3 * frame()["x"])  # a variable is one where no function is called
    assert len(made.columns) == 18
    assert (C.shape, scale, I, log.sum(), factor, poly, sqrt, bs.shape) == (
        (40, 14),
        3,
        None,
        40,
        {},
        "text",
        1.0,
        (40,),
    )


def test_a_function_of_the_caller_takes_the_place_of_ours():
    def log(values):
        return values + 1

    made = flmm.MixedDesign.from_formula("y ~ log(x)", frame())
    assert_allclose(made.X[:, 1], log(frame()["x"]))


def test_functions_of_numbers_and_arrays_do_not_hide_those_of_columns():
    from math import log, sqrt

    from numpy import poly

    made = flmm.MixedDesign.from_formula("y ~ poly(x, 2)", frame())
    assert_allclose(made.X.T @ made.X, np.diag([40.0, 1, 1]), atol=1e-12)
    assert_allclose(poly([1.0]), [1, -1])
    assert_allclose(flmm.MixedDesign.from_formula("y ~ log(x) + sqrt(w)", frame()).X[:, 1], np.log(frame()["x"]))
    assert (log(1), sqrt(1)) == (0, 1)


@pytest.mark.parametrize("formula", ["`Yield t/ha` ~ x + (1|g)", "I(y/1000) ~ x + (1|g)"])
def test_a_response_with_a_slash_is_told_to_have_a_name(formula):
    data = frame().rename(columns={"w": "Yield t/ha"})
    with pytest.raises(ValueError, match=r"a variable of PyMC cannot be called .* with a slash: name it, name='"):
        flmm.lmm_model(formula, data)
    assert "tons" in flmm.lmm_model(formula, data, name="tons").named_vars


def test_a_grouping_factor_with_a_slash_is_told_to_be_renamed():
    data = frame().rename(columns={"g": "site/plot"})
    with pytest.raises(ValueError, match=r"the grouping factor 'site/plot' .* rename its column, data.rename"):
        flmm.lmm_model("y ~ x + (1|`site/plot`)", data)
