"""A genome-wide study in one call: formula, table and genotypes to a test of each variant."""

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_fastlmm.base.arrays import Labelled, outside, shown
from pm_fastlmm.base.choices import Missing, Negative
from pm_fastlmm.base.display import tracked
from pm_fastlmm.base.messages import counted, say
from pm_fastlmm.base.spelling import look_alikes, places, said_of_pairs, spelling_hint
from pm_fastlmm.covariance.genomic import markers
from pm_fastlmm.genotypes.blocks import genotype_blocks, labelled_genotypes
from pm_fastlmm.genotypes.chromosomes import Chromosomes
from pm_fastlmm.kernel.reml.scan import Delta, Test, scan
from pm_fastlmm.kernel.reml.scan_traits import Common, Variances, scan_traits
from pm_fastlmm.models.design import Design
from pm_fastlmm.spectrum.spectrum import Spectrum


def genome_scan(
    formula: str, data: pd.DataFrame, genotypes: Any, *, K: Any = "genotypes", test: Test = "wald",
    delta: Delta = "each", variances: Variances | float = "null", common: Common | Sequence[float] = "equal",
    missing: Missing = "mean", kinship: Mapping[str, Any] | None = None, chromosomes: Any = "all",
    weights: Any = None, negative: Negative = "error", progressbar: bool = True,
) -> xr.Dataset:  # fmt: skip
    """
    Test each variant as one more fixed effect, with people, covariates and kinship brought together by id.

    Parameters
    ----------
    formula : str
        Response and covariates, such as "height ~ sex + age". Several responses, "height + weight ~ sex", are tested
        together, as in `flmm.scan_traits`; people lack none of them.
    data : DataFrame
        Its index are the ids of the people, as `flmm.io.read_table` gives.
    genotypes : `flmm.io.read_bed`, DataFrame or DataArray
        Rows are people, columns variants. They may have more people than the table. They are read for the
        kinship and again for the tests; with K="loco" a table is read again for each chromosome.
    K : {"genotypes", "loco"} or DataFrame
        The kinship of the people who are analysed: from the autosomes of these genotypes; for each chromosome from the
        other ones ("leave one chromosome out", so that no variant is in the kinship that it is tested beside); or one
        that is given, which may have more people.
    test, missing
        As in `flmm.scan`.
    delta
        As in `flmm.scan`, of one response.
    variances, common
        As in `flmm.scan_traits`, of several.
    kinship : mapping, optional
        Options of `flmm.covariance.markers`, such as {"min_maf": 0.01}.
    chromosomes : {"all", "autosomes"}, name or sequence of names
        Which are tested. With K="loco" the kinship has those that are tested, and "all" are the autosomes.
    weights : str or array, optional
        Prior weights of the people, as in `flmm.Design`.
    negative : {"error", "zero"}
        What becomes of negative eigenvalues of a K that is given, as in `Spectrum.from_covariance`.
    progressbar : bool

    Returns
    -------
    xarray.Dataset
        As that of `flmm.scan` or `flmm.scan_traits`, over "candidate". ``attrs["people"]`` counts those who were
        analysed, who have no genotypes, and whose response or covariates are missing.

    Raises
    ------
    ValueError
        If nobody is in both, a chromosome is not there, or as in `flmm.scan` and `flmm.covariance.markers`.
    TypeError
        If genotypes have no ids, or can be read only once.

    Warns
    -----
    UserWarning
        If people of the table have no genotypes, or rows are dropped for missing values.

    See Also
    --------
    flmm.scan : The same from a `Spectrum`, which many responses share.
    flmm.scan_traits : And of several responses at once.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(3)
    >>> people = [f"p{i}" for i in range(90)]
    >>> counts = pd.DataFrame(
    ...     rng.binomial(2, 0.3, (90, 200)), people, [f"rs{j}" for j in range(200)]
    ... )
    >>> table = pd.DataFrame(
    ...     {"y": counts["rs9"] + rng.normal(size=90), "sex": rng.choice(["f", "m"], 90)},
    ...     people,
    ... )
    >>> found = flmm.genome_scan("y ~ sex", table, counts)
    >>> str(found.p_value.idxmin().values), found.attrs["people"]["analysed"]
    ('rs9', 90)
    """
    genotyped = _people(genotypes)
    place = places(data.index.tolist(), genotyped)
    known, taken = np.array(place) >= 0, set(place)
    _refuse_look_alikes(data.index[~known].tolist(), [own for i, own in enumerate(genotyped) if i not in taken])
    counts = {"analysed": 0, "without genotypes": int((~known).sum()), "with missing values": 0}
    if not known.any():
        raise ValueError(
            f"nobody in the table ({shown(data.index.tolist())}) is in the genotypes ({shown(genotyped)}): are the ids "
            "in its index?"
        )
    if counts["without genotypes"]:
        warnings.warn(
            f"{counts['without genotypes']} of {len(data)} people of the table have no genotypes and are left out: "
            f"{shown(data.index[~known].tolist())}.",
            UserWarning,
            stacklevel=outside(),
        )
    table = data[known]
    nothing = pd.DataFrame(np.zeros((len(table), 1)), table.index)  # rows are brought together before K is made
    own_weights = weights if weights is None or isinstance(weights, str) else np.asarray(weights)[known]
    design = Design.from_formula(formula, table, W=nothing, weights=own_weights)
    assert design.ids is not None  # those of the table
    counts |= {"analysed": len(design.y), "with missing values": len(design.dropped)}
    _say_people(counts, len(data), len(genotyped))
    own = _selected(genotypes, design.ids)
    y: Any = design.y
    scanned = partial(scan, test=test, delta=delta, missing=missing)
    if design.responses is not None:
        y = pd.DataFrame(design.y, design.ids, list(design.responses))
        scanned = partial(scan_traits, test=test, variances=variances, common=common, missing=missing)
    if isinstance(K, str) and K == "loco":
        found = _each_without_itself(design, y, own, kinship or {}, chromosomes, scanned, progressbar)
    else:
        matrix = markers(own, **(kinship or {})) if isinstance(K, str) and K == "genotypes" else _given(K, design.ids)
        tested = own if isinstance(chromosomes, str) and chromosomes == "all" else _of(own, chromosomes)
        found = scanned(_spectrum(design, matrix, negative), y, tested, progressbar=progressbar)
    _say_tested(found)
    return found.assign_attrs(people=counts)


