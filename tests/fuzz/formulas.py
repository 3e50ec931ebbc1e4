"""
Random formulas over columns of any dtype and name: the spaces of X and of the random columns, judged by sets of terms.

A formula is built twice: as text, in R's or Python's spelling, and as a set of terms, each a set of factors, by the
algebra of Wilkinson and Rogers. The judge codes every factor by all its levels: whatever contrasts are taken, the sum
of these spaces is that of X.
"""

import functools
from decimal import Decimal

import numpy
import numpy as np
import pandas as pd

import pm_fastlmm as flmm
from fuzz.guard import Refused, guarded

NAMES = (
    "x", "w", "days", "my x", "yield", "lambda", "class", "a.b", "t/ha", "log", "C", "I", "scale", "poly", "T", "in",
    "Größe", "x_1", "2nd", "c", "exp", "None_", "np1", "if", "offset",
)  # fmt: skip
NUMBERS = (
    "float64", "float32", "int8", "int64", "Int64", "Float64", "object", "float pyarrow", "int pyarrow", "decimal",
)  # fmt: skip
LEVELS = (["u", "v", "w"], ["1", "2", "10"], ["a b", "n.d.", "é"])
TEXTS = ("object", "str", "string", "string[pyarrow]", "category", "ordered", "string category")
BOOLS = ("bool", "boolean", "object", "bool pyarrow")
RTOL = 1e-7


class Column:
    """A column: its values as plain Python, the Series that is handed over, and how formulas write its name."""

    def __init__(self, rng, name, n, kind, gaps):
        self.name, self.kind = name, kind
        self.values = {
            "positive": lambda: (rng.exponential(size=n) + 0.25).round(3).astype(np.float32).astype(float).tolist(),
            "whole": lambda: rng.integers(1, 6, n).tolist(),
            "text": lambda: rng.choice(LEVELS[rng.integers(3)], n).tolist(),
            "bool": lambda: (rng.random(n) < 0.5).tolist(),
        }[kind]()  # fmt: skip
        if kind == "text":
            self.values = [str(value) for value in self.values]
        self.missing = rng.choice(n, 2, replace=False).tolist() if gaps else []
        self.quoted, self.power = bool(rng.random() < 0.3), str(rng.choice(["^", "**"]))
        self.dtype = str(rng.choice({"text": TEXTS, "bool": BOOLS}.get(kind, NUMBERS)))

    def series(self):
        """Return the column in its dtype."""
        values = [None if i in self.missing else value for i, value in enumerate(self.values)]
        dtype = self.dtype
        if dtype == "decimal":
            return pd.Series([None if v is None else Decimal(str(v)) for v in values], dtype=object)
        if dtype == "ordered":
            return pd.Series(pd.Categorical(values, categories=sorted(set(self.values), reverse=True), ordered=True))
        if dtype == "string category":
            return pd.Series(values, dtype="string").astype("category")
        if dtype.startswith("int") and self.missing:
            dtype = "Int64"
        if dtype == "bool" and self.missing:
            dtype = "boolean"
        if self.kind == "positive" and dtype in ("int8", "int64", "Int64", "int pyarrow"):
            dtype = "float64"
        arrow = {"float": "double[pyarrow]", "int": "int64[pyarrow]", "bool": "bool[pyarrow]"}
        dtype = arrow[dtype.split()[0]] if dtype.endswith(" pyarrow") else dtype
        return pd.Series(values, dtype=dtype)

    @property
    def numeric(self):
        """Whether it is a covariate."""
        return self.kind in ("positive", "whole")

    @property
    def alone(self):
        """Its name as a term."""
        return self._written(also_quoted=("in",))

    @property
    def inside(self):
        """Its name inside a call."""
        return self._written(also_quoted=("in", "if"))

    def _written(self, also_quoted):
        plain = all(part.isidentifier() for part in self.name.split(".")) and self.name not in also_quoted
        return self.name if plain and not self.quoted else f"`{self.name}`"


