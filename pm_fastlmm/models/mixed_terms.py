"""The random terms of a formula with their covariances, whatever their parameters are: variables, or numbers to fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import orth

from pm_fastlmm.base.across import effects_in, root_across
from pm_fastlmm.base.arrays import EPS, FloatArray, Labelled, lower_triangle, read_covariance, shown
from pm_fastlmm.base.choices import Negative, require_choice
from pm_fastlmm.base.messages import say_matched
from pm_fastlmm.base.semidefinite import IndefiniteKernel, lower_root
from pm_fastlmm.covariance.algebra import Covariance
from pm_fastlmm.covariance.matrices import Unstructured
from pm_fastlmm.covariance.matrices import known as known_covariance
from pm_fastlmm.covariance.operators import BlockDiagonal
from pm_fastlmm.covariance.structures import Diagonal, Scalar
from pm_fastlmm.covariance.terms import Term
from pm_fastlmm.covariance.theta import Theta
from pm_fastlmm.engines.latent.family_parameters import arguments_of
from pm_fastlmm.engines.latent.node import LatentNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.families.choice import is_normal, name_of
from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.mixed_design import MixedDesign
from pm_fastlmm.models.mixed_parts import Part, parts_of
from pm_fastlmm.models.random_terms import RandomTerm


def read_formula(formula: str | MixedDesign, data: Any, **given: Any) -> MixedDesign:
    """
    Return the design of a formula that has random terms; `given` is what `MixedDesign.from_formula` takes.

    Raises
    ------
    ValueError
        If it has none, what is given is in a design already, or is of normal responses alone.
    """
    if isinstance(formula, MixedDesign):
        if names := [name for name, value in {"data": data, **given}.items() if value is not None]:
            raise ValueError(f"{shown(names)} is given together with a MixedDesign, which holds it already.")
        design = formula
    else:
        refuse_of_normal(given)
        design = MixedDesign.from_formula(formula, data, **given)
    if not design.random:
        raise ValueError(
            f"formula {design.formula!r} has no random term, such as (1 | group): it is ordinary least squares."
        )
    return design


def refuse_of_normal(given: Mapping[str, Any]) -> None:
    """Raise a ValueError for what a response from a family has not: weights and variances of residuals."""
    if is_normal(given.get("family")):
        return
    name = name_of(given["family"])
    if given.get("weights") is not None:
        raise ValueError(
            f"weights= are of the residuals of a normal response, this one is {name!r}: means of several trials are "
            "the counts of successes with trials=; different exposures are offset(log(exposure)); rows that stand for "
            "several equal ones are repeated."
        )
    if given.get("residual") is not None:
        raise ValueError(
            f"residual= is of a normal response, this one is {name!r}, whose variance follows from its mean: more "
            "variance than that is a random effect of each row, (1 | row) with a column of row numbers; of groups, "
            "(0 + a + b || row) with columns of 0 and 1; for counts also family='negative_binomial'."
        )


def relations(
    design: MixedDesign, known: Mapping[str, Any] | None, negative: Negative = "error"
) -> list[Covariance | None]:
    """Return the known covariance of each random term, and refuse terms that have too many effects without one."""
    if not isinstance(known, Mapping | None):
        raise TypeError(
            f"known must name the grouping factor of each covariance, {{'animal': K}}, got a {type(known).__name__}."
        )
    known = known or {}
    groups = [member.group for random in design.random for member in random.members]
    if unknown := [group for group in known if group not in groups]:
        raise ValueError(f"known names {shown(unknown)}, but the grouping factors are {', '.join(groups)}.")
    if design.of_family is None:
        _refuse_too_many(design, known)
    else:
        _refuse_one_outcome_each(design, known)
    require_choice("negative", negative, Negative)
    found = [_relation(random, _of_members(random, known), design.X, negative) for random in design.random]
    for random, relation in zip(design.random, found, strict=True):
        if relation is not None and relation.named and relation.size:
            say_matched(random.group, len(random.levels), relation.size, "K")
    return found


def _refuse_too_many(design: MixedDesign, known: Mapping[str, Any]) -> None:
    """Raise a ValueError for a term of independent effects that are as many as the observations."""
    n, differ = len(design.y), design.weights is not None and np.ptp(design.weights) > 0
    for random in design.random:
        effects = sum(len(member.levels) * len(member.columns) for member in random.members)
        # of as many as there are rows σ² is told from σ²_e/w by the weights: studies and their standard errors
        if random.members[0].group not in known and (effects > n or (effects == n and not differ)):
            raise ValueError(
                f"the term of {random.group!r} has {effects} effects for {n} observations: they cannot be told from "
                "the residual. Is it a covariate, or is the covariance of its levels known, known={...}?"
            )


def _refuse_one_outcome_each(design: MixedDesign, known: Mapping[str, Any]) -> None:
    """Raise a ValueError for independent effects of single outcomes, whose distribution has no other variance."""
    assert design.of_family is not None  # of one alone
    name = design.of_family.family.name
    for random in design.random:
        alone = len(random.levels) == len(design.y) and random.members[0].group not in known
        if alone and name in ("bernoulli", "ordinal"):
            raise ValueError(
                f"each level of {random.group!r} has one record, and one {name} outcome has no variance beside that of "
                "its mean: the term cannot be told from the response itself. Leave it out; effects of each row are for "
                "counts, or for trials; levels that are related have a known covariance, known={...}."
            )


def _relation(random: RandomTerm | CorrelatedTerms, K: Any, X: Any, negative: Negative) -> Covariance | None:
    """Return a known covariance; of one that is negative along effects that lie in X, the one in its place."""
    if isinstance(K, Covariance | None):
        return K
    try:
        return known_covariance(K)
    except IndefiniteKernel:
        labelled = read_covariance(K)
    q = len(labelled.values)
    F = np.zeros((q, 0))
    if isinstance(random, RandomTerm) and isinstance(X, np.ndarray):
        factor = random.factor if labelled.ids is None else random.factor.recoded(labelled.ids)
        place = np.where(factor.codes < q, factor.codes, -1)
        F = effects_in(orth(X), place, random.values, q)
    root = root_across(labelled.values, F, negative)
    return known_covariance(Labelled(root @ root.T, labelled.ids, labelled.names))


def _of_members(random: RandomTerm | CorrelatedTerms, known: Mapping[str, Any]) -> Any:
    """Return the known covariance that the members of a term have in common, None without one."""
    groups = [member.group for member in random.members]
    first = known.get(groups[0])
    if any(known.get(group) is not first for group in groups):
        have = [group for group in groups if group in known]
        one = f"different ones for {shown(have)}" if len(have) == len(groups) else f"one for {shown(have)} alone"
        raise ValueError(
            f"the terms of the id {random.group!r} are effects of the same levels, whose known covariance is one, but "
            f"known has {one}: give all the same object, known={{{', '.join(f'{group!r}: K' for group in groups)}}}."
        )
    if first is None:
        random.require_common_levels()
    return first


def mixed_term(
    random: RandomTerm | CorrelatedTerms, relation: Covariance | None, within: Callable[[Part], Covariance]
) -> Term:
    """Return a term, of the covariances of its parts within a level and of a known one between levels."""
    structures = [within(part) for part in parts_of(random)]
    if isinstance(random, RandomTerm) and random.intercept_only:
        values = structures[0].parameters
        return random.term(Scalar(**values) if relation is None else relation.with_parameters(values))
    return random.term(structures[0] if len(structures) == 1 else BlockDiagonal(*structures), across=relation)


def column_root(random: RandomTerm, columns: Sequence[int], weights: FloatArray) -> FloatArray:
    """
    Return the upper triangular R of some columns U of a term with RᵀR = Σ_i w_i U_iU_iᵀ/n.

    Raises
    ------
    ValueError
        If columns are collinear or zero.
    """
    U = random.values[:, columns] * np.sqrt(weights / len(weights))[:, None]
    norms = np.linalg.norm(U, axis=0)
    R = np.linalg.qr(U / np.where(norms > 0, norms, 1.0), mode="r")
    if len(R) < U.shape[1] or np.abs(np.diag(R)).min() <= len(U) * EPS:
        raise ValueError(
            f"the columns {shown([random.columns[j] for j in columns])} of the term of {random.group!r} are "
            "collinear or zero: their variances cannot be told apart, leave one out."
        )
    return np.asarray(np.sign(np.diag(R))[:, None] * R * norms)  # with a positive diagonal


def data_of(design: MixedDesign) -> dict[str, Any]:
    """Return X and y with the ids of the rows, offset, weights and the design, as the distributions take them."""
    X = Labelled(design.X, design.ids, design.columns) if design.columns else None
    known: dict[str, Any] = {"mu": design.offset, "design": design}
    if design.of_family is None:
        known["weights"] = design.weights
    else:
        known["family"] = design.of_family.family
    return {"X": X, "observed": Labelled(design.y, design.ids, None), **known}


def unit(part: Part) -> Covariance:
    """Return the covariance of a part at a variance of 1, where it is to be fitted."""
    c = len(part.columns)
    return Unstructured(np.eye(c)) if part.correlated else Scalar(1.0, 1) if c == 1 else Diagonal(np.ones(c))


def mixed_node(design: MixedDesign, between: list[Covariance | None]) -> StructuredNode:
    """Return the node that `lmm_model` makes, without a model: its parameters are numbers."""
    terms = [mixed_term(random, relation, unit) for random, relation in zip(design.random, between, strict=True)]
    if design.of_family is not None:
        return LatentNode.from_terms(design.response, terms, **data_of(design))
    own = design.residual
    residual = None if own is None else own.term(unit(own.part))
    return StructuredNode.from_terms(design.response, terms, residual=residual, **data_of(design))


class FormulaVariables(NamedTuple):
    """The map from θ, and the parameters ψ of a family after it, to the free variables of `lmm_model`."""

    parts: list[Part]
    layout: Theta
    of_psi: tuple[str, ...] = ()

    @classmethod
    def of(cls, design: MixedDesign, layout: Theta) -> Self:
        """Return the map of a design, the part of whose residuals is the last."""
        parts = [part for random in design.random for part in parts_of(random)]
        if design.of_family is not None:
            return cls(parts, layout, arguments_of(design.of_family.family))
        parts.append(Part("e", (0,), False) if design.residual is None else design.residual.part)
        return cls(parts, layout)

    def point(self, theta: FloatArray, *_: Any) -> dict[str, Any]:
        """Return standard deviations and Cholesky factors."""
        values = {}
        for part, entry in zip(self.parts, self.layout.entries, strict=True):
            own = theta[entry.place]
            if entry.matrix:
                rows, columns = lower_triangle(*entry.shape)
                matrix = np.zeros(entry.shape)
                matrix[rows, columns] = matrix[columns, rows] = own
                values[f"chol_{part.suffix}"] = lower_root(matrix)[rows, columns]
            else:
                values[f"sigma_{part.suffix}"] = np.sqrt(own).reshape(entry.shape)
        return values | self._of_family(np.asarray(theta[self.layout.size :]))

    def _of_family(self, psi: FloatArray) -> dict[str, Any]:
        if self.of_psi == ("alpha",):
            return {"alpha": 1 / psi[0] if psi[0] else np.inf}
        return {"cutpoints": psi} if self.of_psi == ("cutpoints",) else dict(zip(self.of_psi, psi, strict=True))
