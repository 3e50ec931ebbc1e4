"""A known K without labels: its rows are levels only where these say which row they are."""

from collections.abc import Hashable, Sequence

from pm_fastlmm.base.arrays import shown

_REMEDY = "pd.DataFrame(K, index=names, columns=names) with the names in the order of the rows of K"


def require_positions(levels: Sequence[Hashable], name: str) -> None:
    """
    Refuse levels that do not say which row of an array is theirs; the whole numbers from 0 or 1 on do.

    Levels are sorted, or in the order of categories, and K is in that of a tree or pedigree: matched by position each
    would get the relatives of another.

    Raises
    ------
    ValueError
        If they are names, or numbers that are not counted.
    """
    whole = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    if whole and list(levels) in (list(range(len(levels))), list(range(1, len(levels) + 1))):
        return
    raise ValueError(
        f"K of term {name!r} is an array without labels, but the levels have names ({shown(levels)}): which row is "
        f"whose? Give {_REMEDY}."
    )


def default_index_hint(labels: Sequence[Hashable]) -> str:
    """Return what to do about a K whose labels are the default index, an empty text for others."""
    if list(labels) != list(range(len(labels))):
        return ""
    return f"K has the default index 0, 1, 2 … in place of names: give {_REMEDY}"
