"""The random variables behind FastLMM: their draws as graphs, and their log-densities."""

from typing import Any, ClassVar, Literal

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.dist_math import check_parameters
from pymc.distributions.distribution import Continuous, SymbolicRandomVariable
from pymc.distributions.shape_utils import implicit_size_from_params, rv_size_is_none
from pymc.pytensorf import normalize_rng_param
from pytensor.compile.builders import OpFromGraph
from pytensor.tensor.random.basic import chisquare, normal
from pytensor.tensor.random.utils import normalize_size_param

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.distribution.contrasts import ContrastsRV
from pm_fastlmm.distribution.operations import given_or_zero
from pm_fastlmm.likelihood.spectral import contrast_loglik, corner, gaussian_loglik, variances
from pm_fastlmm.linalg.projection import Projection
from pm_fastlmm.linalg.spectrum import Rotated, Spectrum

type Treatment = Literal["flat", "proper"]


def _rotated_by(v: Any, M: Any) -> Any:
    """Return vᵀM for the rotation of data, a product of constants that PyTensor folds away."""
    return pt.dot(v, M) if M.type.ndim == 2 else pt.matmul(v[..., None, :], M)[..., 0, :]


def times(M: Any, v: Any) -> Any:
    """Return Mv as a sum of products, which compiles in a second where a matrix product takes twenty."""
    return (M * v[..., None, :]).sum(-1)


def product(A: Any, B: Any) -> Any:
    """Return AB in the same way."""
    return (A[..., :, :, None] * B[..., None, :, :]).sum(-2)


def _inverse_logdet(A: Any) -> Any:
    """
    Return A⁻¹ and log|A| of a small symmetric matrix, with the closed-form gradient.

    The automatic gradient of an inverse is rewritten into four triangular solves, which take 40 s to compile; this one,
    log|A| ↦ A⁻¹ and A⁻¹ ↦ -A⁻¹(·)A⁻¹, reuses the inverse and can itself be differentiated.
    """

    def pullback(inputs: Any, outputs: Any, gradients: Any) -> list[Any]:
        inverse, _ = outputs
        d_inverse, d_logdet = given_or_zero(outputs, gradients)
        return [d_logdet[..., None, None] * inverse - product(product(inverse, d_inverse), inverse)]

    matrix = A.type()
    outputs = [pt.linalg.inv(matrix), pt.linalg.slogdet(matrix)[1]]
    return OpFromGraph([matrix], outputs, inline=True, pullback=pullback, name="InverseLogdet")(A)


def _col(v: Any) -> Any:
    return v[..., None]


def prepared(ndims_params: Any, params: tuple[Any, ...], size: Any, rng: Any) -> tuple[tuple[Any, ...], Any, Any, Any]:
    """Return parameters, size and generator as variables, and the batch shape of a draw."""
    params = tuple(map(pt.as_tensor, params))
    rng, size = normalize_rng_param(rng), normalize_size_param(size)
    batch = implicit_size_from_params(*params, ndims_params=ndims_params) if rv_size_is_none(size) else size
    return params, size, rng, batch


class LMMRV(SymbolicRandomVariable):  # type: ignore[misc]
    """
    What the nodes share: inputs as tensors, the batch shape, and rebuilding for parameters of another rank.

    The op carries the `Spectrum` that its inputs came from, and the `Rotated` that it observes, through every
    rebuilding: `lmm_nodes` finds them there.
    Equality of ops does not look at it, and need not: the inputs say the same.
    """

    name = "FastLMM"
    _print_name = ("FastLMM", r"\operatorname{FastLMM}")
    treatment: ClassVar[Treatment]
    spectrum: Spectrum
    rotated: Rotated | None = None

    @property
    def projection(self) -> Projection:
        """QR of X."""
        return self.spectrum.projection

    @classmethod
    def prepare(cls, params: tuple[Any, ...], size: Any, rng: Any) -> tuple[tuple[Any, ...], Any, Any, Any]:
        """Return parameters, size and generator as variables, and the batch shape."""
        return prepared(cls.ndims_params, params, size, rng)

    def rebuild_rv(self, *params: Any, **kwargs: Any) -> Any:
        """Build the variable anew, for another size or rank of its parameters."""
        rv = super().rebuild_rv(*params, **kwargs)
        rv.owner.op.spectrum, rv.owner.op.rotated = self.spectrum, self.rotated
        return rv

    def make_node(self, *inputs: Any) -> Any:
        """Apply to inputs; parameters with another number of dimensions (`pymc.dims`) need another inner graph."""
        rng, size, *params = inputs
        if any(p.type.ndim != t.ndim for p, t in zip(params, self.input_types[2:], strict=True)):
            return self.rebuild_rv(*params, size=size, rng=rng).owner
        return super().make_node(*inputs)


