"""FourierLMM: a Gaussian process on Fourier features, observed through additive statistics of its data."""

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.dist_math import check_parameters
from pytensor.graph.basic import Constant
from pytensor.tensor.random.basic import chisquare

from pm_fastlmm.base.arrays import EPS, FloatArray, warn
from pm_fastlmm.engines.algebra import col, times, white_noise
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.likelihood import FourierLoglik, fourier_spectra
from pm_fastlmm.engines.fourier.products import FourierProducts
from pm_fastlmm.engines.fourier.spectral_kernels import log_spectral_density
from pm_fastlmm.engines.fourier.statistics import FourierStatistics
from pm_fastlmm.engines.graphs import INTERPRETED
from pm_fastlmm.engines.inputs import double, refuse_unknown
from pm_fastlmm.engines.lengthscale.operations import LengthscaleLoglik
from pm_fastlmm.engines.lengthscale.spectra import RotatedSpectra
from pm_fastlmm.engines.random_variable import LMM, LMMRV

_AFFORDABLE = 800  # features that are factored at each evaluation
_PRIOR_DRAWS = 1000
_OUTSIDE = 0.05  # of the prior of a lengthscale, more than which is an error


class FourierRV(LMMRV):
    """
    [ZᵀMy, yᵀMy] of y = Xβ + Zw + e, w ~ N(0, σ²diag(d)): inputs log d, ℓ, σ²_g and σ²_e; ℓ is empty if d has others.

    The op carries what does not change: the basis, the products of the features, the spectra at the nodes of ℓ.
    """

    name = "FourierLMM"
    extended_signature = "[rng],[size],(m),(l),(),()->[rng],(v)"
    of_statistic = True
    basis: FourierBasis
    products: FourierProducts
    spectra: RotatedSpectra | None

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Build the graph of a draw: coordinates of My in the space of the features, and its square outside."""
        log_weights, _, g, e = params
        products: FourierProducts = carried["products"]
        root = _root(products)
        M, k = root.shape
        rng, (xi, noise) = white_noise(rng, batch, M, k)
        w = pt.exp(0.5 * log_weights) * col(pt.sqrt(g)) * xi
        a = times(pt.constant(root.T), w) + col(pt.sqrt(e)) * noise
        square = (a**2).sum(-1, keepdims=True)
        if products.df > k:
            rng, rest = chisquare(products.df - k, size=(*batch, 1), rng=rng, return_next_rng=True)
            square = square + col(e) * rest
        return rng, pt.concatenate([times(pt.constant(root), a), square], axis=-1)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        log_weights, ell, g, e = params
        products, spectra = self.products, self.spectra
        if spectra is not None and isinstance(value, Constant) and np.array_equal(value.data, statistic(products)):
            logp = LengthscaleLoglik()(pt.log(ell[0]), g, e, *map(pt.constant, spectra.constants))[0]
        else:  # other data than those whose spectra are known
            constants = pt.constant(products.gram), pt.constant(np.asarray(products.df))
            logp = FourierLoglik()(log_weights + pt.log(g), e, value, *constants)[0]
        return check_parameters(logp + self.products.log_flat, g >= 0, e >= 0, msg="sigma2 >= 0, sigma2_e >= 0")


def _root(products: FourierProducts) -> FloatArray:
    """Return R (M, k) with RRᵀ = G̃, of its rank."""
    values, vectors = np.linalg.eigh(products.gram)
    kept = values > len(values) * EPS * values[-1]
    return np.asarray((vectors[:, kept] * np.sqrt(values[kept]))[:, -products.df :])


def statistic(products: FourierProducts) -> FloatArray:
    """Return [b̃, c̃], what a node observes."""
    return np.append(products.cross, products.square)


class FourierLMM:
    r"""
    A Gaussian process y = Xβ + f(x) + e, f ~ GP(0, σ²k), e ~ N(0, σ²_eI), observed through its `FourierStatistics`.

    The density is that of y, β integrated out under a flat prior (lme4's constant), with f represented on a
    `FourierBasis`. An evaluation costs nothing that grows with the number of rows.

    Parameters
    ----------
    name : str
    statistics : FourierStatistics
        Of the data: `flmm.FourierStatistics.from_arrays(basis, x, y, X)`. They are what the node observes.
    lengthscale : tensor_like
        ℓ of the basis's own kernel. Its prior must keep inside the range of the basis, outside which the density is 0.
        Spectra at nodes of ℓ are computed here, once; an evaluation factors nothing.
    kernel : pymc.gp.cov.Covariance
        Instead of a lengthscale, any covariance with a spectral density: sums, anisotropic lengthscales, amplitudes of
        its own. One Cholesky factorisation of the features (M, M) for each evaluation, with the gradient in closed
        form. The basis must be made for the shortest lengthscale and the roughest of its parts.
    sigma2 : tensor_like
        Variance that multiplies the kernel; 1 by default with `kernel=`.
    sigma2_e : tensor_like
        Residual variance. Sample σ² and σ²_e, not their ratio: at a large n they are nearly independent.
    tolerance : float
        Error of the interpolation in ℓ, in log units, see `RotatedSpectra.build`.
    **kwargs
        As in any PyMC distribution.

    Raises
    ------
    ValueError
        If not exactly one of lengthscale and kernel is given, more than 5 % of the lengthscale's prior is outside the
        range of the basis, or the kernel has no spectral density.

    Warns
    -----
    UserWarning
        If some of the prior is outside; or a kernel is factored with more than 800 features at each evaluation.

    Notes
    -----
    Draws of the node (prior and posterior predictive) are draws of the same statistics, [ZᵀMy, yᵀMy] with
    M = I - X(XᵀX)⁻¹Xᵀ. Functions and new observations come from `flmm.predict` afterwards.

    References
    ----------
    Greengard, Rachh & Barnett (2025), arXiv:2210.10210, for the representation.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(size=5000)
    >>> y = np.sin(12 * x) + rng.normal(size=5000)
    >>> basis = flmm.FourierBasis(x, "matern52", lengthscale=(0.05, 1.0), noise_ratio_min=0.1)
    >>> with pm.Model() as model:
    ...     ell = pm.Uniform("ell", 0.05, 1.0)
    ...     sigma2, sigma2_e = pm.HalfNormal("sigma2", 2), pm.HalfNormal("sigma2_e", 2)
    ...     statistics = flmm.FourierStatistics.from_arrays(basis, x, y, np.ones(5000))
    ...     node = flmm.FourierLMM(
    ...         "y", statistics=statistics, lengthscale=ell, sigma2=sigma2, sigma2_e=sigma2_e
    ...     )
    >>> fit = flmm.find_reml(model, progressbar=False)
    >>> print(fit.theta.round(2).to_dict())
    {'ell': 0.26, 'sigma2': 2.13, 'sigma2_e': 1.01}
    """

    def __new__(cls, name: str, *, statistics: FourierStatistics, **kwargs: Any) -> Any:
        """Register the distribution with the model of the context."""
        params, rest = _parametrise(statistics, **kwargs)
        return LMM(name, params, observed=statistic(rest["carried"]["products"]), **rest)

    @classmethod
    def dist(cls, *, statistics: FourierStatistics, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp` and `pm.draw`."""
        params, rest = _parametrise(statistics, **kwargs)
        return LMM.dist(params, **rest)


def _parametrise(
    statistics: Any, *, lengthscale: Any = None, kernel: Any = None, sigma2: Any = None, sigma2_e: Any = None,
    tolerance: float = 1e-3, **kwargs: Any,
) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
    """Return the parameters of the random variable, and the other arguments of `LMM`."""
    refuse_unknown(
        "FourierLMM", kwargs, "it takes statistics, lengthscale or kernel, sigma2, sigma2_e, tolerance",
        weights="they are in the statistics, of rows times √w: flmm.FourierStatistics.from_arrays(basis, x, y, X, "
        "weights=w).",
    )  # fmt: skip
    if not isinstance(statistics, FourierStatistics):
        raise TypeError(
            f"statistics must be FourierStatistics, got {type(statistics).__name__}: "
            "flmm.FourierStatistics.from_arrays(basis, x, y, X)."
        )
    if (lengthscale is None) == (kernel is None):
        raise ValueError("give either lengthscale, of the basis's own kernel, or kernel, a covariance of pymc.gp.cov.")
    if sigma2_e is None or (sigma2 is None and kernel is None):
        raise ValueError("give sigma2_e, the residual variance, and sigma2, the variance of the process.")
    basis, products = statistics.basis, statistics.project()
    spectra = None
    if kernel is None:
        ell = double(lengthscale)
        if ell.type.ndim:
            raise ValueError(
                f"lengthscale must be one number, got shape {ell.type.shape}: one for each dimension is given in a "
                "kernel, kernel=pm.gp.cov.Matern52(2, ls=...)."
            )
        _check_prior(ell, basis)
        log_weights = _log_weights(basis, basis.kernel.log_density_graph(basis.grid.omega, ell))
        smallest = basis.noise_ratio_min * products.mean_weight
        spectra = fourier_spectra(products, basis, delta_min=smallest, tolerance=tolerance)
    else:
        ell, log_weights = None, _log_weights(basis, _density_of(kernel, basis))
    carried = {
        "treatment": "flat",
        "projection": products.projection,
        "basis": basis,
        "products": products,
        "spectra": spectra,
    }
    variances = [double(1.0 if v is None else v) for v in (sigma2, sigma2_e)]
    lengthscales = pt.zeros((0,), dtype="float64") if ell is None else pt.expand_dims(ell, 0)
    return [log_weights, lengthscales, *variances], {"kind": FourierRV, "carried": carried, **kwargs}


def _log_weights(basis: FourierBasis, log_density: Any) -> Any:
    """Return log d (M,) from log S at the modes."""
    by_mode = pt.specify_shape(double(log_density) + basis.grid.log_volume, (len(basis.grid.omega),))
    return pt.concatenate([by_mode, by_mode[1:]])


def _density_of(kernel: Any, basis: FourierBasis) -> Any:
    dimensions = basis.grid.dimensions
    if getattr(kernel, "input_dim", dimensions) != dimensions:
        raise ValueError(f"kernel has {kernel.input_dim} dimensions, but the basis has {dimensions}.")
    density = log_spectral_density(kernel, basis.grid.omega)
    if basis.size > _AFFORDABLE:
        warn(
            f"{basis.size} features are factored at each evaluation: a smoother kernel, a larger smallest lengthscale "
            f"or noise_ratio_min needs fewer (up to {_AFFORDABLE} cost some milliseconds); one lengthscale alone, "
            "lengthscale=, is not factored at all."
        )
    return density


def _check_prior(lengthscale: Any, basis: FourierBasis) -> None:
    """Refuse a prior of which a good part is outside the range of the basis, and warn of a little."""
    low, high = basis.lengthscale
    try:
        draws = pm.draw(lengthscale, _PRIOR_DRAWS, random_seed=0, mode=INTERPRETED)
    except NotImplementedError:  # a flat prior has no draws; the range makes it proper
        return
    share = float(((draws < low) | (draws > high)).mean())
    if not share:
        return
    text = (
        f"{share:.1%} of the prior of the lengthscale is outside the range of the basis, {low:g} to {high:g}, where "
        "the density is 0: make the basis for a wider range, or keep the prior inside, "
        f"pm.Uniform(..., {low:g}, {high:g}) or pm.Truncated."
    )
    if share > _OUTSIDE:
        raise ValueError(text)
    warn(text)
