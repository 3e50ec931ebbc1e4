"""What a formula with a family reads as its response, and what it says of others."""

import logging

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.models.mixed_design import MixedDesign

HERDS = np.repeat(list("abcdef"), 5)


@pytest.fixture
def table():
    rng = np.random.default_rng(4)
    n = len(HERDS)
    x = rng.normal(size=n)
    return pd.DataFrame(
        {
            "herd": HERDS, "x": x, "f": np.tile(list("uvw"), 10), "born": rng.integers(3, 9, n),
            "ill": rng.integers(0, 4, n), "sick": (x > 0).astype(int), "weight": rng.gamma(3.0, size=n),
            "grade": pd.Categorical(rng.choice(["low", "mid", "high"], n), ["low", "mid", "high"], ordered=True),
            "days": rng.uniform(1, 5, n),
        },
        index=[f"r{i}" for i in range(n)],
    )  # fmt: skip


def design(formula, table, **given):
    return MixedDesign.from_formula(formula, table, **given)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="pm_fastlmm")
    return caplog


@pytest.mark.parametrize("success", ["yes", "no"])
def test_the_second_of_two_categories_is_the_success(table, said, success):
    order = ["no", "yes"] if success == "yes" else ["yes", "no"]
    table["born_well"] = pd.Categorical(np.where(table.sick == 1, "yes", "no"), order)
    made = design("born_well ~ x + (1 | herd)", table, family="bernoulli")
    np.testing.assert_array_equal(made.y, table.sick if success == "yes" else 1 - table.sick)
    assert made.of_family.labels == tuple(order)
    assert f"born_well: {order[1]!r} is the success (1), {order[0]!r} the failure (0)" in said.messages


def test_texts_are_sorted_and_said_to_be(table, said):
    table["state"] = np.where(table.sick == 1, "ill", "well")
    made = design("state ~ 1 + (1 | herd)", table, family="bernoulli")
    np.testing.assert_array_equal(made.y, 1 - table.sick)
    assert "state: 'well' is the success (1), 'ill' the failure (0)" in said.messages


@pytest.mark.parametrize("dtype", [bool, "boolean", int, "Int64", float])
def test_outcomes_of_any_type_are_0_and_1_without_a_word(table, said, dtype):
    made = design("sick ~ 1 + (1 | herd)", table.astype({"sick": dtype}), family="bernoulli")
    np.testing.assert_array_equal(made.y, table.sick)
    assert made.of_family.labels is None
    assert not said.messages


@pytest.mark.filterwarnings("ignore:.*rows dropped")
@pytest.mark.parametrize("dtype", ["boolean", "Int64", "category", object])
def test_missing_outcomes_are_dropped(table, dtype):
    gaps = table.assign(sick=table.sick.astype(bool if dtype in ("boolean", object) else int).astype(dtype))
    gaps.loc[["r3", "r8"], "sick"] = None
    made = design("sick ~ 1 + (1 | herd)", gaps, family="bernoulli")
    np.testing.assert_array_equal(made.y, table.sick.drop(["r3", "r8"]))
    assert made.dropped == ("r3", "r8")


def test_rows_without_trials_are_dropped_and_counted(table):
    table["born"] = table.born.astype(float)
    table.loc["r2", "born"] = np.nan
    with pytest.warns(UserWarning, match=r"1 of 30 rows dropped, with missing values \(born 1\): 'r2'"):
        made = design("ill ~ x + (1 | herd)", table, family="binomial", trials="born")
    np.testing.assert_array_equal(made.of_family.family.trials, table.born.drop("r2"))
    assert made.described == "ill ~ x + (1 | herd), trials = born"


def test_trials_are_a_column_an_array_or_a_number(table):
    same = [design("ill ~ 1 + (1 | herd)", table, family="binomial", trials=t).of_family.family.trials
            for t in ("born", table.born, table.born.to_numpy(), table.born[::-1])]  # fmt: skip
    for trials in same:
        np.testing.assert_array_equal(trials, table.born)
    made = design("ill ~ 1 + (1 | herd)", table, family="binomial", trials=7)
    np.testing.assert_array_equal(made.of_family.family.trials, np.full(30, 7))
    assert made.described.endswith("trials = 7")


def test_new_rows_have_the_trials_of_their_column_or_the_number_or_one(table):
    def of(trials):
        return design("ill ~ 1 + (1 | herd)", table, family="binomial", trials=trials)

    new = pd.DataFrame({"herd": ["a", "b"], "born": [3, 12]})
    np.testing.assert_array_equal(of("born").trials_of(new), [3, 12])
    assert of("born").trials_of(new[["herd"]]) is None
    np.testing.assert_array_equal(of(7).trials_of(new), [7, 7])
    assert of(table.born.to_numpy()).trials_of(new) is None
    assert design("ill ~ 1 + (1 | herd)", table, family="poisson").trials_of(new) is None
    for wrong in (0.0, 2.5, np.nan):
        with pytest.raises(ValueError, match=r"trials='born' must be positive integers, but in rows 'q' of the new"):
            of("born").trials_of(pd.DataFrame({"herd": ["a", "b"], "born": [3, wrong]}, index=["p", "q"]))


