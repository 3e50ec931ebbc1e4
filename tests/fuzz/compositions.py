"""
Random compositions of covariance structures over levels in every spelling, and their likelihood.

The judge builds the covariance of the rows from definitions, entry by entry over the positions of the levels, and the
log-likelihood in thirty digits; it knows which orders a gap would break, or nobody gave, and these must be refused.
"""

from types import SimpleNamespace

import mpmath as mp
import numpy as np
import pandas as pd
import scipy.sparse as sp

from fuzz.guard import Refused, guarded, short
from pm_fastlmm import covariance as cov
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.structured.from_rows import LOST
from pm_fastlmm.engines.structured.products import EffectBlock, MixedProducts
from pm_fastlmm.engines.structured.state import MixedState
from pm_fastlmm.spectrum.projection import Projection

EPS = np.finfo(float).eps


def check(seed):
    """Check one composition: the covariance of the rows, and the log-likelihood at a residual variance of any size."""
    rng = np.random.default_rng([seed, 77])
    n = int(rng.integers(5, 11))
    factors = [make_factor(rng, n) for _ in range(rng.choice([1, 2], p=[0.65, 0.35]))]
    tree, breaks = make_tree(rng, factors)
    outcome = f"{len(factors)} factors, {tree.kind}"
    by = factors[0].given if len(factors) == 1 else [factor.given for factor in factors]
    try:
        term = guarded(Term, by, tree.structure, name="u")
    except Refused as refused:
        if not breaks:
            raise AssertionError("refused without a reason") from refused
        return [f"refused: {short(refused)}"]
    assert not breaks, f"a gap was closed, or an order invented: {term!r}"
    expected = tree.matrix[np.ix_(tree.rows, tree.rows)]
    found = term.Z @ np.asarray(term.covariance.dense()) @ term.Z.T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max(initial=1e-300))
    np.testing.assert_allclose(term.blocks.dense(), term.covariance.dense(), rtol=1e-9, atol=1e-10)
    return [outcome, check_likelihood(rng, term, expected)]


# ---------------------------------------------------------------- levels


def make_factor(rng, n):
    """A factor as a user writes it: what is given, the code of each row, its labels, and where these stand."""
    m = int(rng.integers(2, 5))
    spelling = rng.choice(["integers", "gaps", "categories", "numbered", "names", "floats"])
    codes = np.r_[np.arange(m), rng.integers(0, m, size=n - m)] if n > m else rng.integers(0, m, size=n)
    codes = rng.permutation(codes)
    positions = np.arange(m) + int(rng.integers(0, 3))
    if spelling == "gaps":
        positions = np.sort(rng.choice(12, size=m, replace=False))
    if spelling == "categories":  # some of them may not occur
        codes = rng.permutation(np.r_[codes[1:], codes[1]]) if rng.random() < 0.7 else codes
        labels = [f"visit {p}" for p in positions]
        given = pd.Categorical([labels[c] for c in codes], categories=labels)
        return SimpleNamespace(given=given, codes=codes, labels=labels, positions=positions, size=m, ordered=True)
    occurring = np.unique(codes)
    positions, codes = positions[occurring], np.searchsorted(occurring, codes)
    if spelling == "numbered":
        labels = [f"t{p:02d}" for p in positions]
    elif spelling == "names":
        labels = [f"{'abcdefghijklmn'[p]}x" for p in positions]
    elif spelling == "floats":
        labels = [0.5 * float(p) for p in positions]
    else:
        labels = [int(p) for p in positions]
    given = np.array(labels)[codes] if rng.random() < 0.5 else pd.Series([labels[c] for c in codes])
    ordered = spelling != "names"
    if not ordered:  # text says nothing of an order, unless it is given with it
        positions, ordered = np.arange(len(labels)), bool(rng.random() < 0.5)
        given = pd.Categorical(given, categories=labels, ordered=True) if ordered else given
    return SimpleNamespace(given=given, codes=codes, labels=labels, positions=positions, size=len(labels),
                           ordered=ordered)  # fmt: skip


def in_steps(factor):
    """Whether the levels are one step apart in an order that is known; of two there is only one."""
    steps = np.diff(factor.positions)
    return len(steps) < 2 or bool(factor.ordered and (steps == steps[0]).all())


# ---------------------------------------------------------------- structures


