"""
New rows: a prediction is that of generalised least squares with any generalised inverse, or NaN and named.

Designs have cells without data, covariates on a line, interactions and columns in wild units; new rows lie in the row
space of X, or anywhere. The judge is dense: singular vectors for what the data determine, a pseudo-inverse for them.
"""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr

import pm_fastlmm as flmm
from fuzz.guard import Refused, guarded, short
from pm_fastlmm import covariance as cov

TERMS = ("a", "b", "c", "a:b", "a:c", "a*b", "a/b", "s", "t", "s:a", "I(s**2)", "u", "I(u**2)", "I(u**3)", "poly(s, 2)")
LARGEST = 1e-9  # share of a row outside the row space below which it is in it; up to _CLEAR it is too close to judge
CLEAR = 1e-6
DRAWS = 300


def check(seed):
    """Return what became of one design and its new rows."""
    rng = np.random.default_rng([seed, 71])
    if seed % 20 == 10:
        return check_draws(rng)
    if rng.random() < 0.5:
        return check_arrays(rng)
    return check_table(rng, structured=seed % 10 == 0)


# ---------------------------------------------------------------- the judge


def units(X, rows):
    """Return the sizes of columns, in which all are judged."""
    size = np.sqrt((X**2).mean(axis=0))
    return np.where(size > 0, size, np.maximum(np.abs(rows).max(axis=0, initial=0.0), np.finfo(float).tiny))


def outside(X, rows):
    """Return the share of each row that is outside the row space of X, and whether the rank of X is clear."""
    scale = units(X, rows)
    _, s, Vt = np.linalg.svd(X / scale)
    s = np.concatenate([s, np.zeros(len(Vt) - len(s))])
    clear = not ((s > 1e-12 * s[0]) & (s < 1e-6 * s[0])).any()
    rows = rows / scale
    null = Vt[s <= 1e-9 * s[0]]
    size = np.maximum(np.linalg.norm(rows, axis=1), np.finfo(float).tiny)
    return np.abs(rows @ null.T).max(axis=1, initial=0.0) / size, clear


def least_squares(X, V, y, rows, cross, prior):
    """Return mean and variance of f* = x*ᵀβ + u*."""
    scale = units(X, rows)
    X, rows, Vi = X / scale, rows / scale, np.linalg.inv(V)
    inverse = np.linalg.pinv(X.T @ Vi @ X, rcond=1e-12, hermitian=True)
    beta = inverse @ X.T @ Vi @ y
    h = rows - cross @ Vi @ X
    mean = rows @ beta + cross @ Vi @ (y - X @ beta)
    return mean, prior - np.einsum("mi,ij,mj->m", cross, Vi, cross) + np.einsum("mi,ij,mj->m", h, inverse, h)


