"""The tree in a NEXUS file, with the names of its translate table."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, takewhile

from pm_fastlmm.base.arrays import shown
from pm_fastlmm.covariance.newick import Branches, parse_newick, unquoted

_BLOCK = re.compile(r"\bbegin\s+trees\s*;", re.IGNORECASE)
_TOKEN = re.compile(
    r"""(?P<blank>\s+|\[(?:[^\[\]]|\[[^\[\]]*\])*\])
      | (?P<mark>[(),:;=])
      | (?P<word>'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*"|[^\s()\[\],:;='"][^\s()\[\],:;=]*)""",
    re.VERBOSE,
)


def read_tree(text: str, name: str | None = None) -> Branches:
    """
    Return the tree of a Newick or NEXUS text.

    Parameters
    ----------
    text : str
    name : str, optional
        Which of several trees of a NEXUS file.

    Raises
    ------
    ValueError
        As `parse_newick`; if a NEXUS file has no tree, or several of which none is named.
    """
    if text.lstrip()[:6].upper() != "#NEXUS":
        if name is not None:
            raise ValueError(f"name={name!r} is for trees of a NEXUS file, and this is a Newick tree: leave it out.")
        return parse_newick(text)
    trees, names = _trees(text)
    if not trees:
        raise ValueError("The NEXUS file has no tree: it needs a block BEGIN TREES; TREE name = (A:1,B:1); END;")
    if name is None and len(trees) > 1:
        raise ValueError(
            f"The NEXUS file has {len(trees)} trees, {shown(list(trees))}: say which by name=, such as "
            f"name={next(reversed(trees))!r}."
        )
    if name is not None and name not in trees:
        raise ValueError(f"The NEXUS file has no tree {name!r} but {shown(list(trees))}: give one of these.")
    tree = parse_newick(trees[next(iter(trees)) if name is None else name])
    return replace(tree, labels=tuple(names.get(label, label) for label in tree.labels))


def _trees(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the Newick text of each tree by its name, and the table of names."""
    trees: dict[str, str] = {}
    names: dict[str, str] = {}
    for block in _BLOCK.finditer(text):
        for words, end in _commands(text, block.end()):
            match words[0][0].lower() if words else "":
                case "end" | "endblock":
                    break
                case "translate":
                    names |= _translated(text, words[1:])
                case "tree" | "utree" as kind:
                    before = list(takewhile(lambda word: word[0] != "=", words))
                    begin = words[len(before)].end() if len(before) < len(words) else end
                    trees[unquoted(before[-1][0])] = ("[&U]" if kind == "utree" else "") + text[begin:end]
    return trees, names


def _translated(text: str, words: list[re.Match[str]]) -> dict[str, str]:
    """Return the name of each number: what stands before the next comma, as ape writes blanks without quotes."""
    entries = [list(entry) for comma, entry in groupby(words, lambda word: word[0] == ",") if not comma]
    return {
        unquoted(key[0]): unquoted(text[name[0].start() : name[-1].end()] if name else key[0])
        for key, *name in entries
    }  # fmt: skip


def _commands(text: str, position: int) -> Iterator[tuple[list[re.Match[str]], int]]:
    """Return the words of each command of a block, and where its semicolon ends."""
    words: list[re.Match[str]] = []
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(
                f"NEXUS file, character {position + 1}: {text[position]!r} opens or closes a quotation or a comment "
                "that has no other end; quote names that hold such characters."
            )
        position = found.end()
        if found[0] == ";":
            yield words, position
            words = []
        elif found.lastgroup != "blank":
            words.append(found)
