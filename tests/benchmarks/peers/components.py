"""Several variance components: a field trial, crossed factors of two sizes, and random slopes."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from dense import loglik
from harness import OURS, Absent, Comparison, Contestant
from lme4 import lmer

import pm_fastlmm as flmm

TRIAL = "Trial of genotypes in incomplete blocks (john_alpha): REML of genotypes, blocks and residual"
TRIAL_ML = "The same trial by maximum likelihood"
CROSSED = "Two crossed factors: REML of three variances"
CROSSED_ML = "Two crossed factors by maximum likelihood"
SLOPES = "Random intercepts and slopes of subjects (sleepstudy): REML of their covariance matrix"
SLOW = {"statsmodels": 3000, "torch-openreml": 1000}  # rows beyond which one fit takes too long to be repeated
RESIDUAL = {"Residual,NA,NA": "residual"}  # as lme4 names it
DENSE = 3000  # rows up to which the results are judged by the dense V
SIZES = {500: (30, 12), 2000: (80, 40), 20_000: (400, 200), 73_421: (2972, 1128)}  # levels by n; the last is InstEval's


def comparisons() -> Iterator[Comparison]:
    yield trial("REML")
    yield trial("ML")
    for n, levels in SIZES.items():
        yield crossed(n, levels, "REML")
    for n, levels in SIZES.items():
        yield crossed(n, levels, "ML")
    yield slopes()


def indicators(codes: Any) -> Any:
    return (np.asarray(codes)[:, None] == np.unique(codes)).astype(float)


def two_factors(
    task: str,
    title: str,
    table: pd.DataFrame,
    fixed: str,
    names: tuple[str, str],
    method: str,
    rounds: int = 5,
) -> Comparison:
    """Return the comparison of y ~ fixed + (1 | a) + (1 | b), the columns of a table."""
    y, X = table["y"].to_numpy(), flmm.MixedDesign.from_formula(f"y ~ {fixed}", table).X
    n = len(y)

    def of_list(values: Any) -> dict[str, float]:
        return dict(zip((*names, "residual"), map(float, values), strict=True))

    formula = f"y ~ {fixed} + (1 | {names[0]}) + (1 | {names[1]})"

    def ours() -> Contestant:
        fit = partial(flmm.find_reml, formula, table, method=method, progressbar=False)
        return Contestant(fit, lambda fit: of_list(fit.theta))

    def refit() -> Contestant:
        fit = flmm.find_reml(formula, table, method=method, progressbar=False)
        return Contestant(lambda: fit.refit(y), lambda again: of_list(again.theta))

    def statsmodels() -> Contestant:
        import statsmodels.formula.api as smf

        require_small("statsmodels", n)
        together = table.assign(one=1)
        parts = {name: f"0 + C({name})" for name in names}

        def fit() -> Any:
            model = smf.mixedlm(f"y ~ {fixed}", together, groups="one", vc_formula=parts)
            return model.fit(reml=method == "REML")

        order = np.argsort(np.argsort(names))  # it sorts the components by name
        return Contestant(fit, lambda r: of_list([*np.asarray(r.vcomp)[order], r.scale]))

    def torch_openreml() -> Contestant:
        import torch
        from torch_openreml import MarginalREML
        from torch_openreml.covariance import CovariancePropagation, DummyMatrix, ScalarMatrix, Sum

        require_small("torch-openreml", n)
        if method == "ML":
            raise Absent("has REML only")
        terms = [
            CovariancePropagation(DummyMatrix(table[name].tolist()), ScalarMatrix(table[name].nunique()))
            for name in names
        ]
        V = Sum(*terms, ScalarMatrix(n))
        arrays = torch.tensor(y), torch.tensor(X)
        return Contestant(
            lambda: V.build_params(MarginalREML(V).optimize(*arrays, torch.zeros(3))[0]), lambda v: of_list(v)
        )

    def gpboost(by: str) -> Contestant:
        import gpboost as gpb

        if method == "REML":
            raise Absent("fits by maximum likelihood: see there")
        groups = table[list(names)].to_numpy(dtype=str)

        def fit() -> Any:
            model = gpb.GPModel(group_data=groups, likelihood="gaussian", matrix_inversion_method=by)
            model.fit(y=y, X=X)
            return model

        def read(model: Any) -> dict[str, float]:
            e, *rest = np.ravel(model.get_cov_pars(format_pandas=False))
            return of_list([*rest, e])

        return Contestant(fit, read)

    Z = {name: indicators(table[name]) for name in names}

    def truth(found: Any) -> dict[str, float]:
        if n > DENSE:
            return {}
        V = sum(found[name] * Z[name] @ Z[name].T for name in names) + found["residual"] * np.eye(n)
        return {"loglik": loglik(y, X, V, restricted=method == "REML")}

    everyone = {
        f"{OURS} find_reml": ours,
        f"{OURS} refit": refit,
        "lme4": lambda: lmer(formula, table, {f"{name},(Intercept),NA": name for name in names} | RESIDUAL, method),
        "statsmodels": statsmodels,
        "torch-openreml": torch_openreml,
        "gpboost": lambda: gpboost("default"),
        "gpboost, Cholesky": lambda: gpboost("cholesky"),
    }
    size = {"n": n, "effects": sum(table[name].nunique() for name in names)}
    return Comparison(task, title, size, "ms", everyone, truth=truth, rounds=rounds)


def require_small(package: str, n: int) -> None:
    if n > SLOW[package]:
        raise Absent(f"left out beyond n = {SLOW[package]} to keep the run short: it works with V, (n, n)")


def trial(method: str) -> Comparison:
    table = flmm.datasets.john_alpha().rename(columns={"yield": "y"})
    table = table.assign(plot=table["rep"] + ":" + table["block"])
    title = TRIAL if method == "REML" else TRIAL_ML
    return two_factors(f"trial_{method}", title, table, "rep", ("gen", "plot"), method)


def crossed(n: int, levels: tuple[int, int], method: str) -> Comparison:
    rng = np.random.default_rng([44, n])
    codes = [rng.permutation(np.r_[np.arange(m), rng.integers(0, m, n - m)]) for m in levels]
    a, b = (scale * rng.normal(size=m)[code] for scale, m, code in zip((1.0, 0.6), levels, codes, strict=True))
    table = pd.DataFrame({"x": rng.normal(size=n)}).assign(y=lambda t: 1 + 0.5 * t.x + a + b + rng.normal(size=n))
    table = table.assign(a=[f"a{i:04d}" for i in codes[0]], b=[f"b{i:04d}" for i in codes[1]])
    title = CROSSED if method == "REML" else CROSSED_ML
    return two_factors(f"crossed_{method}", title, table, "x", ("a", "b"), method, 5 if n < 2000 else 3)


def slopes() -> Comparison:
    table = flmm.datasets.sleepstudy()
    y, days = table["Reaction"].to_numpy(), table["Days"].to_numpy()
    X, Z = np.column_stack([np.ones(len(y)), days]), indicators(table["Subject"])
    formula, names = "Reaction ~ Days + (Days | Subject)", ("intercept", "covariance", "slope", "residual")
    of_lme4 = dict(zip(("(Intercept),NA", "(Intercept),Days", "Days,NA"), names, strict=False))

    def of_list(values: Any) -> dict[str, float]:
        return dict(zip(names, map(float, values), strict=True))

    def ours() -> Contestant:
        fit = partial(flmm.find_reml, formula, table, progressbar=False)
        return Contestant(fit, lambda fit: of_list(fit.theta))

    def refit() -> Contestant:
        fit = flmm.find_reml(formula, table, progressbar=False)
        return Contestant(lambda: fit.refit(y), lambda again: of_list(again.theta))

    def statsmodels() -> Contestant:
        import statsmodels.formula.api as smf

        def fit() -> Any:
            return smf.mixedlm("Reaction ~ Days", table, groups="Subject", re_formula="~Days").fit(reml=True)

        def read(r: Any) -> dict[str, float]:
            (i, c), (_, s) = np.asarray(r.cov_re)
            return of_list([i, c, s, r.scale])

        return Contestant(fit, read)

    def torch_openreml() -> Contestant:
        import torch
        from torch_openreml import MarginalREML
        from torch_openreml.covariance import SimpleMatrix

        ones = torch.tensor(Z @ Z.T)
        d = torch.tensor(days.astype(float))
        kernels = torch.stack([ones, ones * (d[:, None] + d), ones * torch.outer(d, d), torch.eye(len(y))])

        def V(theta: Any) -> Any:
            return torch.tensordot(theta, kernels, 1)

        def fit() -> Any:
            start = torch.tensor([600.0, 0.0, 30.0, 600.0])
            reml = MarginalREML(SimpleMatrix(4, V, manual_grad=lambda theta: (kernels, list(names))))
            return reml.optimize(torch.tensor(y), torch.tensor(X), start)[0]

        return Contestant(fit, of_list)

    def gpboost() -> Contestant:
        raise Absent("its intercepts and slopes are independent")

    def truth(found: Any) -> dict[str, float]:
        i, c, s, e = (found[name] for name in names)
        V = Z @ Z.T * (i + c * (days[:, None] + days) + s * np.outer(days, days)) + e * np.eye(len(y))
        return {"loglik": loglik(y, X, V)}

    everyone = {
        f"{OURS} find_reml": ours, f"{OURS} refit": refit,
        "lme4": lambda: lmer(formula, table, {f"Subject,{k}": name for k, name in of_lme4.items()} | RESIDUAL),
        "statsmodels": statsmodels, "torch-openreml": torch_openreml, "gpboost": gpboost,
    }  # fmt: skip
    return Comparison("slopes", SLOPES, {"n": len(y)}, "ms", everyone, truth=truth)
