"""Tables of what fits say of observations, or groups of them, that are left out; and which rows a group has."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtr

from pm_fastlmm.base.arrays import FloatArray, Ids, Labelled, align, outside, require_length, shown
from pm_fastlmm.base.labels import index_of
from pm_fastlmm.kernel.likelihood.leave_out import (
    Joint,
    LeftOut,
    Precision,
    Rows,
    leave_groups_out,
    leave_one_out,
    predictable,
)
from pm_fastlmm.kernel.likelihood.precision import SpectralRows
from pm_fastlmm.spectrum.spectrum import Rotated

_SAME = 1e-8  # of the length of y, within which two rotations are of the same y


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """
    Groups of observations.

    Attributes
    ----------
    labels : tuple
        Of those that occur.
    members : list of int arrays
        The rows of each.
    """

    labels: tuple[Any, ...]
    members: list[Rows]

    @classmethod
    def read(cls, groups: Any, ids: Ids | None, n: int) -> Self:
        """
        Read a label for each row; several factors make their interaction.

        Raises
        ------
        ValueError
            If a label is missing, their number is not n, their ids are others, or there is one group alone.
        """
        from pm_fastlmm.covariance.incidence import read_factor  # a fit needs no covariance structures

        factor = read_factor(groups, "groups")
        require_length(len(factor.codes), n, "groups", "y")
        order = align(ids, Labelled(np.zeros(0), factor.ids, None), name="groups", reference_name="y")
        codes = factor.codes if order is None else factor.codes[order]
        factor = factor.subset(factor.used())
        occurring = np.unique(codes)
        if len(occurring) < 2:
            raise ValueError("groups has one group: with it left out there is nothing to predict it from.")
        by_code: npt.NDArray[np.intp] = np.argsort(codes, kind="stable")
        return cls(factor.levels, np.split(by_code, np.searchsorted(codes[by_code], occurring[1:])))

    @property
    def sizes(self) -> npt.NDArray[np.intp]:
        """Number of rows of each."""
        return np.array([len(rows) for rows in self.members])


def unpredictable(Q1: Any, ids: Ids | None, groups: Groups | None) -> list[Any]:
    """Return the observations, or groups, without which X has not its rank."""
    return _named(~predictable(Q1, None if groups is None else groups.members), ids, groups)


def _named(chosen: npt.NDArray[np.bool_], ids: Ids | None, groups: Groups | None) -> list[Any]:
    """Return the ids, labels or numbers of some observations or groups."""
    names: Sequence[Any] = (ids or range(len(chosen))) if groups is None else groups.labels
    return [name for name, wanted in zip(names, chosen, strict=True) if wanted]


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """
    What a fit says of the observations that are left out, with batch axes (of responses) first.

    Attributes
    ----------
    left : LeftOut
    joint : Joint or None
        Of groups.
    groups : Groups or None
    y : (…, n) array
    ids : tuple or None
    known : (n,) or (G,) bool array
        What the others have a predictive density for.
    """

    left: LeftOut
    joint: Joint | None
    groups: Groups | None
    y: FloatArray
    ids: Ids | None
    known: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, precision: Precision, y: FloatArray, Q1: Any, ids: Ids | None, groups: Groups | None) -> Self:
        """
        Leave observations or groups out; Q₁ is of no columns unless β is flat.

        Warns
        -----
        UserWarning
            If the others have no predictive density for some, whose numbers are NaN then.
        """
        known = predictable(Q1, None if groups is None else groups.members)
        if not known.all():
            bad = _named(~known, ids, groups)
            warnings.warn(
                f"{'observations' if groups is None else 'groups'} {shown(bad)} alone determine a fixed effect: the "
                "others do not predict them, and their numbers are NaN.",
                stacklevel=outside(),
            )
        if groups is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                return cls(leave_one_out(precision), None, None, y, ids, known)
        left, joint = leave_groups_out(precision, groups.members, known)
        return cls(left, joint, groups, y, ids, known)

    @classmethod
    def of_rotated(cls, rotated: Rotated, sigma2_g: Any, sigma2_e: Any, y: Any, groups: Any) -> Self:
        """
        Leave observations or groups of one kernel out, with an axis of responses also for one.

        y may be None where its rows follow from what was kept.

        Raises
        ------
        ValueError
            If y is needed, or is not what was fitted; if there is no estimate; if groups do not fit.
        """
        s = rotated.spectrum
        g, e = np.atleast_1d(sigma2_g), np.atleast_1d(sigma2_e)
        if not np.isfinite(e).all():
            raise ValueError("there is no estimate to predict with: see fit.message, and for several fit.converged.")
        z, y1 = (np.atleast_2d(part) for part in (rotated.z, rotated.y1))
        explained = s.lift(y1, z)
        values = explained if y is None and not s.nullity else _same_rows(rotated, y)
        rest = s.weights.scaled(values - explained) if s.nullity else None
        precision = SpectralRows.of(s).at(z, rest, g, e)
        read = None if groups is None else Groups.read(groups, s.ids, s.n)
        return cls.of(precision, values, s.projection.Q1, s.ids, read)

    def table(self, place: Any = ()) -> pd.DataFrame:
        """Return a row for each observation of one response."""
        left = LeftOut(*(part[place] for part in self.left))
        with np.errstate(invalid="ignore", divide="ignore"):  # of what is not known, P_ii is 0 but for rounding
            columns = {
                "y": self.y[place], "mean": self.y[place] - left.deviation, "sd": np.sqrt(left.variance),
                "log_density": left.log_density, "pit": left.pit,
            }  # fmt: skip
        index = pd.RangeIndex(len(columns["y"])) if self.ids is None else index_of(self.ids)
        table = pd.DataFrame(columns, index=index)
        known = self.known
        if self.groups is not None:
            rows = np.argsort(np.concatenate(self.groups.members))
            code = np.repeat(np.arange(len(known)), self.groups.sizes)[rows]
            table.insert(0, "group", [self.groups.labels[j] for j in code])
            known = known[code]
        table.loc[~known, ["mean", "sd", "log_density", "pit"]] = np.nan
        return table

    def group_table(self, place: Any = ()) -> pd.DataFrame:
        """Return a row for each group of one response."""
        assert self.groups is not None
        assert self.joint is not None
        sizes, quadratic = self.groups.sizes, self.joint.quadratic[place]
        columns = {
            "n_obs": sizes, "log_density": self.joint.log_density[place], "chi2": quadratic,
            "pit": chdtr(sizes, quadratic),
        }  # fmt: skip
        return pd.DataFrame(columns, index=pd.Index(self.groups.labels, name="group", tupleize_cols=False))


def _same_rows(rotated: Rotated, y: Any) -> FloatArray:
    """Return y (T, n), which must be what was rotated."""
    s = rotated.spectrum
    if y is None:
        raise ValueError(
            f"K has {s.nullity} directions without variance, and of y in them the fit keeps the length alone: give the "
            "y that was fitted."
        )
    values, _ = s.read_response(y)
    given = Rotated.from_values(s, values, None)
    size = np.sqrt(rotated.norm2 + (rotated.y1**2).sum(-1))[..., None]
    if given.z.shape != rotated.z.shape or (np.abs(given.z - rotated.z) > _SAME * size).any():
        raise ValueError("y is not what was fitted: give the same responses, in their order.")
    return np.atleast_2d(values.T)
