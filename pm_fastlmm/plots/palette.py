"""
The colours of all figures, each with one meaning, and the axes that they are drawn on.

They are of Okabe and Ito's palette, which people with any of the common colour blindnesses tell apart, darkened where
that is needed for a contrast of 3 with white; they have it with a dark page too. Text, ticks and background are those
of the Matplotlib style: `plt.style.context("dark_background")` draws a figure for a dark page.

References
----------
Okabe & Ito (2008), Color Universal Design, https://jfly.uni-koeln.de/color/.
"""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ESTIMATE = "#d55e00"
"""What a fit estimates by REML or ML, with its interval; its likelihood."""
POSTERIOR = "#0077bb"
"""Posterior draws, densities and intervals."""
DATA = "#707070"
"""Observations, and what is computed of each of them."""
EXPECTED = "#009e73"
"""What a model or a null hypothesis expects: lines, bands and thresholds."""
SECOND = "#b8609a"
"""The second of two kinds that take turns."""

SERIES = (POSTERIOR, ESTIMATE, EXPECTED, SECOND, DATA)
"""Of curves without such a meaning, in their order; line styles tell them apart too."""
STYLES = ("-", "--", "-.", ":")
SEQUENCE = "cividis"
"""The colour map of a matrix: light means more, for every eye."""

WIDTH, HEIGHT = 5.0, 3.4  # inches: at 400 pixels of width a font of 10 points has 11 pixels


def axes(ax: Axes | None, height: float = HEIGHT) -> Any:
    """Return the axes, or new ones."""
    return plt.subplots(figsize=(WIDTH, height), layout="constrained")[1] if ax is None else ax


def panels(rows: int, columns: int, height: float = HEIGHT) -> Any:
    """Return a (rows, columns) array of axes."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False)[1]
