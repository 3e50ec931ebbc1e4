"""Cases of `same_results.py`, second part: models of each engine through all verbs."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
from pymc.blocking import DictToArrayBijection

from house import names as lmm
from pm_fastlmm import covariance as cov
from pm_fastlmm import datasets

CASES = {}
b = np.array([1.0, -2.0])
B = np.array([[2.0, 0.3], [0.3, 0.5]])
TREATMENTS = {"flat": {}, "explicit": {"beta": b}, "gaussian": {"beta_mean": b, "beta_cov": B}}


# ---------------------------------------------------------------- models


@cache
def data(n=48):
    """Rows in groups and days, with ids."""
    rng = np.random.default_rng(8)
    ids = [f"row {i}" for i in range(n)]
    group, day = np.array(list("abcdefg"))[np.r_[0, rng.integers(1, 7, n - 1)]], rng.permutation(np.arange(n) % 5)
    X = pd.DataFrame({"one": np.ones(n), "slope": rng.normal(size=n)}, ids)
    W = (group[:, None] == np.unique(group)).astype(float)
    y = X.to_numpy() @ b + W @ rng.normal(size=7) + 0.7 * rng.normal(size=5)[day] + rng.normal(size=n)
    return SimpleNamespace(n=n, ids=ids, group=group, day=day, X=X, W=W, y=pd.Series(y, ids), x=np.linspace(-1, 1, n))


def kernel(treatment="flat", pair="variances", low=False, **kwargs):
    """FastLMM."""
    d = data()
    K = pd.DataFrame(np.exp(-np.abs(np.subtract.outer(d.x, d.x))) + d.W @ d.W.T, d.ids, d.ids)
    spectrum = lmm.Spectrum.from_factor(pd.DataFrame(d.W, d.ids), d.X) if low else lmm.Spectrum.from_covariance(K, d.X)
    with pm.Model(coords={"obs": d.ids}) as model:
        if pair == "variances":
            variances = {"sigma2_g": pm.HalfNormal("g", 2), "sigma2_e": pm.HalfNormal("e", 2)}
        else:
            variances = {"h2": pm.Beta("h2", 1, 2), "total": pm.HalfNormal("total", 3)}
        proper = TREATMENTS[treatment]
        lmm.FastLMM("y", spectrum=spectrum, observed=d.y, dims="obs", **variances, **proper, **kwargs)
    return model


def kernels():
    """FastLMM with several responses."""
    d = data()
    Y = pd.DataFrame({"first": d.y, "second": np.cos(3 * d.y) + d.y / 2})
    spectrum = lmm.Spectrum.from_factor(pd.DataFrame(d.W, d.ids), d.X)
    return lmm.kernel_model(Y, spectrum=spectrum)


def streamed_kernel():
    """FastLMM that observes statistics of rows which are not kept."""
    d = data()
    found = lmm.KernelStatistics.from_arrays(d.X, pd.DataFrame(d.W, d.ids), d.y)
    spectrum, rotated = found.factor()
    return lmm.kernel_model(rotated, spectrum=spectrum)


def crossed(treatment="flat", mu=False):
    """StructuredLMM with two crossed factors."""
    d = data()
    with pm.Model() as model:
        v, w, e = (pm.HalfNormal(name, 2) for name in "vwe")
        terms = [lmm.Term(d.group, cov.scalar(v), name="g"), lmm.Term(d.day, cov.scalar(w), name="d")]
        shift = {"mu": np.sin(d.x)} if mu else {}
        lmm.StructuredLMM("y", X=d.X, terms=terms, sigma2_e=e, observed=d.y, **TREATMENTS[treatment], **shift)
    return model


def series():
    """StructuredLMM with an autoregressive covariance in each group, and a known one between groups."""
    d = data()
    groups, month = np.repeat(list("abcdef"), 8), np.tile(np.arange(8), 6)
    K = pd.DataFrame(0.5 * np.eye(6) + 0.5, list("abcdef"), list("abcdef"))
    with pm.Model() as model:
        v, w, e, rho = pm.HalfNormal("v", 2), pm.HalfNormal("w", 2), pm.HalfNormal("e", 2), pm.Uniform("rho", -0.9, 0.9)
        known = cov.kronecker(cov.identity(), cov.ar1(v, rho))
        terms = [lmm.Term([groups, month], known, name="months"), lmm.Term(groups, cov.known(K, w), name="group")]
        lmm.StructuredLMM("y", X=d.X, terms=terms, sigma2_e=e, observed=d.y)
    return model


def one_term():
    """StructuredLMM that is one kernel."""
    d = data()
    with pm.Model() as model:
        v, e = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2)
        terms = [lmm.Term(d.group, cov.scalar(v), name="g")]
        lmm.StructuredLMM("y", X=d.X, terms=terms, sigma2_e=e, observed=d.y)
    return model


def slopes():
    """Random slopes by formula."""
    return lmm.lmm_model("Reaction ~ Days + (Days | Subject)", datasets.sleepstudy().iloc[:60])


def trial():
    """Crossed factors by formula, with other priors."""
    priors = {"sigma_gen": pm.Exponential.dist(1.0)}
    return lmm.lmm_model("yield ~ rep + (1 | gen) + (1 | rep:block)", datasets.john_alpha().iloc[:60], priors=priors)


def boundary():
    """A variance whose estimate is 0."""
    d = data()
    table = pd.DataFrame({"y": np.cos(np.pi * np.arange(d.n)) + d.x, "g": np.arange(d.n) // 4, "h": d.day}, d.ids)
    return lmm.lmm_model("y ~ 1 + (1 | g) + (1 | h)", table)


@cache
def lengthscale_spectrum():
    """Spectra of a kernel over a range of lengthscales."""
    d = data()
    return lmm.LengthscaleSpectrum.from_coordinates(
        d.x, "matern52", lengthscale=(0.2, 2.0), X=d.X, delta=(1e-3, 1e2), tolerance=1e-3, progressbar=False
    )


def lengthscale():
    """A kernel with a lengthscale."""
    d = data()
    with pm.Model() as model:
        ell = pm.Truncated("ell", pm.LogNormal.dist(-1, 0.7), lower=0.2, upper=2.0)
        g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
        y = np.sin(4 * d.x) + 0.4 * d.y.to_numpy()
        lmm.lengthscale_lmm("y", lengthscale_spectrum(), lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=y)
    return model


def dense(treatment="flat"):
    """DenseLMM with autoregressive residuals."""
    d = data()
    distance = np.abs(np.subtract.outer(np.arange(d.n), np.arange(d.n)))
    with pm.Model() as model:
        v, e, rho = pm.HalfNormal("v", 2), pm.HalfNormal("e", 2), pm.Uniform("rho", 0.05, 0.9)
        V = v * d.W @ d.W.T + e * pt.power(rho, distance)
        lmm.DenseLMM("y", X=d.X, V=V, observed=d.y, **TREATMENTS[treatment])
    return model


@cache
def curve(D=1, n=300):
    """A function of one or two coordinates, with the statistics of its rows."""
    rng = np.random.default_rng(D)
    x = rng.uniform(size=(n, D)) * [1.0, 0.8][:D]
    X = np.column_stack([np.ones(n), x[:, 0]])
    y = X @ b + np.sin(9 * x.sum(1)) + 0.5 * rng.normal(size=n)
    basis = lmm.Basis(kernel="se", lengthscale=(0.2, 0.5), domain=[(0, 1), (0, 0.8)][:D], n=n, noise_ratio_min=0.1)
    x = x[:, 0] if D == 1 else x
    return SimpleNamespace(x=x, X=X, y=y, basis=basis, statistics=lmm.fourier_statistics(basis, x, y, X), n=n)


def fourier():
    """FourierLMM with the lengthscale of its basis."""
    p = curve()
    with pm.Model() as model:
        ell, v, e = pm.Uniform("ell", 0.2, 0.5), pm.HalfNormal("v", 3), pm.HalfNormal("e", 3)
        lmm.FourierLMM("y", statistics=p.statistics, lengthscale=ell, sigma2=v, sigma2_e=e)
    return model


def plane():
    """FourierLMM with one lengthscale for each coordinate, and a sum of kernels."""
    p = curve(2)
    with pm.Model() as model:
        ls, amplitude = pm.Uniform("ls", 0.2, 0.5, shape=2), pm.HalfNormal("amplitude", 2)
        k = amplitude**2 * pm.gp.cov.ExpQuad(2, ls=ls) + 0.1 * pm.gp.cov.ExpQuad(2, ls=0.45)
        lmm.FourierLMM("y", statistics=p.statistics, kernel=k, sigma2_e=pm.HalfNormal("e", 1))
    return model


# ---------------------------------------------------------------- verbs


def density(model):
    """log p and its gradient at three points."""
    function = model.logp_dlogp_function(ravel_inputs=True)
    start = DictToArrayBijection.map(model.initial_point()).data
    steps = 0.3 * np.random.default_rng(1).normal(size=(3, len(start)))
    return {str(i): function(start + step) for i, step in enumerate(steps)}


def attempt(call):
    """A result, or the type of the error where an engine has none: what is refused stays refused."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        return f"refused by a {type(error).__name__}"


