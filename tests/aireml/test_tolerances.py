"""When an iteration has converged: tolerances, and what rounding of the log-likelihood hides."""

import pytest

from pm_fastlmm.aireml.iteration import Tolerances


@pytest.mark.parametrize(
    ("decrement", "step", "loglik", "held"),
    [
        (1e-13, 1e-6, -900.0, True),
        (1e-11, 1e-6, -900.0, False),  # a gain that ℓ shows
        (1e-11, 1e-6, -1.4e6, True),  # of which ℓ shows 3e-10
        (1e-9, 1e-6, -1.4e6, False),
        (1e-13, 1e-4, -900.0, False),
        (1e-13, 1e-4, -1.4e6, False),  # rounding of ℓ says nothing of steps
    ],
)
def test_a_gain_below_the_rounding_of_the_log_likelihood_is_none(decrement, step, loglik, held):
    assert Tolerances().hold(decrement, step, loglik) is held


def test_what_is_switched_off_is_not_asked_for():
    assert Tolerances(score=None, loglik=None).hold(1.0, 1e-6, 0.0)
    assert Tolerances(step=None).hold(1e-13, 1.0, 0.0)
    assert not Tolerances(step=None).hold(1e-5, 0.0, 0.0)
