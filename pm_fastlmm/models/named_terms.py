"""The terms of a model from a formula with their variables, and the names that these may have."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pymc as pm

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.coordinates import require_labels
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.deviations import Deviations, require_priors
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_parts import parts_of
from pm_fastlmm.models.mixed_terms import mixed_term
from pm_fastlmm.models.random_terms import RandomTerm
from pm_fastlmm.models.shares import Shares

DIMENSIONS = dict.fromkeys(("obs", "chain", "draw"), "which is a dimension of the observations or of the posterior")


def check_names(design: MixedDesign, priors: Iterable[str], reserved: Mapping[str, str], others: Sequence[str]) -> None:
    """
    Refuse grouping factors of these names, coordinates that no posterior holds, and priors of what is not there.

    `others` are names of priors beside those of the random terms.
    """
    if taken := [random for random in design.random if random.group in reserved]:
        what, mend = ("a grouping factor", "its column") if isinstance(taken[0], RandomTerm) else ("an id", "it")
        raise ValueError(f"{what} is called {taken[0].group!r}, {reserved[taken[0].group]}: rename {mend}.")
    names = [name for random in design.random for part in parts_of(random) for name in part.priors]
    require_priors(priors, [*names, *others])
    require_labels(design.ids, "the ids, the index of data,")
    for random in design.random:
        require_labels(random.levels, f"the levels of {random.group!r}", written=f"table[{random.members[0].group!r}]")


def check_slashes(design: MixedDesign, name: str) -> None:
    """Refuse names with a slash, which no variable of a PyMC model can have, and tell of the way around."""
    if "/" in name:
        plain = re.sub(r"\W+", "_", name).strip("_")
        raise ValueError(f"a variable of PyMC cannot be called {name!r}, with a slash: name it, name={plain!r}.")
    if slashed := [group for random in design.random for group in random.factors if "/" in group]:
        raise ValueError(
            f"the grouping factor {slashed[0]!r} gives its name to variables of PyMC, which cannot have a slash: "
            f"rename its column, data.rename(columns={{{slashed[0]!r}: {slashed[0].replace('/', '_')!r}}})."
        )


def registered_term(
    random: RandomTerm | CorrelatedTerms, relation: Covariance | None, variables: Deviations | Shares,
    relative: FloatArray,
) -> Term:  # fmt: skip
    """Return a term with the variables of its covariance, registered in the model of the context."""
    model, group = pm.modelcontext(None), random.group
    weights = {
        member.group: relative if relation is None else relative * known_variances(member, relation)
        for member in random.members
    }
    if len(random.columns) > 1:
        model.add_coord(f"{group}_effects", random.columns)
    term = mixed_term(random, relation, lambda part: variables.within(random, part, weights))
    model.add_coord(group, term.levels)
    return term


def known_variances(random: RandomTerm, relation: Covariance) -> FloatArray:
    """Return the diagonal of ZKZᵀ: the variance that σ² = 1 gives each observation."""
    term = Term(random.factor, relation, name=random.group)
    variances = term.blocks.variances(np.ones((1, 1)))[term.Z.indices]
    if not variances.any():
        raise ValueError(f"known covariance of {random.group!r} is zero for all levels: leave the random term out.")
    return variances
