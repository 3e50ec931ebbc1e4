"""Relationship matrices as GCTA, PLINK and GEMMA write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, read_covariance
from pm_fastlmm.base.memory import require_memory
from pm_fastlmm.base.messages import say
from pm_fastlmm.covariance.ids import read_index
from pm_fastlmm.genotypes.products import symmetric
from pm_fastlmm.io.people import PeopleIds, people_index
from pm_fastlmm.io.text import PathLike, existing, read_cells, read_text
from pm_fastlmm.io.write import fid_iid

_HEADERS = {"#FID", "#IID", "FID", "IID"}
_KINDS = (".grm.bin", ".grm.gz", ".grm", ".rel.bin", ".rel.gz", ".rel.zst", ".rel", ".cXX.txt", ".sXX.txt")
_WITHOUT_IDS = (".cXX.txt", ".sXX.txt")


def read_relationship(path: PathLike, ids: Any = None, *, people: PeopleIds = "iid") -> pd.DataFrame:
    """
    Read a relationship matrix, with its ids.

    Parameters
    ----------
    path : path
        By its end: ``.grm.bin`` and ``.grm.gz`` (GCTA, PLINK ``--make-grm-bin``, ``--make-grm-gz``); ``.rel``,
        ``.rel.gz`` and ``.rel.bin`` (PLINK ``--make-rel``, square or a triangle, single or double precision);
        ``.cXX.txt`` and ``.sXX.txt`` (GEMMA). What the names of several files begin with is enough.
    ids : sequence, or path of a .fam or .id file, optional
        Of the rows. By default the .id file beside the matrix. GEMMA writes none: its rows are those of the .fam file,
        or the people of the BIMBAM file, in their order.
    people : {"iid", "fid:iid"}
        What people of an .id or .fam file are called, as in `read_bed`.

    Returns
    -------
    DataFrame
        K (n, n), as it is in the file; ``attrs`` have ``file``, and ``markers`` (smallest and largest number that a
        pair was computed from) where the file says it.

    Raises
    ------
    FileNotFoundError
        If the matrix or its ids are not there.
    ValueError
        If the kind of file is not known, sizes do not fit, or ids are needed or repeated.

    Notes
    -----
    ``.grm.bin`` is in single precision, and text has as many digits as were written: `Spectrum.from_covariance` counts
    eigenvalues within rtol= of 0 as 0. PLINK and GCTA divide each pair by its own number of markers, which may leave a
    matrix that is no covariance.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> K = pd.DataFrame([[1.0, 0.5], [0.5, 1.0]], ["a", "b"], ["a", "b"])
    >>> path = flmm.io.write_grm(K, Path(mkdtemp()) / "example")
    >>> flmm.io.read_relationship(path)
    id    a    b
    id
    a   1.0  0.5
    b   0.5  1.0
    """
    file, kind = _matrix_file(path)
    index = _ids(file, kind, ids, people)
    n = len(index)
    require_memory(8.0 * n**2, f"A relationship matrix of {n} people", "select people in the program that wrote it.")
    values, attrs = _READERS[kind](file, n)
    K = pd.DataFrame(values, index=index, columns=index)
    K.attrs.update(attrs, file=file.name)
    read_covariance(K, file.name)
    low, high = attrs.get("markers", (0, 0))
    of_markers = f", each pair of {low if low == high else f'{low} to {high}'} markers" if high else ""
    say(f"{file.name}: {n} people{of_markers}")
    return K


def write_grm(K: Any, path: PathLike, *, markers: int | None = None) -> Path:
    """
    Write a relationship matrix for GCTA and PLINK: ``.grm.bin``, ``.grm.N.bin`` and ``.grm.id``.

    Parameters
    ----------
    K : DataFrame (n, n)
        Its index are the ids: IIDs, which are written as FID too, or FID:IID.
    path : path
        What the names of the three files begin with.
    markers : int, optional
        How many markers K was computed from; by default ``K.attrs["markers_used"]``, or 1.

    Returns
    -------
    Path
        Of the ``.grm.bin`` file.

    Raises
    ------
    ValueError
        If K is no covariance with ids, or an id has blanks in it.

    Notes
    -----
    Entries are in single precision there, 7 digits.
    """
    labelled = read_covariance(K)
    if labelled.ids is None:
        raise ValueError("K has no ids, which the file needs: pd.DataFrame(K, index=ids, columns=ids).")
    pairs = [fid_iid(str(label)) for label in labelled.ids]
    used = markers if markers is not None else getattr(K, "attrs", {}).get("markers_used", 1)
    stem = _stem(Path(path).expanduser(), ".grm.bin")
    rows, columns = np.tril_indices(len(pairs))
    lower = labelled.values[rows, columns].astype("<f4")
    out = Path(f"{stem}.grm.bin")
    lower.tofile(out)
    np.full(lower.size, used, dtype="<f4").tofile(f"{stem}.grm.N.bin")
    Path(f"{stem}.grm.id").write_text("".join(f"{fid}\t{iid}\n" for fid, iid in pairs), encoding="utf-8")
    return out


def read_ids(path: Path, people: PeopleIds = "iid") -> pd.Index:
    """Return the ids of a .fam or .id file, with or without a header."""
    cells = read_cells(path)
    first = [str(cell) for cell in cells.iloc[0]]
    if first[0] in _HEADERS:
        cells = cells.iloc[1:]
        iid = next(j for j, name in enumerate(first) if name in ("IID", "#IID"))
        fid = next((j for j, name in enumerate(first) if name in ("FID", "#FID")), None)
    else:
        fid, iid = (0, 1) if cells.shape[1] > 1 else (None, 0)
    families = None if fid is None else cells.iloc[:, fid].tolist()
    return people_index(families, cells.iloc[:, iid].tolist(), people, path.name)


def _matrix_file(path: PathLike) -> tuple[Path, str]:
    """Return the file that is meant, which may be given without its end, and its kind."""
    given = Path(path).expanduser()
    named = next((kind for kind in _KINDS if str(given).endswith(kind)), None)
    if named is None or not given.is_file():
        found = [Path(f"{given}{end}") for end in (*_KINDS, ".bin", ".gz") if Path(f"{given}{end}").is_file()]
        found = [file for file in found if str(file).endswith(_KINDS)]
        if len(found) > 1:
            raise ValueError(f"there are {', '.join(file.name for file in found)}: say which, with its end.")
        if found:
            given, named = found[0], next(kind for kind in _KINDS if str(found[0]).endswith(kind))
    if named == ".rel.zst":
        raise ValueError(f"{given.name} is compressed by Zstandard: unpack it, zstd -d {given.name}, and read that.")
    if named is None:
        raise ValueError(
            f"{given.name!r} is no relationship matrix that is known: names end in {', '.join(_KINDS)}. Another square "
            "table of text is read by pd.read_csv(file, index_col=0)."
        )
    return existing(given, "the relationship matrix"), named


def _stem(path: Path, kind: str) -> str:
    return str(path).removesuffix(kind).removesuffix(".grm") if str(path).endswith((kind, ".grm")) else str(path)


def _ids(file: Path, kind: str, ids: Any, people: PeopleIds) -> pd.Index:
    if ids is not None and not isinstance(ids, str | Path):
        return read_index(ids, "ids").rename("id")
    if ids is not None:
        return read_ids(existing(ids, "the file of ids"), people)
    if kind in _WITHOUT_IDS:
        raise ValueError(
            f"{file.name} has no ids, as GEMMA writes none: give those of its rows, ids= a sequence or the .fam file "
            "that GEMMA read."
        )
    base = str(file).removesuffix(kind)
    end = ".grm.id" if kind.startswith(".grm") else ".rel.id"
    return read_ids(existing(f"{base}{end}", "the file of ids"), people)


def _lower(values: npt.NDArray[Any], n: int) -> FloatArray:
    """Return the symmetric matrix of a lower triangle, row by row."""
    K = np.zeros((n, n))
    K[np.tril_indices(n)] = values
    return symmetric(K)


def _wrong_size(file: Path, found: int, n: int) -> ValueError:
    return ValueError(
        f"{file.name} has {found} numbers, which {n} people do not: {n * n} are a square and {n * (n + 1) // 2} a "
        "triangle. The file of ids is of another matrix, or one of them is cut off."
    )


def _grm_bin(file: Path, n: int) -> tuple[FloatArray, dict[str, Any]]:
    values = np.fromfile(file, dtype="<f4")
    if values.size != n * (n + 1) // 2:
        raise _wrong_size(file, values.size, n)
    counts = Path(f"{str(file).removesuffix('.bin')}.N.bin")
    attrs = {}
    if counts.is_file():
        used = np.fromfile(counts, dtype="<f4")
        if used.size not in (values.size, 1):
            raise _wrong_size(counts, used.size, n)
        attrs["markers"] = (int(used.min()), int(used.max()))
    return _lower(values, n), attrs


def _grm_text(file: Path, n: int) -> tuple[FloatArray, dict[str, Any]]:
    """Read lines of row, column (from 1), number of markers and relationship."""
    cells = read_cells(file, names=["row", "column", "markers", "value"])
    if len(cells) != n * (n + 1) // 2:
        raise _wrong_size(file, len(cells), n)
    table = _numbers(cells, file)
    K = np.zeros((n, n))
    row, column = table[:, 0].astype(int) - 1, table[:, 1].astype(int) - 1
    if min(row.min(), column.min()) < 0 or max(row.max(), column.max()) >= n:
        raise _wrong_size(file, len(cells), n)
    K[np.maximum(row, column), np.minimum(row, column)] = table[:, 3]
    return symmetric(K), {"markers": (int(table[:, 2].min()), int(table[:, 2].max()))}


def _rel_bin(file: Path, n: int) -> tuple[FloatArray, dict[str, Any]]:
    """Read a square or a triangle, in double or single precision: its size says which."""
    size, triangle = file.stat().st_size, n * (n + 1) // 2
    for count, dtype in ((n * n, "<f8"), (triangle, "<f8"), (n * n, "<f4"), (triangle, "<f4")):
        if size == count * np.dtype(dtype).itemsize:
            values = np.fromfile(file, dtype=dtype)
            square = count == n * n
            return (values.reshape(n, n).astype(float) if square else _lower(values, n)), {}
    raise _wrong_size(file, size // 8, n)


def _rel_text(file: Path, n: int) -> tuple[FloatArray, dict[str, Any]]:
    """Read a square (maybe with zeros above the diagonal) or a lower triangle."""
    try:
        rows = [np.array(line.split(), dtype=float) for line in read_text(file).splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{file.name} has something other than numbers ({error}): is it a matrix?") from None
    lengths = [row.size for row in rows]
    if lengths == [n] * n:
        K = np.array(rows)
        above = np.triu(K, 1)
        return (symmetric(K) if not above.any() else K), {}
    if lengths == list(range(1, n + 1)):
        return _lower(np.concatenate(rows), n), {}
    raise _wrong_size(file, sum(lengths), n)


def _numbers(cells: pd.DataFrame, file: Path) -> FloatArray:
    try:
        return cells.to_numpy(dtype=float)
    except ValueError as error:
        raise ValueError(f"{file.name} has something other than numbers ({error}): is it a matrix?") from None


_READERS: dict[str, Callable[[Path, int], tuple[FloatArray, dict[str, Any]]]] = {
    ".grm.bin": _grm_bin, ".grm.gz": _grm_text, ".grm": _grm_text, ".rel.bin": _rel_bin, ".rel": _rel_text,
    ".rel.gz": _rel_text, ".cXX.txt": _rel_text, ".sXX.txt": _rel_text,
}  # fmt: skip
