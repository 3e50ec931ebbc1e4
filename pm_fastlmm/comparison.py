"""Comparison of REML or ML fits: information criteria, and likelihood ratios of models that are nested."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import chi2

from pm_fastlmm._arrays import FloatArray
from pm_fastlmm.aireml import VarianceFit
from pm_fastlmm.covariance.matrices import Unstructured
from pm_fastlmm.covariance.structures import AR1, CompoundSymmetry, Diagonal, Equicorrelation, Scalar
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.spectral.node import SpectralNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.fit import REMLFit
from pm_fastlmm.linalg.projection import Projection
from pm_fastlmm.linalg.rotated import Rotated

type Fit = REMLFit | VarianceFit

_SAME = 1e-8
_SIMPLE = (AR1, CompoundSymmetry, Diagonal, Equicorrelation, Scalar, Unstructured)  # with one set of parameters
_DIGITS = "₀₁₂₃₄₅₆₇₈₉"


def compare_fits(*fits: Fit | Mapping[str, Fit], nested: bool | None = None) -> pd.DataFrame:
    """
    Compare fits of the same data: log-likelihoods, AIC and BIC, and likelihood-ratio tests of nested models.

    With the maximum ℓ of a model of d parameters, those of β and of the variances,

        AIC = -2ℓ + 2d,   BIC = -2ℓ + d log m,   χ² = 2(ℓ - ℓ₀) on d - d₀ degrees of freedom

    m = n for ML and n - r for REML, as nlme has it (lme4 takes n for both). Restricted likelihoods can be compared
    between models with the same X only, those of variances; fixed effects are compared by ML.

    A variance at its smallest value, 0, is on the boundary of its space, where χ² is not that of Wilks: if one variance
    is added, with or without its covariances, q parameters in all, it is the mixture ½χ²_{q-1} + ½χ²_q; if several
    are, χ²_q, whose p-value is too large (conservative). Both are asymptotic, in the number of independent levels, and
    poor for one kernel without independent blocks or for few levels: `fit.test_no_kernel_variance()` after `reml`,
    which is exact, and `fit.test_no_variance(component)` after `find_reml` do not count on many levels.

    Parameters
    ----------
    *fits : REMLFit or VarianceFit, or one mapping from names to them
    nested : bool, optional
        Whether each model is a special case of the next larger one. By default that is found out: where the terms of
        one are among those of the other (the same, or with fewer columns or without their covariances), and the columns
        of X as well. It has to be stated for other models (`DenseLMM`, `fit_covariance`).

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

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> sleep = flmm.datasets.sleepstudy()
    >>> fits = {
    ...     name: flmm.find_reml(flmm.lmm_model(f"Reaction ~ Days + ({term} | Subject)", sleep), progressbar=False)
    ...     for name, term in {"intercepts": "1", "slopes": "Days"}.items()
    ... }
    >>> table = flmm.compare_fits(fits)
    >>> table[["df", "loglik", "AIC", "chi2", "chi2_df", "reference"]].round(2)
                df  loglik      AIC   chi2 chi2_df    reference
    intercepts   4 -893.23  1794.47    NaN    <NA>
    slopes       6 -871.81  1755.63  42.84       2  ½χ²₁ + ½χ²₂
    >>> print(f"{table['p_value'].iloc[1]:.1e}")
    2.8e-10
    """
    models = [_Model.of(name, fit) for name, fit in _named(fits)]
    _require_comparable(models)
    models = sorted(models, key=lambda model: (model.df, model.fit.loglik))
    rows = []
    for i, model in enumerate(models):
        rows.append(_criteria(model) | _ratio(models[i - 1] if i else None, model, nested))
    table = pd.DataFrame(rows, index=pd.Index([model.name for model in models]))
    table.insert(4, "AIC_difference", table["AIC"] - table["AIC"].min())
    return table.astype({"chi2_df": "Int64"})


def _named(fits: Sequence[Any]) -> list[tuple[str, Any]]:
    if len(fits) == 1 and isinstance(fits[0], Mapping):
        named = [(str(name), fit) for name, fit in fits[0].items()]
    else:
        named = [(f"fit {i}", fit) for i, fit in enumerate(fits)]
    for name, fit in named:
        if not isinstance(fit, REMLFit | VarianceFit):
            raise TypeError(
                f"{name} must be a fit of flmm.reml, find_reml or fit_covariance, got {type(fit).__name__}: several "
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
    n, variances, lower_bounds : int
        Observations; free parameters of V; how many of them are variances, bounded by 0.
    size : float
        ‖y‖².
    y : (n,) array or None
        By observation, where the fit has it.
    flat : bool
        Whether β was integrated out or estimated, not explicit or under a prior.
    """

    name: str
    fit: Any
    n: int
    variances: int
    lower_bounds: int
    size: float
    y: FloatArray | None
    flat: bool
    projection: Projection

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
            r = fit.rotated
            size = float(r.norm2) + float(r.y1 @ r.y1)
            return cls(name, fit, r.spectrum.n, 2, 2, size, _response(r), True, r.spectrum.projection)
        free = ~np.asarray(fit.objective.fixed)
        bounded = int((free & (np.asarray(fit.objective.lower) == 0)).sum())
        n, size, flat, projection = _data(fit)
        node = fit.node
        by_row = node is not None and not isinstance(node, FourierNode) and np.shape(node.observed) == (n,)
        if isinstance(node, SpectralNode) and node.given is not None:
            y = _response(node.rotated())
        else:
            y = np.asarray(node.observed, dtype=float) if node is not None and by_row else None
        return cls(name, fit, n, int(free.sum()), bounded, size, y, flat, projection)

    @property
    def df(self) -> int:
        """Number of parameters, those of β that are estimated included."""
        return self.variances + self.rank

    @property
    def rank(self) -> int:
        """Number of coefficients that are estimated."""
        return self.projection.rank if self.flat else 0