def judged(call, X, rows):
    """
    Return what a prediction gave, which rows must be numbers, which may be either; its warning must count and name.

    `call` returns (mean, variance).
    """
    share, clear = outside(X, rows)
    known, open_ = share < LARGEST, (share >= LARGEST) & (share <= CLEAR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mean, variance = call()
    assert all(w.category is UserWarning for w in caught), [str(w.message) for w in caught]
    mean, variance = np.asarray(mean), np.asarray(variance)
    if not clear:
        return mean, variance, np.zeros(len(rows), dtype=bool), "rank unclear"
    assert (np.isfinite(mean)[~open_] == known[~open_]).all(), f"known {known}, outside {share}, predicted {mean}"
    assert (np.isnan(mean) == np.isnan(variance)).all()
    told = [str(w.message) for w in caught if "new rows" in str(w.message)]
    assert len(told) == int(np.isnan(mean).any()), told
    if told:
        assert f"of {int(np.isnan(mean).sum())} of {len(rows)} new rows, which are predicted as NaN: " in told[0]
    return mean, variance, known & np.isfinite(mean), "all known" if known.all() else "some NaN"


def same(got, expected, size, what, rtol=1e-6):
    """Assert that numbers are equal beside their size."""
    worst = np.abs(got - expected).max(initial=0.0)
    assert worst <= rtol * max(size, 1e-300), f"{what} is off by {worst:.3g} of {size:.3g}"


# ---------------------------------------------------------------- arrays


def check_arrays(rng):
    """Designs of low rank in wild units, one kernel: REML, a subset of its rows, contrasts."""
    n, d, m = int(rng.integers(12, 30)), int(rng.integers(1, 7)), 6
    r = int(rng.integers(1, d + 1))
    base = rng.integers(-1, 3, size=(n, r)) + (rng.normal(size=(n, r)) if rng.random() < 0.5 else 0)
    mix = rng.integers(-1, 2, size=(r, d))
    unit = 10.0 ** rng.integers(-6, 7, size=d)
    X = base @ mix * unit
    rows = rng.integers(-2, 3, size=(m, r)) @ mix * unit
    rows[1] = X[rng.integers(n)]
    rows[2] += rng.choice([-1, 1, 2]) * unit * (np.arange(d) == rng.integers(d))
    rows[3] = rng.normal(size=d) * unit
    W = rng.normal(size=(n + m, n + 5)) / np.sqrt(n)
    K = W @ W.T
    y = base @ rng.normal(size=r) + W[:n] @ rng.normal(size=n + 5) + rng.normal(size=n)
    named = rng.random() < 0.5
    table, new = (pd.DataFrame(part, columns=list("abcdefg")[:d]) if named else part for part in (X, rows))
    if named:
        new = new[[*rng.permutation(new.columns)]]
    try:
        spectrum = guarded(flmm.Spectrum.from_factor, W[:n], table)
        seen = np.arange(n)
        if rng.random() < 0.3:
            seen = np.sort(rng.choice(n, size=n - 3, replace=False))
            spectrum = guarded(spectrum.subset, seen)
        fit = guarded(flmm.reml, spectrum, y[seen])
    except Refused as error:
        return [f"arrays: refused, {short(error)}"]
    if not fit.converged or fit.boundary:
        return ["arrays: boundary"]
    X, K_seen, y = X[seen], K[np.ix_(seen, seen)], y[seen]
    got = lambda: (lambda p: (p.mean, p.variance))(fit.predict(new, W_new=W[n:]))  # noqa: E731
    if not X.any() and rows.any():
        return [nothing_known(got)]
    mean, variance, known, what = judged(got, X, rows)
    V = fit.sigma2_g * K_seen + fit.sigma2_e * np.eye(len(y))
    cross = fit.sigma2_g * K[n:, seen]
    ref, ref_variance = least_squares(X, V, y, rows, cross, fit.sigma2_g * np.diag(K)[n:])
    same(mean[known], ref[known], np.abs(y).max() + np.abs(ref[known]).max(initial=0.0), "the mean")
    same(variance[known], ref_variance[known], ref_variance[known].max(initial=fit.total), "the variance")
    population = lambda: (lambda p: (p.mean, p.variance))(fit.predict(new, effects="population"))  # noqa: E731
    mean, _, known, _ = judged(population, X, rows)
    ref, _ = least_squares(X, V, y, rows, 0 * cross, np.zeros(m))
    same(mean[known], ref[known], np.abs(y).max() + np.abs(ref[known]).max(initial=0.0), "the population mean")
    return [f"arrays: {what}", *check_contrast(rng, fit, X, V, y, rows)]


def nothing_known(call):
    """Where X was 0 in all columns there is no coefficient that could be NaN."""
    try:
        guarded(call)
    except Refused as error:
        return f"arrays: refused, {short(error)}"
    raise AssertionError("rows of an X that was 0 were predicted")


def check_contrast(rng, fit, X, V, y, rows):
    """A contrast of all columns is estimated, or refused, as its row is."""
    if not X.any() or fit.spectrum.projection.rank == X.shape[1]:
        return []
    row = rows[[rng.integers(len(rows))]] - rows[[rng.integers(len(rows))]]
    share, clear = outside(X, row)
    if not row.any() or not clear or LARGEST <= share[0] <= CLEAR:
        return []
    try:
        estimate = guarded(fit.test_fixed, row).estimate
    except Refused as error:
        estimate, why = None, str(error)
    if estimate is None:
        reason = "collinear or zero" if share[0] < LARGEST else "the data do not determine L: in all rows of the fit "
        assert reason in why, why
        return ["contrast: refused"]
    assert share[0] < LARGEST, f"a contrast outside the row space ({share[0]:.3g}) was estimated"
    expected = least_squares(X, V, y, row, np.zeros((1, len(y))), np.zeros(1))[0]
    same(estimate, expected, np.abs(y).max() + np.abs(expected).max(), "the contrast")
    return ["contrast: estimated"]


# ---------------------------------------------------------------- tables


def table_of(rng, n):
    """Return data whose factors lack some cells, t on a line with s, and u of few values."""
    d = pd.DataFrame({
        "a": rng.choice(list("pqrs")[: rng.integers(2, 5)], n),
        "b": rng.choice(list("xyz")[: rng.integers(2, 4)], n),
        "c": rng.choice(["no", "yes"], n),
        "s": rng.normal(rng.choice([0, 50]), 3, size=n).round(rng.integers(0, 4)),
        "u": rng.choice([1.0, 2.0, 4.0], n),
        "g": rng.choice(list("ABCDE"), n),
    })  # fmt: skip
    for _ in range(rng.integers(0, 3)):
        d = d[~((d.a == rng.choice(list("pqrs"))) & (d.b == rng.choice(list("xyz"))))]
    d = d.reset_index(drop=True)
    d["t"] = 2.54 * d.s - 1
    d["y"] = rng.normal() * 100 + d.s + 2 * (d.a == "q") + (d.g == "A") + rng.normal(size=len(d))
    return d


def check_table(rng, *, structured):
    """Formulas of factors and covariates: cells without data, covariates off their line, groups and levels unknown."""
    d = table_of(rng, int(rng.integers(20, 50)))
    chosen = rng.choice(TERMS, size=rng.integers(1, 5), replace=False)
    formula = f"y ~ {'0 + ' if rng.random() < 0.3 else ''}{' + '.join(chosen)} + (1 | g)"
    if len(d) < 12:
        return ["table: too few rows"]
    new = table_of(rng, 8)[:6]
    new = pd.DataFrame({name: rng.permutation(np.resize(new[name], 6)) for name in ("a", "b", "c", "u", "g")})
    if rng.random() < 0.8:  # levels that were there, not all of their cells
        new["a"], new["b"], new["c"] = (rng.choice(d[name].unique(), 6) for name in "abc")
    new["s"] = rng.choice(d.s, 6)
    new["t"] = 2.54 * new.s - 1 + (rng.random(6) < 0.3)
    new.loc[new.index[:1], "g"] = "somebody new"
    try:
        design = guarded(flmm.MixedDesign.from_formula, formula, d)
        encoded = guarded(design.encode, new)
    except Refused as error:
        return [f"table: refused, {short(error)}"]
    X, rows, y = design.X, encoded.to_numpy(), design.y
    Z, Z_new = (part.g.to_numpy()[:, None] == np.array(list("ABCDE")) for part in (d, new))
    K, cross = (part.astype(float) @ Z.T.astype(float) for part in (Z, Z_new))
    try:
        if structured:
            fit = guarded(flmm.find_reml, guarded(flmm.lmm_model, formula, d), progressbar=False)
            if not fit.converged or fit.boundary:
                return ["table, terms: boundary"]
            g, e = fit.theta["g"], fit.theta["residual"]
            holes = new.assign(**{rng.choice(["g", "s"]): None})
            refused(fit, holes, new)
        else:
            spectrum = guarded(flmm.Spectrum.from_covariance, K, pd.DataFrame(X, columns=list(design.columns)))
            fit = guarded(flmm.reml, spectrum, y)
            if not fit.converged or fit.boundary:
                return ["table, one kernel: boundary"]
            g, e = fit.sigma2_g, fit.sigma2_e
    except Refused as error:
        return [f"table: refused, {short(error)}"]

    def predict():
        p = fit.predict(data=new) if structured else fit.predict(encoded, K_new=cross, K_new_new=np.ones(6))
        return p.mean, p.variance

    mean, variance, known, what = judged(predict, X, rows)
    V = g * K + e * np.eye(len(y))
    ref, ref_variance = least_squares(X, V, y, rows, g * cross, np.full(6, g))
    same(mean[known], ref[known], np.abs(y).max() + np.abs(ref[known]).max(initial=0.0), "the mean")
    same(variance[known], ref_variance[known], ref_variance[known].max(initial=g + e), "the variance", 1e-5)
    return [f"table, {'terms' if structured else 'one kernel'}: {what}"]


def refused(fit, holes, new):
    """Rows with a missing group, covariate or an unknown level of a fixed factor are refused, in words."""
    for bad in (holes, new.drop(columns="g"), new.assign(a="none such")):
        try:
            got = guarded(fit.predict, data=bad)
        except Refused:
            continue
        assert len(got.mean) == len(bad)  # the formula does not have that variable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        population = fit.predict(data=new.drop(columns="g"), effects="population")
    assert len(population.mean) == len(new)


# ---------------------------------------------------------------- draws


@cache
def sampled(engine):
    """Return a model with a cell without data and a covariate on a line, its posterior, and all that is dense of it."""
    rng = np.random.default_rng(5)
    n = 40
    d = pd.DataFrame({"a": rng.choice(list("pqr"), n), "b": rng.choice(list("xy"), n), "s": rng.normal(size=n)})
    d = d[~((d.a == "q") & (d.b == "y"))].reset_index(drop=True)
    n = len(d)
    d["t"], d["g"] = 2 * d.s + 1, rng.choice(list("ABCDE"), n)
    d["y"] = 3 + d.s + (d.a == "p") + rng.normal(size=n)
    Z = (d.g.to_numpy()[:, None] == np.array(list("ABCDE"))).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        design = flmm.MixedDesign.from_formula("y ~ a*b + s + t + (1 | g)", d)
        X = pd.DataFrame(design.X, columns=list(design.columns))
        with pm.Model() as model:
            v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
            if engine == "terms":
                term = flmm.Term(d.g, cov.scalar(v), name="g")
                flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, observed=d.y.to_numpy())
            else:
                spectrum = flmm.Spectrum.from_factor(Z, X)
                flmm.FastLMM("y", sigma2_g=v, sigma2_e=e, spectrum=spectrum, observed=d.y.to_numpy())
    return model, design, d, Z


