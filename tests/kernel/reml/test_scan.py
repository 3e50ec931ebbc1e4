"""The scan against GEMMA, against a fit with the candidate in X, and its labelled and refused candidates."""

import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import pm_fastlmm as flmm
from pm_fastlmm import Spectrum, reml, scan
from pm_fastlmm.base import arrays as _arrays


@pytest.fixture(scope="module")
def gemma(cases, reference):
    K, X, y, candidates = cases.scan200()
    file = reference.json("scan_gemma.json")
    expected = dict(zip(file["columns"], np.array(file["rows"]).T, strict=True))
    return Spectrum.from_covariance(K, X), y, candidates, expected


def test_wald_tests_are_those_of_gemma(gemma):
    spectrum, y, candidates, expected = gemma
    result = scan(spectrum, y, candidates)
    # GEMMA stops at 1e-5 in σ²_g/σ²_e and prints 7 digits; α̂ moves with it by 1e-5 of its standard error
    assert_allclose(1 / result.delta, expected["l_remle"], rtol=1e-5)
    assert_allclose(result.se, expected["se"], rtol=1e-6)
    assert_allclose(result.beta, expected["beta"], rtol=0, atol=1e-6 * expected["se"].min())
    assert_allclose(result.p_value, expected["p_wald"], rtol=2e-6)
    assert result.attrs == {"test": "wald", "delta": "each", "untested": 0}


def test_likelihood_ratio_tests_are_those_of_gemma(gemma):
    spectrum, y, candidates, expected = gemma
    assert_allclose(scan(spectrum, y, candidates, test="lrt").p_value, expected["p_lrt"], rtol=1e-6)


def problem_of(kind):
    """A kernel, y and 12 candidates, of which one is causal; low rank, without X, at both boundaries."""
    rng = np.random.default_rng(31)
    n = 50
    W = rng.normal(size=(n, 9 if kind == "low" else 120)) / 3
    X = None if kind == "no X" else np.column_stack([np.ones(n), rng.exponential(size=n)])
    G = rng.binomial(2, 0.4, size=(n, 12)) - 0.5 * W[:, :1]
    noise = {"h2 one": 0.0}.get(kind, 1.0)
    y = 0.8 * G[:, 5] + W @ rng.normal(size=W.shape[1]) + noise * rng.normal(size=n)
    if kind == "h2 zero":  # less variance where K has more
        values, U = np.linalg.eigh(W @ W.T)
        y = 0.3 * G[:, 5] + U @ (rng.normal(size=n) / values**0.3)
    return W, X, y, G


KINDS = ("full", "low", "no X", "h2 zero", "h2 one")


@pytest.mark.parametrize("kind", KINDS)
def test_each_candidate_has_the_fit_with_it_in_X(kind):
    W, X, y, G = problem_of(kind)
    spectrum = Spectrum.from_factor(W, X)
    wald, lrt = scan(spectrum, y, G), scan(spectrum, y, G, test="lrt")
    null = reml(spectrum, y, method="ML")
    for j in range(12):
        with_g = Spectrum.from_factor(W, G[:, [j]] if X is None else np.column_stack([X, G[:, j]]))
        fit, ml = reml(with_g, y), reml(with_g, y, method="ML")
        assert_allclose([wald.delta[j], lrt.delta[j]], [fit.delta, ml.delta], rtol=1e-7, atol=1e-12)
        assert_allclose(wald.sigma2[j], fit.sigma2, rtol=1e-7, atol=1e-12)
        assert_allclose(wald.h2[j], fit.h2, rtol=1e-7, atol=1e-12)
        assert_allclose([wald.beta[j], lrt.beta[j]], [fit.beta.iloc[-1], ml.beta.iloc[-1]], rtol=1e-7)
        assert_allclose([wald.se[j], lrt.se[j]], [fit.beta_se.iloc[-1], ml.beta_se.iloc[-1]], rtol=1e-7)
        statistic = (fit.beta.iloc[-1] / fit.beta_se.iloc[-1]) ** 2
        assert_allclose(wald.statistic[j], statistic, rtol=1e-6)
        assert_allclose(wald.p_value[j], stats.f(1, spectrum.df - 1).sf(statistic), rtol=1e-6)
        assert_allclose(lrt.statistic[j], 2 * (ml.loglik - null.loglik), rtol=1e-6, atol=1e-8)
        assert_allclose(lrt.p_value[j], stats.chi2(1).sf(2 * (ml.loglik - null.loglik)), rtol=1e-5)
    if kind.startswith("h2"):
        assert ((wald.h2 == 0) | (wald.h2 == 1)).any()
    assert_allclose(lrt.null_loglik[0], null.loglik)


