"""Design: alignment by ids, formulas, and rows dropped for missing values, counted."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pm_fastlmm import Design, Spectrum, reml

IDS = [f"p{k}" for k in range(10)]


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    W = rng.normal(size=(10, 14))
    table = pd.DataFrame(
        {
            "height": rng.normal(size=10),
            "age": rng.normal(size=10),
            "sex": list("fmfmmfmfff"),
            "weight": rng.normal(size=10),
        },
        index=IDS,
    )
    return pd.DataFrame(W @ W.T, index=IDS, columns=IDS), pd.DataFrame(W, index=IDS), table


def plain_X(table):
    return np.column_stack([np.ones(len(table)), table["sex"] == "m", table["age"]]).astype(float)


def test_a_formula_makes_y_and_X_and_the_order_is_that_of_K(data):
    K, _, table = data
    design = Design.from_formula("height ~ sex + age", table.iloc[::-1], K=K)
    assert design.coef == ("Intercept", "sex[T.m]", "age")
    assert design.ids.tolist() == list(IDS)
    assert design.dropped == ()
    assert_allclose(design.y, table["height"])
    assert_allclose(design.X, plain_X(table))
    assert repr(design) == "Design(10 observations, fixed effects: Intercept, sex[T.m], age; 0 rows dropped)"
    fit = reml(design.spectrum(), design.y)
    expected = reml(Spectrum.from_covariance(K.to_numpy(), plain_X(table)), table["height"].to_numpy())
    assert_allclose([fit.loglik, *fit.beta], [expected.loglik, *expected.beta], rtol=1e-8)
    assert fit.coef == design.coef


def test_a_factor_may_take_the_place_of_K(data):
    K, W, table = data
    by_W = Design.from_formula("height ~ sex + age", table, W=W)
    by_K = Design.from_formula("height ~ sex + age", table, K=K)
    assert by_W.kernel_is_factor
    assert not by_K.kernel_is_factor
    assert_allclose(reml(by_W.spectrum(), by_W.y).loglik, reml(by_K.spectrum(), by_K.y).loglik, rtol=1e-8)
    assert by_W.spectrum().loadings is not None


def test_several_responses_may_stand_on_the_left(data):
    K, _, table = data
    design = Design.from_formula("height + weight ~ age", table, K=K)
    assert_allclose(design.y, table[["height", "weight"]])


@pytest.mark.parametrize("kernel", ["K", "W"])
def test_rows_with_a_missing_response_or_covariate_are_dropped_counted_and_named(data, kernel):
    K, W, table = data
    table.loc["p2", "height"] = np.nan
    table.loc["p5", "sex"] = None
    table.loc["p7", "age"] = np.nan
    with pytest.warns(UserWarning, match=r"3 of 10 rows .* \(height 1, age 1, sex 1\): 'p2', 'p5', 'p7'"):
        design = Design.from_formula("height ~ sex + age", table.iloc[::-1], **{kernel: {"K": K, "W": W}[kernel]})
    keep = [k for k in IDS if k not in ("p2", "p5", "p7")]
    assert design.dropped == ("p2", "p5", "p7")
    assert design.ids.tolist() == list(keep)
    fit = reml(design.spectrum(), design.y)
    expected = reml(
        Spectrum.from_covariance(K.loc[keep, keep].to_numpy(), plain_X(table.loc[keep])),
        table.loc[keep, "height"].to_numpy(),
    )
    assert_allclose([fit.loglik, *fit.beta], [expected.loglik, *expected.beta], rtol=1e-7)


def test_without_ids_dropped_rows_are_numbered():
    with pytest.warns(UserWarning, match="1 of 4 rows dropped, with missing values [(]y 1[)]: 2"):
        design = Design.from_arrays([1.0, 2.0, np.nan, 0.5], np.ones(4), K=np.diag([1.0, 2, 3, 4]))
    assert design.dropped == (2,)
    assert design.ids is None
    assert_array_equal(design.kernel, np.diag([1.0, 2, 4]))
    assert_array_equal(design.y, [1.0, 2.0, 0.5])


def test_a_row_is_dropped_when_any_response_is_missing():
    Y = np.arange(8.0).reshape(4, 2)
    Y[1, 1] = np.nan
    with pytest.warns(UserWarning, match=r"1 of 4 rows dropped, with missing values \(y1 1\): 1"):
        design = Design.from_arrays(Y, K=np.diag([1.0, 2, 3, 4]))
    assert_array_equal(design.y, Y[[0, 2, 3]])


def test_arrays_are_aligned_by_their_ids(data):
    K, _, table = data
    X = table[["age", "weight"]]
    design = Design.from_arrays(table["height"].iloc[::-1], X.sample(frac=1, random_state=0), K=K)
    assert design.coef == ("age", "weight")
    assert_allclose(design.X, X)
    assert_allclose(design.y, table["height"])


def test_without_a_design_there_are_no_fixed_effects(data):
    K, _, table = data
    design = Design.from_arrays(table["height"], K=K)
    assert design.X.shape == (10, 0)
    assert repr(design) == "Design(10 observations, fixed effects: none; 0 rows dropped)"
    assert design.spectrum().coef == ()


def test_columns_without_names_are_numbered(data):
    K, _, table = data
    assert Design.from_arrays(table["height"], np.ones((10, 2)), K=K.to_numpy()).columns == ("x0", "x1")


def test_the_ids_of_y_serve_when_K_has_none(data):
    K, _, table = data
    design = Design.from_arrays(table["height"], table[["age"]], K=K.to_numpy())
    assert design.ids.tolist() == list(IDS)
    with pytest.raises(ValueError, match="K has no ids, and y and X have different ones or another order"):
        Design.from_arrays(table["height"], table[["age"]].iloc[::-1], K=K.to_numpy())


def test_parts_are_copies_that_cannot_be_written(data):
    K, _, table = data
    y, X = table["height"].to_numpy().copy(), np.ones((10, 1))
    design = Design.from_arrays(y, X, K=K.to_numpy())
    y[0], X[0] = 99, 99
    assert design.y[0] != 99
    assert design.X[0] == 1
    for array in (design.y, design.X):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def arrays(**changes):
    parts = {"y": np.arange(4.0), "X": np.ones((4, 1)), "K": np.diag([1.0, 2, 3, 4])} | changes
    return Design.from_arrays(parts.pop("y"), parts.pop("X"), **parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K": None}, "give exactly one of K .* and W"),
        ({"W": np.ones((4, 1))}, "give exactly one of K .* and W"),
        ({"y": np.arange(3.0)}, "y has 3 rows but K has 4"),
        ({"X": np.ones((5, 1))}, "X has 5 rows but K has 4"),
        ({"K": None, "W": np.ones((3, 2))}, "y has 4 rows but W has 3"),
        (
            {"K": None, "W": np.full((4, 2), np.nan)},
            r"W has 8 values that are NaN or infinite, the first at \(0, 0\): impute",
        ),
        ({"K": np.full((4, 4), np.nan)}, "K has 16 values that are NaN or infinite"),
        ({"K": np.triu(np.ones((4, 4)))}, "K must be symmetric"),
        ({"y": [1.0, np.inf, 2, 3]}, "y and X have 1 infinite values: mend them, or set them to NaN"),
        ({"X": [1.0, -np.inf, np.inf, 3]}, "y and X have 2 infinite values"),
        ({"y": np.full(4, np.nan)}, "every row has a missing value [(]y 4[)]: nothing is left to fit"),
        ({"y": np.ones((4, 1, 1))}, "y must be 1-dimensional or 2-dimensional"),
    ],
)
def test_bad_arrays_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        arrays(**changes)


def test_ids_that_do_not_match_are_named(data):
    K, _, table = data
    with pytest.raises(ValueError, match=r"ids of y are not in K \('stranger'\); 1 ids of K are not in y \('p4'\)"):
        Design.from_formula("height ~ age", table.rename(index={"p4": "stranger"}), K=K)


def test_duplicated_ids_are_refused(data):
    K, _, table = data
    with pytest.raises(ValueError, match=r"has duplicated ids \('p3'\)"):
        Design.from_formula("height ~ age", table.rename(index={"p4": "p3"}), K=K)


@pytest.mark.parametrize("formula", ["age + sex", "~ age", " ~ age", 3, None])
def test_a_formula_without_a_response_is_refused(data, formula):
    K, _, table = data
    with pytest.raises(ValueError, match=r"formula must have a response and predictors, 'y ~ x1 [+] x2', got"):
        Design.from_formula(formula, table, K=K)


def test_a_column_that_is_not_in_the_table_is_named_with_those_that_are(data):
    K, _, table = data
    with pytest.raises(ValueError, match=r"does not fit the .*columns height, age, sex, weight: .*shoe"):
        Design.from_formula("height ~ shoe", table, K=K)


def test_a_random_term_in_the_formula_is_refused_with_the_remedy(data):
    K, _, table = data
    with pytest.raises(ValueError, match=r"has a random term: .* K=flmm.covariance.grouping"):
        Design.from_formula("height ~ age + (1|sex)", table, K=K)


def test_a_response_that_is_not_numeric_is_refused(data):
    K, _, table = data
    with pytest.raises(ValueError, match="the response 'sex' is not numeric"):
        Design.from_formula("sex ~ age", table, K=K)


def test_a_table_that_is_no_data_frame_is_refused(data):
    K, _, table = data
    with pytest.raises(TypeError, match="data must be a pandas DataFrame, got dict"):
        Design.from_formula("height ~ age", table.to_dict("list"), K=K)


def test_transformed_and_categorical_terms_are_those_of_formulaic(data):
    K, _, table = data
    design = Design.from_formula("height ~ 0 + C(sex) + age:weight", table, K=K)
    assert len(design.coef) == 3
    assert_allclose(design.X[:, 2], table["age"] * table["weight"])
    assert_allclose(design.X[:, :2].sum(1), 1)


def test_a_missing_value_inside_a_transformed_term_drops_the_row(data):
    K, _, table = data
    table.loc["p1", "weight"] = np.nan
    with pytest.warns(UserWarning, match="1 of 10 rows dropped, with missing values [(]weight 1[)]: 'p1'"):
        design = Design.from_formula("height ~ np.exp(weight)", table, K=K)
    assert design.dropped == ("p1",)


def test_a_collinear_column_is_named_when_the_spectrum_is_built(data):
    K, _, table = data
    design = Design.from_formula("height ~ age + again", table.assign(again=3 * table["age"]), K=K)
    with pytest.warns(UserWarning, match="X has rank 2 but 3 columns: 'again' dropped"):
        assert design.spectrum().coef == ("Intercept", "age")
