"""Contrasts of factors by R's arguments, contr.treatment(3, base = 2), or formulaic's, contr.treatment(base="b")."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from formulaic.transforms.contrasts import ContrastsRegistry


@dataclass(frozen=True, slots=True)
class OfR:
    """Contrasts for so many levels, or for levels that are listed; the base is the place of one of them."""

    name: str
    levels: Any
    base: Any = None


def _call(name: str, *arguments: Any, **options: Any) -> Any:
    """Return R's contrasts where the first argument is a number of levels, formulaic's elsewhere."""
    n = options.pop("n", None)
    if n is None and arguments and not isinstance(arguments[0], str):
        n, *arguments = arguments  # type: ignore[assignment]
    if not options.pop("contrasts", True):
        raise ValueError(f"contr.{name}(…, contrasts=FALSE) is a column for each level: write 0 + f")
    if n is None:
        return getattr(ContrastsRegistry, name)(*arguments, **options)
    base = arguments[0] if arguments else options.pop("base", None)
    if options or len(arguments) > 1 or (base is not None and name != "treatment"):
        raise ValueError(f"contr.{name} of so many levels has no further argument here")
    return OfR(name, n, base)


CONTRASTS: Mapping[str, Callable[..., Any]] = {
    name: functools.partial(_call, name) for name in ("treatment", "sum", "helmert", "poly", "SAS")
}


def contrasts_of(contrasts: Any, base: Any, levels: Sequence[Any]) -> Any:
    """
    Return formulaic's contrasts of a factor with these levels.

    Parameters
    ----------
    contrasts : OfR, str, or what formulaic takes
    base : int, str or None
        Of contr.treatment: the place of a level, counted from 1, or the level as a text.
    levels : sequence
        Of the factor at the fit.

    Raises
    ------
    ValueError
        If there are no such contrasts, or they are for another number of levels.
    """
    if isinstance(contrasts, str):
        contrasts = OfR(contrasts.removeprefix("contr."), len(levels))
        if contrasts.name not in CONTRASTS and not hasattr(ContrastsRegistry, contrasts.name):
            raise ValueError(
                f"there are no contrasts 'contr.{contrasts.name}': "
                "contr.treatment, contr.sum, contr.helmert, contr.poly"
            )
    if base is not None:
        treatment = getattr(contrasts, "name", None) == "treatment" or contrasts in (None, ContrastsRegistry.treatment)
        if not treatment:
            raise ValueError("a base is one of contr.treatment: C(f, contr.treatment, base=2)")
        contrasts = OfR("treatment", getattr(contrasts, "levels", len(levels)), base)
    if not isinstance(contrasts, OfR):
        return contrasts
    count = int(contrasts.levels) if np.ndim(contrasts.levels) == 0 else len(contrasts.levels)
    if count != len(levels):
        raise ValueError(
            f"contr.{contrasts.name}({count}) is for {count} levels, and the factor has {len(levels)}, "
            f"{', '.join(map(str, levels))}: contr.{contrasts.name} alone is for as many as there are"
            + ("; another base is base=2, its place" if contrasts.name == "treatment" else "")
        )
    made = getattr(ContrastsRegistry, contrasts.name)
    return made() if contrasts.base is None else made(base=_level(contrasts.base, levels))


def _level(base: Any, levels: Sequence[Any]) -> Any:
    """Return the level that is the base, by its place or as a text."""
    if isinstance(base, str):
        places = [level for level in levels if str(level) == base]
    else:
        places = [levels[int(base) - 1]] if float(base).is_integer() and 1 <= base <= len(levels) else []
    if not places:
        raise ValueError(f"the base {base!r} is none of the levels {', '.join(map(str, levels))}, nor their place")
    return places[0]
