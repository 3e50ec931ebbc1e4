"""Genotypes of a PLINK 1 .bed file, with its .bim and .fam: two bits each, read in blocks of variants."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from pm_fastlmm.base.arrays import Ids, shown
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.messages import say
from pm_fastlmm.base.spelling import places, spelling_hint
from pm_fastlmm.genotypes.blocks import labelled_genotypes, named_variants, variants_at_a_time
from pm_fastlmm.genotypes.chromosomes import Chromosomes, chromosome_names
from pm_fastlmm.io.people import PeopleIds, people_index
from pm_fastlmm.io.text import PathLike, existing, read_cells

type Counted = Literal["A1", "A2"]

MAGIC = b"\x6c\x1b\x01"
_SAMPLE_MAJOR = b"\x6c\x1b\x00"
_FAM = ["fid", "iid", "father", "mother", "sex", "phenotype"]
_BIM = ["chromosome", "name", "cm", "position", "A1", "A2"]
_COPIES_OF_A1 = (2.0, np.nan, 1.0, 0.0)  # of the two bits 00, 01, 10, 11


@dataclass(frozen=True, eq=False, repr=False)
class Bed(Described):
    """
    Genotypes of people and variants in a .bed file, read when they are asked for.

    Iterate over it for blocks of variants: `flmm.covariance.markers` and `flmm.scan` do. Each is a DataArray of counts
    of the counted allele, 0, 1, 2 or NaN, over "obs" (people) and "variant", with the coordinates chromosome,
    position, counted and other. It is made by `read_bed`; `select` takes a part of it.

    Attributes
    ----------
    path : Path
        Of the .bed file.
    people : DataFrame
        fid, iid, father, mother, sex ("1" male, "2" female) and phenotype by id, as text.
    variants : DataFrame
        chromosome, position, counted and other (allele), cm by name.
    n_file : int
        The number of people in the file.
    of_people, of_variants : arrays of int
        Which of the people and the variants in the file these are.
    counted : {"A1", "A2"}
        Which allele is counted.
    """

    path: Path
    people: pd.DataFrame
    variants: pd.DataFrame
    n_file: int
    of_people: npt.NDArray[np.intp]
    of_variants: npt.NDArray[np.intp]
    counted: Counted

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of people and of variants."""
        return len(self.of_people), len(self.of_variants)

    @property
    def ids(self) -> Ids:
        """The ids of the people."""
        return tuple(self.people.index)

    def select(self, people: Any = None, *, chromosomes: Any = None, variants: Any = None) -> Self:
        """
        Return a part of the genotypes.

        Parameters
        ----------
        people : sequence of ids, optional
            In this order.
        chromosomes : {"autosomes", "all"}, name or sequence of names, optional
            As in `flmm.covariance.markers`.
        variants : sequence of names or boolean array, optional

        Raises
        ------
        ValueError
            If an id, chromosome or variant is not there.
        """
        rows = slice(None) if people is None else _found(people, self.people.index, "people")
        kept = np.arange(len(self.of_variants))
        if chromosomes is not None:
            wanted = Chromosomes(chromosomes)
            kept = kept[wanted.of(self.variants["chromosome"])]
            wanted.require_found()
        if variants is not None:
            given = np.asarray(variants)
            if given.dtype == bool:
                if len(given) != len(self.of_variants):
                    raise ValueError(
                        f"variants has {len(given)} entries for {len(self.of_variants)} variants: one for each."
                    )
                kept = kept[given[kept]]
            else:
                kept = np.intersect1d(kept, _found(variants, self.variants.index, "variants"))
        return replace(
            self, people=self.people.iloc[rows], variants=self.variants.iloc[kept], of_people=self.of_people[rows],
            of_variants=self.of_variants[kept],
        )  # fmt: skip

    def read(self) -> xr.DataArray:
        """Return all genotypes as one DataArray (people, variants), 4 bytes each."""
        parts = [self._decoded(self.of_variants[part]) for part in self._parts()]
        values = np.concatenate(parts) if parts else np.empty((0, len(self.of_people)), dtype=np.float32)
        return labelled_genotypes(values.T, self.people.index, self.variants)

    def summary(self) -> pd.DataFrame:
        """
        Return how frequent the counted allele and the rarer one are, and the share of missing genotypes, by variant.

        Among the people who are selected.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> bed = flmm.io.read_bed("study.bed")  # doctest: +SKIP
        >>> seen = bed.summary()  # doctest: +SKIP
        >>> bed.select(variants=(seen["maf"] >= 0.01) & (seen["missing"] <= 0.05))  # doctest: +SKIP
        """
        found = [np.zeros((2, 0))]
        for part in self._parts():
            counts = self._decoded(self.of_variants[part])
            seen = (~np.isnan(counts)).sum(axis=1)
            total = np.nansum(counts, axis=1, dtype=np.float64)
            found.append(np.stack([total / (2 * np.where(seen, seen, np.nan)), 1 - seen / counts.shape[1]]))
        p, missing = np.concatenate(found, axis=1)
        columns = {"frequency": p, "maf": np.minimum(p, 1 - p), "missing": missing}
        return pd.DataFrame(columns, self.variants.index)

    def __iter__(self) -> Iterator[xr.DataArray]:
        """Read block after block."""
        for part in self._parts():
            yield labelled_genotypes(
                self._decoded(self.of_variants[part]).T, self.people.index, self.variants.iloc[part]
            )

    def _parts(self) -> list[slice]:
        width = variants_at_a_time(self.n_file)
        return [slice(start, start + width) for start in range(0, len(self.of_variants), width)]

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        """Two bits a genotype by variant, (variants, bytes), not read yet."""
        width = (self.n_file + 3) // 4
        return np.memmap(self.path, dtype=np.uint8, mode="r", offset=len(MAGIC)).reshape(-1, width)

    def _decoded(self, columns: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Return counts (variants, people)."""
        near = len(columns) and columns[-1] - columns[0] == len(columns) - 1
        packed = self._bytes[columns[0] : columns[-1] + 1] if near else self._bytes[columns]
        counts = _table(self.counted)[packed].reshape(len(columns), -1)
        everybody = len(self.of_people) == self.n_file and (np.diff(self.of_people) == 1).all()
        return np.ascontiguousarray(counts[:, : self.n_file] if everybody else counts[:, self.of_people])

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was mapped to memory out of copies."""
        return {name: value for name, value in self.__dict__.items() if name != "_bytes"}

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._parts())

    def __repr__(self) -> str:
        """Show sizes, chromosomes and the allele that is counted."""
        return f"Bed({self._contents})"

    @property
    def _contents(self) -> str:
        return (
            f"{len(self.of_people)} people, {len(self.of_variants)} variants of chromosomes "
            f"{listed(chromosome_names(self.variants['chromosome']))}; counts {self.counted}"
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "file": self.path.name,
            "people": f"{len(self.of_people)}: {listed(self.ids)}",
            "variants": f"{len(self.of_variants)}: {listed(self.variants.index.tolist())}",
            "chromosomes": listed(chromosome_names(self.variants["chromosome"])),
            "counts": f"{self.counted} of the .bim file",
        }


