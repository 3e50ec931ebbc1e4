"""The model of a formula whose response is not normal, with effects integrated out or sampled."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor
from pymc.distributions.transforms import ordered

from pm_fastlmm.base.arrays import FloatArray, shown
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.engines.latent.family_parameters import arguments_of
from pm_fastlmm.engines.latent.latentlmm import LatentLMM
from pm_fastlmm.families.family import Family
from pm_fastlmm.families.links import LINKS
from pm_fastlmm.models.deviations import WIDTH, Deviations, checked_prior
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_terms import data_of
from pm_fastlmm.models.named_terms import DIMENSIONS, check_names, check_slashes, registered_term
from pm_fastlmm.models.sampled_model import Latent, coefficient_prior, require_distribution, sampled_response
from pm_fastlmm.models.share_prior import SharePrior
from pm_fastlmm.spectrum.sparse_projection import projection_of

type Treated = Literal["integrated", "sampled"]  # what becomes of the random effects of a response from a family

SCALE = 1.5  # of σ, in standard deviations of the latent variable of a link: the median of the share of σ² is ½
_TAKEN = DIMENSIONS | dict.fromkeys(("alpha", "beta", "cutpoints"), "which is a variable of the model")


def latent_model(
    design: MixedDesign, between: list[Covariance | None], priors: Mapping[str, Any] | SharePrior, name: str | None,
    effects: Treated = "integrated",
) -> pm.Model:  # fmt: skip
    """
    Build the model of a design with a family, and of the known covariance of each term.

    Raises
    ------
    ValueError
        If priors are a SharePrior, name what is not there, or lack a parameter of a family of the user; or effects of
        such a family are to be sampled.
    """
    assert design.of_family is not None  # the caller asked
    family, labels = design.of_family.family, design.of_family.labels
    if isinstance(priors, SharePrior):
        raise ValueError(
            f"a SharePrior is of the shares of the variance of a normal response, and that of family {family.name!r} "
            "depends on its mean: give priors by the names of the variables, {'sigma_…': pm.HalfNormal.dist(1)}, or "
            "none."
        )
    if effects == "sampled":
        require_distribution(family)
    check_names(design, priors, _TAKEN, ["beta", *arguments_of(family)])
    name = design.response if name is None else name
    check_slashes(design, name)
    s = latent_sd(family)
    variables = Deviations(SCALE * s / WIDTH, priors)
    with pytensor.config.change_flags(traceback__limit=0), pm.Model(coords={"obs": list(design.ids)}) as model:
        if labels is not None:
            model.add_coord(f"{name}_category", labels)
        if effects == "sampled":
            latent = Latent(name, design, family, s, priors)
            eta = latent.eta(between, variables)
            sampled_response(name, family, design.y, eta, _parameters(family, design.y, labels, priors))
        else:
            terms = [registered_term(*pair, variables, np.ones(len(design.y)))
                     for pair in zip(design.random, between, strict=True)]  # fmt: skip
            known = _parameters(family, design.y, labels, priors)
            if "beta" in priors:
                known |= coefficient_prior(priors["beta"], projection_of(design.X, design.columns).coef)
            LatentLMM(name, terms=terms, dims="obs", **data_of(design), **known)
    return model


def latent_sd(family: Family) -> float:
    """Return the standard deviation of the latent variable of a link of probabilities, 1 of a logarithm."""
    return math.sqrt(LINKS[family.link].variance) if family.link in LINKS else 1.0


def _parameters(family: Family, y: FloatArray, labels: Any, priors: Mapping[str, Any]) -> dict[str, Any]:
    """Register the parameters of a family with their priors, and return them by the names of arguments."""
    model, names = pm.modelcontext(None), arguments_of(family)
    if names == ("cutpoints",):
        model.add_coord("cutpoint", [f"{a} | {b}" for a, b in pairwise(labels)])
        start = family.start(y)[1]
        options: dict[str, Any] = {"dims": ("cutpoint",), "transform": ordered, "initval": start}
        if "cutpoints" not in priors:
            return {"cutpoints": pm.Flat("cutpoints", shape=start.shape, **options)}
        prior = checked_prior("cutpoints", priors["cutpoints"], start.shape)
        return {"cutpoints": model.register_rv(prior, "cutpoints", **options)}
    if names == ("alpha",) and "alpha" not in priors:
        return {"alpha": pm.InverseGamma("alpha", 0.5, 0.5)}
    if missing := [name for name in names if name not in priors]:
        raise ValueError(
            f"the family {family.name!r} of your own has parameters without a default prior, {shown(missing)}: give "
            f"each one, priors={{{missing[0]!r}: pm.HalfNormal.dist(1)}}."
        )
    return {name: model.register_rv(checked_prior(name, priors[name], ()), name) for name in names}
