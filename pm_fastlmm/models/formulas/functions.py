"""The functions of formulas: those of R's model formulas, with R's arguments and values, and those of formulaic."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from formulaic.transforms import TRANSFORMS, stateful_transform
from formulaic.transforms.contrasts import C as formulaic_C
from formulaic.transforms.contrasts import ContrastsRegistry
from formulaic.transforms.poly import poly as formulaic_poly
from scipy import special

from pm_fastlmm.base.spelling import level_text
from pm_fastlmm.models.formulas.factors import (
    CONTRASTS,
    as_at_first,
    as_factor,
    condition,
    contrasts_of,
    in_classes,
    require_known,
)
from pm_fastlmm.models.formulas.names import LOGICAL, NUMBER, columns_in
from pm_fastlmm.models.formulas.splines import bs, ns, numbered

CONSTANTS: Mapping[str, Any] = {
    "TRUE": True, "FALSE": False, "T": True, "F": False, "NULL": None, "Inf": np.inf, "pi": np.pi,
}  # fmt: skip


def _numbers(values: Any) -> Any:
    """Return numbers as floats: R has no small integers that overflow, and True is 1."""
    values = as_number(values)
    return values.astype(np.float64) if isinstance(values, pd.Series) else np.asarray(values, dtype=np.float64)


def _elementwise(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def of_numbers(x: Any) -> Any:
        with np.errstate(all="ignore"):  # what is not defined is missing, and rows with missing values are counted
            return function(_numbers(x))

    return of_numbers


def as_number(x: Any) -> Any:
    """Return an operand of arithmetic: conditions are 0 and 1, as in R, and whole numbers floats."""
    if isinstance(x, bool | np.bool_):
        return float(x)
    dtype = getattr(x, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype) and dtype.categories.dtype == bool:
        return pd.Series(x).astype(np.float64)
    if isinstance(dtype, pd.CategoricalDtype) or dtype == np.object_ or isinstance(x, str):
        raise ValueError(_why_no_number(pd.Series(x)))
    return x.astype(np.float64) if isinstance(dtype, np.dtype) and dtype.kind in "biu" else x


def _why_no_number(values: "pd.Series[Any]") -> str:
    """Return what makes values text; `names.plain` shows the name of their column."""
    texts = values[pd.to_numeric(values.astype(object), errors="coerce").isna() & values.notna()].unique().tolist()
    if values.name is None or not texts or 2 * values.isin(texts).sum() > len(values):
        return "it has no numbers: as.numeric(f) is the number of a level, or a text read as a number"
    name = columns_in({str(values.name)}).pop()
    return (
        f"it has no numbers, the column {name!r} is text because of {', '.join(map(repr, texts[:3]))}: if it "
        f"should be a number, data[{name!r}] = pd.to_numeric(data[{name!r}], errors='coerce') makes other texts missing"
    )


def as_condition(x: Any) -> Any:
    """Return an operand of !, & and |: numbers hold where they are not 0, as in R."""
    if isinstance(x, bool | int | float):
        return np.bool_(x)
    dtype = getattr(x, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype) and dtype.categories.dtype == bool:
        return pd.Series(x).astype(bool)
    return x != 0 if isinstance(dtype, np.dtype) and dtype.kind in "iuf" else x


def log(x: Any, base: float | None = None) -> Any:
    """Return the logarithm of x, natural or to a base."""
    natural = _elementwise(np.log)(x)
    return natural if base is None else natural / np.log(base)


def round_(x: Any, digits: int = 0) -> Any:
    """Return x with so many decimals."""
    return np.round(_numbers(x), int(digits))


def pmin(*values: Any) -> Any:
    """Return the least of several columns and numbers in each row."""
    return functools.reduce(np.minimum, map(_numbers, values))


def pmax(*values: Any) -> Any:
    """Return the greatest of several columns and numbers in each row."""
    return functools.reduce(np.maximum, map(_numbers, values))


def ifelse(test: Any, yes: Any, no: Any) -> Any:
    """Return `yes` in rows where the test holds, `no` elsewhere; texts make a factor."""
    values = np.where(np.asarray(test, dtype=bool), yes, no)
    return pd.Series(values, dtype="category" if values.dtype.kind in "USO" else None)


def c(*values: Any) -> Any:
    """Return values as a list; one alone, as a column, is itself."""
    return values[0] if len(values) == 1 else list(values)


def identity(x: Any) -> Any:
    """Return x; conditions are factors with the levels False and True, as in R."""
    return condition(x) if getattr(x, "dtype", None) == np.bool_ else x


def is_in(x: Any, values: Any) -> "pd.Series[bool]":
    """Return which entries of x are among the values."""
    among = {level_text(value) for value in np.atleast_1d(np.asarray(values, dtype=object))}
    return pd.Series([level_text(value) in among for value in x])


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def as_numeric(x: Any, _state: Any = None) -> Any:
    """
    Return numbers: of a factor the place of its level at the fit, of a text what it reads as, of a condition 0 or 1.

    Raises
    ------
    ValueError
        If a text is no number, or a level is none of those of the fit.
    """
    kind = getattr(getattr(x, "dtype", None), "categories", None)
    if kind is not None and kind.dtype == bool:
        return as_number(x)
    if "levels" in _state or kind is not None:
        made = as_at_first(as_factor(x) if kind is None else pd.Series(x), _state)
        require_known(made, _state)
        codes = made.cat.codes
        return codes.where(codes >= 0).astype(np.float64) + 1
    values = pd.Series(x)
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    texts = values[numbers.isna() & values.notna()].unique().tolist()
    if len(numbers) and numbers.isna().all():
        raise ValueError("none of its texts is a number: as.numeric(factor(f)) is the number of a level")
    if texts:
        raise ValueError(
            f"its texts {', '.join(map(repr, texts[:3]))} are no numbers: mend them or make them missing, "
            "pd.to_numeric(column, errors='coerce')"
        )
    return numbers


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def as_integer(x: Any, _state: Any = None) -> Any:
    """Return numbers without what stands after the decimal point, as `as_numeric` reads them."""
    return np.trunc(as_numeric(x, _state=_state))


def as_character(x: Any) -> "pd.Series[Any]":
    """Return texts; a whole number has no decimal point, and conditions are TRUE and FALSE, as in R."""
    values = pd.Series(x)
    if values.dtype == bool or set(values.dropna().unique()) <= {"True", "False", True, False} - {1, 0}:
        return values.map({True: "TRUE", False: "FALSE"})
    return values.astype(object).map(level_text, na_action="ignore")


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def factor(x: Any, levels: Any = None, labels: Any = None, ordered: bool = False, _state: Any = None) -> Any:
    """
    Return a factor with sorted levels, or those given in their order, under other names if there are labels.

    Raises
    ------
    ValueError
        If there are not as many labels as levels, or a new level has no label.
    """
    made = as_factor(x, None if levels is None else list(np.atleast_1d(np.asarray(levels, dtype=object))))
    made = as_at_first(made, _state)
    if labels is not None:
        require_known(made, _state)
        names = np.atleast_1d(labels).tolist()
        if len(names) == 1 < len(made.cat.categories):  # R numbers one label
            names = [f"{names[0]}{k}" for k in range(1, len(made.cat.categories) + 1)]
        if len(names) != len(made.cat.categories) or len(set(names)) < len(names):
            raise ValueError(
                f"it has {len(names)} labels for the {len(made.cat.categories)} levels "
                f"{', '.join(map(level_text, made.cat.categories))}: give each of them one of its own"
            )
        made = made.cat.rename_categories(names)
    return formulaic_C(made, ContrastsRegistry.poly) if ordered else made


def ordered(x: Any, levels: Any = None) -> Any:
    """Return an ordered factor with R's polynomial contrasts."""
    return formulaic_C(factor(x, levels), ContrastsRegistry.poly)


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def relevel(x: Any, ref: Any, _state: Any = None) -> "pd.Series[Any]":
    """Return a factor with another first level, the one that others are compared with."""
    made = as_at_first(as_factor(x), _state)
    names = [level_text(level) for level in made.cat.categories]
    if level_text(ref) not in names:
        raise ValueError(f"{ref!r} is none of the levels {', '.join(names)}")
    first = made.cat.categories[names.index(level_text(ref))]
    return made.cat.reorder_categories([first, *(level for level in made.cat.categories if level != first)])


