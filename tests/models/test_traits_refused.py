"""What traits_model refuses, with the reason and how to mend it."""

import numpy as np
import pandas as pd
import pytest

import pm_fastlmm as flmm

QUIET = {"progressbar": False}
RNG = np.random.default_rng(2)
A, B = RNG.normal(size=(2, 8))
OTHER_IDS = pd.DataFrame(np.eye(8)).set_axis(["ox", *(f"cow{i}" for i in range(1, 8))], axis=0)
OTHER_IDS.columns = OTHER_IDS.index


def others(n, **columns):
    return pd.DataFrame(columns, index=[f"cow{i}" for i in range(n)])


@pytest.mark.parametrize(
    ("formula", "table", "given", "message"),
    [
        ("a + a ~ 1", others(8, a=A), {}, r"the traits of the formula are the same as text for several \('a'\)"),
        ("a + b ~ 1", others(8, a=A, b=list("pqrstuvw")), {}, "the response 'b' is not numeric"),
        ("a + b ~ 1", others(8, a=A, b=2.0), {}, "the trait 'b' is constant: there is nothing to estimate"),
        ("a + b ~ x", others(8, a=A, b=3 * B - 1, x=B), {}, "the trait 'b' is explained by X in its 8 rows"),
        ("a + b + c ~ 1", others(8, a=A, b=B, c=2 * A - B), {}, "the traits 'a', 'b', 'c' are collinear"),
        ("a + b ~ 1", others(2, a=A[:2], b=B[:2]), {}, r"'a \(2\)', 'b \(2\)' of 2 traits were observed"),
        ("a + b ~ 1", others(8, a=A, b=[1.0, 3.0, *[np.nan] * 6]), {}, r"'b \(2\)' of 2 traits were observed"),
        ("a + b ~ 1", others(8, a=A, b=np.nan), {}, r"every row has a missing value \(b 8\)"),
        ("a + b ~ trait", others(8, a=A, b=B, trait=B), {}, "has a column 'trait', which is one of the rows of one"),
        ("a + b ~ missing", others(8, a=A, b=B), {}, ".a . b ~ missing. does not fit the columns a, b: "),
        ("a + b ~ x", others(8, a=A, b=B, x="one"), {}, "the factor 'x' has one level"),
        ("a + b ~ offset(x)", others(8, a=A, b=B, x=B), {}, "has an offset: with several traits, subtract it"),
        ("a + b ~ 1", others(8, a=A, b=B), {"K": None}, "has no random term, such as .* and there is no K"),
        ("a + b ~ 1", others(8, a=A, b=B), {"W": np.eye(8)}, "give exactly one of K .covariance. and W"),
        ("a + b ~ 1", others(8, a=A, b=B), {"known": {"cow": np.eye(8)}}, "known names 'cow', but the formula has no"),
        ("a + b ~ 1", others(8, a=A, b=B), {"individual": "cow"}, "individual='cow' is not among the columns a, b"),
        ("a + b ~ 1 + (1 | g)", others(8, a=A, b=B, g=0, K=1), {}, "the table has a column 'K', as the term of K="),
        ("a + b ~ 1", others(8, a=A, b=B), {"priors": {"sigma_g": 1}}, "priors names 'sigma_g', but there are sigma_K"),
        ("a + b ~ 1", others(8, a=A, b=B), {"X": np.ones((8, 1))}, "X and spectrum are given with Y itself"),
        ("a + b ~ 1", others(8, a=A, b=B), {"K": OTHER_IDS},
         "'cow0'"),
        ("a + b ~ 1", others(8, a=A, b=B).rename(index={"cow1": "cow0"}), {}, "the index of data has ids twice"),
        (np.eye(4), None, {"K": np.eye(4)}, "y is a square array, shape .4, 4., without labels"),
        ([pd.Series(A), pd.Series(B[:5])], None, {}, "bring them into one table .* was not observed is missing"),
        (others(8, a=A, b=B), None, {"known": {}}, "'known' belongs to a formula"),
        (others(8, a=A, b=B), None, {"spectrum": flmm.Spectrum.from_covariance(np.eye(8))}, "holds them already"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(formula, table, given, message):
    kernel = {"K": np.eye(len(table) if table is not None else 8)} | given
    with pytest.raises(ValueError, match=message):
        flmm.traits_model(formula, table, **kernel)


def test_residuals_and_offsets_of_traits_are_refused():
    table = others(8, a=A, b=B, g=[*"ppqqrrss"])
    for given in ({"residual": "g"}, {"offset": "a"}):
        with pytest.raises(ValueError, match="is given with several traits"):
            flmm.find_reml("a + b ~ 1", table, K=np.eye(8), **given, **QUIET)
    with pytest.raises(ValueError, match="belong to a formula: a model has its own"):
        flmm.find_reml(flmm.lmm_model("a ~ 1 + (1 | g)", table), K=np.eye(8), **QUIET)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"record": ["cow0"]}, "their column 'trait' is one of 'a', 'b', and the data have 'record'"),
        ({"trait": ["c"], "record": ["cow0"]}, "their column 'trait' is one of 'a', 'b', and here it has 'c'"),
    ],
)
def test_new_rows_say_which_trait_they_are_of(new, message):
    table = others(8, a=A, b=B)
    sigma = [[1.0, 0.2], [0.2, 0.5]]
    fit = flmm.find_reml("a + b ~ 1", table, K=np.eye(8), fixed={"K": sigma, "residual": sigma}, **QUIET)
    with pytest.raises(ValueError, match=message):
        fit.predict(data=pd.DataFrame(new))
