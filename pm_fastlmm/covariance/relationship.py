"""Known covariance K between the rows of the data: from a pedigree, markers, groups or a phylogeny.

Every function returns K as a labelled data frame (index and columns are the ids) whose ``attrs`` say what was done:
``scale_factor`` (what the raw matrix was multiplied by), ``mean_diagonal`` (tr(K)/n of what is returned) and counts.

In y ~ N(Xβ, σ²_g K + σ²_e I) an observation has on average the variance k̄ σ²_g + σ²_e, k̄ = tr(K)/n. Multiplying K by
c divides σ²_g by c, so that σ²_g/(σ²_g + σ²_e) silently changes: it is h², the share of variance that K explains, only
if k̄ = 1. ``scale="mean_diagonal"`` returns K/k̄, for which it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, read_covariance, shown
from pm_fastlmm.base.semidefinite import require_semidefinite, zero_tolerance
from pm_fastlmm.base.spelling import places, spelling_hint
from pm_fastlmm.covariance.ids import Labels, elements, read_index
from pm_fastlmm.covariance.incidence import require_distinct
from pm_fastlmm.covariance.parentage import UNKNOWN_PARENTS, read_parents
from pm_fastlmm.covariance.pedigrees import account, relations
from pm_fastlmm.covariance.scaled import Scale, require_dense, scaled
from pm_fastlmm.covariance.trees import account as account_of_tree
from pm_fastlmm.covariance.trees import read_rooted, shared_paths


def pedigree(
    id: Labels,
    sire: Labels,
    dam: Labels,
    *,
    unknown: Any = UNKNOWN_PARENTS,
    clones: Mapping[Any, Any] | None = None,
    scale: Scale = "none",
) -> pd.DataFrame:
    r"""Numerator relationship matrix A of a pedigree, inbreeding included.

    :math:`A_{ij} = (A_{j,s_i} + A_{j,d_i})/2` for j that does not descend from i and :math:`A_{ii} = 1 +
    A_{s_i,d_i}/2`, with sire s and dam d; an unknown parent contributes 0.

    Parameters
    ----------
    id, sire, dam : sequences of length n
        Individuals, in any order, and their parents, as people read them: 1, 1.0, "1" and "1.0" are one individual,
        "A" and "a", "1" and "001" are not. Where parents are a column of numbers, which has no leading zeros, their 1
        is the "001" among ids that are all digits, if one alone is that number. A parent without a row of its own is
        an unrelated founder: its offspring are related through it, but it has no row in the result. Sire and dam may
        be the same (selfing).
    unknown : sequence, optional
        Codes of unknown parents, besides None, NaN, pd.NA and blanks, which always are; in any case and spelling. By
        default ``UNKNOWN_PARENTS``: 0, ".", "*", "?", "-", NA, N/A, #N/A, <NA>, NaN, NaT, None, null, unk, unknown,
        missing, -1, -9, -99, -998, -999, -9999. No individual may be called so: give other codes where one is.
    clones : mapping, optional
        For identical twins, clones and cuttings, whose copy each is: {"b": "a"} if b has the genes of a.
    scale : {"none", "mean_diagonal"}
        "mean_diagonal" divides A by tr(A)/n. As A_ii = 1 + F_i, with inbreeding σ²_g/(σ²_g + σ²_e) is the h² of the
        base population, and only after scaling the share of variance among these n individuals.

    Returns
    -------
    pandas.DataFrame
        A, in the order of `id` and with its spelling; ``attrs`` add ``founders_added`` (parents without a row),
        ``founders`` (both parents unknown), ``unknown_codes`` (which codes were seen, how often) and ``inbred`` (rows
        with F > 0). `parents_as_read` returns who was read as whose parent.

    Raises
    ------
    ValueError
        If lengths differ, an id is missing or repeated, or someone is their own parent or ancestor; if a parent without
        a row is both sire and dam, as a code of unknown parents is, or is spelled almost as another individual ("a"
        and "A", "001" and 1); if ids are so large that floating point loses their last digits.

    Warns
    -----
    UserWarning
        If a parent without a row has most of the individuals that have no other ancestors, or is the dam of most whose
        dam is unknown or without a row (the sire likewise): it may be a code.

    See Also
    --------
    Pedigree : The same of a million individuals, by the sparse inverse of A.

    References
    ----------
    Henderson (1976), A simple method for computing the inverse of a numerator relationship matrix. doi:10.2307/2529339

    Examples
    --------
    >>> pedigree(
    ...     ["calf", "bull", "cow"], ["bull", "old", "old"], ["cow", None, None]
    ... )  # its parents are half-sibs
           calf   bull    cow
    calf  1.125  0.625  0.625
    bull  0.625  1.000  0.250
    cow   0.625  0.250  1.000
    >>> print(
    ...     pedigree([1, 2, 3], ["*", "*", "1"], ["*", "*", "2"], clones={2: 1}).loc[3, 3]
    ... )  # of two clones
    1.5
    """
    read = read_parents(id, sire, dam, unknown=unknown, clones=clones)
    genealogy, rows = relations(read)
    require_dense(len(read.ids))
    A = genealogy.covariance(rows[: len(read.ids)])
    return scaled(A, read.ids, scale, **account(read, A))


def grouping(levels: Labels, *, ids: Labels | None = None, scale: Scale = "none") -> pd.DataFrame:
    r"""Covariance of a random intercept: :math:`K = ZZ^\top`, 1 where two rows share a level and 0 elsewhere.

    Parameters
    ----------
    levels : sequence of length n
        The group of each row.
    ids : sequence of length n, optional
        Names of the rows. Default: the index of a Series, or 0, 1, ….
    scale : {"none", "mean_diagonal"}
        Without effect here: tr(K)/n is 1, and so σ²_g/(σ²_g + σ²_e) is h² (the intraclass correlation) already.

    Returns
    -------
    pandas.DataFrame
        K, shape (n, n); ``attrs`` add ``levels``, how many there are.

    Raises
    ------
    ValueError
        If a level is missing, or ids are missing, repeated or not one per row.

    Examples
    --------
    >>> grouping(["north", "south", "north"])
         0    1    2
    0  1.0  0.0  1.0
    1  0.0  1.0  0.0
    2  1.0  0.0  1.0
    """
    column = levels if isinstance(levels, pd.Series) else pd.Series(elements(levels, "levels"), dtype=object)
    index = read_index(column.index if ids is None else ids, "ids", len(column))
    codes, names = pd.factorize(column)
    if (codes < 0).any():
        raise ValueError(f"levels is missing in row {shown(list(index[codes < 0]))}: name it or drop the row.")
    require_distinct(tuple(names), "levels", names.dtype)
    return scaled((codes[:, None] == codes).astype(float), index, scale, levels=len(names))


def phylogeny(
    tree: str | pd.DataFrame | FloatArray,
    *,
    root: str | Labels | None = None,
    name: str | None = None,
    ids: Labels | None = None,
    scale: Scale = "none",
) -> pd.DataFrame:
    """Covariance of Brownian motion along a tree: K_ij is the length of the path from the root that i and j share.

    Parameters
    ----------
    tree : str, array or data frame
        A tree with branch lengths, in Newick or NEXUS format (the text, not its file; the length above the root is
        ignored), or the
        covariance of such a tree, which is checked and passed through.
    root : {"base", "midpoint"}, name of a tip or names of several, optional
        Where the root of an unrooted tree is: at the base of the text; in the middle of the longest path; in the middle
        of the branch to an outgroup. Needed for text marked [&U], or with more than two branches at its base unless
        marked [&R] or all tips are equally far from it: maximum-likelihood programs write unrooted trees so. With an
        intercept the choice of root changes neither likelihood, σ² nor tests of fixed effects; it does change tr(K)/n,
        h² and the tip effects.
    name : str, optional
        Which of several trees in a NEXUS file.
    ids : sequence, optional
        The tips to return, in this order; compared as people read them, 1 is the tip "1". Default: all, in the order
        of the tree. For an array, the names of its rows.
    scale : {"none", "mean_diagonal"}
        "mean_diagonal" divides K by tr(K)/n: correlations, if the tree is ultrametric. Unscaled, σ²_g/(σ²_g + σ²_e)
        depends on the unit of the branch lengths (years or millions of them) and is not h².

    Returns
    -------
    pandas.DataFrame
        K, shape (tips, tips); ``attrs`` add ``tree_height`` (from the root to the farthest of these tips, before
        scaling) and ``ultrametric`` (whether all are equally far, to a relative 1.5e-8).

    Raises
    ------
    ValueError
        If the Newick text is malformed or lacks lengths, the tree is unrooted and `root` is not given, tips are
        repeated or unknown, or a matrix is not symmetric, non-negative and positive semi-definite.
    TypeError
        If `tree` is another kind of object.

    See Also
    --------
    Tree : The same of tips and inner nodes, by the sparse inverse of their covariance.

    References
    ----------
    Felsenstein (1985), Phylogenies and the comparative method. doi:10.1086/284325

    Examples
    --------
    >>> phylogeny("((human:6,chimp:6):10,macaque:16);")
             human  chimp  macaque
    human     16.0   10.0      0.0
    chimp     10.0   16.0      0.0
    macaque    0.0    0.0     16.0
    """
    if isinstance(tree, str):
        branches, nodes, tips = read_rooted(tree, root, name)
    elif isinstance(tree, pd.DataFrame | np.ndarray):
        if name is not None:
            raise ValueError("name= is for the text of a NEXUS file with several trees: leave it out.")
        if root is not None:
            raise ValueError("root= is for Newick text: a covariance of shared paths has its root already.")
        tips, K = _checked_covariance(tree, ids)
    else:
        raise TypeError(
            f"tree must be Newick text or a covariance matrix, got {type(tree).__name__}: read a file, "
            "Path(file).read_text(), and write an object as text: tree.as_string('newick') of dendropy, "
            "str(tree) of scikit-bio, tree.write() of ete, tree.newick() of treeswift, format(tree, 'newick') of "
            "Biopython."
        )
    rows = np.arange(len(tips))
    if ids is not None and not isinstance(tree, np.ndarray):
        wanted = read_index(ids, "ids")
        rows = np.array(places(wanted.tolist(), tips.tolist()))
        if (rows < 0).any():
            strangers = wanted[rows < 0].tolist()
            hint = spelling_hint(strangers, tips.tolist())
            raise ValueError(f"ids {shown(strangers)} are not tips of the tree: correct or drop them. {hint}".strip())
        tips = wanted
    require_dense(len(rows))
    K = shared_paths(branches, nodes[rows]) if isinstance(tree, str) else K[np.ix_(rows, rows)]
    return scaled(K, tips, scale, **account_of_tree(K))


def _checked_covariance(tree: pd.DataFrame | FloatArray, ids: Labels | None) -> tuple[pd.Index, FloatArray]:
    """Return the names and values of a covariance, once it is symmetric, non-negative and semi-definite."""
    K = read_covariance(tree, "tree").values
    if isinstance(tree, pd.DataFrame):
        tips = read_index(tree.index, "tree")
    else:
        tips = read_index(range(len(K)) if ids is None else ids, "ids", len(K))
    eigvals = np.linalg.eigvalsh(K)
    if K.min() < -zero_tolerance(eigvals):
        raise ValueError(f"tree must be non-negative, but is not by {-K.min():.3g}: give covariances with all digits.")
    require_semidefinite(eigvals, "tree")
    return tips, (K + K.T) / 2
