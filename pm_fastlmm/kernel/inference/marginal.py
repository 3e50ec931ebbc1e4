"""Estimated marginal means, averages of Xβ over a reference grid, and their contrasts."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, require_fraction, shown
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.spelling import level_text
from pm_fastlmm.base.tables import Table
from pm_fastlmm.kernel.inference.fixed_effects import (
    DegreesOfFreedom,
    FixedEffects,
    ZeroVariances,
    check_zero_variances,
    t_tests,
)
from pm_fastlmm.kernel.inference.hypotheses import Marginal, require_formula
from pm_fastlmm.kernel.inference.multiple import Adjustment, adjusted
from pm_fastlmm.kernel.inference.term_tests import METHODS, TermTests
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

type ContrastKind = Literal["pairwise", "reference"]


class MarginalMeans(TermTests):
    """The marginal means of the fixed effects, and their contrasts."""

    __slots__ = ()

    def marginal_means(
        self,
        names: str | Sequence[str],
        *,
        at: Mapping[str, Any] | None = None,
        df: DegreesOfFreedom = "satterthwaite",
        level: float = 0.95,
        zero_variances: ZeroVariances = "known",
    ) -> Table:
        """
        Return estimated marginal means of factors, the least-squares means of SAS and emmeans.

        They are averages of x*ᵀβ̂ over a reference grid: all combinations of the levels of the factors, with equal
        weights, covariates at their means over the rows of the fit. A standard error is √(lᵀΦl) with l the average of
        the rows x*.

        Parameters
        ----------
        names : str or sequence of str
            Columns of the table, of whose combinations a mean each is returned.
        at : mapping, optional
            Values of covariates other than the mean, or a choice of levels of a factor: {"x": 20}, {"x": [18, 22]}.
        df : {"satterthwaite", "kenward-roger", "residual"}
            As in `coefficients`.
        level : float
            Of the interval.
        zero_variances : {"known", "free"}
            As in `coefficients`.

        Returns
        -------
        DataFrame
            By levels: estimate, se, df, t, p_value, lower, upper. A mean to which a cell without data belongs is not
            determined by the data, and NaN: it is named below.

        Raises
        ------
        ValueError
            If the fit is of an X without a formula, a name is none of its columns, or a covariate has no values `at`.

        References
        ----------
        Searle, Speed & Milliken (1980), doi:10.1080/00031305.1980.10483031.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "yield ~ rep + gen + (1 | rep:block)",
        ...     flmm.datasets.john_alpha(),
        ...     progressbar=False,
        ... )
        >>> fit.marginal_means("rep")
        Marginal means of rep, averaged over gen
        Satterthwaite's degrees of freedom
            estimate        se     df      t   p_value    lower    upper
        rep
        R1   4.51825  0.117792  10.39  38.36  1.55e-12  4.25714  4.77936
        R2    4.8161  0.117792  10.39  40.89  8.01e-13  4.55498  5.07721
        R3    4.1042  0.117792  10.39  34.84  4.18e-12  3.84309  4.36532
        """
        check_zero_variances(zero_variances, df)
        require_fraction(level, "level")
        marginal = require_formula(self._projection).marginal(_as_names(names), at or {})
        fixed = self._fixed_effects(df, zero_variances)
        rows, unknown = _kept(marginal.rows, self._projection, usual=1.0)
        columns = _tests(fixed, rows, unknown, df, level)
        index = pd.MultiIndex.from_frame(marginal.cells)
        table = _table(columns, index if len(marginal.cells.columns) > 1 else index.get_level_values(0), fixed)
        means = f"Marginal means of {' and '.join(marginal.cells)}{marginal.over}"
        table.attrs["above"] = [means, METHODS[df]]
        table.attrs["below"] = _undetermined(index, unknown)
        return table

    def contrasts(
        self,
        names: str | Sequence[str],
        kind: ContrastKind | Mapping[str, Mapping[Any, float]] = "pairwise",
        *,
        by: str | Sequence[str] = (),
        at: Mapping[str, Any] | None = None,
        adjust: Adjustment | None = None,
        df: DegreesOfFreedom = "satterthwaite",
        level: float = 0.95,
        zero_variances: ZeroVariances = "known",
    ) -> Table:
        """
        Return contrasts of marginal means: all pairs, differences from a reference level, or weights of your own.

        Parameters
        ----------
        names : str or sequence of str
            As in `marginal_means`.
        kind : {"pairwise", "reference"} or mapping
            "reference": each level minus the first one; at={"dose": ["none", "low", "high"]} puts another one first.
            A mapping of labels to weights of levels: {"new - old": {"b": 0.5, "c": 0.5, "a": -1}}; levels of several
            columns are joined by a space, "b high".
        by : str or sequence of str
            Columns within whose levels there are contrasts, each a family of its own.
        at : mapping, optional
            As in `marginal_means`.
        adjust : {"tukey", "holm", "bonferroni", "none"}, optional
            Of p-values and intervals, for the number of contrasts in a family. By default Tukey's for all pairs, exact
            where the means are independent with the same variance, otherwise Holm's (its intervals are Bonferroni's).
        df, level, zero_variances
            As in `marginal_means`.

        Returns
        -------
        DataFrame
            By levels of `by` and contrast: estimate, se, df, t, p_value, lower, upper; NaN where the data do not
            determine a contrast.

        Raises
        ------
        ValueError
            As `marginal_means`; if a weight names no level, or Tukey's method is asked for other contrasts than pairs.

        References
        ----------
        Tukey–Kramer: Kramer (1956), doi:10.2307/3001469; Holm (1979), https://www.jstor.org/stable/4615733.

        Examples
        --------
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "yield ~ rep + gen + (1 | rep:block)",
        ...     flmm.datasets.john_alpha(),
        ...     progressbar=False,
        ... )
        >>> fit.contrasts("rep", "reference")
        Contrasts of marginal means of rep, averaged over gen
        Satterthwaite's degrees of freedom, adjusted by Holm's method
                   estimate        se     df       t p_value      lower      upper
        contrast
        R2 - R1    0.297846  0.166583  10.39   1.788   0.103  -0.138047   0.733739
        R3 - R1   -0.414046  0.166583  10.39  -2.486  0.0628  -0.849939  0.0218471
        """
        check_zero_variances(zero_variances, df)
        require_fraction(level, "level")
        of, within = _as_names(names), _as_names(by)
        marginal = require_formula(self._projection).marginal((*within, *of), at or {})
        size = len(marginal.cells[list(of)].drop_duplicates())
        labels, C = _weights(marginal, of, size, kind)
        adjust = _adjustment(adjust, kind, len(C))
        fixed = self._fixed_effects(df, zero_variances)
        means = marginal.rows.reshape(-1, size, marginal.rows.shape[1])
        rows, unknown = _kept(np.concatenate(C @ means), self._projection, usual=0.0)
        columns = _tests(fixed, rows, unknown, df, level)
        columns |= adjusted(columns, adjust, level, means=size, family=len(C))
        groups = marginal.cells[list(within)].iloc[::size].itertuples(index=False)
        index: pd.Index = pd.Index(labels, name="contrast")
        if within:
            index = pd.MultiIndex.from_tuples(
                [(*g, label) for g in groups for label in labels], names=[*within, "contrast"]
            )
        table = _table(columns, index, fixed)
        families = f", within {' and '.join(within)}" if within else ""
        heading = f"Contrasts of marginal means of {' and '.join(of)}{families}{marginal.over}"
        table.attrs["above"] = [heading, f"{METHODS[df]}, {_ADJUSTMENTS[adjust]}"]
        table.attrs["below"] = _undetermined(index, unknown)
        return table


_ADJUSTMENTS = {
    "tukey": "adjusted by Tukey's method",
    "holm": "adjusted by Holm's method",
    "bonferroni": "adjusted by Bonferroni's method",
    "none": "not adjusted",
}


def _adjustment(adjust: Adjustment | None, kind: Any, count: int) -> Adjustment:
    """Return what p-values of so many contrasts are adjusted by; one alone needs nothing."""
    if adjust is None:
        adjust = "tukey" if kind == "pairwise" else "holm"
    require_choice("adjust", adjust, Adjustment)
    if adjust == "tukey" and kind != "pairwise":
        raise ValueError("adjust='tukey' is for kind='pairwise', the differences of all pairs: take adjust='holm'.")
    return "none" if count == 1 else adjust


def _as_names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _kept(rows: FloatArray, projection: AnyProjection, *, usual: float) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return rows (k, r) of the kept columns, and which of them the data do not determine."""
    columns = projection.columns
    return rows[:, columns.kept], columns.departs(rows, projection.R, usual=usual).any(axis=1)


