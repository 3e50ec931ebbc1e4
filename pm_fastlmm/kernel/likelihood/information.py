"""The (restricted) likelihood in (σ²_g, σ²_e), its score and information, and standard errors of functions of them."""

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.base.threads import in_threads
from pm_fastlmm.kernel.likelihood.few import loops_for
from pm_fastlmm.kernel.likelihood.spectral import (
    LOG_2PI,
    contrast_loglik,
    corner,
    corner_of_sums,
    elementwise_sum,
    products,
    variances,
)
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_PLACES = np.array([[0, 1], [1, 2]])  # of the entries of a symmetric 2 × 2 matrix in a list of three


class Information(NamedTuple):
    """Information matrices of (σ²_g, σ²_e), shape (…, 2, 2); observed = 2 · average - expected."""

    average: FloatArray
    expected: FloatArray
    observed: FloatArray


class Scale(Protocol):
    """What σ²_g is multiplied by in the two shares, k̄ = tr(K)/n and Σλ/p."""

    @property
    def mean_diagonal(self) -> Any:
        """tr(K)/n."""

    @property
    def mean_eigval(self) -> Any:
        """Σλ/p."""

    @property
    def mean_weight(self) -> Any:
        """w̄, 1 without prior weights: total = (k̄σ²_g + σ²_e)/w̄."""


def quantities(scale: Scale, sigma2_g: FloatArray, sigma2_e: FloatArray) -> dict[str, FloatArray]:
    """Return the functions of (σ²_g, σ²_e) that are reported, by name."""
    g, e = np.asarray(sigma2_g), np.asarray(sigma2_e)
    kbar, total = scale.mean_diagonal, scale.mean_diagonal * g + e  # at weight 1
    # in the pure numbers a = h² and b = 1 - h², so that no unit of y or K can leave the range of floats
    a, b = kbar * g / total, e / total
    scaled = np.divide(scale.mean_eigval, kbar) * a
    return {
        "h2": a, "pve": scaled / (scaled + b), "sigma2": g, "delta": e / g, "sigma2_g": g, "sigma2_e": e,
        "total": total / scale.mean_weight,
    }  # fmt: skip


def errors(
    scale: Scale, sigma2_g: FloatArray, sigma2_e: FloatArray, at_zero: Any, information: FloatArray
) -> dict[str, FloatArray]:
    """
    Return standard errors of `quantities`, from a `relative_information` (…, 2, 2).

    `at_zero` (…, 2) says which variance is 0: what depends on it has no error (NaN), the other has that of a model
    without it.
    """
    g, e = np.asarray(sigma2_g), np.asarray(sigma2_e)
    kbar, total = scale.mean_diagonal, scale.mean_diagonal * g + e
    a, b, lbar = kbar * g / total, e / total, np.divide(scale.mean_eigval, kbar)
    zero, t = np.zeros_like(a), lbar * a + b
    gradients: dict[str, tuple[FloatArray, FloatArray, Any]] = {
        "h2": (b, -a, 1.0),
        "pve": (lbar * b / t**2, -lbar * a / t**2, 1.0),
        "sigma2": (zero + 1, zero, total / kbar),
        "delta": (-b / a**2, 1 / a, kbar),
        "sigma2_g": (zero + 1, zero, total / kbar),
        "sigma2_e": (zero, zero + 1, total),
        "total": (zero + 1, zero + 1, total / scale.mean_weight),
    }
    free = ~np.asarray(at_zero)
    alone = np.where(free[..., :, None] & free[..., None, :], information, np.eye(2))
    out = {}
    for name, (u, v, unit) in gradients.items():
        gradient = np.stack([u, v], axis=-1)
        known = (free | (gradient == 0)).all(axis=-1)
        out[name] = np.where(known, unit * standard_error(gradient, alone), np.nan)
    return out


def variance_covariance(
    scale: Scale, sigma2_g: Any, sigma2_e: Any, at_zero: Any, information: FloatArray
) -> FloatArray:
    """Return the covariance (2, 2) of the two variances of one response, from a `relative_information`; NaN at 0."""
    units = (scale.mean_diagonal * sigma2_g + sigma2_e) * np.array([1 / scale.mean_diagonal, 1.0])
    free = np.flatnonzero(~np.asarray(at_zero))
    out = np.full((2, 2), np.nan)
    out[np.ix_(free, free)] = (
        np.linalg.inv(information[np.ix_(free, free)]) * np.outer(units, units)[np.ix_(free, free)]
    )
    return out


