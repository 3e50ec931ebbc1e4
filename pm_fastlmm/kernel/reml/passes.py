"""One pass over the candidates of a scan: block after block is read, checked, imputed, tested and labelled."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, outside, shown
from pm_fastlmm.base.choices import Missing
from pm_fastlmm.base.display import progress
from pm_fastlmm.kernel.reml.candidates import COLLINEAR, MISSING, blocks
from pm_fastlmm.kernel.reml.genotypes import imputed, require_no_codes
from pm_fastlmm.spectrum.spectrum import Spectrum, require_spectrum

type Groups = list[Hashable] | None
type TestOf = Callable[[Hashable, FloatArray], dict[str, Any]]


class Tested(NamedTuple):
    """
    What a pass found.

    Attributes
    ----------
    fields : dict
        Arrays whose first axis is that of the candidates; "reason" says why one is not tested, "missing" how many of
        its values were.
    names : list of str
    groups : list or None
        The group of each, where there are several spectra.
    known : dict
        Further coordinates, those of variants.
    """

    fields: dict[str, Any]
    names: list[str]
    groups: Groups
    known: dict[str, Any]

    def dataset(self, before: dict[str, Any], after: dict[str, Any], attrs: dict[str, Any]) -> xr.Dataset:
        """
        Return variables over "candidate", with `missing` and `reason` among them, and counts in the attributes.

        Warns
        -----
        UserWarning
            If candidates are left out for missing or infinite values.
        """
        reasons, missing = self.fields["reason"].astype(str), self.fields["missing"]
        labels = {"missing": ("candidate", missing), "reason": ("candidate", reasons)}
        coords: dict[str, Any] = {"candidate": self.names}
        if self.groups is not None:
            coords["group"] = ("candidate", self.groups)
        why = {reason: int((reasons == reason).sum()) for reason in (MISSING, COLLINEAR)}
        counts = {"untested": int((reasons != "").sum())}
        if why[MISSING]:
            left_out = [name for name, reason in zip(self.names, reasons, strict=True) if reason == MISSING]
            warnings.warn(
                f"{why[MISSING]} of {len(reasons)} candidates are not tested, for missing or infinite values: "
                f"{shown(left_out)}. missing='mean' imputes them by their mean, if they have one.",
                UserWarning,
                stacklevel=outside(),
            )
        if imputed_values := int(missing[reasons != MISSING].sum()):
            counts["imputed"] = imputed_values
        counts |= {f"untested: {reason}": count for reason, count in why.items() if count}
        return xr.Dataset(before | labels | after, coords | self.known, attrs | counts)


def spectra_of(spectrum: Any, groups: Any) -> tuple[dict[Hashable, Spectrum], Groups]:
    """
    Return the spectrum of each group and the group of each candidate.

    These are None with one spectrum, and an empty list where chromosomes will tell.

    Raises
    ------
    ValueError
        If groups are given with one spectrum or name one that is not there, or spectra have different observations.
    TypeError
        If there is no spectrum.
    """
    for one in spectrum.values() if isinstance(spectrum, Mapping) else [spectrum]:
        require_spectrum(one)
    if not isinstance(spectrum, Mapping):
        if groups is not None:
            raise ValueError(
                "groups is given with one spectrum: pass a mapping {group: spectrum}, or leave groups out."
            )
        return {None: spectrum}, None
    if not spectrum:
        raise ValueError("spectrum is an empty mapping: give a spectrum for each group of candidates.")
    if groups is None:
        return _same_rows(dict(spectrum)), []
    labels = list(groups)
    if not labels:
        raise ValueError("groups is empty: give the group of each candidate.")
    unknown = sorted({str(label) for label in labels if label not in spectrum})
    if unknown:
        raise ValueError(f"there is no spectrum for the groups {', '.join(unknown)}.")
    return _same_rows({group: spectrum[group] for group in dict.fromkeys(labels)}), labels


def _same_rows(used: dict[Hashable, Spectrum]) -> dict[Hashable, Spectrum]:
    """Refuse spectra of different observations."""
    same = [a.weights.same(b.weights) for a, b in pairwise(used.values())]
    if len({(s.n, s.ids) for s in used.values()}) > 1 or not all(same):
        raise ValueError(
            "the spectra of the groups have different observations or prior weights: build all from the same rows."
        )
    return used


def pass_over(
    candidates: Any, spectra: dict[Hashable, Spectrum], labels: Groups, test: TestOf, *, missing: Missing,
    progressbar: bool,
) -> Tested:  # fmt: skip
    """
    Test all candidates, each by `test` of its group and of columns (n, m), as `spectra_of` gives groups.

    Raises
    ------
    ValueError
        If there are none, groups do not fit, counts have numbers that stand for missing ones, or as `blocks`.
    """
    first = next(iter(spectra.values()))
    by_chromosome, labels = labels == [], None if labels is None else list(labels)
    found: list[dict[str, Any]] = []
    names: list[str] = []
    variants: list[dict[str, Any]] = []
    total = candidates.shape[1] if len(getattr(candidates, "shape", ())) == 2 else None
    for columns, given, known in _progress(blocks(candidates, first.ids, first.n), progressbar, total):
        place, m = len(names), columns.shape[1]
        called = [f"g{place + j}" for j in range(m)] if given is None else list(given)
        require_no_codes(columns, called)
        variants.append(known | {"frequency": _mean(columns) / 2} if known else known)
        columns, holes = imputed(columns, called, missing)
        if by_chromosome and labels is not None:
            labels += _chromosomes(known, spectra)
        own = None if labels is None else labels[place : place + m]
        if own is not None and len(own) < m:
            raise ValueError(f"groups has {len(labels or ())} entries but there are more candidates: one for each.")
        found.append(_block(test, own, columns) | {"missing": holes})
        names += called
    if labels is not None and len(labels) != len(names):
        raise ValueError(f"groups has {len(labels)} entries but there are {len(names)} candidates: one for each.")
    if not names:
        raise ValueError("candidates is empty: there is nothing to test.")
    fields = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    return Tested(fields, names, labels, _joined(variants))


def _block(test: TestOf, own: Groups, columns: FloatArray) -> dict[str, Any]:
    """Return the fields of a block of candidates, each tested on the spectrum of its group."""
    if own is None:
        return test(None, columns)
    out: dict[str, Any] = {}
    for group in dict.fromkeys(own):
        chosen = np.array([label == group for label in own])
        for name, values in test(group, columns[:, chosen]).items():
            out.setdefault(name, np.empty((len(own), *values.shape[1:]), dtype=values.dtype))[chosen] = values
    return out


def _mean(columns: FloatArray) -> FloatArray:
    """Return the mean of what is not missing, NaN where all is."""
    seen = (~np.isnan(columns)).sum(axis=0)
    return np.asarray(np.nansum(columns, axis=0) / np.where(seen, seen, np.nan))


def _chromosomes(known: dict[str, Any], spectra: dict[Hashable, Spectrum]) -> list[Hashable]:
    """Return the chromosome of each candidate of a block, as the spectra call it."""
    if "chromosome" not in known:
        raise ValueError("spectrum is a mapping: say with groups= which group each candidate is of.")
    labels: list[Hashable] = list(known["chromosome"])
    if unknown := sorted({str(label) for label in labels if label not in spectra}):
        raise ValueError(
            f"there is no spectrum for the groups {', '.join(unknown)}: leave those candidates out, "
            f"bed.select(chromosomes={[str(name) for name in spectra]!r})."
        )
    return labels


def _joined(variants: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all blocks say of their candidates."""
    names = [name for name in variants[0] if all(name in known for known in variants)]
    return {name: ("candidate", np.concatenate([known[name] for known in variants])) for name in names}


def _progress(parts: Iterator[Any], show: bool, total: int | None) -> Iterator[Any]:
    """Pass blocks on; from the second one on with a progress bar."""
    with ExitStack() as stack:
        advance, done = None, 0
        for number, part in enumerate(parts):
            if number == 1:
                advance = stack.enter_context(progress("candidates", total, show=show))
            yield part
            done += part[0].shape[1]
            if advance is not None:
                advance(done, "")
