"""Spectrum: what depends on K and X; Rotated: what depends on y as well, the sufficient statistic."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg

from pm_fastlmm.base.across import corner_root
from pm_fastlmm.base.arrays import (
    EPS,
    FloatArray,
    Ids,
    Labelled,
    align,
    frozen,
    read,
    read_covariance,
    require_length,
    require_range,
    slices,
)
from pm_fastlmm.base.choices import Negative
from pm_fastlmm.base.copies import ReadOnlyArrays
from pm_fastlmm.base.display import Described, listed
from pm_fastlmm.spectrum.factoring import factor_corner_root, positive_eigenvalues
from pm_fastlmm.spectrum.individuals import Individuals, read_individual, require_individuals
from pm_fastlmm.spectrum.projection import Projection, kernel_design, no_rows
from pm_fastlmm.spectrum.responses import read_response, response_name
from pm_fastlmm.spectrum.source import Source
from pm_fastlmm.spectrum.weights import UNWEIGHTED, PriorWeights

_BLOCK = 1000  # responses that are rotated at once: fewer copy the basis more often, more fetch new memory


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Spectrum(ReadOnlyArrays, Described):
    """
    Spectral rotation of a known covariance with the fixed effects projected out; serves any number of responses.

    For y ~ N(Xβ, σ²(K + δI)), X = Q₁R and Q₂ an orthonormal basis of what is orthogonal to X,

        Q₂ᵀKQ₂ = U diag(λ) Uᵀ,   z = (Q₂U)ᵀy ~ N(0, diag(σ²(λ + δ)))

    so that after one factorisation the restricted likelihood is a sum over i. Eigenvectors with λ = 0 are not kept:
    the `nullity` directions that they span enter through the squared norm of y in them alone (`Rotated.rss`).

    With prior weights w the model is y ~ N(Xβ, σ²(K + δ diag(1/w))), Var(e_i) = σ²_e/w_i. Rows times √w have equal
    residual variances: all of the above is then of √w y, √w X and √w K √w, k̄ too. What has rows (`X`, `diagonal`,
    effects, predictions) is of y itself, and so are log-likelihoods.

    Build it with `from_covariance` or `from_factor`, or from rows that do not fit in memory with `KernelStatistics`.
    Instances are immutable.

    Attributes
    ----------
    eigvals : (k,) array
        Positive eigenvalues λ, ascending, in units of K.
    rotation : (n, k) array or None
        Q₂U, orthonormal columns; None when the rows were not kept (`KernelStatistics.factor`). `basis` is the same, and
        raises then.
    projection : Projection
        The QR factors of X, with weights of √w X, and the names of its columns. That of X itself is `design`.
    C : (k, r) array
        (Q₂U)ᵀKQ₁: with S₀ what β̂ and predictions need beyond λ.
    corner_root : (r, r) array
        A root of the Schur complement S₀ = K₁₁ - CᵀΛ⁻¹C, its rank that of S₀ to rounding.
    nullity : int
        Number of directions with λ = 0, ν = p - k.
    mean_diagonal : float
        k̄ = tr(K)/n, with weights Σw_iK_ii/n. σ²k̄/w̄ is the mean variance that K explains, by weight, w̄ the mean of w
        or 1; h² = k̄/(k̄ + δ), total = σ²(k̄ + δ)/w̄.
    ids : tuple or None
        Ids of the observations, when K, W or X carried any.
    loadings, loadings_fixed : (k, m) and (r, m) arrays, or None
        (Q₂U)ᵀW and Q₁ᵀW when built from a factor.
    factor_names : tuple of str or None
        Names of the columns of W, when it carried any.
    largest_ratio : float
        The λ_max/δ up to which the eigenvalues are precise: infinite after an orthogonal factorisation, 1e8 after that
        of a Gram matrix, beyond which `reml` says so.
    individuals : Individuals or None
        Whose record each row is, where K is between individuals (`individual=`): `ids` and a factor `root` of their K.
        Effects are then those of individuals; `rotation`, k̄ and all else of the spectrum belong to ZKZᵀ.
    source : Source or None
        What is known of the table that the rows come from (`Design.spectrum`), for what is printed.
    weights : PriorWeights
        √w, None where the residuals have one variance.
    unweighted : Projection or None
        The QR of X itself, where there are weights.

    References
    ----------
    Lippert et al. (2011), FaST linear mixed models, doi:10.1038/nmeth.1681.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> W = rng.normal(size=(30, 40))
    >>> spectrum = flmm.Spectrum.from_covariance(W @ W.T / 40, np.ones((30, 1)))
    >>> spectrum
    Spectrum(n=30, rank=29, nullity=0, fixed effects: x0)
    >>> spectrum.rotate(rng.normal(size=30)).z.shape
    (29,)
    """

    eigvals: FloatArray
    rotation: FloatArray | None
    projection: Projection
    C: FloatArray
    corner_root: FloatArray
    nullity: int
    mean_diagonal: float
    ids: Ids | None
    loadings: FloatArray | None = None
    loadings_fixed: FloatArray | None = None
    factor_names: tuple[str, ...] | None = None
    largest_ratio: float = math.inf
    individuals: Individuals | None = None
    source: Source | None = None
    weights: PriorWeights = UNWEIGHTED
    unweighted: Projection | None = None

    @classmethod
    def from_covariance(
        cls, K: Any, X: Any = None, *, individual: Any = None, weights: Any = None, rtol: float | None = None,
        negative: Negative = "error",
    ) -> "Spectrum":  # fmt: skip
        """
        Factor a dense covariance.

        Parameters
        ----------
        K : (n, n) array or DataFrame
            Symmetric positive semi-definite, or so but for directions that lie in X (an intercept, for one): those say
            nothing of the variances. It is not scaled. Labelled columns are put into the order of the rows.
        X : (n, d) array or DataFrame, optional
            Fixed-effects design; None for no fixed effects (an intercept is not added). Rows are matched by id when
            both carry an index.
        individual : sequence of labels, optional
            Whose record each row of X and y is, for repeated records: K is then (q, q) between individuals, and the
            rows have the covariance ZKZᵀ. Individuals may have any number of records, none too.
        weights : (n,) array or Series, optional
            Prior weights w of the rows (of the records, where they are repeated), Var(e_i) = σ²_e/w_i: positive
            numbers, 1 by default. A Series is matched by id.
        rtol : float, optional
            Eigenvalues within ±rtol of the largest one count as zero. Default n · eps of the number type of K; pass a
            larger value, say 1e-6, for a K that was rounded when it was stored.
        negative : {"error", "zero"}
            What becomes of eigenvalues below that, across X: an error, which says how large they are, or 0, as in
            GEMMA. A relationship matrix of which each pair was divided by its own number of markers has such.

        Raises
        ------
        ValueError
            If K is not square, finite, symmetric and, across X, positive semi-definite, if ids do not match, if K lacks
            an individual that has records, if a weight is not positive, or if X leaves no degrees of freedom.

        Notes
        -----
        Costs one symmetric eigendecomposition, plus 4n²r for the projection. With repeated records one of size q, and
        the singular value decomposition of an (n, q) factor.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> import pm_fastlmm as flmm
        >>> K = pd.DataFrame(
        ...     [[1, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]], list("abc"), list("abc")
        ... )
        >>> records = pd.DataFrame({"id": list("aabbab"), "y": [1.0, 1.3, 2.1, 2.4, 0.7, 2.2]})
        >>> X, who = np.ones((6, 1)), records["id"]
        >>> spectrum = flmm.Spectrum.from_covariance(K, X, individual=who)
        >>> flmm.reml(spectrum, records["y"]).blup().round(2).to_dict()
        {'a': -0.6, 'b': 0.6, 'c': 0.3}

        A record that is the mean of four has the weight 4:

        >>> weighted = flmm.Spectrum.from_covariance(
        ...     K, X, individual=who, weights=[4, 1, 1, 1, 4, 1]
        ... )
        >>> flmm.reml(weighted, records["y"]).blup().round(2).to_dict()
        {'a': -0.65, 'b': 0.65, 'c': 0.32}
        """
        covariance = read_covariance(K)
        if individual is not None:
            rows = require_individuals(read_individual(individual, covariance, "K"))
            individuals = Individuals.of_covariance(covariance, rows, X, rtol, negative)
            found = _of_individuals(cls, individuals, rows, X, None, weights)
            diagonal = np.diag(covariance.values)[individuals.place]
            return replace(found, mean_diagonal=float(np.mean(found.weights.values * diagonal)))
        ids, design = kernel_design(covariance, X, "K")
        w = PriorWeights.read(weights, len(covariance.values), ids, "K")
        projection, values = w.projection(design), w.matrix(covariance.values)
        trace = float(np.trace(values))
        K11, K21, K22 = projection.two_sided(values)
        values, U = scipy.linalg.eigh(K22, lower=True, driver="evd", overwrite_a=True, check_finite=False)
        spectrum = spectrum_of_eigenvalues(projection, values, K11, U.T @ K21, rtol, K, ids, trace, negative)
        rotation = frozen(projection.lift(U[:, spectrum.nullity :]))
        return replace(spectrum, rotation=rotation, weights=w, unweighted=_unless_same(design, projection))

    @classmethod
    def from_factor(cls, W: Any, X: Any = None, *, individual: Any = None, weights: Any = None) -> Self:
        """
        Factor K = WWᵀ from W, at the cost of a thin singular value decomposition: O(n m²) for m columns.

        Parameters
        ----------
        W : (n, m) array or DataFrame
            Factor: standardised markers divided by √m, an incidence matrix, basis functions. It is not centred or
            scaled.
        X : (n, d) array or DataFrame, optional
            Fixed-effects design, as in `from_covariance`.
        individual : sequence of labels, optional
            As in `from_covariance`; W has then a row for each individual.
        weights : (n,) array or Series, optional
            Prior weights, as in `from_covariance`.

        Raises
        ------
        ValueError
            If W has missing values, ids do not match, a weight is not positive, or X leaves no degrees of freedom.
        """
        factor = read(W, "W", ndim=(2,))
        remedy = "impute the missing columns first (flmm.covariance.markers does for genotypes)."
        require_range(factor.values, "W", remedy)
        if individual is not None:
            rows = require_individuals(read_individual(individual, factor, "W"))
            return _of_individuals(cls, Individuals.of_factor(factor, rows), rows, X, factor.names, weights)
        n, m = factor.values.shape
        if n == 0 or m == 0:
            raise ValueError(f"W is empty, shape {factor.values.shape}: it needs rows (observations) and columns.")
        ids, design = kernel_design(factor, X, "W")
        w = PriorWeights.read(weights, n, ids, "W")
        projection, values = w.projection(design), w.rows(factor.values)
        W1, W2 = projection.split(values)
        U, s, Vt = scipy.linalg.svd(W2, full_matrices=False, overwrite_a=True, check_finite=False)
        largest = max(float(s[0]), float(np.abs(W1).max(initial=0.0)))
        rank = int(np.count_nonzero(s > max(n, m) * EPS * largest))
        s, U, Vt = s[:rank][::-1], U[:, :rank][:, ::-1], Vt[:rank][::-1]
        loadings = np.ascontiguousarray(s[:, None] * Vt)
        return cls(
            eigvals=frozen(s**2),
            rotation=frozen(projection.lift(np.ascontiguousarray(U))),
            projection=projection,
            C=frozen(loadings @ W1.T),
            corner_root=frozen(factor_corner_root(W1, Vt, (max(n, m) * EPS * largest) ** 2)),
            nullity=n - projection.rank - rank,
            mean_diagonal=float(np.einsum("ij,ij->", values, values)) / n,
            ids=ids,
            loadings=frozen(loadings),
            loadings_fixed=frozen(W1),
            factor_names=factor.names,
            weights=w,
            unweighted=_unless_same(design, projection),
        )

    @property
    def basis(self) -> FloatArray:
        """The rotation Q₂U (n, k), orthonormal columns."""
        if self.rotation is None:
            raise no_rows()
        return self.rotation

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.df + self.projection.rank

    @property
    def rank(self) -> int:
        """Number of positive eigenvalues, k."""
        return int(self.eigvals.size)

    @property
    def df(self) -> int:
        """Residual degrees of freedom, p = n - r = k + ν."""
        return self.rank + self.nullity

    @property
    def coef(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return self.projection.coef

    @property
    def mean_eigval(self) -> float:
        """Σλ/p, zeros included: what K explains on average once X is projected out; pve = Σλ/p / (Σλ/p + δ)."""
        return float(self.eigvals.sum()) / self.df

    @property
    def schur(self) -> FloatArray:
        """S₀ = K₁₁ - CᵀΛ⁻¹C (r, r), the part of K along X that no eigenvector shares."""
        return np.asarray(self.corner_root @ self.corner_root.T)

    def corner_axes(self) -> tuple[FloatArray, FloatArray]:
        """
        Return C and S₀ in the eigenvectors of S₀, where its zeros are exact: (k, r) and diagonal (r, r).

        log|S| of a δ far below the rounding of S₀ needs them: in any other basis S₀ + δI has lost δ.
        """
        if not self.projection.rank:
            return self.C, self.schur
        vectors, roots, _ = np.linalg.svd(self.corner_root)
        roots[np.count_nonzero(self.corner_root.any(axis=0)) :] = 0.0
        return self.C @ vectors, np.diag(roots**2)

    @property
    def design(self) -> Projection:
        """The QR of X itself, without weights."""
        return self.projection if self.unweighted is None else self.unweighted

    @property
    def X(self) -> FloatArray:
        """The fixed-effects design (n, r), without dropped columns."""
        return self.design.X

    @property
    def mean_weight(self) -> float:
        """Mean of the prior weights, 1 where there are none."""
        return self.weights.mean

    @property
    def log_flat(self) -> float:
        """Σ log √w - ½ log|XᵀWX|, by which log ∫ p(y | β) dβ exceeds the log-density of the error contrasts."""
        return self.weights.logdet - self.projection.logdet_R

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of K, from the factors."""
        root, corner = self.covariance_root()
        return np.asarray((root**2).sum(-1) + (corner**2).sum(-1))

    def covariance_root(self) -> tuple[FloatArray, FloatArray]:
        """
        Return (n, k) and (n, r) blocks F₁, F₂ with K = F₁F₁ᵀ + F₂F₂ᵀ.

        F₁ = (Q₂U)Λ^½ + Q₁CᵀΛ^-½ and F₂ = Q₁(K₁₁ - CᵀΛ⁻¹C)^½, of rows times √w: draws of u are σ(F₁ξ₁ + F₂ξ₂).
        """
        s = np.sqrt(self.eigvals)
        Q1, of_rows = self.projection.Q1, self.weights.unscaled_rows
        return of_rows(self.basis * s + Q1 @ (self.C / s[:, None]).T), of_rows(Q1 @ self.corner_root)

    def lift(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Return the vectors (…, n) of which a (…, r) and b (…, k) are Q₁ᵀ and (Q₂U)ᵀ of the rows times √w."""
        return np.asarray(self.weights.unscaled(a @ self.projection.Q1.T + b @ self.basis.T))

    def coordinates(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Q₁ᵀ (r, …) and (Q₂U)ᵀ (k, …) of rows (n, …) times √w."""
        scaled = self.weights.rows(rows)
        return self.projection.Q1.T @ scaled, self.basis.T @ scaled

    def rotate(self, y: Any) -> "Rotated":
        """
        Rotate one response (n,) or several (n, T): all that depends on y, computed once.

        Parameters
        ----------
        y : array, Series, DataFrame or DataArray
            Responses in columns. Labelled input is aligned by id; a DataArray is oriented by its dimension "obs".

        Raises
        ------
        ValueError
            If y has missing values (see `subset`), another length, other ids, or is a square array without labels.
        """
        values, names = self.read_response(y)
        response = response_name(y) or (None if self.source is None else self.source.named(values))
        return replace(Rotated.from_values(self, values, names), response=response)

    def read_response(self, y: Any, *, missing: bool = False) -> tuple[FloatArray, tuple[str, ...] | None]:
        """Return y in the order of the spectrum, checked, and the names of several responses; NaN stays if allowed."""
        if self.rotation is None:
            raise no_rows()
        return read_response(y, self.n, self.ids, missing=missing)

    def subset(self, rows: npt.ArrayLike) -> "Spectrum":
        """
        Return the spectrum of some of the observations (factored anew), for responses with missing values.

        Parameters
        ----------
        rows : array or Series
            A boolean mask of length n (a Series is matched by id), or row numbers.

        Raises
        ------
        ValueError
            If the mask has another length or other ids, or a row number is out of range or occurs twice.

        Examples
        --------
        >>> import numpy as np
        >>> import pm_fastlmm as flmm
        >>> y = np.array([1.0, np.nan, 2.5, 3.0, 4.1])
        >>> spectrum = flmm.Spectrum.from_factor(np.eye(5)[:, :2] + 0.1, np.ones((5, 1)))
        >>> seen = np.isfinite(y)
        >>> flmm.reml(spectrum.subset(seen), y[seen]).converged
        True
        """
        index = _row_numbers(self, rows)
        ids = None if self.ids is None else tuple(self.ids[i] for i in index)
        X = Labelled(self._design_rows(index), ids, self.coef)
        weights = None if self.weights.root is None else Labelled(self.weights.values[index], ids, None)
        if self.loadings is not None and self.loadings_fixed is not None:
            W = self.lift(self.loadings_fixed.T, self.loadings.T).T[index]
            part = Spectrum.from_factor(Labelled(W, ids, self.factor_names), X, weights=weights)
        else:
            root, corner = self.covariance_root()
            K = root[index] @ root[index].T + corner[index] @ corner[index].T
            part = Spectrum.from_covariance(Labelled((K + K.T) / 2, ids, None), X, weights=weights)
        individuals = None if self.individuals is None else self.individuals.subset(index)
        # with all columns of X, of which it was given those that are kept here
        columns = self.projection.columns
        source = None if self.source is None else self.source.subset(index)
        part = replace(part, individuals=individuals, source=source)
        return part.with_projections(lambda projection: projection.within(columns))

    def with_projections(self, change: Callable[[Projection], Projection]) -> Self:
        """Return this spectrum with a change of what is said of the columns of X."""
        unweighted = None if self.unweighted is None else change(self.unweighted)
        return replace(self, projection=change(self.projection), unweighted=unweighted)

    @property
    def rows_dropped(self) -> str:
        """In words how many rows of the table were dropped, and for what; nothing if none was."""
        return "" if self.source is None else self.source.rows_dropped

    def model_of(self, response: str) -> str:
        """Return the model of a response as text, with the formula of its fixed effects where there is one."""
        weighted = self.weights.root is not None
        if self.source is None or self.source.formula is None:
            return f"{response} ~ N(Xβ, σ²(K + δ{' diag(1/w)' if weighted else 'I'}))"
        factor = self.loadings is not None and (self.individuals is None or self.individuals.is_factor)
        law = f"u ~ N(0, σ²{'WWᵀ' if factor else 'K'})"
        return f"{response} ~ {self.source.formula} + u, {law}{', Var(e) = σ²_e/w' if weighted else ''}"

    def _design_rows(self, index: npt.NDArray[np.intp]) -> FloatArray:
        """Return rows of X = Q₁R; a column that is 0 in all of them is exactly 0, not the rounding of that product."""
        X = self.X[index]
        rounding = self.n * EPS * np.linalg.norm(self.design.R, axis=0)
        X[:, np.linalg.norm(X, axis=0) <= rounding] = 0.0
        return X

    def __repr__(self) -> str:
        """Show sizes and the names of the fixed effects."""
        return (
            f"Spectrum(n={self.n}, rank={self.rank}, nullity={self.nullity}, "
            f"fixed effects: {listed(self.coef)}"
            f"{', prior weights' if self.weights.root is not None else ''}"
            f"{', rows not kept' if self.rotation is None else ''})"
        )

    def _facts(self) -> dict[str, Any]:
        kept = "" if self.rotation is not None else ", rows not kept"
        facts = {
            "observations": f"{self.n}{kept}",
            "positive eigenvalues": self.rank,
            "directions with λ = 0": self.nullity,
            "mean diagonal of K": f"{self.mean_diagonal / self.weights.mean:.6g}",
            "fixed effects": listed(self.coef),
            "ids": "none" if self.ids is None else listed(self.ids),
        }
        if self.weights.root is not None:
            facts["prior weights"] = f"{self.weights.values.min():.6g} to {self.weights.values.max():.6g}"
        return facts | ({} if self.individuals is None else {"individuals": len(self.individuals.root)})


def _of_individuals[S: Spectrum](
    kind: type[S], individuals: Individuals, rows: Labelled, X: Any, names: tuple[str, ...] | None, weights: Any
) -> S:
    """Return the spectrum of ZKZᵀ."""
    factor = individuals.factor(rows.ids, names)
    return replace(kind.from_factor(factor, X, weights=weights), individuals=individuals)


def _unless_same(design: Projection, projection: Projection) -> Projection | None:
    return None if design is projection else design


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rotated(ReadOnlyArrays, Described):
    """
    Rotated responses: the sufficient statistic of the model. Batch axes lead, the core axis is last.

    Attributes
    ----------
    spectrum : Spectrum
        What y was rotated by.
    z : (…, k) array
        (Q₂U)ᵀy ~ N(0, σ²(λ + δ)).
    rss : (…,) array
        Squared norm of y in the `nullity` directions with λ = 0: σ²δ times a χ² with `nullity` degrees of freedom.
        Exactly 0 when there are none, or when nothing but rounding is left.
    y1 : (…, r) array
        Q₁ᵀy, the part of y along X.
    norm2 : (…,) array
        ‖y‖² orthogonal to X, Σz² + rss; exactly 0 when X explains y to rounding.
    names : tuple of str or None
        Names of several responses; None for one.
    null_first : (…,) array or None
        Inner products with the first response in the directions with λ = 0. Only of cross-products, which have no rows
        of which they could be formed when a scan needs them.
    response : str or None
        The name of one response, where it has any.
    """

    spectrum: Spectrum
    z: FloatArray
    rss: FloatArray
    y1: FloatArray
    norm2: FloatArray
    names: tuple[str, ...] | None
    null_first: FloatArray | None = None
    response: str | None = None

    @classmethod
    def from_values(cls, spectrum: Spectrum, values: FloatArray, names: tuple[str, ...] | None) -> Self:
        """Rotate validated values (n,) or (n, T), in blocks whose part orthogonal to X takes the same memory."""
        Q1, basis = spectrum.projection.Q1, spectrum.basis
        Y = spectrum.weights.rows(values.reshape(len(values), -1))
        T = Y.shape[1]
        z, y1, norm2, rss = np.empty((T, basis.shape[1])), np.empty((T, Q1.shape[1])), np.empty(T), np.zeros(T)
        room = np.empty((len(Y), min(T, _BLOCK)))
        for block in slices(T, _BLOCK):
            y2, along = room[:, : len(rss[block])], Q1.T @ Y[:, block]
            np.subtract(Y[:, block], np.matmul(Q1, along, out=y2), out=y2)
            np.matmul(y2.T, basis, out=z[block])
            y1[block], norm2[block] = along.T, squares(y2)
            if spectrum.nullity:
                rss[block] = squares(y2 - basis @ z[block].T)
        return cls.from_coordinates(spectrum, names, values.shape[1:], z=z, rss=rss, y1=y1, norm2=norm2)

    @classmethod
    def from_coordinates(
        cls, spectrum: Spectrum, names: tuple[str, ...] | None, batch_shape: tuple[int, ...], *,
        z: FloatArray, rss: FloatArray, y1: FloatArray, norm2: FloatArray,
    ) -> Self:  # fmt: skip
        """Return what was rotated elsewhere, with an axis of T or of 1; what is rounding becomes an exact 0."""
        rounding = (spectrum.n * EPS) ** 2 * (np.einsum("ti,ti->t", y1, y1) + norm2)
        explained = norm2 <= rounding
        parts = {
            "z": np.where(explained[:, None], 0.0, z) if explained.any() else z,
            "rss": np.where(explained | (rss <= rounding), 0.0, rss),
            "y1": y1,
            "norm2": np.where(explained, 0.0, norm2),
        }
        shaped = {name: frozen(part.reshape((*batch_shape, *part.shape[1:]))) for name, part in parts.items()}
        return cls(spectrum, shaped["z"], shaped["rss"], shaped["y1"], shaped["norm2"], names)

    def one(self, t: int) -> Self:
        """Return one of several responses."""
        z, rss, y1, norm2 = self.z[t], self.rss[t], self.y1[t], self.norm2[t]
        name = None if self.names is None else self.names[t]
        return replace(self, z=z, rss=rss, y1=y1, norm2=norm2, names=None, null_first=None, response=name)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """() for one response, (T,) for several."""
        return self.z.shape[:-1]

    def __repr__(self) -> str:
        """Show what was rotated."""
        responses = "1 response" if self.names is None else f"{len(self.names)} responses"
        return f"Rotated({responses}, rank={self.spectrum.rank}, nullity={self.spectrum.nullity})"

    def _facts(self) -> dict[str, Any]:
        s = self.spectrum
        return {
            "responses": 1 if self.names is None else f"{len(self.names)}: {listed(self.names)}",
            "observations": s.n,
            "positive eigenvalues": s.rank,
            "directions with λ = 0": s.nullity,
            "fixed effects": listed(s.coef),
        }


def squares(columns: FloatArray) -> FloatArray:
    """Return the squared norm of each column."""
    return np.asarray(np.einsum("it,it->t", columns, columns))


def spectrum_of_eigenvalues(
    projection: Projection, values: FloatArray, K11: FloatArray, rows: FloatArray, rtol: float | None, K: Any,
    ids: Ids | None, trace: float, negative: Negative = "error",
) -> Spectrum:  # fmt: skip
    """
    Return the spectrum, without its rotation, from all eigenvalues of Q₂ᵀKQ₂ = UΛUᵀ, ascending, and `rows` UᵀQ₂ᵀKQ₁.

    Raises
    ------
    ValueError
        If K is negative across X; what is rounding follows from its number type, or from `rtol`.
    """
    n = values.size + projection.rank
    first, tolerance = positive_eigenvalues(values, K11, rtol, K, n, negative)
    eigvals, C = values[first:].copy(), np.ascontiguousarray(rows[first:])
    return Spectrum(
        eigvals=frozen(eigvals),
        rotation=None,
        projection=projection,
        C=frozen(C),
        corner_root=frozen(corner_root(K11, C, eigvals, tolerance)),
        nullity=first,
        mean_diagonal=trace / n,
        ids=ids,
    )


def require_spectrum(spectrum: Any) -> None:
    """Raise a TypeError for what is no spectrum."""
    if not isinstance(spectrum, Spectrum):
        raise TypeError(
            f"spectrum must be a Spectrum, got {type(spectrum).__name__}: "
            "build it with flmm.Spectrum.from_covariance(K, X) or .from_factor(W, X)."
        )


def as_rotated(spectrum: Spectrum, y: Any) -> Rotated:
    """
    Return y rotated by the spectrum; a `Rotated` passes if it belongs to it.

    Raises
    ------
    ValueError
        If y is a `Rotated` of another spectrum.
    """
    require_spectrum(spectrum)
    if not isinstance(y, Rotated):
        return spectrum.rotate(y)
    if y.spectrum is not spectrum:
        raise ValueError("y was rotated by another spectrum: pass that one (y.spectrum), or rotate y anew.")
    return y


def _row_numbers(spectrum: Spectrum, rows: Any) -> npt.NDArray[np.intp]:
    given = np.asarray(rows)
    if given.dtype == bool:
        mask = read(rows, "rows", ndim=(1,))
        require_length(mask.values.size, spectrum.n, "rows", "the spectrum")
        order = align(spectrum.ids, mask, name="rows", reference_name="the spectrum")
        return np.flatnonzero(mask.take(order))
    valid = given.ndim == 1 and given.dtype.kind in "iu" and given.size
    if not valid or given.min() < 0 or given.max() >= spectrum.n or np.unique(given).size < given.size:
        raise ValueError(
            f"rows must be a boolean mask of length {spectrum.n}, or different row numbers from 0 to {spectrum.n - 1}."
        )
    return given.astype(np.intp)
