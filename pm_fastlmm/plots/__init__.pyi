"""The figures, for type checkers and for `__init__.py`, which imports each when it is first used."""

from .heritability import plot_h2_intervals as plot_h2_intervals
from .heritability import plot_h2_posterior as plot_h2_posterior
from .heritability import plot_implied_h2 as plot_implied_h2
from .profile import plot_profile as plot_profile
from .residuals import plot_diagnostics as plot_diagnostics
from .residuals import plot_leverage as plot_leverage
from .residuals import plot_loo as plot_loo
from .residuals import plot_residual_qq as plot_residual_qq
from .residuals import plot_residuals as plot_residuals
from .residuals import plot_scale_location as plot_scale_location

__all__ = [
    "plot_diagnostics",
    "plot_h2_intervals",
    "plot_h2_posterior",
    "plot_implied_h2",
    "plot_leverage",
    "plot_loo",
    "plot_profile",
    "plot_residual_qq",
    "plot_residuals",
    "plot_scale_location",
]
