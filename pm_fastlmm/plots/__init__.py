"""
Figures of fits, scans, kernels and posteriors.

They are 5 inches wide, to be read at 400 pixels, and drawn in the current Matplotlib style: within
``plt.style.context("dark_background")`` they are for a dark page. A colour has one meaning in all of them: vermillion
is an estimate, blue a posterior, green what a model or a null hypothesis expects, grey the data.
"""

import lazy_loader

# each figure is imported when it is first used: `flmm.plots` alone loads no Matplotlib
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
