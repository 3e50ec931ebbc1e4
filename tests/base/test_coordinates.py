"""Coordinates of Gaussian processes: degenerate domains, stated errors, columns in another order, rows of other data"""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm.base.arrays import Labelled, columns_in_order

RANGE = {"kernel": "se", "lengthscale": (0.3, 1.0), "noise_ratio_min": 0.1}


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(6)
    return pd.DataFrame({"east": rng.uniform(0, 1, size=200), "north": rng.uniform(0, 2, size=200)})


def posterior(**values):
    draws = {name: (("chain", "draw"), np.full((1, 2), value)) for name, value in values.items()}
    data = xr.Dataset(draws, coords={"chain": [0], "draw": [0, 1]})
    return xr.DataTree.from_dict({"posterior": data})


# ---------------------------------------------------------------- a domain without width


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            lambda p: p.assign(north=1.5),
            r"coordinate 'north' of x is 1.5 in all rows.* on a line.* x = x\[\['east'\]\], or",
        ),
        (
            lambda p: p.assign(east=0.0),
            r"coordinate 'east' of x is 0 in all rows.* on a line.* x = x\[\['north'\]\], or",
        ),
        (
            lambda p: np.column_stack([p.east, p.east * 0 - 2]),
            r"coordinate 1 of x is -2 .* x = x\[:, \[0\]\], or give dom",
        ),
        (
            lambda p: p.iloc[:1],
            "coordinate 'east' of x is .* x is one point, from which no lengthscale is learnt. domain=",
        ),
        (lambda p: p.iloc[[3, 3, 3]].reset_index(drop=True), "coordinate 'east' of x is .* x is one point"),
        (lambda p: np.full(20, 0.25), "coordinate 0 of x is 0.25 in all rows.* x is one point"),
        (lambda p: p.assign(up=1.0), r"domain must be .* for each of two dimensions, got shape \(3, 2\)"),
    ],
)
def test_points_without_extent_name_the_axis_and_the_remedy(points, x, message):
    with pytest.raises(ValueError, match=message):
        flmm.FourierBasis(x(points), **RANGE)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ([(0, 1), (2, 2)], r"domain must be finite and increasing, but that of coordinate 1 is \(2, 2\)"),
        ([(1, 0), (0, 2)], r"but that of coordinate 0 is \(1, 0\): give \(low, high\) for each"),
        ([(0, np.inf), (0, 2)], r"but that of coordinate 0 is \(0, inf\)"),
        ((np.nan, 1), r"but that of coordinate 0 is \(nan, 1\)"),
        (3.0, r"domain must be \(low, high\)"),
    ],
)
def test_a_domain_that_is_none_names_the_axis(domain, message):
    with pytest.raises(ValueError, match=message):
        flmm.FourierBasis(domain=domain, n=100, **RANGE)


def test_infinite_points_are_refused():
    with pytest.raises(ValueError, match=r"x has 1 values that are NaN or infinite, the first at \(1, 0\)"):
        flmm.FourierBasis([[0.0, 1.0], [np.inf, 2.0]], **RANGE)


def test_the_remedies_work(points):
    flat = points.assign(north=1.5)
    rng = np.random.default_rng(0)
    y = np.sin(5 * flat.east) + rng.normal(size=200) / 3

    def loglik(x, **kwargs):
        basis = flmm.FourierBasis(x, **RANGE, **kwargs)
        with pm.Model() as model:
            v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
            node = flmm.FourierLMM(
                "y", statistics=flmm.FourierStatistics.from_arrays(basis, x, y), lengthscale=0.5, sigma2=v, sigma2_e=e
            )
        return float(model.compile_logp(vars=[node])({"v_log__": 0.0, "e_log__": -2.0}))

    r = np.abs(flat.east.to_numpy()[:, None] - flat.east.to_numpy())
    V = np.exp(-0.5 * (r / 0.5) ** 2) + np.exp(-2.0) * np.eye(200)
    exact = -0.5 * (200 * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + y @ np.linalg.solve(V, y))
    assert_allclose(loglik(flat[["east"]]), exact, atol=0.05)
    assert_allclose(loglik(flat, domain=[(0, 1), (1, 2)]), exact, atol=0.05)


# ---------------------------------------------------------------- the stated error


