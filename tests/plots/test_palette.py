"""Colours are seen on white and on a dark page, and told apart by all."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pm_fastlmm.plots import palette

COLOURS = [palette.ESTIMATE, palette.POSTERIOR, palette.DATA, palette.EXPECTED, palette.SECOND]
# of linear RGB: Machado, Oliveira & Fernandes (2009), doi:10.1109/TVCG.2009.113, severity 1
SIGHT = {
    "common": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("page", ["white", "#14181e", "black"])
def test_every_colour_has_the_contrast_of_graphics_with_the_page(page):
    behind = TO_XYZ[1] @ linear(page)
    for colour in COLOURS:
        lighter, darker = sorted([TO_XYZ[1] @ linear(colour), behind], reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3  # WCAG 2, 1.4.11


@pytest.mark.parametrize("sight", SIGHT)
def test_meanings_are_told_apart_by_the_colour_blind(sight):
    seen = [lab(np.array(SIGHT[sight]) @ linear(colour)) for colour in COLOURS[:4]]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12
