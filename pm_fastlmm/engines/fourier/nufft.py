"""Nonuniform FFTs by finufft, at its full precision: the statistics add millions of terms and are then inverted."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray

type ComplexArray = npt.NDArray[np.complex128]

_TOLERANCE = 1e-14


def to_modes(angles: FloatArray, strengths: npt.NDArray[Any], shape: tuple[int, ...]) -> ComplexArray:
    """Return Σ_n c_n exp(-i jᵀθ_n) for |j| ≤ (shape - 1)/2, strengths (n,)."""
    return _transform(angles, 1, np.ascontiguousarray(strengths, dtype=np.complex128), shape, isign=-1)


def at_points(angles: FloatArray, modes: ComplexArray) -> ComplexArray:
    """Return Σ_j f_j exp(i jᵀθ) at points, for modes of shape (*shape,) or (T, *shape); (n,) or (T, n)."""
    return _transform(angles, 2, np.ascontiguousarray(modes), isign=1)


def _transform(angles: FloatArray, kind: int, *args: Any, isign: int) -> ComplexArray:
    try:
        import finufft
    except ImportError as error:
        raise ImportError("Fourier bases need finufft: pip install 'pm_fastlmm[fourier]'.") from error
    points = [np.ascontiguousarray(column) for column in angles.T]
    return np.asarray(getattr(finufft, f"nufft{len(points)}d{kind}")(*points, *args, isign=isign, eps=_TOLERANCE))
