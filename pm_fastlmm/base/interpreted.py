"""Compiled loops in Python: for a single fit, which would be done long before Numba had compiled them."""

from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any


def interpreted(module: ModuleType, *faster: Callable[..., Any]) -> SimpleNamespace:
    """Return a module with the Python functions behind its compiled ones; `faster` are in the place of namesakes."""
    names = dict(vars(module))
    for name, function in vars(module).items():
        if hasattr(function, "py_func"):
            names[name] = FunctionType(function.py_func.__code__, names, name)
    names |= {function.__name__: function for function in faster}
    return SimpleNamespace(**names)
