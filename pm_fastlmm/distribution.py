"""The PyMC nodes. This module alone touches PyMC's internals; `lmm_nodes` is the only way to find a node in a model."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.dist_math import check_parameters
from pymc.distributions.distribution import Continuous, SymbolicRandomVariable
from pymc.distributions.shape_utils import implicit_size_from_params, rv_size_is_none
from pymc.pytensorf import constant_fold, floatX, normalize_rng_param
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.tensor.random.basic import chisquare, normal
from pytensor.tensor.random.utils import normalize_size_param

from pm_fastlmm._arrays import align, read, require_finite
from pm_fastlmm.likelihood.spectral import contrast_loglik, corner, gaussian_loglik, variances
from pm_fastlmm.linalg.spectrum import Rotated, Spectrum

type Treatment = Literal["flat", "proper"]

_PAIRS = (("sigma2", "delta"), ("sigma2_g", "sigma2_e"), ("h2", "total"))
_PARAMETERS_MSG = "sigma2_g >= 0, sigma2_e >= 0, not both 0"


def _rotated_by(v: Any, M: Any) -> Any:
    """Return vᵀM for the rotation of data, a product of constants that PyTensor folds away."""
    return pt.dot(v, M) if M.type.ndim == 2 else pt.matmul(v[..., None, :], M)[..., 0, :]


def _times(M: Any, v: Any) -> Any:
    """Return Mv as a sum of products, which compiles in a second where a matrix product takes twenty."""
    return (M * v[..., None, :]).sum(-1)


def _product(A: Any, B: Any) -> Any:
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
        d_inverse, d_logdet = gradients
        return [d_logdet[..., None, None] * inverse - _product(_product(inverse, d_inverse), inverse)]

    matrix = A.type()
    outputs = [pt.linalg.inv(matrix), pt.linalg.slogdet(matrix)[1]]
    return OpFromGraph([matrix], outputs, inline=True, pullback=pullback, name="InverseLogdet")(A)


def _col(v: Any) -> Any:
    return v[..., None]


class _LMMRV(SymbolicRandomVariable):  # type: ignore[misc]
    """What the nodes share: inputs as tensors, the batch shape, and rebuilding for parameters of another rank."""

    name = "FastLMM"
    _print_name = ("FastLMM", r"\operatorname{FastLMM}")
    treatment: ClassVar[Treatment]

    @classmethod
    def prepare(cls, params: tuple[Any, ...], size: Any, rng: Any) -> tuple[tuple[Any, ...], Any, Any, Any]:
        params = tuple(map(pt.as_tensor, params))
        rng, size = normalize_rng_param(rng), normalize_size_param(size)
        batch = implicit_size_from_params(*params, ndims_params=cls.ndims_params) if rv_size_is_none(size) else size
        return params, size, rng, batch

    def make_node(self, *inputs: Any) -> Any:
        rng, size, *params = inputs
        if any(p.type.ndim != t.ndim for p, t in zip(params, self.input_types[2:], strict=True)):
            return self.rebuild_rv(*params, size=size, rng=rng).owner
        return super().make_node(*inputs)


class FlatLMMRV(_LMMRV):
    """Y with β integrated out under a flat prior: inputs mu, σ²_g, σ²_e, λ, Q₂U, Q₁, R."""

    treatment = "flat"
    extended_signature = "[rng],[size],(n),(),(),(k),(n,k),(n,r),(r,r)->[rng],(n)"

    @classmethod
    def rv_op(cls, *params: Any, size: Any = None, rng: Any = None) -> Any:
        params, size, rng, batch = cls.prepare(params, size, rng)
        mu, g, e, eigvals, basis, Q1, R = params
        n, k, r = basis.type.shape[-2], basis.type.shape[-1], Q1.type.shape[-1]
        sd = pt.sqrt(variances(eigvals, g, e, pt))
        if n == k + r:
            next_rng, xi = normal(0.0, 1.0, size=(*batch, k), rng=rng, return_next_rng=True)
            y = mu + _times(basis, sd * xi)
        else:
            # white noise, with its part along the basis rescaled and its part along X taken out
            next_rng, xi = normal(0.0, 1.0, size=(*batch, n), rng=rng, return_next_rng=True)
            sd_e = _col(pt.sqrt(e))
            along = _times(basis, _times(basis.mT, xi) * (sd - sd_e)) - sd_e * _times(Q1, _times(Q1.mT, xi))
            y = mu + sd_e * xi + along
        return cls([rng, size, *params], [next_rng, y])(rng, size, *params)


class ProperLMMRV(_LMMRV):
    """Y with β ~ N(b, LLᵀ): inputs mu, b, L, σ²_g, σ²_e, λ, Q₂U, Q₁, R, C, K₁₁, corner_root. An explicit β has L = 0."""

    treatment = "proper"
    extended_signature = "[rng],[size],(n),(r),(r,r),(),(),(k),(n,k),(n,r),(r,r),(k,r),(r,r),(r,r)->[rng],(n)"

    @classmethod
    def rv_op(cls, *params: Any, size: Any = None, rng: Any = None) -> Any:
        params, size, rng, batch = cls.prepare(params, size, rng)
        mu, b, L, g, e, eigvals, basis, Q1, R, C, _, corner_root = params
        n, k, r = basis.shape[-2], eigvals.shape[-1], R.shape[-1]
        next_rng, noise = normal(0.0, 1.0, size=(*batch, n + k + 2 * r), rng=rng, return_next_rng=True)
        xi_e, xi_k, xi_u, xi_b = (
            noise[..., :n], noise[..., n : n + k], noise[..., n + k : n + k + r], noise[..., n + k + r :]
        )  # fmt: skip
        s, sd_g = pt.sqrt(eigvals), _col(pt.sqrt(g))
        along = _times(R, b + _times(L, xi_b)) + sd_g * (_times(C.mT, xi_k / s) + _times(corner_root, xi_u))
        y = mu + _times(Q1, along) + sd_g * _times(basis, xi_k * s) + _col(pt.sqrt(e)) * xi_e
        return cls([rng, size, *params], [next_rng, y])(rng, size, *params)


class RotatedLMMRV(_LMMRV):
    """The statistic [z, rss] of y with β integrated out under a flat prior: inputs σ²_g, σ²_e, λ, R, ν."""

    treatment = "flat"
    extended_signature = "[rng],[size],(),(),(k),(r,r),(q)->[rng],(s)"

    @classmethod
    def rv_op(cls, *params: Any, size: Any = None, rng: Any = None) -> Any:
        params, size, rng, batch = cls.prepare(params, size, rng)
        g, e, eigvals, _, nullity = params
        next_rng, xi = normal(0.0, 1.0, size=(*batch, eigvals.shape[-1]), rng=rng, return_next_rng=True)
        value = xi * pt.sqrt(variances(eigvals, g, e, pt))
        if nullity.type.shape != (0,):
            next_rng, chi2 = chisquare(nullity, size=(*batch, 1), rng=next_rng, return_next_rng=True)
            value = pt.concatenate([value, _col(e) * chi2], axis=-1)
        return cls([rng, size, *params], [next_rng, value])(rng, size, *params)


def _checked(logp: Any, g: Any, e: Any) -> Any:
    return check_parameters(logp, g >= 0, e >= 0, g + e > 0, msg=_PARAMETERS_MSG)


def _rotate(value: Any, mu: Any, basis: Any, Q1: Any) -> tuple[Any, Any, Any, int]:
    """Return z, rss, y₁ and ν; with an observed constant and a constant mu PyTensor folds all of it at compilation."""
    n, k, r = (*basis.type.shape[-2:], Q1.type.shape[-1])
    residual = value - mu
    y1, z = _rotated_by(residual, Q1), _rotated_by(residual, basis)
    nullity = n - k - r
    rss = ((residual - _rotated_by(z, basis.mT) - _rotated_by(y1, Q1.mT)) ** 2).sum(-1) if nullity else 0.0
    return z, rss, y1, nullity


class _FlatLMM(Continuous):  # type: ignore[misc]
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
        return _checked(logp - pt.log(pt.abs(pt.diagonal(R))).sum(), g, e)


class _ProperLMM(Continuous):  # type: ignore[misc]
    rv_type = ProperLMMRV
    rv_op = ProperLMMRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, mu: Any, b: Any, *params: Any) -> Any:
        Q1, R = params[5], params[6]
        return pt.zeros_like(rv) + mu + _times(Q1, _times(R, b))

    def logp(
        value: Any, mu: Any, b: Any, L: Any, g: Any, e: Any,
        eigvals: Any, basis: Any, Q1: Any, R: Any, C: Any, K11: Any, corner_root: Any,
    ) -> Any:  # fmt: skip
        z, rss, y1, nullity = _rotate(value, mu, basis, Q1)
        logp = contrast_loglik(z, rss, eigvals=eigvals, nullity=nullity, sigma2_g=g, sigma2_e=e, xp=pt)
        mean, S = corner(z, eigvals=eigvals, C=C, K11=K11, sigma2_g=g, sigma2_e=e, xp=pt)
        RL = _product(R, L)
        prior = _product(RL, RL.mT)
        return _checked(logp + gaussian_loglik(y1 - _times(R, b) - mean, *_inverse_logdet(S + prior), xp=pt), g, e)


class _RotatedLMM(Continuous):  # type: ignore[misc]
    rv_type = RotatedLMMRV
    rv_op = RotatedLMMRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, *params: Any) -> Any:
        return pt.ones_like(rv)

    def logp(value: Any, g: Any, e: Any, eigvals: Any, R: Any, nullity: Any) -> Any:
        k = eigvals.type.shape[-1]
        nu = int(nullity.data[0]) if nullity.type.shape != (0,) else 0
        rss = value[..., k] if nu else 0.0
        logp = contrast_loglik(value[..., :k], rss, eigvals=eigvals, nullity=nu, sigma2_g=g, sigma2_e=e, xp=pt)
        return _checked(logp - pt.log(pt.abs(pt.diagonal(R))).sum(), g, e)


class FastLMM:
    r"""
    Y ~ N(Xβ, σ²(K + δI)) with a known K, evaluated in the rotated coordinates of a `Spectrum`.

    Give exactly one pair of variance parameters: `sigma2, delta`, or `sigma2_g, sigma2_e` (σ² and δσ²), or `h2, total`
    with h² = k̄/(k̄ + δ), total = σ²(k̄ + δ), k̄ = tr(K)/n. Three treatments of β:

    * by default β is integrated out under a flat prior: the logp is the restricted log-likelihood log ∫ p(y | β) dβ, in
      the form that lme4 prints. **This density of y is improper along X**: the value of y along X does not enter it, and
      draws of the node (prior and posterior predictive) are error contrasts, Xᵀ(y - mu) = 0. Predictive draws of y itself
      come from `flmm.predict(idata)` afterwards. Such a node must be observed.
    * `beta=` takes coefficients of the model (numbers or random variables): a proper density.
    * `beta_cov=`, `beta_mean=` integrate β ~ N(beta_mean, beta_cov) out: a proper density.

    Parameters
    ----------
    name : str
        Name of the variable.
    spectrum : Spectrum
        K and X, factored once.
    sigma2, delta, sigma2_g, sigma2_e, h2, total : tensor_like
        One pair, of shape () or (T,) for T responses.
    mu : tensor_like, optional
        Mean besides Xβ, (n,) or (T, n). A mean that depends on random variables costs a product with the rotation at each
        evaluation, O(n²): put columns whose coefficients are estimated into X instead.
    beta : tensor_like, optional
        Coefficients (r,) of the columns of `spectrum.X`, or (T, r).
    beta_mean, beta_cov : tensor_like, optional
        Prior mean, (r,) or a number, and covariance (r, r).
    observed : array, Series, DataFrame, pm.Data or Rotated, optional
        y (n,); several responses as (T, n), or as the columns of a DataFrame. Labelled data are aligned by id. A `Rotated`
        observes the sufficient statistic [z, rss] instead (flat prior on β alone).
    **kwargs
        As in any PyMC distribution: dims ("obs", or ("response", "obs")), shape, initval …

    Raises
    ------
    ValueError
        If not exactly one pair is given, shapes do not fit, y has missing values, or the improper treatment is used
        without data.

    Notes
    -----
    The rotation of observed data is a constant of the compiled graph: an evaluation with its gradient costs O(rank) for
    the flat prior, O(rank · r²) for the others, whatever n is. `pm.Data` defeats that unless the data are frozen, as
    `flmm.sample` does.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> batch = np.repeat(np.eye(3), 4, axis=0)
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> spectrum = flmm.Spectrum.from_factor(batch, np.ones((12, 1)))
    >>> with pm.Model() as model:
    ...     h2 = pm.Beta("h2", 1, 1)
    ...     total = pm.HalfNormal("total", 10)
    ...     node = flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=y)
    >>> logp = pm.logp(flmm.FastLMM.dist(sigma2_g=3.9167, sigma2_e=1 / 3, spectrum=spectrum), y).eval()
    >>> print(f"{logp:.4f} {flmm.reml(spectrum, y).loglik:.4f}")
    -14.9353 -14.9353
    """

    def __new__(cls, name: str, *, spectrum: Spectrum, observed: Any = None, mu: Any = None, **kwargs: Any) -> Any:
        """Register the distribution with the model of the context."""
        distribution, params, rest = _parametrise(spectrum, observed=observed, mu=mu, **kwargs)
        if observed is None and distribution is _FlatLMM and spectrum.projection.rank:
            raise ValueError(
                f"{name} has no observed data, but with β integrated out under a flat prior its density is improper along "
                "X: give observed=, or a proper treatment of β (beta= or beta_cov=), or a spectrum without X."
            )
        if observed is not None:
            rest["observed"] = _observed(spectrum, observed)
        rv = distribution(name, params, **rest)
        _tag(rv, spectrum)
        return rv

    @classmethod
    def dist(cls, *, spectrum: Spectrum, mu: Any = None, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp`, `pm.draw` or another distribution."""
        distribution, params, rest = _parametrise(spectrum, observed=None, mu=mu, **kwargs)
        rv = distribution.dist(params, **rest)
        _tag(rv, spectrum)
        return rv