def _tests(
    fixed: FixedEffects, rows: FloatArray, unknown: npt.NDArray[np.bool_], df: DegreesOfFreedom, level: float
) -> dict[str, FloatArray]:
    return {name: np.where(unknown, np.nan, values) for name, values in t_tests(fixed, df, level, rows).items()}


def _table(columns: Mapping[str, FloatArray], index: pd.Index, fixed: FixedEffects) -> Table:
    if fixed.names is not None:
        cells = [key if isinstance(key, tuple) else (key,) for key in index]
        keys = [(response, *key) for response in fixed.names for key in cells]
        index = pd.MultiIndex.from_tuples(keys, names=["response", *index.names])
    return Table({name: values.ravel() for name, values in columns.items()}, index=index)


def _undetermined(index: pd.Index, unknown: npt.NDArray[np.bool_]) -> list[str]:
    if not unknown.any():
        return []
    texts = [_label(key if isinstance(key, tuple) else (key,)) for key in index[unknown]]
    return [f"the data do not determine {listed(texts)}: cells without data belong to them"]


def _label(levels: Sequence[Any]) -> str:
    return " ".join(map(level_text, levels))


def _weights(marginal: Marginal, of: tuple[str, ...], size: int, kind: Any) -> tuple[list[str], FloatArray]:
    """Return the names of contrasts of so many means, and their weights (c, size)."""
    cells = [_label(key) for key in marginal.cells[list(of)].iloc[:size].itertuples(index=False)]
    if size < 2:
        raise ValueError(f"{' and '.join(of)} has one mean, {cells[0]}: a contrast is of several.")
    unit = np.eye(size)
    if isinstance(kind, Mapping):
        return list(map(str, kind)), np.array([_own(weights, cells, label) for label, weights in kind.items()])
    require_choice("kind", kind, ContrastKind)
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    if kind == "reference":
        pairs = [(j, 0) for j in range(1, size)]
    return [f"{cells[i]} - {cells[j]}" for i, j in pairs], np.array([unit[i] - unit[j] for i, j in pairs])


def _own(weights: Mapping[Any, float], cells: list[str], label: str) -> FloatArray:
    row, given = np.zeros(len(cells)), {level_text(level): weight for level, weight in weights.items()}
    if unknown := [level for level in given if level not in cells]:
        raise ValueError(f"the contrast {label!r} has weights of {shown(unknown)}: the means are of {listed(cells)}.")
    for level, weight in given.items():
        row[cells.index(level)] = weight
    return row