def leaf(rng, factor):
    """A structure over the levels of one factor: (object, its matrix over all levels, whether it lacks its steps)."""
    m, v, r = factor.size, float(rng.exponential()) + 0.01, float(rng.uniform(-0.9, 0.9))
    i = np.arange(m)
    eye = np.eye(m)
    sized = {"size": m} if rng.random() < 0.3 else {}
    kind = rng.choice(["identity", "scalar", "diagonal", "ar1", "compound", "equicorrelation", "known", "labelled",
                       "unstructured", "cholesky", "factors", "gram", "propagate"])  # fmt: skip
    A = rng.normal(size=(m, m))
    match kind:
        case "identity":
            return kind, cov.identity(**sized), eye, False
        case "scalar":
            return kind, cov.scalar(v, **sized), v * eye, False
        case "diagonal":
            d = rng.exponential(size=m)
            return kind, cov.diagonal(d), np.diag(d), False
        case "ar1":
            return kind, cov.ar1(v, r, **sized), v * np.power(r, np.abs(i[:, None] - i)), not in_steps(factor)
        case "compound":
            return kind, cov.compound_symmetry(v, 0.3, **sized), v * np.ones((m, m)) + 0.3 * eye, False
        case "equicorrelation":
            r = abs(r)
            return kind, cov.equicorrelation(v, r, **sized), v * ((1 - r) * eye + r * np.ones((m, m))), False
        case "known" | "labelled":
            K = A @ A.T
            K = (K + K.T) / 2
            shuffled = rng.permutation(m)
            table = pd.DataFrame(K, factor.labels, factor.labels).iloc[shuffled, shuffled]
            return "labelled", cov.known(table, v), v * K, False
        case "unstructured":
            S = A @ A.T
            return kind, cov.unstructured((S + S.T) / 2), S, False
        case "cholesky":
            L = np.tril(A)
            return kind, cov.unstructured(cholesky=L), L @ L.T, False
        case "factors":
            psi = rng.exponential(size=m)
            return kind, cov.factor_analytic(A[:, :1], psi), A[:, :1] @ A[:, :1].T + np.diag(psi), False
        case "gram":
            return kind, cov.gram(A[:, :2]), A[:, :2] @ A[:, :2].T, False
    q = int(rng.integers(1, 4))
    Z, j = rng.normal(size=(m, q)), np.arange(q)
    return kind, cov.propagate(Z, cov.ar1(v, r)), Z @ (v * np.power(r, np.abs(j[:, None] - j))) @ Z.T, False


def over_one(rng, factor, depth=2):
    """A composition over one factor."""
    kind = rng.choice(["leaf", "sum", "product", "blocks"], p=[0.4, 0.22, 0.22, 0.16]) if depth else "leaf"
    if kind == "blocks" and factor.size > 1:
        cut = int(rng.integers(1, factor.size))
        parts = []
        for part in (slice(0, cut), slice(cut, factor.size)):
            own = SimpleNamespace(labels=factor.labels[part], positions=factor.positions[part], ordered=factor.ordered)
            own.size = len(own.labels)
            _, structure, matrix, breaks = over_one(rng, own, 0)
            parts.append((structure.with_size(own.size), matrix, breaks))
        matrix = np.zeros((factor.size, factor.size))
        matrix[:cut, :cut], matrix[cut:, cut:] = parts[0][1], parts[1][1]
        return kind, cov.block_diagonal(parts[0][0], parts[1][0]), matrix, parts[0][2] or parts[1][2]
    if kind in ("sum", "product"):
        _, a, A, first = over_one(rng, factor, depth - 1)
        _, b, B, second = over_one(rng, factor, depth - 1)
        return kind, (a + b if kind == "sum" else a * b), (A + B if kind == "sum" else A * B), first or second
    return leaf(rng, factor)


def make_tree(rng, factors):
    """A composition over all factors, its matrix over all combinations of levels, and the rows of the data in it."""
    if len(factors) == 1:
        kind, structure, matrix, breaks = over_one(rng, factors[0])
        return SimpleNamespace(kind=kind, structure=structure, matrix=matrix, rows=factors[0].codes), breaks

    def crossed():
        (_, a, A, first), (_, b, B, second) = (over_one(rng, factor, 1) for factor in factors)
        return cov.kronecker(a, b), np.kron(A, B), first or second

    structure, matrix, breaks = crossed()
    kind = "kronecker"
    if rng.random() < 0.3:
        other, B, second = crossed()
        plus = rng.random() < 0.5
        kind = "sum of kroneckers" if plus else "product of kroneckers"
        breaks = breaks or second
        matrix = matrix + B if plus else matrix * B
        structure = structure + other if plus else structure * other
    rows = factors[0].codes * factors[1].size + factors[1].codes
    return SimpleNamespace(kind=kind, structure=structure, matrix=matrix, rows=rows), breaks


