"""Hostile inputs, each from a recipe of a few words and numbers: what `kernels` feeds the package."""

from dataclasses import dataclass

import numpy as np

KERNELS = (
    "full", "low rank", "geometric", "identity", "zero", "ones", "duplicated rows", "smooth", "centred", "groups",
    "wide range", "one row", "explained by X", "indefinite", "asymmetric", "nan",
)  # fmt: skip
DESIGNS = (
    "none", "no columns", "intercept", "random", "duplicated", "zero column", "nearly collinear", "wild units",
    "indicators", "saturated", "all but one", "infinite",
)  # fmt: skip
RESPONSES = (
    "noise", "model", "in the span of X", "nearly in the span", "constant", "zero", "ties", "binary", "subnormal",
    "outlier", "explained by K", "nearly explained", "far from zero", "nan",
)  # fmt: skip
DTYPES = ("float64",) * 7 + ("float32", "int64", "bool")
LAYOUTS = ("C", "F", "strided", "reversed")
EXPONENTS = (0, -1, 1, -4, 5, -9, 10, -12, 12)
REFUSED = (
    "indefinite", "asymmetric", "nan", "saturated", "infinite", "subnormal", "zero", "explained by X", "ones",
    "identity", "constant", "in the span of X",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a problem is made of; equal recipes make equal problems. Exponents are powers of ten."""

    seed: int
    n: int
    kernel: str
    design: str
    response: str
    factor: bool
    dtype: str
    layout: str
    scale_y: int
    scale_K: int
    scale_X: int

    @classmethod
    def draw(cls, seed):
        """Return a random recipe; what ends every one of them in the same refusal is drawn less often than the rest."""
        rng = np.random.default_rng(seed)

        def one_of(kinds):
            weights = np.array([0.15 if kind in REFUSED else 1.0 for kind in kinds])
            return str(rng.choice(kinds, p=weights / weights.sum()))

        def exponent():
            return int(rng.choice([-60, 60])) if rng.random() < 0.02 else int(rng.choice(EXPONENTS))

        small = int(rng.choice([1, 2, 3, 4, 5, 7]))
        return cls(
            seed=seed,
            n=small if rng.random() < 0.2 else int(rng.integers(6, 40)),
            kernel=one_of(KERNELS),
            design=one_of(DESIGNS),
            response=one_of(RESPONSES),
            factor=bool(rng.random() < 0.5),
            dtype=str(rng.choice(DTYPES)),
            layout=str(rng.choice(LAYOUTS)),
            **{f"scale_{of}": exponent() if rng.random() < 0.5 else 0 for of in "yKX"},
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """Arrays as a user would give them; `factor` is W with K = WWᵀ, or None where the kernel is no product."""

    recipe: Recipe
    K: np.ndarray
    factor: np.ndarray | None
    X: np.ndarray | None
    y: np.ndarray
    Y: np.ndarray
    candidates: np.ndarray


def build(recipe):
    """Return the problem of a recipe."""
    rng = np.random.default_rng([recipe.seed, 1])
    n = recipe.n
    X = design(recipe.design, n, rng)
    K, W = kernel(recipe.kernel, n, X, rng)
    y = response(recipe.response, n, X, K, W, rng)
    others = np.column_stack([y[::-1], rng.normal(size=n)])
    scale_y, scale_K, scale_X = (10.0**e for e in (recipe.scale_y, recipe.scale_K, recipe.scale_X))
    cast = {"dtype": recipe.dtype, "layout": recipe.layout}
    with np.errstate(over="ignore"):
        candidates = np.column_stack([rng.normal(size=n), rng.integers(0, 3, size=n), np.ones(n)])
        return Problem(
            recipe,
            K=as_type(K * scale_K, **cast),
            factor=None if W is None else as_type(W * np.sqrt(scale_K), **cast),
            X=None if X is None else as_type(X * scale_X, **cast),
            y=as_type(y * scale_y, **cast),
            Y=as_type(np.column_stack([y, others]) * scale_y, **cast),
            candidates=as_type(candidates, recipe.dtype, recipe.layout),
        )


def as_type(values, dtype, layout):
    """Return values in another number type and memory order; what a type cannot hold stays as it was."""
    if dtype == "int64" and np.isfinite(values).all() and np.abs(values).max(initial=0) < 2**53:
        values = np.rint(values).astype(dtype)
    elif dtype == "bool":
        values = values > 0 if np.isfinite(values).all() else values
    elif dtype == "float32":
        values = values.astype(dtype)
    if layout == "F":
        return np.asfortranarray(values)
    if layout == "strided":
        padded = np.zeros(tuple(2 * s for s in values.shape), dtype=values.dtype)
        padded[(slice(None, None, 2),) * values.ndim] = values
        return padded[(slice(None, None, 2),) * values.ndim]
    if layout == "reversed":
        return np.ascontiguousarray(values[::-1])[::-1]
    return values


def kernel(kind, n, X, rng):
    """Return K and a factor of it, None where it has none."""
    m = {"full": 2 * n, "low rank": max(1, n // 4), "duplicated rows": n, "groups": max(1, n // 3)}.get(kind, n)
    W = rng.normal(size=(n, m)) / np.sqrt(m)
    if kind == "geometric":
        W = np.linalg.qr(W)[0] * 10.0 ** np.linspace(0, -12, n)
    elif kind == "identity":
        W = np.eye(n)
    elif kind == "zero":
        W = np.zeros((n, 1))
    elif kind == "ones":
        W = np.ones((n, 1))
    elif kind == "duplicated rows":
        W = W[rng.integers(0, max(1, n // 2), size=n)]
    elif kind == "centred":
        W = W - W.mean(0)
    elif kind == "groups":
        W = np.eye(m)[rng.integers(0, m, size=n)]
    elif kind == "wide range":
        W = np.diag(10.0 ** rng.uniform(-10, 10, size=n))
    elif kind == "one row":
        W = np.zeros((n, n))
        W[rng.integers(n)] = 1.0
    elif kind == "explained by X" and X is not None and X.shape[1] and np.isfinite(X).all():
        W = X
    if kind == "smooth":
        t = np.sort(rng.uniform(size=n))
        return np.exp(-(((t[:, None] - t) / 0.3) ** 2)), None
    K = W @ W.T
    K = (K + K.T) / 2
    if kind in ("indefinite", "asymmetric", "nan"):
        K = K + {"indefinite": -2.0, "asymmetric": 0.0, "nan": 0.0}[kind] * np.eye(n)
        K[0, -1] += {"indefinite": 0.0, "asymmetric": 1.0, "nan": np.nan}[kind]
        return K, None if kind != "nan" else np.where(rng.random(W.shape) < 0.1, np.nan, W)
    return K, W


def design(kind, n, rng):
    """Return X, or None."""
    x = rng.normal(size=(n, 3))
    one = np.ones((n, 1))
    return {
        "none": None,
        "no columns": np.zeros((n, 0)),
        "intercept": one,
        "random": np.hstack([one, x[:, :2]]),
        "duplicated": np.hstack([one, x[:, :1], x[:, :1], 2 * x[:, :1] - one]),
        "zero column": np.hstack([one, 0 * one, x[:, :1]]),
        "nearly collinear": np.hstack([one, x[:, :1], x[:, :1] + 10.0 ** rng.uniform(-13, -5) * x[:, 1:2]]),
        "wild units": np.hstack([one, 1e-12 * x[:, :1], 1e12 * x[:, 1:2] + 1e11]),
        "indicators": np.eye(3)[rng.integers(0, 3, size=n)],
        "saturated": rng.normal(size=(n, n)),
        "all but one": rng.normal(size=(n, n - 1)),
        "infinite": np.where(rng.random((n, 2)) < 0.2, np.inf, x[:, :2]),
    }[kind]


def response(kind, n, X, K, W, rng):
    """Return y, of size 1 unless its kind says otherwise."""
    noise = rng.normal(size=n)
    columns = np.ones((n, 1)) if X is None or not X.shape[1] else np.where(np.isfinite(X), X, 0.0)
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    along = columns @ rng.normal(size=columns.shape[1])
    root = np.nan_to_num(K if W is None else W)
    random_effect = root @ rng.normal(size=root.shape[1])
    y = {
        "noise": noise,
        "model": along + random_effect + 0.5 * noise,
        "in the span of X": along,
        "nearly in the span": along + 10.0 ** rng.uniform(-14, -6) * noise,
        "constant": np.full(n, rng.normal()),
        "zero": np.zeros(n),
        "ties": np.rint(2 * noise),
        "binary": np.asarray(noise > 0, dtype=float),
        "subnormal": noise * 1e-310,
        "outlier": noise + 1e8 * (np.arange(n) == rng.integers(n)),
        "explained by K": random_effect,
        "nearly explained": random_effect + 10.0 ** rng.uniform(-14, -6) * noise,
        "far from zero": 1e9 + noise,
        "nan": np.where(rng.random(n) < 0.2, np.nan, noise),
    }[kind]
    return np.asarray(y, dtype=float)
