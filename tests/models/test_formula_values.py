"""Values of calls: what overflowed, was Boolean, or was computed from the new rows alone."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm


def frame(n=48):
    rng = np.random.default_rng(5)
    numbers = {"x": rng.gamma(2, 2, n), "z": rng.normal(size=n), "w": rng.normal(size=n), "y": rng.normal(size=n)}
    whole = {"k": rng.integers(1, 6, n), "q": rng.integers(1900, 2100, n), "num": rng.choice([9, 10, 100], n)}
    return pd.DataFrame(
        numbers | whole | {"b": rng.random(n) > 0.5, "f": rng.choice(list("abc"), n), "g": np.arange(n) // 6}
    )


def design(formula, data=None):
    return flmm.MixedDesign.from_formula(formula, frame() if data is None else data)


def column(term):
    return design(f"y ~ {term}").X[:, 1]


@pytest.mark.parametrize(
    ("term", "value"),
    [
        ("I(q^3*q^3)", lambda d: d.q.astype(float) ** 6),
        ("I(q*q*q*q*q*q)", lambda d: d.q.astype(float) ** 6),
        ("q:k:num:x:w", lambda d: d.q * d.k * d.num * d.x * d.w),
        ("I(2^-k)", lambda d: 0.5**d.k),
        ("I(10^-k)", lambda d: 0.1**d.k),
        ("I(k^-k)", lambda d: d.k ** (-1.0 * d.k)),
        ("I(np.where(b, q, 1)^2 * q^2 * q^2)", lambda d: np.where(d.b, d.q.astype(float), 1) ** 2 * d.q**4.0),
        ("I((x>2)+(z>0))", lambda d: 1.0 * (d.x > 2) + (d.z > 0)),
        ("I(-(x>2)*z)", lambda d: -(d.x > 2).astype(float) * d.z),
        ("I(x*(-b))", lambda d: -d.x * d.b),
        ("I(b+b)", lambda d: 2.0 * d.b),
        ("{(x>2) - (z>0)}", lambda d: 1.0 * (d.x > 2) - 1.0 * (d.z > 0)),
        ("I(!b*x)", lambda d: d.b * d.x == 0),
        ("I(b & k - 1)", lambda d: d.b & (d.k != 1)),
        ("I(T*x + F)", lambda d: d.x),
        ("I(b %/% 2 + b %% 2)", lambda d: d.b),
        ("I(ifelse(b, TRUE, FALSE) * x)", lambda d: d.b * d.x),
        ("pmax(x, z, w)", lambda d: d[["x", "z", "w"]].max(axis=1)),
        ("pmin(x, z, 1)", lambda d: np.minimum(np.minimum(d.x, d.z), 1)),
        ("as.numeric(as.character(factor(num)))", lambda d: d.num),
        ("as.integer(as.character(num))", lambda d: d.num),
        ("as.numeric(I(x > 2))", lambda d: d.x > 2),
        ("as.numeric(ordered(num))", lambda d: d.num.map({9: 1, 10: 2, 100: 3})),
    ],
)
def test_numbers_are_doubles_and_conditions_0_and_1(term, value):
    assert_allclose(column(term), np.asarray(value(frame()), dtype=float), rtol=1e-12)


def test_products_of_whole_numbers_do_not_overflow_in_an_interaction():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({f"q{j}": rng.integers(29_000, 31_000, 20) for j in range(5)}).assign(y=rng.normal(size=20))
    made = design("y ~ q0:q1:q2:q3:q4", data)
    assert_allclose(made.X[:, 1], data.drop(columns="y").astype(float).prod(axis=1))


@pytest.mark.parametrize(
    "term",
    [
        "as.numeric(factor(f))", "as.integer(factor(num))*x", "relevel(factor(f), 'b')",
        "factor(f, labels=c('A', 'B', 'Z'))",
        "as.numeric(relevel(factor(f), 'c'))", "as.numeric(interaction(f, b))", "factor(cut(x, 3))",
        "as.numeric(cut(x, 3))",
        "scale(scale(x))", "scale(poly(x, 1))", "C(cut(x, 3), sum)", "C(f, contr.treatment(3, base=2))", "C(f, sum)",
        "factor(num, ordered=TRUE)", "as.character(num)", "pmax(x, z, 1)", "I(!b + x)",
        "ifelse(factor(f) == 'b', x, z)",
    ],
)  # fmt: skip
def test_new_rows_are_those_of_the_fit(term):
    data = frame()
    made = design(f"y ~ {term} + (0 + {term} | g)", data)
    for rows in ([3], [4, 9, 30], list(range(47, 0, -3))):
        assert_allclose(made.encode(data.iloc[rows]), made.X[rows], rtol=1e-12)
        Z, levels, _ = made.random[0].encode(data.iloc[rows])
        assert Z.shape == (len(rows), len(levels) * len(made.random[0].columns))
        assert_allclose(np.asarray(Z.sum(axis=1)).ravel(), made.random[0].values[rows].sum(axis=1), atol=1e-12)


@pytest.mark.parametrize(
    "term",
    [
        "I(x/np.max(x))", "I(np.min(x)*z)", "I((x-x.mean())*2)", "np.log(x/np.mean(x))", "np.gradient(x)", "x.rank()",
        "{x/x.sum()}", "np.where(x > x.median(), 1, 0)", "x.clip(upper=x.quantile(.9))", "I(b/np.max(b))",
        "np.arange(48)",
        "scale(x - x.mean())", "np.sort(x)", "x.diff()", "I(x.iloc[::-1].to_numpy())",
    ],
)  # fmt: skip
def test_a_term_of_other_rows_is_refused(term):
    for formula in (f"y ~ {term}", f"y ~ w + (0 + {term} | g)"):
        with pytest.raises(ValueError, match=r"has another value in a row alone than among all rows, .*make a column"):
            design(formula)


def test_a_response_of_other_rows_and_functions_of_single_rows_are_not():
    weights = np.arange(48.0)
    data = frame()
    made = flmm.MixedDesign.from_formula("I(y / np.max(y)) ~ np.log(x) + I(np.sqrt(x) * weights) + x.clip(0, 1)", data)
    assert_allclose(made.y, data["y"] / data["y"].max())
    assert_allclose(made.X[:, 2], np.sqrt(data["x"]) * weights)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("as.numeric(t)", r"its texts 'n.d.' are no numbers: mend them or make them missing, pd.to_numeric"),
        ("as.integer(as.character(t))", r"its texts 'n.d.' are no numbers"),
        (
            "C(f, contr.treatment(5))",
            r"contr.treatment\(5\) is for 5 levels, and the factor has 3, a, b, c: .*base=2, its place",
        ),
        ("C(f, contr.sum(2))", r"contr.sum\(2\) is for 2 levels, and the factor has 3, a, b, c: contr.sum alone"),
        ("C(f, contr.treatment(3, base=4))", "the base 4 is none of the levels a, b, c, nor their place"),
        ("C(f, contr.sum, base=2)", r"a base is one of contr.treatment: C\(f, contr.treatment, base=2\)"),
        ("C(f, contr.treatment(3, contrasts=FALSE))", "is a column for each level: write 0 [+] f"),
        ("C(f, poly, 1)", "there is no how.many of contrasts, 3 levels have 2: make the columns first"),
        ("factor(f, labels=c('A', 'B'))", "it has 2 labels for the 3 levels a, b, c: give each of them one of its own"),
    ],
)
def test_what_the_values_do_not_fit_is_said(term, message):
    data = frame()
    data["t"] = ["n.d.", *map(str, data["q"].iloc[1:])]
    with pytest.raises(ValueError, match=message):
        design(f"y ~ {term}", data)


def test_a_level_without_a_label_or_number_is_named():
    data = frame()
    for term in ("factor(f, labels=c('A', 'B', 'Z'))", "as.numeric(factor(f))"):
        with pytest.raises(ValueError, match="'new' is none of the levels a, b, c"):
            design(f"y ~ {term}", data).encode(data.iloc[:1].assign(f="new"))


def test_the_base_of_a_contrast_is_a_place_or_a_level():
    place = design("y ~ C(f, contr.treatment(3, base=2))")
    assert place.columns[1:] == ("C(f, contr.treatment(3, base=2))[T.a]", "C(f, contr.treatment(3, base=2))[T.c]")
    for term in (
        "C(f, contr.treatment, base=2)",
        "C(f, base=2)",
        "C(f, contr.treatment(base='b'))",
        "C(f, contr.treatment('b'))",
    ):
        assert_array_equal(design(f"y ~ {term}").X, place.X)


@pytest.mark.parametrize(
    "term", ["scale(t)", "I(t^2)", "I(2*t)", "log(t)", "poly(t, 2)", "bs(t, df=4)", "pmax(x, t)", "cut(t, 3)"]
)
def test_a_column_that_became_text_is_named_with_its_value(term):
    data = frame()
    data["t"] = ["n.d.", *map(str, data["q"].iloc[1:])]
    with pytest.raises(
        ValueError, match=r"the column 't' is text because of 'n.d.': if it should be a number, data"
    ) as no:
        design(f"y ~ {term}", data)
    exec(str(no.value).split("a number, ")[1].split(" makes other")[0], {"data": data, "pd": pd})
    with pytest.warns(UserWarning, match="1 of 48 rows dropped"):
        assert design(f"y ~ {term}", data).dropped == (0,)


def test_texts_are_not_multiplied():
    for term in ("I(2*f)", "I(f + f)", "I(-f)"):
        with pytest.raises(ValueError, match=r"it has no numbers: as.numeric\(f\) is the number of a level"):
            design(f"y ~ {term}")


@pytest.mark.parametrize("response", ["I(x>2)", "x > 2", "b", "!b", "I((x > 2) & b)"])
def test_a_condition_as_response_is_0_and_1(response):
    data = frame()
    expected = {"I(x>2)": data.x > 2, "x > 2": data.x > 2, "b": data.b, "!b": ~data.b}.get(
        response, (data.x > 2) & data.b
    )
    made = design(f"{response} ~ z + (1|g)", data)
    assert_array_equal(made.y, expected)
    assert "[" not in made.response


def test_a_condition_outside_of_a_call_is_told():
    with pytest.raises(ValueError, match=r"a condition is a term inside a call, I\(!b\)"):
        design("y ~ !b")
    assert design("y ~ I(!b)").columns == ("Intercept", "I(~b)[T.True]")
