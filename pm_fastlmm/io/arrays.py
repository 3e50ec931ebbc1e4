"""Genotypes that another program read, with their labels."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm.base.arrays import shown
from pm_fastlmm.covariance.ids import Labels, read_index
from pm_fastlmm.genotypes.blocks import OF_VARIANTS, labelled_genotypes, named_variants


def label_genotypes(counts: Any, ids: Labels, variants: pd.DataFrame, *, missing: Any = ()) -> xr.DataArray:
    """
    Label genotypes that another package read, as `read_bed` labels its own.

    Parameters
    ----------
    counts : (people, variants) array
        Copies of the counted allele, 0 to 2, or dosages.
    ids : sequence
        Of the people, as text.
    variants : DataFrame
        A row for each variant with any of the columns chromosome, position, counted and other: the allele that is
        counted and the other one, which are carried into results. Its index are the names; where they are numbers from
        0 on, or ".", or occur twice, names are made of chromosome, position, other and counted.
    missing : number or sequence of numbers
        What stands for a missing genotype: -9 in pgenlib, -127 in bed-reader's int8, 3 in cyvcf2 with gts012=True.

    Returns
    -------
    DataArray
        Over "obs" and "variant": what `flmm.covariance.markers`, `flmm.scan` and `flmm.genome_scan` read, alone or as
        one block of an iterable. ``attrs["missing"]`` counts the codes of missing genotypes.

    Raises
    ------
    ValueError
        If sizes do not fit, an id is missing or repeated, or `variants` has other columns.

    Examples
    --------
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> variants = pd.DataFrame(
    ...     {
    ...         "chromosome": ["1", "1"],
    ...         "position": [100, 250],
    ...         "counted": ["G", "A"],
    ...         "other": ["T", "C"],
    ...     }
    ... )
    >>> block = flmm.io.label_genotypes(
    ...     [[0, 2], [1, -9]], ["0001", "0002"], variants, missing=-9
    ... )
    >>> block.variant.values.tolist(), block.isnull().sum().item()
    (['1:100:T:G', '1:250:C:A'], 1)
    """
    values = np.array(counts, dtype=np.float32 if np.asarray(counts).dtype.itemsize <= 4 else np.float64)
    if values.ndim != 2 or values.shape[1] != len(variants):
        raise ValueError(
            f"counts has shape {values.shape} for {len(variants)} variants: rows are people, columns variants."
        )
    if strangers := [str(column) for column in variants.columns if column not in OF_VARIANTS]:
        raise ValueError(f"variants has the columns {shown(strangers)}: only {', '.join(OF_VARIANTS)} are known.")
    index = read_index(ids, "ids", len(values))
    codes = {f"{code:g}": values == code for code in np.atleast_1d(np.asarray(missing, dtype=values.dtype))}
    counts_of = {"nan": int(np.isnan(values).sum())} | {code: int(which.sum()) for code, which in codes.items()}
    for which in codes.values():
        values[which] = np.nan
    default = variants.index.equals(pd.RangeIndex(len(variants)))
    given = ["."] * len(variants) if default else variants.index
    parts = [variants[name] if name in variants else ["."] * len(variants) for name in OF_VARIANTS]
    chromosome, position, counted, other = parts
    names = named_variants(given, chromosome, position, other, counted)
    table = variants.set_axis(names)
    if "position" in table:
        table = table.assign(position=pd.to_numeric(table["position"]))
    return labelled_genotypes(values, index, table).assign_attrs(missing={c: n for c, n in counts_of.items() if n})
