"""Names that are none of the columns, or nearly one: the error says which was meant."""

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

RNG = np.random.default_rng(1)
TABLE = pd.DataFrame(
    {
        "chick mass": RNG.normal(size=60),
        "habitat": list("abc") * 20,
        "ring no": [f"r{i}" for i in range(20)] * 3,
        "female age": RNG.normal(size=60),
    }
)


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("chick mass ~ habitat + (1 | `ring no`)", "has the column 'chick mass' without quotes: write `chick mass`"),
        ("`chick mass` ~ habitat + (1 | ring no)", "has the column 'ring no' without quotes: write `ring no`"),
        (
            "`chick mass` ~ Habitat + (1 | `ring no`)",
            "does not fit the columns .*: there is no Habitat. Is it habitat\\?",
        ),
        ("`chick mass` ~ female.age + (1 | `ring no`)", "there is no female.age. Is it `female age`\\?"),
        ("chick_mass ~ 1 + (1 | `ring no`)", "there is no chick_mass. Is it `chick mass`\\?"),
        ("`chick mass` ~ log(abs(weight)) + (1 | `ring no`)", "there is no weight.$"),
    ],
)
def test_a_name_that_is_no_column(formula, said):
    with pytest.raises(ValueError, match=said):
        flmm.find_reml(formula, TABLE, progressbar=False)


def test_quoted_names_are_those_of_columns_without_blanks():
    formula = "`chick mass` ~ habitat * I(`female age` ** 2) + np.exp(`female age`) + (`female age` | `ring no`)"
    renamed = TABLE.rename(columns=lambda name: name.replace(" ", "_"))
    plain = formula.replace("`", "")
    for name in TABLE:
        plain = plain.replace(name, name.replace(" ", "_"))
    fits = [flmm.find_reml(f, t, progressbar=False) for f, t in ((formula, TABLE), (plain, renamed))]
    assert fits[0].loglik == fits[1].loglik


def test_a_table_in_the_place_of_the_formula_and_a_covariance_in_that_of_a_mapping():
    with pytest.raises(TypeError, match="first argument is the formula"):
        flmm.find_reml(TABLE, "y ~ habitat")
    K = pd.DataFrame(np.eye(20), TABLE["ring no"][:20], TABLE["ring no"][:20])
    with pytest.raises(TypeError, match=r"known must name the grouping factor .*got a DataFrame"):
        flmm.find_reml("`chick mass` ~ habitat + (1 | `ring no`)", TABLE, known=K)


def test_two_spellings_of_a_level_of_a_fixed_factor_are_refused():
    table = TABLE.assign(y=TABLE["chick mass"], habitat=TABLE["habitat"].where(TABLE.index > 3, TABLE["habitat"] + " "))
    with pytest.raises(ValueError, match="habitat has 'b ' and 'b', which read the same"):
        flmm.find_reml("y ~ habitat + (1 | `ring no`)", table, progressbar=False)


@pytest.mark.filterwarnings("ignore:1 of 60 rows dropped")
def test_numbers_of_groups_stay_whole_where_one_is_missing():
    table = TABLE.assign(y=TABLE["chick mass"], ring=np.repeat(np.arange(1000.0, 1020), 3))
    table.loc[0, "ring"] = np.nan
    fit = flmm.find_reml("y ~ habitat + (1 | ring)", table, progressbar=False)
    assert fit.effects("ring").index.tolist() == list(range(1000, 1020))
    whole = flmm.find_reml("y ~ habitat + (1 | ring)", table.dropna().astype({"ring": int}), progressbar=False)
    np.testing.assert_array_equal(fit.blup("ring"), whole.blup("ring"))
    news = [pd.DataFrame({"habitat": ["a"], "ring": [ring]}) for ring in ("1005", 1005.0)]
    assert fit.predict(data=news[0]).mean[0] == fit.predict(data=news[1]).mean[0]


def test_h2_is_of_one_component():
    table = TABLE.assign(y=TABLE["chick mass"], ring=np.repeat(np.arange(20), 3))
    fit = flmm.find_reml("y ~ habitat + (1 | ring) + (1 | `ring no`)", table, progressbar=False)
    with pytest.raises(ValueError, match=r"h2 is the share of one component, and here are ring, ring no"):
        fit.h2  # noqa: B018
    with pytest.raises(ValueError, match=r"no parameter 'h2'.*Shares have fit.share_intervals"):
        fit.interval("h2")


def test_there_is_no_model():
    with pytest.raises(TypeError, match="no model here: call it within `with model:`, or give model="):
        flmm.sample()


def test_ids_of_rows_that_are_no_individuals():
    K = pd.DataFrame(np.eye(20), TABLE["ring no"][:20], TABLE["ring no"][:20])
    with pytest.raises(ValueError, match="name its column with individual='id'"):
        flmm.Design.from_formula("`chick mass` ~ habitat", TABLE, K=K)


def test_own_contrasts_are_refused_where_a_factor_needs_a_column_for_each_level():
    table = TABLE.assign(y=TABLE["chick mass"])
    own = np.array([[1, 0], [0, 1], [-1, -1.0]])  # noqa: F841
    with pytest.raises(ValueError, match=r"C\(habitat, own\) needs a column for each level .* have one less"):
        flmm.find_reml("y ~ 0 + C(habitat, own) + (1 | `ring no`)", table, progressbar=False)
    fits = [
        flmm.find_reml(f"y ~ {fixed} + (1 | `ring no`)", table, progressbar=False, method="ML").loglik
        for fixed in ("C(habitat, own)", "habitat", "0 + habitat", "0 + C(habitat, contr.sum)")
    ]
    np.testing.assert_allclose(fits, fits[0], rtol=1e-12)