@pytest.mark.parametrize("kind", ["full", "low", "h2 zero", "h2 one"])
def test_with_delta_of_the_null_an_effect_is_generalised_least_squares(oracle, kind):
    W, X, y, G = problem_of(kind)
    spectrum = Spectrum.from_factor(W, X)
    result, lrt = (scan(spectrum, y, G, delta="null", test=test) for test in ("wald", "lrt"))
    fit, ml = reml(spectrum, y), reml(spectrum, y, method="ML")
    for j in range(12):
        design = np.column_stack([X, G[:, j]])
        scale = max(fit.sigma2_g, fit.sigma2_e)
        dense = oracle.Dense(W @ W.T, design, y, fit.sigma2_g / scale, fit.sigma2_e / scale)
        sigma2 = y @ dense.Py / (spectrum.df - 1)
        assert_allclose(result.beta[j], dense.beta[-1], rtol=1e-7)
        assert_allclose(result.se[j], math.sqrt(sigma2 * dense.beta_cov[-1, -1]), rtol=1e-7)
        without = oracle.Dense(W @ W.T, X, y, ml.sigma2_g, ml.sigma2_e)
        with_g = oracle.Dense(W @ W.T, design, y, ml.sigma2_g, ml.sigma2_e)
        assert_allclose(lrt.statistic[j], 50 * math.log((y @ without.Py) / (y @ with_g.Py)), rtol=1e-6)
    assert_allclose(result.delta, fit.delta)


def test_candidates_without_a_test_are_labelled_and_counted():
    W, X, y, G = problem_of("full")
    G = G.astype(float)
    G[:, 1], G[:, 2], G[3, 4], G[5, 6] = 7.0, 2 * X[:, 1] - 1, np.nan, np.inf
    with pytest.warns(UserWarning, match=r"2 of 12 candidates are not tested, for missing .*: 'g4', 'g6'. missing="):
        result = scan(Spectrum.from_factor(W, X), y, G, missing="drop")
    reasons = dict.fromkeys((1, 2), "collinear with X") | dict.fromkeys((4, 6), "missing values")
    assert [str(v) for v in result.reason.values] == [reasons.get(j, "") for j in range(12)]
    for name in ("beta", "se", "statistic", "p_value", "delta", "sigma2", "h2"):
        assert_array_equal(np.isnan(result[name]), result.reason != "")
    assert result.attrs["untested"] == 4
    assert result.attrs["untested: missing values"] == result.attrs["untested: collinear with X"] == 2
    with pytest.warns(UserWarning, match="1 of 2 candidates"):
        none = scan(Spectrum.from_factor(W, X), y, G[:, [1, 4]], delta="null", missing="drop")
    assert np.isnan(none.beta).all()


def test_a_constant_candidate_is_tested_when_X_has_no_intercept():
    W, _, y, G = problem_of("full")
    spectrum = Spectrum.from_factor(W)
    result = scan(spectrum, y, np.column_stack([np.full(50, 3.0), G]))
    fit = reml(Spectrum.from_factor(W, np.full((50, 1), 3.0)), y)
    assert_allclose(result.beta[0], fit.beta.iloc[0], rtol=1e-8)