def read_bed(path: PathLike, *, counted: Counted = "A1", ids: PeopleIds = "iid") -> Bed:
    """
    Open a PLINK 1 .bed file; its .bim and .fam are beside it.

    Parameters
    ----------
    path : path
        Of the .bed file, or what all three names begin with.
    counted : {"A1", "A2"}
        Which allele of the .bim file is counted. A1, its first, is the rarer one where plink 1.9 wrote the file, and
        the ALT allele where plink 2 did. The letter goes with every result.
    ids : {"iid", "fid:iid"}
        What people are called: their IID, or both joined where IIDs repeat between families.

    Returns
    -------
    Bed
        Nothing is read yet but the people and the variants. Names that are "." or occur twice are replaced by
        chromosome:position:A2:A1.

    Raises
    ------
    FileNotFoundError
        If one of the three files is not there.
    ValueError
        If the .bed file is not of that kind, or its size does not fit the other two; or an id occurs twice.

    See Also
    --------
    flmm.covariance.markers : The kinship of the people, read block by block.
    flmm.scan : A test of each variant.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> bed = flmm.io.read_bed("study.bed")  # doctest: +SKIP
    >>> K = flmm.covariance.markers(bed)  # doctest: +SKIP
    """
    require_choice("counted", counted, Counted)
    stem = Path(path).expanduser()
    stem = stem.with_suffix("") if stem.suffix == ".bed" else stem
    file, bim, fam = (existing(f"{stem}{end}", "the file") for end in (".bed", ".bim", ".fam"))
    people = read_cells(fam, names=_FAM)
    people.index = people_index(people["fid"].tolist(), people["iid"].tolist(), ids, fam.name)
    table = read_cells(bim, names=_BIM)
    counts, other = ("A1", "A2") if counted == "A1" else ("A2", "A1")
    variants = pd.DataFrame(
        {
            "chromosome": table["chromosome"].to_numpy(),
            "position": _whole(table["position"], bim.name),
            "counted": table[counts].to_numpy(),
            "other": table[other].to_numpy(),
            "cm": pd.to_numeric(table["cm"], errors="coerce").to_numpy(),
        },
        index=named_variants(table["name"], table["chromosome"], table["position"], table["A2"], table["A1"]),
    )
    _require_bed(file, len(people), len(variants))
    everybody, everything = np.arange(len(people)), np.arange(len(variants))
    bed = Bed(file, people, variants, len(people), everybody, everything, counted)
    renamed = int((variants.index.to_numpy() != table["name"].to_numpy()).sum())
    say(f"{file.name}: {bed._contents}{f'; {renamed} variants without a name of their own' if renamed else ''}")
    return bed