def _response(rotated: Rotated) -> FloatArray | None:
    """Return y, which is whole where its rows were kept and K has no null space."""
    s = rotated.spectrum
    if s.rotation is None or s.nullity or s.projection.reflectors is None:
        return None
    return np.asarray(s.projection.Q1 @ rotated.y1 + s.basis @ rotated.z)


def _data(fit: VarianceFit) -> tuple[int, float, bool, Projection]:
    """Return n, ‖y‖², whether β is flat, and the projection."""
    node = fit.node
    if node is None:
        y, along, flat = fit.objective.observed
        size = float(y @ y) + (float(along @ along) if flat else 0.0)
        return fit.objective.n, size, flat, fit.objective.projection
    if isinstance(node, FourierNode):
        p = node.products
        return p.n, p.square + float(p.along @ p.along), True, p.projection
    if isinstance(node, SpectralNode) and node.given is not None:
        rotated = node.rotated()
        return node.n, float(rotated.norm2 + (rotated.y1**2).sum(-1)), True, node.projection
    return node.n, float(np.square(node.observed).sum()), node.treatment == "flat", node.projection


def _require_comparable(models: Sequence[_Model]) -> None:
    first = models[0]
    for other in models[1:]:
        pair = f"{first.name} and {other.name}"
        if first.fit.method != other.fit.method:
            raise ValueError(
                f"{pair} are fits by {first.fit.method} and {other.fit.method}, whose likelihoods are of different "
                "things: fit all by REML to compare variances, or by ML, method='ML', to compare fixed effects."
            )
        if first.n != other.n:
            raise ValueError(
                f"{pair} are fits of {first.n} and {other.n} observations: leave out of all of them the rows that are "
                "missing in one."
            )
        if abs(first.size - other.size) > _SAME * max(first.size, other.size):
            raise ValueError(f"{pair} are fits of different y: likelihoods of other data, or units, do not compare.")
        if first.y is not None and other.y is not None:
            _require_same_rows(first.y, other.y, pair)
        if first.flat != other.flat:
            raise ValueError(
                f"{pair} treat β differently, one as estimated and one as known or with a prior: their likelihoods "
                "differ in meaning."
            )
        if first.fit.method == "REML" and first.flat:
            _require_same_design(first, other, pair)


def _require_same_rows(a: FloatArray, b: FloatArray, pair: str) -> None:
    tolerance = _SAME * float(np.abs(a).max(initial=0.0))
    if np.abs(a - b).max(initial=0.0) > tolerance:
        reordered = np.abs(np.sort(a) - np.sort(b)).max(initial=0.0) <= tolerance
        why = (
            "the same values in another order: bring the rows of all of them into one order"
            if reordered
            else ("other values: likelihoods of other data, or units, do not compare")
        )
        raise ValueError(f"{pair} are fits of different y, {why}.")


def _require_same_design(first: _Model, other: _Model, pair: str) -> None:
    a, b = first.projection, other.projection
    if a.rank != b.rank or not _within(a, b):
        raise ValueError(
            f"{pair} are REML fits with different X ({', '.join(a.coef) or 'none'}; {', '.join(b.coef) or 'none'}): "
            "each restricted likelihood is that of what its own X leaves. Fit them by method='ML' to compare."
        )
    if abs(a.logdet_R - b.logdet_R) > _SAME * max(1.0, abs(a.logdet_R)):
        raise ValueError(
            f"{pair} have an X of the same span but other columns or units, by which restricted likelihoods differ "
            "by a constant: use the same columns in all of them."
        )


