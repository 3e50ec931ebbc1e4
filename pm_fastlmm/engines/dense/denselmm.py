"""DenseLMM: any covariance V(θ) of the observations that is written in PyTensor."""

from typing import Any

import numpy as np
import pytensor.tensor as pt

from pm_fastlmm.base.arrays import Ids, Labelled, read
from pm_fastlmm.engines.algebra import along_columns, less_columns, product, times, white_noise
from pm_fastlmm.engines.dense.operations import DenseLoglik
from pm_fastlmm.engines.inputs import coefficients, double, read_mean, read_response, refuse_unknown
from pm_fastlmm.engines.random_variable import LMM, LMMRV
from pm_fastlmm.spectrum.projection import read_design
from pm_fastlmm.spectrum.sparse_projection import AnyProjection


class DenseRV(LMMRV):
    """Y ~ N(mu + Xb, V + XBXᵀ): inputs mu, b, B and V; with β under a flat prior the error contrasts of it."""

    name = "DenseLMM"
    extended_signature = "[rng],[size],(n),(r),(s,s),(n,n)->[rng],(n)"
    ids: Ids | None

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and a draw, for each of a batch."""
        mu, b, B, V = params
        projection: AnyProjection = carried["projection"]
        next_rng, (xi,) = white_noise(rng, batch, projection.V.shape[0])
        y = times(pt.linalg.cholesky(_with_prior(V, B, projection)), xi)
        flat = carried["treatment"] == "flat"
        return next_rng, mu + (less_columns(projection, y) if flat else y + along_columns(projection, b))

    def center(self, *params: Any) -> Any:
        """Return where an unobserved variable starts."""
        return params[0]

    def logp(self, value: Any, *params: Any) -> Any:
        """Return the log-density."""
        mu, b, B, V = params
        projection = self.projection
        if self.treatment == "flat":
            return DenseLoglik()(V, value - mu, pt.constant(projection.Q1))[0] - projection.logdet_R
        residual = value - (mu + along_columns(projection, b))
        none = pt.constant(np.zeros((projection.V.shape[0], 0)))
        return DenseLoglik()(_with_prior(V, B, projection), residual, none)[0]


def _with_prior(V: Any, B: Any, projection: AnyProjection) -> Any:
    if B.type.shape == (0, 0):
        return V
    X = pt.constant(projection.X)
    return V + product(product(X, B), X.T)


class DenseLMM:
    """
    Y ~ N(Xβ, V) with any covariance V that is a PyTensor expression of the model's variables.

    One Cholesky factorisation of V (n, n) for each evaluation, O(n³), with the gradient in closed form. For covariances
    of the residuals (autoregressive, heterogeneous) and for nonlinear kernels at up to a few thousand observations;
    `FastLMM` and `StructuredLMM` are faster where they apply.

    Parameters
    ----------
    name : str
    V : tensor_like (n, n) or Covariance
        Symmetric positive definite; where it is not, the log-density is -inf. Nothing is added to its diagonal.
    X : (n, r) array or DataFrame, optional
        Fixed-effects design; an intercept is not added.
    observed : array or Series (n,)
    mu, beta, beta_mean, beta_cov : tensor_like, optional
        As in `FastLMM`: by default β is integrated out under a flat prior (**improper along X**: draws of the node are
        error contrasts, Xᵀ(y - mu) = 0).
    **kwargs
        As in any PyMC distribution.

    Raises
    ------
    ValueError
        If shapes or ids do not fit, y has missing values, or the improper treatment has no data.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> y = np.array([1.0, 2, 1, 2, 5, 6, 5, 6, 3, 4, 3, 4])
    >>> with pm.Model() as model:
    ...     rho, v = pm.Uniform("rho", -1, 1), pm.HalfNormal("v", 5)
    ...     residual = flmm.covariance.ar1(v, rho, size=12)
    ...     node = flmm.DenseLMM("y", X=np.ones((12, 1)), V=residual, observed=y)
    >>> fit = flmm.find_reml(model, progressbar=False)
    >>> print(fit.theta.round(2).to_dict())
    {'rho': 0.75, 'v': 4.83}
    """

    def __new__(cls, name: str, *, V: Any, X: Any = None, observed: Any = None, **kwargs: Any) -> Any:
        """Register the distribution with the model of the context."""
        params, rest = _parametrise(V, X, observed, **kwargs)
        n = params[-1].type.shape[0]
        return LMM(name, params, observed=read_response(observed, rest["carried"]["ids"], n, ndim=(1,)), **rest)

    @classmethod
    def dist(cls, *, V: Any, X: Any = None, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp`, `pm.draw` or another distribution."""
        params, rest = _parametrise(V, X, None, **kwargs)
        return LMM.dist(params, **rest)


def _parametrise(
    V: Any, X: Any, observed: Any, *, mu: Any = None, beta: Any = None, beta_mean: Any = None, beta_cov: Any = None,
    **kwargs: Any,
) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
    """Return the parameters of the random variable, and the other arguments of `LMM`."""
    refuse_unknown(
        "DenseLMM", kwargs, "it takes X, V, mu, beta, beta_mean, beta_cov, observed",
        weights="it takes V as a whole: write it with sigma2_e / w along its diagonal.",
    )  # fmt: skip
    design = None if X is None else read(X, "X", ndim=(1, 2))
    covariance, V_ids = _covariance(V, design, observed)
    n = covariance.type.shape[0]
    ids, projection = read_design(design, n, V_ids, "V")
    treatment, b, B = coefficients(projection, beta, beta_mean, beta_cov)
    kwargs |= {"kind": DenseRV, "carried": {"treatment": treatment, "projection": projection, "ids": ids}}
    return [read_mean(mu, ids, n), b, B, covariance], kwargs


def _covariance(V: Any, design: Labelled | None, observed: Any) -> tuple[Any, Ids | None]:
    """Return V as a square tensor of known size, and its ids."""
    ids = tuple(V.index.tolist()) if hasattr(V, "columns") and hasattr(V, "index") else None
    if hasattr(V, "columns"):
        V = np.asarray(V, dtype=float)
    if hasattr(V, "dense"):
        V = V.dense()
    V = double(V)
    shape = V.type.shape
    lengths = [None if design is None else design.values.shape[0], getattr(observed, "shape", (None,))[0]]
    known = [s for s in (*shape, *lengths) if s is not None]
    if V.type.ndim != 2 or not known or len({s for s in shape if s is not None}) > 1:
        raise ValueError(
            f"V must be a square matrix, one row for each observation, got shape {shape}: build it from the random "
            "variables with pytensor.tensor, or from a structure, flmm.covariance.ar1(v, rho, size=n)."
        )
    return pt.specify_shape(V, (known[0], known[0])) if None in shape else V, ids
