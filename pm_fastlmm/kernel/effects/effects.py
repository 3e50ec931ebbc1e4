"""
Fixed effects, random effects and predictions given (σ²_g, σ²_e), for one pair or many.

Everything is computed in the basis [Q₁ | Q₂U]: u = Q₁a + (Q₂U)b is the pair (a, b), so that thousands of draws cost one
matrix product. Batch axes (responses, posterior draws) lead.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from scipy.special import ndtri

from pm_fastlmm.base.arrays import (
    FloatArray,
    Ids,
    Labelled,
    align,
    columns_as_rows,
    columns_in_order,
    read,
    require_finite,
    require_fraction,
    slices,
)
from pm_fastlmm.base.display import Described
from pm_fastlmm.base.tables import Table
from pm_fastlmm.kernel.likelihood.spectral import corner, variances, weighted_sum
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_BLOCK = 200_000  # numbers in one block of weights
_JOINT = 5000  # new rows of a factor up to which their covariance is formed


class Blue(NamedTuple):
    """Generalised least squares estimate of β and its covariance."""

    beta: FloatArray
    cov: FloatArray


class Interval(NamedTuple):
    """The ends of an interval of predictions, for each row."""

    lower: Any
    upper: Any


class Coordinates(NamedTuple):
    """A vector in the span of K: Q₁a + (Q₂U)b."""

    a: FloatArray
    b: FloatArray

    def lift(self, spectrum: Spectrum) -> FloatArray:
        """Return the vector itself, (…, n)."""
        return spectrum.lift(self.a, self.b)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction(Described):
    """
    Prediction f̂ = Xβ̂ + û with the variance of its error.

    Attributes
    ----------
    mean : (m,) or (m, T) array
        f̂, which contains the fixed effects. From `REMLFit.predict` it is a Series or DataFrame where the rows have ids,
        and so are the other quantities of a row.
    variance : (m,) or (m, T) array
        Var(f - f̂), the uncertainty of β̂ included; NaN where the prior variance of the new effects was not given. Of a
        row whose Xβ the data do not determine both mean and variance are NaN.
    residual_variance : () or (T,) array
        σ²_e, what a new observation adds: Var(y - f̂) = variance + σ²_e. With prior weights σ²_e/w, (m,) or (m, T),
        where the rows have theirs: those of the data, and new ones of a table.
    """

    mean: Any
    variance: Any
    residual_variance: FloatArray

    @property
    def se(self) -> Any:
        """Standard error of f̂."""
        return _root(self.variance, "se")

    def __repr__(self) -> str:
        """Show the table, of several responses how many predictions there are."""
        if self.mean.ndim == 1:
            return repr(self.to_frame())
        return f"Prediction({self.mean.shape[0]} rows: .mean, .se, .se_observation, .interval())"

    def _repr_html_(self) -> str:
        return self.to_frame()._repr_html_() if self.mean.ndim == 1 else Described._repr_html_(self)

    def _facts(self) -> dict[str, Any]:
        return {
            "rows": self.mean.shape[0],
            "quantities": ".mean, .variance, .se, .residual_variance, .se_observation, .interval()",
        }

    @property
    def se_observation(self) -> Any:
        """Standard error of a new observation."""
        return _root(self.variance + self.residual_variance, "se_observation")

    def interval(self, level: float = 0.95, *, observation: bool = False) -> Interval:
        """
        Return f̂ ∓ z se, the interval of f, or with `observation` that of a new y, at the estimated variances.

        Parameters
        ----------
        level : float
        observation : bool

        Returns
        -------
        Interval
            `lower` and `upper`, with the labels of the mean.

        Examples
        --------
        >>> import pandas as pd
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False
        ... )
        >>> mean = fit.predict(data=pd.DataFrame({"Days": [10]}), effects="population").interval()
        >>> print(f"{mean.lower[0]:.1f} to {mean.upper[0]:.1f}")
        324.7 to 387.5
        """
        require_fraction(level, "level")
        half = ndtri((1 + level) / 2) * (self.se_observation if observation else self.se)
        lower, upper = self.mean - half, self.mean + half
        if hasattr(lower, "rename") and lower.ndim == 1:
            lower, upper = lower.rename("lower"), upper.rename("upper")
        return Interval(lower, upper)

    def to_frame(self, level: float = 0.95) -> Table:
        """
        Return the predictions of one response as a table.

        Returns
        -------
        DataFrame
            By row: mean, se, the interval of the mean `lower` to `upper`, and se_observation, that of a new y.

        Raises
        ------
        ValueError
            If there are several responses.

        Examples
        --------
        >>> import pandas as pd
        >>> import pm_fastlmm as flmm
        >>> fit = flmm.find_reml(
        ...     "Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy(), progressbar=False
        ... )
        >>> new = pd.DataFrame({"Days": [0, 10], "Subject": ["308", "one more"]})
        >>> fit.predict(data=new)
              mean       se    lower    upper se_observation
        0  253.664  12.2548  229.645  277.683        28.3747
        1  356.078  67.5858  223.612  488.544        72.2688
        """
        if self.mean.ndim > 1:
            raise ValueError("a table has one response: take .mean, .se and .interval() of several.")
        lower, upper = self.interval(level)
        columns = {"mean": self.mean, "se": self.se, "lower": lower, "upper": upper}
        return Table(columns | {"se_observation": self.se_observation})


def _root(variance: Any, name: str) -> Any:
    """Return the square root; that of a Series carries its own name, not that of the variance."""
    root = np.sqrt(variance)
    return root.rename(name) if hasattr(root, "rename") and root.ndim == 1 else root


@dataclass(frozen=True, slots=True, eq=False)
class NewRows:
    """
    New observations in the coordinates of the spectrum.

    Attributes
    ----------
    a : (m, r) array
        X*R⁻¹.
    A, H : (k, m) and (r, m) arrays
        (Q₂U)ᵀK* and Q₁ᵀK* with K* (n, m) the covariances of training and new effects, its rows times √w.
    prior : (m,) or (m, m) array, or None
        K**, the covariance of the new effects or its diagonal.
    ids : tuple or None
        Ids of the new rows, in the order of K_new or W_new.
    of_data : bool
        Whether they are those of the data, with their prior weights; others have the weight 1.
    """

    a: FloatArray
    A: FloatArray
    H: FloatArray
    prior: FloatArray | None
    ids: Ids | None
    of_data: bool = False

    @property
    def prior_diagonal(self) -> Any:
        """Prior variances of the new effects, NaN when they are not known."""
        prior = np.nan if self.prior is None else self.prior
        return np.diag(prior) if np.ndim(prior) == 2 else prior


def blue(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> Blue:
    """Return β̂ = R⁻¹(y₁ - σ²_gCᵀ(z/d)) (…, r) and cov β̂ = R⁻¹SR⁻ᵀ (…, r, r)."""
    return blue_of_corner(rotated, *_corner(rotated, sigma2_g, sigma2_e))


def blue_of_corner(rotated: Rotated, mean: FloatArray, S: FloatArray) -> Blue:
    """Return `blue` from what `spectral.corner` returns."""
    s = rotated.spectrum
    r = s.projection.rank
    Rinv = scipy.linalg.solve_triangular(s.projection.R, np.eye(r)) if r else np.zeros((0, 0))
    cov = Rinv @ S @ Rinv.T
    return Blue((rotated.y1 - mean) @ Rinv.T, (cov + np.swapaxes(cov, -1, -2)) / 2)


def blup(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> Coordinates:
    """Return û = σ²_g[Q₁Cᵀ(z/d) + Q₂U(λz/d)]."""
    s = rotated.spectrum
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    scaled = np.expand_dims(sigma2_g, -1) * rotated.z / d
    return Coordinates(scaled @ s.C, s.eigvals * scaled)


def pev(spectrum: Spectrum, sigma2_g: FloatArray, sigma2_e: FloatArray, *, full: bool = False) -> FloatArray:
    """
    Return the prediction error variance Var(û - u) = σ²_gK - σ⁴_gB diag(1/d)Bᵀ, B = KQ₂U.

    Its diagonal (…, n), or the matrix (n, n) on request.
    """
    g = np.expand_dims(sigma2_g, -1)
    d = variances(spectrum.eigvals, sigma2_g, sigma2_e)
    root, corner_root = spectrum.covariance_root()
    # B diag(1/d)Bᵀ = F₁ diag(λ/d) F₁ᵀ, so that K - σ²_g(...) is F₁ diag(σ²_e/d) F₁ᵀ + F₂F₂ᵀ: no cancellation
    weights = np.expand_dims(sigma2_e, -1) / d
    if full:
        return np.asarray(g * ((root * weights) @ root.T + corner_root @ corner_root.T))
    return np.asarray(g * (weights @ (root**2).T + (corner_root**2).sum(-1)))


def conditional_variance(spectrum: Spectrum, sigma2_g: FloatArray, sigma2_e: FloatArray) -> FloatArray:
    """
    Return the diagonal of Var(u | y, β) = σ²_gK - σ²_gK V⁻¹ σ²_gK = σ²_e(I - σ²_eV⁻¹), (…, n).

    With q and b the coordinates of a row along Q₁ and Q₂U, w = σ²_gCᵀ(b/d) and S = σ²_eI + σ²_gT it is

        σ²_e[σ²_g qᵀTS⁻¹q + σ²_e(2q - w)ᵀS⁻¹w + Σ σ²_gλ b²/d],   T = S₀ + σ²_eCᵀdiag(1/(λd))C

    in which nothing cancels that is larger than the result.
    """
    s, r = spectrum, spectrum.projection.rank
    g, e = np.asarray(sigma2_g)[..., None], np.asarray(sigma2_e)[..., None]
    known = e == 0  # u is y - Xβ; the part in brackets is finite
    e = np.where(known, 1.0, e)
    d = variances(s.eigvals, g[..., 0], e[..., 0])
    q, b = s.projection.Q1, s.basis
    left = (g * s.eigvals / d) @ (b**2).T
    if r:
        T = s.schur + e[..., None] * np.einsum("ki,...k,kj->...ij", s.C, 1 / (s.eigvals * d), s.C)
        w = g[..., None] * np.einsum("nk,...k,kj->...nj", b, 1 / d, s.C)
        S = e[..., None] * np.eye(r) + g[..., None] * T
        along = np.linalg.solve(S, np.swapaxes(w, -1, -2))  # S⁻¹w, (…, r, n)
        left = left + e * np.einsum("...nj,...jn->...n", 2 * q - w, along)
        left = left + g * np.einsum("nj,...jn->...n", q, np.linalg.solve(S, T @ q.T))  # TS⁻¹ is symmetric
    return np.asarray(np.where(known, 0.0, e * left) / s.weights.values)


def fitted(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> Prediction:
    """
    Return the prediction of the training rows, f̂ = Xβ̂ + û.

    Var(f - f̂) = σ²_eI - σ⁴_eP has the diagonal σ²_e[‖(Q₁)_i‖² + Σ_j (Q₂U)²_ij σ²_gλ_j/d_j].
    """
    s = rotated.spectrum
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    shrunken = np.expand_dims(sigma2_g, -1) * s.eigvals / d
    # Q₁ᵀ(Xβ̂ + û) = y₁ whatever K is: in the span of X the fit is exact
    f = Coordinates(rotated.y1, shrunken * rotated.z).lift(s)
    leverage = (s.projection.Q1**2).sum(-1) + shrunken @ (s.basis**2).T
    variance = np.expand_dims(sigma2_e, -1) * leverage / s.weights.values
    return Prediction(f.T, variance.T, _residual_variance(s, sigma2_e))


def _residual_variance(s: Spectrum, sigma2_e: FloatArray) -> FloatArray:
    """Return σ²_e (…), with prior weights σ²_e/w of the rows of the data (n, …)."""
    e = np.asarray(sigma2_e)
    return e if s.weights.root is None else (e[..., None] / s.weights.values).T


def predict(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, new: NewRows) -> Prediction:
    """
    Return the prediction of new rows.

    f̂* = X*β̂ + σ²_gAᵀ(z/d);  Var(f* - f̂*) = σ²_gK** - σ⁴_gAᵀdiag(1/d)A + aSaᵀ - T - Tᵀ,
    T = σ²_ga(H - σ²_gCᵀdiag(1/d)A). Without T the variance is wrong by a tenth.
    """
    s = rotated.spectrum
    g = np.asarray(sigma2_g)[..., None]
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    mean, S = _corner(rotated, sigma2_g, sigma2_e)
    f = (rotated.y1 - mean) @ new.a.T + (g * rotated.z / d) @ new.A
    # g(K** - g Aᵀdiag(1/d)A) and H - g Cᵀdiag(1/d)A, each as what is left at δ = 0 and what δ adds
    shrunken = (np.asarray(sigma2_e)[..., None] / (s.eigvals * d))[..., None] * new.A
    T = g[..., None] * (new.H - s.C.T @ (new.A / s.eigvals[:, None]) + s.C.T @ shrunken)
    variance = (
        g * (new.prior_diagonal - (new.A**2 / s.eigvals[:, None]).sum(0) + (new.A * shrunken).sum(-2))
        + np.einsum("ij,...jk,ik->...i", new.a, S, new.a)
        - 2 * np.einsum("ij,...ji->...i", new.a, T)
    )
    residual = _residual_variance(s, sigma2_e) if new.of_data else np.asarray(sigma2_e)
    return Prediction(f.T, np.maximum(variance, 0.0).T, residual)


def new_rows(
    spectrum: Spectrum,
    X_new: Any = None,
    K_new: Any = None,
    *,
    W_new: Any = None,
    K_new_new: Any = None,
    warn: bool = True,
) -> NewRows:
    """
    Read new observations into the coordinates of the spectrum.

    Parameters
    ----------
    spectrum : Spectrum
        The spectrum that the model was fitted with.
    X_new : (m, d) array or DataFrame
        Fixed-effects design of the new rows, all columns of X. Optional when X had none. A row that is outside the row
        space of X, whose Xβ the data do not determine, becomes NaN.
    K_new : (m, n) array or DataFrame
        Covariance of the new effects with the training effects; columns are matched by id.
        The rows of all inputs are matched by id when they carry one.
    W_new : (m, q) array or DataFrame
        Rows of the factor instead, columns by name where both have names, when the spectrum was built by `from_factor`.
    K_new_new : (m, m) or (m,) array, optional
        Covariance of the new effects, or its diagonal. Without it there are no variances; with W_new it is W_newW_newᵀ.
    warn : bool
        Whether to warn of rows that become NaN; False where the same rows are read again.

    Raises
    ------
    ValueError
        If shapes or ids do not fit, or not exactly one of K_new and W_new is given.
    """
    if (K_new is None) == (W_new is None):
        raise ValueError(
            "give exactly one of K_new (covariances with the training rows) and W_new (rows of the factor)."
        )
    if W_new is not None:
        if K_new_new is not None:
            raise ValueError("K_new_new is given together with W_new, which determines it.")
        rows = _read_factor(spectrum, W_new)
        A, H = spectrum.loadings @ rows.values.T, spectrum.loadings_fixed @ rows.values.T  # type: ignore[operator]
        W, matrix = rows.values, rows.values.shape[0] <= _JOINT
        prior: FloatArray | None = W @ W.T if matrix else np.einsum("ij,ij->i", W, W)
    else:
        rows, cross = _read_cross(spectrum, K_new)
        H, A = spectrum.coordinates(cross)
        prior = _read_prior(rows, K_new_new)
    ids = rows.ids if rows.ids is not None or X_new is None else read(X_new, "X_new", ndim=(1, 2)).ids
    return NewRows(_read_design(spectrum, rows, X_new, warn), A, H, prior, ids)


def population_rows(spectrum: Spectrum, X_new: Any = None) -> NewRows:
    """Return rows without random effects, f = Xβ: new ones, or those of the data."""
    s, ids = spectrum, spectrum.ids
    if X_new is None:
        a = s.weights.unscaled_rows(s.projection.Q1)
    else:
        given = read(X_new, "X_new", ndim=(1, 2))
        ids = given.ids
        a = _read_design(s, Labelled(given.values, ids, None), given, True)
    m = len(a)
    return NewRows(a, np.zeros((s.rank, m)), np.zeros((s.projection.rank, m)), np.zeros(m), ids, X_new is None)


def _read_factor(spectrum: Spectrum, W_new: Any) -> Labelled:
    if spectrum.loadings is None:
        raise ValueError("W_new needs a spectrum built by Spectrum.from_factor, this one is from a K: give K_new.")
    rows = read(W_new, "W_new", ndim=(2,))
    q = spectrum.loadings.shape[1]
    if rows.values.shape[1] != q:
        raise ValueError(f"W_new has {rows.values.shape[1]} columns but W had {q}: use the same columns, coded alike.")
    require_finite(rows.values, "W_new", "impute the missing columns as in W.")
    return Labelled(columns_in_order(rows, spectrum.factor_names, name="W_new"), rows.ids, rows.names)


def _read_cross(spectrum: Spectrum, K_new: Any) -> tuple[Labelled, FloatArray]:
    """Return the new rows of K_new (m, n), and it transposed with the training rows in the order of the spectrum."""
    rows = read(K_new, "K_new", ndim=(2,))
    ids = tuple(K_new.columns.tolist()) if hasattr(K_new, "columns") else None
    training = Labelled(rows.values.T, ids, None)
    individuals = spectrum.individuals
    known = spectrum.ids if individuals is None else individuals.ids
    order = align(known, training, name="K_new (its columns)", reference_name="the spectrum")
    if individuals is not None:
        q = len(individuals.root)
        if training.values.shape[0] != q:
            raise ValueError(
                f"K_new has {training.values.shape[0]} columns but K has {q} individuals: it is (new rows, "
                "individuals)."
            )
        require_finite(rows.values, "K_new", "covariances of the new rows with the individuals must all be known.")
        return rows, training.take(order)[individuals.place]
    if training.values.shape[0] != spectrum.n:
        raise ValueError(
            f"K_new has {training.values.shape[0]} columns but the spectrum has {spectrum.n} observations: "
            "it is (new rows, training rows)."
        )
    require_finite(rows.values, "K_new", "covariances of the new rows with the training rows must all be known.")
    return rows, training.take(order)


def _read_prior(rows: Labelled, K_new_new: Any) -> FloatArray | None:
    if K_new_new is None:
        return None
    prior, m = read(K_new_new, "K_new_new", ndim=(1, 2)), rows.values.shape[0]
    prior = columns_as_rows(prior, "K_new_new") if prior.values.ndim == 2 else prior
    order = align(rows.ids, prior, name="K_new_new", reference_name="K_new")
    values = prior.take(order)
    if values.shape not in ((m,), (m, m)):
        raise ValueError(f"K_new_new must be ({m}, {m}) or its diagonal ({m},), got shape {values.shape}.")
    values = values if order is None or values.ndim == 1 else values[:, order]
    require_finite(values, "K_new_new", "variances of the new effects must be known; leave it out to get means alone.")
    if (np.diag(values) if values.ndim == 2 else values).min(initial=0.0) < 0:
        raise ValueError("K_new_new has a negative variance on its diagonal.")
    return values


def _read_design(spectrum: Spectrum, rows: Labelled, X_new: Any, warn: bool) -> FloatArray:
    projection, m = spectrum.projection, rows.values.shape[0]
    if X_new is not None:
        labelled = read(X_new, "X_new", ndim=(1, 2))
        values = labelled.take(align(rows.ids, labelled, name="X_new", reference_name="K_new or W_new"))
        X_new = Labelled(values, rows.ids or labelled.ids, labelled.names)
    X = projection.new_rows(X_new, m, warn=warn)
    if not projection.rank:
        return X
    a = np.asarray(scipy.linalg.solve_triangular(projection.R, np.nan_to_num(X).T, trans="T").T)
    a[np.isnan(X).any(axis=1)] = np.nan  # LAPACK's checks refuse NaN, which stays in its own row
    return a


def draw_prior_effects(spectrum: Spectrum, sigma2_g: FloatArray, rng: np.random.Generator) -> Coordinates:
    """Draw u ~ N(0, σ²_gK), one for each σ²_g: σ_g(F₁ξ₁ + F₂ξ₂) with the root of `Spectrum.covariance_root`."""
    shape, sigma_g, roots = np.shape(sigma2_g), np.expand_dims(np.sqrt(sigma2_g), -1), np.sqrt(spectrum.eigvals)
    xi = rng.standard_normal((*shape, spectrum.rank))
    xi_corner = rng.standard_normal((*shape, spectrum.projection.rank))
    along = xi @ (spectrum.C / roots[:, None]) + xi_corner @ spectrum.corner_root.T
    return Coordinates(sigma_g * along, sigma_g * roots * xi)


def draw_effects(
    rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, Coordinates]:
    """
    Draw (β, u) from their joint posterior given y and one (σ²_g, σ²_e) each, under a flat prior on β.

    Conditional simulation (Matheron's rule): with u⁺, e⁺ drawn from the prior and y⁺ = u⁺ + e⁺,

        β = β̂(y - y⁺),   u = u⁺ + û(y - y⁺)

    has exactly that distribution, and in the rotated basis it costs O(k + r) for each draw.
    """
    s = rotated.spectrum
    shape = np.broadcast_shapes(np.shape(sigma2_g), np.shape(sigma2_e), rotated.batch_shape)
    sigma_e, k, r = np.expand_dims(np.sqrt(sigma2_e), -1), s.rank, s.projection.rank
    prior = draw_prior_effects(s, np.broadcast_to(sigma2_g, shape), rng)
    z = rotated.z - prior.b - sigma_e * rng.standard_normal((*shape, k))
    y1 = rotated.y1 - prior.a - sigma_e * rng.standard_normal((*shape, r))
    u = blup(replace(rotated, z=z, y1=y1), sigma2_g, sigma2_e)
    along = y1 - u.a
    beta = scipy.linalg.solve_triangular(s.projection.R, along.reshape(-1, r).T).T.reshape(along.shape) if r else along
    return beta, Coordinates(prior.a + u.a, prior.b + u.b)


def given_coefficients(
    rotated: Rotated,
    sigma2_g: FloatArray,
    sigma2_e: FloatArray,
    beta: FloatArray,
    u: Coordinates,
    prior_mean: FloatArray,
    prior_root: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, Coordinates]:
    """
    Turn draws under a flat prior on β into draws under β ~ N(b, LLᵀ); L = 0 is a known β.

    β is drawn from N(b + B(B + cov β̂)⁻¹(β̂ - b), …); p(u | β, y) does not depend on the prior of β, so that
    u moves by E(u | β, y) - E(u | β_flat, y) = -σ²_gKV⁻¹X(β - β_flat), which in the rotated basis is

        -[Q₁(S - σ²_eI) + Q₂U(σ²_gσ²_e diag(1/d)C)] S⁻¹R(β - β_flat)
    """
    s = rotated.spectrum
    estimate = blue(rotated, sigma2_g, sigma2_e)
    B = prior_root @ np.swapaxes(prior_root, -1, -2)
    gain = np.swapaxes(np.linalg.solve(B + estimate.cov, np.broadcast_to(B, estimate.cov.shape)), -1, -2)
    # Matheron's rule again: a prior draw, moved by the gain towards a draw of the estimate
    prior = prior_mean + np.einsum("...ij,...j->...i", prior_root, rng.standard_normal(beta.shape))
    noise = np.einsum("...ij,...j->...i", np.linalg.cholesky(estimate.cov), rng.standard_normal(beta.shape))
    drawn = prior + np.einsum("...ij,...j->...i", gain, estimate.beta + noise - prior)
    _, S = _corner(rotated, sigma2_g, sigma2_e)
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    moved = np.linalg.solve(S, ((drawn - beta) @ s.projection.R.T)[..., None])[..., 0]
    e, g = np.expand_dims(sigma2_e, -1), np.expand_dims(sigma2_g, -1)
    along = np.einsum("...ij,...j->...i", S, moved) - e * moved
    return drawn, Coordinates(u.a - along, u.b - e * g * (moved @ s.C.T) / d)


def _corner(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `corner` of many responses or draws, in blocks that stay in the cache."""
    s = rotated.spectrum
    shape = np.broadcast_shapes(np.shape(sigma2_g), np.shape(sigma2_e), rotated.batch_shape)
    g, e = (np.broadcast_to(v, shape).reshape(-1) for v in (sigma2_g, sigma2_e))
    r, rows = s.projection.rank, g.size
    mean, S = np.empty((rows, r)), np.empty((rows, r, r))
    z = np.broadcast_to(rotated.z, (*shape, s.rank)).reshape(rows, s.rank) if rotated.batch_shape else rotated.z[None]
    size = max(1, _BLOCK // max(1, s.rank))
    for block in slices(rows, size):
        mean[block], S[block] = corner(
            z[block] if len(z) > 1 else z, eigvals=s.eigvals, C=s.C, schur=s.schur,
            sigma2_g=g[block], sigma2_e=e[block], weighted=weighted_sum,
        )  # fmt: skip
    return mean.reshape(*shape, r), S.reshape(*shape, r, r)
