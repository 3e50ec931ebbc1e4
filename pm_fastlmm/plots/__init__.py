"""Figures of fits, scans, kernels and posteriors, in colours that keep their meaning: see `palette`."""

import lazy_loader

# each figure is imported when it is first used: `flmm.plots` alone loads no Matplotlib
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
