"""Files for PLINK and its relatives: genotypes as .bed, .bim and .fam."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import shown
from pm_fastlmm.genotypes.blocks import genotype_blocks
from pm_fastlmm.io.bed import MAGIC
from pm_fastlmm.io.people import SEPARATOR
from pm_fastlmm.io.text import PathLike

_BITS_OF_A1 = np.array([3, 2, 0, 1], dtype=np.uint8)  # of 0, 1 and 2 copies, and of a missing genotype


def write_bed(genotypes: Any, path: PathLike) -> Path:
    """
    Write genotypes as a PLINK 1 .bed file with its .bim and .fam; the counted allele becomes A1.

    Parameters
    ----------
    genotypes : DataFrame, DataArray (`label_genotypes`), or an iterable of such blocks
        Whole numbers 0, 1, 2, and NaN where missing, with the ids of the people: IID, or FID:IID. What they do not say
        of a variant is 0 in the .bim file, and "1" and "2" for its alleles.
    path : path
        What the three names begin with, or that of the .bed file.

    Returns
    -------
    Path
        Of the .bed file.

    Raises
    ------
    ValueError
        If a genotype is a dosage, the people have no ids, or a name has blanks in it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> counts = pd.DataFrame([[0, 1], [2, None]], ["0001", "0002"], ["rs1", "rs2"])
    >>> bed = flmm.io.read_bed(flmm.io.write_bed(counts, Path(mkdtemp()) / "example"))
    >>> bed.read().values
    array([[ 0.,  1.],
           [ 2., nan]], dtype=float32)
    """
    given = Path(path).expanduser()
    stem = given.with_suffix("") if given.suffix == ".bed" else given
    ids, lines = None, []
    with Path(f"{stem}.bed").open("wb") as out:
        out.write(MAGIC)
        for block in genotype_blocks(genotypes):
            ids = block.ids
            out.write(_packed(block.counts, block.names.tolist()).tobytes())
            names = [one_word(name, "variant") for name in block.names]
            m = len(names)
            fields = [block.known.get(name, [default] * m) for name, default in _FIELDS]
            lines += ["\t".join(map(str, row)) for row in zip(fields[0], names, [0] * m, *fields[1:], strict=True)]
    if ids is None:
        raise ValueError("genotypes have no ids of people, which the file needs: label_genotypes, or a DataFrame.")
    people = [fid_iid(str(name)) for name in ids]
    Path(f"{stem}.bim").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    Path(f"{stem}.fam").write_text("".join(f"{fid}\t{iid}\t0\t0\t0\t-9\n" for fid, iid in people), encoding="utf-8")
    return Path(f"{stem}.bed")


_FIELDS = (("chromosome", 0), ("position", 0), ("counted", "1"), ("other", "2"))


def fid_iid(label: str) -> tuple[str, str]:
    """Return FID and IID of an id, which is FID:IID, or an IID that stands for both."""
    fid, _, iid = label.rpartition(SEPARATOR)
    return one_word(fid or iid, "person"), one_word(iid, "person")


def one_word(name: Any, what: str) -> str:
    """
    Return the name as text.

    Raises
    ------
    ValueError
        If it has blanks in it, which separate cells in these files, or is empty.
    """
    text = str(name)
    if text.split() != [text]:
        raise ValueError(
            f"the {what} {text!r} has blanks in its name, or none, and blanks separate cells in the file: rename it."
        )
    return text


def _packed(counts: Any, names: list[Any]) -> npt.NDArray[np.uint8]:
    """Return two bits for each genotype, (variants, bytes)."""
    missing = np.isnan(counts)
    whole = np.where(missing, 3, counts)
    if (dosage := (whole != np.rint(whole)).any(axis=0)).any():
        some = [names[j] for j in np.flatnonzero(dosage)]
        raise ValueError(f"variants {shown(some)} have dosages, which a .bed file cannot hold: round them.")
    n, m = counts.shape
    bits = np.zeros((m, (n + 3) // 4 * 4), dtype=np.uint8)
    bits[:, :n] = _BITS_OF_A1[whole.astype(np.intp)].T
    quads = bits.reshape(m, -1, 4)
    return np.asarray(quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6)
