"""Cases of `same_results.py`, first part: known kernels, their fits and exact posteriors, statistics, covariances."""

import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from house import names as lmm
from house import node_cases
from pm_fastlmm import covariance as cov

CASES = {}


def case(function):
    """Register a function without arguments that returns numbers, under its name."""
    CASES[function.__name__] = function
    return function


@cache
def problem(rank="full", design=True, n=40):
    """One kernel with ids, three oblique columns, y, new rows and a matrix of responses."""
    rng = np.random.default_rng([3, n])
    ids = [f"id{i}" for i in range(n)]
    time = np.linspace(0, 1, n) ** 2
    X = np.column_stack([np.ones(n), 40 * time + rng.normal(size=n), rng.exponential(size=n)])
    W = rng.normal(size=(n + 4, 90 if rank == "full" else 6)) / 3 + 0.2
    K = pd.DataFrame(W[:n] @ W[:n].T, ids, ids)
    effects = W[:n] @ rng.normal(size=(W.shape[1], 5))
    Y = X @ [[3.0], [-0.2], [1.5]] + effects * [1.5, 1.0, 0.5, 0.1, 2.0] + rng.normal(size=(n, 5))
    X = pd.DataFrame(X, ids, ["one", "time", "dose"]) if design else None
    spectrum = lmm.Spectrum.from_covariance(K, X)
    if rank == "low":
        spectrum = lmm.Spectrum.from_factor(pd.DataFrame(W[:n], ids), X)
    X_new = np.column_stack([np.ones(4), rng.normal(20, 9, size=4), rng.exponential(size=4)]) if design else None
    Y = pd.DataFrame(Y, ids, list("abcde"))
    return SimpleNamespace(ids=ids, X=X, K=K, y=Y["a"].rename(None), Y=Y, spectrum=spectrum, n=n, X_new=X_new,
                           K_new=W[n:] @ W[:n].T, K_new_new=W[n:] @ W[n:].T, W_new=W[n:], W=W[:n],
                           groups=np.array(list("abcdefgh"))[np.arange(n) % 7])  # fmt: skip


# ---------------------------------------------------------------- reml


def _one(p, method="REML", y=None):
    fit = lmm.reml(p.spectrum, p.y if y is None else y, method=method)
    y = p.y if y is None else y
    out = {"fit": lmm.read_kernel_fit(fit), "summary": fit.summary(), "blup": fit.blup(), "pev": fit.pev(full=True)}
    out |= {"conditional": fit.conditional_variance(), "profile": fit.profile(np.linspace(0.05, 0.9, 5))}
    out |= {"loo": fit.loo(y), "loo groups": fit.loo_groups(p.groups, y), "grouped": fit.loo(y, groups=p.groups)}
    out |= {"simulate": fit.simulate(3, random_seed=5), "given": fit.simulate(2, effects="given", random_seed=6)}
    out["test"] = lmm.kernel_test(fit, n_sim=500, random_seed=7)
    if p.X is not None:
        out |= {df: fit.coefficients(df=df) for df in ("satterthwaite", "kenward-roger")}
        out["fixed"] = fit.test_fixed(np.eye(3)[1:])
    out["predict"] = lmm.prediction(fit.predict(p.X_new, p.K_new, K_new_new=p.K_new_new))
    out["population"] = lmm.prediction(fit.predict(p.X_new, effects="population"))
    return out


@case
def reml_full():
    return _one(problem())


@case
def reml_full_ml():
    p = problem()
    fit = lmm.reml(p.spectrum, p.y, method="ML")
    return {"fit": lmm.read_kernel_fit(fit), "intervals": fit.intervals(), "blup": fit.blup(), "loo": fit.loo(p.y)}


@case
def reml_low_rank():
    p = problem("low")
    fit = lmm.reml(p.spectrum, p.y)
    effects = fit.factor_effects()
    new = lmm.prediction(fit.predict(p.X_new, W_new=p.W_new))
    return {"fit": lmm.read_kernel_fit(fit), "a": {"mean": effects.mean, "se": effects.se}, "new": new,
            "loo": fit.loo(p.y)}  # fmt: skip


@case
def reml_without_design():
    p = problem("full", design=False)
    fit = lmm.reml(p.spectrum, p.y)
    return {"fit": lmm.read_kernel_fit(fit), "blup": fit.blup(), "loo": fit.loo(p.y), "intervals": fit.intervals()}


@case
def reml_boundary():
    p = problem()
    values, U = np.linalg.eigh(p.K.to_numpy())
    y = pd.Series(U @ (np.random.default_rng(4).normal(size=p.n) / values**0.6), p.ids)
    return _one(p, y=y)


