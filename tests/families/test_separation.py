"""Separation: which coefficients have no finite estimate, and what is said of them."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from pm_fastlmm.families.choice import family_of
from pm_fastlmm.families.separation import separated

NONE = np.zeros(0)
DOSE = np.column_stack([np.ones(8), np.arange(8.0)])
NAMES = ("Intercept", "dose")


def _separated_in_the_plane(y, X):
    """Try the directions between all at which a row of X changes its sign, and those themselves."""
    turned = X[np.any(X != 0, axis=1)] @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    angles = np.sort(np.arctan2(*np.vstack([turned, -turned]).T[::-1]))
    angles = np.concatenate([angles, angles + np.diff(angles, append=angles[:1] + 2 * np.pi) / 2])
    for angle in angles:
        moved = X @ [np.cos(angle), np.sin(angle)]
        moved[np.abs(moved) < 1e-12] = 0
        along = np.where(y == 1, moved, -moved)
        if (along >= 0).all() and along.any():
            return True
    return False


@pytest.mark.parametrize("seed", range(60))
def test_a_linear_program_finds_what_all_directions_of_a_plane_find(seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(-3, 4, size=(5, 2)).astype(float)
    y = rng.integers(0, 2, size=5).astype(float)
    assert bool(separated(family_of("bernoulli"), y, X, ("a", "b"))) == _separated_in_the_plane(y, X)


def test_both_verdicts_occur_among_random_designs():
    """The test above compares something."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X, y = rng.integers(-3, 4, size=(5, 2)).astype(float), rng.integers(0, 2, size=5).astype(float)
        found.append(_separated_in_the_plane(y, X))
    assert 10 < sum(found) < 50


def _ridge(family, y, X, precision, psi=NONE):
    """Return the estimate under a normal prior of this precision."""
    r = X.shape[1]

    def lost(v):
        own = v[r:] if family.name == "ordinal" else psi
        if (np.diff(own) <= 0).any():
            return np.inf
        return -family.log_density(y, X @ v[:r], own).sum() + precision / 2 * v @ v

    start = np.zeros(r) if family.name != "ordinal" else np.concatenate([np.zeros(r), np.arange(family.categories - 1)])
    options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-6, "fatol": 1e-12}
    return minimize(lost, minimize(lost, start, method="Powell").x, method="Nelder-Mead", options=options).x