def test_a_candidate_that_explains_everything_has_p_zero_and_no_error():
    W, X, y, _ = problem_of("full")
    result = scan(Spectrum.from_factor(W, X), y, np.column_stack([y + 1e-9 * W[:, 0], W[:, 1]]))
    assert_allclose(result.beta[0], 1, rtol=1e-6)
    assert result.p_value[0] < 1e-100
    assert result.p_value[1] > 1e-3


def test_names_and_rows_of_tables_are_kept_and_aligned():
    W, X, y, G = problem_of("full")
    ids = [f"p{i}" for i in range(50)]
    spectrum = Spectrum.from_factor(pd.DataFrame(W, index=ids), pd.DataFrame(X, index=ids))
    table = pd.DataFrame(G, index=ids).add_prefix("snp")
    result = scan(spectrum, pd.Series(y, ids), table.sample(frac=1, random_state=3))
    assert list(result.candidate.values) == list(table.columns)
    assert_allclose(result.p_value, scan(spectrum, y, G).p_value, rtol=1e-9)
    array = xr.DataArray(G.T, dims=("snp", "obs"), coords={"obs": ids, "snp": list(table.columns)})
    assert_allclose(scan(spectrum, y, array).p_value.sel(candidate="snp5"), result.p_value[5], rtol=1e-9)
    with pytest.raises(ValueError, match="candidates and the spectrum do not have the same ids"):
        scan(spectrum, y, table.rename(index={"p3": "q3"}))


@pytest.mark.parametrize("kind", ["integers", "table"])
def test_a_wide_array_is_read_in_slices(monkeypatch, kind):
    W, X, y, G = problem_of("full")
    spectrum = Spectrum.from_factor(W, X)
    counts = np.round(3 * G).astype(np.int8)
    expected = scan(spectrum, y, counts)
    monkeypatch.setattr("pm_fastlmm.kernel.reml.candidates._BLOCK", 250)
    seen = []

    def reading(values, name, *, ndim):
        seen.append(np.shape(values))
        return read(values, name, ndim=ndim)

    read = _arrays.read
    monkeypatch.setattr("pm_fastlmm.kernel.reml.candidates.read", reading)
    columns = [f"s{j}" for j in range(12)]
    result = scan(
        spectrum, y, counts if kind == "integers" else pd.DataFrame(counts, columns=columns), progressbar=False
    )
    assert seen == [(50, 5), (50, 5), (50, 2)]
    assert_allclose(result.p_value, expected.p_value, rtol=1e-9)
    assert list(result.candidate.values) == (columns if kind == "table" else list(expected.candidate.values))


def test_blocks_of_candidates_are_read_one_at_a_time_with_a_progress_bar(capsys):
    W, X, y, G = problem_of("full")
    spectrum = Spectrum.from_factor(W, X)
    held = []

    def read():
        for j in range(0, 12, 5):
            held.append(j)
            yield G[:, j : j + 5]

    result = scan(spectrum, y, read())
    assert held == [0, 5, 10]
    assert list(result.candidate.values) == [f"g{j}" for j in range(12)]
    assert_allclose(result.p_value, scan(spectrum, y, G).p_value, rtol=1e-9)
    shown = capsys.readouterr().out
    assert "candidates" in shown
    assert "12/?" in shown
    scan(spectrum, y, read(), progressbar=False)
    scan(spectrum, y, G)
    assert capsys.readouterr().out == ""


