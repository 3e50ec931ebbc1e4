r"""
The restricted likelihood of y = Xβ + Zw + e, w ~ N(0, diag(s)), e ~ N(0, σ²_eI), from products of the features.

With M = I - QQᵀ, X = QR, and G̃ = ZᵀMZ, b̃ = ZᵀMy, c̃ = yᵀMy, p = n - r (`FourierProducts`), a = s/σ²_e,

    A = I + a^½G̃a^½ = LLᵀ,   u = A⁻¹a^½b̃,   q = c̃ - b̃ᵀa^½u = σ²_e yᵀPy

    ℓ = -½[p log 2πσ²_e + log|A| + q/σ²_e] - ½log|XᵀX|
    ∂ℓ/∂log s_j = -½[1 - (A⁻¹)_jj - u_j²/σ²_e],   ∂ℓ/∂b̃ = a^½u/σ²_e,   ∂ℓ/∂c̃ = -½/σ²_e
    ∂ℓ/∂log σ²_e = -½[p - Σ_j(1 - (A⁻¹)_jj) - (q - ‖u‖²)/σ²_e]

Average information ½qᵢᵀPqⱼ of what log s depends on with slopes D = ∂log s/∂θ, and of σ²_e, where qᵢ = (∂V/∂θ_i)Py:

    ½(Dᵢ∘u)ᵀ(I - A⁻¹)(Dⱼ∘u)/σ²_e,   ½(Dᵢ∘u)ᵀA⁻¹u/σ⁴_e,   ½(q - ‖u‖² - uᵀA⁻¹u)/σ⁶_e

Features of no weight, whose (A⁻¹)_jj is 1 to rounding, are left out of the factorisation.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.linalg import lapack, solve_triangular

from pm_fastlmm.base.arrays import EPS, FloatArray
from pm_fastlmm.engines.callbacks import GradientOp
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.products import FourierProducts
from pm_fastlmm.engines.lengthscale.spectra import NodeStatistics, RotatedSpectra
from pm_fastlmm.kernel.likelihood.spectral import LOG_2PI

_NEGLIGIBLE = 0.01  # share of the tolerance that features left out of a spectrum may cost
_LARGEST_RATIO = 1e2  # δ up to which an interpolated likelihood is checked


@dataclass(frozen=True, slots=True, eq=False)
class FourierFactor:
    """
    A factored at (s, σ²_e), for one response.

    Attributes
    ----------
    active : (k,) array of int
        The features that were not left out; L and u are of these.
    root : (k,) array
        a^½.
    L : (k, k) array
        Cholesky factor of A, lower triangular.
    u : (k,) array
    prior : (M,) array
        s.
    q, logdet : float
        q and log|A|.
    sigma2_e : float
    df : int
    """

    active: Any
    root: FloatArray
    L: FloatArray
    u: FloatArray
    prior: FloatArray
    q: float
    logdet: float
    sigma2_e: float
    df: int

    @classmethod
    def of(
        cls, log_prior: FloatArray, sigma2_e: float, cross: FloatArray, square: float, gram: FloatArray, df: int
    ) -> Self | None:
        """Factor A at s = exp(log_prior); None if a value is not finite or A not positive definite."""
        with np.errstate(all="ignore"):
            a = np.exp(log_prior - np.log(sigma2_e))
        if not (sigma2_e > 0 and np.isfinite(a).all()):
            return None
        active = np.flatnonzero(a * np.diag(gram) > EPS)
        root = np.sqrt(a[active])
        A = gram[np.ix_(active, active)] * root
        A *= root[:, None]
        A.flat[:: len(active) + 1] += 1.0
        L, info = lapack.dpotrf(A.T, lower=1, clean=1, overwrite_a=1)
        if info:
            return None
        v = solve_triangular(L, root * cross[active], lower=True, check_finite=False)
        u = solve_triangular(L, v, lower=True, trans="T", check_finite=False)
        return cls(
            active, root, L, u, a * sigma2_e, square - float(v @ v), 2 * float(np.log(np.diag(L)).sum()), sigma2_e, df
        )

    @property
    def loglik(self) -> float:
        """ℓ without -½log|XᵀX|."""
        e = self.sigma2_e
        return -0.5 * (self.df * (LOG_2PI + float(np.log(e))) + self.logdet + self.q / e)

    def shrinkage(self) -> FloatArray:
        """Return 1 - (A⁻¹)_jj, the share of each active feature that the data determine."""
        inverse = lapack.dtrtri(self.L, lower=1)[0] if self.L.size else self.L  # LAPACK prints an error of no rows
        return np.asarray(1.0 - (inverse**2).sum(axis=0))

    def gradient(self, size: int) -> tuple[FloatArray, float, FloatArray]:
        """Return ∂ℓ/∂log s (M,), ∂ℓ/∂σ²_e, and ∂ℓ/∂[b̃, c̃] (M + 1,)."""
        e, known = self.sigma2_e, self.shrinkage()
        by_prior, by_data = np.zeros(size), np.zeros(size + 1)
        by_prior[self.active] = -0.5 * (known - self.u**2 / e)
        by_data[self.active] = self.root * self.u / e
        by_data[-1] = -0.5 / e
        by_e = -0.5 * (self.df - float(known.sum()) - (self.q - float(self.u @ self.u)) / e) / e
        return by_prior, by_e, by_data

    def score_and_information(
        self, s: FloatArray, slopes: FloatArray, products: FourierProducts
    ) -> tuple[FloatArray, FloatArray]:
        """
        Return score (P + 1,) and average information of θ with slopes ∂s/∂θ (M, P), and of σ²_e last.

        At s = 0, where no feature is active, P = M/σ²_e and the slopes of s itself, not of log s, have their limits.
        """
        e, P = self.sigma2_e, slopes.shape[1]
        score, information = np.empty(P + 1), np.empty((P + 1, P + 1))
        if not len(self.active):
            r = products.cross / e
            score[:P] = 0.5 * (slopes.T @ (r**2 - np.diag(products.gram) / e))
            moved = slopes * r[:, None]
            information[:P, :P] = moved.T @ products.gram @ moved / e
            information[:P, P] = information[P, :P] = moved.T @ r / e
            information[P, P] = self.q / e**3
        else:
            directions = (slopes[self.active] / s[self.active, None]) * self.u[:, None]
            by_prior = self.gradient(len(s))[0][self.active]
            score[:P] = (slopes[self.active] / s[self.active, None]).T @ by_prior
            half = solve_triangular(self.L, np.column_stack([directions, self.u]), lower=True, check_finite=False)
            inverse = half.T @ half  # [D∘u, u]ᵀA⁻¹[D∘u, u]
            information[:P, :P] = (directions.T @ directions - inverse[:P, :P]) / e
            information[:P, P] = information[P, :P] = inverse[:P, P] / e**2
            information[P, P] = (self.q - float(self.u @ self.u) - inverse[P, P]) / e**3
        score[P] = self.gradient(len(s))[1]
        return score, 0.5 * information

    def weights(self, size: int) -> FloatArray:
        """Return the posterior mean a^½u of w, (M,)."""
        w = np.zeros(size)
        w[self.active] = self.root * self.u
        return w

    def weights_root(self, columns: FloatArray) -> FloatArray:
        """
        Return BᵀC for columns C (M, K), where BBᵀ is the posterior covariance of w.

        σ²_e a^½A⁻¹a^½ for active features; the data say nothing of the others, which keep their prior variances.
        """
        scaled = solve_triangular(self.L, self.root[:, None] * columns[self.active], lower=True, check_finite=False)
        out = np.sqrt(self.prior)[:, None] * columns
        out[self.active] = np.sqrt(self.sigma2_e) * scaled
        return np.asarray(out)

    def draw_weights(self, rng: np.random.Generator, draws: int) -> FloatArray:
        """Return draws of w given y, (draws, M)."""
        xi = rng.standard_normal((len(self.prior), draws))
        out = np.sqrt(self.prior)[:, None] * xi
        back = solve_triangular(self.L, xi[self.active], lower=True, trans="T", check_finite=False)
        out[self.active] = self.root[:, None] * (self.u[:, None] + np.sqrt(self.sigma2_e) * back)
        return np.asarray(out.T)


def coefficients(factor: FourierFactor, products: FourierProducts) -> tuple[FloatArray, FloatArray]:
    """Return β̂ = R⁻¹(Qᵀy - QᵀZŵ) and its covariance R⁻¹(σ²_eI + QᵀZ Var(w) ZᵀQ)R⁻ᵀ."""
    R, F = products.projection.R, products.fixed
    if not R.size:
        return np.zeros(0), np.zeros((0, 0))
    beta = np.linalg.solve(R, products.along - F.T @ factor.weights(len(F)))
    half = factor.weights_root(F)
    inverse = np.linalg.solve(R, np.eye(len(R)))
    return beta, inverse @ (factor.sigma2_e * np.eye(len(R)) + half.T @ half) @ inverse.T


def fourier_loglik_and_gradient(
    log_prior: FloatArray, sigma2_e: Any, data: FloatArray, gram: FloatArray, df: Any
) -> tuple[float, FloatArray, float, FloatArray]:
    """
    Return ℓ (without -½log|XᵀX|) and its derivatives with respect to log s, σ²_e and data = [b̃, c̃].

    -inf and 0 where the density is not defined.
    """
    size = len(log_prior)
    factor = FourierFactor.of(log_prior, float(sigma2_e), data[:-1], float(data[-1]), gram, int(df))
    if factor is None:
        return -np.inf, np.zeros(size), 0.0, np.zeros(size + 1)
    return factor.loglik, *factor.gradient(size)


class FourierLoglik(GradientOp):
    """
    Log-likelihood from products of Fourier features, with its gradient as further outputs: one factorisation for both.

    Inputs: log σ²d (M,), σ²_e, the data [b̃, c̃] (M + 1,), and the constants G̃ and p. -½log|XᵀX| is left out. There is
    no second derivative.
    """

    likelihood = "the likelihood of Fourier features"
    differentiable = 3
    evaluate = staticmethod(fourier_loglik_and_gradient)


def fourier_spectra(
    products: FourierProducts, basis: FourierBasis, *, delta_min: float, tolerance: float = 1e-3
) -> RotatedSpectra:
    """
    Return the spectra of d^½G̃d^½ at Chebyshev nodes of one lengthscale: each evaluation then factors nothing.

    Raises
    ------
    ValueError
        As `RotatedSpectra.build`.
    """

    def node(ell: float) -> NodeStatistics:
        d = np.exp(basis.log_weights(ell))
        share = d * np.diag(products.gram)  # of the trace; its sum over what is left out bounds both sums' errors
        order = np.argsort(share)
        active = np.sort(order[np.cumsum(share[order]) > _NEGLIGIBLE * tolerance * delta_min])
        root = np.sqrt(d[active])
        eigvals, vectors = np.linalg.eigh(products.gram[np.ix_(active, active)] * root * root[:, None])
        kept = eigvals > 4 * len(active) * EPS * eigvals[-1]
        eigvals, vectors = eigvals[kept][-products.df :], vectors[:, kept][:, -products.df :]
        z = (vectors.T @ (root * products.cross[active])) / np.sqrt(eigvals)
        return NodeStatistics(eigvals, z, max(products.square - float(z @ z), 0.0), products.df - len(eigvals))

    return RotatedSpectra.build(
        node, basis.lengthscale, delta=(delta_min, _LARGEST_RATIO * products.mean_weight), tolerance=tolerance,
        log_flat=products.log_flat,
    )  # fmt: skip
