"""New rows outside the row space of X: NaN with one warning that names cell or column; all other rows are exact."""

import warnings

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from formulaic import model_matrix
from numpy.testing import assert_allclose, assert_array_equal

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov
from pm_fastlmm.spectrum.columns import DesignColumns
from pm_fastlmm.spectrum.projection import Projection


def estimable(X, rows):
    """Whether rows lie in the row space of X, by its singular vectors; columns in units of their own."""
    scale = np.maximum(np.abs(X).max(axis=0), np.abs(rows).max(axis=0))
    scale[scale == 0] = 1
    _, s, Vt = np.linalg.svd(X / scale)
    null = Vt[np.count_nonzero(s > 1e-9 * s[0]) :]
    return np.abs(rows / scale @ null.T).max(axis=1, initial=0.0) < 1e-8 * np.abs(rows / scale).max(axis=1)


def generalised(X, V, y, rows, cross, prior):
    """Mean and variance of f* by generalised least squares with a pseudo-inverse: dense, whatever the rank of X."""
    Vi = np.linalg.inv(V)
    scale = np.abs(X).max(axis=0) + (np.abs(X).max(axis=0) == 0)
    X, rows = X / scale, rows / scale
    inverse = np.linalg.pinv(X.T @ Vi @ X, rcond=1e-11)
    beta = inverse @ X.T @ Vi @ y
    mean = rows @ beta + cross @ Vi @ (y - X @ beta)
    h = rows - cross @ Vi @ X
    variance = prior - np.einsum("mi,ij,mj->m", cross, Vi, cross) + np.einsum("mi,ij,mj->m", h, inverse, h)
    return mean, variance


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(3)
    n = 70
    d = pd.DataFrame({"a": rng.choice(list("xyz"), n), "b": rng.choice(list("pq"), n), "c": rng.choice(list("uv"), n)})
    d = d[~((d.a == "y") & (d.b == "q")) & ~((d.a == "x") & (d.c == "v") & (d.b == "p"))].reset_index(drop=True)
    n = len(d)
    d["s"] = rng.normal(30, 5, size=n)
    d["t"] = 1.8 * d.s + 32
    d["few"] = rng.choice([1.0, 2.0, 5.0], n)
    d["g"] = rng.choice(list("ABCDEFGH"), n)
    d["y"] = 500 + d.s + 3 * (d.a == "z") + rng.normal(size=8)[d.g.map("ABCDEFGH".index)] + rng.normal(size=n)
    return d