def _within(a: Projection, b: Projection) -> bool:
    """Return whether the columns of one X are in the span of another; by name where their rows were not kept."""
    if a.reflectors is None or b.reflectors is None:
        return set(a.coef) <= set(b.coef)
    outside = a.Q1 - b.Q1 @ (b.Q1.T @ a.Q1)
    return bool(np.abs(outside).max(initial=0.0) < _SAME)


def _criteria(model: _Model) -> dict[str, Any]:
    d, loglik = model.df, float(model.fit.loglik)
    m = model.n - model.rank if model.fit.method == "REML" else model.n
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
        below = float(statistic <= 0) if q == 1 else chi2.sf(statistic, q - 1)
        p_value, reference = (below + chi2.sf(statistic, q)) / 2, f"½{_chi2(q - 1)} + ½{_chi2(q)}"
    else:
        p_value, reference = chi2.sf(statistic, q), _chi2(q) + (", conservative" if added > 1 else "")
    if math.isnan(statistic):  # the larger model is worse: it is no extension, or its maximum was not found
        p_value, reference = math.nan, "not nested, or a maximum was not found"
    return {"chi2": statistic, "chi2_df": q, "p_value": float(p_value), "reference": reference}


def _chi2(q: int) -> str:
    return "χ²" + "".join(_DIGITS[int(digit)] for digit in str(q))


def _nested(small: _Model, large: _Model) -> bool:
    """Return whether one model is known to be a special case of the other."""
    if small.flat and not _within(small.projection, large.projection):
        return False
    a, b = small.fit, large.fit
    if isinstance(a, REMLFit) and isinstance(b, REMLFit):
        return _same_kernel(a, b)
    if not (isinstance(a, VarianceFit) and isinstance(b, VarianceFit)):
        return False
    if not (isinstance(a.node, StructuredNode) and isinstance(b.node, StructuredNode)):
        return False
    if not (a.node.products.rows_kept and b.node.products.rows_kept):
        return False
    node = b.node
    return all(any(_part(a, term, b, other) for other in node.terms) for term in a.node.terms)


def _same_kernel(a: REMLFit, b: REMLFit) -> bool:
    """Return whether K is the same, by its product with a vector of random signs."""
    if a.spectrum.rotation is None or b.spectrum.rotation is None:
        return False
    signs = np.sign(np.random.default_rng(0).normal(size=a.spectrum.n))
    products = [_times(fit.spectrum.covariance_root(), signs) for fit in (a, b)]
    return bool(np.abs(products[0] - products[1]).max() < _SAME * np.abs(products[0]).max())


def _times(roots: Iterable[FloatArray], v: FloatArray) -> FloatArray:
    return np.asarray(sum(F @ (F.T @ v) for F in roots))


def _part(a: VarianceFit, small: Term, b: VarianceFit, large: Term) -> bool:
    """Return whether the variance of one term is a special case of that of another."""
    s, t = small.blocks, large.blocks
    known = s.root is t.root if s.root is None or t.root is None else np.array_equal(s.root, t.root)
    if small.levels != large.levels or s.levels != t.levels or not known:
        return False
    names = [_names(fit, term) for fit, term in ((a, small), (b, large))]
    places = [_place(small, large, j) for j in range(small.width)]
    if None in places:
        return False
    if small.width == large.width and type(s.block) is type(t.block) and isinstance(s.block, _SIMPLE):
        return len(names[0]) == len(names[1])
    if _kind(names[1], large) == "unstructured":
        return True
    return _kind(names[1], large) == "diagonal" and _kind(names[0], small) in ("diagonal", "scalar")


def _names(fit: VarianceFit, term: Term) -> tuple[str, ...]:
    """Return the names of the parameters of a term."""
    node: Any = fit.node
    k = node.terms.index(term)
    entries = [entry for entry in node.layout.entries if entry.term == k]
    return tuple(name for entry in entries for name in node.layout.names[entry.place])


def _kind(names: tuple[str, ...], term: Term) -> str:
    if names == (term.name,):
        return "scalar"
    diagonal = {f"{term.name}[{column}]" for column in term.columns}
    if set(names) == diagonal:
        return "diagonal"
    c = len(term.columns)
    return "unstructured" if c > 1 and len(names) == c * (c + 1) // 2 and diagonal < set(names) else "other"


def _place(small: Term, large: Term, j: int) -> int | None:
    """Return the column within a level of one term that equals a column of another."""
    own = small.Z[:, j :: small.width]
    for i in range(large.width):
        other = large.Z[:, i :: large.width]
        if own.shape == other.shape and abs(own - other).max() <= _SAME * abs(own).max():
            return i
    return None