@pytest.mark.parametrize(
    ("kernel", "lengthscale", "noise"),
    [("matern52", (0.1, 1.0), 0.01), ("se", (0.1, 0.5), 1e-3), ("matern32", (0.2, 1.0), 0.1)],
)
def test_the_error_of_the_log_likelihood_is_below_the_stated_one(kernel, lengthscale, noise, fourier_cases):
    """Exactly, over data of the model: the mean and the standard deviation of the difference of two log-densities."""
    n = 300
    x = (np.arange(n)[:, None] + 0.5) / n
    basis = flmm.FourierBasis(x, kernel, lengthscale=lengthscale, domain=(0, 1), noise_ratio_min=noise)
    Z = basis.features(x)
    for ell, delta in ((lengthscale[0], noise), (lengthscale[0], 1.0), (lengthscale[1], noise)):
        V = fourier_cases.correlation(kernel, x, x, ell) + delta * np.eye(n)
        ratio = np.linalg.solve((Z * np.exp(basis.log_weights(ell))) @ Z.T + delta * np.eye(n), V)
        mean = 0.5 * (np.trace(ratio) - n - np.linalg.slogdet(ratio)[1])
        spread = np.sqrt(0.5 * np.trace((ratio - np.eye(n)) @ (ratio - np.eye(n))))
        assert mean < basis.divergence
        assert spread < basis.loglik_error
        if (ell, delta) == (lengthscale[0], noise):
            assert spread > 3 * basis.divergence  # which therefore is not the error of a log-likelihood
            assert spread > basis.loglik_error / 10


def test_both_figures_are_printed_by_name():
    basis = flmm.FourierBasis(domain=(0, 1), n=1000, **RANGE)
    assert f"divergence {basis.divergence:.2g}, log-likelihood ± {basis.loglik_error:.1g}, for 1000 rows" in repr(basis)
    assert "error of the log-likelihood" in basis._repr_html_()
    assert_allclose(basis.loglik_error, np.sqrt(2 * basis.divergence), rtol=0.3)


# ---------------------------------------------------------------- columns go by their names


def test_columns_are_put_in_order_by_name():
    given = Labelled(np.arange(6.0).reshape(2, 3), None, ("c", "a", "b"))
    assert_array_equal(columns_in_order(given, ("a", "b"), name="x"), [[1, 2], [4, 5]])
    for unnamed in (None, ("0", "1", "2")):
        assert columns_in_order(given, unnamed, name="x") is given.values
    with pytest.raises(
        ValueError, match=r"x has no column 'd': the columns are d, a, it has c, a, b. .* x.to_numpy\(\)"
    ):
        columns_in_order(given, ("d", "a"), name="x")


def test_columns_of_one_name_are_taken_by_their_place_or_refused():
    given = Labelled(np.arange(6.0).reshape(2, 3), None, ("a", "b", "a"))
    assert columns_in_order(given, ("a", "b", "a"), name="x") is given.values
    with pytest.raises(ValueError, match="x has several columns 'a': each needs a name of its own"):
        columns_in_order(given, ("b", "a"), name="x")


def fourier_model(points, y, basis, **kwargs):
    statistics = flmm.FourierStatistics.from_arrays(basis, points, y, **kwargs)
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
        flmm.FourierLMM("y", statistics=statistics, lengthscale=0.5, sigma2=v, sigma2_e=e)
    return model, statistics


@pytest.mark.parametrize("named", ["by x", "by the first rows"])
def test_the_fourier_engine_takes_coordinates_by_name(points, named):
    rng = np.random.default_rng(1)
    y = pd.Series(np.sin(3 * points.east) + points.north + rng.normal(size=200) / 3)
    box = [(0, 1), (0, 2)]
    basis = flmm.FourierBasis(points if named == "by x" else None, n=200, domain=box, **RANGE)
    swapped = points[["north", "east"]]
    model, statistics = fourier_model(points, y, basis)
    if named == "by x":
        assert_allclose(basis.features(swapped), basis.features(points))
        assert_allclose(flmm.FourierStatistics.from_arrays(basis, swapped, y).modes, statistics.modes)
    half = flmm.FourierStatistics.from_arrays(basis, points[:100], y[:100]).update(swapped[100:], y[100:])
    assert_allclose(half.modes, statistics.modes, rtol=1e-9, atol=1e-9)
    fit = flmm.find_reml(model, progressbar=False)
    new, moved = points[:5], swapped[:5]
    expected = fit.predict(x_new=new.to_numpy()).mean
    assert_allclose(fit.predict(x_new=new).mean, expected)
    assert_allclose(fit.predict(x_new=moved).mean, expected)
    assert_allclose(fit.predict(x_new=moved.assign(extra=1.0)).mean, expected)
    with pytest.raises(ValueError, match="x_new has no column 'east': the columns are east, north, it has lon, north"):
        fit.predict(x_new=new.rename(columns={"east": "lon"}))
    tree = posterior(v=1.0, e=0.1)
    draws = [
        flmm.predict(tree, x_new=x, model=model, random_seed=1).predictions["y_mean"].to_numpy() for x in (new, moved)
    ]
    assert_allclose(*draws)


