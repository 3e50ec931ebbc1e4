"""What the distributions share in reading their arguments: the mean, the treatment of β, and what is not theirs."""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable

from pm_fastlmm.base.arrays import FloatArray, Ids, align, read, read_covariance, require_finite
from pm_fastlmm.base.semidefinite import require_semidefinite, semidefinite_root
from pm_fastlmm.engines.algebra import product
from pm_fastlmm.engines.random_variable import Treatment
from pm_fastlmm.spectrum.sparse_projection import AnyProjection

SPECTRUM = "the spectrum"
NO_MEAN, NO_PRIOR = pt.zeros((0,), dtype="float64"), pt.zeros((0, 0), dtype="float64")  # of β where it has none
_OFFSET = "an offset is a known part of the mean, mu=offset; a node without mu= takes y - offset."
_PYMC = {"dims", "initval", "shape", "size", "rng", "transform", "default_transform", "name", "model"}


def double(value: Any) -> Any:
    """
    Return a tensor in double precision, whatever PyTensor's floatX is: likelihoods are differences of large numbers.

    PyTensor itself would read a Python float in the precision of floatX, or in the shortest that holds it.
    """
    if isinstance(value, int | float | np.number | np.ndarray):
        value = np.asarray(value, dtype=np.float64)
    return pt.as_tensor(value).astype("float64")


def refuse_unknown(distribution: str, kwargs: dict[str, Any], known: str, *, weights: str = "") -> None:
    """
    Raise an error for arguments that are neither ours nor those of every PyMC distribution.

    `weights` says where prior weights go, Var(e_i) = σ²_e/w_i.
    """
    if kwargs.pop("total_size", None) is not None:
        raise ValueError(
            "total_size= multiplies a log-density as if its observations were independent. Those of a mixed model are "
            f"dependent, and the density of some says nothing of the others: give {distribution} all of them; rows "
            "that do not fit in memory are reduced to what is sufficient, flmm.KernelStatistics."
        )
    for argument, remedy in {"weights": weights, "offset": _OFFSET}.items():
        if kwargs.pop(argument, None) is not None:
            raise ValueError(f"{distribution} takes no {argument}=: {remedy}")
    if unknown := kwargs.keys() - _PYMC:
        raise TypeError(f"{distribution} takes no argument {', '.join(sorted(unknown))}: {known}.")


def read_response(observed: Any, ids: Ids | None, n: int, *, ndim: tuple[int, ...] = (1, 2)) -> Any:
    """
    Return the data as PyMC takes them, (…, n), aligned by id, and None if there are none.

    Missing values are refused: PyMC would impute them.

    Raises
    ------
    ValueError
        If values are missing, the length or the ids do not fit, or a square array could be read both ways.
    """
    if observed is None:
        return None
    if isinstance(observed, Variable):
        values = known_values(observed)
        if values is not None:
            _check_response(_filled(values), n)
        return observed
    observed = _filled(observed) if isinstance(observed, np.ma.MaskedArray) else observed
    labelled = read(observed, "observed", ndim=ndim)
    values = labelled.take(align(ids, labelled, name="observed", reference_name=SPECTRUM))
    if values.ndim == 2 and (hasattr(observed, "columns") or labelled.ids is not None):
        values = values.T
    elif values.ndim == 2 and values.shape == (n, n):
        raise ValueError(
            f"observed is a square array, shape {values.shape}, without labels: rows or columns could be the "
            "responses. Pass a DataFrame whose rows are the observations, or a DataArray with a dimension 'obs'."
        )
    _check_response(values, n)
    return values


def known_values(data: Any) -> Any:
    """Return an array as it is, the values of `pm.Data` or of a constant, None for another graph."""
    if not isinstance(data, Variable):
        return data
    return data.get_value() if isinstance(data, SharedVariable) else getattr(data, "data", None)


def _filled(values: Any) -> FloatArray:
    """Return values with NaN where they are masked, as `pm.Data` masks what was NaN."""
    return np.asarray(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan))


def check_data(name: str, values: Any, n: int | None) -> None:
    """
    Check what a node observes at the time of use, since `pm.set_data` replaces it without asking.

    Raises
    ------
    ValueError
        If values are missing, or are not as many as the node has.
    """
    if n is not None and values.shape[-1] != n:
        raise ValueError(
            f"the data of {name} were set to {values.shape[-1]} values in their last dimension, but its covariance is "
            f"of {n}: build the model anew for other observations."
        )
    require_finite(
        values, f"the data of {name}",
        "pm.set_data can change y, but leave no rows out: build the model anew without them, "
        "spectrum.subset(rows), or let flmm.kernel_model or flmm.lmm_model drop and count them.",
    )  # fmt: skip