class FlatLMMRV(ContrastsRV, LMMRV):
    """Y with β integrated out under a flat prior: inputs mu, σ²_g, σ²_e, λ, Q₂U, Q₁, R."""

    treatment = "flat"
    extended_signature = "[rng],[size],(n),(),(),(k),(n,k),(n,r),(r,r)->[rng],(n)"

    @classmethod
    def rv_op(cls, *params: Any, size: Any = None, rng: Any = None) -> Any:
        """Build the graph of a draw."""
        params, size, rng, batch = cls.prepare(params, size, rng)
        mu, g, e, eigvals, basis, Q1, _ = params
        n, k, r = basis.type.shape[-2], basis.type.shape[-1], Q1.type.shape[-1]
        sd = pt.sqrt(variances(eigvals, g, e, pt))
        if n == k + r:
            next_rng, xi = normal(0.0, 1.0, size=(*batch, k), rng=rng, return_next_rng=True)
            y = mu + times(basis, sd * xi)
        else:
            # white noise, with its part along the basis rescaled and its part along X taken out
            next_rng, xi = normal(0.0, 1.0, size=(*batch, n), rng=rng, return_next_rng=True)
            sd_e = _col(pt.sqrt(e))
            along = times(basis, times(basis.mT, xi) * (sd - sd_e)) - sd_e * times(Q1, times(Q1.mT, xi))
            y = mu + sd_e * xi + along
        return cls([rng, size, *params], [next_rng, y])(rng, size, *params)


class ProperLMMRV(LMMRV):
    """Y with β ~ N(b, LLᵀ), L = 0 for an explicit β: mu, b, L, σ²_g, σ²_e, λ, Q₂U, Q₁, R, C, corner_root."""

    treatment = "proper"
    extended_signature = "[rng],[size],(n),(r),(r,r),(),(),(k),(n,k),(n,r),(r,r),(k,r),(r,r)->[rng],(n)"

    @classmethod
    def rv_op(cls, *params: Any, size: Any = None, rng: Any = None) -> Any:
        """Build the graph of a draw."""
        params, size, rng, batch = cls.prepare(params, size, rng)
        mu, b, L, g, e, eigvals, basis, Q1, R, C, corner_root = params
        n, k, r = basis.shape[-2], eigvals.shape[-1], R.shape[-1]
        next_rng, noise = normal(0.0, 1.0, size=(*batch, n + k + 2 * r), rng=rng, return_next_rng=True)
        xi_e, xi_k, xi_u, xi_b = (
            noise[..., :n], noise[..., n : n + k], noise[..., n + k : n + k + r], noise[..., n + k + r :]
        )  # fmt: skip
        s, sd_g = pt.sqrt(eigvals), _col(pt.sqrt(g))
        along = times(R, b + times(L, xi_b)) + sd_g * (times(C.mT, xi_k / s) + times(corner_root, xi_u))
        y = mu + times(Q1, along) + sd_g * times(basis, xi_k * s) + _col(pt.sqrt(e)) * xi_e
        return cls([rng, size, *params], [next_rng, y])(rng, size, *params)


