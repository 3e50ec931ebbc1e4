"""The families by their names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from pm_fastlmm.families.bernoulli import Bernoulli, Binomial, read_trials
from pm_fastlmm.families.counts import NegativeBinomial, Poisson
from pm_fastlmm.families.family import Family
from pm_fastlmm.families.gamma import Gamma
from pm_fastlmm.families.ordinal import Ordinal


@dataclass(frozen=True, slots=True)
class _Known:
    """A family: its links, the usual one first, what makes it, and the names it has elsewhere."""

    make: Callable[..., Family]
    links: tuple[str, ...]
    aliases: tuple[str, ...] = ()


FAMILIES: Mapping[str, _Known] = {
    "bernoulli": _Known(Bernoulli, ("logit", "probit", "cloglog"), ("binary",)),
    "binomial": _Known(Binomial, ("logit", "probit", "cloglog")),
    "poisson": _Known(lambda link: Poisson(), ("log",)),
    "negative_binomial": _Known(
        lambda link: NegativeBinomial(), ("log",), ("negbinomial", "nbinom2", "nbinom", "negativebinomial")
    ),
    "gamma": _Known(lambda link: Gamma(), ("log",)),
    "ordinal": _Known(Ordinal, ("logit", "probit"), ("cumulative", "ordered", "orderedlogistic", "orderedprobit")),
}
_NAMES = {other: name for name, known in FAMILIES.items() for other in (name, *known.aliases)}


def family_of(
    family: str | Family, link: str | None = None, *, trials: Any = None, categories: int | None = None
) -> Family:
    """
    Return a family by its name, as PyMC, brms or glmmTMB have it, or as it is given.

    Parameters
    ----------
    family : str or Family
        "bernoulli", "binomial", "poisson", "negative_binomial", "gamma" or "ordinal"; also "negbinomial", "nbinom2",
        "cumulative" and others.
    link : str, optional
        "logit", "probit" or "cloglog" of probabilities, "log" of means; the first of them by default.
    trials : int or (n,) int, optional
        Of "binomial".
    categories : int, optional
        Number of categories of "ordinal".

    Raises
    ------
    ValueError
        If no family or link has this name, or trials or categories are missing or of another family.

    Examples
    --------
    >>> from pm_fastlmm.families.choice import family_of
    >>> family_of("cumulative", "probit", categories=4)
    Ordinal(categories=4, link='probit')
    >>> family_of("nbinom2").parameters
    ('dispersion',)
    """
    if isinstance(family, Family):
        return family.of_rows(trials) if trials is not None else family
    name = _named(family)
    known = FAMILIES[name]
    link = _linked(name, known.links, link)
    given = {"trials": trials, "categories": categories}
    for argument, owner in (("trials", "binomial"), ("categories", "ordinal")):
        if given[argument] is not None and name != owner:
            raise ValueError(f"{argument}= is of family {owner!r}, this one is {name!r}: leave it out.")
    if name == "binomial":
        return known.make(read_trials(trials), link)
    if name == "ordinal":
        return known.make(_read_categories(categories), link)
    return known.make(link)


def _named(family: object) -> str:
    written = str(family).strip().lower().replace(" ", "_").replace("-", "_").replace(".", "_")
    if isinstance(family, str) and written in _NAMES:
        return _NAMES[written]
    near = get_close_matches(written, _NAMES, n=1) if isinstance(family, str) else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if written in ("gaussian", "normal"):
        hint = " Normal responses are the model without family=."
    raise ValueError(f"family must be one of {', '.join(map(repr, FAMILIES))}, got {family!r}.{hint}")


def _linked(name: str, links: tuple[str, ...], link: str | None) -> str:
    if link is None:
        return links[0]
    if link not in links:
        near = get_close_matches(str(link).lower(), links, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"link of family {name!r} must be {' or '.join(map(repr, links))}, got {link!r}.{hint}")
    return link


def _read_categories(categories: int | None) -> int:
    if isinstance(categories, int | np.integer) and not isinstance(categories, bool) and categories >= 2:
        return int(categories)
    raise ValueError(
        f"family 'ordinal' needs categories=, how many there are, an integer from 2 on, got {categories!r}: "
        "int(y.max()) + 1 if the last one occurs."
    )


def name_of(family: str | Family) -> str:
    """
    Return the name of a family, whatever name of it is given.

    Raises
    ------
    ValueError
        If no family has this name.

    Examples
    --------
    >>> from pm_fastlmm.families.choice import name_of
    >>> name_of("nbinom2")
    'negative_binomial'
    """
    return family.name if isinstance(family, Family) else _named(family)


def is_normal(family: object) -> bool:
    """Return whether no family is meant but the normal distribution."""
    return family is None or (isinstance(family, str) and family.strip().lower() in ("gaussian", "normal"))
