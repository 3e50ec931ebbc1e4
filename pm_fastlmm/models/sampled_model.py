"""
The model of a formula in which a sampler walks in coefficients and effects themselves, without approximation.

Effects whose records say much of each are random variables themselves ("centred"); others are sums of white noise,
which a sampler walks in ("non-centred"). A record has the information D = -∂²log p/∂η² on η, and an effect the sum of
those of its records. It is large where these alone tell the effect to a sixth of the standard deviation s of the link's
latent variable, ΣD > 40/s²: 40 events, or 50 outcomes of even odds. The median of all effects of a term decides, those
of relatives without records too. By effective sample sizes of σ in simulated counts and outcomes centred effects are
the better ones from about ΣDσ² = 3 on, which 40/s² reaches at σ = s/4; centred effects of too few records have a
funnel, which is worse than the correlation of non-centred ones of many.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import scipy.sparse as sp

from pm_fastlmm.base.arrays import FloatArray, Labelled
from pm_fastlmm.base.messages import say
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.matrices import CholeskyFactored
from pm_fastlmm.covariance.structures import Diagonal
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.engines.related.relatedeffects import RelatedEffects
from pm_fastlmm.engines.related.roots import root_of
from pm_fastlmm.families.choice import FAMILIES
from pm_fastlmm.families.family import Family
from pm_fastlmm.families.links import LINKS
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.deviations import Deviations, checked_prior
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_parts import parts_of
from pm_fastlmm.models.mixed_terms import mixed_term, unit
from pm_fastlmm.models.named_terms import known_variances
from pm_fastlmm.models.random_terms import RandomTerm
from pm_fastlmm.spectrum.sparse_projection import read_fixed_effects

_INFORMATION = 40.0  # of a record's latent variable of variance 1: from where an effect is told by its records
_WIDTH = 5.0  # of the prior of β, in standard deviations of the latent variable
_NORMAL = "give pm.Normal.dist(0, 2) or pm.MvNormal.dist(mean, cov)"


class Latent(NamedTuple):
    """
    η = offset + Xβ + Σ Zu, whose variables are registered in the model of the context.

    Attributes
    ----------
    name : str
        Of the response.
    design : MixedDesign
    family : Family
    s : float
        Standard deviation of the latent variable of its link, 1 of a logarithm.
    priors : dict
    """

    name: str
    design: MixedDesign
    family: Family
    s: float
    priors: Mapping[str, Any]

    def eta(self, between: list[Covariance | None], variables: Deviations) -> Any:
        """Return η."""
        design = self.design
        eta = pt.constant(np.zeros(len(design.y)) if design.offset is None else design.offset)
        eta = eta + self._fixed()
        weights = self._information()
        for random, relation in zip(design.random, between, strict=True):
            eta = eta + self._effects(random, relation, variables, weights)
        return eta

    def _information(self) -> FloatArray:
        """Return D of each record, in units of 1/s²: of a count at itself, of other responses at their mean."""
        eta, psi = self.family.start(self.design.y)
        if self.family.link in LINKS and self.family.name != "ordinal":
            eta = np.full(len(self.design.y), _linked_mean(self.family, self.design.y))
        with np.errstate(all="ignore"):
            second = self.family.derivatives(self.design.y, np.asarray(eta), psi).second
        return np.maximum(np.nan_to_num(-second), 0.0) * self.s**2

    def _fixed(self) -> Any:
        """Register β, {name}_beta, and return Xβ."""
        design = self.design
        X = Labelled(design.X, design.ids, design.columns) if design.columns else None
        _, projection = read_fixed_effects(X, len(design.y), design.ids, "data")
        if not projection.rank:
            return 0.0
        if projection.sparse:
            raise ValueError(
                f"X has {projection.rank} columns and is kept sparse: to sample, make the factor of so many levels a "
                "random term, (1 | factor), or take effects='integrated'."
            )
        model, called, dim = pm.modelcontext(None), f"{self.name}_beta", f"{self.name}_coef"
        values, r = np.asarray(projection.X), projection.rank
        model.add_coord(dim, projection.coef)
        if "beta" in self.priors:
            prior = checked_prior("beta", _broadcast(self.priors["beta"], r), (r,))
            beta = model.register_rv(prior, called, dims=(dim,))
        else:
            mean, root = self._default(values)
            raw = pm.Normal(f"{called}_raw", shape=(r,))
            beta = pm.Deterministic(called, mean + pt.dot(pt.constant(root), raw), dims=dim)
        return pt.dot(pt.constant(values), beta)

    def _default(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """
        Return mean and root of the prior β ~ N(b, (5s)²(XᵀX/n)⁻¹), Xb being as near as can be to the mean response.

        Of an ordered response, whose cutpoints take up the mean, X is centred.
        """
        n, own = len(X), X - X.mean(axis=0) if self.family.name == "ordinal" else X
        R = np.linalg.qr(own, mode="r")
        root = np.linalg.inv(R) * np.sqrt(n) * _WIDTH * self.s
        if self.family.name == "ordinal":
            return np.zeros(X.shape[1]), root
        offset = 0.0 if self.design.offset is None else self.design.offset
        centre = _linked_mean(self.family, self.design.y) - np.mean(offset)
        return np.linalg.lstsq(X, np.full(n, centre))[0], root

    def _effects(
        self, random: RandomTerm | CorrelatedTerms, relation: Covariance | None, variables: Deviations,
        information: FloatArray,
    ) -> Any:  # fmt: skip
        """Register the effects of a term, {name}_{group}, and return Zu."""
        model, group, called = pm.modelcontext(None), random.group, f"{self.name}_{random.group}"
        term = mixed_term(random, relation, unit)
        model.add_coord(group, term.levels)
        dims: tuple[str, ...] = (group,)
        if term.width > 1:
            model.add_coord(f"{group}_effects", random.columns)
            dims = (group, f"{group}_effects")
        ones = np.ones(term.n)
        weights = {m.group: ones if relation is None else known_variances(m, relation) for m in random.members}
        structures = [variables.within(random, part, weights) for part in parts_of(random)]
        known = _relation(term)
        root = root_of(known, None)
        needed = np.concatenate(
            [_INFORMATION * (m.values**2).mean(axis=0) / weights[m.group].mean() for m in random.members]
        )
        centred = bool((np.median(_of_levels(term, information), axis=0) >= needed).all()) and root.logdet is not None
        say(f"{called}: {'centred' if centred else 'non-centred'}, by {_reason(centred, root.logdet is None)}")
        if term.width == 1:
            spread = {"sigma": pt.sqrt(structures[0].parameters["sigma2"])}
        else:
            spread = {"cholesky": _lower(structures, term.width)}
        u = RelatedEffects(called, known, dims=dims, centred=centred, **spread)
        return _times(term, u)


def _reason(centred: bool, singular: bool) -> str:
    if singular:
        return "a covariance that is singular"
    return f"records that say {'much' if centred else 'little'} of each level"


def _relation(term: Term) -> Any:
    """Return what is known of the levels, as `RelatedEffects` takes it, in the order of the term."""
    relation = term.blocks.relation
    if relation is None and term.between.size == term.blocks.levels:
        return pd.Categorical(list(term.levels), categories=list(term.levels))
    if relation is not None and relation.precision is not None:
        return relation.precision
    return np.asarray(term.between.dense())


def _of_levels(term: Term, information: FloatArray) -> FloatArray:
    """Return ΣD z² of each effect, (levels, width)."""
    squared: Any = sp.csr_array(term.Z).power(2)
    return np.asarray(squared.T @ information).reshape(-1, term.width)


def _lower(structures: list[Covariance], width: int) -> Any:
    """Return the lower triangular root of the covariance of the effects within a level."""
    L, start = pt.zeros((width, width), dtype="float64"), 0
    for structure in structures:
        size = int(structure.size or 1)
        if isinstance(structure, CholeskyFactored):
            own = structure.lower()
        elif isinstance(structure, Diagonal):
            own = pt.diag(pt.sqrt(structure.parameters["variances"]))
        else:
            own = pt.sqrt(structure.parameters["sigma2"]) * pt.eye(1)
        if size == width:
            return own
        L = L[start : start + size, start : start + size].set(own)
        start += size
    return L


def _times(term: Term, u: Any) -> Any:
    """Return Zu of effects (levels,) or (levels, width), by the place of each row."""
    total: Any = 0.0
    for c in range(term.width):
        own = sp.csc_array(term.Z)[:, c :: term.width].tocsr()
        own.eliminate_zeros()
        place, value = np.zeros(term.n, dtype=np.int64), np.zeros(term.n)
        filled = np.flatnonzero(np.diff(own.indptr))
        place[filled], value[filled] = own.indices, own.data
        effects = (u if term.width == 1 else u[:, c])[place]
        total = total + (effects if (value == 1).all() else pt.constant(value) * effects)
    return total


def _linked_mean(family: Family, y: FloatArray) -> float:
    """Return η of the mean response."""
    if family.link == "log":
        return float(np.log(max(float(y.mean()), 0.5 / len(y))))
    trials = np.broadcast_to(getattr(family, "tried", 1.0), y.shape)
    return float(LINKS[family.link].quantile((y.sum() + 0.5) / (trials.sum() + 1)))


def _broadcast(prior: Any, r: int) -> Any:
    """Return a prior of one number as that of r independent ones."""
    if getattr(getattr(prior, "type", None), "ndim", None) == 0:
        op, (rng, _, *parameters) = prior.owner.op, prior.owner.inputs
        return op.make_node(rng, (r,), *parameters).outputs[1]
    return prior


def coefficient_prior(prior: Any, coef: tuple[str, ...]) -> dict[str, FloatArray]:
    """
    Return mean and covariance of a normal prior of β, which is integrated out.

    Raises
    ------
    ValueError
        If it is another distribution, has parameters that are variables, or another length.
    """
    r, owner = len(coef), getattr(prior, "owner", None)
    name = "" if owner is None else str(owner.op.name)
    if name not in ("normal", "multivariate_normal"):
        raise ValueError(
            f"the prior of beta is {name or type(prior).__name__}, and coefficients that are integrated out take a "
            f"normal one: {_NORMAL}; any other with effects='sampled'."
        )
    try:
        mean, spread = (np.asarray(value.eval(), dtype=float) for value in prior.owner.inputs[-2:])
        mean = np.broadcast_to(mean, (r,))
        cov = np.diag(np.broadcast_to(spread, (r,)) ** 2) if name == "normal" else spread
    except Exception as error:
        raise ValueError(
            f"the prior of beta has no numbers as its parameters, or not {r} of them, for {', '.join(coef)}: {_NORMAL}."
        ) from error
    return {"beta_mean": np.array(mean), "beta_cov": cov}


def sampled_response(name: str, family: Family, y: FloatArray, eta: Any, parameter: dict[str, Any]) -> Any:
    """Register the response given η with PyMC's own distribution."""
    own: dict[str, Any] = {"observed": y if family.name == "gamma" else y.astype(np.int64), "dims": "obs"}
    if family.name in ("bernoulli", "binomial"):
        probability = _probability(family.link, eta)
        if family.name == "bernoulli":
            return pm.Bernoulli(name, **probability, **own)
        return pm.Binomial(name, n=np.asarray(getattr(family, "trials", 1)).astype(np.int64), **probability, **own)
    if family.name == "poisson":
        return pm.Poisson(name, pt.exp(eta), **own)
    if family.name == "negative_binomial":
        return pm.NegativeBinomial(name, mu=pt.exp(eta), alpha=parameter["alpha"], **own)
    if family.name == "gamma":
        return pm.Gamma(name, alpha=parameter["alpha"], beta=parameter["alpha"] * pt.exp(-eta), **own)
    kind = pm.OrderedLogistic if family.link == "logit" else pm.OrderedProbit
    return kind(name, eta=eta, cutpoints=parameter["cutpoints"], compute_p=False, **own)


def require_distribution(family: Family) -> None:
    """Raise a ValueError for a family of the user, of which PyMC has no distribution."""
    if family.name not in FAMILIES:
        raise ValueError(
            f"the family {family.name!r} of your own has no distribution of PyMC: write the model with "
            "flmm.RelatedEffects and pm.CustomDist of your log-density, or take effects='integrated'."
        )


def _probability(link: str, eta: Any) -> dict[str, Any]:
    """Return the argument for a probability: its logit where that of a failure would cancel far out."""
    if link == "cloglog":
        return {"p": -pt.expm1(-pt.exp(eta))}
    return {"logit_p": eta if link == "logit" else _log_normal_cdf(eta) - _log_normal_cdf(-eta)}


def _log_normal_cdf(x: Any) -> Any:
    """Return log Φ(x); PyMC's has the root of 2 in single precision."""
    root = np.sqrt(2.0)
    far = pt.log(pt.erfcx(-x / root) / 2) - x**2 / 2
    return pt.switch(x < -1, far, pt.log1p(-pt.erfc(x / root) / 2))