def covariate(rng, columns):
    """Return a covariate, or a transform of it: its text, and its columns by NumPy."""
    column = columns[rng.integers(len(columns))]
    other = columns[rng.integers(len(columns))]
    x, w = (np.array(c.values, dtype=float) for c in (column, other))
    a, b = column.inside, other.inside
    choice = int(rng.integers(27))
    text, values = [
        lambda: (column.alone, x),
        lambda: (column.alone, x),
        lambda: (f"I({a}{column.power}2)", x**2),
        lambda: (f"I({a}{column.power}3)", x**3),
        lambda: (f"I({a}^-1)", 1 / x),
        lambda: (f"I(-{a}^2*{b})", -(x**2) * w),
        lambda: (f"I({b}*{a}%%2)", w * np.mod(x, 2)),
        lambda: (f"I({a} %/% 2 + {b})", x // 2 + w),
        lambda: (f"I({a} // 2)", x // 2),
        lambda: (f"log({a})", np.log(x)),
        lambda: (f"log({a}, base=2)", np.log2(x)),
        lambda: (f"np.log({a})", np.log(x)),
        lambda: (f"sqrt({a})", np.sqrt(x)),
        lambda: (f"exp(-{a})", np.exp(-x)),
        lambda: (f"scale({a})", x - x.mean()),
        lambda: (f"poly({a}, 2)", np.column_stack([x - x.mean(), (x - x.mean()) ** 2])),
        lambda: (f"poly({a}, 2, raw=TRUE)", np.column_stack([x, x**2])),
        lambda: (f"ifelse({a} > 1 & {b} <= 2, {b}, 0)", np.where((x > 1) & (w <= 2), w, 0)),
        lambda: (f"pmin({a}, 1.5)", np.minimum(x, 1.5)),
        lambda: (f"{{{a} * 2}}", 2 * x),
        lambda: (f"round({a}, 1)", x.round(1)),
        lambda: (f"as.numeric({a} > 1)", (x > 1).astype(float)),
        lambda: (f"I(({a} > 1) + ({b} <= 2))", (x > 1) + 1.0 * (w <= 2)),
        lambda: (f"pmax({a}, {b}, 1)", np.maximum(np.maximum(x, w), 1)),
        lambda: (f"I(-({a} > 1) * {b})", -1.0 * (x > 1) * w),
        lambda: (f"I(2^-{a})", 2.0**-x),
        lambda: (f"as.numeric(factor({a}))", np.unique(x, return_inverse=True)[1] + 1.0),
    ][choice]()
    named = {column, other} if choice in (5, 6, 7, 17, 22, 23, 24) else {column}
    return text, ("number", values.reshape(len(values), -1), named)


def levels_of(rng, columns, numbers):
    """Return a factor: its text, and the level of each row."""
    column = columns[rng.integers(len(columns))]
    number = numbers[rng.integers(len(numbers))]
    a, b = column.inside, number.inside
    x = np.array(number.values, dtype=float)
    whole = number.kind == "whole"
    text, levels, used = [
        lambda: (column.alone, column.values, column),
        lambda: (column.alone, column.values, column),
        lambda: (f"factor({a})", column.values, column),
        lambda: (f"as.factor({a})", column.values, column),
        lambda: (f"C({a}, contr.sum)", column.values, column),
        lambda: (f"factor({b})" if whole else f"I({b} > 1)", number.values if whole else x > 1, number),
        lambda: (f"C({b})" if whole else f"I({b} <= 1)", number.values if whole else x <= 1, number),
        lambda: (f"cut({b}, c(0, 1, 2, 99))", np.digitize(x, [1, 2], right=True), number),
        lambda: (f"ordered({b})" if whole else f"I(!{b} > 1)", number.values if whole else x <= 1, number),
        lambda: (f"I({b} %in% c(1, 2))", np.isin(x, [1, 2]), number),
    ][rng.integers(10)]()
    return text, ("factor", np.array([str(level) for level in levels]), {used})


def expression(rng, atoms, depth):
    """Return a formula's text and its set of terms, which are sets of factors."""
    if depth == 0 or rng.random() < 0.35:
        text = str(rng.choice(list(atoms)))
        return text, {frozenset([text])}
    sign = str(rng.choice(["+", "+", "*", ":", "/", "^", "%in%", "-"]))
    left, A = expression(rng, atoms, depth - 1)
    if sign == "^":
        return f"({left})^2", A | {a | b for a in A for b in A}
    right, B = expression(rng, atoms, depth - 1)
    if sign == "%in%" and (len(A) > 1 or len(B) > 1):
        sign = ":"
    products = {a | b for a in A for b in B}
    terms = {
        "+": A | B, "*": A | B | products, ":": products, "%in%": products, "-": A - B,
        "/": A | {frozenset().union(*A) | b for b in B},
    }[sign]  # fmt: skip
    return (f"({left} {sign} {right})", terms)


def columns_of(terms, atoms, intercept, rows):
    """Return columns that span the space of a formula: products of covariates and of all levels of factors."""
    parts = [np.ones((len(rows), 1))] if intercept else []
    for term in terms:
        coded = []
        for text in term:
            kind, values, _ = atoms[text]
            values = values[rows]
            coded.append(values if kind == "number" else (values[:, None] == np.unique(values)).astype(float))
        parts.append(functools.reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(rows), -1), coded))
    return np.hstack(parts) if parts else np.zeros((len(rows), 0))


