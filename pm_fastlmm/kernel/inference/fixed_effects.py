"""
t and F tests of fixed effects whose degrees of freedom account for the estimation of the variances.

With Φ = cov β̂ at the estimate, Φ_i and Φ_ij its derivatives in the parameters θ of V, and A the covariance of θ̂:

    Satterthwaite   ν = 2 (lᵀΦl)²/(gᵀAg),  g_i = lᵀΦ_il,  A the inverse of the observed information
    Kenward–Roger   Φ_A = Φ - Σ A_ij Φ_ij,  A the inverse of the expected information,  and ν of a scaled F

Kenward & Roger (1997, doi:10.2307/2533558) write Φ_A = Φ + 2ΦΣA_ij(Q_ij - P_iΦP_j)Φ, with P_i = -XᵀV⁻¹V_iV⁻¹X and
Q_ij = XᵀV⁻¹V_iV⁻¹V_jV⁻¹X. Where V is linear in θ, ΦP_iΦ = -Φ_i and Φ(Q_ij + Q_ji - P_iΦP_j - P_jΦP_i)Φ = -Φ_ij, so
that the derivatives of Φ are all that is needed.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import fdtrc, stdtr, stdtrit

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.base.display import Described
from pm_fastlmm.base.tables import Table
from pm_fastlmm.kernel.effects import effects
from pm_fastlmm.kernel.inference.estimates import whole_covariance
from pm_fastlmm.kernel.likelihood.information import corner_derivatives, relative_information
from pm_fastlmm.spectrum.sparse_projection import AnyProjection
from pm_fastlmm.spectrum.spectrum import Rotated

type DegreesOfFreedom = Literal["satterthwaite", "kenward-roger", "residual"]
type ZeroVariances = Literal["known", "free"]

NOT_OF_ML = (
    "Kenward and Roger's adjustment is that of restricted likelihood: fit with method='REML', or take "
    "df='satterthwaite'."
)


@dataclass(frozen=True, slots=True, eq=False)
class FixedEffects:
    """
    Estimated coefficients with what tests of them need; batch axes lead.

    Attributes
    ----------
    beta, cov : (…, r) and (…, r, r) arrays
        β̂ and Φ; of thousands of coefficients a sparse matrix of some entries of Φ, of which only t tests are made.
    slopes, curvatures : (…, P, r, r) and (…, P, P, r, r) arrays
        Φ_i and Φ_ij.
    observed_cov, expected_cov : (…, P, P) arrays
        Inverses of the observed and the expected information of θ.
    residual_df : int
        n - r.
    coef : tuple of str
    names : tuple of str or None
        Of several responses.
    unavailable : str
        Why there is no Kenward–Roger adjustment, empty if there is.
    """

    beta: FloatArray
    cov: Any
    slopes: FloatArray
    curvatures: FloatArray
    observed_cov: FloatArray
    expected_cov: FloatArray
    residual_df: int
    coef: tuple[str, ...]
    names: tuple[str, ...] | None = None
    unavailable: str = ""

    def covariance(self, df: DegreesOfFreedom) -> FloatArray:
        """
        Return the covariance of β̂ that a method uses.

        Raises
        ------
        ValueError
            If the method is unknown, or not available for this fit.
        """
        require_choice("df", df, DegreesOfFreedom)
        if sp.issparse(self.cov):
            raise whole_covariance(len(self.coef))
        if df != "kenward-roger":
            return np.asarray(self.cov)
        if self.unavailable:
            raise ValueError(self.unavailable)
        return np.asarray(self.cov - np.einsum("...ij,...ijab->...ab", self.expected_cov, self.curvatures))

    def degrees(self, l: FloatArray, df: DegreesOfFreedom) -> FloatArray:  # noqa: E741 - the contrast of the formula
        """Return the degrees of freedom 2(lᵀΦl)²/(gᵀAg) of contrasts l (…, r), for one each Kenward–Roger's too."""
        if df == "residual":
            return np.full(np.broadcast_shapes(self.beta.shape[:-1], l.shape[:-1]), float(self.residual_df))
        A = self.observed_cov if df == "satterthwaite" else self.expected_cov
        g = np.einsum("...a,...iab,...b->...i", l, self.slopes, l)
        variance = np.einsum("...a,...ab,...b->...", l, self.cov, l)
        spread = np.einsum("...i,...ij,...j->...", g, A, g)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(2 * variance**2 / spread)

    def one(self, t: int) -> "FixedEffects":
        """Return one of several responses."""
        names = ("beta", "cov", "slopes", "curvatures", "observed_cov", "expected_cov")
        return replace(self, names=None, **{name: getattr(self, name)[t] for name in names})


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FixedTest(Described):
    """
    An F test of linear hypotheses Lβ = 0, of one response (numbers) or several (arrays).

    Attributes
    ----------
    statistic : float or (T,) array
        F, scaled for Kenward–Roger; the square of t for one contrast.
    df_num : int
        Rank of L.
    df_den : float or (T,) array
    p_value : float or (T,) array
    estimate : (q,) or (T, q) array
        Lβ̂.
    df : "satterthwaite", "kenward-roger" or "residual"
    names : tuple of str or None
        Of several responses.
    """

    statistic: Any
    df_num: int
    df_den: Any
    p_value: Any
    estimate: FloatArray
    df: DegreesOfFreedom
    names: tuple[str, ...] | None

    def table(self) -> pd.DataFrame:
        """Return statistic, degrees of freedom and p-value, one row per response."""
        index = pd.RangeIndex(1) if self.names is None else pd.Index(self.names, name="response")
        columns = {"F": self.statistic, "df_num": self.df_num, "df_den": self.df_den, "p_value": self.p_value}
        return pd.DataFrame(columns, index=index)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"contrasts": self.df_num, "degrees of freedom": self.df}
        if self.names is not None:
            return facts | {"responses": len(self.names), "table": ".table()"}
        return facts | {"F": f"{self.statistic:.4f} on {self.df_num} and {self.df_den:.2f}", "p": f"{self.p_value:.3g}"}

    def __repr__(self) -> str:
        """Report the test as text."""
        if self.names is not None:
            return f"FixedTest: F tests of {self.df_num} contrasts, {len(self.names)} responses; .table() has them"
        return (
            f"FixedTest: F({self.df_num}, {self.df_den:.2f}) = {self.statistic:.4f}, p = {self.p_value:.3g} ({self.df})"
        )