def _parametrise(
    spectrum: Spectrum, *, observed: Any, mu: Any, beta: Any = None, beta_mean: Any = None, beta_cov: Any = None,
    **kwargs: Any,
) -> tuple[Any, list[Any], dict[str, Any]]:  # fmt: skip
    """Return the distribution for a treatment of β, its parameters, and the arguments that are not ours."""
    if not isinstance(spectrum, Spectrum):
        raise TypeError(
            f"spectrum must be a Spectrum, got {type(spectrum).__name__}: "
            "build it with flmm.Spectrum.from_covariance(K, X) or .from_factor(W, X)."
        )
    names = {name for pair in _PAIRS for name in pair}
    g, e = variance_components(spectrum, {name: kwargs.pop(name) for name in names & kwargs.keys()})
    _check_shape(kwargs.get("shape"), spectrum.n)
    eigvals, R = pt.constant(spectrum.eigvals), pt.constant(spectrum.projection.R)
    proper = beta is not None or beta_cov is not None
    if isinstance(observed, Rotated):
        if proper or mu is not None:
            raise ValueError(
                "a Rotated observes y with β under a flat prior and no other mean: pass y itself for mu or beta."
            )
        nullity = np.array([spectrum.nullity] if spectrum.nullity else [], dtype="int64")
        return _RotatedLMM, [g, e, eigvals, R, pt.constant(nullity)], kwargs
    mu = pt.as_tensor(0.0 if mu is None else mu)
    mu = floatX(pt.full((spectrum.n,), mu) if mu.type.ndim == 0 else mu)
    if mu.type.shape[-1] not in (None, spectrum.n):
        raise ValueError(
            f"mu has {mu.type.shape[-1]} values in its last dimension, but there are {spectrum.n} observations."
        )
    basis, Q1 = pt.constant(spectrum.basis), pt.constant(spectrum.projection.Q1)
    if not proper:
        if beta_mean is not None:
            raise ValueError(
                "beta_mean is given without beta_cov: give the prior covariance, or fixed coefficients as beta=."
            )
        return _FlatLMM, [mu, g, e, eigvals, basis, Q1, R], kwargs
    b, L = _coefficients(spectrum, beta, beta_mean, beta_cov)
    constants = [pt.constant(a) for a in (spectrum.C, spectrum.K11, spectrum.corner_root)]
    return _ProperLMM, [mu, b, L, g, e, eigvals, basis, Q1, R, *constants], kwargs