def _refuse_look_alikes(strangers: list[Hashable], others: list[Hashable]) -> None:
    """Refuse to leave out people who have genotypes under an id that is written in another way."""
    if pairs := look_alikes(strangers, others):
        raise ValueError(
            f"{len(pairs)} people of the table have no genotypes by the way that their ids are written: "
            f"{said_of_pairs(pairs)}"
        )


def _say_people(counts: dict[str, int], in_table: int, genotyped: int) -> None:
    others = genotyped - in_table + counts["without genotypes"]
    left_out = counted({why: count for why, count in counts.items() if why != "analysed"})
    say(
        f"{counts['analysed']} of {in_table} people of the table are analysed{f' ({left_out})' if left_out else ''}; "
        f"{others} of the {genotyped} with genotypes are not in it"
    )


def _say_tested(found: xr.Dataset) -> None:
    m, prefix = found.sizes["candidate"], "untested: "
    why = counted({key.removeprefix(prefix): n for key, n in found.attrs.items() if key.startswith(prefix)})
    say(
        f"{m - found.attrs['untested']} of {m} variants are tested{f' ({why})' if why else ''}; "
        f"{found.attrs.get('imputed', 0)} missing genotypes imputed"
    )


def _people(genotypes: Any) -> list[Hashable]:
    """Return the ids of the people, without reading genotypes that a reader has not read."""
    if isinstance(genotypes, Iterator):
        raise TypeError(
            "genotypes are an iterator, which can be read once, and they are read for the kinship and for the tests: "
            "give what it comes from, or K=, and blocks to flmm.scan."
        )
    ids = genotypes.ids if _is_reader(genotypes) else next(iter(genotype_blocks(genotypes))).ids
    if ids is None:
        raise TypeError(
            "genotypes have no ids: give pd.DataFrame(genotypes, index=ids), or what flmm.io.read_bed returns."
        )
    return list(ids)


def _is_reader(genotypes: Any) -> bool:
    """Return whether genotypes are in a file that knows its people; tables have a `select` of their own."""
    return not isinstance(genotypes, pd.DataFrame | xr.DataArray) and hasattr(genotypes, "select")


