"""Compiled loops in Python: for a single fit, which is done long before Numba would have compiled or loaded them."""

import math
from collections.abc import Callable
from functools import wraps
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

# as Numba has it: infinite or NaN where Python would raise
_MATH = SimpleNamespace(**vars(math) | {"log": np.log, "exp": np.exp, "sqrt": np.sqrt})


def interpreted(module: ModuleType, *faster: Callable[..., Any]) -> SimpleNamespace:
    """Return a module with the Python functions behind its compiled ones; `faster` are in the place of namesakes."""
    names = vars(module) | {"math": _MATH}
    own = [name for name, function in names.items() if hasattr(function, "py_func")]
    for name in own:
        names[name] = FunctionType(names[name].py_func.__code__, names, name)
    names |= {function.__name__: function for function in faster}
    return SimpleNamespace(**names | {name: _quiet(names[name]) for name in own})


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    return call
