"""
The list of cases: small models of every engine, each with the dense V it stands for, and what it gives of each verb.

A new engine adds one case. What a case does not give, its node must refuse.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import scipy.linalg
import xarray as xr
from scipy.sparse import csc_array
from scipy.stats import norm, poisson

import pm_fastlmm as flmm
from engines import toy_counts, toy_gaussian
from engines.latent.oracle import Laplace, poisson_counts, successes
from engines.truth import Dense
from pm_fastlmm import covariance as cov
from pm_fastlmm.engines.latent import products
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.engines.sparse.products import SparseProducts
from pm_fastlmm.engines.structured import choice

N = 24
M = 3  # new rows
RNG = np.random.default_rng(11)
GROUP, DAY = np.arange(N) % 5, RNG.permutation(np.arange(N) % 4)
IDS = [f"row {i}" for i in range(N)]
TIME = np.sort(RNG.uniform(size=N))
X = np.column_stack([np.ones(N), 3 * TIME + RNG.normal(size=N)])
X_NEW, TIME_NEW = np.column_stack([np.ones(M), [0.3, -1.0, 2.0]]), np.array([0.1, 0.5, 0.95])
Z, D = (np.equal.outer(codes, np.arange(codes.max() + 1)).astype(float) for codes in (GROUP, DAY))
W = np.random.default_rng(5).normal(size=(N + M, 9))
B_MEAN, B_COV = np.array([1.0, -0.5]), np.array([[2.0, 0.3], [0.3, 0.5]])
GAUSSIAN, EXPLICIT = {"beta_mean": B_MEAN, "beta_cov": B_COV}, {"beta": B_MEAN}
SHIFT = np.sin(5 * TIME)


def simulate(V, seed):
    """Draw y of a V."""
    return X @ B_MEAN + np.linalg.cholesky(V) @ np.random.default_rng(seed).normal(size=N)


# ---------------------------------------------------------------- what a case says of its engine


@dataclass(frozen=True, eq=False)
class Case:
    """
    A model, and what it stands for as functions of the values of its free variables.

    Attributes
    ----------
    name : str
    build : function
        Makes the variables and the node "y" in the model of the context.
    values : dict
        A point, by name of the free variables.
    V : function of the values
        The covariance of y, one for each response; None for a likelihood that is not Gaussian.
    y : (n,) or (T, n) array
    loglik : function of the values, optional
        The log-density where there is no V.
    noise : function of the values, optional
        The covariance of e in y = f + e.
    new_noise : function of the values, optional
        The same of new rows, where it is not that of the first row.
    effects : function of the values, optional
        How many by name of what is recovered, their covariance with y - Xβ, and their own.
    new : dict, and function of the values
        Arguments of `predict` for new rows, and the covariance of f there with y - Xβ, and its own.
    derived : function of the values
        What `sample` adds, by suffix.
    known : dict
        The known mean: mu, b, B.
    X, X_new : arrays
        The design of the rows of V, and of new ones.
    groups, of_groups : arrays
        A label for each row, as it is given, and of each row of V.
    observed : function of values in the shape of the variable
        Those of the rows of V.
    gives : names of verbs
    """

    name: str
    build: Callable[[], Any]
    values: dict[str, Any]
    V: Callable[[dict[str, Any]], Any] | None
    y: Any
    gives: frozenset[str]
    loglik: Any = None
    noise: Any = None
    new_noise: Any = None
    effects: Any = None
    new: tuple[dict[str, Any], Any] | None = None
    derived: Any = lambda v: {}
    known: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-8
    X: Any = field(default_factory=lambda: X)
    X_new: Any = field(default_factory=lambda: X_NEW)
    groups: Any = field(default_factory=lambda: GROUP)
    of_groups: Any = field(default_factory=lambda: GROUP)
    observed: Callable[[Any], Any] = lambda values: values

    def __repr__(self):
        """Name the case, for pytest."""
        return self.name

    @cached_property
    def model(self):
        """The model, built once."""
        with pm.Model() as model:
            self.build()
        return model

    @property
    def node(self):
        """Its node."""
        return find_node(self.model)

    @cached_property
    def fit(self):
        """The fit by REML, made once."""
        return flmm.find_reml(self.model, progressbar=False)

    def draws(self, count, values=None):
        """Return a posterior of copies of one point."""
        point = {name: np.asarray(value, dtype=float) for name, value in (values or self.values).items()}
        return xr.DataTree.from_dict({
            "posterior": xr.Dataset({
                name: (("chain", "draw", *(f"{name}_dim_{i}" for i in range(value.ndim))),
                       np.broadcast_to(value, (1, count, *value.shape)).copy())
                for name, value in point.items()
            }, coords={"chain": [0], "draw": np.arange(count)})
        })  # fmt: skip

    def dense(self, values=None):
        """Return the truth of each response at a point."""
        V = self.V(values or self.values)
        one_by_one = zip(V, self.y, strict=True) if self.y.ndim > 1 else [(V, self.y)]
        return [Dense(V, self.X, y, **self.known) for V, y in one_by_one]

    def density(self, values):
        """Return the log-density at a point."""
        return self.loglik(values) if self.V is None else sum(truth.loglik for truth in self.dense(values))


FIT = frozenset({"find_reml"})
AFTER = FIT | {"V", "loo", "simulate", "compare_fits"}
ROWS = frozenset({"pointwise", "left_out"})
OF_TERMS = frozenset({"blup", "fit.predict"})
EFFECTS = frozenset({"recover", "given", "new", "population", "new rows"})
OF_MATRIX = AFTER | ROWS | EFFECTS | OF_TERMS

# ---------------------------------------------------------------- one kernel

K, K_NEW, K_NEW_NEW = W[:N] @ W[:N].T / 9, W[N:] @ W[:N].T / 9, W[N:] @ W[N:].T / 9
KERNEL_Y = simulate(1.5 * K + np.eye(N), 1)
SPECTRUM = flmm.Spectrum.from_factor(W[:N] / 3, X)  # of rank 9
FULL = K + np.exp(-np.abs(np.subtract.outer(TIME, TIME)) / 0.3)


def positive(*names, **kwargs):
    """Return variances."""
    return [pm.HalfNormal(name, 2, **kwargs) for name in names]


def kernel(**treatment):
    """FastLMM of a factor."""
    g, e = positive("g", "e")
    flmm.FastLMM("y", spectrum=SPECTRUM, sigma2_g=g, sigma2_e=e, observed=KERNEL_Y, **treatment)


def kernel_derived(v, kernel=K):
    """What a FastLMM adds."""
    g, e, kbar = v["g"], v["e"], np.trace(kernel) / N
    M = np.eye(N) - X @ np.linalg.pinv(X)
    lbar = np.trace(M @ kernel @ M) / (N - 2)
    h2, pve = kbar * g / (kbar * g + e), lbar * g / (lbar * g + e)
    return {"sigma2": g, "sigma2_g": g, "sigma2_e": e, "delta": e / g, "h2": h2, "pve": pve}


def of_kernel(v):
    """Return u and a, of which u = Wa."""
    both = np.vstack([W[:N] / 3, np.eye(9)])
    return {"u": N, "a": 9}, v["g"] * both @ W[:N].T / 3, v["g"] * both @ both.T


KERNEL = {
    "V": lambda v: v["g"] * K + v["e"] * np.eye(N),
    "noise": lambda v: v["e"] * np.eye(N),
    "values": {"g": 1.3, "e": 0.8},
    "effects": of_kernel,
    "derived": kernel_derived,
    "y": KERNEL_Y,
    "new": ({"X_new": X_NEW, "W_new": W[N:] / 3}, lambda v: (v["g"] * K_NEW, v["g"] * K_NEW_NEW)),
}  # fmt: skip


def full_kernel():
    """FastLMM of a covariance, with ids."""
    g, e = positive("g", "e")
    flmm.FastLMM("y", spectrum=flmm.Spectrum.from_covariance(FULL, X), sigma2_g=g, sigma2_e=e, observed=FULL_Y)


FULL_Y = simulate(1.5 * FULL + np.eye(N), 2)
SEVERAL_Y = np.stack([KERNEL_Y, np.cos(3 * KERNEL_Y) + TIME])


def several():
    """FastLMM of two responses."""
    g, e = positive("g", "e", shape=2)
    flmm.FastLMM("y", spectrum=SPECTRUM, sigma2_g=g, sigma2_e=e, observed=SEVERAL_Y)


# ---------------------------------------------------------------- terms

TERMS_Y = simulate(Z @ Z.T + D @ D.T + 0.5 * np.eye(N), 3)


def terms(**treatment):
    """StructuredLMM of two crossed factors."""
    v, w, e = positive("v", "w", "e")
    crossed = [flmm.Term(GROUP, cov.scalar(v), name="g"), flmm.Term(DAY, cov.scalar(w), name="d")]
    flmm.StructuredLMM("y", X=X, terms=crossed, sigma2_e=e, observed=TERMS_Y, **treatment)


def terms_V(v):
    """Return V of two factors."""
    return v["v"] * Z @ Z.T + v["w"] * D @ D.T + v["e"] * np.eye(N)


def terms_effects(v):
    """Return the effects of groups and days."""
    own = np.repeat([v["v"], v["w"]], [5, 4])
    return {"g": 5, "d": 4}, own[:, None] * np.hstack([Z, D]).T, np.diag(own)


def terms_new(v):
    """Return covariances of f at new rows, of groups 0, 3 and a new one, and days 1, 2 and 1."""
    G, H = np.zeros((M, 6)), np.eye(4)[[1, 2, 1]]
    G[[0, 1, 2], [0, 3, 5]] = 1.0
    return v["v"] * G[:, :5] @ Z.T + v["w"] * H @ D.T, v["v"] * G @ G.T + v["w"] * H @ H.T


def terms_derived(v):
    """Return variances and their shares."""
    variance = np.array([v["v"], v["w"], v["e"]])
    return {"variance": variance, "share": variance / variance.sum()}


TERMS = {
    "V": terms_V,
    "y": TERMS_Y,
    "noise": lambda v: v["e"] * np.eye(N),
    "values": {"v": 0.9, "w": 1.2, "e": 0.6},
    "effects": terms_effects,
    "new": ({"X_new": X_NEW, "Z_new": {"g": [0, 3, 99], "d": [1, 2, 1]}}, terms_new),
    "derived": terms_derived,
}  # fmt: skip


def one_term(**options):
    """StructuredLMM that is one kernel."""
    v, e = positive("v", "e")
    term = flmm.Term(GROUP, cov.scalar(v), name="g")
    flmm.StructuredLMM("y", X=X, terms=[term], sigma2_e=e, observed=TERMS_Y, **options)


def one_term_derived(v):
    """Return the two variances and their shares."""
    variance = np.array([v["v"], v["e"]])
    return {"variance": variance, "share": variance / variance.sum()}


def one_term_new(v):
    """Return covariances of f at new rows."""
    G = np.zeros((M, 6))
    G[[0, 1, 2], [0, 3, 5]] = 1.0
    return v["v"] * G[:, :5] @ Z.T, v["v"] * G @ G.T


# ---------------------------------------------------------------- the same terms, by sparse equations


def sparsely(build):
    """Build a model whose terms the sparse engine evaluates, however small they are."""
    with mock.patch.multiple(choice, _SMALL=-1):
        build()
    assert isinstance(find_node(pm.modelcontext(None), "y").products, SparseProducts)


LABELS = tuple(range(7))  # two more than occur
CHAIN = 1.25 * np.eye(7) - 0.5 * (np.eye(7, k=1) + np.eye(7, k=-1))
CHAINED = np.linalg.inv(CHAIN)
PRECISION = cov.Precision(csc_array(CHAIN), LABELS)
Z7 = np.hstack([Z, np.zeros((N, 2))])


def related():
    """StructuredLMM of levels that are related by a sparse inverse, beside a second factor."""
    v, w, e = positive("v", "w", "e")
    pair = [flmm.Term(GROUP, cov.known(PRECISION, v), name="g"), flmm.Term(DAY, cov.scalar(w), name="d")]
    flmm.StructuredLMM("y", X=X, terms=pair, sigma2_e=e, observed=TERMS_Y)


def related_V(v):
    """Return V of related groups, and days."""
    return v["v"] * Z7 @ CHAINED @ Z7.T + v["w"] * D @ D.T + v["e"] * np.eye(N)


def related_effects(v):
    """Return the effects of all labels, and of days."""
    own = scipy.linalg.block_diag(v["v"] * CHAINED, v["w"] * np.eye(4))
    return {"g": 7, "d": 4}, own @ np.hstack([Z7, D]).T, own


def related_new(v):
    """Return covariances of f at new rows, of groups 0, 3 and 6, and days 1, 2 and 1."""
    G, H = np.eye(7)[[0, 3, 6]], np.eye(4)[[1, 2, 1]]
    cross = v["v"] * G @ CHAINED @ Z7.T + v["w"] * H @ D.T
    return cross, v["v"] * G @ CHAINED @ G.T + v["w"] * H @ H.T


def related_derived(v):
    """Return variances on average over the observations, and their shares."""
    variance = np.array([v["v"] * np.trace(Z7 @ CHAINED @ Z7.T) / N, v["w"], v["e"]])
    return {"variance": variance, "share": variance / variance.sum()}


# ---------------------------------------------------------------- prior weights

PRIOR_WEIGHTS = 0.4 + 3 * RNG.uniform(size=N)


# ---------------------------------------------------------------- residuals of several variances

SIDE = np.where(np.arange(N) % 3 == 0, "left", "right")
SIDES = pd.DataFrame({"left": SIDE == "left", "right": SIDE == "right"}, dtype=float)
TRAIT, RECORD = np.append(np.tile([0, 1], 10), [0, 0, 1, 1]), np.append(np.arange(20) // 2, 10 + np.arange(4))
TRAITS = pd.DataFrame(np.eye(2)[TRAIT], columns=["milk", "fat"])  # some records have one of them alone
NEW_SIDES, NEW_TRAITS = ["left", "right", "right"], ["fat", "milk", "fat"]


def sides(**treatment):
    """StructuredLMM of two crossed factors, whose residuals have two variances."""
    v, w, left, right = positive("v", "w", "left", "right")
    crossed = [flmm.Term(GROUP, cov.scalar(v), name="g"), flmm.Term(DAY, cov.scalar(w), name="d")]
    residual = flmm.Term(np.arange(N), cov.diagonal(pt.stack([left, right])), columns=SIDES)
    flmm.StructuredLMM("y", X=X, terms=crossed, residual=residual, observed=TERMS_Y, **treatment)


def sides_noise(v):
    """Return the covariance of e."""
    return np.diag(np.where(SIDE == "left", v["left"], v["right"]))


def sides_derived(v):
    """Return variances, that of the residual on average, and their shares."""
    variance = np.array([v["v"], v["w"], np.trace(sides_noise(v)) / N])
    return {"variance": variance, "share": variance / variance.sum()}


OF_SIDES = {
    "V": lambda v: terms_V(v | {"e": 0.0}) + sides_noise(v),
    "y": TERMS_Y,
    "noise": sides_noise,
    "new_noise": lambda v: np.diag([v[side] for side in NEW_SIDES]),
    "values": {"v": 0.9, "w": 1.2, "left": 0.6, "right": 0.8},
    "effects": terms_effects,
    "new": ({"X_new": X_NEW, "Z_new": {"g": [0, 3, 99], "d": [1, 2, 1], "residual": NEW_SIDES}}, terms_new),
    "derived": sides_derived,
}  # fmt: skip


def traits(**options):
    """StructuredLMM of related groups and days, whose residuals covary between the traits of a record."""
    v, w, rho, milk, fat = *positive("v", "w"), pm.Uniform("rho"), *positive("milk", "fat")
    both = rho * pt.sqrt(milk * fat)
    pair = [flmm.Term(GROUP, cov.known(PRECISION, v), name="g"), flmm.Term(DAY, cov.scalar(w), name="d")]
    covariance = cov.unstructured(pt.stack([pt.stack([milk, both]), pt.stack([both, fat])]), size=2)
    residual = flmm.Term(RECORD, covariance, columns=TRAITS)
    flmm.StructuredLMM("y", X=X, terms=pair, residual=residual, observed=TRAITS_Y, weights=PRIOR_WEIGHTS, **options)


def traits_noise(v):
    """Return the covariance of e."""
    both = v["rho"] * np.sqrt(v["milk"] * v["fat"])
    S = np.array([[v["milk"], both], [both, v["fat"]]])
    return (RECORD[:, None] == RECORD) * S[np.ix_(TRAIT, TRAIT)] / np.sqrt(np.outer(PRIOR_WEIGHTS, PRIOR_WEIGHTS))


def traits_derived(v):
    """Return variances on average by weight, and their shares."""
    own, w = np.diag(Z7 @ CHAINED @ Z7.T), PRIOR_WEIGHTS
    noise = np.where(TRAIT == 0, v["milk"], v["fat"]).mean() / w.mean()
    variance = np.array([v["v"] * (w * own).sum() / w.sum(), v["w"], noise])
    return {"variance": variance, "share": variance / variance.sum()}


TRAITS_AT = {"v": 0.9, "w": 1.2, "rho": 0.6, "milk": 0.7, "fat": 1.1}
TRAITS_Y = simulate(related_V(TRAITS_AT | {"e": 0.0}) + traits_noise(TRAITS_AT), 10)
OF_TRAITS = {
    "V": lambda v: related_V(v | {"e": 0.0}) + traits_noise(v),
    "y": TRAITS_Y,
    "noise": traits_noise,
    "new_noise": lambda v: np.diag([v[trait] for trait in NEW_TRAITS]),
    "values": TRAITS_AT,
    "effects": related_effects,
    "new": ({"X_new": X_NEW, "Z_new": {"g": [0, 3, 6], "d": [1, 2, 1], "residual": NEW_TRAITS}}, related_new),
    "derived": traits_derived,
}  # fmt: skip


def weighted_V(v):
    """Return V of two factors, and residuals of variances σ²/w."""
    return terms_V(v) + v["e"] * np.diag(1 / PRIOR_WEIGHTS - 1)


def weighted_derived(v):
    """Return variances, that of the residual at the mean weight, and their shares."""
    variance = np.array([v[name] for name in v])
    variance[-1] /= PRIOR_WEIGHTS.mean()
    return {"variance": variance, "share": variance / variance.sum()}


WEIGHTED = TERMS | {
    "V": weighted_V,
    "noise": lambda v: v["e"] * np.diag(1 / PRIOR_WEIGHTS),
    "derived": weighted_derived,
    "new_noise": lambda v: v["e"] * np.eye(M),
}  # fmt: skip


def weighted_kernel(**treatment):
    """FastLMM of a factor, whose spectrum has weights."""
    g, e = positive("g", "e")
    spectrum = flmm.Spectrum.from_factor(W[:N] / 3, X, weights=PRIOR_WEIGHTS)
    flmm.FastLMM("y", spectrum=spectrum, sigma2_g=g, sigma2_e=e, observed=KERNEL_Y, **treatment)


def weighted_full_kernel():
    """FastLMM of a covariance, whose spectrum has weights, in h2 and total."""
    spectrum = flmm.Spectrum.from_covariance(FULL, X, weights=PRIOR_WEIGHTS)
    h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", 4)
    flmm.FastLMM("y", spectrum=spectrum, h2=h2, total=total, observed=FULL_Y)


def weighted_kernel_derived(v, kernel=K):
    """What a FastLMM adds: shares of an observation of mean weight."""
    g, e, w = v["g"], v["e"], PRIOR_WEIGHTS
    kbar, root = (w * np.diag(kernel)).sum() / w.sum(), np.sqrt(w)[:, None]
    M = np.eye(N) - root * X @ np.linalg.pinv(root * X)
    lbar = np.trace(M @ (root * kernel * root.T) @ M) / (N - 2)
    h2 = kbar * g / (kbar * g + e / w.mean())
    return {"sigma2": g, "sigma2_g": g, "sigma2_e": e, "delta": e / g, "h2": h2, "pve": lbar * g / (lbar * g + e)}


def of_total(v):
    """Return the two variances of the full kernel from h2 and total."""
    kbar = (PRIOR_WEIGHTS * np.diag(FULL)).sum() / PRIOR_WEIGHTS.sum()
    g, e = v["h2"] * v["total"] / kbar, (1 - v["h2"]) * v["total"] * PRIOR_WEIGHTS.mean()
    return {"g": g, "e": e}


def weighted_noise(v):
    """Return the covariance of e."""
    return v["e"] * np.diag(1 / PRIOR_WEIGHTS)


WEIGHTED_KERNEL = KERNEL | {
    "V": lambda v: v["g"] * K + weighted_noise(v), "noise": weighted_noise, "derived": weighted_kernel_derived,
    "new_noise": lambda v: v["e"] * np.eye(M),
}  # fmt: skip
WEIGHTED_FULL = {
    "y": FULL_Y, "values": {"h2": 0.6, "total": 2.5}, "noise": lambda v: weighted_noise(of_total(v)),
    "V": lambda v: of_total(v)["g"] * FULL + weighted_noise(of_total(v)),
    "effects": lambda v: ({"u": N}, of_total(v)["g"] * FULL, of_total(v)["g"] * FULL),
    "derived": lambda v: weighted_kernel_derived(of_total(v), FULL),
}  # fmt: skip


# ---------------------------------------------------------------- several traits of the rows of one kernel

RECORDS = 13  # of two traits, of which two entries were not observed, so that N are left
SEEN, ALL_SEEN = np.ones((2, RECORDS), dtype=bool), np.ones((2, N // 2), dtype=bool)
SEEN[[0, 1], [3, 8]] = False
RECORD_WEIGHTS = PRIOR_WEIGHTS[:RECORDS]
RECORD_SHIFT, RECORD_W = np.vstack([SHIFT[:RECORDS], TIME[:RECORDS]]), W[:RECORDS] / 3
B_BOTH = np.array([1.0, -0.5, 0.2, 0.8])
B_BOTH_COV = np.diag([2.0, 0.5, 1.0, 0.4]) + 0.2


def pair(a, b, rho, xp=np):
    """Return a covariance of two traits."""
    both = rho * xp.sqrt(a * b)
    return xp.stack([xp.stack([a, both]), xp.stack([both, b])])


def matrix(spectrum, Y, *, diagonal=False, **treatment):
    """MatrixLMM of two traits."""
    (milk, fat), rho = positive("milk", "fat"), pm.Uniform("rho", -1, 1)
    own = positive("e_milk", "e_fat")
    sigma_e = cov.diagonal(pt.stack(own)) if diagonal else pair(*own, pm.Uniform("rho_e", -1, 1), pt)
    flmm.MatrixLMM("y", spectrum=spectrum, Sigma_g=pair(milk, fat, rho, pt), Sigma_e=sigma_e, observed=Y, **treatment)


def of_matrix(kernel, cross, prior, seed, *, seen=SEEN, weights=1.0, diagonal=False, **arguments):
    """Return Y, and what a case has of Σ_g ⊗ K + Σ_e ⊗ I; cross and prior are of new rows, which arguments ask for."""
    S, n = seen.ravel(), seen.shape[1]
    w, groups, design = weights * np.ones(n), np.arange(n) % 5, np.kron(np.eye(2), X[:n])[S]
    values = {"milk": 1.1, "fat": 0.8, "rho": 0.4, "e_milk": 0.7, "e_fat": 0.9} | ({} if diagonal else {"rho_e": 0.3})

    def sigma_g(v):
        return pair(v["milk"], v["fat"], v["rho"])

    def sigma_e(v):
        return pair(v["e_milk"], v["e_fat"], v.get("rho_e", 0.0))

    def noise(v):
        return np.kron(sigma_e(v), np.diag(1 / w))[np.ix_(S, S)]

    def effects(v):
        own = np.kron(sigma_g(v), kernel)
        return {"K": len(own)}, own[:, S], own

    def derived(v):
        own, rest = (w * np.diag(kernel)).sum() / w.sum() * np.diag(sigma_g(v)), np.diag(sigma_e(v)) / w.mean()
        return {"variance_K": own, "variance_e": rest, "h2": own / (own + rest)}

    def V(v):
        return effects(v)[1][S] + noise(v)

    def new(v):
        return np.kron(sigma_g(v), cross)[:, S], np.kron(sigma_g(v), prior)

    Y = np.full(seen.shape, np.nan)
    Y[seen] = design @ B_BOTH + np.linalg.cholesky(V(values)) @ np.random.default_rng(seed).normal(size=N)
    return Y, {
        "y": Y[seen], "values": values, "V": V, "noise": noise, "effects": effects, "derived": derived,
        "new": ({"X_new": X_NEW, **arguments}, new), "new_noise": lambda v: np.kron(sigma_e(v), np.eye(M)),
        "X": design, "X_new": np.kron(np.eye(2), X_NEW), "groups": groups, "of_groups": groups[np.nonzero(seen)[1]],
        "observed": lambda values: values if values.ndim == 1 else values[..., seen],  # densities have no gaps
    }  # fmt: skip


OF_W = (RECORD_W @ RECORD_W.T, W[N:] @ RECORD_W.T / 3, W[N:] @ W[N:].T / 9)
FACTOR_Y, OF_FACTOR = of_matrix(*OF_W, 30, W_new=W[N:] / 3)
HEAVY_Y, OF_HEAVY = of_matrix(*OF_W, 21, weights=RECORD_WEIGHTS, W_new=W[N:] / 3)
OF_FULL = (FULL[:12, :12], FULL[12:15, :12], FULL[12:15, 12:15])
WHOLE_Y, OF_WHOLE = of_matrix(*OF_FULL, 50, seen=ALL_SEEN, diagonal=True, K_new=OF_FULL[1], K_new_new=OF_FULL[2])
FEW_Y, OF_FEW = of_matrix(OF_W[0][:12, :12], OF_W[1][:, :12], OF_W[2], 23, seen=ALL_SEEN)
FEW = flmm.Spectrum.from_factor(RECORD_W[:12], X[:12])
FACTOR, HEAVY = (flmm.Spectrum.from_factor(RECORD_W, X[:RECORDS], weights=w) for w in (None, RECORD_WEIGHTS))
WHOLE = flmm.Spectrum.from_covariance(OF_FULL[0], X[:12])
BOTH_GAUSSIAN = {"beta_mean": B_BOTH.reshape(2, 2), "beta_cov": B_BOTH_COV}


# ---------------------------------------------------------------- a lengthscale


def matern52(x, other, lengthscale):
    """Return the kernel from its definition."""
    a = np.sqrt(5) * np.abs(np.subtract.outer(x, other)) / lengthscale
    return (1 + a + a**2 / 3) * np.exp(-a)


LENGTHSCALE_Y = simulate(2 * matern52(TIME, TIME, 0.3) + 0.2 * np.eye(N), 8)
LENGTHSCALES = flmm.LengthscaleSpectrum.from_coordinates(
    TIME, "matern52", lengthscale=(0.1, 1.0), X=X, delta=(1e-3, 1e2), tolerance=1e-7, progressbar=False
)


def lengthscale():
    """LengthscaleLMM of a Matérn kernel."""
    ell, (g, e) = pm.Uniform("ell", 0.1, 1.0), positive("g", "e")
    flmm.LengthscaleLMM("y", spectrum=LENGTHSCALES, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=LENGTHSCALE_Y)


def lengthscale_V(v):
    """Return V of a Matérn kernel."""
    return v["g"] * matern52(TIME, TIME, v["ell"]) + v["e"] * np.eye(N)


def weighted_lengthscale():
    """LengthscaleLMM of a Matérn kernel with weights."""
    ell, (g, e) = pm.Uniform("ell", 0.1, 1.0), positive("g", "e")
    spectrum = flmm.LengthscaleSpectrum.from_coordinates(
        TIME, "matern52", lengthscale=(0.1, 1.0), X=X, delta=(1e-3, 1e2), tolerance=1e-7, progressbar=False,
        weights=PRIOR_WEIGHTS,
    )  # fmt: skip
    flmm.LengthscaleLMM("y", spectrum=spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=LENGTHSCALE_Y)


def lengthscale_effects(v):
    """Return covariances of u."""
    u = v["g"] * matern52(TIME, TIME, v["ell"])
    return {"u": N}, u, u


def lengthscale_new(v):
    """Return covariances of f at new points."""
    return tuple(v["g"] * matern52(TIME_NEW, other, v["ell"]) for other in (TIME, TIME_NEW))


def lengthscale_derived(v):
    """Return what a LengthscaleLMM adds."""
    g, e = v["g"], v["e"]
    return {"lengthscale": v["ell"], "sigma2": g, "sigma2_g": g, "sigma2_e": e, "delta": e / g, "h2": g / (g + e)}


LENGTHSCALE = {
    "y": LENGTHSCALE_Y, "V": lengthscale_V, "values": {"ell": 0.35, "g": 1.4, "e": 0.3},
    "noise": lambda v: v["e"] * np.eye(N), "effects": lengthscale_effects, "derived": lengthscale_derived,
    "tolerance": 1e-5,
}  # fmt: skip
WEIGHTED_LENGTHSCALE = LENGTHSCALE | {
    "V": lambda v: lengthscale_V(v) + weighted_noise(v) - v["e"] * np.eye(N), "noise": weighted_noise,
    "new_noise": lambda v: v["e"] * np.eye(M),
    "derived": lambda v: lengthscale_derived(v) | {"h2": v["g"] / (v["g"] + v["e"] / PRIOR_WEIGHTS.mean())},
}  # fmt: skip


def new_points():
    """Return the arguments for new rows."""
    K_new, K_new_new = LENGTHSCALES.new_kernels(TIME_NEW)
    return {"X_new": X_NEW, "K_new": K_new, "K_new_new": K_new_new}


# ---------------------------------------------------------------- any V

DISTANCE = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))


def dense_V(v):
    """Return a group effect with autoregressive residuals; for numbers and for tensors."""
    return v["v"] * Z @ Z.T + v["e"] * v["rho"] ** DISTANCE


DENSE_Y = simulate(dense_V({"v": 1.0, "e": 1.0, "rho": 0.5}), 4)


def dense(**treatment):
    """DenseLMM."""
    (v, e), rho = positive("v", "e"), pm.Uniform("rho", 0.01, 0.95)
    V = v * pt.constant(Z @ Z.T) + e * pt.power(rho, DISTANCE)
    flmm.DenseLMM("y", X=X, V=V, observed=DENSE_Y, **treatment)


DENSE = {
    "V": dense_V,
    "y": DENSE_Y,
    "values": {"v": 0.8, "e": 1.1, "rho": 0.4},
}

# ---------------------------------------------------------------- features of a function

BASIS = flmm.FourierBasis(kernel="se", lengthscale=(0.2, 0.8), domain=(0, 1), n=N, noise_ratio_min=0.001)
FEATURES, FEATURES_NEW = BASIS.features(TIME), BASIS.features(TIME_NEW)


def scaled(v):
    """Return the prior variances of the weights."""
    return v["g"] * np.exp(BASIS.log_weights(v["ell"]))


def fourier_V(v):
    """Return V of the features."""
    return FEATURES * scaled(v) @ FEATURES.T + v["e"] * np.eye(N)


FOURIER_Y = simulate(fourier_V({"ell": 0.3, "g": 2.0, "e": 0.3}), 7)


def fourier():
    """FourierLMM with the lengthscale of its basis."""
    ell, (g, e) = pm.Uniform("ell", 0.2, 0.8), positive("g", "e")
    statistics = flmm.FourierStatistics.from_arrays(BASIS, TIME, FOURIER_Y, X)
    flmm.FourierLMM("y", statistics=statistics, lengthscale=ell, sigma2=g, sigma2_e=e)


def weighted_fourier():
    """FourierLMM of rows with weights."""
    ell, (g, e) = pm.Uniform("ell", 0.2, 0.8), positive("g", "e")
    statistics = flmm.FourierStatistics.from_arrays(BASIS, TIME, FOURIER_Y, X, PRIOR_WEIGHTS)
    flmm.FourierLMM("y", statistics=statistics, lengthscale=ell, sigma2=g, sigma2_e=e, tolerance=1e-6)


FOURIER = {
    "values": {"ell": 0.35, "g": 1.4, "e": 0.3}, "V": fourier_V, "y": FOURIER_Y, "tolerance": 1e-6,
    "noise": lambda v: v["e"] * np.eye(N), "derived": lambda v: {"delta": v["e"] / v["g"]},
    "effects": lambda v: ({"weights": BASIS.size}, scaled(v)[:, None] * FEATURES.T, np.diag(scaled(v))),
    "new": ({"x_new": TIME_NEW, "X_new": X_NEW},
            lambda v: tuple(FEATURES_NEW * scaled(v) @ other.T for other in (FEATURES, FEATURES_NEW))),
    "rows": {"rows": (TIME, FOURIER_Y, X)},
}  # fmt: skip
WEIGHTED_FOURIER = FOURIER | {
    "V": lambda v: fourier_V(v) + weighted_noise(v) - v["e"] * np.eye(N), "noise": weighted_noise,
    "new_noise": lambda v: v["e"] * np.eye(M), "rows": {"rows": (TIME, FOURIER_Y, X, PRIOR_WEIGHTS)},
}  # fmt: skip


# ---------------------------------------------------------------- the toys


def weighted():
    """The Gaussian toy."""
    g, e = positive("g", "e")
    toy_gaussian.weighted_lmm("y", K=K, weights=WEIGHTS, X=X, sigma2_g=g, sigma2_e=e, observed=WEIGHTED_Y)


WEIGHTS = 0.5 + TIME
WEIGHTED_Y = simulate(1.5 * K + np.diag(WEIGHTS), 5)

COUNTS = np.random.default_rng(6).poisson(np.exp(X @ [0.8, 0.2] + 0.7 * np.sin(GROUP)))


def counts():
    """The toy of counts."""
    beta, sigma = pm.Normal("beta", 0, 1, shape=2), pm.HalfNormal("sigma", 1)
    toy_counts.counts_lmm("y", X=X, groups=GROUP, beta=beta, sigma=sigma, observed=COUNTS)


def counts_joint(v):
    """Return a fine grid of each effect, and its joint density with the counts of its group there."""
    u = np.linspace(-9, 9, 4001) * v["sigma"]
    each = poisson(np.exp((X @ v["beta"])[:, None] + u)).logpmf(COUNTS[:, None])
    return u, np.exp(Z.T @ each + norm(0, v["sigma"]).logpdf(u))


def counts_loglik(v):
    """Return the log-density by the trapezoidal rule over each effect."""
    u, joint = counts_joint(v)
    return float(np.log(np.trapezoid(joint, u)).sum())


def counts_moments(v):
    """Return mean and covariance of the effects given the counts."""
    u, joint = counts_joint(v)
    weights = joint / joint.sum(axis=1, keepdims=True)
    mean = weights @ u
    return mean, np.diag(weights @ u**2 - mean**2)


# ---------------------------------------------------------------- counts with terms

TRIALS = 9.0 + np.arange(N) % 7
OF_ROWS = np.sin(2 * GROUP) + np.cos(2 * DAY)
LITTERS = np.random.default_rng(6).poisson(np.exp(X @ [0.8, 0.2] + OF_ROWS))
SUCCESSES = np.random.default_rng(8).binomial(TRIALS.astype(int), 1 / (1 + np.exp(-1.5 * OF_ROWS - 0.4 * X[:, 1])))


def counted(**treatment):
    """LatentLMM of counts with two crossed factors."""
    v, w = positive("v", "w")
    crossed = [flmm.Term(GROUP, cov.scalar(v), name="g"), flmm.Term(DAY, cov.scalar(w), name="d")]
    flmm.LatentLMM("y", family="poisson", X=X, terms=crossed, observed=LITTERS, **treatment)


def counted_laplace(v, **known):
    """Return the approximation of it."""
    G = np.diag(np.repeat([v["v"], v["w"]], [5, 4]))
    return Laplace(LITTERS, X, np.hstack([Z, D]), G, poisson_counts, **known)


def shares():
    """LatentLMM of successes among trials, with groups that are related, by sparse equations."""
    v, w = positive("v", "w")
    pair = [flmm.Term(GROUP, cov.known(PRECISION, v), name="g"), flmm.Term(DAY, cov.scalar(w), name="d")]
    with mock.patch.multiple(products, _FEW=-1):
        flmm.LatentLMM("y", family="binomial", X=X, terms=pair, trials=TRIALS, observed=SUCCESSES)
        assert not find_node(pm.modelcontext(None), "y").products.dense


def shares_laplace(v):
    """Return the approximation of it."""
    G = scipy.linalg.block_diag(v["v"] * CHAINED, v["w"] * np.eye(4))
    return Laplace(SUCCESSES, X, np.hstack([Z7, D]), G, successes(TRIALS))


OF_COUNTS = FIT | ROWS | EFFECTS | {"blup", "fit.predict", "simulate", "loo", "compare_fits"}
COUNTED = {
    "V": None, "y": LITTERS, "values": {"v": 0.9, "w": 0.5}, "gives": OF_COUNTS,
    "derived": lambda v: {"variance": np.array([v["v"], v["w"]])},
}  # fmt: skip
B_COUNTS = np.array([0.8, 0.2])
KNOWN = {"mu": SHIFT, "b": B_COUNTS, "B": np.zeros((2, 2))}
PRIOR = {"b": B_MEAN, "B": B_COV}


CASES = [
    Case("spectral", kernel, gives=AFTER | ROWS | EFFECTS | OF_TERMS, **KERNEL),
    Case(
        "spectral, full rank", full_kernel, gives=AFTER | ROWS | EFFECTS - {"new rows"} | {"blup"}, y=FULL_Y,
        values={"g": 1.3, "e": 0.8}, V=lambda v: v["g"] * FULL + v["e"] * np.eye(N),
        noise=lambda v: v["e"] * np.eye(N), effects=lambda v: ({"u": N}, v["g"] * FULL, v["g"] * FULL),
        derived=lambda v: kernel_derived(v, FULL),
    ),
    Case("spectral, explicit", lambda: kernel(**EXPLICIT, mu=SHIFT), gives=ROWS | EFFECTS - {"new rows"},
         known={"mu": SHIFT, "b": B_MEAN, "B": np.zeros((2, 2))}, **KERNEL | {"new": None}),
    Case("spectral, Gaussian", lambda: kernel(**GAUSSIAN), gives=ROWS | EFFECTS,
         known={"b": B_MEAN, "B": B_COV}, **KERNEL),
    Case(
        "spectral, several", several, gives=ROWS | EFFECTS, y=SEVERAL_Y,
        values={"g": np.array([1.3, 0.5]), "e": np.array([0.8, 1.1])},
        **{what: lambda v, one=KERNEL[what]: [one({"g": g, "e": e}) for g, e in zip(v["g"], v["e"], strict=True)]
           for what in ("V", "noise", "effects")},
        derived=kernel_derived,
        new=(KERNEL["new"][0], lambda v: [KERNEL["new"][1]({"g": g}) for g in v["g"]]),
    ),
    Case("spectral, weighted", weighted_kernel, gives=AFTER | ROWS | EFFECTS | OF_TERMS, **WEIGHTED_KERNEL),
    Case("spectral, weighted, full rank", weighted_full_kernel, gives=AFTER | ROWS | EFFECTS - {"new rows"} | {"blup"},
         **WEIGHTED_FULL),
    Case("spectral, weighted, explicit", lambda: weighted_kernel(**EXPLICIT, mu=SHIFT),
         gives=ROWS | EFFECTS - {"new rows"}, known={"mu": SHIFT, "b": B_MEAN, "B": np.zeros((2, 2))},
         **WEIGHTED_KERNEL | {"new": None}),
    Case("spectral, weighted, Gaussian", lambda: weighted_kernel(**GAUSSIAN), gives=ROWS | EFFECTS,
         known={"b": B_MEAN, "B": B_COV}, **WEIGHTED_KERNEL),
    Case("structured", terms, gives=AFTER | ROWS | EFFECTS | OF_TERMS, **TERMS),
    Case("structured, explicit", lambda: terms(**EXPLICIT), gives=AFTER | ROWS | EFFECTS | OF_TERMS,
         known={"b": B_MEAN, "B": np.zeros((2, 2))}, **TERMS),
    Case("structured, Gaussian", lambda: terms(**GAUSSIAN), gives=AFTER | ROWS | EFFECTS | OF_TERMS,
         known={"b": B_MEAN, "B": B_COV}, **TERMS),
    Case(
        "structured, one term", one_term, gives=AFTER | ROWS | EFFECTS | OF_TERMS, y=TERMS_Y,
        values={"v": 0.9, "e": 0.6}, V=lambda v: v["v"] * Z @ Z.T + v["e"] * np.eye(N),
        noise=lambda v: v["e"] * np.eye(N), effects=lambda v: ({"g": 5}, v["v"] * Z.T, v["v"] * np.eye(5)),
        new=({"X_new": X_NEW, "Z_new": {"g": [0, 3, 99]}}, one_term_new), derived=one_term_derived,
    ),
    Case("structured, weighted", lambda: terms(weights=PRIOR_WEIGHTS), gives=AFTER | ROWS | EFFECTS | OF_TERMS,
         **WEIGHTED),
    Case("structured, weighted, explicit", lambda: terms(**EXPLICIT, weights=PRIOR_WEIGHTS),
         gives=AFTER | ROWS | EFFECTS | OF_TERMS, known={"b": B_MEAN, "B": np.zeros((2, 2))}, **WEIGHTED),
    Case("structured, weighted, Gaussian", lambda: terms(**GAUSSIAN, weights=PRIOR_WEIGHTS),
         gives=AFTER | ROWS | EFFECTS | OF_TERMS, known={"b": B_MEAN, "B": B_COV}, **WEIGHTED),
    Case(
        "structured, weighted, one term", lambda: one_term(weights=PRIOR_WEIGHTS),
        gives=AFTER | ROWS | EFFECTS | OF_TERMS, y=TERMS_Y, values={"v": 0.9, "e": 0.6},
        V=lambda v: v["v"] * Z @ Z.T + v["e"] * np.diag(1 / PRIOR_WEIGHTS),
        noise=WEIGHTED["noise"], new_noise=WEIGHTED["new_noise"],
        effects=lambda v: ({"g": 5}, v["v"] * Z.T, v["v"] * np.eye(5)),
        new=({"X_new": X_NEW, "Z_new": {"g": [0, 3, 99]}}, one_term_new), derived=weighted_derived,
    ),
    Case("sparse", lambda: sparsely(terms), gives=AFTER | ROWS | EFFECTS | OF_TERMS, **TERMS),
    Case("sparse, explicit", lambda: sparsely(lambda: terms(**EXPLICIT)), gives=AFTER | ROWS | EFFECTS | OF_TERMS,
         known={"b": B_MEAN, "B": np.zeros((2, 2))}, **TERMS),
    Case("sparse, Gaussian", lambda: sparsely(lambda: terms(**GAUSSIAN)), gives=AFTER | ROWS | EFFECTS | OF_TERMS,
         known={"b": B_MEAN, "B": B_COV}, **TERMS),
    Case("sparse, weighted", lambda: sparsely(lambda: terms(weights=PRIOR_WEIGHTS)),
         gives=AFTER | ROWS | EFFECTS | OF_TERMS, **WEIGHTED),
    Case(
        "sparse, related", lambda: sparsely(related), gives=AFTER | ROWS | EFFECTS | OF_TERMS, y=TERMS_Y, V=related_V,
        noise=TERMS["noise"], values=TERMS["values"], effects=related_effects, derived=related_derived,
        new=({"X_new": X_NEW, "Z_new": {"g": [0, 3, 6], "d": [1, 2, 1]}}, related_new),
    ),
    Case("sparse, residuals by group", sides, gives=AFTER | ROWS | EFFECTS | OF_TERMS, **OF_SIDES),
    Case("sparse, residuals by group, Gaussian", lambda: sides(**GAUSSIAN), gives=AFTER | ROWS | EFFECTS | OF_TERMS,
         known={"b": B_MEAN, "B": B_COV}, **OF_SIDES),
    Case("sparse, residuals of traits", traits, gives=AFTER | ROWS | EFFECTS | OF_TERMS, **OF_TRAITS),
    Case("matrix", lambda: matrix(FACTOR, FACTOR_Y), gives=OF_MATRIX - {"compare_fits"}, **OF_FACTOR),
    Case("matrix, full rank", lambda: matrix(WHOLE, WHOLE_Y, diagonal=True), gives=OF_MATRIX, **OF_WHOLE),
    Case("matrix, explicit", lambda: matrix(FACTOR, FACTOR_Y, beta=B_BOTH.reshape(2, 2), mu=RECORD_SHIFT),
         gives=OF_MATRIX - {"compare_fits", "new rows", "fit.predict"},
         known={"mu": RECORD_SHIFT[SEEN], "b": B_BOTH, "B": np.zeros((4, 4))}, **OF_FACTOR | {"new": None}),
    Case("matrix, complete, explicit", lambda: matrix(FEW, FEW_Y, beta=B_BOTH.reshape(2, 2), mu=RECORD_SHIFT[:, :12]),
         gives=OF_MATRIX - {"compare_fits", "new rows", "fit.predict"},
         known={"mu": RECORD_SHIFT[:, :12].ravel(), "b": B_BOTH, "B": np.zeros((4, 4))}, **OF_FEW | {"new": None}),
    Case("matrix, Gaussian", lambda: matrix(FACTOR, FACTOR_Y, **BOTH_GAUSSIAN), gives=OF_MATRIX - {"compare_fits"},
         known={"b": B_BOTH, "B": B_BOTH_COV}, **OF_FACTOR),
    Case("matrix, weighted", lambda: matrix(HEAVY, HEAVY_Y), gives=OF_MATRIX - {"compare_fits"}, **OF_HEAVY),
    Case("matrix, weighted, Gaussian", lambda: matrix(HEAVY, HEAVY_Y, **BOTH_GAUSSIAN),
         gives=OF_MATRIX - {"compare_fits"}, known={"b": B_BOTH, "B": B_BOTH_COV}, **OF_HEAVY),
    Case("lengthscale", lengthscale, gives=AFTER | ROWS | EFFECTS, new=(new_points(), lengthscale_new), **LENGTHSCALE),
    Case("lengthscale, weighted", weighted_lengthscale, gives=AFTER | ROWS | EFFECTS,
         new=(new_points(), lengthscale_new), **WEIGHTED_LENGTHSCALE),
    Case("dense", dense, gives=AFTER | ROWS | {"new"}, **DENSE),
    Case("dense, explicit", lambda: dense(**EXPLICIT, mu=SHIFT), gives=AFTER | ROWS | {"new"},
         known={"mu": SHIFT, "b": B_MEAN, "B": np.zeros((2, 2))}, **DENSE),
    Case("dense, Gaussian", lambda: dense(**GAUSSIAN), gives=AFTER - {"simulate"} | ROWS | {"new"},
         known={"b": B_MEAN, "B": B_COV}, **DENSE),
    Case("fourier", fourier, gives=FIT | ROWS | {"compare_fits", "recover", "new rows", "fit.predict", "function"},
         **FOURIER),
    Case("fourier, weighted", weighted_fourier, **WEIGHTED_FOURIER,
         gives=FIT | ROWS | {"compare_fits", "recover", "new rows", "fit.predict", "function"}),
    Case("latent", counted, loglik=lambda v: counted_laplace(v).loglik, **COUNTED),
    Case("latent, explicit", lambda: counted(beta=B_COUNTS, mu=SHIFT), known=KNOWN,
         loglik=lambda v: counted_laplace(v, **KNOWN).loglik, **COUNTED),
    Case("latent, Gaussian", lambda: counted(**GAUSSIAN), known=PRIOR,
         loglik=lambda v: counted_laplace(v, **PRIOR).loglik, **COUNTED),
    Case("latent, sparse", shares, loglik=lambda v: shares_laplace(v).loglik, **COUNTED | {
        "y": SUCCESSES,
        "derived": lambda v: {"variance": np.array([v["v"] * np.trace(Z7 @ CHAINED @ Z7.T) / N, v["w"]])},
    }),
    Case(
        "toy, Gaussian", weighted, gives=AFTER | ROWS | {"new"}, values={"g": 1.3, "e": 0.8}, y=WEIGHTED_Y,
        V=lambda v: v["g"] * K + v["e"] * np.diag(WEIGHTS),
        derived=lambda v: {"share": v["g"] * np.trace(K) / (v["g"] * np.trace(K) + v["e"] * WEIGHTS.sum())},
    ),
    Case(
        "toy, counts", counts, gives=frozenset({"recover"}), y=COUNTS, V=None, loglik=counts_loglik,
        values={"beta": np.array([0.7, 0.15]), "sigma": 0.6}, derived=lambda v: {"variance": v["sigma"] ** 2},
        tolerance=1e-6,
    ),
]  # fmt: skip
