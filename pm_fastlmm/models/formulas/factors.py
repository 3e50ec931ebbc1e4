"""
Factors that a formula makes, of labels, of numbers, and of classes of numbers; and their contrasts.

Contrasts take R's arguments, contr.treatment(3, base = 2), or formulaic's, contr.treatment(base="b").
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic.transforms import stateful_transform
from formulaic.transforms.contrasts import ContrastsRegistry

from pm_fastlmm.base.spelling import level_text


def condition(values: Any) -> "pd.Series[Any]":
    """Return a condition as the factor that it is to R: with the levels False and True, whichever occur."""
    return pd.Series(pd.Categorical(np.asarray(values), categories=[False, True]))


def as_factor(x: Any, levels: Sequence[Any] | None = None) -> "pd.Series[Any]":
    """
    Return a factor: categories that occur in their order, other values sorted; or the levels that are given.

    Values are compared with these as text, as R does; what is none of them is missing.
    """
    values = pd.Series(x) if not isinstance(x, pd.Series) else x
    if levels is not None:
        place = {level_text(level): i for i, level in enumerate(levels)}
        codes = [place.get(level_text(value), -1) for value in values]
        return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(levels)))
    made = values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype("category")
    made = made.cat.remove_unused_categories()
    categories = made.cat.categories
    if categories.dtype.kind == "f" and all(value.is_integer() for value in categories.tolist()):
        made = made.cat.rename_categories([int(value) for value in categories])
    return made


def as_at_first(made: "pd.Series[Any]", state: dict[str, Any]) -> "pd.Series[Any]":
    """Return a factor whose levels are those that the state has kept, and new ones after them; keep them at first."""
    levels = made.cat.categories.tolist()
    known = state.setdefault("levels", levels)
    by_text = {level_text(level): level for level in known}
    if known is levels and len(by_text) == len(levels):
        return made.reset_index(drop=True)
    levels = [by_text.get(level_text(level), level) for level in levels]
    every = [*known, *(level for level in levels if level_text(level) not in by_text)]
    place = {level: i for i, level in reversed(list(enumerate(every)))}  # the first of equal ones
    codes = np.array([*(place[level] for level in levels), -1])[np.asarray(made.cat.codes)]
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(every), ordered=bool(made.cat.ordered)))


def require_known(made: "pd.Series[Any]", state: dict[str, Any]) -> None:
    """Raise a ValueError for levels that the state has not."""
    if new := made.cat.categories[len(state["levels"]) :].tolist():
        raise ValueError(f"{new[0]!r} is none of the levels {', '.join(map(level_text, state['levels']))}")


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def in_classes(
    x: Any,
    breaks: Any,
    labels: Any = None,
    include_lowest: bool = False,
    right: bool = True,
    _state: Any = None,
) -> Any:
    """
    Return the classes of numbers between breaks, or so many equally wide ones, as R's cut; others are missing.

    Raises
    ------
    ValueError
        If there are fewer than two classes.
    """
    values = np.asarray(x, dtype=np.float64)
    if "breaks" not in _state:
        edges = np.asarray(breaks, dtype=np.float64)
        if edges.ndim == 0:
            if not edges >= 2:
                raise ValueError(f"cut needs two classes at least, got {breaks}")
            low, high = float(np.nanmin(values)), float(np.nanmax(values))
            edges = np.linspace(low, high, int(edges) + 1)
            edges[[0, -1]] += np.array([-1, 1]) * (high - low) / 1000
        _state["breaks"] = np.sort(edges)
    classes = pd.cut(
        values, _state["breaks"], right=right, include_lowest=include_lowest,
        labels=None if labels is None or labels is False else list(np.atleast_1d(labels)),
    )  # fmt: skip
    if labels is False:
        return np.where(classes.codes < 0, np.nan, classes.codes + 1.0)
    return pd.Series(classes.rename_categories(str).remove_unused_categories())


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


_DESCRIBED = {
    ContrastsRegistry.sum: "sum, differences from the mean of the levels, those of {last} being minus all others",
    ContrastsRegistry.helmert: "Helmert, levels against the mean of those before",
    ContrastsRegistry.poly: "polynomials in the order of the levels",
    ContrastsRegistry.diff: "differences of successive levels",
}


def reference_of(contrasts: Any, levels: Sequence[Any]) -> Any:
    """Return the level with which treatment contrasts compare the others, as text; None of others."""
    if not isinstance(contrasts, ContrastsRegistry.treatment | ContrastsRegistry.SAS):
        return None
    compared = contrasts.get_coding_column_names(levels)
    return next(str(level) for level in levels if level not in compared)


def described_coding(contrasts: Any, levels: Sequence[Any]) -> str:
    """Return in words what other contrasts compare."""
    return _DESCRIBED.get(type(contrasts), "contrasts of your own").format(last=levels[-1])