class _Selected:
    """Blocks of genotypes of some people, and of some chromosomes."""

    def __init__(self, genotypes: Any, rows: Any, chromosomes: Any = "all") -> None:
        self.genotypes, self.rows, self.chromosomes = genotypes, rows, chromosomes

    def __iter__(self) -> Iterator[xr.DataArray]:
        wanted = Chromosomes(self.chromosomes)
        for block in genotype_blocks(self.genotypes):
            known = pd.DataFrame(block.known, index=block.names)
            own = np.ones(len(known), dtype=bool)
            if "chromosome" in block.known:
                own = wanted.of(block.known["chromosome"])
            if own.any():
                assert block.ids is not None  # they were asked for before
                yield labelled_genotypes(block.counts[np.ix_(self.rows, own)], block.ids[self.rows], known[own])
        wanted.require_found()

    def of(self, chromosomes: Any) -> "_Selected":
        return _Selected(self.genotypes, self.rows, chromosomes)


def _selected(genotypes: Any, ids: Any) -> Any:
    """Return the genotypes of the people who are analysed, in their order."""
    if _is_reader(genotypes):
        return genotypes.select(_as_called(_people(genotypes), ids))
    return _Selected(genotypes, np.array(places(list(ids), _people(genotypes))))


def _as_called(names: list[Hashable], ids: Any) -> list[Hashable]:
    return [names[place] for place in places(list(ids), names)]


def _of(genotypes: Any, chromosomes: Any) -> Any:
    return genotypes.of(chromosomes) if isinstance(genotypes, _Selected) else genotypes.select(chromosomes=chromosomes)


def _given(K: Any, ids: Any) -> pd.DataFrame:
    """Return the rows and columns of a kinship that are analysed."""
    if not isinstance(K, pd.DataFrame):
        raise TypeError("K must be 'genotypes', 'loco' or a DataFrame with the ids of the people.")
    place = np.array(places(list(ids), K.index.tolist()))
    if (place < 0).any():
        lacking = [name for name, at in zip(ids, place, strict=True) if at < 0]
        hint = spelling_hint(lacking, K.index.tolist()) or "leave them out."
        raise ValueError(f"K lacks {len(lacking)} people who are analysed ({shown(lacking)}): {hint}")
    values = K.to_numpy()
    if len(place) < len(K) or (np.diff(place) != 1).any():
        values = values[np.ix_(place, place)]
    return pd.DataFrame(values, list(ids), list(ids), copy=False)


def _spectrum(design: Design, K: pd.DataFrame, negative: Negative = "error") -> Spectrum:
    assert design.ids is not None  # those of the table
    ids = tuple(design.ids.tolist())
    weights = None if design.weights is None else Labelled(design.weights, ids, None)
    X = Labelled(design.X, ids, design.columns)
    return Spectrum.from_covariance(Labelled(K.to_numpy(), ids, None), X, weights=weights, negative=negative)


def _each_without_itself(
    design: Design, y: Any, genotypes: Any, kinship: Mapping[str, Any], chromosomes: Any,
    scanned: "partial[xr.Dataset]", show: bool,
) -> xr.Dataset:  # fmt: skip
    """Scan chromosome after chromosome, so that one eigendecomposition is in memory at a time."""
    wanted = "autosomes" if isinstance(chromosomes, str) and chromosomes == "all" else chromosomes
    others = markers(genotypes, leave_out="chromosome", **{"chromosomes": wanted, **kinship})
    names, parts = list(others), []
    for name in tracked(names, "chromosomes", show=show):
        spectrum = _spectrum(design, others[name])
        part = scanned(spectrum, y, _of(genotypes, [name]), progressbar=False)
        parts.append(part.assign_coords(group=("candidate", [name] * part.sizes["candidate"])))
    of_kernel = [name for name, values in parts[0].data_vars.items() if "candidate" not in values.dims]
    found = xr.concat([part.drop_vars(of_kernel) for part in parts], "candidate", combine_attrs="drop")
    if of_kernel:
        kernels = pd.Index(names, name="kernel")
        found = found.merge(xr.concat([part[of_kernel] for part in parts], kernels, combine_attrs="drop"))
    counted = dict.fromkeys(key for part in parts for key in part.attrs if key not in scanned.keywords)
    summed = {key: sum(part.attrs.get(key, 0) for part in parts) for key in counted}
    same = {key: value for key, value in parts[0].attrs.items() if key in scanned.keywords}
    return found.assign_attrs(same | summed)
