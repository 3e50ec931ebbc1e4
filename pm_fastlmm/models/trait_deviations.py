"""What least squares leave of each of several traits, and which traits have no estimates."""

import math
from collections.abc import Sequence

import numpy as np

from pm_fastlmm.base.arrays import EPS, FloatArray, shown


def residual_deviations(Y: FloatArray, X: FloatArray, weights: FloatArray | None, traits: Sequence[str]) -> FloatArray:
    """
    Return the residual standard deviation of each trait on X by least squares over its own rows.

    Parameters
    ----------
    Y : (t, n) array
        NaN where it was not observed.
    X : (n, r) array
    weights : (n,) array or None
        Prior weights; the deviation is that of a row of mean weight.
    traits : sequence of str

    Returns
    -------
    (t,) array

    Raises
    ------
    ValueError
        If a trait has no more rows than there are traits, X leaves nothing of one, or traits are collinear.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.models.trait_deviations import residual_deviations
    >>> Y = np.array([[1.0, 2.0, 3.0, 2.0], [3.0, np.nan, 1.0, 5.0]])
    >>> residual_deviations(Y, np.ones((4, 1)), None, ["milk", "fat"]).round(3)
    array([0.816, 2.   ])
    """
    seen, t = ~np.isnan(Y), len(traits)
    if few := [f"{trait} ({k})" for trait, k in zip(traits, seen.sum(axis=1).tolist(), strict=True) if k <= t]:
        raise ValueError(
            f"{shown(few)} of {t} traits were observed in no more rows than there are traits, too few for covariances: "
            "leave traits out, or fit each by itself."
        )
    root = np.ones(len(X)) if weights is None else np.sqrt(weights / weights.mean())
    out = np.empty(t)
    for a, (y, own) in enumerate(zip(Y, seen, strict=True)):
        left, rank = _left(X[own], y[own], root[own])
        out[a] = np.linalg.norm(left) / math.sqrt(max(len(left) - rank, 1))
        if rank == len(left) or np.linalg.norm(left) <= len(left) * EPS * np.linalg.norm(root[own] * y[own]):
            why = "is constant" if np.ptp(y[own]) == 0 else f"is explained by X in its {len(left)} rows"
            raise ValueError(
                f"the trait {traits[a]!r} {why}: there is nothing to estimate a variance from, leave it out."
            )
    both = np.flatnonzero(seen.all(axis=0))
    _require_independent(*_left(X[both], Y[:, both].T, root[both]), traits)
    return out


def _left(X: FloatArray, y: FloatArray, root: FloatArray) -> tuple[FloatArray, int]:
    """Return what X leaves of y, or of the columns of Y, both times √w, and the rank of X."""
    scaled, own = root[:, None] * X, (root * y.T).T
    coef, _, rank, _ = np.linalg.lstsq(scaled, own)
    return np.asarray(own - scaled @ coef), int(rank)


def _require_independent(left: FloatArray, rank: int, traits: Sequence[str]) -> None:
    """Refuse traits of which one is a combination of X and the others, by what X leaves of their common rows."""
    if len(traits) == 1 or len(left) - rank < len(traits):
        return
    lengths = np.linalg.norm(left, axis=0)
    _, values, Vt = np.linalg.svd(left / np.where(lengths > 0, lengths, 1.0), full_matrices=False)
    if values[-1] <= len(left) * EPS * values[0]:
        some = [trait for trait, v in zip(traits, np.abs(Vt[-1]), strict=True) if v > 1e-6]
        raise ValueError(
            f"the traits {shown(some)} are collinear, one is a combination of X and the others in the {len(left)} rows "
            "where all were observed: leave one out."
        )