def test_ordered_categories_are_coded_in_their_order(table):
    made = design("grade ~ f + (1 | herd)", table, family="ordinal")
    np.testing.assert_array_equal(made.y, table.grade.cat.codes)
    assert made.of_family.labels == ("low", "mid", "high")
    assert made.of_family.family.categories == 3


def test_cutpoints_stand_in_the_place_of_the_intercept_and_factors_keep_their_contrasts(table):
    made = design("grade ~ f * x + (1 | herd)", table, family="ordinal")
    usual = design("weight ~ f * x + (1 | herd)", table)
    assert made.columns == usual.columns[1:]
    np.testing.assert_array_equal(made.X, usual.X[:, 1:])
    np.testing.assert_array_equal(made.encode(table.head(4)), usual.encode(table.head(4)).iloc[:, 1:])
    assert made.fixed.codings() == usual.fixed.codings() == ["reference levels: f = u"]
    cells = made.cells(table)(np.arange(30) == 1, [0])
    assert cells == "f = v"


@pytest.mark.parametrize("shift", [0, 3])
def test_integers_are_categories_that_occur(table, said, shift):
    table["score"] = np.tile([0, 1, 3], 10) + shift
    made = design("score ~ 1 + (1 | herd)", table, family="ordinal")
    np.testing.assert_array_equal(made.y, np.tile([0, 1, 2], 10))
    assert made.of_family.labels == (shift, 1 + shift, 3 + shift)
    text = f"score: {2 + shift} never occurs, and {shift}, {1 + shift}, {3 + shift} are the categories"
    assert text in said.messages


def test_a_category_that_never_occurs_is_left_out_and_said_to_be(table, said):
    table["grade"] = table.grade.cat.add_categories("top")
    made = design("grade ~ 1 + (1 | herd)", table, family="ordinal")
    assert made.of_family.labels == ("low", "mid", "high")
    assert "grade: 'top' never occurs, and 'low', 'mid', 'high' are the categories" in said.messages


def test_categories_are_those_of_the_rows_that_are_left(table):
    table.loc[table.grade == "high", "x"] = np.nan
    with pytest.warns(UserWarning, match="rows dropped"):
        made = design("grade ~ x + (1 | herd)", table, family="ordinal")
    assert made.of_family.labels == ("low", "mid")


def test_a_response_may_be_a_condition(table):
    made = design("I(ill > 1) ~ x + (1 | herd)", table, family="bernoulli")
    np.testing.assert_array_equal(made.y, table.ill > 1)


def test_a_normal_family_is_none(table):
    assert design("weight ~ x + (1 | herd)", table, family="gaussian").of_family is None