def check_zero_variances(zero_variances: str, df: str) -> None:
    """Raise a ValueError if there is no such treatment, or the method has none but one."""
    require_choice("zero_variances", zero_variances, ZeroVariances)
    if zero_variances == "free" and df != "kenward-roger":
        raise ValueError(
            f"zero_variances='free' is for df='kenward-roger', whose expected information is defined at 0; with {df!r} "
            "a variance of 0 is taken as known, as lmerTest does."
        )


def t_tests(
    fixed: FixedEffects, df: DegreesOfFreedom, level: float = 0.95, L: FloatArray | None = None
) -> dict[str, FloatArray]:
    """Return estimate, se, df, t, p-value and interval of contrasts (k, r), or coefficients that were kept, (…, k)."""
    if sp.issparse(fixed.cov) and L is None:
        return _of_many(fixed, df, level)
    cov, rows = fixed.covariance(df), np.eye(len(fixed.coef)) if L is None else L
    estimate = fixed.beta @ rows.T
    degrees = np.stack([fixed.degrees(row, df) for row in rows], axis=-1) if len(rows) else np.zeros(estimate.shape)
    with np.errstate(invalid="ignore"):
        se = np.sqrt(np.einsum("ka,...ab,kb->...k", rows, cov, rows))
    return _t_columns(estimate, se, degrees, level)


