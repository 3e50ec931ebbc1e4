"""Names, ids, gaps and groups of a scan of several traits, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pm_fastlmm import Spectrum, scan_traits

FIELDS = ("beta", "se", "beta_cov", "statistic", "p_value", "log10_p", "common", "common_se", "p_common",
          "log10_p_common", "p_different")  # fmt: skip


def labelled(n=60):
    """A spectrum with ids, three named traits of different size and 12 candidates."""
    rng = np.random.default_rng(1)
    ids, W = [f"p{i}" for i in range(n)], rng.normal(size=(n, 90))
    X = pd.DataFrame({"one": 1.0, "dose": rng.exponential(size=n)}, ids)
    Y = (W @ rng.normal(size=(90, 3)) / 9 + rng.normal(size=(n, 3))) @ rng.normal(size=(3, 3)) * [1.0, 30.0, 0.02]
    G = pd.DataFrame(rng.binomial(2, 0.4, size=(n, 12)), ids).add_prefix("rs")
    spectrum = Spectrum.from_factor(pd.DataFrame(W, ids) / 9, X)
    return spectrum, pd.DataFrame(Y, ids, ["height", "mass", "age"]), G


def test_names_ids_gaps_and_reasons_are_carried():
    spectrum, Y, G = labelled()
    G = pd.concat([G.astype(float), pd.DataFrame(1.0, ["stranger"], G.columns)])
    G["rs2"], G.loc["p3", "rs4"], G.loc["p5", "rs6"] = 7.0, np.nan, np.inf
    with pytest.warns(UserWarning, match=r"1 of 12 candidates are not tested, for missing .*: 'rs6'"):
        found = scan_traits(spectrum, Y.sample(frac=1, random_state=1), G, variances="each")
    assert found.trait.values.tolist() == found.trait_2.values.tolist() == ["height", "mass", "age"]
    assert found.candidate.values.tolist() == list(G.columns)
    untested = found.reason.values != ""
    assert found.reason.values[untested].tolist() == ["collinear with X", "missing values"]
    for name in (*FIELDS, "sigma_g", "sigma_e"):
        assert_array_equal(np.isnan(found[name].values.reshape(12, -1)).all(axis=1), untested)
    assert not found.refitted[untested].any()
    assert found.attrs == {"test": "wald", "variances": "each", "common": "equal", "untested": 2, "imputed": 1,
                           "untested: missing values": 1, "untested: collinear with X": 1}  # fmt: skip
    mean = G["rs4"].drop(index="stranger").mean()
    alone = scan_traits(spectrum, Y, G.drop(index="stranger")[["rs4"]].fillna(mean), variances="each")
    assert_allclose(alone.p_value[0], found.p_value.sel(candidate="rs4"), rtol=1e-8)
    table = found[["p_value", "common", "reason"]].to_dataframe()
    assert table.index.tolist() == list(G.columns)
    assert table.columns.tolist() == ["p_value", "common", "reason"]


def test_none_of_the_candidates_can_be_tested():
    spectrum, Y, _ = labelled()
    found = scan_traits(spectrum, Y, np.ones((60, 2)), variances="each")
    assert np.isnan(found.beta).all()
    assert found.attrs["untested: collinear with X"] == 2


def test_groups_are_tested_on_their_own_spectrum_and_blocks_are_joined():
    spectrum, Y, G = labelled()
    other = Spectrum.from_factor(pd.DataFrame(np.random.default_rng(2).normal(size=(60, 80)), Y.index), spectrum.X)
    groups = ["1", "2"] * 6
    blocks = (G.iloc[:, start : start + 5] for start in range(0, 12, 5))
    found = scan_traits({"1": spectrum, "2": other}, Y, blocks, groups=groups, progressbar=False)
    assert found.group.values.tolist() == groups
    for label, own in (("1", spectrum), ("2", other)):
        alone = scan_traits(own, Y, G.loc[:, found.group.values == label])
        for name in FIELDS:
            assert_allclose(found[name][found.group.values == label], alone[name], rtol=1e-9)
        for name in ("null_sigma_g", "null_sigma_e", "null_h2", "null_loglik"):
            assert_allclose(found[name].sel(kernel=label), alone[name], rtol=1e-9)


def test_given_covariances_are_matched_by_name():
    spectrum, Y, G = labelled()
    null = scan_traits(spectrum, Y, G)
    pair = [S.to_pandas().loc[["age", "height", "mass"], ["age", "height", "mass"]]
            for S in (null.null_sigma_g, null.null_sigma_e)]  # fmt: skip
    again = scan_traits(spectrum, Y, G, null=pair)
    assert_allclose(again.p_value, null.p_value, rtol=1e-8)
    assert_allclose(again.null_sigma_g, null.null_sigma_g, rtol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "score"}, "test must be 'wald' or 'lrt', got 'score'"),
        ({"variances": "refit"}, r"variances must be 'null' \(those without candidates\) or 'each' .*got 'refit'"),
        ({"variances": 2.0}, "variances must be"),
        ({"common": "ratio"}, "common must be 'equal' or 'sd', got 'ratio'"),
        ({"common": [1.0, 2.0]}, "common must be 'equal', 'sd' or 3 numbers, not all 0, for height, mass, age"),
        ({"common": [0.0, 0.0, 0.0]}, "common must be 'equal', 'sd' or 3 numbers"),
        ({"null": np.eye(3)}, r"null must be \(sigma_g, sigma_e\), two \(3, 3\) covariance matrices of height"),
        ({"null": 1.0}, r"null must be \(sigma_g, sigma_e\), .* got float"),
        ({"null": (np.eye(3), np.eye(3) + np.eye(3, k=1))}, "sigma_e of null is not symmetric"),
        ({"null": (np.diag([1, -1, 1.0]), np.eye(3))}, "sigma_g of null is not positive semi-definite"),
        ({"groups": [1] * 12}, "groups is given with one spectrum"),
        ({"candidates": np.ones((60, 0))}, "candidates is empty"),
    ],
)
def test_what_cannot_be_scanned_is_refused(change, message):
    spectrum, Y, G = labelled()
    with pytest.raises(ValueError, match=message):
        scan_traits(**{"spectrum": spectrum, "Y": Y, "candidates": G} | change)


def test_traits_that_cannot_be_scanned_are_refused():
    spectrum, Y, G = labelled()
    with pytest.raises(ValueError, match="Y is a Rotated, which has no rows"):
        scan_traits(spectrum, spectrum.rotate(Y), G)
    with pytest.raises(ValueError, match=r"y has 1 values that are NaN .*spectrum.subset"):
        scan_traits(spectrum, Y.mask(np.arange(180).reshape(60, 3) == 4), G)
    with pytest.raises(ValueError, match=r"the traits height, sum are collinear, X projected out: .* Leave it out"):
        scan_traits(spectrum, Y.assign(sum=2 * Y["height"] + 1), G)
    with pytest.raises(ValueError, match=r"the model of one without candidates has no estimate: X explains y exactly"):
        scan_traits(spectrum, Y.assign(one=1.0), G)
    W = np.random.default_rng(3).normal(size=(6, 9))
    with pytest.raises(ValueError, match="leave 4 degrees of freedom, and 3 traits with a candidate need 5"):
        scan_traits(Spectrum.from_factor(W, W[:, :2]), W[:, 2:5], W[:, [6]])