class RotatedLMMRV(LMMRV):
    """The statistic [z, rss] of y with β integrated out under a flat prior: inputs σ²_g, σ²_e, λ, R, ν."""

    treatment = "flat"
    extended_signature = "[rng],[size],(),(),(k),(r,r),(q)->[rng],(s)"

    @classmethod
    def rv_op(cls, *params: Any, size: Any = None, rng: Any = None) -> Any:
        """Build the graph of a draw."""
        params, size, rng, batch = cls.prepare(params, size, rng)
        g, e, eigvals, _, nullity = params
        next_rng, xi = normal(0.0, 1.0, size=(*batch, eigvals.shape[-1]), rng=rng, return_next_rng=True)
        value = xi * pt.sqrt(variances(eigvals, g, e, pt))
        if nullity.type.shape != (0,):
            next_rng, chi2 = chisquare(nullity, size=(*batch, 1), rng=next_rng, return_next_rng=True)
            value = pt.concatenate([value, _col(e) * chi2], axis=-1)
        return cls([rng, size, *params], [next_rng, value])(rng, size, *params)


def statistic(rotated: Rotated, treatment: Treatment) -> FloatArray:
    """Return what a node observes of a `Rotated`: [z, rss, y₁], rss where K has a null space, y₁ unless β is flat."""
    parts = [rotated.z]
    if rotated.spectrum.nullity:
        parts.append(rotated.rss[..., None])
    if treatment == "proper":
        parts.append(rotated.y1)
    return np.concatenate(parts, axis=-1)


class RotatedProperLMMRV(LMMRV):
    """The statistic [z, rss, y₁] of y with β ~ N(b, LLᵀ): inputs b, L, σ²_g, σ²_e, λ, R, C, corner_root, ν."""

    treatment = "proper"
    extended_signature = "[rng],[size],(r),(r,r),(),(),(k),(r,r),(k,r),(r,r),(q)->[rng],(s)"

    @classmethod
    def rv_op(cls, *params: Any, size: Any = None, rng: Any = None) -> Any:
        """Build the graph of a draw."""
        params, size, rng, batch = cls.prepare(params, size, rng)
        b, L, g, e, eigvals, R, C, corner_root, nullity = params
        k, r = eigvals.shape[-1], R.shape[-1]
        next_rng, noise = normal(0.0, 1.0, size=(*batch, 2 * k + 3 * r), rng=rng, return_next_rng=True)
        xi_k, e_k = noise[..., :k], noise[..., k : 2 * k]
        xi_u, xi_b, e_r = (noise[..., 2 * k + i * r : 2 * k + (i + 1) * r] for i in range(3))
        s, sd_g, sd_e = pt.sqrt(eigvals), _col(pt.sqrt(g)), _col(pt.sqrt(e))
        parts = [sd_g * s * xi_k + sd_e * e_k]
        if nullity.type.shape != (0,):
            next_rng, chi2 = chisquare(nullity, size=(*batch, 1), rng=next_rng, return_next_rng=True)
            parts.append(_col(e) * chi2)
        along = sd_g * (times(C.mT, xi_k / s) + times(corner_root, xi_u)) + sd_e * e_r
        value = pt.concatenate([*parts, times(R, b + times(L, xi_b)) + along], axis=-1)
        return cls([rng, size, *params], [next_rng, value])(rng, size, *params)


def _nonzero(e: Any, nullity: int) -> Any:
    """Return σ²_e, and 1 for a 0 at which the density is 0 and is not computed."""
    return pt.switch(e > 0, e, 1.0) if nullity else e


def _checked(logp: Any, g: Any, e: Any, nullity: int) -> Any:
    if nullity:  # where λ = 0 nothing but σ²_e is left
        logp = pt.switch(e > 0, logp, -np.inf)
    return check_parameters(logp, g >= 0, e >= 0, g + e > 0, msg="sigma2_g >= 0, sigma2_e >= 0, not both 0")


def _rotate(value: Any, mu: Any, basis: Any, Q1: Any) -> tuple[Any, Any, Any, int]:
    """Return z, rss, y₁ and ν; with an observed constant and a constant mu PyTensor folds all of it at compilation."""
    n, k, r = basis.type.shape[-2], basis.type.shape[-1], Q1.type.shape[-1]
    residual = value - mu
    y1, z = _rotated_by(residual, Q1), _rotated_by(residual, basis)
    nullity = n - k - r
    rss = ((residual - _rotated_by(z, basis.mT) - _rotated_by(y1, Q1.mT)) ** 2).sum(-1) if nullity else 0.0
    return z, rss, y1, nullity