def point(model, variance=None, groups=None, new=()):
    """The estimate by REML and by ML, with all that is asked of it."""
    fit = lmm.find_reml(model)
    L = np.eye(len(fit.beta))[-1:]
    asked = {
        "summary": fit.summary, "loo": fit.loo, "V": lambda: lmm.covariance(fit), "blup": fit.blup,
        "simulate": lambda: fit.simulate(2, random_seed=2), "fitted": fit.fitted, "residuals": fit.residuals,
        "given": lambda: fit.simulate(2, effects="given", random_seed=3),
        "derivatives": lambda: lmm.covariance_derivatives(fit),
        "conditional": fit.conditional_variance, "pev": fit.pev, "step": fit.step, "blue": lambda: lmm.blue(fit),
        "fixed": lambda: fit.test_fixed(L),
        "ml": lambda: lmm.read_fit(lmm.find_reml(model, method="ML")),
        "satterthwaite": lambda: fit.coefficients("satterthwaite"),
        "kenward-roger": lambda: fit.coefficients("kenward-roger"),
    }  # fmt: skip
    if groups is not None:
        asked["groups"] = lambda: fit.loo_groups(groups)
    if variance is not None:
        asked["interval"] = lambda: lmm.interval(fit, variance)
        asked["test"] = lambda: lmm.variance_test(fit.test_no_variance(variance, n_sim=200, random_seed=3))
    for i, (args, kwargs) in enumerate(new):
        asked[f"new {i}"] = lambda args=args, kwargs=kwargs: lmm.prediction(fit.predict(*args, **kwargs))
    return {"fit": lmm.read_fit(fit)} | {name: attempt(call) for name, call in asked.items()}


