"""Phenotypes and covariates from the files that PLINK, GCTA, GEMMA and REGENIE take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import repeated, shown
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.messages import say
from pm_fastlmm.base.missing_codes import warn_of_missing_codes
from pm_fastlmm.io.people import PeopleIds, people_index
from pm_fastlmm.io.text import PathLike, existing, read_cells

MISSING = ("-9", "NA", "nan", ".")
_FID, _IID = ("#FID", "FID", "fid"), ("#IID", "IID", "iid")
_FAM = ["FID", "IID", "PAT", "MAT", "SEX", "PHENOTYPE"]


def read_table(
    path: PathLike, *, ids: PeopleIds = "iid", na: Sequence[str] = MISSING, text: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    r"""
    Read a file of phenotypes or covariates, whose index are the ids of the people.

    Parameters
    ----------
    path : path
        Cells separated by tabs, blanks or commas. The first columns are FID and IID (or ``#FID`` and ``IID``, or
        ``#IID`` alone); without a header, the first two are, and others are called y1, y2, …. A .fam file is read too.
    ids : {"iid", "fid:iid"}
        What people are called, as in `read_bed`.
    na : sequence of str
        What stands for a missing value, numbers in any spelling: -9 is -9.0 too. 0 is a value. A code that is not named
        here and stands far off is a value, too, of which a warning is given.
    text : sequence of str
        Columns that stay text, such as a site that is coded by numbers. Others are numbers where all cells are.
    columns : sequence of str, optional
        Names of the columns after the ids, in place of those of the header.

    Returns
    -------
    DataFrame
        Over the people; ``attrs["missing"]`` counts by column which codes stood for missing values.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is not there, has no column of ids, or an id occurs twice.

    Warns
    -----
    UserWarning
        If a column has numbers that look like a code for missing ones and are not named.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import pm_fastlmm as flmm
    >>> file = Path(mkdtemp()) / "example.pheno"
    >>> _ = file.write_text("FID IID height\nF1 0001 171.5\nF1 0002 -9\n")
    >>> table = flmm.io.read_table(file)
    >>> table
          height
    id
    0001   171.5
    0002     NaN
    >>> table.attrs["missing"]
    {'height': {'-9': 1}}
    """
    file = existing(path, "the table")
    cells = read_cells(file)
    fid, iid, body, names = _layout(cells, file.name, file.suffix == ".fam")
    if columns is not None:
        if len(columns) != len(names):
            raise ValueError(
                f"columns has {len(columns)} names for {len(names)} columns of {file.name} ({', '.join(names)}): one "
                "for each."
            )
        names = list(columns)
    if twice := repeated(names):
        raise ValueError(f"{file.name} has several columns {shown(twice)}: name them, columns=[…].")
    if strangers := [name for name in text if name not in names]:
        raise ValueError(f"text names {shown(strangers)}, but the columns of {file.name} are {', '.join(names)}.")
    families = None if fid is None else fid.tolist()
    index = people_index(families, iid.tolist(), ids, file.name)
    codes = {str(code).strip() for code in na} | {""}
    out, missing = {}, {}
    for j, name in enumerate(names):
        out[name], counts = _column(body.iloc[:, j], codes, as_text=name in text)
        if counts:
            missing[name] = counts
    table = pd.DataFrame(out, index=index)
    table.attrs["missing"] = missing
    gaps = [
        f"{name} {', '.join(f'{n} ({code or "empty"})' for code, n in own.items())}" for name, own in missing.items()
    ]
    say(f"{file.name}: {len(table)} people; missing: {listed(gaps)}")
    _warn(table)
    return table


def _layout(cells: pd.DataFrame, name: str, fam: bool) -> tuple[Any, Any, pd.DataFrame, list[str]]:
    """Return the columns of ids, the other cells, and their names."""
    first = [str(cell).strip() for cell in cells.iloc[0]]
    if any(cell in (*_FID, *_IID) for cell in first):
        if (place := next((j for j, cell in enumerate(first) if cell in _IID), None)) is None:
            raise ValueError(
                f"{name} has a FID and no IID in its header ({', '.join(first)}): which column has the ids?"
            )
        family = next((j for j, cell in enumerate(first) if cell in _FID), None)
        rows = cells.iloc[1:]
        others = [j for j in range(len(first)) if j not in (place, family)]
        names = [first[j] for j in others]
    else:
        if cells.shape[1] < 3:
            raise ValueError(
                f"{name} has {cells.shape[1]} columns and no header with IID: it needs FID, IID and values, or a first "
                "line that names its columns, IID among them."
            )
        if (
            not any(_is_number(cell) for cell in first[2:])
            and len(cells) > 1
            and any(_is_number(cell) for cell in cells.iloc[1, 2:])
        ):
            raise ValueError(
                f"the first line of {name} ({', '.join(first)}) looks like a header, but does not name IID: rename the "
                "column of the ids to IID, or remove the line."
            )
        rows, family, place, others = cells, 0, 1, list(range(2, cells.shape[1]))
        names = _FAM[2:] if fam and cells.shape[1] == len(_FAM) else [f"y{k}" for k in range(1, len(others) + 1)]
    fid = None if family is None else rows.iloc[:, family].str.strip()
    return fid, rows.iloc[:, place].str.strip(), rows.iloc[:, others], names


def _column(cells: Any, codes: set[str], *, as_text: bool) -> tuple[Any, dict[str, int]]:
    """Return a column with NaN for the codes, and how often each stood there."""
    own = cells.str.strip()
    values = {float(code) for code in codes if _is_number(code)}
    numbers = pd.to_numeric(own, errors="coerce")
    coded = own.isin(codes) | own.str.lower().isin({code.lower() for code in codes if not _is_number(code)})
    coded |= numbers.isin(values)
    counts = {str(code): int(count) for code, count in own[coded].value_counts().items()}
    left = numbers[~coded]
    if as_text or left.isna().any():
        return own.mask(coded).to_numpy(dtype=object), counts
    return numbers.mask(coded).to_numpy(dtype=float), counts


def _is_number(cell: Any) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _warn(table: pd.DataFrame) -> None:
    numbers = table.select_dtypes("number")
    if not numbers.shape[1]:
        return
    values = numbers.to_numpy(dtype=float)
    with np.errstate(all="ignore"):
        low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    warn_of_missing_codes(values, list(map(str, numbers.columns)), low, high, remedy="na=[…, '{code}']", response=True)
