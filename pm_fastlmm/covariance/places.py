"""Where labels of a table stand among the effects of a relation."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import Ids, labels_of, shown
from pm_fastlmm.base.spelling import spelling_hint
from pm_fastlmm.covariance.distinct import Keys, keys_of, objects, read_column
from pm_fastlmm.covariance.incidence import read_factor
from pm_fastlmm.covariance.precision import Precision


def effects_of(relation: Any) -> Ids | None:
    """Return what the effects of a relation are called: its rows, or the levels of a column; None of an array."""
    if isinstance(relation, Precision):
        return relation.labels
    return labels_of(relation) if np.ndim(relation) == 2 else read_factor(relation, "relation").levels


def places(relation: Any, ids: Iterable[Any]) -> npt.NDArray[np.intp]:
    """
    Return where each label of a column stands among the effects of a relation: ``u[places(relation, ids)]``.

    Parameters
    ----------
    relation : Pedigree, Tree or Precision; DataFrame, (q, q) or (q, m); sequence
        As `RelatedEffects` takes it: a covariance K or a factor W with labelled rows, or the column of groups, whose
        levels are sorted, or in the order of its categories.
    ids : sequence of length n
        Labels, compared as people read them. They may repeat, and the other names of a pedigree or tree (clones) serve.

    Returns
    -------
    array of int, (n,)

    Raises
    ------
    ValueError
        If a label is missing or unknown, or the relation is an array, whose rows have no names.

    Examples
    --------
    >>> from pm_fastlmm import covariance as cov
    >>> herd = cov.Pedigree(["calf", "bull", "cow"], ["bull", None, None], ["cow", None, None])
    >>> cov.places(herd, ["cow", "calf", "cow"])
    array([2, 0, 2])
    """
    labels = effects_of(relation)
    if labels is None:
        raise ValueError(
            "relation is an array, whose rows have no labels: give pd.DataFrame(K, index=names, columns=names), or "
            "the numbers of its rows in place of places(...)."
        )
    column = read_column(ids, "ids")
    if isinstance(relation, Precision):
        of_distinct = relation.rows(column.labels)
    else:
        of_distinct = Keys(objects(labels)).find(keys_of(column.labels))
    if strangers := [column.labels[i] for i in np.flatnonzero(of_distinct < 0)]:
        hint = spelling_hint(strangers, labels) or "Correct them, or drop their rows."
        raise ValueError(f"ids {shown(strangers)} are not among the {len(labels)} labels of the relation. {hint}")
    if (gone := np.flatnonzero(column.places < 0)).size:
        raise ValueError(f"ids are missing in rows {shown(gone.tolist())}: drop those rows.")
    return np.asarray(of_distinct[column.places], dtype=np.intp)
