"""FixedTerms: the fixed effects of a formula with the rows of the fit, which know what columns of X belong together."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import repeated, shown
from pm_fastlmm.base.copies import Copied
from pm_fastlmm.kernel.inference.hypotheses import CompleteDesign, Marginal
from pm_fastlmm.models.formula import cells, encode_new
from pm_fastlmm.models.formulas.columns import read_column
from pm_fastlmm.models.formulas.factors import described_coding, reference_of
from pm_fastlmm.models.formulas.names import columns_in, names_of, names_of_factor, plain
from pm_fastlmm.models.formulas.sparse_columns import require_dense
from pm_fastlmm.spectrum.projection import Cells

_RTOL = 1e-7
_LARGEST = 1_000_000  # rows of a reference grid


@dataclass(frozen=True, slots=True, eq=False)
class FixedTerms(Copied):
    """
    The fixed effects of a formula, which make X of a table.

    Attributes
    ----------
    spec : formulaic.ModelSpec
    table : DataFrame
        The variables, in the rows of the fit.
    intercept : bool
        Whether X has the intercept of the formula: cutpoints of ordered categories stand in its place.
    """

    spec: Any
    table: pd.DataFrame
    intercept: bool = field(default=True, kw_only=True)

    @classmethod
    def of(cls, spec: Any, rows: pd.DataFrame, *, intercept: bool = True) -> Self:
        """Keep of the rows what the specification reads."""
        variables = columns_in(names_of(spec.formula))
        return cls(spec, rows[[name for name in rows.columns if name in variables]], intercept=intercept)

    @property
    def kept(self) -> list[int]:
        """Which columns of the specification X has."""
        return [j for j, name in enumerate(self.spec.column_names) if self.intercept or str(name) != "Intercept"]

    def cells(self, data: pd.DataFrame) -> Cells:
        """Return how rows of a table are called in a message: by the values of their variables."""
        return lambda rows, columns: cells(self.spec, data, rows, [self.kept[j] for j in columns])

    @property
    def names(self) -> tuple[str, ...]:
        """The terms but the intercept, as the user wrote them."""
        return tuple(plain(str(term)) for term in self._effects)

    @property
    def _effects(self) -> list[Any]:
        return [term for term in self.spec.term_slices if str(term) != "1"]

    def codings(self) -> list[str]:
        """
        Return in words, a line each, which levels coefficients compare the others with, and which codings are others.

        A factor that has a column for each level is not compared with any.
        """
        scoped = (f for part in self.spec.structure for term in part.scoped_terms for f in term.factors)
        factors = dict.fromkeys(str(f.factor) for f in scoped if f.reduced)
        states = {plain(name): self.spec.encoder_state[name][1]["contrasts"] for name in factors}
        bases = {name: reference_of(state.contrasts, state.levels) for name, state in states.items()}
        references = [f"{name} = {base}" for name, base in bases.items() if base is not None]
        others = [name for name, base in bases.items() if base is None]
        return [
            *([f"reference levels: {', '.join(references)}"] if references else []),
            *(f"coding of {name}: {described_coding(states[name].contrasts, states[name].levels)}" for name in others),
        ]

    def find(self, name: str) -> str | None:
        """
        Return the term that a text means, None if there is none.

        The order of its factors and spaces do not matter. A factor may be called by its column, year for C(year), where
        one term alone is of that.
        """
        if name in self.names:
            return name
        wanted = _written(name.split(":"))
        by_column = []
        for text, term in zip(self.names, self._effects, strict=True):
            if wanted == _written(plain(str(factor)) for factor in term.factors):
                return text
            if wanted == _written(name for factor in term.factors for name in columns_in(names_of_factor(factor))):
                by_column.append(text)
        return by_column[0] if len(by_column) == 1 else None

    def encode(self, data: pd.DataFrame) -> Any:
        """Return X of new rows, dense or sparse as it was at the fit."""
        return self._of_spec(encode_new(self.spec, data).values)

    def _of_spec(self, values: Any) -> Any:
        return values if self.intercept else values[:, self.kept]

    def complete(self) -> CompleteDesign:
        """
        Return the design with a column for each level and cell, as XM.

        Raises
        ------
        ValueError
            If the contrasts of a factor are fewer than its differences, or X is kept sparse.
        """
        require_dense(self.spec, len(self.table))
        # contrasts of C(f, ...) are kept with its levels; without them a factor has a column for each level
        states = self.spec.transform_state.items()
        plainly = {call: state | dict.fromkeys(state.keys() & {"contrasts"}) for call, state in states}
        whole = encode_new(
            self.spec.update(ensure_full_rank=False, structure=None, transform_state=plainly), self.table
        )
        X = self.encode(self.table) if self.intercept else encode_new(self.spec, self.table).values
        size, norms = np.linalg.norm(X, axis=0), np.linalg.norm(whole.values, axis=0)
        scaled, size = X / np.where(size > 0, size, 1.0), np.where(size > 0, size, np.inf)
        M = np.linalg.lstsq(scaled, whole.values, rcond=1e-10)[0]
        slices = {plain(str(term)): place for term, place in whole.spec.term_slices.items()}
        far = np.linalg.norm(whole.values - scaled @ M, axis=0) > _RTOL * norms
        if far.any():
            terms = [name for name, place in slices.items() if far[place].any()]
            raise ValueError(
                f"the contrasts of {shown(terms)} are fewer than the differences of its levels, so that X cannot say "
                "what the term as a whole does: give a factor a contrast for each level but one, or test the columns, "
                "fit.test_fixed([names of coefficients])."
            )
        sizes = norms / math.sqrt(len(self.table))
        M = M / size[:, None]
        return CompleteDesign(M if self.intercept else M[self.kept], sizes, whole.columns, slices, self._contained())

    def _contained(self) -> dict[str, tuple[str, ...]]:
        """Return by term those with the same covariates and more factors."""
        parts = {}
        for term in self.spec.term_slices:
            factors = {str(factor) for factor in term.factors if str(factor) != "1"}
            parts[plain(str(term))] = factors, {factor for factor in factors if not self._is_factor(factor)}
        return {
            name: tuple(other for other, (more, same) in parts.items() if factors < more and same == covariates)
            for name, (factors, covariates) in parts.items()
            if factors
        }

    def _is_factor(self, name: str) -> bool:
        kind, _ = self.spec.encoder_state.get(name, (None, None))
        return kind is not None and kind.value == "categorical"

    def marginal(self, names: tuple[str, ...], at: Mapping[str, Any]) -> Marginal:
        """
        Return the averages of rows of X over the reference grid, for each combination of values of some columns.

        Raises
        ------
        ValueError
            If a name is no column, a covariate that is asked for has no values, the grid is too large, or X is kept
            sparse.
        """
        require_dense(self.spec, len(self.table))
        if not names or repeated(names):
            raise ValueError(f"means are of one column or of several different ones, got {', '.join(names) or 'none'}.")
        self._require_columns(names, "a mean is asked of")
        self._require_columns(at, "at has")
        values = {str(name): self._values(str(name), at) for name in self.table}
        if alone := [name for name in names if self._is_covariate(name) and name not in at]:
            raise ValueError(
                f"{alone[0]!r} is a covariate, which has no levels: give the values at which a mean is asked, "
                f"at={{{alone[0]!r}: [...]}}."
            )
        numbers = [name for name in names if name not in at and self._column(name).dtype.kind == "f"]
        if cut := [name for name in numbers if len(values[name]) < self.table[name].nunique()]:
            raise ValueError(
                f"the formula makes {len(values[cut[0]])} classes of {cut[0]!r}, which have no names: make "
                "them a column of the table, to have their means by name."
            )
        others = [name for name in values if name not in names]
        count = math.prod(map(len, values.values()))
        if count > _LARGEST:
            raise ValueError(
                f"the reference grid has {count} cells, those of {', '.join(values)}: leave levels out, at={{...}}."
            )
        made = list(itertools.product(*(values[name] for name in (*names, *others))))
        grid = pd.DataFrame(made, columns=[*names, *others], dtype=object).infer_objects()
        X, size = self.encode(grid), math.prod(len(values[name]) for name in names)
        rows = X.reshape(size, -1, X.shape[1]).mean(axis=1)
        return Marginal(grid[list(names)].iloc[:: count // size].reset_index(drop=True), rows, _over(values, others))

    def _require_columns(self, names: Iterable[str], what: str) -> None:
        if unknown := [name for name in names if name not in self.table]:
            raise ValueError(
                f"{what} {shown(unknown)}, which is no column of the fixed effects: they are "
                f"{', '.join(map(str, self.table.columns)) or 'none'}."
            )

    def _values(self, name: str, at: Mapping[str, Any]) -> list[Any]:
        """Return the values of a column in the reference grid."""
        if name in at:
            given = at[name]
            return [given] if isinstance(given, str) or np.ndim(given) == 0 else list(given)
        column = self._column(name)
        if self._is_covariate(name):
            return [float(column.mean())]
        if isinstance(column.dtype, pd.CategoricalDtype):
            return column.cat.categories.tolist()
        levels = sorted(column.unique().tolist())
        if column.dtype.kind != "f":
            return levels
        if all(level.is_integer() for level in levels):
            levels = list(map(int, levels))
        rows = self.table.iloc[[0] * len(levels)].assign(**{name: levels})
        _, first = np.unique(self.encode(rows), axis=0, return_index=True)
        return [levels[i] for i in sorted(first)]

    def _column(self, name: str) -> "pd.Series[Any]":
        return read_column(self.table[name])

    def _is_covariate(self, name: str) -> bool:
        """Return whether a column is a number in a factor of the formula."""
        if self._column(name).dtype.kind != "f":
            return False
        factors = [factor for term in self.spec.term_slices for factor in term.factors]
        return any(name in columns_in(names_of_factor(f)) and not self._is_factor(str(f)) for f in factors)


def _written(parts: Iterable[str]) -> list[str]:
    """Return parts of a name in their order, without spaces, and with the power as formulaic writes it."""
    return sorted(part.replace(" ", "").replace("^", "**") for part in parts)


def _over(values: Mapping[str, list[Any]], others: list[str]) -> str:
    """Return in words what a mean is averaged over, and where it is."""
    averaged = [name for name in others if len(values[name]) > 1]
    alone = {name: values[name][0] for name in others if len(values[name]) == 1}
    held = [f"{name} = {f'{at:.6g}' if isinstance(at, float) else at}" for name, at in alone.items()]
    over = f", averaged over {' and '.join(averaged)}" if averaged else ""
    return over + (f", at {', '.join(held)}" if held else "")
