"""EquivalentRows: the few rows of which several terms are made when the rows of the data were not kept."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pm_fastlmm.base.arrays import FloatArray, Ids, frozen, shown
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.directions import Direction
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.engines.structured.products import MixedProducts
from pm_fastlmm.spectrum.streams.directions import reduce_rows
from pm_fastlmm.spectrum.streams.factor import GRAM_RATIO
from pm_fastlmm.spectrum.streams.statistics import CrossProducts


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EquivalentRows(ReadOnlyArrays, Described):
    """
    Rows with the same inner products as the n rows that `CrossProducts` added up.

    Attributes
    ----------
    X, W : DataFrame (k, d) and (k, m)
        Named columns, k ≤ d + m + 1. They may be selected and multiplied by constants, or combined linearly; their
        index marks them as equivalent rows.
    y : (k,) array
        The response.
    n : int
        The number of observations.
    largest_ratio : float
        λ_max/δ up to which they are as precise as the rows of the data: finite for those of inner products, "gram".
    """

    X: pd.DataFrame
    W: pd.DataFrame
    y: FloatArray
    n: int
    largest_ratio: float = float("inf")

    @property
    def ids(self) -> Ids:
        """The labels of the rows."""
        return tuple(self.W.index.tolist())

    @property
    def closed(self) -> bool:
        """Whether the last row is that of y alone, in which every linear combination of X and W is 0."""
        return not (self.X.iloc[-1].any() or self.W.iloc[-1].any())

    def __repr__(self) -> str:
        """Show the sizes."""
        return f"EquivalentRows({len(self.y)} rows for {self.n}, X: {shown(list(self.X))}, W: {shown(list(self.W))})"

    def _facts(self) -> dict[str, Any]:
        return {"rows": len(self.y), "observations": self.n, "X": listed(list(self.X)), "W": listed(list(self.W))}


def equivalent_rows(c: CrossProducts, response: str | None = None) -> EquivalentRows:
    """
    Return a few rows that replace the n rows that were added up, for any linear mixed model of columns of X and W.

    A likelihood of y ~ N(Xβ, Σ Z_kG_kZ_kᵀ + σ²_eI), Z_k columns of W, depends on the rows through n and the inner
    products of [X W y] alone. So `StructuredLMM` may have rows with the same inner products in their place,

        rows = flmm.equivalent_rows(c)
        terms = [flmm.Term(rows.W[["m1", "m2"]], flmm.covariance.scalar(v), name="markers"), ...]
        flmm.StructuredLMM("y", X=rows.X, terms=terms, sigma2_e=v_e, observed=rows)

    and all that follows is that of the data: `find_reml`, `sample`, `recover_effects`, û, its error variance, and
    predictions of rows that are given as matrices. What has a value for each observation is an error.

    Parameters
    ----------
    c : CrossProducts
    response : str, optional
        Which of several responses.

    Returns
    -------
    EquivalentRows

    Raises
    ------
    ValueError
        If there are no rows, or several responses and none of that name.

    Warns
    -----
    UserWarning
        If what X and W leave of y is below the rounding of inner products, so that it is taken to be 0.

    Notes
    -----
    They are the triangle of a QR factorisation of [X W y]: R of X; below it a root of the inner products of W that X
    leaves ("gram"), or the triangle of W ("tsqr"); and last a row with y alone, the length of what X and W leave of it.
    A draw of that length is σ_e times a χ with n - k + 1 degrees of freedom. Several terms work with inner products of
    W by either method; "tsqr" is more precise where they explain nearly all of y. One kernel alone is faster with
    `FastLMM` and `c.factor()`, which costs O(m) for an evaluation and not O(m³).

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(0)
    >>> W = pd.DataFrame(rng.normal(size=(5000, 8)), columns=[f"m{j}" for j in range(8)])
    >>> y = 2.0 + W.to_numpy() @ (rng.normal(size=8) * [1, 1, 1, 1, 1, 0.1, 0.1, 0.1]) + rng.normal(size=5000)
    >>> rows = flmm.equivalent_rows(flmm.CrossProducts.from_arrays(np.ones((5000, 1)), W, y))
    >>> rows
    EquivalentRows(10 rows for 5000, X: 'x0', W: 'm0', 'm1', 'm2', 'm3', 'm4' and 3 more)
    >>> with pm.Model() as model:
    ...     large, small, v_e = (pm.HalfNormal(name, 2) for name in ("large", "small", "v_e"))
    ...     terms = [
    ...         flmm.Term(rows.W.iloc[:, :5], flmm.covariance.scalar(large), name="large"),
    ...         flmm.Term(rows.W.iloc[:, 5:], flmm.covariance.scalar(small), name="small"),
    ...     ]
    ...     node = flmm.StructuredLMM("y", X=rows.X, terms=terms, sigma2_e=v_e, observed=rows)
    >>> print(flmm.find_reml(model, progressbar=False).theta.round(3).to_dict())
    {'large': 0.236, 'small': 0.006, 'residual': 1.0}
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
    return EquivalentRows(
        X=pd.DataFrame(rows.X, index=index, columns=list(coef)),
        W=pd.DataFrame(rows.W, index=index, columns=list(factor)),
        y=frozen(rows.y),
        n=c.n,
        largest_ratio=GRAM_RATIO if c.method == "gram" else float("inf"),
    )


def as_equivalent(observed: Any) -> EquivalentRows | None:
    """Return equivalent rows that were given as data, those of cross-products too; None for anything else."""
    if isinstance(observed, CrossProducts):
        return equivalent_rows(observed)
    return observed if isinstance(observed, EquivalentRows) else None


def require_rows(products: MixedProducts) -> None:
    """Raise a ValueError where the rows of the data were not kept."""
    if not products.rows_kept:
        raise ValueError(
            "the rows of X, W and y were not kept, only their cross-products: nothing with one value for each "
            "observation is there. Stream the rows again and predict them block by block, "
            "fit.predict(X_block, {term: W_block})."
        )