def _of_many(fixed: FixedEffects, df: DegreesOfFreedom, level: float) -> dict[str, FloatArray]:
    """Return the same of thousands of coefficients, with n - r degrees of freedom."""
    require_choice("df", df, DegreesOfFreedom)
    if df == "kenward-roger":
        raise ValueError(fixed.unavailable)
    cov: Any = fixed.cov
    degrees = np.full(fixed.beta.shape, float(fixed.residual_df))
    return _t_columns(fixed.beta, np.sqrt(cov.diagonal()), degrees, level)


def _t_columns(estimate: FloatArray, se: FloatArray, degrees: FloatArray, level: float) -> dict[str, FloatArray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        t = estimate / se
        half = se * stdtrit(degrees, (1 + level) / 2)
        p = np.asarray(2 * stdtr(degrees, -np.abs(t)))
    return {
        "estimate": estimate, "se": se, "df": degrees, "t": t, "p_value": p, "lower": estimate - half,
        "upper": estimate + half,
    }  # fmt: skip


def coefficient_table(fixed: FixedEffects, df: DegreesOfFreedom, level: float, projection: AnyProjection) -> Table:
    """Return `t_tests` as a table with a row for each column of X; NaN for the columns that were dropped."""
    require_fraction(level, "level")
    values = t_tests(fixed, df, level)
    coef, kept = projection.columns.names, projection.columns.kept
    index: pd.Index = pd.Index(coef, name="coef")
    if fixed.names is not None:
        index = pd.MultiIndex.from_product([fixed.names, coef], names=["response", "coef"])
    table = np.full((len(values), *fixed.beta.shape[:-1], len(coef)), np.nan)
    table[..., kept] = list(values.values())
    made = Table(dict(zip(values, table.reshape(len(values), -1), strict=True)), index=index)
    if sp.issparse(fixed.cov):
        made.attrs["below"] = [f"degrees of freedom n - r, of {len(fixed.coef)} coefficients whose X is kept sparse"]
    return made


def rows_test(fixed: FixedEffects, rows: FloatArray, df: DegreesOfFreedom) -> FixedTest:
    """Test contrasts (q, r) of the kept columns."""
    fixed.covariance(df)
    if fixed.names is None:
        statistic, df_den = _f_test(fixed, rows, df)
    else:
        statistic, df_den = np.transpose([_f_test(fixed.one(t), rows, df) for t in range(len(fixed.names))])
    q = len(rows)
    p = np.asarray(fdtrc(q, np.where(np.isinf(df_den), 1e12, df_den), np.maximum(statistic, 0)))
    return FixedTest(statistic, q, df_den, p[()], fixed.beta @ rows.T, df, fixed.names)


def wald_ratio(fixed: FixedEffects, L: FloatArray, df: DegreesOfFreedom) -> FloatArray:
    """Return (Lβ̂)ᵀ(LΦLᵀ)⁻¹Lβ̂/q, (…): F, which Kenward and Roger scale."""
    estimate = (fixed.beta @ L.T)[..., None]
    solved = np.linalg.solve(L @ fixed.covariance(df) @ L.T, estimate)
    return np.asarray((estimate * solved).sum(axis=(-2, -1)) / len(L))


def _f_test(fixed: FixedEffects, L: FloatArray, df: DegreesOfFreedom) -> tuple[float, float]:
    """Return F and the denominator degrees of freedom of one response."""
    cov, q = fixed.covariance(df), len(L)
    if not np.isfinite(cov).all():
        return np.nan, np.nan
    if df != "satterthwaite":
        scale, degrees = (1.0, float(fixed.residual_df)) if df == "residual" else _kenward_roger(fixed, L)
        return scale * float(wald_ratio(fixed, L, df)), degrees
    # independent contrasts (Fai & Cornelius 1996, doi:10.1080/00949659608811740), as lmerTest has them
    values, vectors = np.linalg.eigh(L @ cov @ L.T)
    contrasts = vectors.T @ L
    F = float(((contrasts @ fixed.beta) ** 2 / values).mean())
    each = np.array([float(fixed.degrees(row, df)) for row in contrasts])
    if q == 1 or np.isinf(each).all() or np.ptp(each) < 1e-8 * each.min():
        return F, float(each.min())
    if (each <= 2).any():
        return F, 2.0
    E = float((each / (each - 2)).sum())
    return F, 2 * E / (E - q)


def _kenward_roger(fixed: FixedEffects, L: FloatArray) -> tuple[float, float]:
    """Return the factor of F and the denominator degrees of freedom that match its first two moments."""
    q = len(L)
    theta = L.T @ np.linalg.solve(L @ fixed.cov @ L.T, L)
    products = np.einsum("ab,ibc->iac", theta, fixed.slopes)  # ΘΦ_i = -ΘΦP_iΦ
    traces = np.trace(products, axis1=-2, axis2=-1)
    A1 = float(traces @ fixed.expected_cov @ traces)
    A2 = float(np.einsum("ij,iab,jba->", fixed.expected_cov, products, products))
    if A2 <= 0:
        return 1.0, np.inf
    B = (A1 + 6 * A2) / (2 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    c = np.array([g, q - g, q + 2 - g]) / (3 * q + 2 * (1 - g))
    E = 1 / (1 - A2 / q)
    V = 2 / q * (1 + c[0] * B) / ((1 - c[1] * B) ** 2 * (1 - c[2] * B))
    m = 4 + (q + 2) / (q * V / (2 * E**2) - 1)
    return m / (E * (m - 2)), m


def spectral_fixed_effects(
    rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, inside: Any, method: Method,
    zero_variances: ZeroVariances = "known",
) -> FixedEffects:  # fmt: skip
    """
    Return the fixed effects of one kernel: Φ = R⁻¹SR⁻ᵀ and the derivatives of S are sums over the eigenvalues.

    θ are the two variances over their total, pure numbers. Where θ is not `inside` its space one of them is left, V is
    known up to a factor, and the degrees of freedom are the residual ones; unless zero variances count as estimated.
    """
    s, r = rotated.spectrum, rotated.spectrum.projection.rank
    g, e = np.asarray(sigma2_g), np.asarray(sigma2_e)
    with np.errstate(divide="ignore", invalid="ignore"):
        blue = effects.blue(rotated, g, e)
        total = s.mean_diagonal * g + e
        a, b = s.mean_diagonal * g / total, e / total
        first, second = corner_derivatives(s, a, b)
        info = relative_information(rotated, g, e, method)
    inside = (np.asarray(inside) | (zero_variances == "free")) & np.isfinite(total)
    Rinv = np.linalg.solve(s.projection.R, np.eye(r)) if r else np.zeros((0, 0))
    unit = np.asarray(total)[..., None, None, None]
    slopes = unit * (Rinv @ first @ Rinv.T)
    curvatures = unit[..., None] * (Rinv @ second @ Rinv.T)
    m = s.df if method == "REML" else s.n
    alone = np.zeros_like(slopes)
    alone[..., 0, :, :] = blue.cov
    at = inside[..., None, None]
    scale = np.where(np.isfinite(total), 2 / m, np.nan)[..., None, None] * np.diag([1.0, 0.0])
    return FixedEffects(
        beta=blue.beta, cov=blue.cov, slopes=np.where(at[..., None], slopes, alone),
        curvatures=np.where(at[..., None, None], curvatures, 0.0),
        observed_cov=np.where(at, _inverse(info.observed), scale),
        expected_cov=np.where(at, _inverse(info.expected), scale),
        residual_df=s.df, coef=s.coef, names=rotated.names, unavailable=NOT_OF_ML if method == "ML" else "",
    )  # fmt: skip


def _inverse(information: FloatArray) -> FloatArray:
    """Return the inverse of 2 × 2 matrices, NaN where they are not positive definite."""
    a, b, c = information[..., 0, 0], information[..., 0, 1], information[..., 1, 1]
    determinant = a * c - b * b
    adjugate = np.stack([np.stack([c, -b], -1), np.stack([-b, a], -1)], -2)
    with np.errstate(divide="ignore", invalid="ignore"):
        definite = (a > 0) & (determinant > 0)
        return np.where(definite[..., None, None], adjugate / determinant[..., None, None], np.nan)