def check_draws(rng):
    """Draws are NaN in the same rows, and have the moments of the judge in the others."""
    engine = rng.choice(["terms", "one kernel"])
    model, design, d, Z = sampled(engine)
    v, e = rng.gamma(2), rng.gamma(2) + 0.1
    values = {"v": v, "e": e}
    posterior = xr.Dataset({name: (("chain", "draw"), np.full((1, DRAWS), value)) for name, value in values.items()},
                           coords={"chain": [0], "draw": np.arange(DRAWS)})  # fmt: skip
    new = pd.DataFrame({"a": rng.choice(list("pqr"), 5), "b": rng.choice(list("xy"), 5), "s": rng.normal(size=5)})
    new["t"] = 2 * new.s + 1 + (rng.random(5) < 0.3)
    new["g"] = rng.choice([*"ABCDE", "new"], 5) if engine == "terms" else rng.choice(list("ABCDE"), 5)
    encoded = design.encode(new)
    Z_new = (new.g.to_numpy()[:, None] == np.array(list("ABCDE"))).astype(float)
    part = {"Z_new": {"g": new.g}} if engine == "terms" else {"W_new": Z_new}
    part = {"effects": "population"} if (population := rng.random() < 0.2) else part
    drawn = {}

    def predict():
        tree = xr.DataTree.from_dict({"posterior": posterior})
        tree = flmm.predict(tree, encoded, **part, model=model, random_seed=int(rng.integers(1 << 30)))
        f, y = (tree.predictions[name].to_numpy()[0] for name in ("y_mean", "y"))
        assert (np.isnan(f).all(axis=0) == np.isnan(f).any(axis=0)).all()
        assert (np.isnan(f) == np.isnan(y)).all()
        drawn["f"] = f
        return f.mean(axis=0), f.var(axis=0)

    mean, variance, known, what = judged(predict, design.X, encoded.to_numpy())
    V = v * Z @ Z.T + e * np.eye(len(d))
    cross = 0 * Z_new @ Z.T if population else v * Z_new @ Z.T
    prior = np.zeros(5) if population else np.full(5, v)
    ref, ref_variance = least_squares(design.X, V, design.y, encoded.to_numpy(), cross, prior)
    sd = np.sqrt(ref_variance[known] / DRAWS)
    assert (np.abs(mean[known] - ref[known]) < 6 * sd + 1e-9).all(), (mean[known], ref[known], sd)
    assert (np.abs(variance[known] / ref_variance[known] - 1) < 6 * np.sqrt(2 / DRAWS)).all()
    return [f"draws, {engine}{', population' * population}: {what}"]
