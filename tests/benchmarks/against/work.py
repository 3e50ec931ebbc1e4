"""
What is measured: pieces of a user's work, each run in a new process with one of the checkouts on PYTHONPATH.

    python work.py NAME [FIGURE …]

A generator is run once, and the CPU time up to each `yield` counts for the figure that it yields; what comes before
`yield None`, such as the making of data with NumPy, counts for none. Nothing heavy may be imported at the head of this
file. A function returns {figure: call}; the process stays, and answers each line on stdin with seconds per call, of the
figures that were asked for. Everything is read from the public interface, of an earlier checkout as well as of this.
"""

import inspect
import json
import os
import resource
import sys
import warnings
from functools import partial
from itertools import cycle
from pathlib import Path

DRAWS = {"chains": 4, "cores": 1, "progressbar": False, "quiet": True, "random_seed": 1}
ONE_DRAW = {"draws": 1, "tune": 1, "chains": 1, "cores": 1, "progressbar": False, "quiet": True, "random_seed": 1}
FORMULAS = {
    "john_alpha": "y ~ rep + (1 | gen) + (1 | plot)",
    "penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
}


def cpu():
    """User and system time of this process since its start, and of the children that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


# ---------------------------------------------------------------- models and data


def fit(formula, data):
    """REML from formula and table: in one call, where the checkout has it."""
    import pm_fastlmm as flmm

    if "data" in inspect.signature(flmm.find_reml).parameters:
        return flmm.find_reml(formula, data, progressbar=False)
    return flmm.find_reml(flmm.lmm_model(formula, data), progressbar=False)


def table(name):
    import pm_fastlmm as flmm

    data = getattr(flmm.datasets, name)()
    if name == "john_alpha":
        data = data.rename(columns={"yield": "y"}).assign(plot=lambda t: t["rep"] + ":" + t["block"])
    return data


def kinship(n, responses=1, h2=0.5, seed=50):
    """K of full rank, an intercept and two covariates, and responses of which K explains h²."""
    import numpy as np

    rng = np.random.default_rng([seed, n])
    W = rng.normal(size=(n, 2 * n)) / np.sqrt(2 * n)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    effects, noise = W @ rng.normal(size=(2 * n, responses)), rng.normal(size=(n, responses))
    return W @ W.T, X, (X @ [1.0, -0.5, 0.3])[:, None] + np.sqrt(h2) * effects + np.sqrt(1 - h2) * noise


def crossed(n, *levels):
    """Crossed factors in which every level occurs, a covariate and a factor of 14 departments."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng([51, n])
    codes = [rng.permutation(np.r_[np.arange(m), rng.integers(0, m, n - m)]) for m in levels]
    data = pd.DataFrame({"x": rng.normal(size=n)} | {f"g{k}": code.astype(str) for k, code in enumerate(codes)})
    effects = sum(0.6 * rng.normal(size=m)[code] for m, code in zip(levels, codes, strict=True))
    y, department = 1 + 0.5 * data["x"] + effects + rng.normal(size=n), rng.integers(0, 14, n).astype(str)
    return data.assign(y=y, department=department)


def toy(y):
    """A PyMC model with two parameters: what PyMC takes by itself."""
    import pymc as pm

    with pm.Model() as model:
        mean, sd = pm.Normal("mean", 0.0, 10.0), pm.HalfNormal("sd", 5.0)
        pm.Normal("y", mean, sd, observed=y)
    return model


# ---------------------------------------------------------------- from import to an answer


def import_ours():
    import pm_fastlmm  # noqa: F401

    yield "import"


def import_all():
    exec("from pm_fastlmm import *", {})  # names that are imported when they are first used, too
    yield "import"


def import_pymc():
    import pymc  # noqa: F401

    yield "import"


def toy_draw():
    _, _, Y = kinship(300)
    yield None
    import pymc as pm

    pm.sample(model=toy(Y[:, 0]), nuts_sampler="pymc", **ONE_DRAW)  # PyMC would choose nutpie
    yield "draw"


def _kernel_draw(sampler):
    K, X, Y = kinship(300)
    yield None
    import pm_fastlmm as flmm

    flmm.sample(model=flmm.kernel_model(Y[:, 0], X, K), nuts_sampler=sampler, **ONE_DRAW)
    yield "draw"