def test_a_group_left_out_of_its_kernel_is_scanned_on_its_own_spectrum():
    rng = np.random.default_rng(6)
    markers = rng.binomial(2, 0.4, size=(60, 90)).astype(float)
    group = np.repeat(["chr1", "chr2", "chr3"], 30)[rng.permutation(90)]
    y = markers[:, 4] + rng.normal(size=60)
    X = np.ones((60, 1))
    spectra = {
        c: Spectrum.from_covariance(flmm.covariance.markers(markers[:, group != c]), X)
        for c in ("chr1", "chr2", "chr3")
    }
    result = scan(spectra, y, markers, groups=group)
    assert list(result.group.values) == list(group)
    for c, spectrum in spectra.items():
        alone = scan(spectrum, y, markers[:, group == c])
        assert_allclose(result.p_value[group == c], alone.p_value, rtol=1e-9)
        assert_allclose(result.null_h2[result.group == c][0], alone.null_h2[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "score"}, "test must be 'wald' or 'lrt', got 'score'"),
        ({"delta": "fixed"}, "delta must be 'each' or 'null', got 'fixed'"),
        ({"groups": [1] * 12}, "groups is given with one spectrum"),
        ({"candidates": np.ones((49, 2))}, "candidates has 49 rows but the spectrum has 50"),
        ({"candidates": np.ones((50, 0))}, "candidates is empty"),
        ({"candidates": [[1.0, 2.0]]}, "candidates is a list of rows or columns"),
        ({"y": np.ones((50, 2))}, "y has 2 columns, this scan has one response: .* flmm.scan_traits"),
        ({"y": np.ones(50)}, "the model without candidates has no estimate: X explains y exactly"),
    ],
)
def test_what_cannot_be_scanned_is_refused(change, message):
    W, X, y, G = problem_of("full")
    arguments = {"spectrum": Spectrum.from_factor(W, X), "y": y, "candidates": G} | change
    with pytest.raises(ValueError, match=message):
        scan(**arguments)


@pytest.mark.parametrize("scanning", [scan, flmm.scan_traits])
def test_what_is_no_spectrum_is_refused(scanning):
    W, X, y, G = problem_of("full")
    for given in (W, {1: W}):
        with pytest.raises(TypeError, match="spectrum must be a Spectrum, got ndarray"):
            scanning(given, y, G)
    with pytest.raises(ValueError, match="spectrum is an empty mapping"):
        scanning({}, y, G)
    with pytest.raises(ValueError, match="groups is empty"):
        scanning({1: Spectrum.from_factor(W, X)}, y, G, groups=[])


def test_groups_that_do_not_fit_are_refused():
    W, X, y, G = problem_of("full")
    spectra = {1: Spectrum.from_factor(W, X), 2: Spectrum.from_factor(W[:, :30], X)}
    with pytest.raises(ValueError, match="spectrum is a mapping: say with groups="):
        scan(spectra, y, G)
    with pytest.raises(ValueError, match="there is no spectrum for the groups 3"):
        scan(spectra, y, G, groups=[1, 2, 3] * 4)
    for groups in ([1] * 11, [1] * 13):
        with pytest.raises(ValueError, match=f"groups has {len(groups)} entries"):
            scan(spectra, y, G, groups=groups)
    other = spectra | {2: Spectrum.from_factor(W[:40], X[:40])}
    with pytest.raises(ValueError, match="the spectra of the groups have different observations"):
        scan(other, y, G, groups=[1, 2] * 6)


def streamed(W, X, y, G, method, names=None):
    """Cross-products of y and the candidates from three blocks, merged and added in another order."""
    Y = pd.DataFrame(np.column_stack([y, G]), columns=names or ["y", *(f"snp{j}" for j in range(G.shape[1]))])

    def part(rows):
        return (None if X is None else X[rows]), W[rows], Y.iloc[rows]

    c, other = (flmm.KernelStatistics.from_arrays(*part(rows), method=method) for rows in (slice(20), slice(20, 27)))
    return other.merge(c).update(*part(slice(27, None)))