def chain(model, groups=None, new=(), effects=("given", "new", "left_out", "population"), rows=None, **kwargs):
    """A few draws of the variances, and what is recovered and predicted from them."""
    idata = lmm.sample(model, **kwargs)
    given = {} if rows is None else {"rows": rows}
    asked = {"effects": lambda: lmm.recover_effects(idata.copy(), model)}
    for kind in effects:
        options = given if kind == "left_out" else {}
        asked[kind] = lambda kind=kind, options=options: lmm.predict(idata.copy(), model, effects=kind, **options)
    for i, (args, options) in enumerate(new):
        asked[f"new {i}"] = lambda args=args, options=options: lmm.predict(idata.copy(), model, *args, **options)
    asked["pointwise"] = lambda: lmm.pointwise(idata.copy(), model, **given)
    if groups is not None:
        asked["groups"] = lambda: lmm.pointwise(idata.copy(), model, groups=groups, **given)
    return {"draws": idata} | {name: attempt(call) for name, call in asked.items()}


# ---------------------------------------------------------------- cases

POINTS = np.array([0.1, 0.45, 0.8])
X_NEW = np.array([[1.0, 0.3], [1.0, -0.4], [1.0, 1.2]])
K_NEW = np.exp(-np.abs(np.subtract.outer(POINTS, data().x)))
K_NEW_NEW = np.exp(-np.abs(np.subtract.outer(POINTS, POINTS)))
TERMS_NEW = {"g": ["a", "c", "new"], "d": [1, 2, 9]}
LATER = pd.DataFrame({"Days": [0, 3, 12], "Subject": ["308", "309", "nobody"]})
BY_KERNEL = ((X_NEW, K_NEW), {"K_new_new": K_NEW_NEW})
BY_TERMS = ((X_NEW,), {"Z_new": TERMS_NEW})
BY_DATA = ((), {"data": LATER})
IN_SAMPLE = ("given", "left_out", "population")


def _register(name, make, *verbs):
    for verb, call in verbs:
        CASES[f"{verb} of {name}"] = lambda call=call: call(make())


def _point(**kwargs):
    return "estimate", lambda model: point(model, **kwargs)


