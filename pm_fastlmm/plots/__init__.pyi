"""The figures, for type checkers and for `__init__.py`, which imports each when it is first used."""

from .heritability import plot_h2_intervals as plot_h2_intervals
from .heritability import plot_h2_posterior as plot_h2_posterior
from .heritability import plot_implied_h2 as plot_implied_h2
from .profile import plot_profile as plot_profile

__all__ = [
    "plot_h2_intervals",
    "plot_h2_posterior",
    "plot_implied_h2",
    "plot_profile",
]