draw_pymc, draw_nutpie = partial(_kernel_draw, "pymc"), partial(_kernel_draw, "nutpie")


def kernel_fits():
    K, X, Y = kinship(1344)
    yield None
    import pm_fastlmm as flmm

    flmm.reml(flmm.Spectrum.from_covariance(K, X), Y[:, 0])
    yield "reml"
    K, X, Y = kinship(200, 100)
    spectrum = flmm.Spectrum.from_covariance(K, X)
    yield None
    flmm.exact_posterior(spectrum, Y).interval("sigma2", kind="hdi")
    yield "intervals"
    flmm.scan(spectrum, Y[:, 0], Y[:, 1:], progressbar=False)
    yield "scan"
    flmm.reml_point(K, Y[:, 0], X)
    yield "reml_point"


def formula_fits():
    import pm_fastlmm as flmm  # noqa: F401

    for name in ("sleepstudy", "penicillin"):
        fit(FORMULAS[name], table(name))
        yield name


# ---------------------------------------------------------------- warm


def by_hand():
    """Two models of one structure, with other data, in a process that has fitted another structure before."""
    import numpy as np
    import pymc as pm

    import pm_fastlmm as flmm

    def model_of(y, X, *factors):
        with pm.Model() as model:
            terms = [
                flmm.Term(codes, flmm.covariance.scalar(pm.HalfNormal(f"v{k}", 1.0)), name=f"f{k}")
                for k, codes in enumerate(factors)
            ]
            flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=pm.HalfNormal("v_e", 1.0), observed=y)
        return model

    data = table("john_alpha")
    y, gen, plot = (data[name].to_numpy() for name in ("y", "gen", "plot"))
    X = np.column_stack([data["rep"].to_numpy() == rep for rep in ("R1", "R2", "R3")]).astype(float)
    one, two, again = model_of(y, X, gen), model_of(y, X, gen, plot), model_of(y[::-1].copy(), X, gen, plot)
    flmm.find_reml(one, progressbar=False)
    yield None
    flmm.find_reml(two, progressbar=False)
    yield "first"
    flmm.find_reml(again, progressbar=False)
    yield "again"


def formula():
    return {name: partial(fit, formula, table(name)) for name, formula in FORMULAS.items()}


def refit():
    data = table("sleepstudy")
    ys = cycle([data["Reaction"].to_numpy() * scale for scale in (1.0, 1.1, 1.2)])
    estimate = fit(FORMULAS["sleepstudy"], data)
    if hasattr(estimate, "refit"):
        return {"refit": lambda: estimate.refit(next(ys))}
    return {"refit": lambda: fit(FORMULAS["sleepstudy"], data.assign(Reaction=next(ys)))}


def model():
    """`lmm_model`, and the same variables as PyMC makes them."""
    import numpy as np
    import pymc as pm

    import pm_fastlmm as flmm

    def simple(*names):
        with pm.Model():
            for name in names:
                pm.HalfNormal(name, 2.0)

    def correlated():
        with pm.Model(coords={"Subject_effects": ["Intercept", "Days"], "Subject_pairs": ["Intercept, Days"]}):
            scales, start = np.array([50.0, 10.0]), np.array([12.5, 0.0, 2.5])
            sd = pm.HalfNormal.dist(scales, shape=2)
            options = {"compute_corr": True, "store_in_trace": False, "initval": start}
            _, corr, stds = pm.LKJCholeskyCov("chol_Subject", eta=2.0, n=2, sd_dist=sd, **options)
            pm.Deterministic("sigma_Subject", stds, dims="Subject_effects")
            pm.Deterministic("corr_Subject", corr[[0], [1]], dims="Subject_pairs")
            pm.HalfNormal("sigma_e", 50.0)

    return {name: partial(flmm.lmm_model, formula, table(name)) for name, formula in FORMULAS.items()} | {
        "john_alpha, PyMC": lambda: simple("sigma_gen", "sigma_plot", "sigma_e"),
        "penicillin, PyMC": lambda: simple("sigma_plate", "sigma_sample", "sigma_e"),
        "sleepstudy, PyMC": correlated,
    }


