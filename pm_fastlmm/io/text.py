"""Tables as programs of the field write them: blanks, tabs or commas; with a header, `#FID` or none; all cells text."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

type PathLike = str | Path

GZIP = b"\x1f\x8b"


def existing(path: PathLike, what: str) -> Path:
    """Return the path of a file that is there."""
    found = Path(path).expanduser()
    if not found.is_file():
        near = sorted(other.name for other in found.parent.glob(f"{found.name}*") if other.is_file())
        hint = f" There {'is' if len(near) == 1 else 'are'} {', '.join(near[:5])}." if near else ""
        raise FileNotFoundError(f"{what} {str(path)!r} is not there: give the path of a file that is.{hint}")
    return found


def read_text(path: Path) -> str:
    """Return the text of a file, which may be compressed by gzip."""
    raw = path.read_bytes()
    return (gzip.decompress(raw) if raw[:2] == GZIP else raw).decode("utf-8-sig")


def separator_of(path: Path) -> str:
    """Return what separates the cells of the first line: a comma, a tab, or blanks."""
    packed = _packed(path)
    with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    return "," if "," in first else "\t" if "\t" in first.strip() else r"\s+"


def read_cells(path: Path, *, header: bool = False, names: Sequence[str] | None = None) -> pd.DataFrame:
    """
    Read a table of text; empty cells are empty texts, and nothing is missing yet.

    Raises
    ------
    ValueError
        If the file has no rows, or a row has more cells than the first.
    """
    try:
        cells = pd.read_csv(
            path, sep=separator_of(path), header=0 if header else None, dtype=str, keep_default_na=False,
            skipinitialspace=True, encoding="utf-8-sig", compression="gzip" if _packed(path) else None,
        )  # fmt: skip
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path.name} has no rows: is it the right file?") from None
    except pd.errors.ParserError as error:
        raise ValueError(
            f"{path.name} is no table ({str(error).strip().rstrip('.')}): each row needs as many cells as the first; "
            "ids with blanks in them need tabs between cells."
        ) from None
    if names is not None:
        if cells.shape[1] != len(names):
            raise ValueError(
                f"{path.name} has {cells.shape[1]} columns, where there should be {len(names)} "
                f"({', '.join(names)}): is it the right file?"
            )
        cells.columns = pd.Index(names)
    return cells


def _packed(path: Path) -> bool:
    with path.open("rb") as opened:
        return opened.read(2) == GZIP