def test_bases_of_other_coordinates_do_not_merge(points):
    y = np.arange(200.0)
    box = [(0, 1), (0, 1)]
    inside = points.assign(north=points.north / 2)
    mine = flmm.FourierBasis(inside, domain=box, **RANGE)
    other = flmm.FourierBasis(inside[["north", "east"]], domain=box, **RANGE)
    with pytest.raises(ValueError, match="the statistics are of different kinds"):
        flmm.FourierStatistics.from_arrays(mine, inside, y).merge(flmm.FourierStatistics.from_arrays(other, inside, y))
    unnamed = flmm.FourierBasis(inside.to_numpy(), domain=box, **RANGE)
    assert (
        flmm.FourierStatistics.from_arrays(mine, inside, y)
        .merge(flmm.FourierStatistics.from_arrays(unnamed, inside.to_numpy(), y))
        .n
        == 400
    )


def test_a_lengthscale_spectrum_takes_coordinates_by_name(points):
    few = points[:30]
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(few, "se", lengthscale=(0.3, 1.0), progressbar=False)
    new = points[30:34]
    expected, within = spectrum.new_kernels(new.to_numpy())
    cross, own = spectrum.new_kernels(new[["north", "east"]])
    assert_allclose(cross(0.5), expected(0.5))
    assert_allclose(own(0.5), within(0.5))
    distance = np.linalg.norm(new.to_numpy()[:, None] - few.to_numpy(), axis=-1)
    assert_allclose(cross(0.5), np.exp(-0.5 * (distance / 0.5) ** 2))
    with pytest.raises(ValueError, match="x_new has no column 'north': the columns are east, north, it has east, up"):
        spectrum.new_kernels(new.rename(columns={"north": "up"}))


# ---------------------------------------------------------------- the rows of a model that keeps none


@pytest.fixture(scope="module")
def kept(points):
    rng = np.random.default_rng(2)
    X = pd.DataFrame({"one": 1.0, "t": rng.normal(size=200)})
    y = pd.Series(np.sin(3 * points.east) + points.north + X.t + rng.normal(size=200) / 3)
    basis = flmm.FourierBasis(points, domain=[(0, 1), (0, 2)], **RANGE)
    model, _ = fourier_model(points, y, basis, X=X)
    V = basis.features(points) * np.exp(basis.log_weights(0.5)) @ basis.features(points).T + 0.2 * np.eye(200)
    return model, points, y, X, V


def pointwise(model, *rows):
    tree = flmm.pointwise_log_likelihood(posterior(v=1.0, e=0.2), model=model, rows=rows, progressbar=False)
    return tree.log_likelihood["y"].to_numpy()[0, 0]


def test_rows_are_aligned_by_their_labels(kept):
    model, x, y, X, V = kept
    X_ = X.to_numpy()
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ X_ @ np.linalg.solve(X_.T @ Vi @ X_, X_.T @ Vi)
    variance = 1 / np.diag(P)
    expected = -0.5 * (np.log(2 * np.pi * variance) + (P @ y.to_numpy()) ** 2 * variance)
    assert_allclose(pointwise(model, x, y, X), expected, rtol=1e-6)
    other = np.random.default_rng(0).permutation(200)
    moved = pointwise(model, x[["north", "east"]], y.iloc[other], X[["t", "one"]].iloc[other[::-1]])
    assert_allclose(moved, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        lambda x, y, X: (x.to_numpy(), y.to_numpy()[::-1], X.to_numpy()),
        lambda x, y, X: (x.to_numpy()[::-1], y.to_numpy(), X.to_numpy()),
        lambda x, y, X: (x.to_numpy(), y.to_numpy(), X.to_numpy()[::-1]),
        lambda x, y, X: (x.to_numpy() * [1, 0.999], y.to_numpy(), X.to_numpy()),
        lambda x, y, X: (x.to_numpy(), -y.to_numpy(), X.to_numpy()),
        lambda x, y, X: (x.to_numpy(), y.to_numpy(), X.to_numpy() * [1, 2]),
        lambda x, y, X: (x.to_numpy(), y.to_numpy() + 1, X.to_numpy()),
        lambda x, y, X: (x.to_numpy(), y.to_numpy(), X.to_numpy()[:, ::-1]),
    ],
)
def test_rows_of_other_data_are_refused(kept, other):
    model, *data, _ = kept
    with pytest.raises(
        ValueError, match="the rows are not those of y: their squares and products do not add up to its"
    ):
        pointwise(model, *other(*data))