def log_likelihood(
    rotated: Rotated, sigma2_g: FloatArray | float, sigma2_e: FloatArray | float, *, method: Method = "REML"
) -> FloatArray:
    """
    Return the restricted or full log-likelihood with β at its estimate, as lme4 prints it.

    ℓ_PT = ℓ_R - ½log|XᵀX|, which is log ∫ p(y | β) dβ; and ℓ_ML = ℓ_R - ½(r log 2π + log|S|). With prior weights ℓ_R
    and X are those of rows times √w, and both have ½Σ log w more, the Jacobian of √w y.
    """
    require_choice("method", method, Method)
    if not isinstance(rotated, Rotated):
        raise TypeError(f"rotated must be a Rotated, got {type(rotated).__name__}: rotate y first, spectrum.rotate(y).")
    s = rotated.spectrum
    g, e = np.asarray(sigma2_g, dtype=float), np.asarray(sigma2_e, dtype=float)
    if (g < 0).any() or (e < 0).any():
        raise ValueError("variances must not be negative.")
    with np.errstate(all="ignore"):
        loglik = contrast_loglik(rotated.z, rotated.rss, eigvals=s.eigvals, nullity=s.nullity, sigma2_g=g, sigma2_e=e)
        if method == "REML":
            loglik = loglik + s.log_flat
        else:
            C, schur = s.corner_axes()
            _, S = corner(rotated.z, eigvals=s.eigvals, C=C, schur=schur, sigma2_g=g, sigma2_e=e)
            loglik = loglik + s.weights.logdet - 0.5 * (s.projection.rank * LOG_2PI + np.linalg.slogdet(S)[1])
    impossible = (g + e == 0) | ((e == 0) & bool(s.nullity))  # y has a direction without variance
    return np.where(impossible, -np.inf, loglik)


def score(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, method: Method = "REML") -> FloatArray:
    """
    Return ∂ℓ/∂(σ²_g, σ²_e), shape (…, 2).

    ½ Σ (z_i²/d_i² - 1/d_i)(λ_i, 1), and ½(rss/σ⁴_e - ν/σ²_e) more for σ²_e; for ML less ½ ∂log|S|.
    """
    s = rotated.spectrum
    d = variances(s.eigvals, sigma2_g, sigma2_e)
    terms = (rotated.z**2 / d - 1) / d
    out = np.stack([(terms * s.eigvals).sum(-1), terms.sum(-1)], axis=-1)
    if s.nullity:
        out[..., 1] += (rotated.rss / sigma2_e - s.nullity) / sigma2_e
    if method == "ML" and s.projection.rank:
        S, slopes = _corner_slopes(s.eigvals, *s.corner_axes(), sigma2_g, sigma2_e)
        out -= np.trace(np.linalg.solve(S[..., None, :, :], slopes), axis1=-2, axis2=-1)
    return 0.5 * out


def information(rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, method: Method = "REML") -> Information:
    """
    Return average, expected and observed information at (σ²_g, σ²_e), with g_i = (λ_i, 1).

        average ½Σ(z_i²/d_i³) g_ig_iᵀ,   expected ½Σ(1/d_i²) g_ig_iᵀ,   observed = 2 · average - expected

    For ML the expected and observed ones gain ∓½∂²log|S|, the curvature of the part of log|V| along X.
    """
    total = rotated.spectrum.mean_diagonal * np.asarray(sigma2_g) + np.asarray(sigma2_e)
    units = np.stack([total / rotated.spectrum.mean_diagonal, total], axis=-1)
    outer = units[..., :, None] * units[..., None, :]
    return Information(*(matrix / outer for matrix in relative_information(rotated, sigma2_g, sigma2_e, method)))


def relative_information(
    rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, method: Method = "REML"
) -> Information:
    """
    Return the information of (h², 1 - h²) · total as if they were free, at a total of 1.

    The parameters are (σ²_gk̄, σ²_e)/total: pure numbers, whatever the units of y and K.
    """
    return information_and_corner(rotated, sigma2_g, sigma2_e, method)[0]


def information_and_corner(
    rotated: Rotated, sigma2_g: FloatArray, sigma2_e: FloatArray, method: Method
) -> tuple[Information, tuple[FloatArray, FloatArray]]:
    """Return `relative_information` and what `spectral.corner` returns, from one pass over the eigenvalues."""
    s = rotated.spectrum
    kbar, r = s.mean_diagonal, s.projection.rank
    total = kbar * np.asarray(sigma2_g) + np.asarray(sigma2_e)
    a, b = kbar * np.asarray(sigma2_g) / total, np.asarray(sigma2_e) / total
    eigvals = s.eigvals / kbar
    sums = _sums(rotated, eigvals, s.C / kbar, a, b)
    average, expected = 0.5 * sums[..., _PLACES] / total[..., None, None], 0.5 * sums[..., 3 + _PLACES]
    if s.nullity:
        average[..., 1, 1] += 0.5 * rotated.rss / total / b**3
        expected[..., 1, 1] += 0.5 * s.nullity / b**2
    if method == "ML" and r:
        C, schur = (array / kbar for array in s.corner_axes())
        expected = expected - 0.5 * _corner_curvature(eigvals, C, schur, a, b)
    sums = sums[..., 6:] * np.expand_dims(kbar / total, -1)  # in the units of K and y again
    gram, (i, j) = np.empty((*sums.shape[:-1], r, r)), np.tril_indices(r)
    gram[..., i, j] = gram[..., j, i] = sums[..., r:]
    found = corner_of_sums(sums[..., :r], gram, s.schur, np.asarray(sigma2_g), np.asarray(sigma2_e))
    return Information(average, expected, 2 * average - expected), found