def _check_response(values: FloatArray, n: int) -> None:
    if values.shape[-1] != n:
        raise ValueError(f"observed has shape {values.shape}, but the {n} observations must be its last dimension.")
    require_finite(
        values, "observed",
        "PyMC would impute them one by one; leave those rows out with spectrum.subset(rows), or let flmm.kernel_model "
        "or flmm.lmm_model drop and count them.",
    )  # fmt: skip


def read_mean(mu: Any, ids: Ids | None, n: int) -> Any:
    """Return the mean besides Xβ as a tensor (…, n); a labelled one in the order of the ids."""
    if mu is not None and not isinstance(mu, Variable) and (hasattr(mu, "index") or hasattr(mu, "coords")):
        labelled = read(mu, "mu", ndim=(1,))
        mu = labelled.take(align(ids, labelled, name="mu", reference_name=SPECTRUM))
    mu = double(0.0 if mu is None else mu)
    mu = pt.full((n,), mu) if mu.type.ndim == 0 else mu
    if mu.type.shape[-1] not in (None, n):
        raise ValueError(f"mu has {mu.type.shape[-1]} values in its last dimension, but there are {n} observations.")
    return mu


def treat_coefficients(
    projection: AnyProjection, beta: Any, beta_mean: Any, beta_cov: Any
) -> tuple[Treatment, Any, Any]:
    """
    Return the treatment of β, its mean b, and a root L of its covariance, L = 0 for an explicit β; none if flat.

    Raises
    ------
    ValueError
        If shapes do not fit, β is given twice, or its covariance is missing or not positive semi-definite.
    """
    if beta is None and beta_cov is None:
        if beta_mean is not None:
            raise ValueError(
                "beta_mean is given without beta_cov: give the prior covariance, or fixed coefficients as beta=."
            )
        return "flat", NO_MEAN, NO_PRIOR
    r = projection.rank
    if not r:
        raise ValueError("beta or beta_cov is given, but there are no fixed effects: give X.")
    if beta_cov is not None and projection.sparse:
        raise ValueError(
            f"beta_cov of {r} coefficients is a dense matrix, and X is kept sparse: let the factor of so many levels "
            "be a random term, Term(factor, flmm.covariance.scalar(v)), which is β ~ N(0, vI), or take beta=."
        )
    if beta is not None and (beta_mean is not None or beta_cov is not None):
        raise ValueError("give either beta (coefficients) or beta_mean and beta_cov (their prior), not both.")
    b = double(beta if beta is not None else 0.0 if beta_mean is None else beta_mean)
    b = pt.full((r,), b) if b.type.ndim == 0 and (beta is None or r == 1) else b
    if b.type.ndim == 0 or b.type.shape[-1] not in (None, r):
        raise ValueError(
            f"beta must have {r} values, one for each of {', '.join(projection.coef)}; got shape {b.type.shape}."
        )
    if beta is not None:
        return "proper", b, pt.zeros((r, r), dtype="float64")
    if isinstance(beta_cov, Variable) and not isinstance(beta_cov, Constant):
        return "proper", b, pt.linalg.cholesky(double(beta_cov))
    given = beta_cov.data if isinstance(beta_cov, Constant) else beta_cov
    if np.shape(given) != (r, r):
        raise ValueError(f"beta_cov must be ({r}, {r}), for {', '.join(projection.coef)}; got shape {np.shape(given)}.")
    cov = read_covariance(np.asarray(given), "beta_cov").values
    require_semidefinite(np.linalg.eigvalsh(cov), "beta_cov")
    return "proper", b, covariance_root(pt.constant(cov))


def covariance_root(B: Any) -> Any:
    """Return L with LLᵀ = B for a prior covariance of β; a singular one must be a constant."""
    if not isinstance(B, Constant):
        return pt.linalg.cholesky(B)
    return pt.constant(semidefinite_root(B.data))


def coefficients(projection: AnyProjection, beta: Any, beta_mean: Any, beta_cov: Any) -> tuple[Treatment, Any, Any]:
    """Return the treatment of β, its mean b, and its prior covariance B, empty where it has none."""
    treatment, b, L = treat_coefficients(projection, beta, beta_mean, beta_cov)
    if beta_cov is None:
        return treatment, b, NO_PRIOR
    return treatment, b, pt.constant(L.data @ L.data.T) if isinstance(L, Constant) else product(L, L.T)