# ---------------------------------------------------------------- likelihood


def check_likelihood(rng, term, V0):
    """Compare ℓ of y ~ N(Xβ, V₀ + a second factor + σ²_eI) with thirty digits, σ²_e down to 1e-14 of the others."""
    n, e = term.n, float(10 ** rng.uniform(-14, 1))
    X = np.ones((n, 1)) if rng.random() < 0.7 else np.zeros((n, 0))
    b = term.blocks
    Z = term.Z.toarray() if b.root is None else term.Z @ b.root
    blocks, sigma = [EffectBlock(sp.csr_array(Z), b.levels, b.width, b.root)], [np.asarray(b.block.dense())]
    root = np.linalg.cholesky(sigma[0] + 1e-9 * np.trace(sigma[0]) * np.eye(b.width))
    columns = [Z @ np.kron(np.eye(b.levels), root)]
    parts, incidence = [V0], [term.Z.toarray()]
    if rng.random() < 0.5:
        second = (rng.integers(0, 3, size=n)[:, None] == np.arange(3)).astype(float)
        v = float(rng.choice([0.0, 1e-6, 0.7]))
        parts, incidence = [V0, v * second @ second.T], [*incidence, second]
        blocks, sigma = [*blocks, EffectBlock(sp.csr_array(second), 3, 1)], [*sigma, np.array([[v]])]
        columns.append(np.sqrt(v) * second)
    effects = np.hstack(columns)
    y = effects @ rng.normal(size=effects.shape[1]) + np.sqrt(e) * rng.normal(size=n)
    p = MixedProducts.from_rows(blocks, Projection.from_design(X), flat=True)
    state = MixedState.at(p, p.response(y), sigma, e)
    assert state is not None, f"no likelihood at sigma2_e = {e:.1e}"
    exact, tolerance = judge(parts, np.hstack(incidence), e, X, y)
    found = state.loglik
    tolerance += 0.0 if state.rows is not None else 10 * n * EPS * LOST
    assert abs(found - exact) <= tolerance, f"log-likelihood {found} for {exact} at sigma2_e = {e:.1e}"
    return "likelihood from rows" if state.rows is not None else "likelihood from inner products"


def judge(parts, Z, e, X, y):
    """Return ℓ of the error contrasts, and what the rounding of the effects' covariance and of y is worth in it."""
    n = len(y)
    with mp.workdps(40):
        W = mp.mpf(e) * mp.eye(n)
        for part in parts:
            W += mp.matrix(((part + part.T) / 2).tolist())  # two roundings of one number are two matrices here
        L = mp.cholesky(W)
        logdet = 2 * mp.fsum(mp.log(L[i, i]) for i in range(n))
        inverse = W**-1
        v, df = mp.matrix(y.tolist()), n
        if X.shape[1]:
            one = mp.matrix(X.tolist())
            along = (one.T * inverse * one)[0]
            logdet += mp.log(along) - mp.log(n)
            inverse = inverse - inverse * one * one.T * inverse / along
            df = n - 1
        Py = inverse * v
        loglik = float(-(df * mp.log(2 * mp.pi) + logdet + (v.T * Py)[0]) / 2)
        size, spread = max(float(np.abs(part).max()) for part in parts), np.array([float(a) for a in Py])
        precision = np.array(inverse.tolist(), dtype=float)
    # G is rounded, which is felt in the range of Z and not along all of y
    U, values, _ = np.linalg.svd(Z, full_matrices=False)
    inside = U[:, values > 1e-9 * values.max(initial=1e-300)]
    sensitivity = np.trace(inside.T @ precision @ inside) + ((inside.T @ spread) ** 2).sum()
    rounding = EPS * (size * sensitivity + n * np.abs(y).max() * np.abs(spread).max() + n * abs(loglik))
    return loglik, 200 * (rounding + n * EPS * np.sqrt((size + e) / e)) + 1e-11
