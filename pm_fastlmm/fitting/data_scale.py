"""Heritability and repeatability of a fit on the latent, expected-data and observed scale, by the delta method."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import expit, logit, ndtri

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.tables import Table
from pm_fastlmm.families.scales import Fixed, Shares, data_scale

type Of = Literal["heritability", "repeatability"]

_STEP = 1e-3  # of a standard error, of differences
_AT_BOUND = (
    "on the boundary, where the delta method has no standard error: fit.interval of the variance, or flmm.sample, has "
    "intervals there"
)


def heritability_table(
    at: Any, theta: pd.Series, cov: FloatArray, beta: FloatArray, beta_cov: Any, term: str | Sequence[str], of: Of, *,
    level: float, fixed: Fixed, trials: float | None, moved: Any = None,
) -> Table:  # fmt: skip
    """
    Return estimates, standard errors and intervals by scale; see `LaplaceFit.heritability`.

    `moved` (P, r) is ∂β̂/∂θ.
    """
    require_fraction(level, "level")
    require_choice("of", of, ("heritability", "repeatability"))
    names = (term,) if isinstance(term, str) else tuple(term)
    known = list(at.objective.latent_variances(theta.to_numpy()))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no term {unknown[0]!r}: the model has {listed(known)}.")
    family = at.family if trials is None else at.family.of_rows(trials)
    projection, mean = at.node.projection, at.fitted(conditional=False)
    estimated = len(beta) > 0

    def shares(values: FloatArray, b: FloatArray) -> Shares:
        variances = at.objective.latent_variances(values)
        eta = np.asarray(mean) + (projection.times(b - beta) if estimated else 0.0)
        scale = data_scale(family, values[at.objective.layout.size :], eta, sum(variances.values()))
        own = sum(variances[name] for name in names)
        return scale.heritability(own, fixed=fixed) if of == "heritability" else scale.repeatability(own, fixed=fixed)

    point = theta.to_numpy()
    estimate, labels = _stacked(shares(point, beta), at.node.categories)

    def values_of(v: FloatArray, b: FloatArray) -> FloatArray:
        return _stacked(shares(v, b + (v - point) @ moved if estimated else b))[0]

    se = np.sqrt(_variance(values_of, point, cov, beta, beta_cov))
    own = [place for e in at.objective.layout.entries if known[e.term] in names for place in range(len(point))[e.place]]
    unknown_error = np.isnan(np.diag(cov))
    if unknown_error[own].any():
        se = np.full_like(se, np.nan)
    inside = (estimate > 0) & (estimate < 1)
    middle = np.where(inside, estimate, 0.5)
    ends = expit(logit(middle) + ndtri((1 + level) / 2) * np.array([[-1.0], [1.0]]) * se / (middle * (1 - middle)))
    lower, upper = np.where(inside, ends, np.where(se == 0, estimate, np.nan))
    index = pd.Index(labels, name="scale") if isinstance(labels[0], str) else _by_category(labels)
    table = Table({"estimate": estimate, "se": se, "lower": lower, "upper": upper}, index)
    table.attrs["above"] = [f"{of.capitalize()}, {' + '.join(names)}, fixed effects {fixed}"]
    if unknown_error.any():
        what = _AT_BOUND if unknown_error[own].any() else "on the boundary, and taken as known"
        table.attrs["below"] = [f"{listed(list(theta.index[unknown_error]))}: {what}"]
    return table


def _by_category(labels: Sequence[Any]) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples(labels, names=["scale", "category"])


def _stacked(found: Shares, categories: Sequence[Any] | None = None) -> tuple[FloatArray, list[Any]]:
    """Return all shares in a row, and what they are; categories without labels have numbers."""
    values: list[FloatArray] = []
    labels: list[Any] = []
    several = np.ndim(found.observed) > 0
    for name, part in zip(found._fields, found, strict=True):
        if part is None:
            continue
        each = np.atleast_1d(part)
        values.append(each)
        of_part = (categories or range(len(each))) if np.ndim(part) else [""]
        labels += [(name, label) for label in of_part] if several else [name]
    return np.concatenate(values), labels


def _variance(
    function: Callable[[FloatArray, FloatArray], FloatArray], theta: FloatArray, cov: FloatArray, beta: FloatArray,
    beta_cov: Any,
) -> FloatArray:  # fmt: skip
    """Return gᵀCg of the derivatives in θ and β by central differences; what has no covariance is taken as known."""
    errors = np.sqrt(np.diag(cov))
    steps = np.where(np.isfinite(errors), _STEP * errors, 0.0)
    slopes = [
        np.zeros(function(theta, beta).shape) if not step
        else (function(theta + step * unit, beta) - function(theta - step * unit, beta)) / (2 * step)
        for step, unit in zip(steps, np.eye(len(theta)), strict=True)
    ]  # fmt: skip
    G = np.array(slopes)
    total: FloatArray = np.einsum("ik,ij,jk->k", G, np.where(np.isnan(cov), 0.0, cov), G)
    if len(beta):
        C: Any = sp.csr_array(beta_cov).toarray() if sp.issparse(beta_cov) else beta_cov  # type: ignore[call-overload]
        own = _STEP * np.sqrt(np.diag(C))
        H = np.array([
            (function(theta, beta + s * unit) - function(theta, beta - s * unit)) / (2 * s)
            for s, unit in zip(own, np.eye(len(beta)), strict=True)
        ])  # fmt: skip
        total = total + np.einsum("ik,ij,jk->k", H, C, H)
    return total
