"""Design: y, X and K brought together, without the rows in which a value is missing."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.base.arrays import (
    FloatArray,
    Ids,
    Labelled,
    align,
    common_ids,
    frozen,
    read,
    read_covariance,
    require_finite,
    require_length,
)
from pm_fastlmm.base.choices import Negative
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.base.remedies import selection
from pm_fastlmm.base.spelling import places, spelling_hint
from pm_fastlmm.models.missing_rows import complete, counts_of, dropped_rows, gaps_of, rows_dropped
from pm_fastlmm.spectrum.individuals import read_individual
from pm_fastlmm.spectrum.responses import response_name
from pm_fastlmm.spectrum.source import Source
from pm_fastlmm.spectrum.sparse_projection import projection_of
from pm_fastlmm.spectrum.spectrum import Spectrum
from pm_fastlmm.spectrum.weights import require_weights

_LABELLED = {"K": "DataFrame", "W": "DataFrame", "individual": "Series"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Design(ReadOnlyArrays, Described):
    """
    Response, fixed-effects design and kernel of the same observations in the same order, without missing values.

    Attributes
    ----------
    y : (n,) or (n, T) array
    X : (n, r) array
    kernel : (n, n) or (n, m) array
        K, or W with K = WWᵀ; (q, q) or (q, m) of q individuals, where they have repeated records.
    kernel_is_factor : bool
    columns : tuple of str
        Names of the columns of X.
    responses : tuple of str or None
        Names of several responses.
    ids : Index or None
        Of the rows that are left: `table.loc[design.ids]` are theirs.
    dropped : tuple
        Ids (row numbers when there are none) of the rows that were left out for a missing value.
    missing : dict
        How many values each column lacks, of those that lack any.
    individual : (n,) array or None
        With repeated records which row of K or W each row is a record of.
    individuals : tuple or None
        Ids of the rows of K or W, where these are individuals.
    formula : str or None
        The right-hand side of the formula that X was made from.
    fixed : FixedTerms or None
        What X was made from, where that is a formula.
    response : str or None
        The name of one response, where it has any.
    weights : (n,) array or None
        Prior weights, Var(e_i) = σ²_e/w_i.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import pm_fastlmm as flmm
    >>> table = pd.DataFrame(
    ...     {"y": [1.0, 2.0, 4.0, 3.5], "sex": ["f", "m", "f", "m"]}, index=["a", "b", "c", "d"]
    ... )
    >>> K = pd.DataFrame(np.eye(4) + 0.5, index=list("dcba"), columns=list("dcba"))
    >>> design = flmm.Design.from_formula("y ~ sex", table, K=K)
    >>> design
    Design(4 observations, fixed effects: Intercept, sex[T.m]; 0 rows dropped)
    >>> design.spectrum().rank
    2
    """

    y: FloatArray
    X: FloatArray
    kernel: FloatArray
    kernel_is_factor: bool
    columns: tuple[str, ...]
    responses: tuple[str, ...] | None
    ids: pd.Index | None
    dropped: tuple[Any, ...]
    missing: dict[str, int]
    individual: npt.NDArray[np.intp] | None = None
    individuals: Ids | None = None
    formula: str | None = None
    fixed: Any = None
    response: str | None = None
    weights: FloatArray | None = None

    @classmethod
    def from_arrays(
        cls, y: Any, X: Any = None, *, K: Any = None, W: Any = None, individual: Any = None, weights: Any = None
    ) -> Self:
        """
        Align arrays, Series and DataFrames by their ids, and drop the rows in which y or X is missing.

        With `individual`, one label for each row, K or W is of individuals that have repeated records: row i is a
        record of individual[i]. Rows in which it is missing are dropped too. So are those in which `weights`, prior
        weights of the rows, are missing.

        Raises
        ------
        ValueError
            If lengths or ids do not fit, K or W has missing values, a weight is not positive, or not exactly one of K
            and W is given.
        """
        return cls._aligned(y, X, K, W, individual, weights)

    @classmethod
    def _aligned(cls, y: Any, X: Any, K: Any, W: Any, individual: Any, weights: Any, table_gaps: Any = None) -> Self:
        """Align arrays by their ids; `table_gaps`, by row and column of a table, are in place of those of y and X."""
        kernel, kernel_name = _read_kernel(K, W)
        rows, rows_name = kernel, kernel_name
        if individual is not None:
            rows, rows_name = read_individual(individual, kernel, kernel_name), "individual"
        n = rows.values.shape[0]
        response = read(y, "y", ndim=(1, 2))
        design = None if X is None else read(X, "X", ndim=(1, 2))
        own = None if weights is None else read(weights, "weights", ndim=(1,))
        reference_name, ids = common_ids(**{rows_name: rows, "y": response, "X": design, "weights": own})
        if rows.ids is None and design is not None and {design.ids, response.ids} - {None, ids}:
            hint = spelling_hint(design.ids or (), response.ids or ())
            raise ValueError(
                f"{rows_name} has no ids, and y and X have different ones or another order: "
                f"which row of {rows_name} is whose? Give {rows_name} as a {_LABELLED[rows_name]} with ids."
                f"{' ' if hint else ''}{hint}"
            )
        advice = selection(kernel_name, ids) if reference_name == kernel_name else ""

        def in_order(part: Labelled, name: str) -> FloatArray:
            order = align(ids, part, name=name, reference_name=reference_name, where_smaller=advice)
            require_length(part.values.shape[0], n, name, rows_name)
            return part.take(order)

        Y = in_order(response, "y")
        M = np.zeros((n, 0)) if design is None else in_order(design, "X")
        M = M[:, None] if M.ndim == 1 else M
        given = None if design is None else design.names
        coef = given or tuple(f"x{j}" for j in range(M.shape[1]))
        K_or_W, is_factor = kernel.values, kernel_name == "W"
        place = None if individual is None else rows.values
        w = None if own is None else in_order(own, "weights")
        _refuse_infinite(Y, M)
        if table_gaps is None:
            several = tuple(f"y{t}" for t in range(Y.shape[1])) if Y.ndim == 2 else (response_name(y) or "y",)
            gaps = gaps_of(Y, response.names or several) | gaps_of(M, coef)
        else:
            of_table = read(table_gaps, "data", ndim=(2,))
            gaps = {name: gap > 0 for name, gap in zip(table_gaps, in_order(of_table, "data").T, strict=True)}
        for name, given_as, values in (("individual", individual, place), ("weights", weights, w)):
            if values is not None and np.isnan(values).any():
                gaps |= {str(getattr(given_as, "name", None) or name): np.isnan(values)}
        seen = complete(gaps, n)
        dropped = dropped_rows(seen, gaps, ids)
        if dropped:
            Y, M, w = Y[seen], M[seen], None if w is None else w[seen]
            if place is None:
                K_or_W = K_or_W[seen] if is_factor else K_or_W[np.ix_(seen, seen)]
            else:
                place = place[seen]
            ids = None if ids is None else tuple(i for i, keep in zip(ids, seen, strict=True) if keep)
        names = response.names if Y.ndim == 2 else None
        if w is not None:
            require_weights(w, ids)
            w = frozen(w.copy())
        index = None if ids is None else _index(ids)
        common = (frozen(Y.copy()), frozen(M.copy()), K_or_W, is_factor, coef, names, index, dropped, counts_of(gaps))
        made = cls(*common, response=response_name(y), weights=w)
        return made if place is None else replace(made, individual=place.astype(np.intp), individuals=kernel.ids)

    @classmethod
    def from_formula(
        cls, formula: str, data: pd.DataFrame, *, K: Any = None, W: Any = None, individual: Any = None,
        weights: Any = None,
    ) -> Self:  # fmt: skip
        """
        Read y and X from a formula and a table, whose index holds the ids.

        Formulas are Wilkinson's, written as in R or in formulaic: "height ~ sex + factor(year) + I(age^2)".
        `individual` and `weights`, as in `from_arrays`, may be names of columns.

        Raises
        ------
        ValueError
            If the formula has no response or names a column that is not there, or as `from_arrays`.
        """
        from pm_fastlmm.models.fixed_terms import FixedTerms  # formulaic takes a tenth of a second, arrays need none
        from pm_fastlmm.models.formula import fixed_effects
        from pm_fastlmm.models.formulas.bars import split_formula
        from pm_fastlmm.models.known_rows import Column

        fixed, random = split_formula(formula, data.columns if isinstance(data, pd.DataFrame) else ())
        if random:
            raise ValueError(
                f"formula {formula!r} has a random term: one kernel is given as K or W, for (1|group) as "
                "K=flmm.covariance.grouping(table['group']); random terms go to flmm.lmm_model."
            )
        *encoded, gaps = fixed_effects(fixed, data, whole=formula)
        y, X = (pd.DataFrame(part.values, index=data.index, columns=list(part.columns)) for part in encoded)
        if isinstance(individual, str):
            if individual not in data.columns:
                raise ValueError(
                    f"individual={individual!r} is not among the columns {', '.join(map(str, data.columns))}."
                )
            individual = data[individual]
        if (column := Column.read(weights, data, "weights")) is not None:
            weights = pd.Series(column.values, index=data.index, name=column.name)
        response = y.iloc[:, 0] if y.shape[1] == 1 else y
        made = cls._aligned(response, X, K, W, individual, weights, pd.DataFrame(gaps, index=data.index))
        rows = data if made.ids is None else data.iloc[places(made.ids.tolist(), data.index.tolist())]
        return replace(made, fixed=FixedTerms.of(encoded[1].spec, rows), formula=formula.partition("~")[2].strip())

    def spectrum(self, *, rtol: float | None = None, negative: Negative = "error") -> Spectrum:
        """
        Factor the kernel, with its weights, and X projected out.

        `rtol` and `negative` as in `Spectrum.from_covariance`.
        """
        own = None if self.ids is None else tuple(self.ids.tolist())
        X, ids, rows = Labelled(self.X, own, self.columns), own, None
        if self.individual is not None:
            ids, rows = self.individuals, Labelled(self.individual.astype(float), own, None)
        kernel = Labelled(self.kernel, ids, None)
        known: dict[str, Any] = {
            "individual": rows,
            "weights": None if self.weights is None else Labelled(self.weights, own, None),
        }
        if self.kernel_is_factor:
            spectrum = Spectrum.from_factor(kernel, X, **known)
        else:
            spectrum = Spectrum.from_covariance(kernel, X, rtol=rtol, negative=negative, **known)
        fixed = self.fixed
        source = Source(self.formula, self.response, self.y, self.rows_dropped if self.dropped else "")
        return replace(spectrum.with_projections(lambda part: part.made_from(fixed)), source=source)

    @property
    def rows_dropped(self) -> str:
        """In words how many rows were dropped, and how many values each column lacks."""
        return rows_dropped(self.dropped, self.missing)

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the coefficients of a fit: columns that are combinations of earlier ones are left out."""
        return coefficients_of(self.X, self.columns)

    def __repr__(self) -> str:
        """Show sizes, names and how many rows were dropped."""
        effects = listed(self.columns)
        return f"Design({len(self.y)} observations, fixed effects: {effects}; {self.rows_dropped})"

    def _facts(self) -> dict[str, Any]:
        w = self.weights
        weighted = {} if w is None else {"prior weights": f"{w.min():.6g} to {w.max():.6g}"}
        individuals = {} if self.individual is None else {"individuals": len(self.kernel)}
        return {
            "observations": len(self.y),
            "responses": 1 if self.responses is None else f"{len(self.responses)}: {listed(self.responses)}",
            "fixed effects": listed(self.columns),
            "kernel": f"{'W' if self.kernel_is_factor else 'K'}, {' × '.join(map(str, self.kernel.shape))}",
            "rows": self.rows_dropped + (f": {listed(self.dropped)}" if self.dropped else ""),
        } | individuals | weighted  # fmt: skip


def _index(ids: Ids) -> pd.Index:
    """Return ids as they are: those of several types stay objects, or a whole number among floats would lose digits."""
    alike = len({type(label) for label in ids}) == 1
    return pd.Index(ids, dtype=None if alike else object, tupleize_cols=False)


def _refuse_infinite(*parts: FloatArray) -> None:
    if infinite := sum(int(np.isinf(part).sum()) for part in parts):
        raise ValueError(
            f"y and X have {infinite} infinite values: mend them, or set them to NaN to have them dropped."
        )


def coefficients_of(X: Any, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the columns that a fit keeps; it is the fit that warns of the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return projection_of(X, columns).coef


def _read_kernel(K: Any, W: Any) -> tuple[Labelled, str]:
    if (K is None) == (W is None):
        raise ValueError("give exactly one of K (covariance) and W (factor, K = W Wᵀ).")
    if K is not None:
        return read_covariance(K), "K"
    factor = read(W, "W", ndim=(2,))
    require_finite(factor.values, "W", "impute the missing columns first (flmm.covariance.markers does for genotypes).")
    return factor, "W"
