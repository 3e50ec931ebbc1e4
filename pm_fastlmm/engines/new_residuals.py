"""
NewResiduals: residuals of new rows, given those of the data that are of the same record.

Where rows o of the data and new rows m are of one record, ε_m = Bε_o + ζ, B = Σ_mo Σ_oo⁻¹, and ζ ~ N(0, Σ_mm - BΣ_om)
is independent of all else. So y_m = f_m + B(y_o - f_o) + ζ: a new row is one of the fixed and random effects
x_m - Bx_o and z_m - Bz_o, to which By_o is added. With prior weights e = ε/√w.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.engines.records import IntArray, Records


class _Group(NamedTuple):
    """Records with the same coordinates in the data and the same ones in new rows: these, and their rows."""

    coordinates: IntArray
    rows: IntArray
    new_coordinates: IntArray
    new_rows: IntArray


@dataclass(frozen=True, eq=False)
class NewResiduals:
    """
    New rows of records that are known or new.

    Attributes
    ----------
    rows : (k,) int array
        The rows of the data that are of the records of new rows.
    records : Records
        Of these, followed by the new rows.
    root, new_root : (k,) and (m,) arrays or 1
        √w.
    """

    rows: IntArray
    records: Records
    root: Any
    new_root: Any

    @classmethod
    def of(cls, known: Records, record: IntArray | None, coordinate: Any, m: int, root: Any, new_weights: Any) -> Self:
        """
        Return those of m new rows.

        A coordinate that its record has already is measured again, with a residual of its own.

        Parameters
        ----------
        known : Records
            Of the data.
        record : (m,) int array or None
            The record of each new row, below 0 where it is one of its own; None if all are.
        coordinate : (m,) int array or int
        root : (n,) array or None
            √w of the data.
        new_weights : (m,) array or 1
        """
        coordinate, after = np.broadcast_to(coordinate, m), int(known.record.max(initial=-1)) + m + 1
        rows, own = np.zeros(0, dtype=np.intp), after + np.arange(m)
        if record is not None and not known.independent:
            key, place = record * known.width + coordinate, np.arange(m)
            rows = np.flatnonzero(np.isin(known.record, record))
            first = np.isin(place, np.unique(key, return_index=True)[1])
            again = np.isin(key, known.record[rows] * known.width + known.coordinate[rows])
            own = np.where((record >= 0) & first & ~again, record, own)
        both = Records(
            np.concatenate([known.record[rows], own]), np.concatenate([known.coordinate[rows], coordinate]), known.mixes
        )
        return cls(rows, both, 1.0 if root is None else root[rows], np.sqrt(new_weights))

    @cached_property
    def _groups(self) -> list[_Group]:
        k, groups = len(self.rows), []
        for p in self.records.patterns:
            kinds, which = np.unique(p.rows >= k, axis=0, return_inverse=True)
            for j, new in enumerate(kinds):
                if new.any():
                    rows = p.rows[which.ravel() == j]
                    groups.append(_Group(p.coordinates[~new], rows[:, ~new], p.coordinates[new], rows[:, new] - k))
        return groups

    def given(self, sigma: FloatArray) -> tuple[sp.csr_array, FloatArray]:
        """
        Return B between e of the data and of new rows, sparse (m, k), and the variances of ζ/√w.

        These are (m,), or a number where all are equal.
        """
        shape = self.records.n - len(self.rows), len(self.rows)
        if self.records.width == 1:
            return sp.csr_array(shape), np.asarray(sigma[0, 0] / self.new_root**2)
        variance, entries = np.empty(shape[0]), [np.zeros((3, 0))]
        for group in self._groups:
            of, to = group.coordinates, group.new_coordinates
            between = sigma[np.ix_(of, to)]
            slopes = np.linalg.solve(sigma[np.ix_(of, of)], between).T
            variance[group.new_rows] = np.diag(sigma[np.ix_(to, to)] - slopes @ between)
            for a, b in np.ndindex(*slopes.shape):
                new, old = group.new_rows[:, a], group.rows[:, b]
                entries.append(np.array([new, old, np.full(len(new), slopes[a, b])]))
        new, old, values = np.hstack(entries)
        rows, columns = new.astype(np.intp), old.astype(np.intp)
        values *= np.broadcast_to(self.root, shape[1])[columns] / np.broadcast_to(self.new_root, shape[0])[rows]
        return sp.csr_array((values, (rows, columns)), shape=shape), variance / self.new_root**2

    def draw(self, sigma: FloatArray, e: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """
        Return Be of the new rows and draws of ζ/√w, those of one record jointly, (…, m) each.

        Parameters
        ----------
        sigma : (…, c, c) array
        e : (…, k) array
            Residuals of the rows of the data.
        rng : Generator
        """
        k, shape = len(self.rows), e.shape[:-1]
        drawn = self.records.coloured(sigma, rng.standard_normal((*shape, self.records.n)))
        old, new = drawn[..., :k] / self.root, drawn[..., k:] / self.new_root
        expected = np.zeros_like(new)
        for at in np.ndindex(*shape) if k else ():
            B, _ = self.given(sigma[at])
            expected[at] = B @ e[at]
            new[at] -= B @ old[at]
        return expected, new