def _require_bed(path: Path, n: int, m: int) -> None:
    with path.open("rb") as opened:
        first = opened.read(3)
    if first == _SAMPLE_MAJOR:
        raise ValueError(
            f"{path.name} is in the order of people, as PLINK before 1.0 wrote it: write it anew, "
            "plink1.9 --bfile old --make-bed --out new."
        )
    if first != MAGIC:
        raise ValueError(f"{path.name} is no .bed file of PLINK 1: it does not begin with the bytes 6c 1b 01.")
    expected, size = len(MAGIC) + (n + 3) // 4 * m, path.stat().st_size
    if size != expected:
        raise ValueError(
            f"{path.name} has {size} bytes, but {n} people and {m} variants take {expected}: the .bed, .bim and .fam "
            "are not of one data set, or the file is cut off."
        )


def _table(counted: Counted) -> npt.NDArray[np.float32]:
    """Return the four counts in each of the 256 bytes, (256, 4); the first person has the lowest two bits."""
    copies = np.array(_COPIES_OF_A1, dtype=np.float32)
    copies = copies if counted == "A1" else 2 - copies
    byte = np.arange(256)
    return np.stack([copies[byte >> shift & 3] for shift in (0, 2, 4, 6)], axis=1)


def _whole(positions: Any, name: str) -> npt.NDArray[np.int64]:
    try:
        return np.asarray(positions.to_numpy(), dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{name} has a position that is no whole number ({error}): is it a .bim file?") from None


def _found(wanted: Any, names: pd.Index, what: str) -> npt.NDArray[np.intp]:
    asked = list(wanted)
    place = np.array(places(asked, names.tolist()), dtype=np.intp)
    if (place < 0).any():
        strangers = [asked[i] for i in np.flatnonzero(place < 0)]
        hint = spelling_hint(strangers, names.tolist())
        raise ValueError(f"{what} {shown(strangers)} are not in the file: leave them out. {hint}".strip())
    return place