def _sums(rotated: Rotated, eigvals: FloatArray, C: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Return Σz²/d³ (λ², λ, 1), Σ1/d² (λ², λ, 1), Cᵀ(z/d) and the lower Cᵀdiag(1/(λd))C with d = aλ + b, (…, 6 + …)."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b), rotated.batch_shape)
    rows = math.prod(shape)
    k = eigvals.size
    Z = np.broadcast_to(rotated.z, (*shape, k)).reshape(rows, k) if rotated.batch_shape else rotated.z[None]
    Z, along = np.ascontiguousarray(Z), np.ascontiguousarray(C.T)
    first, second = np.tril_indices(len(along))
    CC = along[first] * along[second] / eigvals
    g, e = (np.ascontiguousarray(np.broadcast_to(v, shape).reshape(-1)) for v in (a, b))
    out, loops = np.empty((rows, 6 + len(along) + len(CC))), loops_for(rows)

    def run(part: slice) -> None:
        loops.estimate_rows(eigvals, Z[part] if len(Z) > 1 else Z, g[part], e[part], along, CC, out[part])

    in_threads(run, rows)
    return out.reshape(*shape, out.shape[1])


def _corner_slopes(
    eigvals: FloatArray, C: FloatArray, schur: FloatArray, sigma2_g: FloatArray, sigma2_e: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return S and ∂S/∂(σ²_g, σ²_e) = S₀ + σ⁴_eCᵀdiag(1/(λd²))C, I + σ⁴_gCᵀdiag(1/d²)C, (…, 2, r, r)."""
    g, e = np.asarray(sigma2_g)[..., None, None], np.asarray(sigma2_e)[..., None, None]
    d = variances(eigvals, sigma2_g, sigma2_e)
    _, S = corner(np.zeros_like(d), eigvals=eigvals, C=C, schur=schur, sigma2_g=sigma2_g, sigma2_e=sigma2_e)
    CC = products(C)
    along_g = schur + e**2 * elementwise_sum(1 / (eigvals * d**2), CC)
    along_e = np.eye(len(schur)) + g**2 * elementwise_sum(1 / d**2, CC)
    return S, np.stack([along_g, along_e], axis=-3)


def _corner_seconds(eigvals: FloatArray, C: FloatArray, sigma2_g: FloatArray, sigma2_e: FloatArray) -> FloatArray:
    """Return ∂²S/∂(σ²_g, σ²_e)² = 2Cᵀdiag(1/d³)C times -σ⁴_e, σ²_gσ²_e and -σ⁴_g, (…, 2, 2, r, r)."""
    g, e = np.asarray(sigma2_g)[..., None, None], np.asarray(sigma2_e)[..., None, None]
    cubic = elementwise_sum(1 / variances(eigvals, sigma2_g, sigma2_e) ** 3, products(C))
    entries = np.stack([-2 * e**2 * cubic, 2 * g * e * cubic, -2 * g**2 * cubic], axis=-3)
    return np.asarray(entries[..., _PLACES, :, :])


def corner_derivatives(spectrum: Spectrum, a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ∂S (…, 2, r, r) and ∂²S (…, 2, 2, r, r) at the shares (h², 1 - h²) of a total of 1."""
    eigvals, C, schur = (array / spectrum.mean_diagonal for array in (spectrum.eigvals, spectrum.C, spectrum.schur))
    return _corner_slopes(eigvals, C, schur, a, b)[1], _corner_seconds(eigvals, C, a, b)


def _corner_curvature(
    eigvals: FloatArray, C: FloatArray, schur: FloatArray, sigma2_g: FloatArray, sigma2_e: FloatArray
) -> FloatArray:
    """Return ∂²log|S|/∂(σ²_g, σ²_e)² = tr(S⁻¹S_ab) - tr(S⁻¹S_aS⁻¹S_b)."""
    S, first = _corner_slopes(eigvals, C, schur, sigma2_g, sigma2_e)
    solved = np.linalg.solve(S[..., None, :, :], first)
    second = np.linalg.solve(S[..., None, None, :, :], _corner_seconds(eigvals, C, sigma2_g, sigma2_e))
    return np.asarray(np.trace(second, axis1=-2, axis2=-1) - np.einsum("...aij,...bji->...ab", solved, solved))


def standard_error(gradient: FloatArray, information: FloatArray) -> FloatArray:
    """
    Return √(∇ᵀI⁻¹∇), the delta-method standard error of a function of two parameters; NaN where I is not definite.

    `gradient` is (…, 2) and `information` (…, 2, 2).
    """
    a, b, c = information[..., 0, 0], information[..., 0, 1], information[..., 1, 1]
    determinant = a * c - b**2
    u, v = gradient[..., 0], gradient[..., 1]
    with np.errstate(all="ignore"):
        variance = (c * u**2 - 2 * b * u * v + a * v**2) / determinant
        return np.where((a > 0) & (determinant > 0), np.sqrt(variance), np.nan)
