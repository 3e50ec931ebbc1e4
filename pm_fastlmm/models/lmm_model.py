"""lmm_model: a mixed model from a formula in lme4's notation, with documented default priors."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor

from pm_fastlmm.base.arrays import EPS, FloatArray, shown
from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.matrices import CholeskyFactored, Known
from pm_fastlmm.covariance.structures import Diagonal, Scalar
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.structured.structuredlmm import StructuredLMM
from pm_fastlmm.models.mixed_design import MixedDesign, RandomTerm
from pm_fastlmm.models.mixed_terms import Part, data_of, mixed_term, parts_of, read_formula, relations

_TAKEN = {"e": "but sigma_e is the residual's"} | dict.fromkeys(
    ("obs", "chain", "draw"), "which is a dimension of the observations or of the posterior"
)
_ETA = 2.0  # of the LKJ prior: it favours small correlations without excluding large ones
_WIDTH = 2.0  # of a half-normal prior, in residual standard deviations


def lmm_model(
    formula: str | MixedDesign,
    data: pd.DataFrame | None = None,
    *,
    known: Mapping[str, Any] | None = None,
    priors: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> pm.Model:
    r"""
    Build a PyMC model of y = Xβ + Σ Zu + e from a formula with random terms.

    β is integrated out under a flat prior, the effects u and e exactly. What is left are standard deviations and
    correlations:

    * `sigma_e`, and `sigma_{group}` for (1 | group) or (0 + x | group);
    * for (x | group), `sigma_{group}` (one for each column) and the correlations `corr_{group}` (one for each pair of
      columns), derived from `chol_{group}` ~ LKJCholeskyCov(eta=2);
    * for (x || group), `sigma_{group}` with independent effects.

    **Priors.** σ ~ HalfNormal(2 s c). s is the residual standard deviation of the least-squares fit of X: what all
    terms and e make together, so that the σ of an intercept should be below s, where the density has fallen by an
    eighth only. c carries that to the scale of the columns U within a level (1 for an intercept),
    c_j² = [(UᵀU/n)⁻¹]_jj, and of a known K, c² = 1/(mean of the diagonal of ZKZᵀ): the prior does not depend on units,
    nor for correlated slopes on where the 0 of their covariate lies.

    Parameters
    ----------
    formula : str or MixedDesign
        "yield ~ rep + (1 | gen) + (1 | rep:block)", as for `MixedDesign.from_formula`; one that was made before takes
        the place of formula and data.
    data : DataFrame
        Its index are the ids.
    known : dict of str to DataFrame or array, optional
        For a grouping factor, the known covariance K between its levels, such as `covariance.pedigree` makes: var u =
        σ²K; for slopes K ⊗ Σ. Labels are matched to the levels; an array without them is taken only for levels that are
        the numbers of its rows, counted from 0 or 1.
    priors : dict, optional
        Other priors by the name of the variable: unregistered distributions, {"sigma_gen": pm.Exponential.dist(1)}, of
        a vector if the variable is one; and another eta of the LKJ prior, {"eta_Subject": 1}.
    name : str, optional
        Name of the response in the model. Default: what stands left of the "~".

    Returns
    -------
    pymc.Model
        With coordinates "obs" (ids), for each group its levels under the name of the group, and for slopes
        "{group}_effects" (columns) and "{group}_pairs". Rows with a missing value are dropped, with a warning that
        counts them.

    Raises
    ------
    ValueError
        If the formula is malformed, a term has as many effects as there are observations, or `known` or `priors` name
        something that is not there.

    References
    ----------
    Lewandowski, Kurowicka and Joe (2009), Generating random correlation matrices. doi:10.1016/j.jmva.2009.04.008

    Examples
    --------
    >>> import pm_fastlmm as flmm
    >>> model = flmm.lmm_model(
    ...     "yield ~ rep + (1|gen) + (1|rep:block)", flmm.datasets.john_alpha()
    ... )
    >>> [variable.name for variable in model.free_RVs]
    ['sigma_gen', 'sigma_rep:block', 'sigma_e']
    >>> model.coords["rep:block"][:3]
    ('R1:B1', 'R1:B2', 'R1:B3')
    """
    design, priors = read_formula(formula, data), dict(priors or {})
    _check_names(design, priors)
    between = relations(design, known)
    name = design.response if name is None else name
    _check_slashes(design, name)
    scale = _WIDTH * _residual_sd(design)
    with pm.Model(coords={"obs": list(design.ids)}) as model:
        terms = [_term(*pair, scale, priors) for pair in zip(design.random, between, strict=True)]
        sigma_e = _standard_deviation("sigma_e", scale, priors)
        StructuredLMM(name, terms=terms, sigma2_e=sigma_e**2, dims="obs", **data_of(design))
    return model


def _check_names(design: MixedDesign, priors: Mapping[str, Any]) -> None:
    if taken := [random.group for random in design.random if random.group in _TAKEN]:
        raise ValueError(f"a grouping factor is called {taken[0]!r}, {_TAKEN[taken[0]]}: rename its column.")
    names = [name for random in design.random for part in parts_of(random) for name in part.priors] + ["sigma_e"]
    if unknown := [prior for prior in priors if prior not in names]:
        raise ValueError(f"priors names {shown(unknown)}, but there are {', '.join(names)}.")
    require_labels(design.ids, "the ids, the index of data,")
    for random in design.random:
        require_labels(random.levels, f"the levels of {random.group!r}", written=f"table[{random.group!r}]")


def _check_slashes(design: MixedDesign, name: str) -> None:
    """Refuse names with a slash, which no variable of a PyMC model can have, and tell of the way around."""
    if "/" in name:
        plain = re.sub(r"\W+", "_", name).strip("_")
        raise ValueError(f"a variable of PyMC cannot be called {name!r}, with a slash: name it, name={plain!r}.")
    if slashed := [group for random in design.random for group in random.factors if "/" in group]:
        raise ValueError(
            f"the grouping factor {slashed[0]!r} gives its name to variables of PyMC, which cannot have a slash: "
            f"rename its column, data.rename(columns={{{slashed[0]!r}: {slashed[0].replace('/', '_')!r}}})."
        )


def _residual_sd(design: MixedDesign) -> float:
    """Return s, the residual standard deviation of the least-squares fit."""
    coef, _, rank, _ = np.linalg.lstsq(design.X, design.y)
    residual, df = design.y - design.X @ coef, len(design.y) - int(rank)
    norm = float(np.linalg.norm(residual))
    if df < 1 or norm <= len(design.y) * EPS * float(np.linalg.norm(design.y)):
        raise ValueError("y has no residual variance after X: there is nothing to estimate a variance from.")
    return norm / math.sqrt(df)


def _term(random: RandomTerm, relation: Known | None, scale: float, priors: Mapping[str, Any]) -> Term:
    """Return a term with the variables of its covariance, registered in the model of the context."""
    model, group = pm.modelcontext(None), random.group
    if relation is not None:
        scale /= math.sqrt(_mean_variance(random, relation))
    if len(random.columns) > 1:
        model.add_coord(f"{group}_effects", random.columns)
    term = mixed_term(random, relation, lambda part: _within(random, part, scale, priors))
    model.add_coord(group, term.levels)
    return term


def _within(random: RandomTerm, part: Part, scale: float, priors: Mapping[str, Any]) -> Covariance:
    """Return the covariance of a part of the effects within a level."""
    columns = np.ones(1) if random.intercept_only else _column_scales(random, part)
    scales, sigma, dim = scale * columns, f"sigma_{part.suffix}", f"{part.suffix}_effects"
    if len(part.columns) == 1:
        return Scalar(_standard_deviation(sigma, scales[0], priors) ** 2, size=1)
    model, names = pm.modelcontext(None), [random.columns[j] for j in part.columns]
    model.add_coord(dim, names)
    if not part.correlated:
        return Diagonal(_standard_deviation(sigma, scales, priors, dims=dim) ** 2)
    sd = pm.HalfNormal.dist(scales, shape=scales.shape)
    if sigma in priors:
        sd = _checked_prior(sigma, priors[sigma], scales.shape)
    eta = priors.get(f"eta_{part.suffix}", _ETA)
    # start at independent effects of a fourth of the scale: PyMC's own takes seconds to compile, and a C compiler
    start = np.diag(scales / 4)[np.tril_indices(len(scales))].astype(pytensor.config.floatX)
    options = {"n": len(scales), "sd_dist": sd, "compute_corr": True, "store_in_trace": False, "initval": start}
    chol, corr, stds = pm.LKJCholeskyCov(f"chol_{part.suffix}", eta=eta, **options)
    # one number for each pair: ones along a diagonal would have no r-hat, and warn in every summary
    first, second = np.triu_indices(len(scales), 1)
    model.add_coord(f"{part.suffix}_pairs", [f"{names[i]}, {names[j]}" for i, j in zip(first, second, strict=True)])
    pm.Deterministic(sigma, stds, dims=dim)
    pm.Deterministic(f"corr_{part.suffix}", corr[first, second], dims=f"{part.suffix}_pairs")
    return CholeskyFactored(chol)


def _standard_deviation(name: str, scale: Any, priors: Mapping[str, Any], dims: str | None = None) -> Any:
    """Register σ with its default prior or with that of the user."""
    shape = np.shape(scale)
    if name not in priors:
        return pm.HalfNormal(name, scale, shape=shape, dims=dims)
    return pm.modelcontext(None).register_rv(_checked_prior(name, priors[name], shape), name, dims=dims)


def _checked_prior(name: str, prior: Any, shape: tuple[int, ...]) -> Any:
    if not hasattr(prior, "owner") or not hasattr(prior, "type"):
        raise TypeError(
            f"the prior of {name} must be an unregistered distribution, such as pm.Exponential.dist(1), "
            f"got {type(prior).__name__}."
        )
    if prior.type.shape != shape:
        raise ValueError(
            f"the prior of {name} has shape {prior.type.shape}, but {name} has shape {shape}: give its distribution "
            f"shape={shape}."
        )
    return prior


def _column_scales(random: RandomTerm, part: Part) -> FloatArray:
    """Return c, the square roots of the diagonal of (UᵀU/n)⁻¹, from the QR decomposition of the columns U."""
    U = random.values[:, part.columns]
    norms = np.linalg.norm(U, axis=0)
    R = np.linalg.qr(U / np.where(norms > 0, norms, 1.0), mode="r")
    if len(R) < U.shape[1] or np.abs(np.diag(R)).min() <= len(U) * EPS:
        raise ValueError(
            f"the columns {shown([random.columns[j] for j in part.columns])} of the term of {random.group!r} are "
            "collinear or zero: their variances cannot be told apart, leave one out."
        )
    inverse = np.linalg.solve(R, np.eye(len(R)))
    return np.asarray(np.sqrt(len(U)) * np.linalg.norm(inverse, axis=1) / norms)


def _mean_variance(random: RandomTerm, relation: Known) -> float:
    """Return the mean of the diagonal of ZKZᵀ: the variance that σ² = 1 gives an observation on average."""
    term = Term(random.factor, relation, name=random.group)
    mean = float(np.diag(term.covariance.dense())[term.Z.indices].mean())
    if mean == 0:
        raise ValueError(f"known covariance of {random.group!r} is zero for all levels: leave the random term out.")
    return mean
