"""Splines of a covariate with the arguments of R's package splines: B-splines, and natural cubic ones."""

from typing import Any

import numpy as np
from formulaic.materializers.types import FactorValues
from formulaic.transforms import stateful_transform
from formulaic.transforms.basis_spline import basis_spline
from scipy.linalg import null_space

from pm_fastlmm.base.arrays import FloatArray


def numbered(values: FloatArray) -> Any:
    """Return columns with the numbers 1, 2, … as their names."""
    return FactorValues(values, column_names=tuple(str(k) for k in range(1, values.shape[1] + 1)))


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def bs(
    x: Any,
    df: int | None = None,
    knots: Any = None,
    degree: int = 3,
    intercept: bool = False,
    Boundary_knots: Any = None,
    _state: Any = None,
    **options: Any,
) -> Any:
    """Return formulaic's B-splines by R's names of the arguments, or its own."""
    if Boundary_knots is not None:
        options["lower_bound"], options["upper_bound"] = map(float, Boundary_knots)
    options.setdefault("include_intercept", intercept)
    x = np.asarray(x, dtype=np.float64)
    knots = None if knots is None else list(np.atleast_1d(knots))
    return basis_spline(x, df, knots, degree, _state=_state, **options)


@stateful_transform  # type: ignore[untyped-decorator]  # formulaic has no types
def ns(
    x: Any,
    df: int | None = None,
    knots: Any = None,
    intercept: bool = False,
    Boundary_knots: Any = None,
    _state: Any = None,
) -> Any:
    """
    Return natural cubic splines: cubic between the knots, straight outside the boundary.

    The second derivative of B-splines at the two boundary knots is two linear conditions on their coefficients; the
    columns are an orthonormal basis of what is left of them. They span what R's `ns` spans. Interior knots are
    quantiles of x inside the boundary, df - 1 of them (df - 2 with an intercept).
    """
    x = np.asarray(x, dtype=np.float64)
    if "knots" not in _state:
        low, high = (x.min(), x.max()) if Boundary_knots is None else map(float, Boundary_knots)
        if knots is None:
            count = 0 if df is None else int(df) - 1 - bool(intercept)
            if count < 0:
                raise ValueError(f"df must be at least {1 + bool(intercept)}, got {df}")
            inside = x[(x >= low) & (x <= high)]
            knots = np.quantile(inside, np.linspace(0, 1, count + 2)[1:-1])
        _state["knots"] = np.concatenate([np.full(4, low), np.sort(np.atleast_1d(knots)), np.full(4, high)])
    t = _state["knots"]
    low, high = t[0], t[-1]
    from scipy.interpolate import BSpline  # a third of a second to import

    basis = BSpline(t, np.eye(len(t) - 4), 3)
    curvature = basis.derivative(2)(np.array([low, high]))
    start = 0 if intercept else 1  # the first B-spline is the only one that is not 0 at the lower boundary
    keep = null_space(curvature[:, start:])
    inner = np.clip(x, low, high)
    values = basis(inner) + (x - inner)[:, None] * basis.derivative()(inner)
    return numbered(values[:, start:] @ keep)
