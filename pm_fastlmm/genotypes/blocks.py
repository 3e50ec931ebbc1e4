"""
What genotypes are read as: blocks of variants, counts of one allele with NaN where missing.

A block is a DataArray over people ("obs") and "variant" with what is known of the variants as coordinates; a table or
an array is one without.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm.base.remedies import remedy_of

BLOCK, LARGEST_BLOCK = 8_000_000, 32_000_000  # genotypes at a time
OF_VARIANTS = ("chromosome", "position", "counted", "other")
_ALSO_CALLED = {"chrom": "chromosome", "contig": "chromosome", "pos": "position"}


def variants_at_a_time(n: int) -> int:
    """Return how many variants of n people are one block: more where there are many, as each is added to n² sums."""
    return max(1, max(BLOCK, min(n**2 // 16, LARGEST_BLOCK)) // max(n, 1))


def named_variants(names: Any, chromosome: Any, position: Any, ref: Any, alt: Any) -> pd.Index:
    """Return the names of variants; "." and those that occur twice become chromosome:position:ref:alt."""
    given = pd.Series(np.asarray(names, dtype=object).astype(str))
    unnamed = given.isin([".", ""]) | given.duplicated(keep=False)
    if unnamed.any():
        parts = [np.asarray(part, dtype=object)[unnamed.to_numpy()] for part in (chromosome, position, ref, alt)]
        given[unnamed] = [":".join(map(str, own)) for own in zip(*parts, strict=True)]
        again = given.duplicated(keep=False) & unnamed
        given[again] = [
            f"{name}#{k}" for name, k in zip(given[again], given.groupby(given).cumcount()[again], strict=True)
        ]
    index: pd.Index = pd.Index(given.to_numpy(), dtype=object, name="variant")
    return index


def labelled_genotypes(counts: Any, ids: Any, variants: pd.DataFrame) -> xr.DataArray:
    """Return counts (people, variants) with their labels."""
    labels: dict[str, Any] = {name: ("variant", variants[name].to_numpy()) for name in OF_VARIANTS if name in variants}
    labels |= {"obs": np.asarray(ids, dtype=object), "variant": variants.index.to_numpy()}
    return xr.DataArray(counts, dims=("obs", "variant")).assign_coords(labels)  # coords= copies object by object


def variants_of(block: Any) -> dict[str, Any]:
    """Return what a DataArray of genotypes says of its variants."""
    if not isinstance(block, xr.DataArray) or block.ndim != 2:
        return {}
    found = {}
    for name, coord in block.coords.items():
        own = _ALSO_CALLED.get(str(name), str(name))
        if own in OF_VARIANTS and coord.dims == (block.dims[1],):
            found[own] = coord.to_numpy()
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """
    Counts of one allele, with NaN where missing.

    Attributes
    ----------
    counts : (n, m) array
        In single or double precision.
    ids : Index or None
        Of the people, where the block has labels.
    names : Index
        Of the variants.
    known : dict
        chromosome, position, counted and other allele (m,), what is known of them.
    """

    counts: Any
    ids: pd.Index | None
    names: pd.Index
    known: dict[str, Any]


def genotype_blocks(genotypes: Any) -> Iterator[Block]:
    """
    Read genotypes in blocks of variants: an array, DataFrame or DataArray, or an iterable of such, as `read_bed` gives.

    Raises
    ------
    TypeError, ValueError
        If they are not 2-D, not numbers, or outside [0, 2]; if blocks have different people.
    """
    whole = any(hasattr(genotypes, name) for name in ("__array__", "columns", "dims"))
    rows = isinstance(genotypes, list | tuple) and (not len(genotypes) or np.ndim(genotypes[0]) < 2)
    first, start = None, 0
    for part in [genotypes] if whole or rows else genotypes:
        for block in _slices(part, start):
            first = first or block
            if len(block.counts) != len(first.counts) or not _same(block.ids, first.ids):
                raise ValueError(
                    f"genotypes have blocks of different people, {len(first.counts)} and then {len(block.counts)}: "
                    "each block needs the same rows in the same order."
                )
            yield block
        start += part.shape[1] if np.ndim(part) == 2 and hasattr(part, "shape") else 0


def _same(ids: pd.Index | None, others: pd.Index | None) -> bool:
    return (ids is None) == (others is None) and (ids is None or others is None or ids.equals(others))


def _slices(part: Any, start: int) -> Iterator[Block]:
    """Return a table in slices of its columns; of double precision unless it is of single."""
    if np.ndim(part) != 2:
        raise ValueError(f"genotypes must be 2-D (individuals, markers), got {np.ndim(part)}-D: reshape it.")
    known, ids = variants_of(part), None
    names: Any
    if isinstance(part, pd.DataFrame):
        ids, names = part.index, part.columns
    elif isinstance(part, xr.DataArray):
        row, column = part.dims
        ids = part.indexes.get(row)
        names = part.indexes.get(column, pd.RangeIndex(start, start + part.shape[1]))
    else:
        part = np.asarray(part)
        names = pd.RangeIndex(start, start + part.shape[1])
    width = variants_at_a_time(len(part))
    for begin in range(0, max(part.shape[1], 1), width):
        own = slice(begin, begin + width)
        columns = part
        if part.shape[1] > width:
            columns = part.iloc[:, own] if isinstance(part, pd.DataFrame) else part[:, own]
        counts = _numbers(columns)
        _require_counts(counts, ids, names[own])
        yield Block(counts, ids, names[own], {name: values[own] for name, values in known.items()})


def _numbers(columns: Any) -> Any:
    if isinstance(columns, pd.DataFrame):
        single = len(columns.columns) and (columns.dtypes == np.float32).all()
        columns = columns if single else columns.where(columns.notna(), np.nan)  # pd.NA among objects, too
        values: Any = columns.to_numpy(dtype=np.float32) if single else _doubles(columns)
        return values
    array = np.asarray(columns)
    return array if array.dtype == np.float32 else _doubles(array)


def _doubles(columns: Any) -> Any:
    try:
        if isinstance(columns, pd.DataFrame):
            return columns.to_numpy(dtype=float, na_value=np.nan)
        return (
            np.asarray(pd.DataFrame(columns).to_numpy(dtype=float, na_value=np.nan))
            if columns.dtype == object
            else columns.astype(float)
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"genotypes must be numbers ({error}): {remedy_of('genotypes')}") from None


def _require_counts(counts: Any, ids: Any, names: pd.Index) -> None:
    """Raise a ValueError that names the first count outside [0, 2]."""
    if not counts.size or (np.fmin.reduce(counts, axis=None) >= 0 and np.fmax.reduce(counts, axis=None) <= 2):
        return
    rows, columns = np.nonzero((counts < 0) | (counts > 2))
    if rows.size:
        row = int(rows[0]) if ids is None else list(ids)[rows[0]]
        place = f"row {row!r}, marker {list(names)[columns[0]]!r}"
        raise ValueError(
            f"genotypes must be in [0, 2], got {counts[rows[0], columns[0]]:g} in {place} ({rows.size} such values): "
            "recode missing ones as NaN (for instance genotypes.replace(-9, np.nan)); add 1 to a -1, 0, 1 coding."
        )
