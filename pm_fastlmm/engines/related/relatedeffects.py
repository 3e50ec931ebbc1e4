"""RelatedEffects: effects with a known relation as a random variable, for any likelihood."""

import math
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.dist_math import check_parameters
from pytensor.graph.basic import Constant, Variable

from pm_fastlmm.base.arrays import Ids, shown
from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.base.semidefinite import lower_root
from pm_fastlmm.base.spelling import as_read
from pm_fastlmm.covariance.matrices import CholeskyFactored, unstructured
from pm_fastlmm.engines.inputs import double
from pm_fastlmm.engines.random_variable import LMM, LMMRV
from pm_fastlmm.engines.related.roots import Root, root_of
from pm_fastlmm.engines.related.variables import OneEffectRV, SeveralEffectsRV, one_effect, several_effects

type Dims = str | tuple[str, ...] | list[str] | None


def RelatedEffects(
    name: str, relation: Any = None, *, W: Any = None, sigma: Any = None, cov: Any = None, cholesky: Any = None,
    dims: Dims = None, centred: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    r"""
    Random effects with a known relation, :math:`u \sim N(0, \sigma^2 A)`, for models with any likelihood.

    With :math:`A = RR^\top` and white noise z, which is what a sampler walks in, :math:`u = \sigma R z`. R is not
    formed for a pedigree, :math:`u_i = (u_s + u_d)/2 + \sigma\sqrt{d_i} z_i` parents first, nor for a tree or another
    sparse precision: value and gradient of a pedigree or a tree take time in proportion to the number of effects.

    Parameters
    ----------
    name : str
        Of u. The white noise is called ``{name}_raw``.
    relation : Pedigree, Tree or Precision; DataFrame or array, (q, q); sequence
        What is known of the q effects: the inverse of A, or A itself as a covariance K, positive semi-definite; or a
        column of groups, whose distinct labels have independent effects, A = I.
    W : DataFrame or array, (q, m), optional
        In place of `relation` a factor of the covariance, A = WWᵀ, such as centred genotypes.
    sigma : float or scalar tensor
        σ, the standard deviation where A has a 1 on its diagonal.
    cov : array or tensor, (c, c), optional
        In place of `sigma`: each level has c correlated effects, as intercept and slope, or direct and maternal, of
        covariance B, and u is (q, c) with :math:`\operatorname{vec}(u^\top) \sim N(0, A \otimes B)`.
    cholesky : array or tensor, (c, c) or (c(c + 1)/2,), optional
        In place of `cov` the lower triangular L of B = LLᵀ, or its triangle row by row, of `pm.LKJCholeskyCov`.
    dims : str, or two of them with `cov` or `cholesky`
        The first has the labels of the relation as its coordinates, which are added to the model if it lacks them.
    centred : bool
        Whether u itself is the random variable, with its density in closed form. Records that say much of every effect
        favour it; few records favour white noise. A must be non-singular.
    **kwargs
        For the distribution of what a sampler walks in, as ``initval``.

    Returns
    -------
    tensor, (q,) or (q, c)
        In the order of the labels; `covariance.places` finds the labels of a table among them.

    Raises
    ------
    ValueError
        If what is known of the relation is no covariance; if sigma is negative, or there is not one of sigma, cov and
        cholesky, or these have other shapes; if the coordinates of `dims` are others than the labels; if A is singular
        and `centred`.

    Examples
    --------
    Litter sizes of three sows with a boar in common:

    >>> import numpy as np
    >>> import pymc as pm
    >>> import pm_fastlmm as flmm
    >>> pigs = flmm.covariance.Pedigree(["a", "b", "c"], ["boar"] * 3, [None, "a", "a"])
    >>> sow, size = ["b", "c", "a", "b"], [9, 12, 11, 8]
    >>> with pm.Model() as model:
    ...     sigma = pm.HalfNormal("sigma", 0.3)
    ...     u = flmm.RelatedEffects("u", pigs, sigma=sigma, dims="pig")
    ...     log_mean = pm.Normal("log_mean", 2, 1)
    ...     places = flmm.covariance.places(pigs, sow)
    ...     y = pm.Poisson("y", pm.math.exp(log_mean + u[places]), observed=size)
    >>> model.coords["pig"]
    ('a', 'b', 'c', 'boar')
    >>> model.free_RVs
    [sigma, u_raw, log_mean]
    """
    model = pm.modelcontext(None)
    if "observed" in kwargs:
        raise TypeError(f"{name} takes no observed=: condition a centred one by pm.observe(model, ...).")
    root = root_of(relation, W)
    axes = [dims] if isinstance(dims, str) else list(dims or ())
    spread = _spread(name, sigma, cov, cholesky, model.coords.get(axes[1]) if len(axes) == 2 else None)
    if axes and len(axes) != 1 + (spread.type.ndim == 2):
        raise ValueError(
            f"{name} has {1 + (spread.type.ndim == 2)} dimensions, levels"
            + (" and effects of each," if spread.type.ndim else ",")
            + f" but dims names {len(axes)} ({', '.join(axes)}): name each."
        )
    if axes:
        _label(model, name, axes, root, spread)
    build = _centred if centred else _not_centred
    return build(name, root, spread, tuple(axes) or None, **kwargs)


def _not_centred(name: str, root: Root, spread: Any, dims: Any, **kwargs: Any) -> Any:
    if spread.type.ndim:
        z = pm.Normal(f"{name}_raw", shape=(root.innovations, *spread.type.shape[:1]), **kwargs)
        return pm.Deterministic(name, several_effects(root, z, spread), dims=dims)
    z = pm.Normal(f"{name}_raw", shape=(root.innovations,), **kwargs)
    return pm.Deterministic(name, one_effect(root, z, spread), dims=dims)


def _centred(name: str, root: Root, spread: Any, dims: Any, **kwargs: Any) -> Any:
    within = np.atleast_2d(spread.data) if isinstance(spread, Constant) else np.eye(1)
    if root.logdet is None or np.linalg.matrix_rank(within) < len(within):
        raise ValueError(
            f"{name} has no density, as the covariance of its effects is singular, or may be (a factor W): leave "
            "centred=True out."
        )
    kind: type[LMMRV] = SeveralEffectsRV if spread.type.ndim else OneEffectRV
    return LMM(name, [spread], kind=kind, carried={"root": root, "treatment": "proper"}, dims=dims, **kwargs)


def _spread(name: str, sigma: Any, cov: Any, cholesky: Any, effects: Any) -> Any:
    """Return σ, or L of the covariance of effects within a level, once it is one of these."""
    if sum(given is not None for given in (sigma, cov, cholesky)) != 1:
        raise ValueError(
            f"give {name} exactly one of sigma (a standard deviation), cov (a covariance matrix of several effects of "
            "each level) and cholesky (its lower triangular factor)."
        )
    if sigma is None:
        return _factor(name, cov, cholesky, effects)
    scale = double(sigma)
    if scale.type.ndim:
        raise ValueError(
            f"sigma of {name} must be one number, got shape {scale.type.shape}: several effects of each level take "
            "cov= or cholesky=; a scale of its own for each group is a RelatedEffects of its own."
        )
    if isinstance(scale, Constant):
        if not 0 <= float(scale.data) < math.inf:
            raise ValueError(f"sigma of {name} is {scale.data}: a standard deviation is not negative, and finite.")
        return scale
    return check_parameters(scale, scale >= 0, msg=f"sigma of {name} >= 0")


def _factor(name: str, cov: Any, cholesky: Any, effects: Any) -> Any:
    B = unstructured(cov, cholesky=cholesky)
    if B.size is None and effects is not None:
        B = unstructured(cov, cholesky=cholesky, size=len(effects))
    if B.size is None:
        raise ValueError(
            f"how many effects each level of {name} has, PyTensor cannot tell: give the model coordinates of their "
            "dimension, coords={'effect': ['intercept', 'slope']}, and dims=."
        )
    if isinstance(B, CholeskyFactored):
        return pt.specify_shape(double(B.lower()), (B.size, B.size))
    if isinstance(B.cov, Variable):
        return pt.specify_shape(pt.linalg.cholesky(double(B.cov)), (B.size, B.size))
    return double(lower_root(np.asarray(B.cov)))


def _label(model: pm.Model, name: str, dims: list[str], root: Root, spread: Any) -> None:
    """Let dimensions have the labels of the levels, and as many effects of each as there are."""
    labels: Ids = tuple(range(root.size)) if root.labels is None else root.labels
    if dims[0] not in model.coords:
        require_labels(labels, f"the labels of {name}", written="labels")
        model.add_coord(dims[0], labels)
    _require_same(model, name, dims[0], labels, named=root.labels is not None)
    if len(dims) == 2:
        c = spread.type.shape[0]
        if dims[1] not in model.coords:
            model.add_coord(dims[1], range(c))
        _require_same(model, name, dims[1], tuple(range(c)), named=False)


def _require_same(model: pm.Model, name: str, dim: str, labels: Ids, *, named: bool) -> None:
    own = model.coords[dim] or ()
    if len(own) != len(labels):
        raise ValueError(
            f"dimension {dim!r} of {name} has {len(own)} coordinates, but there are {len(labels)} effects: leave it "
            "out of coords=, and the labels of the effects are added."
        )
    apart = [(a, b) for a, b in zip(own, labels, strict=True) if as_read(a) != as_read(b)] if named else []
    if apart:
        raise ValueError(
            f"coordinates of dimension {dim!r} are {shown([a for a, _ in apart])}, where the effects of {name} are "
            f"{shown([b for _, b in apart])}: leave {dim!r} out of coords=, and the labels of the effects are added in "
            "their order."
        )
