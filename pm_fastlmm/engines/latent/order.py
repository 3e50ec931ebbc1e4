"""An order of posterior draws in which those of near parameters follow each other, and where the next mode is."""

from collections.abc import Sequence

import numpy as np

from pm_fastlmm.base.arrays import FloatArray

_FAR = 10.0  # lengths of a line that it is followed


def along_a_line(theta: FloatArray) -> list[tuple[int, ...]]:
    """Return the places (chain, draw) of θ (chain, draw, P), sorted along the line along which they vary most."""
    flat = theta.reshape(-1, theta.shape[-1])
    sd = flat.std(axis=0)
    standard = (flat - flat.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    *_, axes = np.linalg.svd(standard.T @ standard)
    order = np.argsort(standard @ axes[0], kind="stable") if flat.shape[1] else np.arange(len(flat))
    return [tuple(map(int, np.unravel_index(i, theta.shape[:2]))) for i in order]


def ahead(theta: FloatArray, known: Sequence[tuple[FloatArray, FloatArray]]) -> FloatArray | None:
    """
    Return about where a mode is from the last parameters with their modes: the last, or a line through the last two.

    A line is of a single parameter; it is not followed further than ten times its length.
    """
    if not known:
        return None
    last, x = known[-1]
    if len(known) == 1 or theta.size != 1:
        return x
    before, previous = known[-2]
    length = float(last[0] - before[0])
    step = float(theta[0] - last[0]) / length if length else np.inf
    return np.asarray(x + step * (x - previous)) if 0 <= step <= _FAR else x
