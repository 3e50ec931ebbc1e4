"""Repeated records: a covariance between individuals, and whose record each row is."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg

from pm_fastlmm.base.across import effects_in, root_across
from pm_fastlmm.base.arrays import FloatArray, Ids, Labelled, frozen, labels_of, shown
from pm_fastlmm.base.choices import Negative, require_choice
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.messages import say_matched
from pm_fastlmm.base.semidefinite import zero_tolerance
from pm_fastlmm.base.spelling import places, spelling_hint
from pm_fastlmm.spectrum.projection import kernel_design


@dataclass(frozen=True, slots=True, eq=False)
class Individuals(ReadOnlyArrays):
    """
    The individuals of repeated records: rows have the covariance ZKZᵀ, K = LLᵀ.

    Attributes
    ----------
    root : (q, m) array
        L, one row for each individual, those without records too.
    ids : tuple or None
        Of the individuals.
    place : (n,) array of int
        Which individual each row is a record of: Z.
    is_factor : bool
        Whether L is a factor W that was given, whose columns mean something, or a root of K.
    """

    root: FloatArray
    ids: Ids | None
    place: npt.NDArray[np.intp]
    is_factor: bool

    @classmethod
    def of_covariance(
        cls, K: Labelled, rows: Labelled, X: Any = None, rtol: float | None = None, negative: Negative = "error"
    ) -> Self:
        """Return them with the root of K from its eigenvalues, those that are rounding left out."""
        values, vectors = scipy.linalg.eigh(K.values, check_finite=False)
        tolerance = zero_tolerance(values) if rtol is None else rtol * float(np.abs(values).max())
        require_choice("negative", negative, Negative)
        if values[0] < -tolerance:
            Q1, place = kernel_design(rows, X, "K")[1].Q1, rows.values.astype(np.intp)
            F = effects_in(Q1, place, np.ones((len(place), 1)), len(values))
            root = root_across(K.values, F, negative, rtol=rtol, takes_rtol=True)
        else:
            kept = values > tolerance
            root = vectors[:, kept] * np.sqrt(values[kept])
        return replace(cls.of_factor(Labelled(root, K.ids, None), rows), is_factor=False)

    @classmethod
    def of_factor(cls, W: Labelled, rows: Labelled) -> Self:
        """Return them with a factor that has a row for each."""
        place = np.asarray(rows.values, dtype=np.intp)
        place.setflags(write=False)
        return cls(frozen(W.values), W.ids, place, is_factor=True)

    @property
    def records(self) -> npt.NDArray[np.intp]:
        """How many rows each individual has, (q,)."""
        return np.bincount(self.place, minlength=len(self.root))

    def factor(self, ids: Ids | None, names: tuple[str, ...] | None) -> Labelled:
        """Return ZL, the factor of the covariance of the rows."""
        return Labelled(self.root[self.place], ids, names)

    def subset(self, rows: npt.NDArray[np.intp]) -> Self:
        """Return those of some of the records; the individuals stay."""
        place = self.place[rows]
        place.setflags(write=False)
        return replace(self, place=place)

    @property
    def diagonal(self) -> FloatArray:
        """The diagonal of K, (q,)."""
        return np.asarray((self.root**2).sum(axis=1))

    @property
    def labels(self) -> list[Any]:
        """The ids, numbers of rows of K where it has none."""
        return list(range(len(self.root))) if self.ids is None else list(self.ids)


def read_individual(individual: Any, kernel: Labelled, name: str) -> Labelled:
    """
    Return the row of K or W that each record belongs to, NaN where it is missing, with the ids of the records.

    Raises
    ------
    TypeError
        If `individual` is no sequence of labels.
    ValueError
        If K lacks individuals that have records.
    """
    if isinstance(individual, Labelled):
        return individual
    if isinstance(individual, str) or np.ndim(individual) != 1:
        raise TypeError(
            "individual must say whose record each row is, one label for each: give the column itself, table['id'], "
            "or its name where a formula has a table."
        )
    labels = np.asarray(individual, dtype=object)
    known = np.array([label is not None and label == label for label in labels.tolist()], dtype=bool)
    labels, found = labels[known].tolist(), np.full(len(labels), np.nan)
    if kernel.ids is None:
        found[known] = _numbers(labels, len(kernel.values), name)
    else:
        place = places(labels, kernel.ids)
        if lacking := list(dict.fromkeys(label for label, i in zip(labels, place, strict=True) if i < 0)):
            default = kernel.ids == tuple(range(len(kernel.ids)))
            hint = f"{name} has the default index 0, 1, 2 …: give it the ids. " if default else ""
            hint += f"{alike} " if (alike := spelling_hint(lacking, kernel.ids)) else ""
            raise ValueError(
                f"{name} lacks {len(lacking)} individuals that have records ({shown(lacking)}). {hint}Give a {name} "
                "with all of them, or leave their records out."
            )
        found[known] = place
        say_matched("individuals", len(set(place)), len(kernel.ids), name)
    return Labelled(found, labels_of(individual), None)


def require_individuals(rows: Labelled) -> Labelled:
    """Raise a ValueError if a record has no individual."""
    if missing := np.flatnonzero(np.isnan(rows.values)).tolist():
        raise ValueError(f"individual is missing in rows {shown(missing)}: leave those rows out.")
    return rows


def _numbers(labels: list[Any], q: int, name: str) -> list[int]:
    whole = all(isinstance(label, int | float | np.number) and label == int(label) for label in labels)
    if not whole or not all(0 <= label < q for label in labels):
        raise ValueError(
            f"{name} is an array without labels: individual must then be the numbers of its rows, 0 to {q - 1}. Give "
            f"pd.DataFrame({name}, index=ids{', columns=ids' if name == 'K' else ''}), which names them."
        )
    return [int(label) for label in labels]
