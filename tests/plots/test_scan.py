"""Where candidates lie and how high, λ_GC, and the band of p-values of no effect."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from scipy.stats import chi2

import pm_fastlmm as flmm


@pytest.fixture(scope="module")
def scan():
    """60 candidates on three chromosomes, one untested, two beyond the threshold and one of them at p = 0."""
    p = np.random.default_rng(3).uniform(size=60)
    p[[5, 30, 45]] = [np.nan, 1e-6, 0.0]
    coords = {"candidate": [f"g{j}" for j in range(60)], "group": ("candidate", np.repeat(["1", "2", "X"], 20))}
    return xr.Dataset({"p_value": ("candidate", p)}, coords=coords)


def drawn(collection):
    return np.asarray(collection.get_offsets())


def test_candidates_lie_by_chromosome_and_position(scan):
    position = np.tile(np.arange(20) * 10.0 + 500, 3)
    ax = flmm.plots.plot_manhattan(scan, position=position)
    even, odd, found, zero = map(drawn, ax.collections)
    assert (len(even), len(odd)) == (38, 19)
    height = -np.log10(scan.p_value.clip(min=1e-6).to_numpy())
    assert_allclose(np.sort(odd[:, 1]), np.sort(np.delete(height[20:40], 10)))
    first = even[even[:, 0] < odd[:, 0].min()]
    assert_allclose(first[:, 0] - first[0, 0], np.delete(position[:20], 5) - 500)
    assert odd[:, 0].max() < even[even[:, 0] > odd[:, 0].min(), 0].min()
    assert_allclose(found[:, 1], [6, 6])  # p = 0 is as high as the largest of the others
    assert_allclose(zero, found[1:])
    assert_allclose(ax.lines[0].get_ydata(), -np.log10(0.05 / 59))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "X"]
    assert "1 candidates were not tested" in ax.get_xlabel()


def test_a_threshold_of_ones_own_decides_what_is_found(scan):
    ax = flmm.plots.plot_manhattan(scan, threshold=0.1)
    assert len(drawn(ax.collections[2])) == (scan.p_value <= 0.1).sum()


def test_the_inflation_is_that_of_the_median_and_untested_ones_do_not_count():
    p = np.random.default_rng(1).uniform(size=501)
    expected = np.median(chi2(1).isf(p)) / chi2(1).ppf(0.5)
    assert_allclose(flmm.genomic_inflation(np.append(p, np.nan)), expected, rtol=1e-12)
    inflated = chi2(1).sf(1.3 * chi2(1).isf(p))
    assert_allclose(flmm.genomic_inflation(inflated), 1.3 * expected)
    assert np.isnan(flmm.genomic_inflation([np.nan]))


def test_quantiles_of_p_values_with_their_band(scan):
    ax = flmm.plots.plot_scan_qq(scan, level=0.9)
    expected, observed = drawn(ax.collections[1]).T
    p = np.sort(scan.p_value.dropna("candidate"))
    assert_allclose(observed, -np.log10(np.maximum(p, p[1])))
    ordered = np.sort(np.random.default_rng(2).uniform(size=(20_000, 59)), axis=1)
    assert_allclose(expected, -np.log10(np.median(ordered, axis=0)), atol=0.02)
    band = ax.collections[0].get_paths()[0].vertices
    for place in (0, 20, 58):
        ends = np.unique(band[np.isclose(band[:, 0], expected[place])][:, 1])
        assert_allclose(ends, np.sort(-np.log10(np.quantile(ordered[:, place], [0.05, 0.95]))), atol=0.05)
    assert f"= {flmm.genomic_inflation(scan):.3f}" in ax.get_legend().get_texts()[1].get_text()


def test_scans_that_cannot_be_drawn_are_refused(scan):
    with pytest.raises(ValueError, match="chromosome has 2 entries but the scan has 60 candidates"):
        flmm.plots.plot_manhattan(scan, chromosome=[1, 2])
    with pytest.raises(ValueError, match="threshold must be between 0 and 1, as 5e-8, got 8"):
        flmm.plots.plot_manhattan(scan, threshold=8)
    with pytest.raises(ValueError, match="no candidate of the scan was tested"):
        flmm.plots.plot_scan_qq([np.nan, np.nan])


def test_a_scan_that_has_logarithms_is_drawn_by_them(scan):
    log10 = np.log10(scan.p_value.where(scan.p_value != 0, 1e-300)) - 20
    log10[45] = -400.0
    known = scan.assign(log10_p=log10)
    *_, found, zero = map(drawn, flmm.plots.plot_manhattan(known).collections)
    assert_allclose(sorted(found[:, 1]), [26, 400])
    assert len(zero) == 0
    (points,) = (drawn(c) for c in flmm.plots.plot_scan_qq(known).collections[1:])
    assert_allclose(points[:, 1].max(), 400)