def interaction(*factors: Any, sep: str = ".", drop: bool = True) -> "pd.Series[Any]":
    """Return the factor of the combinations that occur, the first factor varying fastest."""
    made = [as_factor(x) for x in factors]
    keys = [tuple(codes) for codes in np.column_stack([x.cat.codes for x in made]).tolist()]
    names = {key: sep.join(level_text(x.cat.categories[c]) for x, c in zip(made, key, strict=True)) for key in keys}
    order = sorted(names, key=lambda key: key[::-1])
    return pd.Series(pd.Categorical([names[key] for key in keys], categories=[names[key] for key in order]))


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def C(
    data: Any,
    contrasts: Any = None,
    how_many: int | None = None,
    *,
    contr: Any = None,
    base: Any = None,
    levels: Any = None,
    spans_intercept: bool = True,
    _state: Any = None,
) -> Any:
    """Return a factor with its contrasts, as formulaic does; a value that is none of its levels is missing, as in R."""
    contrasts = contr if contrasts is None else contrasts
    made = factor(data, levels, _state=_state)
    known = _state["levels"]
    if how_many is not None and how_many != len(known) - 1:
        raise ValueError(
            f"there is no how.many of contrasts, {len(known)} levels have {len(known) - 1}: make the columns first"
        )
    if "contrasts" not in _state:
        _state["contrasts"] = contrasts_of(contrasts, base, known)
    return formulaic_C(made, _state["contrasts"], spans_intercept=spans_intercept)


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def poly(x: Any, *further: Any, degree: Any = None, raw: bool = False, simple: bool = False, _state: Any = None) -> Any:
    """Return orthogonal polynomials of x, or its powers; the columns are numbered from 1."""
    if degree is None and further:
        degree, further = further[0], further[1:]
    if further or np.ndim(degree if degree is not None else 1):
        raise ValueError(
            "poly has one variable: poly(a, b, degree=2) is poly(a, 2) + poly(b, 2) + a:b, the same space of columns"
        )
    x, degree = np.asarray(_numbers(x)), 1 if degree is None else int(degree)
    if raw:
        return numbered(np.stack([x**k for k in range(1, degree + 1)], axis=1))
    if not _state and degree >= len(np.unique(x[np.isfinite(x)])):
        raise ValueError(f"degree must be less than the number of different values, got {degree}")
    return formulaic_poly(x, degree, _state=_state)


