"""Formulas with random terms: lme4's meaning of bars, slashes and colons; what is dropped; new rows coded alike."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.models.formulas.bars import split_formula


def frame(n=40, seed=5):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.exponential(size=n),
            "w": rng.normal(size=n),
            "f": rng.choice(list("uvw"), n),
            "a": rng.choice(["a1", "a2", "a3"], n),
            "b": rng.choice([1, 2, 3, 4], n),
            "my group": rng.choice(list("pq"), n),
        },
        index=[f"r{i}" for i in range(n)],
    )


def parts(formula):
    fixed, random = split_formula(formula)
    return fixed, [(part.slopes, part.group) for part in random]


@pytest.mark.parametrize(
    ("formula", "fixed", "random"),
    [
        ("y ~ x", "y ~ x", []),
        ("y ~ rep + (1|gen) + (1|rep:block)", "y ~ rep", [(("1",), "gen"), (("1",), "rep:block")]),
        ("y ~ (1|g)", "y ~ 1", [(("1",), "g")]),
        ("y ~ (1|g) + (1|h)", "y ~ 1", [(("1",), "g"), (("1",), "h")]),
        ("y~(1|g)+x", "y ~ x", [(("1",), "g")]),
        ("y ~ 0 + x + (x|g)", "y ~ 0 + x", [(("x",), "g")]),
        ("y ~ (0 + x | g) - 1", "y ~ - 1", [(("0 + x",), "g")]),
        ("y ~ x + (1|a/b)", "y ~ x", [(("1",), "a"), (("1",), "a:b")]),
        ("y ~ (x|a/b/c)", "y ~ 1", [(("x",), "a"), (("x",), "a:b"), (("x",), "a:b:c")]),
        ("y ~ (1|a/b:c)", "y ~ 1", [(("1",), "a"), (("1",), "a:b:c")]),
        ("y ~ (x || g)", "y ~ 1", [(("1", "0 + x"), "g")]),
        ("y ~ (0 + x + poly(w, 2) || g)", "y ~ 1", [(("0 + x", "0 + poly(w, 2)"), "g")]),
        ("y ~ (x * w || g)", "y ~ 1", [(("1", "0 + x", "0 + w", "0 + x:w"), "g")]),
        ("y ~ I(x | w) + {x|w} + (1|g)", "y ~ I(x | w) + {x|w}", [(("1",), "g")]),
        ("y ~ (x + w):f + (1|`my group`)", "y ~ ( x + w ) : f", [(("1",), "my group")]),
        ("`my y` ~ x + (I((x | w))|g)", "`my y` ~ x", [(("I((x | w))",), "g")]),
    ],
)
def test_random_terms_are_taken_apart_as_lme4_does(formula, fixed, random):
    assert parts(formula) == (fixed, random)


def test_a_random_intercept_is_the_incidence_of_its_factor():
    data = frame()
    design = flmm.MixedDesign.from_formula("y ~ x + f + (1|a) + (1|a:b)", data)
    assert (design.response, design.coef) == ("y", ("Intercept", "x", "f[T.v]", "f[T.w]"))
    assert design.ids == tuple(data.index)
    assert_array_equal(design.y, data["y"])
    assert_array_equal(design.X[:, 1], data["x"])
    a, ab = design.random
    assert a.group == "a"
    assert ab.group == "a:b"
    assert (a.levels, a.columns, a.correlated) == (("a1", "a2", "a3"), ("Intercept",), False)
    for term, by in ((a, data["a"]), (ab, [data["a"], data["b"]])):
        built = term.term(flmm.covariance.scalar(2.0))
        expected = flmm.covariance.incidence(by)
        assert built.levels == expected.levels == term.levels
        assert built.name == term.group
        assert built.ids == tuple(data.index)
        assert_array_equal(built.Z.toarray(), expected.Z.toarray())


def test_slopes_have_an_intercept_unless_it_is_taken_out():
    data = frame()
    terms = {f: flmm.MixedDesign.from_formula(f"y ~ x + {f}", data).random[0] for f in ("(x|a)", "(0 + x|a)", "(1|a)")}
    assert [term.columns for term in terms.values()] == [("Intercept", "x"), ("x",), ("Intercept",)]
    assert [term.parts for term in terms.values()] == [(("Intercept", "x"),), (("x",),), (("Intercept",),)]
    assert terms["(x|a)"].correlated
    B = np.array([[2.0, 0.4], [0.4, 1.0]])
    Z = terms["(x|a)"].term(flmm.covariance.unstructured(B)).Z.toarray()
    same = data["a"].to_numpy()[:, None] == data["a"].to_numpy()
    U = np.column_stack([np.ones(len(data)), data["x"]])
    assert_allclose(Z @ np.kron(np.eye(3), B) @ Z.T, same * (U @ B @ U.T))


def test_a_double_bar_makes_independent_parts_of_one_term():
    design = flmm.MixedDesign.from_formula("y ~ x + (x + f || a)", frame())
    (term,) = design.random
    assert term.parts == (("Intercept",), ("x",), ("f[u]", "f[v]", "f[w]"))  # a factor keeps its levels together
    assert term.columns == ("Intercept", "x", "f[u]", "f[v]", "f[w]")
    apart = flmm.MixedDesign.from_formula("y ~ x + (1|a) + (0 + x|a) + (0 + f|a)", frame())
    assert apart.random[0].parts == term.parts
    assert_array_equal(apart.random[0].values, term.values)


def test_a_slash_nests():
    nested = flmm.MixedDesign.from_formula("y ~ (1|a/b)", frame()).random
    crossed = flmm.MixedDesign.from_formula("y ~ (1|a) + (1|a:b)", frame()).random
    assert [t.group for t in nested] == [t.group for t in crossed] == ["a", "a:b"]
    assert [t.levels for t in nested] == [t.levels for t in crossed]


def test_rows_with_a_missing_variable_are_dropped_counted_and_named():
    data = frame()
    data.loc["r1", "y"] = np.nan
    data.loc["r3", "x"] = np.nan
    data.loc[["r5", "r7"], ["a", "x"]] = None, np.nan
    data.loc["r7", "w"] = np.nan
    data.loc["r9", "f"] = None  # not in the formula
    with pytest.warns(
        UserWarning, match=r"4 of 40 rows dropped, with missing values \(x 3, a 2, y 1, w 1\): 'r1', 'r3', 'r5', 'r7'"
    ):
        design = flmm.MixedDesign.from_formula("y ~ poly(x, 2) + (w|a)", data)
    kept = data.drop(index=["r1", "r3", "r5", "r7"])
    assert design.dropped == ("r1", "r3", "r5", "r7")
    assert design.ids == tuple(kept.index)
    complete = flmm.MixedDesign.from_formula("y ~ poly(x, 2) + (w|a)", kept)
    assert_array_equal(design.y, complete.y)
    assert_array_equal(design.random[0].values, complete.random[0].values)
    assert_array_equal(design.random[0].factor.codes, complete.random[0].factor.codes)
    assert_allclose(design.X.T @ design.X, np.diag([36, *np.diag(design.X.T @ design.X)[1:]]), atol=0.5)
    assert repr(design) == (
        "MixedDesign(36 observations of y; fixed: Intercept, poly(x, 2)[1], poly(x, 2)[2]; "
        "random: (Intercept, w | a), 3 levels; 4 rows dropped (x 3, a 2, y 1, w 1))"
    )


def test_a_level_whose_rows_were_dropped_has_no_column():
    data = frame()
    data.loc[data["a"] == "a2", "y"] = np.nan
    data["f"] = pd.Categorical(data["f"], categories=["u", "none", "v", "w"])
    with pytest.warns(UserWarning, match="rows dropped"):
        design = flmm.MixedDesign.from_formula("y ~ a + f + (1|a)", data)
    assert design.coef == ("Intercept", "a[T.a3]", "f[T.v]", "f[T.w]")
    assert design.random[0].levels == ("a1", "a3")


def test_new_rows_are_coded_by_the_transforms_and_levels_of_the_old_ones():
    data = frame()
    formula = "y ~ poly(x, 2) + f + bs(w, df=4) + scale(x) + (scale(w)|a) + (1|a:b)"
    design = flmm.MixedDesign.from_formula(formula, data)
    new = data.iloc[[7, 3, 31]].drop(columns="y")
    assert_allclose(design.encode(new), design.X[[7, 3, 31]], rtol=1e-12, atol=1e-14)
    assert tuple(design.encode(new).index) == ("r7", "r3", "r31")
    for term in design.random:
        Z = term.term(flmm.covariance.scalar(1.0)).Z.toarray()
        again = term.encode(new)
        assert again.levels == term.levels
        assert again.new == ()
        assert_allclose(again.Z.toarray(), Z[[7, 3, 31]], rtol=1e-12, atol=1e-14)


def test_new_levels_follow_the_old_ones():
    data = frame()
    (term,) = flmm.MixedDesign.from_formula("y ~ (x|a)", data).random
    new = pd.DataFrame({"x": [2.0, 3, 4], "a": ["a9", "a2", "a0"]})
    coded = term.encode(new)
    assert coded.levels == ("a1", "a2", "a3", "a0", "a9")
    assert coded.new == ("a0", "a9")
    expected = np.zeros((3, 10))
    expected[0, 8:], expected[1, 2:4], expected[2, 6:8] = [1, 2], [1, 3], [1, 4]
    assert_array_equal(coded.Z.toarray(), expected)
    assert term.encode(new, ("a0", "a2", "a9")).new == ()


def test_whole_numbers_in_an_interaction_are_the_same_level_with_and_without_missing_values():
    data = frame().astype({"b": float})
    data.loc["r2", "b"] = np.nan
    with pytest.warns(UserWarning, match="1 of 40 rows dropped"):
        (term,) = flmm.MixedDesign.from_formula("y ~ (1|a:b)", data).random
    assert "a1:1" in term.levels
    assert term.encode(frame().drop(index="r2")).new == ()


def test_functions_of_the_caller_may_be_used():
    def twice(values):
        return 2 * values

    design = flmm.MixedDesign.from_formula("y ~ twice(x) + (0 + twice(w)|a)", frame())
    assert_allclose(design.X[:, 1], 2 * frame()["x"])
    assert_allclose(design.random[0].values[:, 0], 2 * frame()["w"])
    assert_allclose(design.encode(frame())["twice(x)"], 2 * frame()["x"])


def test_a_dot_is_every_other_column():
    data = frame()[["y", "x", "w", "a"]]
    design = flmm.MixedDesign.from_formula("y ~ . - a + (1|a)", data)
    assert design.coef == ("Intercept", "x", "w")
    assert flmm.MixedDesign.from_formula("np.log(x) ~ . - a - y", data).coef == ("Intercept", "w")


def test_there_may_be_no_random_terms_and_no_fixed_effects():
    design = flmm.MixedDesign.from_formula("y ~ 0 + (1|a)", frame())
    assert design.X.shape == (40, 0)
    assert design.encode(frame()).shape == (40, 0)
    plain = flmm.MixedDesign.from_formula("np.exp(y) ~ x", frame())
    assert plain.random == ()
    assert_allclose(plain.y, np.exp(frame()["y"]))
    assert repr(plain) == "MixedDesign(40 observations of np.exp(y); fixed: Intercept, x; random: none; 0 rows dropped)"


def test_a_hundred_thousand_levels_are_coded_sparsely():
    n = 200_000
    data = pd.DataFrame({"y": np.zeros(n), "g": np.arange(n) // 2, "x": np.ones(n)})
    design = flmm.MixedDesign.from_formula("y ~ (0 + x|g)", data)
    assert design.random[0].term(flmm.covariance.scalar(1.0)).Z.nnz == n


def lme4_fits():
    for row in json.loads((Path(__file__).parents[1] / "reference" / "lme4_nlme.json").read_text()):
        if row["software"].startswith("lme4") and row["data"] != "dyestuff2.csv":
            yield pytest.param(row, id=row["name"])


def covariance_of(fit, term):
    """The covariance within a level as lme4 prints it: variances, then the covariance of correlated slopes."""
    named = dict(zip(fit["variance_terms"], fit["vcov"], strict=True))
    columns = ["(Intercept)" if column == "Intercept" else column for column in term.columns]
    keys = [next(k for k in named if k in (f"{term.group}:{c}", f"{term.group}.1:{c}")) for c in columns]
    G = np.diag([named[key] for key in keys])
    if term.correlated:
        G[0, 1] = G[1, 0] = named[f"{term.group}:{'~'.join(columns)}"]
    return G


@pytest.mark.parametrize("fit", list(lme4_fits()))
def test_at_the_variances_of_lme4_the_likelihood_is_that_of_lme4(fit, oracle):
    data = getattr(flmm.datasets, fit["data"].removesuffix(".csv"))()
    design = flmm.MixedDesign.from_formula(fit["formula"], data)
    V = np.zeros((len(data), len(data)))
    for random in design.random:
        G = covariance_of(fit, random)
        structure = flmm.covariance.scalar(G[0, 0]) if len(G) == 1 else flmm.covariance.unstructured(G)
        term = random.term(structure)
        V += term.Z @ term.covariance.dense() @ term.Z.T
    dense = oracle.Dense(V, design.X, design.y, 1.0, fit["vcov"][-1])
    loglik = dense.loglik_reml if fit["method"] == "REML" else dense.loglik_ml
    assert_allclose(loglik, fit["loglik"], rtol=1e-9)
    assert_allclose(dense.beta, fit["beta"], rtol=1e-5)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("x + (1|a)", "formula must have a response and predictors"),
        ("y ~ 1|a", "has a bar outside parentheses: write random terms as"),
        ("y ~ x * (1|a)", "joins a random term by another sign than [+]: they can only be added"),
        ("y ~ x - (1|a)", "joins a random term by another sign than [+]"),
        ("y ~ x + (1|a):f", "joins a random term by another sign than [+]"),
        ("y ~ (1|a) x", "joins a random term by another sign than [+]"),
        ("y ~ (|a)", r"'\(\|a\)' has nothing left of its bar: an intercept is \(1 \| group\)"),
        ("y ~ (1|)", "the grouping factor of .* must be a column of the table, or columns joined by : and /"),
        ("y ~ (1|a + b)", "the grouping factor of .* must be a column of the table"),
        ("y ~ (1|C(a))", "the grouping factor of .* must be a column of the table"),
        ("y ~ (1|a:)", "the grouping factor of .* must be a column of the table"),
        ("y ~ (1|a|b|f)", r"'\(1\|a\|b\|f\)' is not a random term, which is \(columns \| grouping factor\)"),
        ("y ~ (1|a", "is not a random term, which is"),
        ("y ~ ((1|a) + x)", "has a random term inside other parentheses"),
        ("y ~ (x + x[|a)", "cannot be read"),
        ("y ~ (x + |a)", "Operator .* (insuffient|incorrectly)"),
        ("y ~ (x + ||a)", "Operator"),
        ("y ~ x +", "cannot be read"),
        ("y ~ 'x", "cannot be read: Formula ended before quote"),
        (
            "y ~ (1|shoe)",
            "the grouping factor 'shoe' of formula .* is not among the columns y, x, w, f, a, b,",
        ),
        ("y ~ (shoe|a)", "does not fit the columns y, x, .*: .*shoe"),
        ("y ~ shoe + (1|a)", "does not fit the columns y, x, .*: .*shoe"),
        ("y + x ~ (1|a)", r"has 2 responses \('y', 'x'\): give one"),
        ("f ~ (1|a)", "the response 'f' is not numeric"),
        ("y ~ (1|a) + (x|a)", "has the column 'Intercept' twice for the grouping factor 'a'"),
        ("y ~ (1|a) + (1|a)", r"a permanent environment beside .*, data.assign\(permanent=data\['a'\]\)"),
        ("y ~ (0|a)", "has a random term of 'a' without columns"),
        ("np.log(x - x) ~ (1|a)", "y and X have 40 infinite values"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_malformed_formula_is_refused(formula, message):
    with pytest.raises(ValueError, match=message):
        flmm.MixedDesign.from_formula(formula, frame())


def test_a_grouping_factor_that_is_the_index_is_said_to_be_it():
    with pytest.raises(ValueError, match=r"'a' of formula .*, but the index is: data.reset_index\(\)"):
        flmm.MixedDesign.from_formula("y ~ x + (1 | a)", frame().set_index("a"))


def test_a_table_is_needed_whose_columns_differ():
    with pytest.raises(TypeError, match="data must be a pandas DataFrame, got dict"):
        flmm.MixedDesign.from_formula("y ~ (1|a)", frame().to_dict("list"))
    twice = pd.concat([frame(), frame()[["x"]]], axis=1)
    with pytest.raises(ValueError, match="data has several columns 'x': rename them"):
        flmm.MixedDesign.from_formula("y ~ (1|a)", twice)
    with pytest.raises(ValueError, match=r"the index of data has ids twice \('r1'\): each row needs its own"):
        flmm.MixedDesign.from_formula("y ~ (1|a)", frame().rename(index={"r2": "r1"}))


def test_no_row_left_is_said():
    with pytest.raises(ValueError, match=r"every row has a missing value \(a 40\): nothing is left to fit"):
        flmm.MixedDesign.from_formula("y ~ (1|a)", frame().assign(a=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": "z"}, "new data have levels of a fixed factor that have no coefficient: .*z"),
        ({"x": np.nan}, "new data have missing values \\(x 2\\) in rows 'r0', 'r1': leave those rows out"),
        ({"x": -1.0}, "the design of the new data has 2 values that are NaN or infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_new_rows_that_do_not_fit_are_refused(change, message):
    design = flmm.MixedDesign.from_formula("y ~ np.sqrt(x) + f + (1|a)", frame())
    with pytest.raises(ValueError, match=message):
        design.encode(frame().iloc[:2].assign(**change))


def test_new_rows_without_a_column_are_refused():
    design = flmm.MixedDesign.from_formula("y ~ x + (w|a)", frame())
    with pytest.raises(ValueError, match=r"new data with the columns y, w, .* do not fit the formula: .*x"):
        design.encode(frame().drop(columns="x"))
    with pytest.raises(ValueError, match="the grouping factor 'a' is not among the columns y, x, w, f, b, my group"):
        design.random[0].encode(frame().drop(columns="a"))
    with pytest.raises(ValueError, match="a is missing in 1 rows"):
        design.random[0].encode(frame().assign(a=[None, *frame()["a"][1:]]))
