"""The figures, for type checkers and for `__init__.py`, which imports each when it is first used."""

from .effects import plot_effects as plot_effects
from .heritability import plot_h2_intervals as plot_h2_intervals
from .heritability import plot_h2_posterior as plot_h2_posterior
from .heritability import plot_implied_h2 as plot_implied_h2
from .kinship import plot_kinship as plot_kinship
from .profile import plot_profile as plot_profile
from .residuals import plot_diagnostics as plot_diagnostics
from .residuals import plot_leverage as plot_leverage
from .residuals import plot_loo as plot_loo
from .residuals import plot_residual_qq as plot_residual_qq
from .residuals import plot_residuals as plot_residuals
from .residuals import plot_scale_location as plot_scale_location
from .scan import plot_manhattan as plot_manhattan
from .scan import plot_scan_qq as plot_scan_qq
from .shares import plot_shares as plot_shares
from .spatial import plot_correlation as plot_correlation
from .spatial import plot_variogram as plot_variogram

__all__ = [
    "plot_correlation",
    "plot_diagnostics",
    "plot_effects",
    "plot_h2_intervals",
    "plot_h2_posterior",
    "plot_implied_h2",
    "plot_kinship",
    "plot_leverage",
    "plot_loo",
    "plot_manhattan",
    "plot_profile",
    "plot_residual_qq",
    "plot_residuals",
    "plot_scale_location",
    "plot_scan_qq",
    "plot_shares",
    "plot_variogram",
]
