"""Candidate columns of a scan: read in blocks, aligned by id, rotated, and those that cannot be tested labelled."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Labelled, align, read, require_length, require_range
from pm_fastlmm.base.spelling import places
from pm_fastlmm.genotypes.blocks import variants_of
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

MISSING, COLLINEAR = "missing values", "collinear with X"
_COLLINEAR_RTOL = 1e-10  # share of its squared length that a column keeps once X is projected out
_BLOCK = 2_000_000  # numbers in one block of candidates


@dataclass(frozen=True, slots=True, eq=False)
class RotatedCandidates:
    """
    A block of candidates in the rotation of a spectrum.

    Attributes
    ----------
    g : (m, k) array
        (Q₂U)ᵀ of each candidate, scaled to unit length orthogonal to X.
    null : (m, T + 1) array
        Its products with T directions and with itself in the null directions of K.
    unit : (m,) array
        Its length orthogonal to X, by which it was divided.
    reason : (m,) object array
        Why it cannot be tested, empty if it can.
    """

    g: FloatArray
    null: FloatArray
    unit: FloatArray
    reason: npt.NDArray[Any]


class Columns(NamedTuple):
    """
    A block of candidates over the rows of the spectrum.

    Attributes
    ----------
    values : (n, m) array
    names : tuple of str or None
    known : dict
        Where they are variants, what is known of each: chromosome, position, counted and other allele, (m,).
    """

    values: FloatArray
    names: tuple[str, ...] | None
    known: dict[str, Any]


def blocks(candidates: Any, ids: Any, n: int) -> Iterator[Columns]:
    """
    Return blocks of columns (n, m) in the order of the spectrum, from one column, table or many.

    Rows are selected by id where a block has those of the spectrum and more.

    Raises
    ------
    ValueError
        If a block has another number of rows, or lacks ids of the spectrum.
    """
    whole = any(hasattr(candidates, name) for name in ("__array__", "columns", "dims", "toarray"))
    first = np.ndim(candidates[0]) if isinstance(candidates, list | tuple) and len(candidates) else None
    parts: Iterable[Any] = [candidates] if whole or first == 0 else candidates
    if first == 1:
        raise ValueError(
            "candidates is a list of rows or columns: pass one array (n, m), or an iterable of such blocks."
        )
    width = max(1, _BLOCK // n)
    for table in parts:
        for part in _slices(table, width):
            labelled = read(_with_nan(part), "candidates", ndim=(1, 2))
            values, names = labelled.values, labelled.names
            if values.ndim == 1:  # one candidate
                name = getattr(part, "name", None)
                values, names = values[:, None], None if name is None else (str(name),)
            order, known = _selected(ids, labelled), variants_of(part)
            require_length(len(values) if order is None else len(order), n, "candidates", "the spectrum")
            for start in range(0, values.shape[1], width):
                chosen = slice(start, start + width)
                columns = values[:, chosen] if order is None else values[order, chosen]
                own = {name: each[chosen] for name, each in known.items()}
                yield Columns(columns, None if names is None else names[chosen], own)


def _selected(ids: Any, labelled: Labelled) -> npt.NDArray[np.intp] | None:
    """Return the rows that the spectrum has, in its order; None where nothing moves."""
    if ids is not None and labelled.ids is not None and len(labelled.ids) > len(ids):
        place = np.array(places(ids, labelled.ids), dtype=np.intp)
        if (place >= 0).all():
            return place
    return align(ids, labelled, name="candidates", reference_name="the spectrum")


def _slices(table: Any, width: int) -> Iterator[Any]:
    """Return a table in slices of its columns, so that one of integers is not turned into floats at once."""
    by_row = isinstance(table, np.ndarray) or hasattr(table, "iloc") or getattr(table, "dims", ("",))[0] == "obs"
    if np.ndim(table) != 2 or not by_row:
        yield table
        return
    columns = table.iloc if hasattr(table, "iloc") else table
    for start in range(0, table.shape[1], width):
        yield columns[:, start : start + width]


def _with_nan(table: Any) -> Any:
    """Return a table or column with pd.NA among its numbers with NaN in its place; `read` names what is no number."""
    if not isinstance(table, pd.DataFrame | pd.Series):
        return table
    dtypes = [table.dtype] if isinstance(table, pd.Series) else table.dtypes
    if any(dtype.kind == "O" or isinstance(dtype, pd.api.extensions.ExtensionDtype) for dtype in dtypes):
        with suppress(TypeError, ValueError):
            missing: Any = table.isna()
            return table.mask(missing, np.nan).astype(float)
    return table


def rotated_candidates(rotated: Rotated) -> RotatedCandidates:
    """Return the responses after the first as candidates, from cross-products."""
    assert rotated.null_first is not None
    norm2, y1 = rotated.norm2[1:], rotated.y1[1:]
    explained = norm2 <= _COLLINEAR_RTOL * (norm2 + (y1**2).sum(axis=-1))
    unit = np.where(explained, 1.0, np.sqrt(norm2))
    g = np.where(explained[:, None], 0.0, rotated.z[1:] / unit[:, None])
    with_y = rotated.null_first[1:] / (unit * np.sqrt(rotated.norm2[0]))
    null = np.where(explained[:, None], 0.0, np.column_stack([with_y, rotated.rss[1:] / unit**2]))
    return RotatedCandidates(g, null, unit, np.where(explained, COLLINEAR, "").astype(object))


def rotate_candidates(spectrum: Spectrum, columns: FloatArray, null_y: FloatArray | None) -> RotatedCandidates:
    """
    Rotate candidates (n, m); `null_y` (n, T) are directions of y in the null directions of K, where there are any.

    Candidates with missing or infinite values, or that X explains, are labelled; their rows are 0.
    """
    reason = np.full(columns.shape[1], "", dtype=object)
    seen = np.isfinite(columns).all(axis=0)
    reason[~seen] = MISSING
    if not seen.all():
        columns = np.where(seen, columns, 0.0)
    require_range(columns, "candidates")
    projection, columns = spectrum.projection, spectrum.weights.rows(columns)
    left = _orthogonal(projection.Q1, columns)
    length2 = np.einsum("ij,ij->j", left, left)
    explained = length2 <= _COLLINEAR_RTOL * np.einsum("ij,ij->j", columns, columns)
    reason[seen & explained] = COLLINEAR
    unit = np.where(explained, 1.0, np.sqrt(length2))
    left /= unit
    if explained.any():
        left[:, explained] = 0.0
    g = left.T @ spectrum.basis
    null = np.zeros((len(unit), 2 if null_y is None else null_y.shape[1] + 1))
    if null_y is not None:
        left -= spectrum.basis @ g.T
        null[:, :-1], null[:, -1] = left.T @ null_y, np.einsum("ij,ij->j", left, left)
    return RotatedCandidates(g, null, unit, reason)


def _orthogonal(Q1: FloatArray, columns: FloatArray) -> FloatArray:
    """Return what is orthogonal to X, each candidate as one piece, so that no rounding depends on how they came."""
    rows = np.ascontiguousarray(columns.T)
    left = (rows @ Q1) @ Q1.T
    return np.subtract(rows, left, out=left).T