@pytest.mark.parametrize("method", ["gram", "tsqr"])
@pytest.mark.parametrize("kind", ["full", "low", "no X", "h2 zero"])
def test_candidates_that_were_streamed_are_tested_as_those_with_rows(kind, method):
    W, X, y, G = problem_of(kind)
    W = W[:, :9] if kind == "no X" else W  # at δ = 0, where all of W leads, inner products warn
    y, G = y + (0 if X is None else 1e4), G + (0 if X is None else 100 * np.arange(12))
    spectrum, rotated = streamed(W, X, y, G, method).factor()
    whole = Spectrum.from_factor(W, X)
    for test in ("wald", "lrt"):
        for delta in ("each", "null"):
            expected = scan(whole, y, G, test=test, delta=delta)
            got = scan(spectrum, rotated, test=test, delta=delta)
            assert list(got.candidate.values) == [f"snp{j}" for j in range(12)]
            assert got.attrs == expected.attrs
            for name in ("beta", "se", "statistic", "p_value", "sigma2", "h2", "null_h2", "null_loglik"):
                size = np.abs(expected[name]).max().item() if name in ("beta", "statistic") else 0.0
                assert_allclose(
                    got[name], expected[name], rtol=1e-8, atol=1e-8 * size, err_msg=f"{name} {test} {delta}"
                )


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_streamed_candidates_that_X_or_W_explains(method):
    W, X, y, G = problem_of("low")
    G = np.column_stack([G[:, 0], np.full(50, 3.0), X @ [2.0, -1.0], W[:, 1]])
    spectrum, rotated = streamed(W, X, y, G, method).factor()
    got, expected = scan(spectrum, rotated), scan(Spectrum.from_factor(W, X), y, G)
    assert_array_equal(got.reason, ["", "collinear with X", "collinear with X", ""])
    assert got.attrs == expected.attrs
    # what is left of the last is a rounding of inner products, beside which its rotation is exact
    assert_allclose(got.beta, expected.beta, rtol=1e-6)
    assert_allclose(got.p_value, expected.p_value, rtol=1e-6)


def test_a_scan_after_one_pass_says_what_it_lacks():
    W, X, y, G = problem_of("low")
    spectrum, rotated = streamed(W, X, y, G, "gram").factor()
    with pytest.raises(ValueError, match="candidates are given with a Rotated"):
        scan(spectrum, rotated, G)
    with pytest.raises(ValueError, match="belongs to one spectrum"):
        scan({"1": spectrum}, rotated, groups=["1"] * 12)
    with pytest.raises(ValueError, match="candidates is missing"):
        scan(spectrum, y)
    for alone in (
        flmm.KernelStatistics.from_arrays(X, W, y).factor(),
        flmm.KernelStatistics.from_arrays(X, W, y[:, None]).factor(),
    ):
        with pytest.raises(ValueError, match="this Rotated has no candidates"):
            scan(*alone)
    rows = Spectrum.from_factor(W, X)
    with pytest.raises(ValueError, match="this Rotated has no candidates"):
        scan(rows, rows.rotate(np.column_stack([y, G])))
    constant = flmm.KernelStatistics.from_arrays(X, W, np.column_stack([X[:, 0], G])).factor()
    with pytest.raises(ValueError, match="no estimate"):
        scan(*constant)


def test_a_table_of_a_scan_has_a_row_for_each_candidate():
    rng = np.random.default_rng(1)
    spectrum, y = Spectrum.from_factor(rng.normal(size=(20, 30)), np.ones((20, 1))), rng.normal(size=20)
    G, groups = pd.DataFrame(rng.normal(size=(20, 4)), columns=list("abcd")), ["first", "second", "first", "second"]
    one = scan(spectrum, y, G).to_dataframe()
    several = scan({"first": spectrum, "second": spectrum}, y, G, groups=groups).to_dataframe()
    for table in (one, several):
        assert table.index.name == "candidate"
        assert table.index.tolist() == list("abcd")
    assert several["group"].tolist() == groups
    assert_allclose(one["null_loglik"], reml(spectrum, y).loglik)
    pd.testing.assert_frame_equal(several[["null_h2", "null_loglik"]], one[["null_h2", "null_loglik"]])


def labelled_problem():
    """The spectrum of 50 labelled people, y and a table of their candidates."""
    W, X, y, G = problem_of("full")
    ids = [f"p{i}" for i in range(50)]
    spectrum = Spectrum.from_factor(pd.DataFrame(W, ids), pd.DataFrame(X, ids))
    return spectrum, pd.Series(y, ids), pd.DataFrame(G, ids).add_prefix("rs")