def _chain(**kwargs):
    return "draws", lambda model: chain(model, **kwargs)


def _comparison(model):
    first, second = (lmm.find_reml(m) for m in (model, one_term()))
    return lmm.compare_fits({"two terms": first, "one term": second})


def _function(model):
    idata = lmm.sample(model)
    f = lmm.posterior_function(idata, model, draws=10)
    drawn = f.draw(POINTS, np.column_stack([np.ones(3), POINTS]), draws=3, random_seed=4)
    return {"predict": lmm.prediction(f.predict(POINTS, np.column_stack([np.ones(3), POINTS]))), "draw": drawn,
            "mean": f.mean, "cov": f.cov}  # fmt: skip


def _covariance(model):
    d = data()
    K = d.W @ d.W.T
    fit = lmm.reml_covariance(lambda t: t[0] * K + t[1] * np.eye(d.n), d.y, d.X, start={"g": 1.0, "e": 1.0})
    return {"fit": lmm.read_fit(fit), "loo": fit.loo(), "coefficients": fit.coefficients()}


_DENSITY = ("density", density)
_GROUPS = data().group
_ROWS = curve().x, curve().y, curve().X
_PLANE_ROWS = curve(2).x, curve(2).y, curve(2).X
_CURVE_NEW = (), {"x_new": POINTS, "X_new": np.column_stack([np.ones(3), POINTS])}
_PLANE_NEW = (), {"x_new": np.column_stack([POINTS, POINTS]), "X_new": np.column_stack([np.ones(3), POINTS])}

_register("kernel", kernel, _DENSITY, _point(variance="sigma2_g", groups=_GROUPS),
          _chain(groups=_GROUPS, new=[BY_KERNEL], chains=2))  # fmt: skip
for _treatment in ("explicit", "gaussian"):
    _register(f"kernel, {_treatment}", lambda t=_treatment: kernel(t), _DENSITY, _chain(groups=_GROUPS))
    _register(f"crossed, {_treatment}", lambda t=_treatment: crossed(t), _DENSITY, _point(), _chain(groups=_GROUPS))
    _register(f"dense, {_treatment}", lambda t=_treatment: dense(t), _DENSITY)
_register("kernel by h2", lambda: kernel(pair="h2"), _DENSITY, _point())
_register("kernel of low rank", lambda: kernel(low=True, mu=np.sin(data().x)), _DENSITY, _point(variance="sigma2_g"),
          _chain(groups=_GROUPS))  # fmt: skip
_register("kernels", kernels, _DENSITY, _chain(groups=_GROUPS))
_register("streamed kernel", streamed_kernel, _DENSITY,
          ("draws", lambda m: {"draws": (i := lmm.sample(m)), "effects": lmm.recover_effects(i, m)}))  # fmt: skip
_register("crossed", crossed, _DENSITY, _point(variance="g", groups=_GROUPS, new=[BY_TERMS]),
          _chain(groups=_GROUPS, new=[BY_TERMS], chains=2), ("comparison", _comparison))  # fmt: skip
_register("crossed with a mean", lambda: crossed(mu=True), _DENSITY, _point())
_register("series", series, _DENSITY, _point(variance="group", groups=_GROUPS), _chain())
_register("one term", one_term, _DENSITY, _point(variance="g"), _chain())
_register("slopes", slopes, _DENSITY, _point(variance="Subject[Days]", new=[BY_DATA]), _chain(new=[BY_DATA]))
_register("trial", trial, _DENSITY, _point(variance="gen"), _chain())
_register("boundary", boundary, _DENSITY, _point(variance="g"))
_register("lengthscale", lengthscale, _DENSITY, _point(variance="sigma2_g", groups=_GROUPS), _chain(groups=_GROUPS))
_register("dense", dense, _DENSITY, _point(variance="v", groups=_GROUPS), _chain(groups=_GROUPS))
_register("covariance", one_term, ("estimate", _covariance))
_register("fourier", fourier, _DENSITY, _point(variance="v", new=[_CURVE_NEW]), ("function", _function),
          _chain(effects=("left_out",), rows=_ROWS, new=[_CURVE_NEW]))  # fmt: skip
_register("plane", plane, _DENSITY, _point(new=[_PLANE_NEW]),
          _chain(effects=("left_out",), rows=_PLANE_ROWS, new=[_PLANE_NEW]))  # fmt: skip
