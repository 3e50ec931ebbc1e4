"""Comparison of REML or ML fits: information criteria, and likelihood ratios of models that are nested."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import listed
from pm_fastlmm.base.tables import Table
from pm_fastlmm.engines.response import Response
from pm_fastlmm.fitting.fit import VarianceFit
from pm_fastlmm.fitting.laplace import NORMAL, LaplaceFit, Law
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.spectrum.sparse_projection import AnyProjection, SparseProjection

type Fit = REMLFit | VarianceFit

_SAME = 1e-8
_DIGITS = "₀₁₂₃₄₅₆₇₈₉"


def compare_fits(*fits: Fit | Mapping[str, Fit], nested: bool | None = None) -> Table:
    """
    Compare fits of the same data: log-likelihoods, AIC and BIC, and likelihood-ratio tests of nested models.

    With the maximum ℓ of a model of d parameters, those of β and of the variances,

        AIC = -2ℓ + 2d,   BIC = -2ℓ + d log m,   χ² = 2(ℓ - ℓ₀) on d - d₀ degrees of freedom

    m = n for ML and n - r for REML, as nlme has it (lme4 takes n for both). Restricted likelihoods can be compared
    between models with the same X only, those of variances; fixed effects are compared by ML.

    A variance at its smallest value, 0, is on the boundary of its space, where χ² is not that of Wilks: if one variance
    is added, with or without its covariances, q parameters in all, it is the mixture ½χ²_{q-1} + ½χ²_q; if several
    are, χ²_q, whose p-value is too large (conservative). Both are asymptotic, in the number of independent levels, and
    poor for one kernel without independent blocks or for few levels: `fit.test_no_variance()` after `reml`,
    which is exact, and `fit.test_no_variance(component)` after `find_reml` do not count on many levels.

    Parameters
    ----------
    *fits : REMLFit or VarianceFit, or one mapping from names to them
    nested : bool, optional
        Whether each model is a special case of the next larger one. By default that is found out: where the terms of
        one are among those of the other (the same, or with fewer columns or without their covariances), and the columns
        of X as well. It has to be stated for other models (`DenseLMM`, `reml_covariance`).

    Returns
    -------
    DataFrame
        By model, in the order of their number of parameters: `df`, `loglik`, `AIC`, `BIC`, `AIC_difference` to the
        smallest; `chi2`, `chi2_df`, `p_value` and `reference`, the distribution, of the ratio to the row before, NaN
        and "" where that is not nested.

    Raises
    ------
    ValueError
        If fits are of different data, of REML and ML, of REML with different X, or treat β differently; if they have
        several responses or keep no data.

    References
    ----------
    Self & Liang (1987), doi:10.1080/01621459.1987.10478472; Stram & Lee (1994), doi:10.2307/2533455.

    Notes
    -----
    Of responses that are not normal, fits by ML may have other families or links, "poisson" and "negative_binomial" for
    instance, whose AIC compare as long as all of them are for integers, or none is. Those by REML have β integrated out
    on the scale of η, and compare with the same family and link alone. Their log-likelihoods are Laplace's
    approximations, and so are differences of these.

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> sleep = flmm.datasets.sleepstudy()
    >>> fits = {
    ...     name: flmm.find_reml(
    ...         flmm.lmm_model(f"Reaction ~ Days + ({term} | Subject)", sleep),
    ...         progressbar=False,
    ...     )
    ...     for name, term in {"intercepts": "1", "slopes": "Days"}.items()
    ... }
    >>> flmm.compare_fits(fits)
               df    loglik      AIC      BIC AIC_difference     chi2 chi2_df   p_value    reference
    intercepts  4  -893.233  1794.47  1807.19        38.8368
    slopes      6  -871.814  1755.63  1774.72              0  42.8368       2  2.79e-10  ½χ²₁ + ½χ²₂
    """
    models = [_Model.of(name, fit) for name, fit in _named(fits)]
    _require_comparable(models)
    models = sorted(models, key=lambda model: (model.df, model.fit.loglik))
    smaller = [None, *models[:-1]]
    rows = [_criteria(large) | _ratio(small, large, nested) for small, large in zip(smaller, models, strict=True)]
    table = Table(rows, index=pd.Index([model.name for model in models])).astype({"chi2_df": "Int64"})
    table.insert(4, "AIC_difference", table["AIC"] - table["AIC"].min())
    table.attrs["blank"] = ["chi2", "p_value"]
    return table


def _named(fits: Sequence[Any]) -> list[tuple[str, Any]]:
    if len(fits) == 1 and isinstance(fits[0], Mapping):
        named = [(str(name), fit) for name, fit in fits[0].items()]
    else:
        named = [(f"fit {i}", fit) for i, fit in enumerate(fits)]
    for name, fit in named:
        if not isinstance(fit, REMLFit | VarianceFit):
            raise TypeError(
                f"{name} must be a fit of flmm.reml, find_reml or reml_covariance, got {type(fit).__name__}: several "
                "fits are given one by one, or in one mapping by name; posteriors are compared by az.compare."
            )
    if len(named) < 2:
        raise ValueError("one fit alone is compared with nothing: give at least two.")
    return named


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """
    What of a fit a comparison needs.

    Attributes
    ----------
    variances, lower_bounds : int
        Free parameters of V; how many of them are variances, bounded by 0.
    data : Response
    """

    name: str
    fit: Any
    variances: int
    lower_bounds: int
    data: Response

    @classmethod
    def of(cls, name: str, fit: Fit) -> Self:
        """Read a fit."""
        if isinstance(fit, REMLFit):
            if fit.names is not None:
                raise ValueError(f"{name} has several responses: compare those of one, fit.response(name).")
            if fit.rotated is None:
                raise ValueError(
                    f"{name} keeps no data by which to see that the fits are of the same: fit flmm.reml(spectrum, y)."
                )
            return cls(name, fit, 2, 2, Response.of_rotated(fit.rotated))
        free = ~np.asarray(fit.objective.fixed)
        bounded = free & (np.asarray(fit.objective.lower) == 0)
        return cls(name, fit, int(free.sum()), int(bounded.sum()), fit.node.response())

    @property
    def df(self) -> int:
        """Number of parameters, those of β that are estimated included."""
        return self.variances + self.rank

    @property
    def rank(self) -> int:
        """Number of coefficients that are estimated."""
        return self.data.projection.rank if self.data.flat else 0


def _require_comparable(models: Sequence[_Model]) -> None:
    first, a = models[0], models[0].data
    for other in models[1:]:
        b = other.data
        pair = f"{first.name} and {other.name}"
        if first.fit.method != other.fit.method:
            raise ValueError(
                f"{pair} are fits by {first.fit.method} and {other.fit.method}, whose likelihoods are of different "
                "things: fit all by REML to compare variances, or by ML, method='ML', to compare fixed effects."
            )
        if a.n != b.n:
            raise ValueError(
                f"{pair} are fits of {a.n} and {b.n} observations: leave out of all of them the rows that are "
                "missing in one."
            )
        if not a.weights.same(b.weights):
            raise ValueError(
                f"{pair} have other prior weights, and where K has directions without variance flmm.reml keeps of y "
                "its weighted length alone, from which it is not seen whether y is the same: compare fits by "
                "flmm.find_reml(model), which keeps y."
            )
        if abs(a.size - b.size) > _SAME * max(a.size, b.size):
            raise ValueError(f"{pair} are fits of different y: likelihoods of other data, or units, do not compare.")
        if a.y is not None and b.y is not None:
            _require_same_rows(a.y, b.y, pair)
        _require_same_kind(_law(first.fit), _law(other.fit), pair, first.fit.method)
        if a.flat != b.flat:
            raise ValueError(
                f"{pair} treat β differently, one as estimated and one as known or with a prior: their likelihoods "
                "differ in meaning."
            )
        if first.fit.method == "REML" and a.flat:
            _require_same_design(a.projection, b.projection, pair)


def _law(fit: Any) -> Law:
    return fit.law if isinstance(fit, LaplaceFit) else NORMAL


def _require_same_kind(a: Law, b: Law, pair: str, method: str) -> None:
    """Refuse likelihoods of which one is of probabilities and one of densities, or that integrate over other β."""
    if a.whole != b.whole:
        raise ValueError(
            f"{pair} are of families {a.family!r} and {b.family!r}: the likelihood of one is a probability, that of "
            "the other a density, which do not compare. Compare predictions, of loo() or of new data."
        )
    if not np.array_equal(a.trials, b.trials):
        raise ValueError(f"{pair} have different trials: likelihoods of other data do not compare.")
    if method == "REML" and (a.family, a.link) != (b.family, b.link):
        raise ValueError(
            f"{pair} are REML fits of {a} and {b}, whose β are integrated out on other scales: fit them by method='ML'."
        )


def _require_same_rows(a: FloatArray, b: FloatArray, pair: str) -> None:
    tolerance = _SAME * float(np.abs(a).max(initial=0.0))
    if np.abs(a - b).max(initial=0.0) > tolerance:
        why = "other values: likelihoods of other data, or units, do not compare"
        if np.abs(np.sort(a) - np.sort(b)).max(initial=0.0) <= tolerance:
            why = "the same values in another order: bring the rows of all of them into one order"
        raise ValueError(f"{pair} are fits of different y, {why}.")


def _require_same_design(a: AnyProjection, b: AnyProjection, pair: str) -> None:
    if a.rank != b.rank or not _within(a, b):
        raise ValueError(
            f"{pair} are REML fits with different X ({listed(a.coef) or 'none'}; {listed(b.coef) or 'none'}): "
            "each restricted likelihood is that of what its own X leaves. Fit them by method='ML' to compare."
        )
    if abs(a.logdet_R - b.logdet_R) > _SAME * max(1.0, abs(a.logdet_R)):
        raise ValueError(
            f"{pair} have an X of the same span but other columns or units, by which restricted likelihoods differ "
            "by a constant: use the same columns in all of them."
        )


def _within(a: AnyProjection, b: AnyProjection) -> bool:
    """Return whether the columns of one X are in the span of another; by name where their rows were not kept."""
    if isinstance(a, SparseProjection) or isinstance(b, SparseProjection):
        probe = a.along(np.random.default_rng(0).standard_normal(a.rank))  # of all columns at once
        return float(np.linalg.norm(b.apart(probe)[1])) <= _SAME * float(np.linalg.norm(probe))
    if a.reflectors is None or b.reflectors is None:
        return set(a.coef) <= set(b.coef)
    outside = a.Q1 - b.Q1 @ (b.Q1.T @ a.Q1)
    return bool(np.abs(outside).max(initial=0.0) < _SAME)


def _criteria(model: _Model) -> dict[str, Any]:
    d, loglik = model.df, float(model.fit.loglik)
    m = model.data.n - model.rank if model.fit.method == "REML" else model.data.n
    return {"df": d, "loglik": loglik, "AIC": -2 * loglik + 2 * d, "BIC": -2 * loglik + d * math.log(m)}


def _ratio(small: _Model | None, large: _Model, nested: bool | None) -> dict[str, Any]:
    """Return the likelihood-ratio test of a model against a smaller one, if there is one that is nested in it."""
    nothing = {"chi2": math.nan, "chi2_df": None, "p_value": math.nan, "reference": ""}
    if small is None or nested is False:
        return nothing
    if small.df == large.df:
        return nothing | {"reference": "as many parameters: not nested"}
    if nested is None and not _nested(small, large):
        return nothing | {"reference": "not known to be nested: nested=True if they are"}
    statistic, q = 2 * float(large.fit.loglik - small.fit.loglik), large.df - small.df
    added = large.lower_bounds - small.lower_bounds
    statistic = max(statistic, 0.0) if statistic > -1e-6 * max(1.0, abs(float(large.fit.loglik))) else math.nan
    if added == 1:
        below = float(statistic <= 0) if q == 1 else chdtrc(q - 1, statistic)
        p_value, reference = float(below + chdtrc(q, statistic)) / 2, f"½{_chi2(q - 1)} + ½{_chi2(q)}"
    else:
        p_value, reference = float(chdtrc(q, statistic)), _chi2(q) + (", conservative" if added > 1 else "")
    if math.isnan(statistic):  # the larger model is worse: it is no extension, or its maximum was not found
        p_value, reference = math.nan, "not nested, or a maximum was not found"
    return {"chi2": statistic, "chi2_df": q, "p_value": p_value, "reference": reference}


def _chi2(q: int) -> str:
    return "χ²" + "".join(_DIGITS[int(digit)] for digit in str(q))


def _nested(small: _Model, large: _Model) -> bool:
    """Return whether one model is known to be a special case of the other."""
    if small.data.flat and not _within(small.data.projection, large.data.projection):
        return False
    a, b = small.fit, large.fit
    if isinstance(a, REMLFit) and isinstance(b, REMLFit):
        return _same_kernel(a, b)
    same = (_law(a).family, _law(a).link) == (_law(b).family, _law(b).link)
    return same and isinstance(a, VarianceFit) and isinstance(b, VarianceFit) and a.node.nested_in(b.node)


def _same_kernel(a: REMLFit, b: REMLFit) -> bool:
    """Return whether the weights are the same and K is, by its product with a vector of random signs."""
    if a.spectrum.rotation is None or b.spectrum.rotation is None or not a.spectrum.weights.same(b.spectrum.weights):
        return False
    signs = np.sign(np.random.default_rng(0).normal(size=a.spectrum.n))
    first, other = (np.asarray(sum(F @ (F.T @ signs) for F in fit.spectrum.covariance_root())) for fit in (a, b))
    return bool(np.abs(first - other).max() < _SAME * np.abs(first).max())