def variance_components(spectrum: Spectrum, given: dict[str, Any]) -> tuple[Any, Any]:
    """
    Return tensors (σ²_g, σ²_e) from exactly one pair of parameters.

    Raises
    ------
    ValueError
        If another set of parameters is given.
    """
    values = {name: floatX(pt.as_tensor(value)) for name, value in given.items() if value is not None}
    pair = next((pair for pair in _PAIRS if set(pair) == set(values)), None)
    if pair is None:
        got = ", ".join(sorted(values)) or "none"
        raise ValueError(
            "give exactly one pair of variance parameters, (sigma2, delta), (sigma2_g, sigma2_e) or (h2, total); "
            f"got {got}."
        )
    first, second = (values[name] for name in pair)
    if pair == ("sigma2", "delta"):
        return first, first * second
    if pair == ("sigma2_g", "sigma2_e"):
        return first, second
    return first * second / spectrum.mean_diagonal, (1 - first) * second


def _coefficients(spectrum: Spectrum, beta: Any, beta_mean: Any, beta_cov: Any) -> tuple[Any, Any]:
    """Return the mean b and a root L of the covariance of β."""
    r = spectrum.projection.rank
    if not r:
        raise ValueError("beta or beta_cov is given, but the spectrum has no fixed effects: build it with X.")
    if beta is not None and (beta_mean is not None or beta_cov is not None):
        raise ValueError("give either beta (coefficients) or beta_mean and beta_cov (their prior), not both.")
    b = floatX(pt.as_tensor(beta if beta is not None else 0.0 if beta_mean is None else beta_mean))
    b = pt.full((r,), b) if b.type.ndim == 0 and (beta is None or r == 1) else b
    if b.type.ndim == 0 or b.type.shape[-1] not in (None, r):
        raise ValueError(
            f"beta must have {r} values, one for each of {', '.join(spectrum.coef)}; got shape {b.type.shape}."
        )
    if beta is not None:
        return b, pt.zeros((r, r))
    if isinstance(beta_cov, Variable) and not isinstance(beta_cov, Constant):
        return b, pt.linalg.cholesky(floatX(beta_cov))
    cov = np.asarray(beta_cov.data if isinstance(beta_cov, Constant) else beta_cov, dtype=float)
    if cov.shape != (r, r):
        raise ValueError(f"beta_cov must be ({r}, {r}), for {', '.join(spectrum.coef)}; got shape {cov.shape}.")
    values, vectors = np.linalg.eigh(cov)
    if not np.allclose(cov, cov.T) or values[0] < -1e-12 * abs(values[-1]):
        raise ValueError("beta_cov must be symmetric positive semi-definite.")
    return b, pt.constant(vectors * np.sqrt(np.maximum(values, 0.0)))