def _large(fixed, *sizes):
    import pm_fastlmm as flmm

    model = flmm.lmm_model(f"y ~ {fixed} + (1 | g0) + (1 | g1)", crossed(*sizes))
    return {"find_reml": lambda: flmm.find_reml(model, progressbar=False)}


two_factors, insteval = partial(_large, "x", 20_000, 400, 200), partial(_large, "x + department", 73_421, 2972, 1128)


def draws():
    """A second `sample` of a model of the same structure: each model is another object with other data."""
    import pymc as pm

    import pm_fastlmm as flmm

    K, X, Y = kinship(300, 16)
    spectrum = flmm.Spectrum.from_covariance(K, X)
    models, two = cycle([flmm.kernel_model(y, spectrum=spectrum) for y in Y.T]), toy(Y[:, 0])
    return {
        "pymc": lambda: flmm.sample(1000, model=next(models), **DRAWS),
        "nutpie": lambda: flmm.sample(1000, model=next(models), nuts_sampler="nutpie", **DRAWS),
        "toy": lambda: pm.sample(1000, tune=100, model=two, nuts_sampler="pymc", **DRAWS),
    }


def simulated():
    """REML and draws of one simulated data set after the other, through one model."""
    import pymc as pm

    import pm_fastlmm as flmm

    K, X, Y = kinship(300, 16)
    responses, spectrum = cycle(Y.T.copy()), flmm.Spectrum.from_covariance(K, X)
    with pm.Model() as model:
        h2, total = pm.Beta("h2", 1.0, 1.0), pm.InverseGamma("total", 1.0, 2.0)
        flmm.FastLMM("y", spectrum=spectrum, h2=h2, total=total, observed=pm.Data("data", Y[:, 0]))

    def one():
        with model:
            pm.set_data({"data": next(responses)})
            flmm.find_reml(progressbar=False)
            flmm.sample(250, **DRAWS)

    return {"data set": one}


def beside_eigh():
    import scipy.linalg

    import pm_fastlmm as flmm

    def both(n):
        K, X, Y = kinship(n)
        return {f"{n}": lambda: flmm.reml_point(K, Y[:, 0], X), f"{n}, eigh": lambda: scipy.linalg.eigh(K)}

    return both(1000) | both(2000)


def many():
    """10 000 responses, and the matrix product of their rotation that nothing can avoid."""
    import numpy as np

    import pm_fastlmm as flmm

    K, X, Y = kinship(1000, 10_000, h2=np.linspace(0, 1, 10_000))
    spectrum = flmm.Spectrum.from_covariance(K, X)
    rotated, basis = spectrum.rotate(Y), np.array(spectrum.basis)
    return {
        "rotated and fitted": lambda: flmm.reml(spectrum, Y),
        "fitted": lambda: flmm.reml(spectrum, rotated),
        "product": lambda: Y.T @ basis,
    }


# ---------------------------------------------------------------- the process


def main(name, wanted):
    """Print the figures as JSON: once, or for each line on stdin."""
    warnings.simplefilter("ignore")
    work = globals()[name]
    found = stages(work()) if inspect.isgeneratorfunction(work) else work()
    checkout = Path(os.environ["PYTHONPATH"])
    if "pm_fastlmm" in sys.modules and not Path(sys.modules["pm_fastlmm"].__file__).is_relative_to(checkout):
        raise SystemExit(f"pm_fastlmm is not that of {checkout}")
    if inspect.isgeneratorfunction(work):
        print(json.dumps(found), flush=True)
    else:
        answer(found, wanted)


def stages(work):
    """Return the CPU time that passed before each figure."""
    seconds, last = {}, cpu()
    for figure in work:
        if figure is not None:
            seconds[figure] = cpu() - last
        last = cpu()
    return seconds


def answer(calls, wanted):
    """Measure by turns with measure.py: a turn for each line on stdin."""
    sys.path.append(str(Path(__file__).parents[1]))
    from measure import count, loop, take_turns

    loops = {figure: loop(call) for figure, call in calls.items() if figure in wanted}
    counts = {figure: count(run) for figure, run in loops.items()}
    for _ in sys.stdin:
        seconds = take_turns(loops, rounds=1, counts=counts)
        print(json.dumps({figure: float(values[0]) for figure, values in seconds.items()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
