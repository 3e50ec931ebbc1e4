"""TermStatistics: the few rows of which several terms are made when the rows of the data were not kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Ids, frozen, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.directions import Direction
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.engines.term_products import TermProducts
from pm_fastlmm.spectrum.streams.factor import GRAM_RATIO, reduce_rows
from pm_fastlmm.spectrum.streams.statistics import KernelStatistics


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TermStatistics(ReadOnlyArrays, Described):
    """
    Sufficient statistics of [X Z y] for several terms: a few rows with the same inner products as the n of the data.

    A likelihood of y ~ N(Xβ, Σ Z_kG_kZ_kᵀ + σ²_eI), Z_k columns of Z, depends on the rows through n and the inner
    products of [X Z y] alone. So `StructuredLMM` may have rows with the same inner products in their place,

        s = flmm.TermStatistics.from_arrays(X, Z, y)
        terms = [flmm.Term(s.Z[["m1", "m2"]], flmm.covariance.scalar(v), name="markers"), ...]
        flmm.StructuredLMM("y", X=s.X, terms=terms, sigma2_e=v_e, observed=s)

    and all that follows is that of the data: `find_reml`, `sample`, `recover_effects`, û, its error variance, and
    predictions of rows that are given as matrices. What has a value for each observation is an error.

    Build it with `from_arrays`, `from_blocks`, `from_rows` or `from_dask`; or with `from_statistics`, from
    `KernelStatistics` that were updated and merged.

    Attributes
    ----------
    X, Z : DataFrame (k, d) and (k, m)
        Named columns, k ≤ d + m + 1. They may be selected and multiplied by constants, or combined linearly; their
        index marks them as rows that are no observations.
    y : (k,) array
        The response.
    n : int
        The number of observations.
    largest_ratio : float
        λ_max/δ up to which they are as precise as the rows of the data: finite for those of inner products, "gram".

    Notes
    -----
    They are the triangle of a QR factorisation of [X Z y]: R of X; below it a root of the inner products of Z that X
    leaves ("gram"), or the triangle of Z ("tsqr"); and last a row with y alone, the length of what X and Z leave of it.
    A draw of that length is σ_e times a χ with n - k + 1 degrees of freedom. Several terms work with inner products of
    Z by either method; "tsqr" is more precise where they explain nearly all of y. One kernel alone is faster with
    `FastLMM` and `KernelStatistics.factor`, which costs O(m) for an evaluation and not O(m³).

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(0)
    >>> Z = pd.DataFrame(rng.normal(size=(5000, 8)), columns=[f"m{j}" for j in range(8)])
    >>> y = (
    ...     2.0
    ...     + Z.to_numpy() @ (rng.normal(size=8) * [1, 1, 1, 1, 1, 0.1, 0.1, 0.1])
    ...     + rng.normal(size=5000)
    ... )
    >>> s = flmm.TermStatistics.from_arrays(np.ones((5000, 1)), Z, y)
    >>> s
    TermStatistics(10 rows for 5000, X: 'x0', Z: 'm0', 'm1', 'm2', 'm3', 'm4' and 3 more)
    >>> with pm.Model() as model:
    ...     large, small, v_e = (pm.HalfNormal(name, 2) for name in ("large", "small", "v_e"))
    ...     terms = [
    ...         flmm.Term(s.Z.iloc[:, :5], flmm.covariance.scalar(large), name="large"),
    ...         flmm.Term(s.Z.iloc[:, 5:], flmm.covariance.scalar(small), name="small"),
    ...     ]
    ...     node = flmm.StructuredLMM("y", X=s.X, terms=terms, sigma2_e=v_e, observed=s)
    >>> print(flmm.find_reml(model, progressbar=False).theta.round(3).to_dict())
    {'large': 0.236, 'small': 0.006, 'residual': 1.0}
    """

    X: pd.DataFrame
    Z: pd.DataFrame
    y: FloatArray
    n: int
    largest_ratio: float = float("inf")

    @classmethod
    def from_arrays(cls, X: Any, Z: Any, y: Any, *, response: str | None = None, **options: Any) -> Self:
        """
        Return the statistics of rows in memory.

        Parameters
        ----------
        X, Z, y, **options
            As X, W and y in `KernelStatistics.from_arrays`, Z with the columns of all terms.
        response : str, optional
            Which of several responses.

        Raises
        ------
        ValueError
            As `from_statistics` and `KernelStatistics.from_arrays`.
        """
        return cls.from_statistics(KernelStatistics.from_arrays(X, Z, y, **options), response)

    @classmethod
    def from_blocks(
        cls, blocks: Iterable[tuple[Any, Any, Any]], *, response: str | None = None, **options: Any
    ) -> Self:
        """Add up blocks (X, Z, y) as they come; the options are those of `KernelStatistics.from_blocks`."""
        return cls.from_statistics(KernelStatistics.from_blocks(blocks, **options), response)

    @classmethod
    def from_rows(cls, X: Any, Z: Any, y: Any, *, response: str | None = None, **options: Any) -> Self:
        """Add up rows of arrays that are sliced from where they are stored, as `KernelStatistics.from_rows`."""
        return cls.from_statistics(KernelStatistics.from_rows(X, Z, y, **options), response)

    @classmethod
    def from_dask(cls, X: Any, Z: Any, y: Any, *, response: str | None = None, **options: Any) -> Self:
        """Add up Dask arrays, chunk by chunk, as `KernelStatistics.from_dask`."""
        return cls.from_statistics(KernelStatistics.from_dask(X, Z, y, **options), response)

    @classmethod
    def from_statistics(cls, c: KernelStatistics, response: str | None = None) -> Self:
        """
        Return those of rows that were added up with the columns of all terms as W.

        Parameters
        ----------
        c : KernelStatistics
        response : str, optional
            Which of several responses.

        Raises
        ------
        ValueError
            If there are no rows, or several responses and none of that name.

        Warns
        -----
        UserWarning
            If what X and Z leave of y is below the rounding of inner products, so that it is taken to be 0.
        """
        c.require_rows()
        columns = c.columns
        names = columns.responses
        if names is None and response is not None:
            raise ValueError(f"response is {response!r}, but y has one response without a name: leave it out.")
        if names is not None and response is None and len(names) > 1:
            raise ValueError(f"y has {len(names)} responses ({shown(names)}): say which one with response=.")
        if names is not None and response is not None and response not in names:
            raise ValueError(f"there is no response {response!r}: they are {shown(names)}.")
        rows = reduce_rows(c, 0 if names is None or response is None else names.index(response))
        d, m, _ = c.sizes
        index = pd.Index([Direction(i, c.n) for i in range(rows.y.size)], dtype=object)
        coef = columns.coef or [f"x{j}" for j in range(d)]
        factor = columns.factor or [f"w{j}" for j in range(m)]
        return cls(
            X=pd.DataFrame(rows.X, index=index, columns=list(coef)),
            Z=pd.DataFrame(rows.W, index=index, columns=list(factor)),
            y=frozen(rows.y),
            n=c.n,
            largest_ratio=GRAM_RATIO if c.method == "gram" else float("inf"),
        )

    @property
    def ids(self) -> Ids:
        """The labels of the rows."""
        return tuple(self.Z.index.tolist())

    @property
    def closed(self) -> bool:
        """Whether the last row is that of y alone, in which every linear combination of X and Z is 0."""
        return not (self.X.iloc[-1].any() or self.Z.iloc[-1].any())

    def __repr__(self) -> str:
        """Show the sizes."""
        return f"TermStatistics({len(self.y)} rows for {self.n}, X: {shown(list(self.X))}, Z: {shown(list(self.Z))})"

    def _facts(self) -> dict[str, Any]:
        return {"rows": len(self.y), "observations": self.n, "X": listed(list(self.X)), "Z": listed(list(self.Z))}


def as_term_statistics(observed: Any) -> TermStatistics | None:
    """Return the statistics that were given as data, those of one kernel too; None for anything else."""
    if isinstance(observed, KernelStatistics):
        return TermStatistics.from_statistics(observed)
    return observed if isinstance(observed, TermStatistics) else None


def require_rows(products: TermProducts) -> None:
    """Raise a ValueError where the rows of the data were not kept."""
    if not products.rows_kept:
        raise ValueError(
            "the rows of X, Z and y were not kept, only their statistics: nothing with one value for each "
            "observation is there. Stream the rows again and predict them block by block, "
            "fit.predict(X_block, {term: Z_block})."
        )
