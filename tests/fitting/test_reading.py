"""What a fit prints: lme4's numbers, every column, the boundary in words, and no work that the fit did not do."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from pm_fastlmm.base.tables import Table

REFERENCE = {
    fit["name"]: fit for fit in json.loads((Path(__file__).parents[1] / "reference" / "lme4_nlme.json").read_text())
}


@pytest.fixture(scope="module")
def slopes():
    return flmm.find_reml("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False)


@pytest.fixture(scope="module")
def none():
    """A fit without a variance between batches."""
    made_up = flmm.datasets.dyestuff().assign(Yield=np.tile([1.0, 2, 3, 4, 5], 6))
    return flmm.find_reml("Yield ~ 1 + (1 | Batch)", made_up, progressbar=False)


def test_standard_deviations_and_correlations_are_those_of_lme4(slopes):
    table, reference = slopes.summary(), REFERENCE["sleepstudy_slope_reml"]
    intercept, slope, correlation, residual = reference["sdcor"]
    sd = table["sd"][["Subject[Intercept]", "Subject[Days]", "residual"]]
    assert_allclose(sd, [intercept, slope, residual], rtol=1e-5)
    assert_allclose(table.loc["Subject[Intercept, Days]", "corr"], correlation, atol=1e-6)
    assert table["corr"].notna().sum() == 1
    assert np.isnan(table.loc["Subject[Intercept, Days]", "sd"])


def test_the_summary_has_the_tests_of_the_coefficients(slopes):
    rows = slopes.summary().loc[["beta[Intercept]", "beta[Days]"], ["estimate", "se", "df", "t", "p_value"]]
    expected = slopes.coefficients()[["estimate", "se", "df", "t", "p_value"]]
    np.testing.assert_array_equal(rows, expected)
    # printed by lmerTest 3.1: 251.405 6.825 17.000 36.838 <2e-16, 10.467 1.546 17.000 6.771 3.26e-06
    assert_allclose(rows["t"], [36.838, 6.771], atol=5e-4)
    assert_allclose(rows["df"], 17.0, atol=5e-4)
    assert_allclose(rows["p_value"].iloc[1], 3.26e-06, rtol=2e-3)


def test_the_text_says_all_that_summary_lmer_says(slopes):
    text = str(slopes)
    for part in (
        "REML fit of Reaction ~ Days + (Days | Subject)", "180 observations, 18 levels of Subject", "24.7405", "0.066",
        "Satterthwaite", "3.26e-06", "log-likelihood -871.8141360, REML criterion 1743.6283", "converged in",
    ):  # fmt: skip
        assert part in text
    for form in (slopes._repr_html_(), slopes.to_markdown()):
        assert all(number in form for number in ("24.7405", "0.066", "3.26e-06", "18 levels of Subject"))
    header = (
        "|  | estimate | se | df | t | p_value |\n| --- | ---: | ---: | ---: | ---: | ---: |\n| Intercept | 251.405 |"
    )
    assert header in slopes.to_markdown()


def test_the_boundary_is_said_in_words(none):
    text = str(none)
    assert re.search(r"Batch +0 +undefined +0\n", text)
    assert "converged, but on the boundary: Batch; standard errors of these are undefined" in text
    assert max(map(len, text.splitlines())) < 130


def test_columns_that_were_dropped_are_named():
    sleep = flmm.datasets.sleepstudy().assign(weeks=lambda d: d["Days"] / 7)
    with pytest.warns(UserWarning, match="dropped"):
        fit = flmm.find_reml("Reaction ~ Days + weeks + (1 | Subject)", sleep, progressbar=False)
    assert "\nwithout weeks, collinear with other columns of X\n" in str(fit)


def test_rows_that_were_dropped_are_counted_by_column_whatever_fitted_them():
    table = flmm.datasets.sleepstudy().assign(sex=lambda d: np.where(d["Subject"].astype(str) < "340", "f", "m"))
    table.loc[[3, 5, 8], "Reaction"] = np.nan
    table.loc[5, "sex"] = None
    lines = "176 observations, 18 levels of Subject", "4 rows dropped (Reaction 3, sex 1, Subject 1)"
    formula = "Reaction ~ Days + sex + (1 | Subject)"
    table["Subject"] = table["Subject"].astype(object)
    table.loc[9, "Subject"] = None
    W = pd.get_dummies(table["Subject"], dtype=float)
    with pytest.warns(UserWarning, match="4 of 180 rows dropped"):
        fit = flmm.find_reml(formula, table, progressbar=False)
    assert "\n".join(lines) in str(fit)
    assert all(line in form for form in (fit._repr_html_(), fit.to_markdown()) for line in lines)
    K = pd.DataFrame(np.eye(18), W.columns, W.columns)
    with pytest.warns(UserWarning, match="4 of 180 rows dropped"):
        design = flmm.Design.from_formula("Reaction ~ Days + sex", table, K=K, individual="Subject")
    assert design.missing == {"Reaction": 3, "sex": 1, "Subject": 1}
    dropped = lines[1]
    assert dropped in str(flmm.reml(design.spectrum(), design.y))
    with pytest.warns(UserWarning, match="4 of 180 rows dropped"):
        model = flmm.kernel_model("Reaction ~ Days + sex", data=table, K=K, individual="Subject")
    assert dropped in str(flmm.find_reml(model, progressbar=False))
    assert "dropped" not in str(flmm.find_reml(formula, table.dropna(), progressbar=False))


def test_reference_levels_and_other_codings_are_printed():
    oats = flmm.datasets.john_alpha().assign(dose=lambda d: d.index % 3)
    fit = flmm.find_reml("yield ~ rep + C(dose, contr.sum) + (1 | gen)", oats, progressbar=False)
    for form in (str(fit), fit.to_markdown(), fit._repr_html_()):
        assert "reference levels: rep = R1" in form
        assert "coding of C(dose, contr.sum): sum, differences from the mean of the levels, those of 2 being" in form
    assert "levels:" not in str(flmm.find_reml("yield ~ 0 + rep + (1 | gen)", oats, progressbar=False))


@pytest.mark.parametrize(
    "term", ["f", "f*h", "relevel(f, ref='b')", "C(f, contr.treatment('c'))", "C(f, contr.SAS)", "factor(k)", "k > 1"]
)
def test_the_reference_level_is_the_one_without_a_column(term):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"y": rng.normal(size=60), "f": rng.choice(list("abc"), 60), "h": rng.choice(list("uv"), 60)})
    table["k"] = rng.integers(1, 4, 60)
    term = f"I({term})" if ">" in term else term
    design = flmm.MixedDesign.from_formula(f"y ~ {term} + (1 | h)", table)
    (line,) = design.fixed.codings()
    for pair in line.removeprefix("reference levels: ").split(", " if term == "f*h" else "\n"):
        name, level = pair.rsplit(" = ", 1)
        own = [j for j, column in enumerate(design.columns) if column.startswith(f"{name}[")]
        values = {"k > 1": table["k"] > 1}.get(term[2:-1], table["h" if name == "h" else "k" if "k" in name else "f"])
        assert own
        assert not design.X[np.ix_(values.astype(str) == level, own)].any()
        assert (design.X[np.ix_(values.astype(str) != level, own)].sum(axis=1) >= 1).all()


def test_a_dear_likelihood_is_not_evaluated_for_a_text(slopes, monkeypatch):
    kind = type(slopes.objective)
    again = replace(slopes)  # without what was kept
    monkeypatch.setattr(kind, "work", 1e9)
    monkeypatch.setattr(kind, "state", lambda self, theta: pytest.fail("an evaluation"))
    text = str(again)
    assert "evaluations take long here" in text
    assert "p_value" not in text
    expected = slopes.standard_errors("average")
    assert f"{expected['residual']:.6g}" in text


def test_all_columns_are_shown_and_long_tables_are_cut(slopes):
    with pd.option_context("display.width", 40, "display.max_columns", 3):
        assert "upper" in repr(slopes.coefficients())
    long = Table({"estimate": np.arange(1000.0)}, pd.MultiIndex.from_product([range(500), list("ab")]))
    assert len(repr(long).splitlines()) < 20
    assert repr(long).endswith("[1000 rows]")
    assert "999" in repr(long)
    assert type(long.head()) is Table


def test_a_table_keeps_its_numbers_and_escapes_markdown():
    table = Table({"p_value": [1 / 3, np.nan], "n": [3, 4], "what": ["a|b", "c"]}, ["x", "y"])
    assert table["p_value"].iloc[0] == 1 / 3
    assert table.to_markdown().splitlines()[2] == "| x | 0.333 | 3 | a\\|b |"
    assert "undefined" in repr(table)
    table.attrs["blank"] = ("p_value",)
    assert "undefined" not in repr(table)


def test_predictions_are_read_as_a_table(slopes):
    prediction = slopes.predict(data=pd.DataFrame({"Days": [0, 10], "Subject": ["308", "new"]}, index=["a", "b"]))
    table = prediction.to_frame(0.9)
    low, high = prediction.interval(0.9)
    for name, values in {"mean": prediction.mean, "se": prediction.se, "lower": low, "upper": high}.items():
        np.testing.assert_array_equal(table[name], values)
    assert table.index.tolist() == ["a", "b"]
    assert repr(prediction) == repr(prediction.to_frame())
    assert "se_observation" in prediction._repr_html_()


def test_predictions_of_several_responses_are_no_table():
    y = pd.DataFrame(np.random.default_rng(1).normal(size=(12, 2)))
    spectrum = flmm.Spectrum.from_factor(np.repeat(np.eye(4), 3, axis=0), np.ones((12, 1)))
    prediction = flmm.reml(spectrum, y).predict(np.ones((2, 1)), W_new=np.eye(4)[:2])
    with pytest.raises(ValueError, match="a table has one response"):
        prediction.to_frame()
    assert repr(prediction).startswith("Prediction(2 rows")
    assert "quantities" in prediction._repr_html_()
