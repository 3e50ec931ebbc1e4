"""Kinship of people, plants or animals from their genotypes, in one pass over blocks of variants."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.memory import require_memory
from pm_fastlmm.base.messages import counted, say
from pm_fastlmm.base.spelling import places
from pm_fastlmm.covariance.ids import Labels, read_index
from pm_fastlmm.covariance.scaled import Scale, scaled
from pm_fastlmm.genotypes.blocks import Block, genotype_blocks
from pm_fastlmm.genotypes.chromosomes import Chromosomes, chromosome_names
from pm_fastlmm.genotypes.frequencies import Rules, Standard, centred, examined
from pm_fastlmm.genotypes.products import Panels, add_products, panels_of, rest, symmetric, triangle

_DROPPED = {
    "monomorphic": "do not vary", "all_missing": "without genotypes", "rare": "rare", "often_missing": "often missing",
    "other_chromosomes": "of other chromosomes",
}  # fmt: skip


def markers(
    genotypes: Any,
    *,
    ids: Labels | None = None,
    method: Standard = "vanraden",
    frequencies: Any = None,
    min_maf: float = 0.0,
    max_missing: float = 1.0,
    chromosomes: Any = "autosomes",
    leave_out: Any = None,
    dtype: Literal["float32", "float64"] | None = None,
    scale: Scale = "none",
) -> Any:
    r"""Genomic relationship matrix, by default VanRaden's: :math:`K = ZZ^\top / (2\sum_j p_j(1-p_j))`, Z = M - 2p.

    Genotypes are read once, block by block: it takes the memory of K and of one block.

    Parameters
    ----------
    genotypes : array, DataFrame or DataArray, (n, markers); `flmm.io.read_bed`; or an iterable of such blocks
        M, copies of one allele: 0, 1, 2 or a dosage between. Missing ones (NaN, pd.NA) are 2p, the mean of the others.
    ids : sequence of length n, optional
        Names of the rows. Default: those that genotypes have, or 0, 1, ….
    method : {"vanraden", "standardised", "gcta"}
        "gcta" divides each column of Z by :math:`\sqrt{2p(1-p)}` and K by the number of markers (Yang et al. 2010);
        "standardised" divides by the standard deviation that the column has (GEMMA ``-gk 2``). GEMMA's
        ``-gk 1`` is VanRaden's times a constant.
    frequencies : (markers,) array or Series, optional
        p, for instance of the base population; a Series is matched by marker. Default: half the mean of each column.
    min_maf : float
        Markers with min(p, 1 - p) below this are dropped; those with p = 0 or 1 or without any genotype always are.
    max_missing : float
        Markers of which a larger share of genotypes is missing are dropped.
    chromosomes : {"autosomes", "all"}, name or sequence of names
        Which are used, where genotypes say on which chromosome a marker is; "autosomes" are 1 to 22.
    leave_out : "chromosome" or sequence of length markers, optional
        Return a K for each chromosome (or other group of markers), of the markers that are not in it: those of a scan
        that leaves the chromosome out that it tests. Genotypes are read once; the sum of each group is kept, in the
        precision of its products, and its K is made when it is asked for.
    dtype : {"float32", "float64"}, optional
        The precision of products, which are added up in double precision. By default that of the genotypes: single for
        those of `read_bed`, which moves entries of K by some 1e-7 of its diagonal and takes half the time.
    scale : {"none", "mean_diagonal"}
        "mean_diagonal" divides K by tr(K)/n. Unscaled, tr(K)/n is near 1 in Hardy-Weinberg proportions and near 2 in
        inbred lines, where σ²_g/(σ²_g + σ²_e) is therefore not h².

    Returns
    -------
    pandas.DataFrame, or a mapping of chromosome to DataFrame
        K, shape (n, n); ``attrs`` add ``markers_used``, ``missing_imputed`` (genotypes, in the markers used), and
        how many markers were left out: ``monomorphic_dropped``, ``all_missing_dropped``, ``rare_dropped``,
        ``often_missing_dropped`` and ``other_chromosomes_dropped``.

    Raises
    ------
    ValueError
        For genotypes outside [0, 2], rows without genotypes, or when no marker is left; if K does not fit in memory.
    TypeError
        For genotypes that are not numbers.

    References
    ----------
    VanRaden (2008), Efficient methods to compute genomic predictions. doi:10.3168/jds.2007-0980
    Yang et al. (2010), Common SNPs explain a large proportion of the heritability. doi:10.1038/ng.608

    Examples
    --------
    >>> markers([[0, 1], [2, 1]], ids=["a", "b"])
         a    b
    a  1.0 -1.0
    b -1.0  1.0
    """
    require_choice("method", method, Standard)
    if not 0 <= min_maf < 0.5:
        raise ValueError(f"min_maf must be in [0, 0.5), got {min_maf}: give the smallest frequency to be kept.")
    if not 0 <= max_missing <= 1:
        raise ValueError(f"max_missing must be in [0, 1], got {max_missing}: give the largest share to be kept.")
    sums = _Sums(Rules(method, min_maf, max_missing), _Groups(leave_out))
    given = None if frequencies is None else _Frequencies(frequencies)
    own: Any = None
    chosen = Chromosomes(chromosomes)
    for block in genotype_blocks(genotypes):
        own = block if own is None else own
        counts = block.counts if dtype is None else block.counts.astype(dtype, copy=False)
        sums.add(counts, block, None if given is None else given.of(block), _wanted(block, chosen))
    if own is None:
        raise ValueError("genotypes are empty: there is no block of markers.")
    if given is not None:
        given.require_all_used()
    chosen.require_found()
    sums.groups.require_all_used()
    index = read_index(_names(own) if ids is None else ids, "ids", len(own.counts))
    sums.require_genotypes(index)
    say(f"kinship of {len(index)} people: {sums}")
    return sums.whole(index, scale) if leave_out is None else _OfOthers(sums, index, scale)


def _names(block: Block) -> Labels:
    return range(len(block.counts)) if block.ids is None else block.ids


def _wanted(block: Block, chosen: Chromosomes) -> npt.NDArray[np.bool_]:
    if "chromosome" in block.known:
        return chosen.of(block.known["chromosome"])
    if not chosen.named:
        return np.ones(block.counts.shape[1], dtype=bool)
    raise ValueError(
        "chromosomes are given, but genotypes do not say on which a marker is: select the columns, or give a DataArray "
        "with a coordinate 'chromosome', as flmm.io.read_bed does."
    )


class _Frequencies:
    """Frequencies that the user gave, a part for each block."""

    def __init__(self, given: Any) -> None:
        self.names = read_index(given.index, "frequencies").tolist() if isinstance(given, pd.Series) else None
        self.p = np.asarray(given, dtype=float)
        self.used = 0

    def of(self, block: Block) -> FloatArray:
        """Return those of a block."""
        m, stop = block.counts.shape[1], self.used + block.counts.shape[1]
        if self.names is None:
            p = self.p[self.used : stop]
            if self.p.ndim != 1 or len(p) < m:
                raise ValueError(f"frequencies must have shape ({stop},), got {self.p.shape}: give one per marker.")
        else:
            where = places(block.names.tolist(), self.names)
            p = np.append(self.p, np.nan)[where]  # NaN where a marker has none
        if (bad := ~((p >= 0) & (p <= 1))).any():
            raise ValueError(
                f"frequencies must be in [0, 1], got {p[bad][0]:g} for {shown(list(block.names[bad]))}: fix it."
            )
        self.used = stop
        return p

    def require_all_used(self) -> None:
        """Refuse more than there are markers."""
        if self.names is None and self.used != len(self.p):
            raise ValueError(f"frequencies must have shape ({self.used},), got {self.p.shape}: give one per marker.")


class _Groups:
    """The group of each marker, which its kinship leaves out; None where there are no groups."""

    def __init__(self, given: Any) -> None:
        self.given = given if given is None or isinstance(given, str) else list(given)
        self.used = 0
        if isinstance(given, str) and given != "chromosome":
            raise ValueError(f"leave_out={given!r}: give 'chromosome', or the group of each marker.")

    def of(self, block: Block) -> Any:
        """Return those of a block."""
        m = block.counts.shape[1]
        self.used += m
        if self.given is None:
            return np.full(m, None, dtype=object)
        if isinstance(self.given, str):
            if "chromosome" not in block.known:
                raise ValueError(
                    "genotypes do not say on which chromosome a marker is: give leave_out= the chromosome of each, or "
                    "a DataArray with a coordinate 'chromosome', as flmm.io.read_bed does."
                )
            return np.asarray(block.known["chromosome"], dtype=object)
        own = self.given[self.used - m : self.used]
        if len(own) < m:
            raise ValueError(f"leave_out has {len(self.given)} entries but there are more markers: one for each.")
        out = np.empty(m, dtype=object)
        out[:] = own
        return out

    def require_all_used(self) -> None:
        """Refuse more than there are markers."""
        if isinstance(self.given, list) and len(self.given) != self.used:
            raise ValueError(f"leave_out has {len(self.given)} entries for {self.used} markers: one for each.")


def _columns(counts: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    """Return columns, without a copy where they follow each other, as those of a chromosome do."""
    first, count = int(chosen.argmax()), int(chosen.sum())
    whole = chosen[first : first + count].all()
    return counts[:, first : first + count] if whole else counts[:, chosen]


@dataclass(eq=False)
class _Sums:
    """ZZᵀ of each group of markers, and what it is divided by, as blocks come."""

    rules: Rules
    groups: _Groups
    totals: dict[Any, Panels] = field(default_factory=dict)
    divisors: Counter[Any] = field(default_factory=Counter)
    used: Counter[Any] = field(default_factory=Counter)
    imputed: Counter[Any] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    seen: Any = 0
    K: FloatArray | None = None

    def add(self, counts: Any, block: Block, p: FloatArray | None, wanted: npt.NDArray[np.bool_]) -> None:
        """Add a block (n, m)."""
        variants, groups = examined(counts, p, wanted, self.rules), self.groups.of(block)
        self.dropped.update(variants.reason[variants.reason != ""].tolist())
        fine = variants.reason == ""
        for group in dict.fromkeys(groups[fine].tolist()):
            own = fine & (groups == group) if group is not None else fine
            chosen = _columns(counts, own)
            self.seen = self.seen + (~np.isnan(chosen)).sum(axis=1)
            Z, divisor = centred(chosen, variants.frequency[own], self.rules.method)
            add_products(self._total(group, Z), Z)
            self.divisors[group] += divisor  # type: ignore[assignment]
            self.used[group] += int(own.sum())
            self.imputed[group] += int(variants.missing[own].sum())

    def _total(self, group: Any, Z: Any) -> Panels:
        """Return the sum of a group, in the precision of its products; that of all markers is a part of K."""
        if group not in self.totals:
            n, count = len(Z), len(self.totals) + 1
            require_memory(
                n**2 * (8.0 if group is None else 12.0 + count * Z.dtype.itemsize / 2),  # of all, and one K
                f"A kinship matrix of {n} people" + ("" if group is None else f" and the sums of {count} groups"),
                "use fewer people, or, for leave_out, read the genotypes again for each chromosome, "
                "markers(bed.select(chromosomes=[…])).",
            )
            if group is None:
                self.K = np.zeros((n, n))
                self.totals[group] = panels_of(self.K)
            else:
                self.totals[group] = triangle(n, Z.dtype)
        return self.totals[group]

    def require_genotypes(self, index: pd.Index) -> None:
        """Raise a ValueError if no marker is left, or somebody has none."""
        if not self.totals:
            raise ValueError(
                f"genotypes has no polymorphic marker left ({self.left_out()}): check that columns are markers."
            )
        if (blank := np.asarray(self.seen) == 0).any():
            raise ValueError(f"genotypes has no value in row {shown(list(index[blank]))}: drop such rows.")

    def left_out(self) -> dict[str, int]:
        """Return how many markers were left out, by reason."""
        return {
            f"{reason}_dropped": self.dropped[reason]
            for place, reason in enumerate(_DROPPED)
            if self.dropped[reason] or place < 3
        }

    def __str__(self) -> str:
        """Say how many markers were used and left out."""
        reasons = {_DROPPED[name]: count for name, count in self.dropped.items()}
        used = f"{self.used.total()} of {self.used.total() + self.dropped.total()} markers"
        others = f" ({counted(reasons)})" if self.dropped else ""
        return f"{used}{others}; {self.imputed.total()} missing genotypes imputed"

    def account(self, groups: Iterable[Any]) -> dict[str, Any]:
        """Return how many markers of some groups were used, and how many were left out of all."""
        used = {"markers_used": self.used, "missing_imputed": self.imputed}
        return {name: sum(counts[group] for group in groups) for name, counts in used.items()} | self.left_out()

    def whole(self, index: pd.Index, scale: Scale) -> pd.DataFrame:
        """Return K of all markers; the sum becomes K."""
        assert self.K is not None  # there are markers
        self.K *= 1 / self.divisors[None]
        return scaled(symmetric(self.K), index, scale, **self.account([None]))


class _OfOthers(Mapping[Any, pd.DataFrame]):
    """K of the markers outside each group, made of the sums when it is asked for."""

    def __init__(self, sums: _Sums, index: pd.Index, scale: Scale) -> None:
        if len(sums.totals) < 2:
            raise ValueError(f"all markers are of one group, {next(iter(sums.totals))!r}: leaving it out leaves none.")
        self._sums, self._index, self._scale = sums, index, scale
        self._names = list(sums.totals)
        if isinstance(sums.groups.given, str):
            self._names = chromosome_names(self._names)
        self._everything = [
            sum(panels[1:], panels[0].astype(float)) for panels in zip(*sums.totals.values(), strict=True)
        ]

    def __getitem__(self, group: Any) -> pd.DataFrame:
        sums = self._sums
        total, others = sums.totals[group], [name for name in self._names if name != group]
        divisor = math.fsum(sums.divisors[name] for name in others)
        K = rest(self._everything, total, divisor)
        return scaled(K, self._index, self._scale, **sums.account(others))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        """Show how many people there are, and which groups are left out."""
        return f"Kinships({len(self._index)} people; without {'; without '.join(map(str, self._names))})"
