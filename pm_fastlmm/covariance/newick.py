"""Newick trees as flat arrays, read without recursion, so that a ladder of 10⁵ tips is as easy as a bush."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TOKEN = re.compile(
    r"""(?P<blank>\s+|\[(?:[^\[\]]|\[[^\[\]]*\])*\])                                # white space, a [comment]
      | (?P<mark>[(),:;])
      | (?P<label>'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*"|[^\s()\[\],:;'"][^\s()\[\],:;]*)""",  # 'it''s one name', it's
    re.VERBOSE,
)
_ROOTING = re.compile(r"\[&([RrUu])\]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

# What may follow what: state → {token: next state}. A tip needs a name, so nothing else may follow '(' or ','.
_NEXT = {
    "start": {"(": "opened"},
    "opened": {"(": "opened", "name": "named"},
    "closed": {"name": "named", ":": "measure", ",": "opened", ")": "closed", ";": "ended"},
    "named": {":": "measure", ",": "opened", ")": "closed", ";": "ended"},
    "measure": {"name": "measured"},
    "measured": {",": "opened", ")": "closed", ";": "ended"},
    "ended": {},
}
_EXPECTED = {
    "start": "'(' (pass the tree itself; of a file, pathlib.Path(file).read_text())",
    "opened": "'(' or the name of a tip",
    "closed": "a name, ':', ',', ')' or ';'",
    "named": "':', ',', ')' or ';' (quote a name that holds blanks or punctuation)",
    "measured": "',', ')' or ';'",
    "ended": "one tree only, ended by ';'",
}


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """A rooted tree in preorder: a parent comes before its children, so the tips of a clade are neighbours.

    Attributes
    ----------
    labels : tuple of str
        Name of each node; "" for an internal node without one.
    parents : array of int, shape (nodes,)
        Position of each node's parent, which is smaller than its own; -1 for the root, node 0.
    lengths : array of float, shape (nodes,)
        Length of the branch above each node, finite and not negative; 0 for the root.
    rooting : str
        "rooted" or "unrooted" where the text says so by [&R] or [&U], "" where it does not.
    """

    labels: tuple[str, ...]
    parents: NDArray[np.intp]
    lengths: NDArray[np.float64]
    rooting: str = ""

    def tip_nodes(self) -> NDArray[np.intp]:
        """Positions of the tips, in the order of the text."""
        is_tip = np.ones(len(self.parents), dtype=bool)
        is_tip[self.parents[1:]] = False
        return np.flatnonzero(is_tip)

    def tips(self) -> tuple[str, ...]:
        """Names of the tips."""
        return tuple(self.labels[node] for node in self.tip_nodes())

    def spans(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """For each node, the first of its tips and the one after the last, among all tips."""
        is_tip = np.zeros(len(self.parents), dtype=np.intp)
        is_tip[self.tip_nodes()] = 1
        tips_below = is_tip.copy()
        for node in range(len(is_tip) - 1, 0, -1):
            tips_below[self.parents[node]] += tips_below[node]
        first = np.cumsum(is_tip) - is_tip
        return first, first + tips_below

    def depths(self) -> NDArray[np.float64]:
        """For each node, how far it is from the root."""
        depth = np.zeros(len(self.parents))
        for node in range(1, len(depth)):
            depth[node] = depth[self.parents[node]] + self.lengths[node]
        return depth


def parse_newick(text: str) -> Branches:
    """Read one tree with branch lengths from a Newick string.

    Names may be quoted ('…' or "…", a doubled quote stands for one), may hold quotes that do not begin them, and keep
    their underscores. White space and comments [..], which may hold one more level of brackets, are skipped, but for
    [&R] and [&U] before the tree. The length above the root is ignored, and the final semicolon may be missing.

    Raises
    ------
    ValueError
        At a syntax error (with the character, counted from 1), or when a branch has no length or a negative one.
    """
    labels, parents, lengths, begins = [""], [-1], [np.nan], [1]
    node, state = 0, "start"
    ancestors: list[int] = []
    for kind, token, where in _tokens(text):
        if kind not in _NEXT[state] or (state == "measure" and not _NUMBER.fullmatch(token)):
            expected = _EXPECTED.get(state, "a branch length after ':'")
            raise ValueError(f"Newick tree, character {where}: expected {expected}, got {token!r}.")
        if kind in (",", ")") and not ancestors:
            raise ValueError(
                f"Newick tree, character {where}: {token!r} is outside all parentheses; add the '(' that is missing."
            )
        if kind == ";" and ancestors:
            raise ValueError(
                f"Newick tree, character {where}: the tree ends, but the '(' at character {begins[ancestors[-1]]} "
                "is not closed; add the ')' that is missing."
            )
        match kind:
            case "(" | ",":
                if kind == "(":
                    begins[node] = where
                    ancestors.append(node)
                node = len(parents)
                parents.append(ancestors[-1])
                labels.append("")
                lengths.append(np.nan)
                begins.append(where + 1)
            case ")":
                node = ancestors.pop()
            case "name" if state == "measure":
                lengths[node] = float(token)
            case "name":
                labels[node] = unquoted(token)
        state = _NEXT[state][kind]
    lengths[0] = 0.0
    _check_lengths(labels, lengths, begins)
    marks = _ROOTING.findall(text.partition("(")[0])
    rooting = {"r": "rooted", "u": "unrooted", "": ""}[marks[-1].lower() if marks else ""]
    return Branches(tuple(labels), np.array(parents), np.array(lengths), rooting)


def unquoted(label: str) -> str:
    """Return a name without the quotes around it."""
    quote = label[0]
    return label[1:-1].replace(2 * quote, quote) if quote in "'\"" else label


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and character of each token; the end of the text stands for a semicolon that is missing."""
    position, kind = 0, ""
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(
                f"Newick tree, character {position + 1}: {text[position]!r} opens or closes a quotation or a comment "
                "that has no other end; quote names that hold such characters."
            )
        if found.lastgroup != "blank":
            kind = found[0] if found.lastgroup == "mark" else "name"
            yield kind, found[0], position + 1
        position = found.end()
    if kind != ";":
        yield ";", "the end of the text", len(text) + 1


def _check_lengths(labels: list[str], lengths: list[float], begins: list[int]) -> None:
    """Refuse branches without a finite, non-negative length, and say which one comes first."""
    values = np.array(lengths)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if not bad.size:
        return
    first = int(bad[0])
    name = repr(labels[first]) if labels[first] else "the internal node"
    got = "no length" if np.isnan(values[first]) else f"length {values[first]:g}"
    none, negative = int(np.isnan(values).sum()), int((values < 0).sum())
    counts = {"have none": none, "are negative": negative, "are infinite": bad.size - none - negative}
    how = ", ".join(f"{count} of {len(lengths) - 1} {what}" for what, count in counts.items() if count)
    remedy = "; negative ones, which neighbour joining makes, are commonly set to 0" if negative else ""
    raise ValueError(
        f"Newick tree: every branch needs a finite length ≥ 0, but {how}; the first is the branch above {name} that "
        f"begins at character {begins[first]}, with {got}. Write the length after a colon, as in (A:1,B:1); a tree "
        f"without lengths has to be dated first{remedy}."
    )