@case
def reml_intervals():
    p = problem()
    fit = lmm.reml(p.spectrum, p.y)
    boot = fit.bootstrap(200, random_seed=1)
    return {"profile": fit.intervals(), "inversion": fit.intervals("inversion", n_sim=200, random_seed=2),
            "bootstrap": boot.summary(), "critical": fit.critical_values([0.1, 0.5], n_sim=200, random_seed=3),
            "delta": fit.intervals("delta")}  # fmt: skip


@case
def reml_many():
    p = problem()
    fits = lmm.reml(p.spectrum, p.Y)
    return {"fit": lmm.read_kernel_fit(fits), "blup": fits.blup(), "loo": fits.loo(p.Y), "dataset": fits.to_dataset(),
            "summary": fits.summary(), "intervals": fits.intervals(), "coefficients": fits.coefficients(),
            "simulate": fits.response("c").simulate(2, random_seed=8),
            "second": lmm.read_kernel_fit(fits.response("b")),
            "test": lmm.kernel_test(fits, n_sim=300, random_seed=9)}  # fmt: skip


@case
def reml_missing():
    p = problem()
    Y = p.Y.copy()
    Y.iloc[[1, 5], 1], Y.iloc[[1, 5, 9], 2], Y.iloc[[1, 5], 3] = np.nan, np.nan, np.nan
    fits = lmm.reml(p.spectrum, Y, missing="by_pattern")
    blocks = lmm.reml_blocks(p.spectrum, Y, missing="by_pattern", block=2)
    return {"fit": lmm.read_kernel_fit(fits), "pattern": fits.pattern, "blocks": blocks}


@case
def reml_other_doors():
    p = problem()
    point, blocks = lmm.reml_point(p.K, p.y, p.X), lmm.reml_blocks(p.spectrum, p.Y, block=2)
    density = lmm.log_likelihood(p.spectrum.rotate(p.Y), np.full(5, 1.3), np.full(5, 0.7))
    return {"point": lmm.read_kernel_fit(point), "blocks": blocks, "density": density}


@case
def reml_subset():
    p = problem()
    part = p.spectrum.subset(np.arange(3, 30))
    return lmm.read_kernel_fit(lmm.reml(part, p.y.iloc[3:30]))


@case
def scanned():
    p = problem()
    G = np.random.default_rng(6).binomial(2, 0.4, size=(p.n, 12)).astype(float)
    G[2, 3] = np.nan
    G = pd.DataFrame(G, p.ids, [f"m{i}" for i in range(12)])
    out = {test: lmm.scan(p.spectrum, p.y, G, test=test, progressbar=False) for test in ("wald", "lrt")}
    out["null"] = lmm.scan(p.spectrum, p.y, G, delta="null", progressbar=False)
    groups = pd.Series(np.repeat(["first", "second"], 6), G.columns)
    spectra = {"first": p.spectrum, "second": problem("low").spectrum}
    out["groups"] = lmm.scan(spectra, p.y, G, groups=groups, progressbar=False)
    return out


# ---------------------------------------------------------------- exact posteriors


def _exact(posterior):
    out = {"summary": posterior.summary(), "dataset": posterior.to_dataset(), "beta": posterior.beta()}
    out |= {"evidence": posterior.log_evidence, "bayes factor": posterior.log_bayes_factor}
    return out | {"draws": posterior.draws(20, random_seed=1), "density": posterior.h2_density(np.array([0.2, 0.6]))}


@case
def exact():
    p = problem()
    rotated = p.spectrum.rotate(p.y)
    out = {"default": _exact(lmm.exact_posterior(p.spectrum, p.y))}
    out["scaled"] = _exact(lmm.exact_posterior(p.spectrum, p.y, prior=lmm.VariancePrior.scaled_to(rotated)))
    for family in ("half-normal", "half-t", "exponential"):
        prior = lmm.DeviationPrior.scaled_to(rotated, family)
        out[family] = _exact(lmm.exact_posterior(p.spectrum, p.y, prior=prior))
    return out | {"sensitivity": lmm.prior_sensitivity(p.spectrum, p.y)}


@case
def exact_many():
    p = problem("low")
    prior = lmm.VariancePrior.scaled_to_each(p.spectrum.rotate(p.Y))
    return {"scaled": _exact(lmm.exact_posterior(p.spectrum, p.Y, prior=prior))}


# ---------------------------------------------------------------- statistics of rows


@cache
def rows(n=300):
    """Rows of a low-rank model, too many to keep."""
    rng = np.random.default_rng(21)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    W = rng.normal(size=(n, 5)) * [1, 2, 0.5, 1, 3] + 0.3
    y = X @ [1.0, -2.0] + W @ rng.normal(size=5) + rng.normal(size=n)
    return X, W, y