def test_rows_need_all_columns(kept):
    model, x, y, X, _ = kept
    with pytest.raises(ValueError, match=r"the X of rows= has 0 columns, but the model has 2 \(one, t\)"):
        pointwise(model, x, y)
    with pytest.raises(ValueError, match="y has 199 rows but"):
        pointwise(model, x.iloc[1:], y.iloc[1:], X.iloc[1:])


def test_rows_of_a_collinear_design_are_given_whole(points):
    rng = np.random.default_rng(2)
    y, X = rng.normal(size=200), np.column_stack([np.ones(200), points.east, 2 * points.east - 1])
    basis = flmm.FourierBasis(points, **RANGE)
    with pytest.warns(UserWarning, match="'x2' dropped"):
        model, _ = fourier_model(points, y, basis, X=X)
    full, _ = fourier_model(points, y, basis, X=X[:, :2])
    assert_allclose(pointwise(model, points, y, X), pointwise(full, points, y, X[:, :2]), rtol=1e-6)
    X[3, 2] += 0.1
    with pytest.raises(ValueError, match="the rows are not those of y"):
        pointwise(model, points, y, X)


# ---------------------------------------------------------------- random effects of new rows


def test_columns_of_a_factor_go_by_name():
    rng = np.random.default_rng(4)
    W = pd.DataFrame(rng.normal(size=(20, 3)), columns=list("abc"))
    fit = flmm.reml(flmm.Spectrum.from_factor(W, np.ones((20, 1))), W.a * 3 + rng.normal(size=20))
    new = pd.DataFrame(rng.normal(size=(4, 3)), columns=list("abc"))
    one = np.ones((4, 1))
    expected = fit.predict(one, W_new=new.to_numpy())
    assert_allclose(fit.predict(one, W_new=new[["c", "a", "b"]]).mean, expected.mean)
    assert_allclose(fit.predict(one, W_new=new[["c", "a", "b"]]).variance, expected.variance)
    with pytest.raises(ValueError, match="W_new has no column 'b': the columns are a, b, c, it has a, d, c"):
        fit.predict(one, W_new=new.rename(columns={"b": "d"}))


def test_rows_and_columns_of_terms_go_by_their_labels():
    rng = np.random.default_rng(4)
    n = 40
    d = pd.DataFrame({"g": rng.choice(list("klmn"), n), "t": rng.normal(size=n), "u": rng.normal(size=n)})
    W = pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc"))
    y = d.t + 2 * W.a + rng.normal(size=n)
    with pm.Model() as model:
        v, w, e = (pm.HalfNormal(name, 2) for name in "vwe")
        slopes = flmm.Term(d.g, flmm.covariance.diagonal(pt.stack([v, 2 * v])), columns=d[["t", "u"]], name="g")
        flmm.StructuredLMM("y", X=np.ones((n, 1)), terms=[slopes, flmm.Term(W, flmm.covariance.scalar(w), name="W")],
                           sigma2_e=e, observed=y)  # fmt: skip
    fit = flmm.find_reml(model, progressbar=False)
    ids = list("pqr")
    X = pd.DataFrame({"one": 1.0}, index=ids)
    group, covariates = pd.Series(list("kmz"), index=ids), pd.DataFrame(rng.normal(size=(3, 2)), ids, ["t", "u"])
    table = pd.DataFrame(rng.normal(size=(3, 3)), ids, list("abc"))
    plain = {"g": (group.to_numpy(), covariates.to_numpy()), "W": table.to_numpy()}
    expected = fit.predict(X, plain)
    moved = {
        "g": (group[::-1], covariates.loc[["q", "p", "r"], ["u", "t"]]),
        "W": table.loc[["r", "p", "q"], list("cab")],
    }
    got = fit.predict(X, moved)
    assert_allclose(got.mean, expected.mean)
    assert_allclose(got.variance, expected.variance)
    assert got.mean.index.tolist() == ids
    with pytest.raises(ValueError, match="Z_new of 'W' and X_new do not have the same ids"):
        fit.predict(X, plain | {"W": table.rename(index={"p": "other"})})
    with pytest.raises(ValueError, match="Z_new of 'W' has no column 'b': the columns are a, b, c, it has a, x, c"):
        fit.predict(X, plain | {"W": table.rename(columns={"b": "x"})})
    with pytest.raises(ValueError, match="the columns of 'g' has 2 rows but Z_new of 'g' has 3"):
        fit.predict(X, plain | {"g": (group, covariates[:2])})
