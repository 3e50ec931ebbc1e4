"""A family and its parameters from the arguments of a LatentLMM, by the names that PyMC has."""

from typing import Any

import numpy as np
import pytensor.tensor as pt

from pm_fastlmm.base.arrays import Ids, align, read
from pm_fastlmm.engines.inputs import double
from pm_fastlmm.families.choice import family_of
from pm_fastlmm.families.family import Family

_OWN = {"dispersion": "alpha", "cutpoint[1]": "cutpoints"}  # the first of ψ, and by which argument ψ is given


def read_family(family: Any, link: str | None, trials: Any, given: dict[str, Any], n: int, ids: Ids | None) -> Family:
    """
    Return a family; an ordinal one has a category more than there are cutpoints.

    Raises
    ------
    ValueError
        If trials do not fit the rows, or cutpoints are no vector of known length.
    """
    if trials is not None and np.ndim(trials):
        labelled = read(trials, "trials", ndim=(1,))
        trials = labelled.take(align(ids, labelled, name="trials", reference_name="the terms"))
        if len(trials) != n:
            raise ValueError(
                f"trials has {len(trials)} values, but there are {n} rows: give one for each, or a number."
            )
    categories = None
    if given.get("cutpoints") is not None:
        shape = double(given["cutpoints"]).type.shape
        if len(shape) != 1 or shape[0] is None:
            raise ValueError(
                f"cutpoints must be a vector of known length, one less than there are categories, got shape {shape}: "
                "give the variable a shape=."
            )
        categories = int(shape[0]) + 1
    own = family_of(family, link, trials=trials, categories=categories)
    one_number = np.ndim(getattr(own, "trials", np.zeros(1))) == 0
    return own.of_rows(np.full(n, trials)) if one_number else own


def family_parameters(family: Family, given: dict[str, Any]) -> Any:
    """
    Take ψ out of the arguments, (p,): a dispersion is 1/alpha, cutpoints are themselves, and others have their names.

    Raises
    ------
    ValueError
        If a parameter of the family is missing, or one is given that it has not.
    """
    arguments = arguments_of(family)
    for argument in _OWN.values():
        if argument not in arguments and given.pop(argument, None) is not None:
            of = {"alpha": "'negative_binomial' and 'gamma'", "cutpoints": "'ordinal'"}[argument]
            raise ValueError(f"{argument}= is a parameter of family {of}, this one is {family.name!r}: leave it out.")
    if missing := [argument for argument in arguments if given.get(argument) is None]:
        raise ValueError(
            f"family {family.name!r} has a parameter {missing[0]}: give {missing[0]}=, a number or a random variable."
        )
    values = [double(given.pop(argument)) for argument in arguments]
    if arguments == ("cutpoints",):
        return values[0]
    if arguments == ("alpha",):
        return pt.stack([1 / values[0]])
    return pt.stack(values) if values else pt.zeros((0,), dtype="float64")


def arguments_of(family: Family) -> tuple[str, ...]:
    """Return the arguments by which ψ is given: "alpha", "cutpoints", or the names that a family of the user has."""
    names = family.parameters
    return (_OWN[names[0]],) if names and names[0] in _OWN else names
