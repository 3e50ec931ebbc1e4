"""Missing genotypes in a scan, the numbers that stand for them, and GEMMA's pve."""

import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pm_fastlmm import Spectrum, reml, scan

N = 60


def problem():
    rng = np.random.default_rng(5)
    W = rng.normal(size=(N, 90)) / 8
    G = rng.binomial(2, 0.4, size=(N, 8)).astype(float)
    G[:3] = [[0] * 8, [1] * 8, [2] * 8]
    return W, np.ones((N, 1)), 0.5 * G[:, 2] + W @ rng.normal(size=90) + rng.normal(size=N), G


W, X, Y, G = problem()
SPECTRUM = Spectrum.from_factor(W, X)
GAPS = np.random.default_rng(6).random(G.shape) < 0.1
GAPS[:, 0] = False
HOLED = np.where(GAPS, np.nan, G)
FILLED = np.where(GAPS, np.nanmean(HOLED, axis=0), G)


# ---------------------------------------------------------------- imputation


@pytest.mark.parametrize("design", ["intercept", "covariates"])
def test_missing_genotypes_are_imputed_as_by_gemma(cases, reference, design):
    K, X, y, genotypes = cases.scan_with_gaps()
    file = reference.json("scan_gemma_gaps.json")
    expected = dict(zip(file["columns"], np.array(file[design]["rows"]).T, strict=True))
    keep = ~np.isnan(y)
    n = keep.sum()
    X = X[keep] if design == "covariates" else np.ones((n, 1))
    C = np.eye(n) - 1 / n
    centred = Spectrum.from_covariance(C @ K[np.ix_(keep, keep)] @ C, X)
    result = scan(centred, y[keep], genotypes[keep])
    assert_array_equal(result.missing, expected["n_miss"])
    assert result.attrs["imputed"] == expected["n_miss"].sum()
    # GEMMA stops at 1e-5 in σ²_g/σ²_e and prints 7 digits
    assert_allclose(result.beta, expected["beta"], rtol=0, atol=5e-6 * expected["se"].min())
    assert_allclose(result.p_value, expected["p_wald"], rtol=1e-5)
    assert_allclose(scan(centred, y[keep], genotypes[keep], test="lrt").p_value, expected["p_lrt"], rtol=2e-6)
    over_all = np.where(np.isnan(genotypes), np.nanmean(genotypes, axis=0), genotypes)
    assert np.abs(scan(centred, y[keep], over_all[keep]).p_value / expected["p_wald"] - 1).max() > 5e-3


@pytest.mark.parametrize("design", ["intercept", "covariates"])
def test_pve_of_gemma_is_h2_of_the_centred_kernel(cases, reference, design):
    K, X, y, _ = cases.scan_with_gaps()
    expected = reference.json("scan_gemma_gaps.json")[design]
    keep = ~np.isnan(y)
    n = keep.sum()
    X = X[keep] if design == "covariates" else np.ones((n, 1))
    K, C = K[np.ix_(keep, keep)], np.eye(n) - 1 / n
    centred, given = (reml(Spectrum.from_covariance(kernel, X), y[keep]) for kernel in (C @ K @ C, K))
    assert_allclose([centred.h2, centred.standard_errors()["h2"]], [expected["pve"], expected["pve_se"]], rtol=1e-5)
    assert_allclose([given.sigma2_g, given.sigma2_e], [expected["vg"], expected["ve"]], rtol=1e-5)
    share = np.trace(C @ K @ C) / n * given.sigma2_g
    assert_allclose(share / (share + given.sigma2_e), expected["pve"], rtol=1e-5)
    assert abs(given.pve - expected["pve"]) > 1e-3


@pytest.mark.parametrize(
    "container",
    [np.asarray, pd.DataFrame, lambda M: pd.DataFrame(M).astype("Int64"), lambda M: pd.DataFrame(M).astype(object),
     lambda M: pd.DataFrame(M).astype("Int8").astype(object), lambda M: [M[:, :3], M[:, 3:]],
     lambda M: pd.DataFrame(M).astype("Float32")],
    ids=["array", "table", "Int64", "objects", "pd.NA among objects", "blocks", "Float32"],
)  # fmt: skip
def test_the_mean_of_the_analysed_rows_is_the_default_and_counted(container):
    expected = scan(SPECTRUM, Y, FILLED)
    result = scan(SPECTRUM, Y, container(HOLED), progressbar=False)
    assert_allclose(result.p_value, expected.p_value, rtol=1e-9)
    assert_array_equal(result.missing, GAPS.sum(axis=0))
    assert result.attrs == expected.attrs | {"imputed": GAPS.sum()}
    assert_array_equal(expected.missing, 0)


def test_missing_genotypes_can_be_refused_or_their_candidates_left_out():
    with pytest.raises(ValueError, match=r"7 of 8 candidates have missing values \('g1', .* and 2 more\): impute them"):
        scan(SPECTRUM, Y, HOLED, missing="raise")
    with pytest.warns(UserWarning, match=r"7 of 8 candidates are not tested, for missing or infinite values: 'g1',"):
        result = scan(SPECTRUM, Y, HOLED, missing="drop")
    assert_array_equal(np.isnan(result.p_value), GAPS.any(axis=0))
    assert_allclose(result.p_value[0], scan(SPECTRUM, Y, G).p_value[0], rtol=1e-9)
    assert result.attrs["untested"] == result.attrs["untested: missing values"] == 7
    assert "imputed" not in result.attrs
    with pytest.raises(ValueError, match="missing must be 'mean', 'raise' or 'drop', got 'omit'"):
        scan(SPECTRUM, Y, HOLED, missing="omit")


