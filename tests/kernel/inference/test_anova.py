"""Analysis of variance and tests of whole terms: lmerTest's tables, classical sums of squares, any coding."""

import re

import numpy as np
import pandas as pd
import pytest
from lmertest import CASES, OWN, fit_of, rows_of
from numpy.testing import assert_allclose

import pm_fastlmm as flmm

COLUMNS = ["sum_sq", "mean_sq", "df_num", "df_den", "F", "p_value"]
TYPES = {"I": 1, "II": 2, "III": 3}


@pytest.mark.filterwarnings("ignore:X has rank")
@pytest.mark.parametrize("contrasts", [None, "contr.sum", "contr.helmert", OWN])
@pytest.mark.parametrize("name", list(CASES))
def test_tables_are_those_of_lmertest_whatever_the_contrasts(name, contrasts):
    """lmerTest 3.1-3 does not see that A:B contains A in A + A:B, and compares A at the first level of B."""
    if contrasts == OWN and name in ("nested", "no_intercept"):  # where formulaic codes the levels by two columns, too
        contrasts = "contr.SAS"
    fit, case = fit_of(name, contrasts), CASES[name]
    known = {type: table for type, table in case["anova"].items() if name != "nested" or type == "I"}
    for type, table in known.items():
        found, wanted = fit.anova(TYPES[type]), pd.DataFrame(table)
        assert [re.sub(r"C\(A, .*?\)", "A", term) for term in found.index] == list(wanted["term"])
        assert_allclose(found[COLUMNS], wanted[COLUMNS], rtol=2e-5, atol=1e-7)
    if name != "nested":
        found, wanted = fit.anova(df="kenward-roger"), pd.DataFrame(case["kenward_roger"])
        assert_allclose(found[COLUMNS], wanted[COLUMNS], rtol=2e-5, atol=1e-7)


def test_a_factor_within_which_another_is_nested_is_compared_with_equal_weights():
    """A + A:B has cell means; type III of A compares their averages over B, and that of A:B all of B within A."""
    fit = fit_of("nested")
    assert fit.coef == ("Intercept", "A[T.b]", "A[T.c]", "A[a]:B[T.q]", "A[b]:B[T.q]", "A[c]:B[T.q]")
    average = np.array([[0, 1, 0, -0.5, 0.5, 0], [0, 0, 1, -0.5, 0, 0.5]])
    table = fit.anova()
    for term, L in (("A", average), ("A:B", np.eye(6)[3:])):
        by_hand = fit.test_fixed(L)
        assert_allclose(table.loc[term, ["F", "df_den"]], [by_hand.statistic, by_hand.df_den], rtol=1e-8)
    assert_allclose(fit.anova(2).loc["A", "F"], fit.anova(1).loc["A", "F"], rtol=1e-8)


def balanced():
    rng = np.random.default_rng(2)
    block, A, B = (part.ravel() for part in np.meshgrid(range(6), list("abc"), list("pq"), indexing="ij"))
    y = rng.normal(size=6)[block] * 2 + rng.normal(size=36) + (A == "b") + (A == "c") * (B == "q")
    return pd.DataFrame({"y": y, "A": A, "B": B, "block": block})


@pytest.mark.parametrize("type", [1, 2, 3])
def test_balanced_sums_of_squares_are_those_of_means(type):
    data = balanced()
    fit = flmm.find_reml("y ~ A*B + (1 | block)", data, progressbar=False)
    y = data["y"].to_numpy().reshape(6, 3, 2)
    grand, a, b = y.mean(), y.mean(axis=(0, 2)), y.mean(axis=(0, 1))
    cells, blocks = y.mean(axis=0), y.mean(axis=(1, 2))
    additive = a[:, None] + b - grand
    squares = [12 * ((a - grand) ** 2).sum(), 18 * ((b - grand) ** 2).sum(), 6 * ((cells - additive) ** 2).sum()]
    residual = y - cells - (blocks - grand)[:, None, None]
    table = fit.anova(type)
    assert_allclose(table["sum_sq"], squares, rtol=1e-6)
    assert_allclose(table["F"], np.array(squares) / [2, 1, 2] / ((residual**2).sum() / 25), rtol=1e-6)
    assert list(table["df_num"]) == [2, 1, 2]
    assert_allclose(table["df_den"], 25, rtol=1e-6)


