"""What R's users write and formulas do not have is refused, and what the message says to write works as printed."""

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

PACKAGE = Path(flmm.__file__).parent


def frame(n=40, seed=0):
    rng = np.random.default_rng(seed)
    numbers = {"y": rng.normal(5, 1, n), "x": rng.exponential(size=n), "z": rng.normal(size=n), "a": np.arange(n) % 2}
    text = {"g": list("abcd") * (n // 4), "t": rng.choice(list("uv"), n), "rep": rng.choice(["R1", "R2", "R3"], n)}
    return pd.DataFrame(numbers | text | {"b": 1 - numbers["a"]})


def design(formula, data=None):
    return flmm.MixedDesign.from_formula(formula, frame() if data is None else data)


def message_of(formula, data=None):
    with pytest.raises(ValueError, match=r"\w") as refused:
        design(formula, data)
    return str(refused.value)


def names_in_messages():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.findall(r"\bflmm\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", node.value)


def test_every_name_of_the_package_in_a_message_exists():
    names = set(names_in_messages())
    assert {"FourierLMM", "covariance.pedigree", "DenseLMM", "Term", "lmm_model"} <= names
    for name in names:
        found = flmm
        for part in name.split("."):
            found = getattr(found, part)


# ---------------------------------------------------------------- other rows


@pytest.mark.parametrize(
    ("call", "made"),
    [("lag(Days)", "shift()"), ("lead(Days)", "shift(-1)"), ("diff(Days)", "diff()"), ("cumsum(Days)", "cumsum()")],
)
def test_values_of_other_rows_are_made_within_groups(call, made):
    sleep = flmm.datasets.sleepstudy()
    message = message_of(f"Reaction ~ {call} + (1|Subject)", sleep)
    assert f"{call} is not there: its value in a row depends on other rows, those of other groups too" in message
    command = re.search(r"df\['made'\] = .*\)", message.split(", and write")[0])[0]
    assert command == f"df['made'] = df.groupby('Subject')['Days'].{made}"
    exec(command, {"df": sleep})
    expected = {"shift()": 8, "shift(-1)": 1, "diff()": 1, "cumsum()": 45}[made]
    at = 8 if made == "shift(-1)" else 9
    assert (sleep["made"].iloc[at] if at == 9 else sleep["made"].iloc[0]) == expected
    assert sleep["made"].isna().sum() == (0 if made == "cumsum()" else 18)


def test_a_lag_of_R_changes_nothing_and_ours_would_cross_groups():
    assert "R's lag of a column changes nothing; shift within groups: df" in message_of("y ~ lag(x) + (1|g)")


@pytest.mark.parametrize("name", ["max", "min", "sum", "range", "len"])
def test_numbers_of_all_rows_would_be_others_for_new_rows(name):
    assert "it would be another one for new rows" in message_of(f"y ~ I(x / {name}(x))")


def test_a_function_of_the_caller_may_have_the_name_of_one_that_is_not_there():
    def lag(values):
        return values + 1

    made = flmm.MixedDesign.from_formula("y ~ lag(x)", frame())
    assert_allclose(made.X[:, 1], lag(frame()["x"]))


def test_hashed_levels_share_columns():
    assert re.search("levels that share a column .* factor", message_of("y ~ hashed(g, levels=3)"))


# ---------------------------------------------------------------- random terms of other packages


@pytest.mark.parametrize(
    ("formula", "term"),
    [
        ("y ~ x + (1 | gr(g, cov = A))", "(1 | g)"),
        ("y ~ x + (1 + x | gr(g, cov = A))", "(1 + x | g)"),
        ("y ~ x + vm(g, A)", "(1 | g)"),
        ("y ~ x + vsr(g, Gu = A)", "(1 | g)"),
        ("y ~ x + ped(g)", "(1 | g)"),
    ],
)
def test_a_known_covariance_of_levels_is_given_by_name(formula, term):
    message = message_of(formula)
    assert f"write {term} and give flmm.lmm_model known={{'g': A}}, a DataFrame whose labels are the levels" in message
    A = pd.DataFrame(np.eye(4) + 0.5, index=list("abcd"), columns=list("abcd"))
    model = flmm.lmm_model(f"y ~ x + {term}", frame(), known={"g": A})
    assert np.isfinite(flmm.find_reml(model, progressbar=False).loglik)


@pytest.mark.parametrize(
    ("formula", "term", "parts"),
    [
        ("y ~ x + (1 | p | g)", "(1 | g)", (("Intercept",),)),
        ("y ~ x + us(1 + x | g)", "(1 + x | g)", (("Intercept", "x"),)),
        ("y ~ x + us(x):g", "(x | g)", (("Intercept", "x"),)),
        ("y ~ x + diag(x | g)", "(x || g)", (("Intercept",), ("x",))),
        ("y ~ x + idh(x):g", "(x || g)", (("Intercept",), ("x",))),
        ("y ~ x + idh(t):g", "(0 + a + b || g)", (("a",), ("b",))),
        ("y ~ x + (1 | gr(g, by = t))", "(0 + a + b || g)", (("a",), ("b",))),
        ("y ~ x + at(t, 'u'):g", "(0 + as.numeric(t == 'u') | g)", (("as.numeric(t == 'u')",),)),
        ("y ~ x + (1 | id(g))", "(1 | g)", (("Intercept",),)),
    ],
)
def test_structures_of_other_packages_are_written_with_bars(formula, term, parts):
    assert term in message_of(formula)
    (random,) = design(f"y ~ x + {term}").random
    assert (random.group, random.parts) == ("g", parts)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ x + (1 | mm(g, t))", "several levels have an incidence matrix: flmm.Term(Z, flmm.covariance.scalar("),
        ("y ~ x + ar1(0 + t | g)", "flmm.covariance.kronecker(flmm.covariance.identity(), flmm.covariance.ar1(sigma2"),
        ("y ~ s(x)", "or a Gaussian process, flmm.FourierLMM"),
        ("y ~ x + (1 | foo(g))", "the grouping factor of '(1 | foo(g))' must be a column of the table"),
        ("y ~ scal(x)", "there is no function 'scal' here, define it or make a column first; known are as.factor, "),
    ],
)
def test_what_has_no_formula_is_named(formula, message):
    assert message in message_of(formula)


# ---------------------------------------------------------------- responses


@pytest.mark.parametrize(
    ("formula", "response"),
    [
        ("y ~ x + offset(z)", "I(y - z)"),
        ("y ~ x + offset(2*z)", "I(y - 2 * z)"),
        ("y ~ x + offset(z + a)", "I(y - (z + a))"),
        ("y ~ x + offset(-z)", "I(y - (-z))"),
        ("log(y) ~ offset(z) + x", "I(log(y) - z)"),
        ("I(y/2) ~ x + offset(log(x))", "I(y/2 - log(x))"),
        ("y^2 ~ x + offset(z)", "I(y ^ 2 - z)"),
    ],
)
def test_an_offset_is_taken_from_the_response(formula, response):
    data = frame()
    with pytest.raises(ValueError, match=r"an offset is .* known: flmm\.lmm_model takes it; here take it") as refused:
        flmm.Design.from_formula(formula, data, K=np.eye(40))
    assert f"take it from the response, {response} ~" in str(refused.value)
    known = re.search(r"offset\((.*?\)?)\)(?: |$)", formula)[1]
    y = {"log(y)": np.log(data["y"]), "I(y/2)": data["y"] / 2, "y^2": data["y"] ** 2}.get(
        formula.split(" ~")[0], data["y"]
    )
    expected = y - eval(known, {"log": np.log}, dict(data))
    assert_allclose(design(f"{response} ~ x", data).y, expected, rtol=1e-12)


def test_texts_as_responses_are_told_how_to_become_numbers():
    data = frame().assign(n=lambda d: d["y"].astype(str))
    message = message_of("t ~ x", data)
    response = re.search(r"I\(as.numeric\(.*?\)\)", message)[0]
    assert_allclose(design(f"{response} ~ x", data).y, data["t"] == data["t"].unique()[1])
    message = message_of("n ~ x", data)
    exec(re.search(r"data\['n'\] = .*\)", message)[0], {"data": data, "pd": pd})
    assert_allclose(design("n ~ x", data).y, data["y"])
    assert "give a number to each of its values, such as a score" in message_of("rep ~ x", data)


def test_several_responses_are_told_where_they_go():
    message = message_of("cbind(y, z) ~ x")
    assert "flmm.traits_model and flmm.find_reml take several traits" in message
    assert flmm.Design.from_formula("cbind(y, z) ~ x", frame(), K=pd.DataFrame(np.eye(40))).responses == ("y", "z")


def test_infinite_values_are_told_with_their_term_and_rows():
    sleep = flmm.datasets.sleepstudy()
    message = r"y and X have 18 infinite values, of log[(]Days[)] in rows 0, 10, 20, 30, 40 and 13 more: mend them"
    with pytest.raises(ValueError, match=message):
        design("Reaction ~ log(Days) + (1|Subject)", sleep)
    with pytest.raises(ValueError, match=r"1 infinite values, of log[(]y[)] in rows 3"):
        design("log(y) ~ x", frame().assign(y=lambda d: d["y"].where(d.index != 3, 0.0)))


# ---------------------------------------------------------------- spellings of R


def test_one_column_in_c_is_itself():
    assert_allclose(design("y ~ c(x)").X[:, 1], frame()["x"])
    assert_allclose(design("y ~ bs(x, knots = c(1))").X, design("y ~ bs(x, knots = [1])").X)


def test_a_column_of_a_call_is_the_call():
    for spelling in ("scale(x)[,1]", "scale(x)[, 1]"):
        assert "scale(x) is scale(x)[, 1] of R" in message_of(f"y ~ {spelling}")


def test_polynomials_of_two_variables_are_told():
    assert "poly(a, b, degree=2) is poly(a, 2) + poly(b, 2) + a:b" in message_of("y ~ poly(x, z, degree=2)")
    data = frame()
    theirs = np.column_stack([data["x"] ** i * data["z"] ** j for i in range(3) for j in range(3 - i)])  # R's, raw
    ours = design("y ~ poly(x, 2) + poly(z, 2) + x:z").X
    residual = theirs - ours @ np.linalg.lstsq(ours, theirs)[0]
    assert ours.shape == theirs.shape
    assert_allclose(residual, 0, atol=1e-10)


@pytest.mark.parametrize("call", ["poly(x, 2)", "poly(x, 2, raw=TRUE)", "poly(x, degree=2)", "ns(x, df=2)"])
def test_columns_of_a_call_are_numbered_from_1(call):
    assert [name[-3:] for name in design(f"y ~ {call}").columns[1:]] == ["[1]", "[2]"]


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize(
    "formula", ["y ~ f", "y ~ 0 + f", "y ~ f:x", "y ~ f*x", "y ~ C(f, contr.sum)", "y ~ factor(f)"]
)
def test_a_factor_with_one_level_is_an_error_as_in_R(formula):
    data = frame().assign(f="only")
    message = r"the factor '.*f.*' has one level, 'only', in the rows without missing values.*: leave it out"
    for read in (
        lambda table: design(formula + " + (1|g)", table),
        lambda table: flmm.Design.from_formula(formula, table, K=pd.DataFrame(np.eye(40))),
    ):
        with pytest.raises(ValueError, match=message):
            read(data)
        gap = data.assign(f=data["f"].where(data.index > 9, "other"), x=data["x"].where(data.index > 9))
        with pytest.raises(ValueError, match=message):
            read(gap if "x" in formula else gap.assign(y=gap["y"].where(gap.index > 9)))


def test_a_factor_with_one_level_where_a_function_is_defined_and_as_a_slope():
    data = frame().assign(f=np.where(np.arange(40) < 20, "p", "q"), z=np.where(np.arange(40) < 20, -1.0, 1.5))
    with pytest.raises(ValueError, match="the factor 'f' has one level, 'q'"):
        design("y ~ f + log(z)", data)
    with pytest.raises(ValueError, match="the factor 'f' has one level, 'p'"):
        design("y ~ 1 + (f|g)", data.assign(f="p"))


def test_a_condition_that_always_holds_has_the_column_of_R():
    made = design("y ~ x + I(x > -1)")
    assert made.columns == ("Intercept", "x", "I(x > -1)[T.True]")
    assert_allclose(made.X[:, 2], 1)
    assert made.coef == ("Intercept", "x")
    assert design("y ~ 0 + l", frame().assign(l=True)).columns == ("l[False]", "l[True]")


@pytest.mark.parametrize(
    ("formula", "name"), [("y ~ rep", "rep"), ("y ~ factor(rep)", "factor(rep)"), ("y ~ x*rep", "rep")]
)
def test_a_new_level_of_a_fixed_factor_is_named_with_those_of_the_fit(formula, name):
    new = frame().iloc[:2].assign(rep=["R9", "R1"])
    with pytest.raises(ValueError, match=r"\w") as refused:
        design(formula).encode(new)
    assert f"{name} has no level 'R9' in the fit, which has R1, R2, R3." in str(refused.value)
    assert "nan" not in str(refused.value)


# ---------------------------------------------------------------- rows alone


@pytest.mark.parametrize(
    "term",
    ["as.numeric(rep)", "as.integer(rep)", "relevel(rep, ref='R3')", "factor(rep, labels=c('A', 'B', 'C'))",
     "scale(as.numeric(rep))", "as.numeric(factor(k))", "as.numeric(ordered(k))", "ordered(rep)"],
)  # fmt: skip
def test_a_level_has_its_number_and_name_in_a_row_alone(term):
    data = frame().astype({"rep": "category"}).assign(k=np.arange(40) % 3 * 2 + 1)
    made = design(f"y ~ x + {term}", data)
    for row in (0, 7, 39):
        for new in (data.iloc[[row]], data.iloc[[row]].astype({"rep": object})):
            assert_allclose(made.encode(new), made.X[[row]], rtol=1e-12)


def test_a_new_level_has_no_number():
    data = frame().astype({"rep": "category"})
    with pytest.raises(ValueError, match="'R9' is none of the levels R1, R2, R3"):
        design("y ~ as.numeric(rep)", data).encode(data.iloc[:1].assign(rep="R9"))


@pytest.mark.parametrize(
    "term", ["x.shift()", "I(x - x.mean())", "np.cumsum(x)", "I(x / x.max())", "x.rank()", "centred(x)"]
)
def test_a_term_whose_rows_depend_on_others_is_refused(term):
    def centred(values):
        return values - np.mean(values)

    data = frame()
    for formula in (f"y ~ z + {term}", f"y ~ z + (0 + {term} | g)"):
        with pytest.raises(
            ValueError, match=r"has another value in a row alone than among all rows.*make a column"
        ) as no:
            flmm.MixedDesign.from_formula(formula, data)
        assert term in str(no.value)
    assert centred(data["x"]).mean() == pytest.approx(0)


def test_a_term_of_days_whose_ends_are_symmetric_is_refused():
    with pytest.raises(ValueError, match=r"I\(Days - Days.mean\(\)\)"):
        design("Reaction ~ I(Days - Days.mean()) + (1|Subject)", flmm.datasets.sleepstudy())
