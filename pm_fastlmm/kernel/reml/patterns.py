"""Responses with missing rows: those that miss the same rows share a spectrum, and the fits are put back in order."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pm_fastlmm.kernel.reml.fit import REMLFit, plain
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_WHOLE = ("method", "names", "coef", "rotated", "pattern")


def by_pattern(spectrum: Spectrum, y: Any, fit: Callable[[Rotated], REMLFit]) -> REMLFit:
    """
    Fit the responses that miss the same rows together, on the spectrum of the rows that they have.

    Raises
    ------
    ValueError
        If y does not fit the spectrum, has infinite values, or a response has so few values that nothing is left to
        estimate variances from.
    """
    values, names = spectrum.read_response(y, missing=True)
    columns = values if names is not None else values[:, None]
    missing = np.isnan(columns)
    _require_rows(spectrum, missing, names or ("y",))
    patterns, number = _number(missing)
    parts = []
    for p, absent in enumerate(patterns):
        chosen, rows = np.flatnonzero(number == p), np.flatnonzero(~absent)
        part = spectrum if rows.size == spectrum.n else spectrum.subset(rows)
        if names is None:
            return fit(Rotated.from_values(part, values[rows], None))
        rotated = Rotated.from_values(part, columns[np.ix_(rows, chosen)], tuple(names[t] for t in chosen))
        parts.append((chosen, fit(rotated)))
    assert names is not None
    return parts[0][1] if len(parts) == 1 else _join(spectrum, parts, number, names)


def _number(absent: npt.NDArray[np.bool_]) -> tuple[list[npt.NDArray[np.bool_]], npt.NDArray[np.intp]]:
    """Return the different columns of a mask, in order of appearance, and the number of each column's."""
    number, _ = pd.factorize(np.array(list(map(bytes, np.packbits(absent, axis=0).T)), dtype=object))
    return [absent[:, t] for t in np.unique(number, return_index=True)[1]], number


def _require_rows(spectrum: Spectrum, absent: npt.NDArray[np.bool_], names: tuple[str, ...]) -> None:
    need = spectrum.projection.rank + 2
    for name, left in zip(names, (~absent).sum(axis=0).tolist(), strict=True):
        if left < need:
            raise ValueError(
                f"response {name!r} has {left} values that are not missing, of which at least {need} are needed to "
                f"estimate {spectrum.projection.rank} fixed effects and two variances: leave that response out."
            )


def _join(
    spectrum: Spectrum,
    parts: list[tuple[npt.NDArray[np.intp], REMLFit]],
    number: npt.NDArray[np.intp],
    names: tuple[str, ...],
) -> REMLFit:
    """Return one fit with the responses in their order; a coefficient that a pattern cannot estimate is NaN there."""
    T, coef = len(names), spectrum.coef
    joined: dict[str, Any] = {}
    for field in (f.name for f in fields(REMLFit) if f.name not in _WHOLE):
        first = np.asarray(getattr(parts[0][1], field))
        axes = {"blue": 1, "blue_cov": 2}.get(field, 0)
        shape = [len(coef)] * axes if axes else first.shape[1:]
        values: npt.NDArray[Any] = np.empty((T, *shape), dtype=first.dtype)
        if axes:
            values[:] = np.nan
        for chosen, fit in parts:
            kept = np.array([coef.index(name) for name in fit.coef], dtype=np.intp)
            values[np.ix_(chosen, *[kept] * axes)] = getattr(fit, field)
        joined[field] = values
    return REMLFit(
        **{name: plain(value) for name, value in joined.items()},
        pattern=number, method=parts[0][1].method, names=names, coef=coef, rotated=None,
    )  # fmt: skip