def same_space(A, B):
    """Return how far the columns of each are from the space of the other, relative to their length."""
    gaps = [0.0]
    for M, other in ((A, B), (B, A)):
        M = M[:, np.linalg.norm(M, axis=0) > 0]
        if not M.shape[1]:
            continue
        M = M / np.linalg.norm(M, axis=0)
        if not other.shape[1]:
            return 1.0
        U, s, _ = np.linalg.svd(other / np.maximum(np.linalg.norm(other, axis=0), 1e-300), full_matrices=False)
        U = U[:, s > 1e-9 * s[0]]
        gaps.append(float(np.linalg.norm(M - U @ (U.T @ M), axis=0).max()))
    return max(gaps)


def recipe(seed):
    """Return the table, the formula and what it means."""
    rng = np.random.default_rng([11, seed])
    n, gaps = int(rng.integers(18, 40)), rng.random() < 0.25
    names = rng.permutation(NAMES)[:6].tolist()
    kinds = ["positive", "whole", "text", "bool", *rng.choice(["positive", "whole", "text"], 2)]
    columns = [Column(rng, name, n, kind, gaps and rng.random() < 0.4) for name, kind in zip(names, kinds, strict=True)]
    group = Column(rng, "group", n, "text", gaps)
    y = (rng.exponential(size=n) + 0.5).round(3)
    table = pd.DataFrame({"y": y} | {c.name: c.series() for c in [*columns, group]})
    numbers, factors = [c for c in columns if c.numeric], [c for c in columns if not c.numeric]
    atoms = dict(covariate(rng, numbers) if rng.random() < 0.55 else levels_of(rng, factors, numbers) for _ in range(4))
    left, response = [
        ("y", y), ("log(y)", np.log(y)), ("I(y/1000)", y / 1000), ("y/10 - 1", y / 10 - 1), ("y^2", y**2), ("-y", -y),
        ("sqrt(y)", np.sqrt(y)),
    ][rng.integers(7)]  # fmt: skip
    return rng, table, columns, group, atoms, (left, response)


