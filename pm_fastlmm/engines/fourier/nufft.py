"""Nonuniform FFTs by finufft, at its full precision: the statistics add millions of terms and are then inverted."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray

type ComplexArray = npt.NDArray[np.complex128]

_TOLERANCE = 1e-14


def to_modes(angles: FloatArray, strengths: npt.NDArray[Any], shape: tuple[int, ...]) -> ComplexArray:
    """Return Σ_n c_n exp(-i jᵀθ_n) for |j| ≤ (shape - 1)/2, strengths (n,)."""
    points = [np.ascontiguousarray(column) for column in angles.T]
    transform = getattr(_finufft(), f"nufft{len(points)}d1")
    strengths = np.ascontiguousarray(strengths, dtype=np.complex128)
    return np.asarray(transform(*points, strengths, shape, isign=-1, eps=_TOLERANCE))


def at_points(angles: FloatArray, modes: ComplexArray) -> ComplexArray:
    """Return Σ_j f_j exp(i jᵀθ) at points, for modes of shape (*shape,) or (T, *shape); (n,) or (T, n)."""
    points = [np.ascontiguousarray(column) for column in angles.T]
    transform = getattr(_finufft(), f"nufft{len(points)}d2")
    return np.asarray(transform(*points, np.ascontiguousarray(modes), isign=1, eps=_TOLERANCE))


def _finufft() -> Any:
    try:
        import finufft
    except ImportError as error:
        raise ImportError("Fourier bases need finufft: pip install 'pm_fastlmm[fourier]'.") from error
    return finufft