def _check_shape(shape: Any, n: int) -> None:
    if shape is None:
        return
    last = shape[-1] if isinstance(shape, tuple | list) else shape
    if isinstance(last, int | np.integer) and last != n:
        raise ValueError(f"shape ends in {last}, but the spectrum has {n} observations, which are the last dimension.")


def _observed(spectrum: Spectrum, observed: Any) -> Any:
    """Return the data as PyMC takes them, (…, n), aligned by id; missing values are refused, PyMC would impute them."""
    if isinstance(observed, Rotated):
        if observed.spectrum is not spectrum:
            raise ValueError(
                "observed was rotated by another spectrum: pass spectrum=observed.spectrum, or rotate y anew."
            )
        return _statistic(observed)
    if isinstance(observed, Variable):
        values = observed.get_value() if isinstance(observed, SharedVariable) else getattr(observed, "data", None)
        if values is not None:
            _check_values(spectrum, np.asarray(values, dtype=float))
        return observed
    labelled = read(observed, "observed", ndim=(1, 2))
    if labelled.values.ndim == 2 and (hasattr(observed, "columns") or labelled.ids is not None):
        order = align(spectrum.ids, labelled, name="observed", reference_name="the spectrum")
        values = labelled.take(order).T
    elif labelled.values.ndim == 2 and labelled.values.shape == (spectrum.n, spectrum.n):
        raise ValueError(
            f"observed is a square array, shape {labelled.values.shape}, without labels: rows or columns could be the "
            "responses. Pass a DataFrame whose rows are the observations, or a DataArray with a dimension 'obs'."
        )
    else:
        values = labelled.take(align(spectrum.ids, labelled, name="observed", reference_name="the spectrum"))
    _check_values(spectrum, values)
    return values


