"""An order of posterior draws in which those of near parameters follow each other."""

import numpy as np

from pm_fastlmm.base.arrays import FloatArray


def along_a_line(theta: FloatArray) -> list[tuple[int, ...]]:
    """Return the places (chain, draw) of θ (chain, draw, P), sorted along the line along which they vary most."""
    flat = theta.reshape(-1, theta.shape[-1])
    sd = flat.std(axis=0)
    standard = (flat - flat.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    *_, axes = np.linalg.svd(standard.T @ standard)
    order = np.argsort(standard @ axes[0], kind="stable") if flat.shape[1] else np.arange(len(flat))
    return [tuple(map(int, np.unravel_index(i, theta.shape[:2]))) for i in order]
