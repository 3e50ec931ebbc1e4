"""The root of a tree: whether its text has one, and a root on a branch of an unrooted tree."""

from collections.abc import Hashable, Iterable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import depth_first_order

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.spelling import places, spelling_hint
from pm_fastlmm.covariance.newick import Branches

type IntArray = npt.NDArray[np.intp]

BASE, MIDPOINT = "base", "midpoint"
_EQUAL = 1e-6  # of the height, within which tips are equally far: lengths in a file have few digits


def rooted(tree: Branches, root: str | Iterable[Hashable] | None) -> tuple[Branches, IntArray]:
    """
    Return a tree from its root, and which of its nodes are the tips, in the order of the text.

    Parameters
    ----------
    tree : Branches
    root : {"base", "midpoint"}, name of a tip or names of several, or None
        As `phylogeny`.

    Raises
    ------
    ValueError
        If the tree is unrooted and no root is given, or the outgroup is no side of a branch.
    """
    if root is None:
        _require_root(tree)
    if root is None or (isinstance(root, str) and root == BASE):
        return tree, tree.tip_nodes()
    midpoint = isinstance(root, str) and root == MIDPOINT
    node, above = _middle(tree) if midpoint else _outgroup_branch(tree, [root] if isinstance(root, str) else list(root))
    return _turned(tree, node, above)


def _require_root(tree: Branches) -> None:
    branches = int((tree.parents == 0).sum())
    if tree.rooting == "unrooted" or (branches > 2 and tree.rooting != "rooted" and not _ultrametric(tree)):
        why = "is marked as unrooted, [&U]" if tree.rooting == "unrooted" else f"has {branches} branches at its base"
        raise ValueError(
            f"The tree {why}, as programs write unrooted trees, but shared paths begin at a root: name an outgroup, "
            "root='<tip>' with the name of the tip (or a list of several), or give root='midpoint' for the middle of "
            "the longest path, or root='base' if the base of the text is the root indeed."
        )


def _ultrametric(tree: Branches) -> bool:
    """Return whether all tips are equally far from the base: only a root is such a place."""
    tips = tree.depths()[tree.tip_nodes()]
    return bool(np.ptp(tips) <= _EQUAL * tips.max() and tips.max() > 0)


def _first(tree: Branches) -> int:
    """Return the first node from which more than one branch goes; those before it are a stem."""
    counts = np.bincount(tree.parents[1:], minlength=len(tree.parents))
    return int(np.flatnonzero(counts != 1)[0])


def _middle(tree: Branches) -> tuple[int, float]:
    """Return the node above which the middle of the longest path lies, and how far above."""
    tips, depth = tree.tip_nodes(), tree.depths()
    one = tips[depth[tips].argmax()]
    for _ in range(2):  # in a tree, the tip that is farthest from any ends a longest path
        start, away = one, _distances(tree, int(one))[tips]
        one = tips[away.argmax()]
    node = int(start if depth[start] >= depth[one] else one)  # the deeper end: the middle lies above it
    left, base = float(away.max()) / 2, _first(tree)
    while left > tree.lengths[node] and tree.parents[node] > base:
        left -= float(tree.lengths[node])
        node = int(tree.parents[node])
    return node, min(left, float(tree.lengths[node]))


def _distances(tree: Branches, start: int) -> FloatArray:
    """Return how far every node is from one of them."""
    away = np.full(len(tree.parents), np.nan)
    away[start] = 0.0
    node = start
    while node:  # its ancestors
        away[tree.parents[node]] = away[node] + tree.lengths[node]
        node = int(tree.parents[node])
    for node in np.flatnonzero(np.isnan(away)).tolist():
        away[node] = away[tree.parents[node]] + tree.lengths[node]
    return away


def _outgroup_branch(tree: Branches, names: list[Hashable]) -> tuple[int, float]:
    """Return the node above which the branch between the outgroup and the others is halved, and how far above."""
    tips = tree.tips()
    rows = places(names, tips)
    if strangers := [name for name, row in zip(names, rows, strict=True) if row < 0]:
        hint = spelling_hint(strangers, tips)
        raise ValueError(
            f"root names {shown(strangers)}, which are not tips of the tree: give 'midpoint', 'base' or tips. "
            f"{hint}".strip()
        )
    first, last = tree.spans()
    inside = np.zeros(len(tips) + 1, dtype=int)
    inside[np.array(rows, dtype=int) + 1] = 1
    members = np.cumsum(inside)
    below, out = last - first, members[last] - members[first]
    k, base = len(set(rows)), _first(tree)
    alone = (out == k) & (below == k) | (out == 0) & (below == len(tips) - k)
    alone[: base + 1] = False
    if not alone.any():
        raise ValueError(
            f"root {shown(names)} is no outgroup: no branch of the tree has these tips on one side and all others on "
            "the other."
        )
    node = int(np.flatnonzero(alone)[0])
    length = float(tree.lengths[node])
    siblings = np.flatnonzero(tree.parents == base)
    if tree.parents[node] == base and len(siblings) == 2:  # the base only divides a branch
        other = int(siblings[siblings != node][0])
        half = (length + float(tree.lengths[other])) / 2
        return (node, half) if half <= length else (other, half)
    return node, length / 2


def _turned(tree: Branches, node: int, above: float) -> tuple[Branches, IntArray]:
    """Return the tree from a root on the branch above a node, and its tips in the order of the text."""
    root = len(tree.parents)  # the number of the new node
    ends = np.arange(_first(tree) + 1, root)  # of the branches, their lower nodes
    starts = np.where(ends == node, root, tree.parents[ends])
    branches = np.append(ends, tree.parents[node]), np.append(starts, root)
    graph = csr_array((np.ones(len(ends) + 1), branches), shape=(root + 1, root + 1))
    order, before = depth_first_order(graph, root, directed=False)
    place = np.zeros(root + 1, dtype=np.intp)
    place[order] = np.arange(len(order))
    origin, upper = order[1:], before[order[1:]]
    divided = np.where(origin == node, above, tree.lengths[node] - above)
    lengths = np.where(upper == root, divided, np.append(tree.lengths, 0.0)[np.maximum(origin, upper)])
    labels = ("", *(tree.labels[i] for i in origin))
    turned = Branches(labels, np.append(-1, place[upper]), np.append(0.0, lengths), "rooted")
    tips = turned.tip_nodes()
    return turned, tips[np.argsort(order[tips])]
