"""Linear mixed models and Gaussian processes with a known covariance, for PyMC."""

import lazy_loader

__version__ = "0.1.0"

# the names of __init__.pyi, each imported when it is first used: `import pm_fastlmm` costs next to nothing
__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    """Return what a user may want to complete: the public names, and not the modules that they come from."""
    return [*__all__, "__version__", "__doc__"]
