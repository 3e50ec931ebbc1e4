"""Genotypes that other packages read: labels, codes for missing ones, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.io import label_genotypes

VARIANTS = pd.DataFrame(
    {"chromosome": ["1", "1", "X"], "position": [5, 9, 3], "counted": list("GAT"), "other": list("TCA")},
    index=["a", ".", "c"],
)


@pytest.mark.parametrize("dtype", [np.int8, np.float32, float])
def test_labelled_counts_are_those_of_a_table(dtype):
    counts = np.array([[0, 1, 2], [1, -9, 2], [2, 2, 0], [0, 0, 0]], dtype=dtype)
    block = label_genotypes(counts, list("pqrs"), VARIANTS, missing=[-9, -127])
    table = pd.DataFrame(counts.astype(float), list("pqrs")).replace(-9, np.nan)
    assert_array_equal(block, table)
    assert block.variant.values.tolist() == ["a", "1:9:C:A", "c"]
    assert_array_equal(block.counted, ["G", "A", "T"])
    assert_allclose(flmm.covariance.markers(block), flmm.covariance.markers(table[[0, 1]]), atol=1e-6)


def test_blocks_of_labelled_counts_are_scanned():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 3, (50, 30))
    variants = pd.DataFrame({"position": np.arange(30)}, index=[f"rs{j}" for j in range(30)])
    people = [f"p{i}" for i in range(50)]
    blocks = [label_genotypes(counts[:, s : s + 7], people, variants.iloc[s : s + 7]) for s in range(0, 30, 7)]
    K = flmm.covariance.markers(blocks)
    assert list(K.index) == people
    y = pd.Series(rng.normal(size=50), people)
    spectrum = flmm.Spectrum.from_covariance(K, np.ones((50, 1)))
    found = flmm.scan(spectrum, y, blocks, progressbar=False)
    assert_allclose(found.p_value, flmm.scan(spectrum, y, counts, progressbar=False).p_value, rtol=1e-6)
    assert_array_equal(found.position, np.arange(30))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1]], ["p"], VARIANTS), r"counts has shape \(1, 2\) for 3 variants: rows are people"),
        (([[0, 1, 2]], ["p", "q"], VARIANTS), "ids has 2 names, expected 1"),
        (
            ([[0, 1, 2]], ["p"], VARIANTS.rename(columns={"counted": "A1"})),
            "has the columns 'A1': only chromosome",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        label_genotypes(*arguments)