REFUSED = {
    "no such family": ("ill", {"family": "poison"}, r"family must be one of .*Did you mean 'poisson'"),
    "broken counts": ("days", {"family": "poisson"}, r"response 'days': y must be counts.* in row 'r0': rates are"),
    "negative counts": ("minus", {"family": "poisson"}, r"'minus': y must be counts.*the first -1 in row 'r1'"),
    "outside 0 and 1": ("ill", {"family": "bernoulli"}, r"'ill': y must be 0 or 1.*counts of successes are"),
    "one category": ("one", {"family": "bernoulli"}, r"'one' has 1 category, 'a', and a bernoulli response two"),
    "three categories": ("f", {"family": "bernoulli"}, r"'f' has 3 categories.*I\(f == 'a'\).*family='ordinal'"),
    "zeros": ("zeros", {"family": "gamma"}, r"'zeros': y must be positive numbers.*the first 0 in row 'r0'"),
    "no trials": ("ill", {"family": "binomial"}, r"family 'binomial' needs trials="),
    "no such column": ("ill", {"family": "binomial", "trials": "n"}, r"trials='n' is not among the columns herd"),
    "too few trials": ("ill", {"family": "binomial", "trials": 2}, r"successes, integers from 0 to the trials.*'r\d+'"),
    "broken trials": ("ill", {"family": "binomial", "trials": "days"}, r"trials must be positive integers.*row 'r0'"),
    "no trial": ("ill", {"family": "binomial", "trials": "ill"}, r"trials must be positive integers.*the first 0"),
    "trials of counts": ("ill", {"family": "poisson", "trials": 9}, r"trials= is of family 'binomial', this one"),
    "trials without family": ("ill", {"trials": 9}, r"'trials' is of a response that is not normal: give family="),
    "link without family": ("ill", {"link": "log"}, r"'link' is of a response that is not normal"),
    "another link": ("ill", {"family": "poisson", "link": "logit"}, r"link of family 'poisson' must be 'log'"),
    "text": ("f", {"family": "ordinal"}, r"'f' is text, whose order is not known \('u', 'v', 'w'\): .*ordered=True"),
    "no order": ("unordered", {"family": "ordinal"}, r"categorical without an order \('u', 'v', 'w'\).*as_ordered"),
    "measurements": ("days", {"family": "ordinal"}, r"'days' has values that are no integers.*classed by pd.cut"),
    "one class": ("same", {"family": "ordinal"}, r"'same' has one category, 2, in the rows without missing values"),
    "too many": ("many", {"family": "ordinal"}, r"'many' has 60 different values, and as many cutpoints less one"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_response_that_the_family_has_not_is_refused(table, case):
    response, given, message = REFUSED[case]
    if case == "too many":
        table = pd.concat([table, table], ignore_index=True)
    table = table.assign(
        minus=np.tile([1, -1], len(table) // 2), zeros=np.tile([0.0, 1.0], len(table) // 2), one="a", same=2,
        unordered=pd.Categorical(table.f), many=np.arange(len(table)),
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        design(f"{response} ~ x + (1 | herd)", table, **given)


FORMULAS = {
    "no intercept": ("grade ~ 0 + f + (1 | herd)", {"family": "ordinal"}, r"no intercept, which the cutpoints of an"),
    "a constant": ("grade ~ x + I(1 - x) + (1 | herd)", {"family": "ordinal"}, r"'x', 'I\(1 - x\)' add up to a con"),
    "cbind": ("cbind(ill, born) ~ x + (1 | herd)", {"family": "binomial", "trials": 9}, r"2 responses.*trials='n'"),
    "brms' trials": ("ill | trials(born) ~ x + (1 | herd)", {"family": "binomial"}, r"beside the formula, trials='n'"),
    "exposure": ("ill ~ offset(300 * days) + (1 | herd)", {"family": "poisson"}, r"exp\(offset \+ …\) overflows"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMULAS)
def test_a_formula_that_the_family_has_not_is_refused(table, case):
    formula, given, message = FORMULAS[case]
    with pytest.raises(ValueError, match=message):
        design(formula, table, **given)


def test_a_large_offset_of_probabilities_is_no_overflow(table):
    assert design("sick ~ offset(300 * days) + (1 | herd)", table, family="bernoulli").offset.max() > 700


MODELS = {
    "weights": ({"weights": "born"}, r"weights= are of the residuals of a normal response, this one is 'poisson'"),
    "residual": ({"residual": "f"}, r"residual= is of a normal response.*\(1 \| row\).*negative_binomial"),
    "shares": ({"priors": flmm.priors.SharePrior()}, r"a SharePrior is of the shares .* family 'poisson'"),
    "effects": ({"effects": "drawn"}, r"effects must be 'integrated' or 'sampled', got 'drawn'"),
    "prior of nothing": ({"priors": {"alpha": 1}}, r"priors names 'alpha', but there are sigma_herd, beta"),
}


@pytest.mark.parametrize("case", MODELS)
def test_what_normal_models_have_alone_is_refused(table, case):
    given, message = MODELS[case]
    with pytest.raises(ValueError, match=message):
        flmm.lmm_model("ill ~ x + (1 | herd)", table, family="poisson", **given)


def test_sampled_effects_are_of_a_family(table):
    with pytest.raises(ValueError, match=r"effects= is of a response that is not normal: give family= too"):
        flmm.lmm_model("weight ~ x + (1 | herd)", table, effects="sampled")


def test_a_family_beside_a_design_is_refused(table):
    made = design("ill ~ x + (1 | herd)", table, family="poisson")
    with pytest.raises(ValueError, match="'family' is given together with a MixedDesign"):
        flmm.lmm_model(made, family="poisson")
    assert [v.name for v in flmm.lmm_model(made).free_RVs] == ["sigma_herd"]


@pytest.mark.parametrize(("family", "response"), [("bernoulli", "sick"), ("ordinal", "grade")])
def test_an_effect_of_each_outcome_is_refused(table, family, response):
    table["row"] = np.arange(30)
    with pytest.raises(ValueError, match=rf"each level of 'row' has one record, and one {family} outcome"):
        flmm.lmm_model(f"{response} ~ x + (1 | row)", table, family=family)


def test_an_effect_of_each_count_is_more_variance(table):
    table["row"] = np.arange(30)
    assert [v.name for v in flmm.lmm_model("ill ~ x + (1 | row)", table, family="poisson").free_RVs] == ["sigma_row"]


@pytest.mark.parametrize("name", ["alpha", "beta", "cutpoints", "obs"])
def test_a_group_cannot_be_called_like_a_variable(table, name):
    table[name] = table.herd
    with pytest.raises(ValueError, match=rf"a grouping factor is called '{name}'.*rename its column"):
        flmm.lmm_model(f"ill ~ x + (1 | {name})", table, family="negative_binomial")
