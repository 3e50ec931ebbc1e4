"""Sparse columns of formulas, against formulaic's own encoding of the same specification."""

import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix

from pm_fastlmm.models.formulas.sparse_encoding import MATERIALIZER

SPARSE = {"na_action": "drop", "output": "sparse"}


@pytest.fixture(scope="module")
def table():
    rng, n = np.random.default_rng(0), 120
    data = pd.DataFrame(
        {
            "herd": rng.integers(20, size=n).astype(str), "year": pd.Categorical(rng.integers(4, size=n)),
            "x": rng.normal(size=n), "count": rng.integers(0, 3, size=n) * 1.0,
        }
    )  # fmt: skip
    data.loc[3, "x"] = np.nan
    data.loc[5, "herd"] = None
    return data


@pytest.mark.parametrize(
    "formula",
    [
        "1", "0 + x", "herd", "0 + herd", "herd * year", "herd:year - 1", "x:count", "2:herd + x", "I(x > 0) * herd",
        "C(herd) + x", "C(herd, contr.sum):x + C(year, contr.poly) * x", "C(year, levels=[3, 1, 2, 0]):herd",
        "herd:year:x + bs(x, df=4)", "poly(count, 2) * herd", "np.log(count + 1) + herd:np.log(count + 2)",
    ],
)  # fmt: skip
def test_columns_are_those_of_formulaic(table, formula):
    expected, made = (model_matrix(formula, table, **SPARSE, **how) for how in ({}, {"materializer": MATERIALIZER}))
    assert made.model_spec.column_names == expected.model_spec.column_names
    np.testing.assert_array_equal(made.__wrapped__.toarray(), expected.__wrapped__.toarray())
    new = table.dropna().iloc[[0, 50, 2]]
    again = [spec.get_model_matrix(new).__wrapped__.toarray() for spec in (made.model_spec, expected.model_spec)]
    np.testing.assert_array_equal(*again)


def test_no_other_table_is_encoded_so(table):
    assert model_matrix("herd", table, **SPARSE).model_spec.materializer != MATERIALIZER
