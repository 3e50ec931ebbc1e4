"""Pedigrees, trees and genotypes as files have them: codes, spellings, types, gaps; judged by what a person reads."""

import functools

import numpy as np
import pandas as pd
from kinship import additive
from newick_tree import RandomTree
from numpy.testing import assert_allclose

import pm_fastlmm as flmm
from fuzz.guard import Refused, guarded, short
from pm_fastlmm import covariance as cov

CODES = (
    0, "0", "00", "0.0", -9, "-9", -1, "-999", -998, ".", "*", "?", "-", "NA", "na", "nan", "NaN", "None", "unknown",
    "UNK", "<NA>", "missing", "", " ", None, np.nan, pd.NA, pd.NaT,
)  # fmt: skip
SPELLINGS = (
    str, int, float, np.int64, np.float64, lambda k: f"{k}.0", lambda k: f" {k}", lambda k: f"{k} ",
    lambda k: str(k).encode(),
)  # fmt: skip
COLUMNS = {
    "list": list,
    "object": lambda c: pd.Series(c, dtype=object),
    "array": lambda c: np.array([*c, None], dtype=object)[:-1],
    "string": lambda c: pd.Series([_text(v) for v in c], dtype="string"),
    "category": lambda c: pd.Categorical([_text(v) for v in c]),
    "float": lambda c: pd.Series([np.nan if v is None or pd.isna(v) else float(v) for v in c]),
    "Int64": lambda c: pd.Series([None if v is None or pd.isna(v) else int(float(v)) for v in c], dtype="Int64"),
}
TEXT = {"string", "category"}


def _text(value):
    return None if value is None or pd.isna(value) else value.decode() if isinstance(value, bytes) else str(value)


def check(seed):
    """Check one pedigree, tree or scan, in turn."""
    rng = np.random.default_rng([seed, 11])
    return (_pedigree, _tree, _scan)[seed % 3](rng)


def require(condition, text):
    """Raise an AssertionError unless a condition holds."""
    if not condition:
        raise AssertionError(text)


# ---------------------------------------------------------------- pedigrees


def _pedigree(rng):
    n = int(rng.integers(2, 16))
    numbers = rng.permutation(np.arange(1, 3 * n))[:n] * (10 ** int(rng.integers(0, 6)))
    people = {}
    for i in range(n):
        # a parent may be of any sex, and both may be one (selfing)
        pair = [int(numbers[rng.integers(i)]) if i and rng.random() < 0.7 else None for _ in range(2)]
        people[int(numbers[i])] = tuple(pair)
    truth = dict(people)
    unlisted = [k for k in people if people[k] == (None, None) and rng.random() < 0.2][: n - 2]
    rows = [k for k in rng.permutation(list(people)).tolist() if k not in unlisted]
    sires, dams = ({people[k][s] for k in rows} for s in (0, 1))
    reasons = []
    if any(k in sires and k in dams for k in unlisted):
        reasons.append("sire and dam but ha")
    loop = rng.random() < 0.1
    if loop:
        young = rows[rng.integers(len(rows))]
        below = [k for k in rows if k == young or _descends(people, k, young)]
        child = below[rng.integers(len(below))]
        people[young] = (child, people[young][1])
        reasons.append("has a loop")
        if any(k in {people[r][0] for r in rows} and k in {people[r][1] for r in rows} for k in unlisted):
            reasons.append("sire and dam but ha")
    named = rng.random() < 0.15
    code = "wild" if named else CODES[rng.integers(len(CODES))]
    letters = rng.random() < 0.3
    columns = [rows, [people[k][0] for k in rows], [people[k][1] for k in rows]]
    written, plain = [], _numeric(code)
    for column in columns:
        kind = list(COLUMNS)[rng.integers(len(COLUMNS))]
        if kind in ("float", "Int64") and (letters or not plain):
            kind = "object"
        ways = (lambda k: f"x{k}", lambda k: f" x{k}", lambda k: f"x{k} ") if letters else SPELLINGS
        mixed = rng.random() < 0.3 and kind not in ("float", "Int64")
        way = ways[rng.integers(len(ways))]
        values = [code if k is None else (ways[rng.integers(len(ways))] if mixed else way)(k) for k in column]
        written.append(COLUMNS[kind](values))
    options = {"unknown": [code, "NA"]} if named else {}
    if rng.random() < 0.5 and not letters and len(rows) > 1 and unlisted and not reasons:
        used = [k for k in unlisted if k in sires | dams]
        if used:  # the same parent in another spelling
            for s in (1, 2):
                if used[0] in columns[s]:
                    written[s] = [
                        f"0{k}" if k == used[0] and i == columns[s].index(used[0]) else v
                        for i, (k, v) in enumerate(zip(columns[s], list(written[s]), strict=True))
                    ]
                    if columns[s].count(used[0]) > 1:
                        reasons.append("differ only in ")
                    break
    try:
        K = guarded(cov.pedigree, *written, **options)
    except Refused as error:
        found = [reason for reason in reasons if reason in str(error)]
        require(found, f"{error} {[list(c) for c in written]} {options}")
        return [f"pedigree refused: {found[0]}"]
    assert not reasons, f"{reasons} {[list(c) for c in written]}"
    assert_allclose(K, additive(truth, rows), atol=1e-12, err_msg=f"{[list(c) for c in written]}")
    assert K.attrs["founders_added"] == len({k for k in unlisted if k in sires | dams})
    return [f"pedigree, code {str(code)[:8]!r}", "pedigree of text" if letters else "pedigree of numbers"]


