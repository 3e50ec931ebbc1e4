"""Simulated responses in the rotated coordinates: O(k) numbers each, whatever n is."""

from dataclasses import replace

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, slices
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.kernel.likelihood.spectral import corner, variances
from pm_fastlmm.spectrum.spectrum import Rotated, Spectrum

_MEMORY = 4_000_000  # numbers that are drawn at a time


def blocks(count: int, numbers: int) -> list[int]:
    """Return how many responses, of so many numbers each, are drawn at a time."""
    most = max(64, _MEMORY // max(1, numbers))
    return [part.stop - part.start for part in slices(count, most)]


def simulate_contrasts(
    spectrum: Spectrum, sigma2_g: FloatArray | float, sigma2_e: FloatArray | float, size: int, rng: np.random.Generator
) -> Rotated:
    """
    Draw z ~ N(0, σ²_gλ + σ²_e) and rss ~ σ²_eχ²_ν: responses as the restricted likelihood sees them, y₁ = 0.

    The variances are numbers, or one for each of the `size` responses.
    """
    g, e = (np.broadcast_to(np.asarray(v, dtype=float), (size,)) for v in (sigma2_g, sigma2_e))
    z = rng.standard_normal((size, spectrum.rank))
    z *= np.sqrt(variances(spectrum.eigvals, g, e))
    rss = e * rng.chisquare(spectrum.nullity, size) if spectrum.nullity else np.zeros(size)
    return Rotated(
        spectrum=spectrum, z=z, rss=rss, y1=np.zeros((size, spectrum.projection.rank)),
        norm2=np.einsum("ti,ti->t", z, z) + rss, names=tuple(f"draw {t}" for t in range(size)),
    )  # fmt: skip


def simulate_responses(
    spectrum: Spectrum, beta: FloatArray, sigma2_g: float, sigma2_e: float, size: int, rng: np.random.Generator
) -> Rotated:
    """Draw whole responses of one parameter: the contrasts, and y₁ | z ~ N(Rβ + σ²_gCᵀ(z/d), S)."""
    drawn = simulate_contrasts(spectrum, sigma2_g, sigma2_e, size, rng)
    g, e = np.full(size, float(sigma2_g)), np.full(size, float(sigma2_e))
    along, S = corner(drawn.z, eigvals=spectrum.eigvals, C=spectrum.C, schur=spectrum.schur, sigma2_g=g, sigma2_e=e)
    root = semidefinite_root(S[0] if size else np.zeros((0, 0)))
    noise = rng.standard_normal((size, len(root))) @ root.T
    return replace(drawn, y1=spectrum.projection.R @ beta + along + noise)