@pytest.mark.parametrize("kind", ["column", "shuffled", "nullable", "array", "list", "unnamed", "stream", "DataArray"])
def test_one_candidate_is_a_column_with_its_name(kind):
    spectrum, y, table = labelled_problem()
    expected, column = scan(spectrum, y, table).sel(candidate="rs3"), table.rs3
    given = {
        "column": column,
        "shuffled": column.sample(frac=1, random_state=1),
        "nullable": column.astype("Float64"),
        "array": column.to_numpy(),
        "list": column.to_list(),
        "unnamed": column.rename(None),
        "stream": (part for part in [column]),
        "DataArray": column.rename_axis("obs").to_xarray(),
    }[kind]
    result = scan(spectrum, y, given)
    assert result.candidate.values.tolist() == ["g0" if kind in ("array", "list", "unnamed") else "rs3"]
    assert_allclose(result.beta, [expected.beta], rtol=1e-10)
    assert_allclose(result.p_value, [expected.p_value], rtol=1e-9)


def test_a_missing_genotype_of_one_nullable_candidate_is_imputed():
    spectrum, y, table = labelled_problem()
    column = table.rs3.mask(np.arange(50) == 4)
    nullable = scan(spectrum, y, column.astype("Float64"))
    assert nullable.missing.values.tolist() == [1]
    assert_allclose(nullable.beta, scan(spectrum, y, column.to_frame()).beta, rtol=1e-12)


def test_a_column_of_other_people_is_refused():
    spectrum, y, table = labelled_problem()
    with pytest.raises(ValueError, match="candidates and the spectrum do not have the same ids"):
        scan(spectrum, y, table.rs3.rename({"p3": "q3"}))


def test_rows_of_candidates_are_selected_by_id_from_more_people():
    spectrum, y, markers = labelled_problem()
    W = pd.DataFrame(problem_of("full")[0], y.index)
    design = flmm.Design.from_arrays(y.iloc[5:], np.ones((45, 1)), W=W.iloc[5:])
    spectrum = design.spectrum()
    expected = scan(spectrum, design.y, markers.iloc[5:].to_numpy())
    assert_allclose(scan(spectrum, design.y, markers).beta, expected.beta, rtol=1e-10)
    assert_array_equal(scan(spectrum, design.y, markers.loc[list(design.ids)]).beta, expected.beta)
    with pytest.raises(ValueError, match=r"1 ids of the spectrum are not in candidates \('p49'\)"):
        scan(spectrum, design.y, markers.iloc[:-1])
    with pytest.raises(ValueError, match="candidates has 50 rows but the spectrum has 45: they must describe the same"):
        scan(spectrum, design.y, markers.to_numpy())


@pytest.mark.parametrize("groups", [None, ["a", "b"] * 6])
def test_a_code_for_missing_values_in_y_warns_once_and_the_replacement_works(groups):
    spectrum, y, table = labelled_problem()
    y = y.mask(np.arange(50) < 3, -99)
    several = spectrum if groups is None else dict.fromkeys(groups, spectrum)
    with pytest.warns(UserWarning, match="y is -99 in 3 of 50 rows") as record:
        scan(several, y, table, groups=groups)
    assert len(record) == 1
    assert "replace it by NaN, y.replace(-99, np.nan): flmm.Design" in str(record[0].message)
    assert y.replace(-99, np.nan).isna().sum() == 3


def test_a_code_for_missing_values_in_an_array_names_what_replaces_it():
    spectrum, y, table = labelled_problem()
    y = np.where(np.arange(50) < 3, -99, y)
    with pytest.warns(UserWarning, match=r"by NaN, np.where\(y == -99, np.nan, y\): flmm.Design"):
        scan(spectrum, y, table)
    replaced = np.where(y == -99, np.nan, y)
    assert_array_equal(replaced[3:], y[3:])
    assert np.isnan(replaced[:3]).all()