def test_a_candidate_without_any_value_or_with_infinities_is_left_out_with_a_warning():
    holed = HOLED.copy()
    holed[:, 2], holed[5, 4] = np.nan, np.inf
    with pytest.warns(UserWarning, match=r"2 of 8 candidates are not tested, .*: 'g2', 'g4'\."):
        result = scan(SPECTRUM, Y, holed)
    assert_array_equal(np.flatnonzero(np.isnan(result.p_value)), [2, 4])
    assert result.attrs["imputed"] == GAPS[:, [1, 3, 5, 6, 7]].sum()


def test_a_candidate_with_gaps_that_is_constant_is_collinear_and_not_tested():
    holed = HOLED.copy()
    holed[:, 1] = np.where(GAPS[:, 1], np.nan, 1.0)
    assert scan(SPECTRUM, Y, holed).reason[1] == "collinear with X"


def test_imputed_candidates_of_groups_are_those_of_one_scan():
    groups = ["a", "b"] * 4
    result = scan(dict.fromkeys("ab", SPECTRUM), Y, HOLED, groups=groups)
    assert_allclose(result.p_value, scan(SPECTRUM, Y, FILLED).p_value, rtol=1e-9)
    assert_array_equal(result.missing, GAPS.sum(axis=0))


# ---------------------------------------------------------------- numbers that stand for missing ones


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(-9, float), (-9, "int8"), (-127, "int8"), (-128, "int8"), (255, "uint8"), (3, "uint8"), (3, float), (5, int),
     (9, int), (-1, "int8"), (-99, int), (-999, float), (99, int)],
)  # fmt: skip
def test_numbers_that_stand_for_missing_genotypes_are_refused_with_the_remedy(code, dtype):
    coded = np.where(GAPS, code, G).astype(dtype)
    message = rf"counts from 0 to 2 but for {code}, which stands for missing .*\({GAPS.sum()} values in 7 columns: 's1'"
    table = pd.DataFrame(coded).add_prefix("s")
    with pytest.raises(ValueError, match=message) as caught:
        scan(SPECTRUM, Y, table)
    remedy = re.search(r"candidates\.replace\(.*?\)", str(caught.value))[0]
    mended = eval(remedy, {"candidates": table, "np": np})
    assert_allclose(scan(SPECTRUM, Y, mended).p_value, scan(SPECTRUM, Y, FILLED).p_value, rtol=1e-9)


def test_a_code_among_dosages_and_beside_a_covariate_is_refused():
    dosages = np.where(GAPS, -9, 0.9 * G + 0.05)
    with pytest.raises(ValueError, match=r"but for -9, which stands for missing"):
        scan(SPECTRUM, Y, np.column_stack([dosages, Y + 30 * W[:, 0]]))
    one = G.copy()
    one[40, 3] = -9
    with pytest.raises(ValueError, match=r"1 values in 1 columns: 'g3'"):
        scan(SPECTRUM, Y, one)


COVARIATES = {
    "0 and 3": lambda rng: 3 * np.minimum(G, 1),
    "one decimal, a 3 at the top": lambda rng: np.r_[[[3.0] * 8], rng.uniform(0, 2, size=(N - 1, 8)).round(1)],
    "normal": lambda rng: rng.normal(size=(N, 8)),
    "years": lambda rng: rng.integers(1950, 2000, size=(N, 8)),
    "counts": lambda rng: rng.poisson(1.5, size=(N, 8)),
    "scores from 0 to 3": lambda rng: rng.integers(0, 4, size=(N, 8)),
    "copy numbers": lambda rng: rng.choice([1, 2, 3], p=[0.2, 0.6, 0.2], size=(N, 8)),
    "five as often as others": lambda rng: rng.choice([0, 1, 2, 5], size=(N, 8)),
    "nine as often as others": lambda rng: rng.choice([1, 2, 9], size=(N, 8)),
    "tetraploid": lambda rng: rng.binomial(4, 0.4, size=(N, 8)),
    "-1, 0, 1": lambda rng: G - 1,
    "standardised": lambda rng: (G - G.mean(0)) / G.std(0),
    "centred": lambda rng: G - G.mean(0),
    "haplotypes": lambda rng: np.minimum(G, 1),
    "ages with 9": lambda rng: rng.integers(5, 12, size=(N, 8)),
    "scores from 1 to 9": lambda rng: rng.integers(1, 10, size=(N, 8)),
    "temperatures": lambda rng: rng.integers(-12, 6, size=(N, 8)),
}


@pytest.mark.parametrize("make", COVARIATES.values(), ids=COVARIATES)
def test_covariates_that_are_no_genotypes_are_tested(make):
    columns = make(np.random.default_rng(9))
    result = scan(SPECTRUM, Y, columns)
    for j in (0, 7):
        with_g = reml(Spectrum.from_factor(W, np.column_stack([X, columns[:, j]])), Y)
        assert_allclose(result.beta[j], with_g.beta.iloc[-1], rtol=1e-6)


def test_rare_scores_of_3_are_tested_once_they_are_divided():
    scores = np.random.default_rng(9).binomial(3, 0.4, size=(N, 8))
    with pytest.raises(ValueError, match="If they are no genotypes, divide them by a number, candidates / 10: no test"):
        scan(SPECTRUM, Y, scores)
    with_g = reml(Spectrum.from_factor(W, np.column_stack([X, scores[:, 0]])), Y)
    result = scan(SPECTRUM, Y, scores / 10)
    assert_allclose(result.statistic[0], (with_g.beta.iloc[-1] / with_g.beta_se.iloc[-1]) ** 2, rtol=1e-6)