def _proper_logp(
    z: Any, rss: Any, y1: Any, nullity: int, b: Any, L: Any, g: Any, e: Any, eigvals: Any, R: Any, C: Any, root: Any
) -> Any:
    """Return the restricted log-likelihood and the log-density of y₁ given z with β ~ N(b, LLᵀ)."""
    v = _nonzero(e, nullity)
    logp = contrast_loglik(z, rss, eigvals=eigvals, nullity=nullity, sigma2_g=g, sigma2_e=v, xp=pt)
    mean, S = corner(z, eigvals=eigvals, C=C, schur=product(root, root.mT), sigma2_g=g, sigma2_e=v, xp=pt)
    RL = product(R, L)
    inverse, logdet = _inverse_logdet(S + product(RL, RL.mT))
    return _checked(logp + gaussian_loglik(y1 - times(R, b) - mean, inverse, logdet, pt), g, e, nullity)


def _split_statistic(value: Any, k: int, nullity: Any) -> tuple[Any, Any, Any, int]:
    """Return z, rss, y₁ and ν."""
    nu = int(nullity.data[0]) if nullity.type.shape != (0,) else 0
    return value[..., :k], value[..., k] if nu else 0.0, value[..., k + bool(nu) :], nu


class FlatLMM(Continuous):  # type: ignore[misc]
    rv_type = FlatLMMRV
    rv_op = FlatLMMRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, mu: Any, *params: Any) -> Any:
        return pt.zeros_like(rv) + mu

    def logp(value: Any, mu: Any, g: Any, e: Any, eigvals: Any, basis: Any, Q1: Any, R: Any) -> Any:
        z, rss, _, nullity = _rotate(value, mu, basis, Q1)
        logp = contrast_loglik(z, rss, eigvals=eigvals, nullity=nullity, sigma2_g=g, sigma2_e=e, xp=pt)
        return _checked(logp - pt.log(pt.abs(pt.diagonal(R))).sum(), g, e, nullity)


class ProperLMM(Continuous):  # type: ignore[misc]
    rv_type = ProperLMMRV
    rv_op = ProperLMMRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, mu: Any, b: Any, *params: Any) -> Any:
        Q1, R = params[5], params[6]
        return pt.zeros_like(rv) + mu + times(Q1, times(R, b))

    def logp(
        value: Any, mu: Any, b: Any, L: Any, g: Any, e: Any,
        eigvals: Any, basis: Any, Q1: Any, R: Any, C: Any, corner_root: Any,
    ) -> Any:  # fmt: skip
        return _proper_logp(*_rotate(value, mu, basis, Q1), b, L, g, e, eigvals, R, C, corner_root)


class RotatedLMM(Continuous):  # type: ignore[misc]
    rv_type = RotatedLMMRV
    rv_op = RotatedLMMRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, *params: Any) -> Any:
        return pt.ones_like(rv)

    def logp(value: Any, g: Any, e: Any, eigvals: Any, R: Any, nullity: Any) -> Any:
        z, rss, _, nu = _split_statistic(value, eigvals.type.shape[-1], nullity)
        logp = contrast_loglik(z, rss, eigvals=eigvals, nullity=nu, sigma2_g=g, sigma2_e=e, xp=pt)
        return _checked(logp - pt.log(pt.abs(pt.diagonal(R))).sum(), g, e, nu)


class RotatedProperLMM(Continuous):  # type: ignore[misc]
    rv_type = RotatedProperLMMRV
    rv_op = RotatedProperLMMRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, *params: Any) -> Any:
        return pt.ones_like(rv)

    def logp(
        value: Any, b: Any, L: Any, g: Any, e: Any, eigvals: Any, R: Any, C: Any, corner_root: Any, nullity: Any
    ) -> Any:
        split = _split_statistic(value, eigvals.type.shape[-1], nullity)
        return _proper_logp(*split, b, L, g, e, eigvals, R, C, corner_root)
