"""The functions of formulas: those of R's model formulas, with R's arguments and values, and those of formulaic."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from formulaic.transforms import TRANSFORMS, stateful_transform
from formulaic.transforms.contrasts import C as formulaic_C
from formulaic.transforms.contrasts import ContrastsRegistry
from formulaic.transforms.poly import poly as formulaic_poly
from scipy import special

from pm_fastlmm.formulas.factors import as_at_first, as_factor, condition, in_classes, level_text
from pm_fastlmm.formulas.splines import bs, ns, numbered

CONSTANTS: Mapping[str, Any] = {
    "TRUE": True, "FALSE": False, "T": True, "F": False, "NULL": None, "Inf": np.inf, "pi": np.pi,
}  # fmt: skip


def _numbers(values: Any) -> Any:
    """Return numbers as floats: R has no small integers that overflow, and True is 1."""
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype) or dtype == np.object_ or isinstance(values, str):
        raise ValueError("it has no numbers: as.numeric(f) is the number of a level, or a text read as a number")
    return values.astype(np.float64) if isinstance(values, pd.Series) else np.asarray(values, dtype=np.float64)


def _elementwise(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def of_numbers(x: Any) -> Any:
        with np.errstate(all="ignore"):  # what is not defined is missing, and rows with missing values are counted
            return function(_numbers(x))

    return of_numbers


def log(x: Any, base: float | None = None) -> Any:
    """Return the logarithm of x, natural or to a base."""
    natural = _elementwise(np.log)(x)
    return natural if base is None else natural / np.log(base)


def round_(x: Any, digits: int = 0) -> Any:
    """Return x with so many decimals."""
    return np.round(_numbers(x), int(digits))


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
def as_numeric(x: Any, _state: Any = None, _context: Any = None) -> Any:
    """Return numbers: of a factor the place of its level, of a text what it reads as, missing if it is no number."""
    return _read_numbers(x, _state, _context)


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def as_integer(x: Any, _state: Any = None, _context: Any = None) -> Any:
    """Return such numbers without their decimals."""
    return np.trunc(_read_numbers(x, _state, _context))


def _read_numbers(x: Any, state: dict[str, Any], context: Any) -> Any:
    """Return numbers; formulaic looks for variables by a first call without state and context, which may not fail."""
    if "levels" in state or isinstance(x.dtype, pd.CategoricalDtype):
        made = as_at_first(x, state)
        if new := made.cat.categories[len(state["levels"]) :].tolist():
            raise ValueError(f"{new[0]!r} is none of the levels {', '.join(map(level_text, state['levels']))}")
        codes = made.cat.codes
        return codes.where(codes >= 0).astype(np.float64) + 1
    numbers = pd.to_numeric(pd.Series(x), errors="coerce").astype(np.float64)
    if context is not None and len(numbers) and numbers.isna().all():
        raise ValueError("none of its texts is a number: as.numeric(factor(f)) is the number of a level")
    return numbers


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def factor(x: Any, levels: Any = None, labels: Any = None, _state: Any = None) -> "pd.Series[Any]":
    """Return a factor with sorted levels, or those given in their order, under other names if there are labels."""
    made = as_at_first(x, _state) if levels is None else _with_levels(x, levels)
    if labels is None:
        return made
    names, categories = list(np.atleast_1d(labels)), made.cat.categories
    new = [] if levels is not None else categories[len(_state["levels"]) :].tolist()
    return made.cat.rename_categories([*names, *new])


def _with_levels(x: Any, levels: Any) -> "pd.Series[Any]":
    return as_factor(x, None if levels is None else list(np.atleast_1d(np.asarray(levels, dtype=object))))


def ordered(x: Any, levels: Any = None) -> Any:
    """Return an ordered factor with R's polynomial contrasts."""
    return formulaic_C(_with_levels(x, levels), ContrastsRegistry.poly)


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def relevel(x: Any, ref: Any, _state: Any = None) -> "pd.Series[Any]":
    """Return a factor with another first level, the one that others are compared with."""
    made = as_at_first(x, _state)
    names = [level_text(level) for level in made.cat.categories]
    if level_text(ref) not in names:
        raise ValueError(f"{ref!r} is none of the levels {', '.join(names)}")
    first = made.cat.categories[names.index(level_text(ref))]
    return made.cat.reorder_categories([first, *(level for level in made.cat.categories if level != first)])


def interaction(*factors: Any) -> "pd.Series[Any]":
    """Return the factor of the combinations that occur, the first factor varying fastest."""
    made = [as_factor(x) for x in factors]
    keys = [tuple(codes) for codes in np.column_stack([x.cat.codes for x in made]).tolist()]
    names = {key: ".".join(level_text(x.cat.categories[c]) for x, c in zip(made, key, strict=True)) for key in keys}
    order = sorted(names, key=lambda key: key[::-1])
    return pd.Series(pd.Categorical([names[key] for key in keys], categories=[names[key] for key in order]))


def C(data: Any, contrasts: Any = None, *, contr: Any = None, levels: Any = None, spans_intercept: bool = True) -> Any:
    """Return a factor with its contrasts, as formulaic does; a value that is none of its levels is missing, as in R."""
    contrasts = contr if contrasts is None else contrasts
    if isinstance(contrasts, str):  # R's "contr.sum"
        name = contrasts.removeprefix("contr.")
        if not hasattr(ContrastsRegistry, name):
            raise ValueError(
                f"there are no contrasts {contrasts!r}: contr.treatment, contr.sum, contr.helmert, contr.poly"
            )
        contrasts = getattr(ContrastsRegistry, name)
    return formulaic_C(_with_levels(data, levels), contrasts, spans_intercept=spans_intercept)


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def poly(x: Any, *further: Any, degree: Any = None, raw: bool = False, _state: Any = None) -> Any:
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

_NOT_OFFERED = ("contr", "lag", "hashed")  # values of other rows, levels that share a column

FUNCTIONS: Mapping[str, Any] = (
    {name: function for name, function in TRANSFORMS.items() if callable(function) and name not in _NOT_OFFERED}
    | {name: _elementwise(function) for name, function in _MATHS.items()}
    | {
        "log": log, "round": round_, "pmin": np.minimum, "pmax": np.maximum, "ifelse": ifelse, "I": identity,
        "c": c, "%in%": is_in, "factor": factor, "as.factor": factor, "ordered": ordered,
        "as.ordered": ordered, "as.numeric": as_numeric, "as.double": as_numeric, "relevel": relevel,
        "as.integer": as_integer, "as.character": lambda x: pd.Series(x).map(level_text),
        "interaction": interaction, "cut": in_classes, "C": C, "poly": poly, "bs": bs, "ns": ns,
    }
)  # fmt: skip
