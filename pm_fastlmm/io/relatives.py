"""Pedigrees and trees from their files, as what `known=` takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from pm_fastlmm.base.arrays import shown
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.messages import say
from pm_fastlmm.covariance.parentage import UNKNOWN_PARENTS
from pm_fastlmm.covariance.pedigrees import Pedigree
from pm_fastlmm.covariance.trees import Tree
from pm_fastlmm.io.text import PathLike, existing, read_cells, read_text

_CALLED = {  # how headers name the three columns, in any case
    "id": ("id", "animal", "iid", "individual", "ind", "name", "ego", "self", "anim"),
    "sire": ("sire", "father", "pat", "dad", "sire_id", "father_id", "fatherid", "sireid", "male"),
    "dam": ("dam", "mother", "mat", "mum", "mom", "dam_id", "mother_id", "motherid", "damid", "female"),
}


def read_pedigree(
    path: PathLike, *, columns: Sequence[str | int] | None = None, unknown: Any = UNKNOWN_PARENTS,
    clones: Mapping[Any, Any] | None = None,
) -> Pedigree:  # fmt: skip
    r"""
    Read a pedigree file: individual, sire and dam, separated by commas, tabs or blanks. All ids are text.

    Parameters
    ----------
    path : path
        With or without a header. A .fam file is a pedigree too: its columns are known.
    columns : three names or places (from 0), optional
        Of individual, sire and dam. By default those that a header names so (id, animal, IID; sire, father, PAT; dam,
        mother, MAT), or the first three of a file without one.
    unknown, clones
        As in `flmm.covariance.pedigree`.

    Returns
    -------
    flmm.covariance.Pedigree
        What ``known=`` takes; ``.dense()`` is A.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If columns are not found, or as `flmm.covariance.Pedigree`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import pm_fastlmm as flmm
    >>> file = Path(mkdtemp()) / "example.ped.csv"
    >>> _ = file.write_text("animal,sire,dam\n001,0,0\n002,0,0\n003,001,002\n")
    >>> flmm.io.read_pedigree(file).dense().loc["003", "001"]
    np.float64(0.5)
    """
    file = existing(path, "the pedigree")
    cells = read_cells(file)
    first = [str(cell).strip() for cell in cells.iloc[0]]
    places, header = _columns(first, columns, file.name, file.suffix == ".fam")
    rows = cells.iloc[1:] if header else cells
    id, sire, dam = (rows.iloc[:, place].str.strip().tolist() for place in places)
    pedigree = Pedigree(id, sire, dam, unknown=unknown, clones=clones)
    found = pedigree._read.account()
    codes = [f"{code} {count}" for code, count in found["unknown_codes"].items()]
    say(
        f"{file.name}: {len(id)} individuals, {found['founders_added']} parents without a row; {found['founders']} "
        f"founders; unknown parents: {listed(codes)}"
    )
    return pedigree


def read_tree(path: PathLike, *, root: Any = None, name: str | None = None) -> Tree:
    """
    Read a tree from a Newick or NEXUS file.

    Parameters
    ----------
    path : path
    root, name
        As in `flmm.covariance.phylogeny`: where the root of an unrooted tree is, and which of several trees.

    Returns
    -------
    flmm.covariance.Tree
        What ``known=`` takes.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        As `flmm.covariance.Tree`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import pm_fastlmm as flmm
    >>> file = Path(mkdtemp()) / "example.nwk"
    >>> _ = file.write_text("((human:6,chimp:6):10,macaque:16);")
    >>> flmm.io.read_tree(file).dense().loc["human", "chimp"]
    np.float64(10.0)
    """
    file = existing(path, "the tree")
    tree = Tree(read_text(file), root=root, name=name)
    say(f"{file.name}: {len(tree.tips)} tips, {len(tree) - len(tree.tips)} inner nodes")
    return tree


def _columns(first: list[str], columns: Any, name: str, fam: bool) -> tuple[list[int], bool]:
    """Return the places of the three columns, and whether the first line is a header."""
    if fam and columns is None:
        return [1, 2, 3], first[0] in ("#FID", "FID")
    lower = [cell.casefold().lstrip("#") for cell in first]
    named = {what: [lower.index(word) for word in words if word in lower] for what, words in _CALLED.items()}
    header = bool(named["sire"] or named["dam"])
    if columns is None:
        if not header:
            if len(first) < 3:
                raise ValueError(f"{name} has {len(first)} columns, a pedigree has individual, sire and dam.")
            return [0, 1, 2], False
        if absent := [what for what, found in named.items() if not found]:
            lacking = " and the ".join(absent)
            raise ValueError(
                f"the header of {name} ({', '.join(first)}) does not say which column has the {lacking}: "
                "columns=[individual, sire, dam]."
            )
        return [found[0] for found in named.values()], True
    asked = list(columns)
    if len(asked) != 3:
        raise ValueError(f"columns has {len(asked)} entries: individual, sire and dam.")
    by_name = any(isinstance(column, str) for column in asked)
    if strangers := [column for column in asked if isinstance(column, str) and column not in first]:
        raise ValueError(f"{name} has no column {shown(strangers)}: its first line is {', '.join(first)}.")
    places = [first.index(column) if isinstance(column, str) else int(column) for column in asked]
    if outside := [place for place in places if not 0 <= place < len(first)]:
        raise ValueError(f"{name} has {len(first)} columns, 0 to {len(first) - 1}: there is no {shown(outside)}.")
    return places, by_name or header