def check(seed):
    """Return the outcome of one formula; raise an AssertionError where X or the random columns are not its terms."""
    rng, table, columns, group, atoms, (left, response) = recipe(seed)
    text, terms = expression(rng, atoms, int(rng.integers(1, 4)))
    intercept = rng.random() < 0.7
    text = text if intercept else [f"0 + {text}", f"{text} - 1", f"-1 + {text}"][rng.integers(3)]
    slope, slope_terms = expression(rng, atoms, int(rng.integers(0, 2)))
    formula = f"{left} ~ {text} + ({slope} | {['group', 'factor(group)'][rng.integers(2)]})"
    used = set().union(*(atoms[a][2] for term in terms | slope_terms for a in term), {group})
    rows = np.array([i for i in range(len(table)) if not any(i in c.missing for c in used)])
    atoms = {a: _on(a, atom, rows) for a, atom in atoms.items()}

    def with_variables():
        C, I, log, scale, poly, factor, sqrt, c, exp = table, None, 3, 2.0, {}, "f", [1], (), 1  # noqa: E741, F841
        cut, ordered, ifelse, np, round = 1.5, 0, "x", numpy, 7  # noqa: F841
        return flmm.MixedDesign.from_formula(formula, table)

    def without():
        return flmm.MixedDesign.from_formula(formula, table)

    try:
        design = guarded(with_variables if rng.random() < 0.5 else without)
    except Refused as error:
        if "empty" not in str(error):  # (x - x)/f leaves no term for a slash to nest in
            raise AssertionError(f"refused: {error}") from None
        return ["refused, nothing left of a slash"]
    assert list(design.ids) == rows.tolist(), f"{formula}: rows {design.ids}, not {rows.tolist()}"
    np.testing.assert_allclose(design.y, response[rows], rtol=1e-12, err_msg=formula)
    wanted = columns_of(terms, atoms, intercept, rows)
    gap = same_space(design.X, wanted)
    assert gap < RTOL, f"{formula}: {gap:.1e} from the space of its terms; {design.columns}"
    assert design.X.shape[1] >= np.linalg.matrix_rank(wanted, tol=1e-8), formula
    (term,) = design.random
    gap = same_space(term.values, columns_of(slope_terms, atoms, True, rows))
    assert gap < RTOL, f"{formula}: random columns {gap:.1e} from their space; {term.columns}"
    assert [term.levels[c] for c in term.factor.codes] == [group.values[i] for i in rows], f"{formula}: groups"
    some = rows[rng.permutation(len(rows))[:4]]
    new = pd.DataFrame({"y": table["y"]} | {c.name: _other(rng, c) for c in columns}).iloc[some]
    try:
        again = guarded(design.encode, new)
    except Refused as error:
        raise AssertionError(f"{formula}: new rows refused, {error}") from None
    places = [design.ids.index(i) for i in some]
    np.testing.assert_allclose(again, design.X[places], rtol=1e-6, atol=1e-6, err_msg=f"{formula}: new rows")
    return ["the space of its terms"]


def _on(text, atom, rows):
    """Return an atom whose transform is over the rows that are kept."""
    kind, values, used = atom
    if text.startswith("as.numeric(factor("):  # the places of the levels that are kept
        values = (values > np.unique(values[rows])[None]).sum(axis=1, keepdims=True) + 1.0
    if kind == "number" and text.startswith(("scale(", "poly(")) and "raw" not in text:
        column = next(iter(c for c in used if c.name in text.replace("`", "")), None)
        values = values.copy()
        if column is not None:
            x = np.array(column.values, dtype=float)
            x = x - x[rows].mean()
            values = x[:, None] if text.startswith("scale(") else np.column_stack([x, x**2 - (x[rows] ** 2).mean()])
            if text.startswith("poly("):
                slope = (values[rows, 0] @ values[rows, 1]) / (values[rows, 0] @ values[rows, 0])
                values[:, 1] -= slope * values[:, 0]
    return kind, values, used


def _other(rng, column):
    """Return a column in another dtype of its kind, as new rows may come."""
    changed = object.__new__(Column)
    changed.__dict__ = column.__dict__ | {
        "dtype": str(rng.choice({"text": TEXTS, "bool": BOOLS}.get(column.kind, NUMBERS)))
    }
    return changed.series()
