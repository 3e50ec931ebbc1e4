"""Whether the terms of one structured model are special cases of those of another."""

from typing import Any

import numpy as np

from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import RESIDUAL

_SAME = 1e-8


def nested(small: Any, large: Any) -> bool:
    """Return whether each term of a StructuredNode is known to be a special case of one of another."""
    if not (small.products.rows_kept and large.products.rows_kept and
            small.products.weights.same(large.products.weights)):  # fmt: skip
        return False
    return _residuals(small, large) and all(
        any(_part(small, term, large, other) for other in large.terms) for term in small.terms
    )


def _residuals(small: Any, large: Any) -> bool:
    """Return whether the residuals of one are a special case of those of another, Σ_e of Σ_e."""
    if small.layout.noise is None and large.layout.noise is None:
        return True
    own, other = (
        _kind(node.layout.names[node.layout.noise_place], RESIDUAL, _columns(node)) for node in (small, large)
    )
    if own == "scalar":
        return other in ("scalar", "diagonal", "unstructured")
    a, b = small.products.records, large.products.records
    if _columns(small) != _columns(large) or not np.array_equal(a.coordinate, b.coordinate):
        return False
    if own == "diagonal":
        return other in ("diagonal", "unstructured")
    return own == other == "unstructured" and np.array_equal(a.record, b.record)


def _columns(node: Any) -> tuple[str, ...]:
    """Return what the coordinates of the residual are called."""
    return ("1",) if node.residual is None else tuple(node.residual.columns)


def _part(a: Any, small: Term, b: Any, large: Term) -> bool:
    """Return whether the variance of one term is a special case of that of another."""
    s, t = small.blocks, large.blocks
    known = s.relation is t.relation if s.relation is None or t.relation is None else s.relation.same(t.relation)
    if small.levels != large.levels or s.levels != t.levels or not known:
        return False
    names = [_names(node, term) for node, term in ((a, small), (b, large))]
    places = [_place(small, large, j) for j in range(small.width)]
    if None in places:
        return False
    if small.width == large.width and type(s.block) is type(t.block) and s.block._identified:
        return len(names[0]) == len(names[1]) > 0
    kinds = [_kind(own, term.name, term.columns) for own, term in zip(names, (small, large), strict=True)]
    if kinds[1] == "unstructured":
        return True
    return kinds[1] == "diagonal" and kinds[0] in ("diagonal", "scalar")


def _names(node: Any, term: Term) -> tuple[str, ...]:
    """Return the names of the parameters of a term."""
    k = node.terms.index(term)
    entries = [entry for entry in node.layout.entries if entry.term == k]
    return tuple(name for entry in entries for name in node.layout.names[entry.place])


def _kind(names: tuple[str, ...], called: str, columns: tuple[str, ...]) -> str:
    if names == (called,):
        return "scalar"
    diagonal = {f"{called}[{column}]" for column in columns}
    if set(names) == diagonal:
        return "diagonal"
    c = len(columns)
    return "unstructured" if c > 1 and len(names) == c * (c + 1) // 2 and diagonal < set(names) else "other"


def _place(small: Term, large: Term, j: int) -> int | None:
    """Return the column within a level of one term that equals a column of another."""
    own = small.Z[:, j :: small.width]
    for i in range(large.width):
        other = large.Z[:, i :: large.width]
        if own.shape == other.shape and abs(own - other).max() <= _SAME * abs(own).max():
            return i
    return None
