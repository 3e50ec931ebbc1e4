"""
Separation: coefficients that have no finite estimate, because the likelihood rises for ever along a direction of them.

log p(y_i | η_i) rises, or does not fall, for ever as η_i → ∞ of a response that is as large as it can be, as η_i → -∞
of one that is 0 or in the first category; any other response falls both ways. With s_i = 1, -1 or 0 for these, there
is no finite estimate of β with a flat prior where a d has

    s_i x_iᵀd ≥ 0 for all rows with s_i ≠ 0,   x_iᵀd = 0 for all others,   Xd ≠ 0

(Albert & Anderson 1984, doi:10.1093/biomet/71.1.1). Random effects change nothing: d moves β alone. Of ordered
responses the cutpoints c are moved too, P(y ≤ k) = F(c_k+1 - η), and each response has one condition or two. There is
no such d where the linear program max Σ s_i x_iᵀd under these conditions has the value 0 (Konis 2007).
"""

from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import linprog

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.display import listed

_APART = 1e-6  # beside the largest number of each column: less is the tolerance of the linear program
_NULL = 1e-8  # of the largest singular value: directions of the null space
_SIGNED = 200_000  # numbers of A up to which the signs of several coefficients are looked for
_LARGEST = 20_000_000  # numbers of X as an array

_REMEDIES = (
    "as the likelihood rises for ever: give β a proper prior, beta_cov= of LatentLMM or priors={'beta': …} of a "
    "formula; leave the column out; or make a factor of which a level has responses that are all alike a random term, "
    "(1 | factor)"
)


class Cone(NamedTuple):
    """
    Directions v with Av ≥ 0 and Ev = 0, along which log p does not fall.

    Attributes
    ----------
    inside : (m, c) array
        A.
    across : (k, c) array
        E.
    rows : (m,) int array
        How many responses each row of A stands for.
    """

    inside: FloatArray
    across: FloatArray
    rows: Any

    @classmethod
    def of(cls, inside: FloatArray, across: FloatArray) -> Self:
        """Return it without repeated rows, which factors have many of; opposite ones are equations."""
        distinct, counts = np.unique(inside, axis=0, return_counts=True)
        _, place, seen = np.unique(np.vstack([distinct, -distinct]), axis=0, return_inverse=True, return_counts=True)
        opposite = (seen[np.ravel(place)[: len(distinct)]] > 1) & distinct.any(axis=1)
        kept = ~opposite & distinct.any(axis=1)
        equal = np.unique(np.vstack([across, distinct[opposite]]), axis=0)
        return cls(distinct[kept], equal[equal.any(axis=1)], counts[kept])

    def direction(self) -> FloatArray:
        """Return v with Av > 0 in as many rows as can be: the sum of directions, each of which moves others."""
        v = np.zeros(self.inside.shape[1])
        while (still := ~self.moved(v)).any():
            found = self._highest(self.inside[still].sum(axis=0))
            if found is None or not self.moved(v + found)[still].any():
                break
            v += found
        return v

    def _highest(self, c: FloatArray) -> FloatArray | None:
        """Return the direction of length up to 1 along which cᵀv is highest."""
        none = np.zeros(len(self.inside)), np.zeros(len(self.across))
        equal: dict[str, Any] = {"A_eq": self.across, "b_eq": none[1]} if len(self.across) else {}
        bounds = [(-1, 1)] * len(c)
        found = linprog(-c, A_ub=-self.inside, b_ub=none[0], bounds=bounds, method="highs", **equal)
        return np.asarray(found.x) if found.status == 0 else None

    def moved(self, v: FloatArray) -> Any:
        """Return which rows have Av > 0."""
        return self.inside @ v > _APART

    def null(self, v: FloatArray) -> FloatArray:
        """Return a basis (c, k) of the span of all such directions: where the other rows are 0."""
        still = np.vstack([self.inside[~self.moved(v)], self.across])
        return np.asarray(null_space(still, rcond=_NULL)) if len(still) else np.eye(len(v))

    def sign(self, j: int) -> int:
        """Return the sign that v_j has in all directions, 0 where it has both."""
        unit = (np.arange(self.inside.shape[1]) == j).astype(float)
        ends = [self._highest(s * unit) for s in (1.0, -1.0)]
        both = [end is not None and abs(end[j]) > _APART for end in ends]
        return 0 if all(both) else int(both[0]) - int(both[1])