def _check_values(spectrum: Spectrum, values: Any) -> None:
    if values.shape[-1] != spectrum.n:
        raise ValueError(
            f"observed has shape {values.shape}, but its last dimension must be the {spectrum.n} observations of the spectrum."
        )
    require_finite(
        values, "observed",
        "PyMC would impute them one by one; leave those rows out with spectrum.subset(rows), or let flmm.kernel_model "
        "drop and count them.",
    )  # fmt: skip


def _statistic(rotated: Rotated) -> Any:
    if not rotated.spectrum.nullity:
        return rotated.z
    return np.concatenate([rotated.z, rotated.rss[..., None]], axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class LMMNode:
    """
    A FastLMM node of a model.

    Attributes
    ----------
    name : str
    rv : TensorVariable
        The random variable.
    spectrum : Spectrum
    treatment : "flat" or "proper"
        How β is treated: "proper" is an explicit β or one with a Gaussian prior.
    sigma2_g, sigma2_e : TensorVariable
        The variances, as functions of the model's variables.
    mu, beta_mean, beta_root : TensorVariable or None
        The mean besides Xβ; for "proper" the mean of β and a root of its covariance (0 for an explicit β).
    observed : array or None
        The data: y (…, n), or the statistic [z, rss].
    """

    name: str
    rv: Any
    spectrum: Spectrum
    treatment: Treatment
    sigma2_g: Any
    sigma2_e: Any
    mu: Any
    beta_mean: Any
    beta_root: Any
    observed: Any

    def rotated(self, mu: Any = 0.0) -> Rotated:
        """Return the observed data less mu, rotated."""
        s = self.spectrum
        if isinstance(self.rv.owner.op, RotatedLMMRV):
            z = self.observed[..., : s.rank]
            rss = self.observed[..., s.rank] if s.nullity else np.zeros(z.shape[:-1])
            y1 = np.full((*z.shape[:-1], s.projection.rank), np.nan)
            return Rotated(s, z, rss, y1, (z**2).sum(-1) + rss, None)
        values = self.observed - mu
        names = tuple(map(str, range(values.shape[0]))) if values.ndim == 2 else None
        return Rotated.from_values(s, values.T, names)


def lmm_nodes(model: pm.Model) -> list[LMMNode]:
    """Return the FastLMM nodes of a model, in its order; also after `do`, `observe`, freezing and copying."""
    nodes = []
    for rv in model.basic_RVs:
        op = rv.owner.op
        if not isinstance(op, _LMMRV):
            continue
        _, _, *params = rv.owner.inputs
        mu = beta_mean = beta_root = None
        if isinstance(op, ProperLMMRV):
            mu, beta_mean, beta_root, g, e = params[:5]
        elif isinstance(op, FlatLMMRV):
            mu, g, e = params[:3]
        else:
            g, e = params[:2]
        value = model.rvs_to_values[rv]
        data = None
        if rv in model.observed_RVs:
            data = value.get_value() if isinstance(value, SharedVariable) else constant_fold([value])[0]
        nodes.append(LMMNode(rv.name, rv, rv.tag.spectrum, op.treatment, g, e, mu, beta_mean, beta_root, data))
    return nodes


def _tag(rv: Any, spectrum: Spectrum) -> None:
    rv.tag.spectrum = spectrum
