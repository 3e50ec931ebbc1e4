"""Trees of any size: Brownian motion along their branches by its sparse precision."""

import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.spelling import as_read
from pm_fastlmm.covariance.ids import Labels, read_index
from pm_fastlmm.covariance.newick import Branches
from pm_fastlmm.covariance.nexus import read_tree
from pm_fastlmm.covariance.precision import Descended
from pm_fastlmm.covariance.rooting import rooted
from pm_fastlmm.sparse.genealogy import Genealogy, IntArray

_SUPPORT = re.compile(r"[0-9.][0-9.eE/+-]*")  # of a branch, such as 95 or 98.5/100, which is no name of a node


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Tree(Descended):
    """
    A phylogeny: Brownian motion along its branches, over tips and inner nodes, by its sparse precision.

    The value of a node is that of its parent plus N(0, length of the branch between them), that of the root is 0. So
    the tips have the covariance of `phylogeny`, and A⁻¹ over all nodes has two entries off the diagonal per branch
    (Hadfield & Nakagawa 2010). Polytomies and trees that are not ultrametric are as good as others.

    Parameters
    ----------
    text : str
        A tree with branch lengths, in Newick or NEXUS format (the text, not its file). Of NEXUS the translate table is
        used.
    root : {"base", "midpoint"}, name of a tip or names of several, optional
        Where the root of an unrooted tree is, as in `phylogeny`.
    name : str, optional
        Which of several trees in a NEXUS file.

    Attributes
    ----------
    labels : tuple
        The effects of a term with this tree, which are the rows of `Q`: tips in the order of the text, then the inner
        nodes but for the root. An inner node keeps its name, unless it has none, shares it with another, or has a
        number in its place, a support value; then it is "node1", "node2" …, counted from the root on.
    tips : tuple
    Q : scipy.sparse.csc_array
        A⁻¹.
    logdet : float
        log|A|, the sum of the logarithms of the lengths.
    aliases : dict
        A branch of length 0 makes its two nodes one, which has the name of its first tip, or of its uppermost node
        with a name if it has no tip; other names are here, with its row.
    variances : array
        How far each node is from the root.

    Raises
    ------
    ValueError
        If the text is malformed, branches lack lengths, tips are repeated, the tree is unrooted and `root` is not
        given, a NEXUS file has several trees and none is named, or a tip is at the root, without variance.

    References
    ----------
    Hadfield & Nakagawa (2010), General quantitative genetic methods for comparative biology: phylogenies, taxonomies
    and multi-trait models for continuous and categorical characters. doi:10.1111/j.1420-9101.2009.01915.x

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> apes = cov.Tree("((human:6,chimp:6):10,macaque:16);")
    >>> apes
    Tree(4 effects, 8 entries: human, chimp, macaque, node1)
    >>> apes.dense()
             human  chimp  macaque
    human     16.0   10.0      0.0
    chimp     10.0   16.0      0.0
    macaque    0.0    0.0     16.0
    >>> apes.dense(["human", "node1"])
           human  node1
    human   16.0   10.0
    node1   10.0   10.0
    """

    tips: tuple[str, ...]

    def __init__(self, text: str, *, root: str | Labels | None = None, name: str | None = None) -> None:
        branches, tips, names = read_rooted(text, root, name)
        node = _merged(branches)
        if at_root := [branches.labels[i] for i in tips if node[i] == 0]:
            raise ValueError(
                f"tips {shown(at_root)} are at the root, without variance: drop them, or give their branches a length."
            )
        upper = np.flatnonzero(node == np.arange(len(node)))[1:]  # of the nodes that are one; the root is left out
        first = np.array(list(dict.fromkeys(node[tips].tolist())), dtype=np.intp)
        rows = np.append(first, np.setdiff1d(upper, first))
        place = np.full(len(node), -1, dtype=np.intp)
        place[rows] = np.arange(len(rows))
        labels, aliases = _labels(branches, tips, place[node])
        genealogy = Genealogy.of_tree(place[node[branches.parents[rows]]], place[upper], branches.lengths[rows])
        self._descend(genealogy, labels, aliases)
        object.__setattr__(self, "tips", tuple(names))

    _strange = "are not nodes of the tree"

    def _default_ids(self) -> pd.Index:
        return pd.Index(self.tips, tupleize_cols=False)

    def _account(self, A: FloatArray) -> dict[str, Any]:
        return account(A)


def read_rooted(text: str, root: str | Labels | None, name: str | None = None) -> tuple[Branches, IntArray, pd.Index]:
    """Return a tree from its root, which of its nodes are tips, in the order of the text, and their names."""
    branches, tips = rooted(read_tree(text, name), root)
    return branches, tips, read_index([branches.labels[i] for i in tips], "tree")


def shared_paths(branches: Branches, tips: IntArray) -> FloatArray:
    """Return how long the path from the root is that any two of these tips share, the depth of their last ancestor."""
    below = np.arange(1, len(branches.parents))
    genealogy = Genealogy.of_tree(branches.parents[1:] - 1, below - 1, branches.lengths[1:])
    return genealogy.covariance(tips - 1)


def account(K: FloatArray) -> dict[str, Any]:
    """Return what ``attrs`` of shared paths say besides their scale."""
    depth = np.diag(K)
    return {"tree_height": float(depth.max()), "ultrametric": bool(np.ptp(depth) <= 1.5e-8 * depth.max())}


def _merged(branches: Branches) -> IntArray:
    """Return for each node the uppermost of those that are one with it, by branches of length 0."""
    node = np.where(branches.lengths > 0, np.arange(len(branches.parents)), branches.parents)
    node[0] = 0
    while (node != node[node]).any():
        node = node[node]
    return node


def _labels(branches: Branches, tips: IntArray, place: IntArray) -> tuple[tuple[Hashable, ...], dict[Hashable, int]]:
    """Return what each row is called, and its other names; the root has place -1."""
    is_tip = np.isin(np.arange(len(place)), tips)
    counts = Counter(map(as_read, branches.labels))
    named = [
        i for i, label in enumerate(branches.labels)
        if is_tip[i] or (label and counts[as_read(label)] == 1 and not _SUPPORT.fullmatch(label))
    ]  # fmt: skip
    labels: dict[int, Hashable] = {}
    aliases: dict[Hashable, int] = {}
    for i in (*tips.tolist(), *named):
        row, label = int(place[i]), branches.labels[i]
        if row >= 0 and labels.setdefault(row, label) != label:
            aliases[label] = row
    free = (name for k in count(1) if (name := f"node{k}") not in counts)
    return tuple(labels[row] if row in labels else next(free) for row in range(place.max() + 1)), aliases
