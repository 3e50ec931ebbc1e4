"""Caterpillars and shares: places, order and intervals of what is drawn."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from scipy.stats import norm

import pm_fastlmm as flmm


def drawn(ax):
    """Points and segments, in the order of their height."""
    points = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections if not hasattr(c, "get_segments")])
    lines = np.array([s for c in ax.collections if hasattr(c, "get_segments") for s in c.get_segments()])
    return points[np.argsort(points[:, 1])], lines[np.argsort(lines[:, 0, 1])][:, :, 0]


def test_effects_stand_in_their_order_with_intervals_of_their_error(penicillin):
    ax = flmm.plots.plot_effects(penicillin, "sample", level=0.9)
    u, pev = penicillin.blup("sample"), penicillin.pev("sample")
    order = u.sort_values().index
    points, intervals = drawn(ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(order)
    assert_allclose(points[:, 0], u[order])
    half = norm.ppf(0.95) * np.sqrt(pev[order])
    assert_allclose(intervals, np.column_stack([u[order] - half, u[order] + half]))
    full = [c for c in ax.collections if hasattr(c, "get_segments") and c.get_alpha() == 1]
    assert len(full[0].get_segments()) == (np.abs(u[order]) > half).sum()


def test_columns_of_a_term_stand_beside_each_other_in_the_order_of_the_first():
    fit = flmm.find_reml("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False)
    left, right = flmm.plots.plot_effects(fit)
    order = fit.blup("Subject")["Intercept"].sort_values().index
    assert_allclose(drawn(left)[0][:, 0], fit.blup("Subject").loc[order, "Intercept"])
    assert_allclose(drawn(right)[0][:, 0], fit.blup("Subject").loc[order, "Days"])


def test_effects_of_one_kernel_are_those_of_its_rows():
    y = pd.Series([1.0, 2, 1, 5, 6, 5], index=list("abcdef"))
    batch = pd.DataFrame(np.repeat(np.eye(2), 3, axis=0), index=y.index)
    fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((6, 1))), y)
    ax = flmm.plots.plot_effects(fit)
    assert_allclose(drawn(ax)[0][:, 0], np.sort(fit.blup()))
    assert {label.get_text() for label in ax.get_yticklabels()} == set("abcdef")


@pytest.fixture(scope="module")
def draws():
    rng = np.random.default_rng(2)
    u = rng.normal(size=(2, 200, 5)) + np.array([3, 1, 5, 4, 2])
    share = rng.dirichlet([3, 2, 1], size=(2, 200))
    variables = {"y_g": (("chain", "draw", "g"), u), "y_share": (("chain", "draw", "y_component"), share)}
    coords = {"g": list("abcde"), "y_component": ["g", "h", "residual"]}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords=coords)})


def test_draws_of_effects_are_a_forest_in_their_order(draws):
    shown = flmm.plots.plot_effects(draws, "y_g", level=0.8)
    assert list(shown.data["y_g"].coords["g"].values) == list("cdaeb")
    points = [shown.viz["point_estimate"]["y_g"].sel(g=g).item().get_offsets()[0] for g in "cdaeb"]
    assert_allclose([p[0] for p in points], draws.posterior["y_g"].mean(("chain", "draw")).sel(g=list("cdaeb")))
    trunk = shown.viz["twig"]["y_g"].sel(g="c").item().get_xdata()
    assert_allclose(trunk, draws.posterior["y_g"].sel(g="c").quantile([0.1, 0.9]), rtol=1e-3)


def test_draws_of_shares_are_found_by_their_name(draws):
    shown = flmm.plots.plot_shares(draws)
    point = shown.viz["point_estimate"]["y_share"].sel(y_component="h").item().get_offsets()[0][0]
    assert_allclose(point, draws.posterior["y_share"].sel(y_component="h").mean())


def test_shares_have_the_intervals_of_the_delta_method(penicillin):
    ax = flmm.plots.plot_shares(penicillin, level=0.9)
    points, intervals = drawn(ax)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["residual", "sample", "plate"]
    s = penicillin.shares[names].to_numpy()
    assert_allclose(points[:, 0], s)
    # each column of Z has one 1 in a row, so that the variances are θ, and shares have the derivatives (I - s1ᵀ)/total
    theta = penicillin.theta[names].to_numpy()
    J = (np.eye(3) - s[:, None]) / theta.sum()
    se = np.sqrt(np.diag(J @ penicillin.cov.loc[names, names].to_numpy() @ J.T)) / (s * (1 - s))
    logit = np.log(s / (1 - s))
    expected = 1 / (1 + np.exp(-(logit[:, None] + norm.ppf(0.95) * se[:, None] * [-1, 1])))
    assert_allclose(intervals, expected, rtol=1e-5)


def test_shares_of_one_kernel_have_profile_intervals_and_a_share_of_0_a_one_sided_one():
    data = flmm.datasets.dyestuff()
    batch = pd.get_dummies(data["Batch"]).astype(float)
    fit = flmm.reml(flmm.Spectrum.from_factor(batch, np.ones((30, 1))), data["Yield"])
    low, high = fit.interval("h2")
    assert_allclose(fit.share_intervals(), [[fit.h2, low, high], [1 - fit.h2, 1 - high, 1 - low]])
    flat = flmm.find_reml(
        "Yield ~ 1 + (1 | Batch)", data.assign(Yield=np.tile([1.0, 2, 3, 5, 9], 6)), progressbar=False
    )
    found, exact = flat.share_intervals(), flmm.reml(fit.spectrum, flat.node.observed)
    assert_allclose(found.loc["Batch", ["lower", "upper"]].astype(float), exact.interval("h2"), rtol=1e-5)
    assert_allclose(found.loc["residual", ["lower", "upper"]].astype(float), [1 - found.loc["Batch", "upper"], 1])
    assert "one-sided" in found.attrs["notes"]["Batch"]
    assert "one-sided" in exact.share_intervals().attrs["notes"]["sigma2_g"]
    assert "on the boundary" in [text.get_text() for text in flmm.plots.plot_shares(flat).texts]


def test_what_is_not_there_is_refused(penicillin, draws):
    with pytest.raises(ValueError, match="several terms: name one of plate, sample"):
        flmm.plots.plot_effects(penicillin)
    with pytest.raises(ValueError, match="there is no term 'dish'"):
        flmm.plots.plot_effects(penicillin, "dish")
    with pytest.raises(ValueError, match=r"no variable 'y_h': name one of y_g, y_share; flmm.recover_effects"):
        flmm.plots.plot_effects(draws, "y_h")
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        flmm.plots.plot_shares(penicillin, level=95)
