"""Whether the terms of one structured model are special cases of those of another."""

from typing import Any

from pm_fastlmm.covariance.terms import Term

_SAME = 1e-8


def nested(small: Any, large: Any) -> bool:
    """Return whether each term of a StructuredNode is known to be a special case of one of another."""
    if not (small.products.rows_kept and large.products.rows_kept and
            small.products.weights.same(large.products.weights)):  # fmt: skip
        return False
    return all(any(_part(small, term, large, other) for other in large.terms) for term in small.terms)


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
    if _kind(names[1], large) == "unstructured":
        return True
    return _kind(names[1], large) == "diagonal" and _kind(names[0], small) in ("diagonal", "scalar")


def _names(node: Any, term: Term) -> tuple[str, ...]:
    """Return the names of the parameters of a term."""
    k = node.terms.index(term)
    entries = [entry for entry in node.layout.entries if entry.term == k]
    return tuple(name for entry in entries for name in node.layout.names[entry.place])


def _kind(names: tuple[str, ...], term: Term) -> str:
    if names == (term.name,):
        return "scalar"
    diagonal = {f"{term.name}[{column}]" for column in term.columns}
    if set(names) == diagonal:
        return "diagonal"
    c = len(term.columns)
    return "unstructured" if c > 1 and len(names) == c * (c + 1) // 2 and diagonal < set(names) else "other"


def _place(small: Term, large: Term, j: int) -> int | None:
    """Return the column within a level of one term that equals a column of another."""
    own = small.Z[:, j :: small.width]
    for i in range(large.width):
        other = large.Z[:, i :: large.width]
        if own.shape == other.shape and abs(own - other).max() <= _SAME * abs(own).max():
            return i
    return None