_MATHS: Mapping[str, Any] = {
    "sqrt": np.sqrt, "exp": np.exp, "expm1": np.expm1, "exp2": np.exp2, "exp10": lambda x: 10.0**x, "log1p": np.log1p,
    "log2": np.log2, "log10": np.log10, "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceiling": np.ceil,
    "trunc": np.trunc, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "plogis": special.expit,
    "qlogis": special.logit,
}  # fmt: skip


_OF_NUMBERS = ("scale", "center", "standardize", "bs", "ns", "cs", "cr", "cc", "cut", "poly")


def _searched(name: str, function: Any) -> Any:
    """
    Return a stateful transform that never fails where formulaic looks for variables.

    It evaluates the arguments of stateful transforms once more there, without the state of those inside them: for new
    rows `factor(cut(x, 3))` would need the breaks of a single row.
    """
    if not getattr(function, "__is_stateful_transform__", False):
        return function

    @functools.wraps(function)
    def called(data: Any, *arguments: Any, _state: Any = None, **options: Any) -> Any:
        if _state is not None:
            data = _numbers(data) if name in _OF_NUMBERS else data
            return function(data, *arguments, _state=_state, **options)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function(data, *arguments, **options)
        except Exception:  # the evaluation with a state says what is wrong
            return data

    return called


_NOT_OFFERED = ("contr", "lag", "hashed")  # values of other rows, levels that share a column

_ALL: Mapping[str, Any] = (
    {name: function for name, function in TRANSFORMS.items() if callable(function) and name not in _NOT_OFFERED}
    | {name: _elementwise(function) for name, function in _MATHS.items()}
    | {
        "log": log, "round": round_, "pmin": pmin, "pmax": pmax, "ifelse": ifelse, "I": identity,
        NUMBER: as_number, LOGICAL: as_condition,
        "c": c, "%in%": is_in, "factor": factor, "as.factor": factor, "ordered": ordered,
        "as.ordered": ordered, "as.numeric": as_numeric, "as.double": as_numeric, "relevel": relevel,
        "as.integer": as_integer, "as.character": as_character,
        "interaction": interaction, "cut": in_classes, "C": C, "poly": poly, "bs": bs, "ns": ns,
    }
    | {f"contr.{name}": function for name, function in CONTRASTS.items()}
)  # fmt: skip
FUNCTIONS: Mapping[str, Any] = {name: _searched(name, function) for name, function in _ALL.items()}
