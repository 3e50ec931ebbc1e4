"""A relationship matrix as a heat map, relatives beside each other."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from pm_fastlmm.base.arrays import FloatArray, read_covariance
from pm_fastlmm.plots.palette import SEQUENCE, axes

_NAMED = 40  # individuals up to which each has its name
_ORDERED = 1000  # individuals up to which the leaves of the tree are turned so that neighbours are closest


def plot_kinship(K: Any, *, clusters: bool = True, ax: Axes | None = None) -> Axes:
    """
    Draw a relationship matrix as a heat map, in the order of a tree of clusters, so that families are blocks.

    Individuals are joined by the average distance between them, √(K_ii + K_jj - 2K_ij), the standard deviation of the
    difference of their effects.

    Parameters
    ----------
    K : (n, n) array or DataFrame
        With ids, those of up to 40 individuals are written.
    clusters : bool
        False keeps the order of K.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If K is no covariance.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> ax = flmm.plots.plot_kinship(np.kron([[1.0, 0.5], [0.5, 1.0]], np.eye(3)))
    >>> order = [int(label.get_text()) for label in ax.get_yticklabels()]
    >>> [
    ...     abs(a - b) for a, b in zip(order[::2], order[1::2], strict=True)
    ... ]  # relatives are neighbours
    [3, 3, 3]
    """
    given = read_covariance(K)
    order = cluster_order(given.values) if clusters else np.arange(len(given.values))
    ax = axes(ax, 4.2)
    image = ax.imshow(given.values[np.ix_(order, order)], cmap=SEQUENCE, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="relationship", shrink=0.85)
    if len(order) <= _NAMED:
        names = [str(given.ids[i]) if given.ids else str(i) for i in order]
        ax.set_yticks(np.arange(len(order)), names, fontsize=8 if len(order) <= 25 else 6)
        ax.set_xticks([])
    else:
        ax.set(xlabel="individual", ylabel="individual" + (", by cluster" if clusters else ""))
    ax.set_title(f"Relationship of {len(order)}", fontsize=10)
    return ax


def cluster_order(K: FloatArray) -> Any:
    """Return the rows of K in the order of the leaves of a tree, average linkage of √(K_ii + K_jj - 2K_ij)."""
    if len(K) < 3:
        return np.arange(len(K))
    diagonal = np.diag(K)
    squared = diagonal[:, None] + diagonal - (K + K.T)
    distance = squareform(np.sqrt(np.maximum(squared, 0.0)), checks=False)
    return leaves_list(linkage(distance, "average", optimal_ordering=len(K) <= _ORDERED))