def test_sleepstudy_is_printed_as_by_lmertest():
    """Days  30031   30031     1    17  45.853 3.264e-06."""
    fit = flmm.find_reml("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False)
    first, _, _, row = repr(fit.anova()).splitlines()
    assert first == "Type III analysis of variance, Satterthwaite's degrees of freedom"
    assert row.split() == ["Days", "30031", "30031", "1", "17", "45.85", "3.26e-06"]


def kernel_design(data, formula="y ~ A*B + x"):
    return flmm.Design.from_formula(formula, data, W=pd.get_dummies(data["g"], dtype=float))


def test_one_kernel_has_the_table_of_its_term():
    data, wanted = rows_of("crossed"), pd.DataFrame(CASES["crossed"]["anova"]["III"])
    design = kernel_design(data)
    fit = flmm.reml(design.spectrum(), design.y)
    assert_allclose(fit.anova()[COLUMNS], wanted[COLUMNS], rtol=2e-5, atol=1e-7)
    of_model = flmm.find_reml(
        flmm.kernel_model("y ~ A*B + x", data=data, W=pd.get_dummies(data["g"], dtype=float)), progressbar=False
    )
    assert_allclose(of_model.anova()[COLUMNS], wanted[COLUMNS], rtol=2e-5, atol=1e-7)


def test_several_responses_have_a_table_each():
    data = rows_of("crossed").assign(other=lambda d: d["y"].to_numpy()[::-1])
    design = kernel_design(data, "y + other ~ A*B + x")
    fits = flmm.reml(design.spectrum(), pd.DataFrame(design.y, columns=list(design.responses)))
    table = fits.anova()
    for response in design.responses:
        alone = fits.response(response).anova()
        assert_allclose(table.loc[response], alone, rtol=1e-10)
    assert_allclose(table.xs("A:B", level="term")["F"], fits.test_fixed("A:B").statistic, rtol=1e-10)


def test_rows_of_a_spectrum_are_tested_by_their_own_cells():
    """A subset of the rows has the type III hypotheses of its own rows, though the table has more."""
    data = rows_of("crossed")
    kept = np.flatnonzero((data["A"] != "c") | (data["B"] != "q"))
    with pytest.warns(UserWarning, match="dropped"):
        spectrum = kernel_design(data).spectrum().subset(kept)
    table = flmm.reml(spectrum, data["y"].to_numpy()[kept]).anova()
    wanted = pd.DataFrame(CASES["empty_cell"]["anova"]["III"])
    assert_allclose(table[COLUMNS], wanted[COLUMNS], rtol=2e-5, atol=1e-7)
    assert "A[c]:B[q]" in repr(table)


@pytest.mark.filterwarnings("ignore:X has rank")
def test_cells_without_data_are_named_below_the_table():
    table = fit_of("empty_cell").anova()
    line = "cells without data, on which type III hypotheses depend: A[c]:B[q]"
    assert repr(table).splitlines()[-1] == line
    assert table.to_markdown().splitlines()[-1] == line
    assert f"<div>{line}</div>" in table._repr_html_()


@pytest.mark.filterwarnings("ignore:X has rank")
def test_a_term_that_others_make_has_no_test():
    data = rows_of("crossed").assign(site=lambda d: d["A"].map({"a": "north", "b": "south", "c": "south"}))
    table = (fit := flmm.find_reml("y ~ A + site + (1 | g)", data, progressbar=False)).anova(1)
    assert table.loc["site", "df_num"] == 0
    assert table.loc["site"].drop("df_num").isna().all()
    assert "not determined, other terms do the same in all rows: site" in repr(table)
    with pytest.raises(ValueError, match="do not determine 'site'"):
        fit.test_fixed("site")


def test_terms_are_tested_by_name():
    fit = fit_of("crossed", "contr.sum")
    table = fit.anova()
    for name, row in (("A", 0), ("C(A,contr.sum)", 0), ("x", 2), ("B:A", 3), (" A : B ", 3)):
        test = fit.test_fixed(name)
        assert_allclose([test.statistic, test.df_den, test.p_value], table.iloc[row][["F", "df_den", "p_value"]])
    both = fit.test_fixed(["A", "A:B"])
    assert both.df_num == 4
    assert_allclose(both.statistic, fit.test_fixed(np.eye(7)[[1, 2, 5, 6]]).statistic, rtol=1e-9)
    assert_allclose(fit.test_fixed({"x": 1}).estimate, fit.beta["x"])


def test_a_factor_may_be_called_by_its_column_and_a_call_as_it_was_written():
    data = rows_of("crossed").assign(year=lambda d: 2000 + d["B"].map({"p": 1, "q": 3}))
    fit = flmm.find_reml("y ~ A*factor(year) + x + I(x^2) + (1 | g)", data, progressbar=False)
    for name, term in (("year:A", "A:factor(year)"), ("I(x^2)", "I(x**2)"), ("x", "x")):
        assert fit.test_fixed(name).statistic == fit.test_fixed(term).statistic
    assert_allclose(fit.test_fixed("x").estimate, fit.beta["x"], rtol=1e-9)


def test_a_slope_of_its_own_for_each_level_is_tested_on_average():
    """The name of a term and of a coefficient is the term: under treatment contrasts the coefficient is one slope."""
    fit = fit_of("slopes")
    mean = {"x": 1, "A[T.b]:x": 1 / 3, "A[T.c]:x": 1 / 3}
    assert_allclose(fit.test_fixed("x").statistic, fit.test_fixed(mean).statistic, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_and_origin_of_a_covariate_do_not_matter(unit):
    data = rows_of("slopes")
    far = data.assign(x=(data["x"] + 2000) * unit)
    formula = CASES["crossed"]["formula"]
    tables = [flmm.find_reml(formula, rows, progressbar=False).anova() for rows in (data, far)]
    assert_allclose(*tables, rtol=1e-5)


def test_what_cannot_be_tested_is_told():
    data = rows_of("crossed")
    bare = flmm.reml(flmm.Spectrum.from_factor(pd.get_dummies(data["g"], dtype=float), np.ones((90, 1))), data["y"])
    with pytest.raises(ValueError, match=r"X without a formula.*find_reml"):
        bare.anova()
    fit = fit_of("crossed")
    with pytest.raises(ValueError, match="'C', which is no term or coefficient: the terms are A, B, x, A:B"):
        fit.test_fixed("C")
    with pytest.raises(ValueError, match="type must be 1, 2 or 3, got 'III'"):
        fit.anova("III")
    with pytest.raises(ValueError, match="no term but the intercept"):
        flmm.find_reml("y ~ 1 + (1 | g)", data, progressbar=False).anova()
    few = flmm.find_reml("y ~ C(A, {'b - a': [-1, 1, 0]}) + (1 | g)", data, progressbar=False)
    with pytest.raises(ValueError, match="fewer than the differences"):
        few.anova()
