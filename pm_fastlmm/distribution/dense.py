"""DenseLMM: any covariance V(θ) of the observations that is written in PyTensor."""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.distribution import Continuous
from pymc.logprob.abstract import _logprob
from pytensor.tensor.random.basic import normal

from pm_fastlmm._arrays import Ids, Labelled, read
from pm_fastlmm.distribution.contrasts import ContrastsRV
from pm_fastlmm.distribution.inputs import (
    check_coordinates,
    double,
    read_mean,
    read_response,
    refuse_unknown,
    treat_coefficients,
)
from pm_fastlmm.distribution.operations import DenseLoglik
from pm_fastlmm.distribution.variables import Treatment, prepared, product, times
from pm_fastlmm.linalg.projection import Projection, read_design


class DenseRV(ContrastsRV):
    """Y ~ N(mu + Xb, V + XBXᵀ): inputs mu, b, B and V; with β under a flat prior the error contrasts of it."""

    name = "DenseLMM"
    _print_name = ("DenseLMM", r"\operatorname{DenseLMM}")
    extended_signature = "[rng],[size],(n),(r),(s,s),(n,n)->[rng],(n)"
    treatment: Treatment
    projection: Projection
    ids: Ids | None

    @classmethod
    def rv_op(cls, *params: Any, carried: dict[str, Any], size: Any = None, rng: Any = None) -> Any:
        """Build the graph of a draw."""
        (mu, b, B, V), size, rng, batch = prepared(cls.ndims_params, params, size, rng)
        projection: Projection = carried["projection"]
        n = projection.V.shape[0]
        next_rng, xi = normal(0.0, 1.0, size=(*batch, n), rng=rng, return_next_rng=True)
        y = times(pt.linalg.cholesky(_with_prior(V, B, projection)), xi)
        Q, R = pt.constant(projection.Q1), pt.constant(projection.R)
        flat = carried["treatment"] == "flat"
        y = y - times(Q, times(Q.T, y)) if flat else y + times(Q, times(R, b))
        op = cls([rng, size, mu, b, B, V], [next_rng, mu + y])
        for name, value in carried.items():
            setattr(op, name, value)
        return op(rng, size, mu, b, B, V)

    def rebuild_rv(self, *params: Any, **kwargs: Any) -> Any:
        """Build the variable anew, for another size."""
        carried = {name: getattr(self, name) for name in ("treatment", "projection", "ids")}
        return self.rv_op(*params, carried=carried, **kwargs)


def _with_prior(V: Any, B: Any, projection: Projection) -> Any:
    if B.type.shape == (0, 0):
        return V
    X = pt.constant(projection.Q1 @ projection.R)
    return V + product(product(X, B), X.T)


@_logprob.register(DenseRV)  # type: ignore[untyped-decorator]
def _dense_logp(op: DenseRV, values: Any, rng: Any, size: Any, mu: Any, b: Any, B: Any, V: Any, **kwargs: Any) -> Any:
    (value,) = values
    projection = op.projection
    if op.treatment == "flat":
        return DenseLoglik()(V, value - mu, pt.constant(projection.Q1))[0] - projection.logdet_R
    mean = mu + times(pt.constant(projection.Q1), times(pt.constant(projection.R), b))
    none = pt.constant(np.zeros((projection.V.shape[0], 0)))
    return DenseLoglik()(_with_prior(V, B, projection), value - mean, none)[0]


class _Dense(Continuous):  # type: ignore[misc]
    rv_type = DenseRV
    rv_op = DenseRV.rv_op

    @classmethod
    def dist(cls, params: Any, **kwargs: Any) -> Any:
        return super().dist(params, **kwargs)

    def support_point(rv: Any, size: Any, mu: Any, *params: Any) -> Any:
        return pt.zeros_like(rv) + mu


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
        params, carried, rest = _parametrise(V, X, observed, kwargs)
        projection: Projection = carried["projection"]
        if observed is None and carried["treatment"] == "flat" and projection.rank:
            raise ValueError(
                f"{name} has no observed data, but with β integrated out under a flat prior its density is improper "
                "along X: give observed=, or a proper treatment of β (beta= or beta_cov=), or leave X out."
            )
        if observed is not None:
            rest["observed"] = read_response(observed, carried["ids"], projection.V.shape[0], ndim=(1,))
        check_coordinates(name, rest.get("dims"))
        return _Dense(name, params, carried=carried, **rest)

    @classmethod
    def dist(cls, *, V: Any, X: Any = None, **kwargs: Any) -> Any:
        """Return the distribution as a variable outside any model, for `pm.logp`, `pm.draw` or another distribution."""
        params, carried, rest = _parametrise(V, X, None, kwargs)
        return _Dense.dist(params, carried=carried, **rest)


def _parametrise(
    V: Any, X: Any, observed: Any, kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    own = {name: kwargs.pop(name, None) for name in ("mu", "beta", "beta_mean", "beta_cov")}
    refuse_unknown("DenseLMM", kwargs, "it takes X, V, mu, beta, beta_mean, beta_cov, observed")
    design = None if X is None else read(X, "X", ndim=(1, 2))
    covariance, V_ids = _covariance(V, design, observed)
    n = covariance.type.shape[0]
    ids, projection = read_design(design, n, V_ids, "V")
    flat, b, B = treat_coefficients(projection, own["beta"], own["beta_mean"], own["beta_cov"])
    carried = {"treatment": "flat" if flat else "proper", "projection": projection, "ids": ids}
    return [read_mean(own["mu"], ids, n), b, B, covariance], carried, kwargs


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