def separated(family: Any, y: FloatArray, X: Any, names: tuple[str, ...]) -> str:
    """
    Return which coefficients of X (n, r) have no finite estimate under a flat prior, and why; nothing if all have one.

    A linear program is solved, in rows that differ: some milliseconds where X has factors, seconds for 100 000 rows of
    covariates.

    Examples
    --------
    >>> import numpy as np
    >>> from pm_fastlmm.families.choice import family_of
    >>> from pm_fastlmm.families.separation import separated
    >>> X, y = np.column_stack([np.ones(4), [1.0, 2, 3, 4]]), np.array([0.0, 0, 1, 1])
    >>> separated(family_of("bernoulli"), y, X, ("Intercept", "dose")).partition(":")[0]
    'the responses are separated by a combination of Intercept (to -∞), dose (to +∞)'
    >>> separated(family_of("bernoulli"), np.array([0.0, 1, 0, 1]), X, ("Intercept", "dose"))
    ''
    """
    n, r = X.shape
    if not n or n * r > _LARGEST:
        return ""
    own: FloatArray = np.array(X.toarray() if hasattr(X, "toarray") else X, dtype=float)
    scale = np.abs(own).max(axis=0, initial=0.0)
    own = own / np.where(scale > 0, scale, 1.0)
    ends = _ends(family, y, own)
    if ends is None:
        return ""
    if family.name == "ordinal" and (absent := sorted(set(range(family.categories)) - set(y.tolist()))):
        return _absent(absent, family.categories)
    cone = Cone.of(*ends)
    v = cone.direction()
    if not v.any():
        return ""
    called = (*names, *family.parameters) if family.name == "ordinal" else tuple(names)
    basis = cone.null(v)
    free = np.flatnonzero(np.abs(basis).max(axis=1) > 1e-6)
    if basis.shape[1] == 1:
        signs = np.sign(v).astype(int)
    else:
        known = cone.inside.size * len(free) <= _SIGNED
        signs = np.array([cone.sign(j) if known and j in free else 0 for j in range(len(v))])
    text = {1: " (to +∞)", -1: " (to -∞)", 0: ""}
    which = [called[j] + text[int(signs[j])] for j in free.tolist()]
    return _message(family, y, which, int(cone.rows[cone.moved(v)].sum()))


def _ends(family: Any, y: FloatArray, X: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Return A and E of a family; None of one whose log p falls both ways whatever y is."""
    if family.name in ("bernoulli", "binomial"):
        sign = np.where(y == 0, -1, np.where(y == family.tried, 1, 0))
    elif family.name in ("poisson", "negative_binomial"):
        sign = np.where(y == 0, -1, 0)
    elif family.name == "ordinal":
        return _ordered(y.astype(np.intp), X, family.categories)
    else:
        return None
    return sign[sign != 0, None] * X[sign != 0], X[sign == 0]


def _ordered(code: Any, X: FloatArray, categories: int) -> tuple[FloatArray, FloatArray]:
    """Return the conditions of cutpoints above that do not fall and of ones below that do not rise, beside Xd."""
    steps = np.eye(categories - 1)
    below_last, above_first = code < categories - 1, code > 0
    upper = np.hstack([-X[below_last], steps[code[below_last]]])
    lower = np.hstack([X[above_first], -steps[code[above_first] - 1]])
    return np.vstack([upper, lower]), np.zeros((0, X.shape[1] + categories - 1))


def _message(family: Any, y: FloatArray, which: list[str], rows: int) -> str:
    """Return what is separated by which coefficients, in so many rows that they move, and what to do."""
    of, alone = listed(which), len(which) == 1
    if family.name == "ordinal":
        why = "along it each category lies above the one before, without overlap"
    elif family.name in ("poisson", "negative_binomial"):
        if not y.any():
            return _all_alike("0", len(y), of)
        why = f"all counts are 0 in the {rows} rows that it moves"
    elif (y == 0).all() or (y == family.tried).all():
        return _all_alike("failures" if not y.any() else "successes", len(y), of)
    else:
        why = f"it tells successes from failures without error in the {rows} rows that it moves"
    about = f"the responses are separated by {'the coefficient' if alone else 'a combination'} of {of}"
    theirs = "It has" if alone else "They have"
    return f"{about}: {why}. {theirs} no finite estimate under a flat prior, {_REMEDIES}."


def _absent(codes: list[int], categories: int) -> str:
    one = len(codes) == 1
    return (
        f"categor{'y' if one else 'ies'} {listed(codes)} of the response, counted from 0 to {categories - 1}, "
        f"never occur{'s' * one}, so that the cutpoints beside {'it' if one else 'them'} have no estimate: leave "
        f"{'it' if one else 'them'} out, pd.Categorical(…).remove_unused_categories(), or sample under a proper prior "
        "of the cutpoints."
    )


def _all_alike(what: str, n: int, of: str) -> str:
    return (
        f"all {n} responses are {what}, so that {of} have no finite estimate under a flat prior: such data say only "
        "that the mean is far out. Check how the response is coded; a proper prior of β, beta_cov= of LatentLMM or "
        "priors={'beta': …} of a formula, makes the model one that can be sampled."
    )