LEVELS = np.repeat([0, 1, 2], 4)
FACTOR = np.column_stack([np.ones(12), LEVELS == 1, LEVELS == 2]).astype(float)
CASES = {
    "a level of zeros": ("bernoulli", [0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1], FACTOR, {"b": -1}),
    "a level of ones": ("bernoulli", [0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1], FACTOR, {"b": 1}),
    "the reference of zeros": ("bernoulli", [0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1], FACTOR, {"a": -1, "b": 1, "c": 1}),
    "counts of zero": ("poisson", [0, 3, 1, 0, 2, 1, 0, 4, 0, 0, 0, 0], FACTOR, {"c": -1}),
    "no separation": ("bernoulli", [0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1], FACTOR, {}),
    "counts everywhere": ("poisson", [0, 3, 1, 0, 2, 1, 0, 4, 0, 1, 0, 0], FACTOR, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_named_coefficients_are_those_that_grow_as_a_prior_widens(case):
    name, y, X, expected = CASES[case]
    family, y = family_of(name), np.array(y, dtype=float)
    near, far = (_ridge(family, y, X, precision) for precision in (1e-3, 1e-5))
    growing = np.abs(far - near) > 1
    message = separated(family, y, X, ("a", "b", "c"))
    signs = {"a": 0, "b": 0, "c": 0}
    for column in signs:
        signs[column] = (f"{column} (to +∞)" in message) - (f"{column} (to -∞)" in message)
    assert {column: sign for column, sign in signs.items() if sign} == expected
    assert dict(zip("abc", np.sign(far - near) * growing, strict=True)) == signs


def test_cutpoints_go_with_a_covariate_that_orders_the_categories():
    family, y = family_of("ordinal", categories=3), np.array([0.0, 0, 1, 1, 1, 2, 2, 2])
    assert "dose (to +∞), cutpoint[1] (to +∞), cutpoint[2] (to +∞)" in separated(family, y, DOSE[:, 1:], ("dose",))
    near, far = (_ridge(family, y, DOSE[:, 1:], precision) for precision in (1e-2, 1e-4))
    assert (far > near + 1).all()


def test_categories_that_overlap_are_not_separated():
    family, y = family_of("ordinal", categories=3), np.array([0.0, 1, 0, 1, 2, 1, 2, 2])
    assert not separated(family, y, DOSE[:, 1:], ("dose",))


def test_the_verdict_does_not_depend_on_units_or_coding():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(3, 3)) * [1e-4, 1.0, 1e4]
    for name, y, X, expected in CASES.values():
        message = separated(family_of(name), np.array(y, dtype=float), X @ A, ("p", "q", "s"))
        assert bool(message) == bool(expected)


def test_trials_with_both_outcomes_overlap_with_themselves():
    X = np.column_stack([np.ones(4), [0.0, 0, 1, 1]])
    family = family_of("binomial", trials=np.full(4, 5))
    assert not separated(family, np.array([1.0, 0, 4, 5]), X, NAMES)
    assert "dose (to +∞)" in separated(family, np.array([1.0, 0, 5, 5]), X, NAMES)


def test_no_family_whose_density_falls_both_ways_is_separated():
    assert not separated(family_of("gamma"), np.arange(1.0, 9), DOSE, NAMES)


def test_without_coefficients_there_is_nothing_to_separate():
    assert not separated(family_of("bernoulli"), np.zeros(8), np.zeros((8, 0)), ())


def test_a_sparse_design_is_read():
    import scipy.sparse as sp

    y = np.array([0.0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1])
    assert separated(family_of("bernoulli"), y, sp.csr_array(FACTOR), ("a", "b", "c")) == separated(
        family_of("bernoulli"), y, FACTOR, ("a", "b", "c")
    )


def test_separation_says_what_to_do():
    y = (DOSE[:, 1] > 3).astype(float)
    message = separated(family_of("bernoulli", "probit"), y, DOSE, NAMES)
    assert message.startswith(
        "the responses are separated by a combination of Intercept (to -∞), dose (to +∞): it tells"
    )
    for part in ("8 rows", "beta_cov= of LatentLMM", "priors={'beta': …}", "leave the column out", "(1 | factor)"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "y", "what"),
    [("bernoulli", 0, "all 8 responses are failures"), ("bernoulli", 1, "all 8 responses are successes"),
     ("poisson", 0, "all 8 responses are 0"), ("negative_binomial", 0, "all 8 responses are 0")],
)  # fmt: skip
def test_responses_that_are_all_alike_are_said_to_be(name, y, what):
    message = separated(family_of(name), np.full(8, float(y)), DOSE, NAMES)
    assert what in message
    assert "Check how the response is coded" in message
    assert ("Intercept (to +∞)" if y else "Intercept (to -∞)") in message


def test_a_category_that_never_occurs_is_named():
    family = family_of("ordinal", categories=4)
    for absent, text in (((1,), "category 1 of"), ((0, 3), "categories 0, 3 of")):
        y = np.array(list(itertools.islice(itertools.cycle(set(range(4)) - set(absent)), 8)), dtype=float)
        message = separated(family, y, DOSE[:, 1:], ("dose",))
        assert text in message
        assert "remove_unused_categories" in message


def test_an_estimate_beyond_a_million_rows_of_numbers_is_not_looked_for():
    assert not separated(family_of("bernoulli"), np.zeros(1), np.broadcast_to(1.0, (1, 30_000_000)), ())