FORMULAS = {
    "y ~ 0 + a:b": "a = y, b = q",
    "y ~ a*b": "a = y, b = q",
    "y ~ a/b": "a = y, b = q",
    "y ~ b/a": "a = y, b = q",
    "y ~ a*b*c + s": "a = x, b = p, c = v",
    "y ~ s + t": "s = 30, t = 90",
    "y ~ t + s + a": "s = 30, t = 90",
    "y ~ few + I(few**2) + I(few**3)": "few = 3",
    "y ~ a*b + s + t": "a = y, b = q",
    "y ~ 0 + C(a, contr.sum):b": "a = y, b = q",
    "y ~ factor(a):b + I(few^2)": "a = y, b = q",
    "y ~ s + I(2*s) + I(s**2)": None,
}


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.filterwarnings("ignore:X has rank")
def test_a_prediction_is_exact_or_nan_and_named(table, formula):
    new = pd.DataFrame([(a, b, c) for a in "xyz" for b in "pq" for c in "uv"], columns=list("abc"))
    new["s"], new["few"] = np.r_[np.full(11, 25.0), 30.0], np.tile([1.0, 2.0, 5.0, 3.0], 3)
    new["t"], new["g"] = np.r_[1.8 * np.full(11, 25.0) + 32, 90.0], [*"ABCDEFGHAB", "new", "new"]
    fit = flmm.find_reml(flmm.lmm_model(formula + " + (1|g)", table), progressbar=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = fit.predict(data=new)
    plain = formula.replace("factor(a)", "C(a)").replace("^", "**")  # what R writes otherwise
    spec = model_matrix(plain, table, context=1).rhs.model_spec
    X, rows = (np.asarray(spec.get_model_matrix(part), dtype=float) for part in (table, new))
    known = estimable(X, rows)
    assert_array_equal(np.isfinite(got.mean), known)
    assert_array_equal(np.isfinite(got.variance), known)
    assert_array_equal(np.isfinite(got.se_observation), known)
    assert known.any()
    if FORMULAS[formula] is None:
        assert known.all()
        assert not caught
    else:
        assert not known.all()
        assert len(caught) == 1
        assert f"of {int((~known).sum())} of 12 new rows, which are predicted as NaN: " in str(caught[0].message)
        assert FORMULAS[formula] in str(caught[0].message)
    u = fit.theta["g"] * (new.g.to_numpy()[:, None] == table.g.to_numpy())
    mean, variance = generalised(X, fit.objective.covariance(fit.at()), table.y.to_numpy(), rows, u, fit.theta["g"])
    assert_allclose(got.mean[known], mean[known], rtol=1e-8)
    assert_allclose(got.variance[known], variance[known], rtol=1e-6)


def test_the_warning_at_the_fit_says_what_becomes_of_other_rows(table):
    with pytest.warns(
        UserWarning, match=r"X has rank 5 but 6 columns: 'a\[T.y\]:b\[T.q\]' dropped, .* will be predicted as NaN"
    ):
        flmm.lmm_model("y ~ a*b + (1|g)", table)


def test_the_relation_that_a_row_breaks_is_shown(table):
    with pytest.warns(UserWarning, match="X has rank"):
        fit = flmm.find_reml(flmm.lmm_model("y ~ s + t + (1|g)", table), progressbar=False)
    with pytest.warns(UserWarning, match=r"s = 30, t = 90 \('t' is 32·'Intercept' \+ 1.8·'s' in all rows of the fit"):
        fit.predict(data=pd.DataFrame({"s": [30.0], "t": [90.0], "g": ["A"]}))


# ---------------------------------------------------------------- designs given as arrays, each engine


def dummies(n, seed=0):
    """An intercept with all indicators of a factor, a covariate and its double, a column of zeros: rank 4 of 7."""
    rng = np.random.default_rng(seed)
    level = rng.integers(3, size=n)
    x = 1e3 + rng.normal(size=n)
    return np.column_stack([np.ones(n), np.eye(3)[level], x, 2 * x - 1, np.zeros(n)])


NEW = np.array([
    [1, 1, 0, 0, 1e3, 1999, 0],
    [1, 0, 0, 0, 1e3, 1999, 0],  # of no level
    [1, 0, 1, 0, 990, 1979, 0],  # an extrapolation
    [1, 0, 1, 0, 1e3, 2000, 0],  # off the line
    [1, 0, 0, 1, 1e3, 1999, 1],  # what nobody had
    [0, 0, 0, 0, 0, 0, 0],
])  # fmt: skip
KNOWN = np.array([True, False, True, False, False, False])
KNOWN[-1] = True  # the zero row is in every row space
RELATIONS = r"'x3' is 'x0' - 'x1' - 'x2' .*'x5' is - 'x0' \+ 2·'x4' .*'x6' is 0 "


@pytest.fixture(scope="module")
def kernel():
    rng = np.random.default_rng(8)
    n = 40
    W = rng.normal(size=(n + len(NEW), 50)) / 5
    X = dummies(n)
    y = X @ [3, 1, 2, 0, 0.5, 0, 0] + W[:n] @ rng.normal(size=50) + rng.normal(size=n)
    K = W @ W.T
    return W, K, X, y, n


@pytest.mark.filterwarnings("ignore:X has rank")
@pytest.mark.parametrize("names", [None, list("abcdefg")])
@pytest.mark.parametrize("given", ["K", "W", "subset", "cross-products"])
def test_rows_of_one_kernel(kernel, given, names):
    W, K, X, y, n = kernel
    table = X if names is None else pd.DataFrame(X, columns=names)
    new = NEW if names is None else pd.DataFrame(NEW, columns=names)[names[::-1]]
    response = y
    if given == "K":
        spectrum = flmm.Spectrum.from_covariance(K[:n, :n], table)
    elif given == "W":
        spectrum = flmm.Spectrum.from_factor(W[:n], table)
    elif given == "subset":
        more = np.vstack([X, dummies(20, 1)])
        wider = flmm.Spectrum.from_factor(
            np.vstack([W[:n], W[:20]]), more if names is None else pd.DataFrame(more, columns=names)
        )
        spectrum = wider.subset(np.arange(n))
    else:
        spectrum, response = flmm.KernelStatistics.from_arrays(table, W[:n], y, method="tsqr").factor()
    fit = flmm.reml(spectrum, response)
    place = "K_new" if given == "K" else "W_new"
    parts = {"K_new": K[n:, :n], "K_new_new": K[n:, n:]} if place == "K_new" else {"W_new": W[n:]}
    relations = RELATIONS if names is None else r"'d' is 'a' - 'b' - 'c' .*'f' is - 'a' \+ 2·'e' .*'g' is 0 "
    with pytest.warns(UserWarning, match="of 3 of 6 new rows.*" + relations) as caught:
        got = fit.predict(new, **parts)
    assert len(caught) == 1
    assert_array_equal(np.isfinite(got.mean), KNOWN)
    assert_array_equal(np.isfinite(got.variance), KNOWN)
    V = fit.sigma2_g * K[:n, :n] + fit.sigma2_e * np.eye(n)
    g = fit.sigma2_g
    mean, variance = generalised(X, V, y, NEW, g * K[n:, :n], g * np.diag(K)[n:])
    assert_allclose(got.mean[KNOWN], mean[KNOWN], rtol=1e-7, atol=1e-6)
    assert_allclose(got.variance[KNOWN], variance[KNOWN], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:X has rank")
def test_a_subset_that_loses_a_cell_knows_less_than_the_whole(kernel):
    W, _, X, y, n = kernel
    whole = flmm.Spectrum.from_factor(W[:n], X)
    rows = np.flatnonzero(X[:, 2] == 0)
    part = whole.subset(rows)
    assert part.projection.columns.names == tuple(f"x{j}" for j in range(7))
    assert part.coef == ("x0", "x1", "x4")
    fit = flmm.reml(part, y[rows])
    with pytest.warns(UserWarning, match=r"'x2' is 0 in all rows"):
        got = fit.predict(NEW[[0, 2, 3]], W_new=W[n : n + 3])
    assert_array_equal(np.isfinite(got.mean), [True, False, False])


def test_columns_that_were_dropped_are_needed_to_tell(kernel):
    W, _, X, y, n = kernel
    with pytest.warns(UserWarning, match="X has rank 4 but 7 columns"):
        fit = flmm.reml(flmm.Spectrum.from_factor(W[:n], X), y)
    with pytest.raises(ValueError, match=r"X_new must be \(1, 7\), .* The dropped 'x3', 'x5', 'x6' belong to them"):
        fit.predict(np.ones((1, 4)), W_new=W[:1])
    with pytest.raises(ValueError, match="X_new has no column 'x3', 'x5', 'x6': the columns are x0, x1"):
        fit.predict(pd.DataFrame(np.ones((1, 4)), columns=["x0", "x1", "x2", "x4"]), W_new=W[:1])


TERMS = {"v": 1.3, "e": 0.7}


def posterior(**values):
    draws = {name: (("chain", "draw"), np.full((1, 400), value)) for name, value in values.items()}
    data = xr.Dataset(draws, coords={"chain": [0], "draw": np.arange(400)})
    return xr.DataTree.from_dict({"posterior": data})


@pytest.mark.filterwarnings("ignore:X has rank")
@pytest.mark.parametrize("engine", ["FastLMM", "StructuredLMM", "LengthscaleLMM"])
def test_draws_of_such_rows_are_nan_and_all_others_have_the_right_moments(kernel, engine):
    W, K, X, y, n = kernel
    m = len(NEW)
    values, g = dict(TERMS), 1.3
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
        if engine == "FastLMM":
            spectrum = flmm.Spectrum.from_covariance(K[:n, :n], X)
            flmm.FastLMM("y", sigma2_g=v, sigma2_e=e, spectrum=spectrum, observed=y)
            parts = {"K_new": K[n:, :n], "K_new_new": np.diag(K)[n:]}
        elif engine == "StructuredLMM":
            term = flmm.Term(pd.DataFrame(W[:n]), cov.scalar(v), name="w")
            flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, observed=y)
            parts = {"Z_new": {"w": W[n:]}}
        else:
            x = W[:, :2] * 3
            K = np.exp(-0.5 * ((x[:, None] - x) ** 2).sum(-1))
            spectrum = flmm.LengthscaleSpectrum.from_coordinates(
                x[:n], "se", lengthscale=(0.5, 2.0), X=X, progressbar=False
            )
            ell = pm.Uniform("ell", 0.5, 2.0)
            flmm.LengthscaleLMM("y", lengthscale=ell, sigma2_g=v, sigma2_e=e, spectrum=spectrum, observed=y)
            new, within = spectrum.new_kernels(x[n:])
            parts, values = {"K_new": new, "K_new_new": within}, values | {"ell": 1.0}
    with pytest.warns(UserWarning, match="of 3 of 6 new rows.*" + RELATIONS) as caught:
        idata = flmm.predict(posterior(**values), NEW, **parts, model=model, random_seed=1)
    assert len([w for w in caught if "new rows" in str(w.message)]) == 1
    f = idata.predictions["y_mean"].to_numpy()[0]
    assert_array_equal(np.isfinite(f).all(axis=0), KNOWN)
    assert_array_equal(np.isfinite(idata.predictions["y"]).all(("chain", "draw")), KNOWN)
    V = g * K[:n, :n] + 0.7 * np.eye(n)
    mean, variance = generalised(X, V, y, NEW, g * K[n:, :n], g * np.diag(K)[n:])
    assert f.shape == (400, m)
    assert_allclose((f.mean(axis=0) - mean)[KNOWN] / np.sqrt(variance[KNOWN] / 400), 0, atol=4)
    assert_allclose(f.var(axis=0)[KNOWN], variance[KNOWN], rtol=0.3)


@pytest.mark.filterwarnings("ignore:X has rank")
@pytest.mark.parametrize("treatment", [{"beta": np.ones(4)}, {"beta_mean": np.ones(4), "beta_cov": 2 * np.eye(4)}])
def test_a_prior_of_the_kept_coefficients_tells_nothing_of_such_rows(kernel, treatment):
    W, K, X, y, n = kernel
    X, new = (part - part[:, :1] * [0, 0, 0, 0, 1e3, 2e3, 0] for part in (X, NEW))
    y = y - 500
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
        term = flmm.Term(pd.DataFrame(W[:n]), cov.scalar(v), name="w")
        flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, observed=y, **treatment)
    fit = flmm.find_reml(model, method="ML", progressbar=False)
    V, B = fit.theta["w"] * K + fit.theta["residual"] * np.eye(len(K)), np.zeros((4, 4))
    kept = np.vstack([X, new])[:, [0, 1, 2, 4]]
    C = V - fit.theta["residual"] * np.eye(len(K)) + kept @ treatment.get("beta_cov", B) @ kept.T
    mean = kept @ np.ones(4)
    gain = C[n:, :n] @ np.linalg.inv(C[:n, :n] + fit.theta["residual"] * np.eye(n))
    with pytest.warns(UserWarning, match="of 3 of 6 new rows.*'x6' is 0 "):
        got = fit.predict(new, {"w": W[n:]})
    assert_array_equal(np.isfinite(got.mean), KNOWN)
    assert_array_equal(np.isfinite(got.variance), KNOWN)
    assert_allclose(got.mean[KNOWN], (mean[n:] + gain @ (y - mean[:n]))[KNOWN], rtol=1e-6)
    assert_allclose(got.variance[KNOWN], np.diag(C[n:, n:] - gain @ C[:n, n:])[KNOWN], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:X has rank")
def test_rows_of_term_statistics(kernel):
    """Of data that were streamed, whose few rows with the same inner products stand for all of them."""
    W, K, X, y, n = kernel
    names = list("abcdefg")
    c = flmm.KernelStatistics.from_arrays(pd.DataFrame(X, columns=names), pd.DataFrame(W[:n, :6]).add_prefix("w"), y)
    rows = flmm.TermStatistics.from_statistics(c)
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
        term = flmm.Term(rows.Z, cov.scalar(v), name="w")
        flmm.StructuredLMM("y", X=rows.X, terms=[term], sigma2_e=e, observed=rows)
    fit = flmm.find_reml(model, progressbar=False)
    with pytest.warns(UserWarning, match="of 3 of 6 new rows"):
        got = fit.predict(pd.DataFrame(NEW, columns=names)[names[::-1]], {"w": W[n:, :6]})
    g, K = fit.theta["w"], W[:, :6] @ W[:, :6].T
    V = g * K[:n, :n] + fit.theta["residual"] * np.eye(n)
    mean, variance = generalised(X, V, y, NEW, g * K[n:, :n], g * np.diag(K)[n:])
    assert_array_equal(np.isfinite(got.mean), KNOWN)
    assert_allclose(got.mean[KNOWN], mean[KNOWN], rtol=1e-5, atol=1e-5)
    assert_allclose(got.variance[KNOWN], variance[KNOWN], rtol=1e-5)


def test_where_all_columns_were_zero_other_rows_are_refused():
    with pytest.warns(UserWarning, match="'x0', 'x1' dropped"):
        fit = flmm.reml(flmm.Spectrum.from_covariance(np.diag([1.0, 2, 3, 4]), np.zeros((4, 2))), [1.0, -2, 1, 3])
    assert np.isfinite(fit.predict(np.zeros((1, 2)), np.zeros((1, 4)), K_new_new=[1.0]).se).all()
    with pytest.raises(
        ValueError, match=r"all columns of X \('x0', 'x1'\) were 0 in the fit, and are not in 1 of 2 new"
    ):
        fit.predict([[0, 0], [0, 1]], np.zeros((2, 4)))


@pytest.mark.filterwarnings("ignore:X has rank")
def test_a_function_with_such_fixed_effects(kernel):
    rng = np.random.default_rng(2)
    n = 300
    x, X = rng.uniform(size=n), dummies(300)
    X[:, 4:6] -= 1e3 * np.array([1, 2])
    new = NEW.copy()
    new[:, 4] -= 1e3 * (new[:, 4] != 0)
    new[:, 5] -= 2e3 * (new[:, 5] != 0)
    y = np.sin(6 * x) + X @ [3, 1, 2, 0, 0.5, 0, 0] + rng.normal(size=n) / 3
    basis = flmm.FourierBasis(lengthscale=(0.1, 1.0), domain=(0, 1), n=n, noise_ratio_min=0.05)

    def model_of(X):
        with pm.Model() as model:
            ell, v, e = pm.Uniform("ell", 0.1, 1.0), pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
            flmm.FourierLMM(
                "y",
                statistics=flmm.FourierStatistics.from_arrays(basis, x, y, X),
                lengthscale=ell,
                sigma2=v,
                sigma2_e=e,
            )
        return model

    model, points = model_of(X), np.linspace(0.1, 0.9, len(new))
    fit = flmm.find_reml(model, progressbar=False)
    with pytest.warns(UserWarning, match="of 3 of 6 new rows.*'x6' is 0 "):
        got = fit.predict(new, x_new=points)
    assert_array_equal(np.isfinite(got.mean), KNOWN)
    assert_array_equal(np.isfinite(got.variance), KNOWN)
    full = flmm.find_reml(model_of(X[:, [0, 1, 2, 4]]), progressbar=False).predict(new[:, [0, 1, 2, 4]], x_new=points)
    assert_allclose(got.mean[KNOWN], full.mean[KNOWN], rtol=1e-5)
    assert_allclose(got.variance[KNOWN], full.variance[KNOWN], rtol=1e-4)
    f, values = fit.posterior_function(), {"ell": 0.3, "v": 1.0, "e": 0.1}
    with pytest.warns(UserWarning, match="of 3 of 6 new rows"):
        draws = f.draw(points, new, draws=5, random_seed=1)
    assert_array_equal(np.isfinite(draws).all(axis=0), KNOWN)
    with pytest.warns(UserWarning, match="of 3 of 6 new rows"):
        idata = flmm.predict(posterior(**values), new, x_new=points, model=model, random_seed=1)
    assert_array_equal(np.isfinite(idata.predictions["y"]).all(("chain", "draw")), KNOWN)
    averaged = flmm.posterior_function(posterior(**values), model=model, draws=3)
    with pytest.warns(UserWarning, match="of 3 of 6 new rows"):
        assert_array_equal(np.isfinite(averaged.predict(points, new).mean), KNOWN)


# ---------------------------------------------------------------- units, offsets, sizes


@pytest.mark.parametrize("unit", [1e-20, 1e-6, 1.0, 1e9])
@pytest.mark.parametrize("offset", [0.0, 1e4, 2e7])
@pytest.mark.filterwarnings("ignore:X has rank")
def test_what_is_on_the_line_does_not_depend_on_unit_or_offset(unit, offset):
    rng = np.random.default_rng(4)
    x = offset + rng.normal(size=50)
    line = lambda x: 2.54 * x + 3  # noqa: E731
    projection = Projection.from_design(np.column_stack([np.ones(50), x * unit, line(x) * unit]))
    assert projection.rank == 2
    new = offset + np.array([0.3, -1.2, 25.0])
    on = np.column_stack([np.ones(3), new * unit, line(new) * unit])
    assert np.isfinite(projection.new_rows(on, 3)).all()
    off = on + np.array([0, 0, 0.5 * unit])
    with pytest.warns(UserWarning, match="of 3 of 3 new rows"):
        assert np.isnan(projection.new_rows(off, 3)).all()


@pytest.mark.filterwarnings("ignore:X has rank")
def test_rounded_columns_that_count_as_collinear_do_in_new_rows_too():
    rng = np.random.default_rng(4)
    x = rng.normal(20, 5, size=2000).round(2)
    projection = Projection.from_design(np.column_stack([np.ones(2000), x, (x * 1.8 + 32).round(9) + 1e-9]))
    X = np.column_stack([np.ones(2000), x, (x * 1.8 + 32).round(9) + 1e-9])
    assert projection.rank == 2
    assert np.isfinite(projection.new_rows(X, 2000)).all()


@pytest.mark.filterwarnings("ignore:X has rank")
@pytest.mark.parametrize("seed", range(8))
def test_every_row_of_the_fit_is_known(seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(-1, 2, size=(30, 5)) @ rng.integers(-2, 3, size=(5, 9)) * 10.0 ** rng.integers(-8, 8, size=9)
    projection = Projection.from_design(X)
    assert np.isfinite(projection.new_rows(X, 30)).all()
    mixed = rng.normal(size=(7, 30)) @ X
    assert np.isfinite(projection.new_rows(mixed, 7)).all()


def test_columns_of_columns():
    """Columns found among those that an earlier selection kept are the columns of the whole."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(12, 3))
    X = np.column_stack([base[:, 0], 2 * base[:, 0], base[:, 1], base[:, 0] + base[:, 1], base[:, 2]])
    X[:6, 4] = 3 * X[:6, 2]
    with pytest.warns(UserWarning, match="'x1', 'x3' dropped"):
        outer = DesignColumns.of(X, None, 12)
    with pytest.warns(UserWarning, match="'x4' dropped"):
        inner = DesignColumns.of(X[:6, list(outer.kept)], outer.coef, 6)
    both = inner.within(outer)
    assert (both.coef, both.dropped) == (("x0", "x2"), ("x1", "x3", "x4"))
    assert_allclose(X[:6, list(both.kept)] @ both.B, X[:6, list(both.left)], atol=1e-12)


# ---------------------------------------------------------------- contrasts


@pytest.fixture(scope="module")
def two_fits(table):
    """With an empty cell, and of the same data coded by their cells, where nothing is dropped."""
    cells = table.assign(cell=table.a + table.b)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X has rank")
        crossed = flmm.find_reml(flmm.lmm_model("y ~ a*b + (1|g)", table), progressbar=False)
    return crossed, flmm.find_reml(flmm.lmm_model("y ~ 0 + cell + (1|g)", cells), progressbar=False)


@pytest.mark.parametrize(
    ("L", "same"),
    [
        ({"b[T.q]": 1, "a[T.z]:b[T.q]": 1}, {"cell[zq]": 1, "cell[zp]": -1}),
        ([0, 0, 0, 1, 0, 1], {"cell[zq]": 1, "cell[zp]": -1}),
        ([[0, 1e-9, 0, 0, 0, 0]], {"cell[yp]": 1, "cell[xp]": -1}),
        ("b[T.q]", {"cell[xq]": 1, "cell[xp]": -1}),
        ([[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]], [[-1, 0, 1, 0, 0], [-1, 1, 0, 0, 0]]),
    ],
)
def test_a_contrast_that_the_data_determine_is_that_of_the_cells(two_fits, L, same):
    crossed, cells = two_fits
    assert cells.beta.index.tolist() == ["cell[xp]", "cell[xq]", "cell[yp]", "cell[zp]", "cell[zq]"]
    got, expected = crossed.test_fixed(L), cells.test_fixed(same)
    assert_allclose(got.statistic, expected.statistic, rtol=1e-5)
    assert_allclose(got.df_den, expected.df_den, rtol=1e-3)


@pytest.mark.parametrize("L", ["a[T.y]:b[T.q]", {"b[T.q]": 1, "a[T.y]:b[T.q]": 1}, [0, 0, 0, 1, 1e-9, 0]])
def test_a_contrast_that_they_do_not_is_refused_by_name(two_fits, L):
    with pytest.raises(
        ValueError, match=r"the data do not determine L: in all rows of the fit 'a\[T.y\]:b\[T.q\]' is 0"
    ):
        two_fits[0].test_fixed(L)


def test_a_contrast_has_a_column_for_each_coefficient(two_fits):
    with pytest.raises(
        ValueError, match=r"L must be finite with 5 columns, .*, or 6 for all of .*; got shape \(1, 4\)"
    ):
        two_fits[0].test_fixed([1, 0, 0, 0])


def test_a_dropped_coefficient_is_nan_in_the_table(two_fits):
    table = two_fits[0].coefficients()
    assert table.index.tolist()[4] == "a[T.y]:b[T.q]"
    assert table.iloc[4].isna().all()
    assert table.drop(index="a[T.y]:b[T.q]").notna().all(axis=None)
    assert_allclose(table["estimate"].dropna(), two_fits[0].beta)


@pytest.mark.filterwarnings("ignore:X has rank")
def test_tables_and_contrasts_of_several_responses(kernel):
    W, _, X, y, n = kernel
    fits = flmm.reml(flmm.Spectrum.from_factor(W[:n], X), np.column_stack([y, y[::-1] ** 2]))
    table = fits.coefficients()
    assert table.index.tolist() == [(t, f"x{j}") for t in ("y0", "y1") for j in range(7)]
    assert table["estimate"].isna().tolist() == [False, False, False, True, False, True, True] * 2
    full = fits.test_fixed([0, 1, 0, -1, 0, 0, 0])
    kept = fits.test_fixed([0, 1, 0, 0])  # the third level is where all indicators that are kept are 0
    assert_allclose(full.statistic, kept.statistic)
    with pytest.raises(ValueError, match="'x3' is 'x0' - 'x1' - 'x2'; "):
        fits.test_fixed({"x3": 1, "x5": 1})