def _kernel_statistics(found):
    arrays = {name: getattr(found, name) for name in ("n", "dropped", "gram", "cross", "squares", "constant")}
    spectrum, rotated = found.factor()
    return arrays | {"fit": lmm.read_kernel_fit(lmm.reml(spectrum, rotated)), "eigvals": spectrum.eigvals}


@case
def statistics_of_rows():
    X, W, y = rows()
    out = {}
    for method in ("gram", "tsqr"):
        whole = lmm.KernelStatistics.from_rows(X, W, y, method=method, block_rows=64, progressbar=False)
        first, second = (
            lmm.KernelStatistics.from_arrays(X[s], W[s], y[s], method=method) for s in (np.s_[:99], np.s_[99:])
        )
        out[method] = {"whole": _kernel_statistics(whole), "merged": _kernel_statistics(first.merge(second))}
    holes = y.copy()
    holes[7] = np.nan
    dropped = lmm.KernelStatistics.from_arrays(X, W, holes, missing="drop").update(X[:9], W[:9], y[:9])
    same = lmm.TermStatistics.from_statistics(whole)
    return out | {"dropped": _kernel_statistics(dropped), "equivalent": {"X": same.X, "W": same.Z, "y": same.y}}


@case
def statistics_from_a_checkpoint():
    X, W, y = rows()
    blocks = [(X[i : i + 50], W[i : i + 50], y[i : i + 50]) for i in range(0, 300, 50)]

    def stopping():
        yield from blocks[:3]
        raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        options = {"checkpoint": Path(folder) / "rows.npz", "checkpoint_every": 0.0, "progressbar": False}
        try:
            lmm.KernelStatistics.from_blocks(stopping(), **options)
        except KeyboardInterrupt:
            return {"continued": _kernel_statistics(lmm.KernelStatistics.from_blocks(blocks, **options))}
    return None


@case
def fourier_statistics():
    p = node_cases.curve()
    first, second = (lmm.fourier_statistics(p.basis, p.x[s], p.y[s], p.X[s]) for s in (np.s_[:150], np.s_[150:]))
    blocks = [(p.x[i : i + 90], p.y[i : i + 90], p.X[i : i + 90]) for i in range(0, len(p.y), 90)]
    streamed = lmm.FourierStatistics.from_blocks(p.basis, blocks, progressbar=False)
    found = {"whole": p.statistics, "merged": first.merge(second), "streamed": streamed}
    names = ("n", "dropped", "toeplitz", "modes", "gram")
    products = p.statistics.project()
    out = {key: {name: getattr(part, name) for name in names} for key, part in found.items()}
    return out | {"features": p.basis.features(p.x[:5]), "weights": p.basis.log_weights(0.2), "gram": products.gram}


# ---------------------------------------------------------------- known covariances


@case
def relationships():
    ids, sire, dam = ["a", "b", "c", "d", "e", "f"], [0, 0, "a", "a", "c", "c"], [0, 0, "b", 0, "d", "d"]
    rng = np.random.default_rng(5)
    M = rng.binomial(2, 0.3, size=(8, 20)).astype(float)
    M[1, 4] = np.nan
    tree = "((a:1,b:1):0.5,(c:0.7,(d:0.2,e:0.3):0.4):0.8);"
    out = {"pedigree": cov.pedigree(ids, sire, dam), "scaled": cov.pedigree(ids, sire, dam, scale="mean_diagonal")}
    out |= {"clones": cov.pedigree(ids, sire, dam, clones={"f": "e"}), "markers": cov.markers(M, min_maf=0.1)}
    out |= {"phylogeny": cov.phylogeny(tree), "midpoint": cov.phylogeny(tree, root="midpoint")}
    return out | {"grouping": cov.grouping(list("aabbc")), "incidence": cov.incidence(list("aabbc")).Z.toarray()}


@case
def structures():
    K = cov.pedigree(["a", "b", "c"], [0, 0, "a"], [0, 0, "b"])
    A = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.2, 0.3, 0.6]])
    parts = {
        "ar1": cov.ar1(1.5, 0.6, size=3),
        "sum": cov.scalar(0.4, size=3) + cov.compound_symmetry(0.5, 0.3, size=3),
        "product": cov.known(K, 2.0) * cov.equicorrelation(1.2, 0.4, size=3),
        "unstructured": cov.unstructured(A @ A.T),
        "factors": cov.factor_analytic(A[:, :1], np.array([0.3, 0.2, 0.1])),
        "kronecker": cov.kronecker(cov.unstructured(cholesky=A), cov.ar1(1.0, 0.3, size=2)),
        "blocks": cov.block_diagonal(cov.ar1(0.7, -0.2, size=2), cov.diagonal(np.array([1.0, 2.0]))),
        "propagated": cov.propagate(A, cov.gram(A[:, :2])),
    }
    return {name: np.asarray(part.dense()) for name, part in parts.items()}


CASES |= node_cases.CASES