def _numeric(code):
    try:
        return code is None or pd.isna(code) or (str(code).strip() != "" and np.isfinite(float(code)))
    except (TypeError, ValueError):
        return False


def _descends(people, who, ancestor):
    return any(p is not None and (p == ancestor or _descends(people, p, ancestor)) for p in people[who])


# ---------------------------------------------------------------- trees

NAMES = (str, lambda k: f"it's {k}", lambda k: f"Homo sapiens {k}", lambda k: f"{k}(x),:;[y]", lambda k: f"{k[1:]}",
         lambda k: f"o'{k}", lambda k: f'"{k}')  # fmt: skip


def _quoted(name):
    bare = not set(name) & set("'\"()[],:; ") or (set(name) & set("'\"()[],:; ") == {"'"} and name[0] != "'")
    return name if bare else "'" + name.replace("'", "''") + "'"


def _tree(rng):
    base = int(rng.choice([2, 2, 3, 4]))
    tree = RandomTree(rng, int(rng.integers(base + 1, 12)), base=base, quote=NAMES[rng.integers(len(NAMES))])
    mark = ("", "", "[&R] ", "[&U] ")[rng.integers(4)]
    text = mark + tree.newick(_quoted)
    if rng.random() < 0.2:
        text = text.removesuffix(";") + ":0.0;"
    tips = tree.tips()
    names = [tree.names[t] for t in tips]
    kind = ("none", "base", "midpoint", "outgroup")[rng.integers(4)]
    if kind == "none":
        height = np.diag(tree.from_base())
        clocklike = np.ptp(height) == 0 < height[0]
        unrooted = mark == "[&U] " or (base > 2 and mark != "[&R] " and not clocklike)
        try:
            K = guarded(cov.phylogeny, text)
        except Refused as error:
            require((unrooted and "root=" in str(error)) or _nothing(tree, error), f"{error} {text}")
            return [f"tree refused: {short(error)}"]
        assert not unrooted, text
        assert_allclose(K, tree.from_base(), atol=1e-12, err_msg=text)
    else:
        root, expected = kind, None
        if kind == "outgroup":
            node = list(tree.edges)[rng.integers(len(tree.edges))]
            root = [tree.names[t] for t in tree.in_order(node) if t in tree.names]
            share = 0.5
            parent, length = tree.edges[node]
            if parent == 0 and base == 2:
                (other,) = set(tree.children[0]) - {node}
                half = (length + tree.edges[other][1]) / 2
                node, share = (
                    (node, half / max(length, 1e-300)) if half <= length else (other, half / tree.edges[other][1])
                )
            expected = tree.from_branch(node, share)
        elif kind == "base":
            expected = tree.from_base()
        try:
            K = guarded(cov.phylogeny, text, root=root)
        except Refused as error:
            require(_nothing(tree, error), f"{error} {text} {root}")
            return [f"tree refused: {short(error)}"]
        if expected is not None:
            assert_allclose(K, expected, atol=1e-12, err_msg=f"{text} {root}")
        nodes, D = tree.distances()
        places = [nodes.index(t) for t in tips]
        between = D[np.ix_(places, places)]
        depth = np.diag(K)
        assert_allclose(np.add.outer(depth, depth) - 2 * K.to_numpy(), between, atol=1e-12, err_msg=text)
        if kind == "midpoint":
            assert_allclose(depth.max(), between.max() / 2, atol=1e-12, err_msg=text)
    assert list(K.index) == names
    chosen = [names[i] for i in rng.permutation(len(names))[: len(names) // 2 + 1]]
    if all(name.isdigit() for name in names):
        chosen = [int(name) for name in chosen]
    part = (
        guarded(cov.phylogeny, text, root=root if kind != "none" else None, ids=chosen) if depth_of(K, chosen) else None
    )
    if part is not None:
        assert_allclose(part, K.loc[[*map(str, chosen)], [*map(str, chosen)]], atol=1e-12)
    return [f"tree, root {kind}"]


def depth_of(K, chosen):
    """Whether the chosen tips have any variance."""
    return np.diag(K.loc[[*map(str, chosen)], [*map(str, chosen)]]).max() > 0


def _nothing(tree, error):
    return "is zero" in str(error) and not any(length for _, length in tree.edges.values())


# ---------------------------------------------------------------- scans

N = 24
EVIDENT = (-9, -127, -128, 255, -99, -999, 99)


@functools.cache
def _spectrum(kind):
    rng = np.random.default_rng(kind)
    W = rng.normal(size=(N, 40)) / 6
    X = np.column_stack([np.ones(N), rng.normal(size=N)])[:, : 1 + kind % 2]
    K = W @ W.T + 0.05 * np.eye(N)
    return K, X, flmm.Spectrum.from_covariance(K, X)


def _scan(rng):
    K, X, spectrum = _spectrum(int(rng.integers(4)))
    m = int(rng.integers(1, 6))
    G = rng.binomial(2, rng.uniform(0.1, 0.6), size=(N, m)).astype(float)
    y = rng.normal(size=N) + K @ rng.normal(size=N) + 0.5 * G[:, 0]
    gaps = rng.random(G.shape) < rng.choice([0.0, 0.05, 0.3])
    gaps[:, rng.random(m) < 0.1] = True
    missing = ("mean", "raise", "drop")[rng.integers(3)]
    coded = rng.random() < 0.3
    code = int(rng.choice(EVIDENT))
    values = np.where(gaps, code if coded else np.nan, G)
    containers = [
        np.asarray,
        pd.DataFrame,
        lambda M: pd.DataFrame(M).astype("Float64"),
        lambda M: [M[:, :1], M[:, 1:]][: len(M.T)],
    ]
    given = containers[rng.integers(3 if m == 1 else 4)](values)
    seen = ~gaps
    refused = (coded and (gaps.any(axis=0) & seen.any(axis=0)).any()) or (
        not coded and missing == "raise" and gaps.any()
    )
    try:
        result = guarded(flmm.scan, spectrum, y, given, missing=missing, delta=("each", "null")[rng.integers(2)],
                         progressbar=False)  # fmt: skip
    except Refused as error:
        require(refused, f"{error} {missing} {coded}")
        return [f"scan refused: {short(error)}"]
    assert not refused, f"{missing} {code if coded else ''}"
    if coded:
        return ["scan without codes"]
    assert (result.missing.to_numpy() == gaps.sum(axis=0)).all()
    for j in range(m):
        none = gaps[:, j].all() or (missing == "drop" and gaps[:, j].any())
        g = np.where(gaps[:, j], G[seen[:, j], j].mean() if seen[:, j].any() else np.nan, G[:, j])
        left = g - X @ np.linalg.lstsq(X, np.nan_to_num(g), rcond=None)[0]
        if none or left @ left <= 1e-10 * (g @ g):
            assert np.isnan(result.beta[j])
            assert str(result.reason[j].values)
            continue
        _check_gls(K, np.column_stack([X, g]), y, result.isel(candidate=j))
    return [f"scan, missing {missing}" if gaps.any() else "scan without gaps"]


def _check_gls(K, X, y, tested):
    """Effect and standard error are those of generalised least squares at the δ of the test, by dense algebra."""
    delta = float(tested.delta)
    V = np.eye(N) if np.isinf(delta) else K + delta * np.eye(N)
    inverse = np.linalg.inv(V)
    cov_beta = np.linalg.inv(X.T @ inverse @ X)
    beta = cov_beta @ X.T @ inverse @ y
    residual = y - X @ beta
    sigma2 = residual @ inverse @ residual / (N - X.shape[1])
    se = np.sqrt(sigma2 * cov_beta[-1, -1])
    assert_allclose(float(tested.se), se, rtol=1e-6)
    assert_allclose(float(tested.beta), beta[-1], rtol=1e-6, atol=1e-6 * se)
    assert 0 <= float(tested.p_value) <= 1
