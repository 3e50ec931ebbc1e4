"""Stationary kernels with one lengthscale, as functions ℓ ↦ K of given coordinates or distances."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from pm_fastlmm.base.arrays import FloatArray, Labelled, read, require_finite

type Kernel = Callable[[float], Any]


_5, _3 = np.sqrt(5), np.sqrt(3)

# k(r/ℓ), Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, equations 4.9, 4.14, 4.17
CORRELATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "se": lambda r: np.exp(-(r**2) / 2),
    "matern52": lambda r: (1 + _5 * r + (_5 * r) ** 2 / 3) * np.exp(-_5 * r),
    "matern32": lambda r: (1 + _3 * r) * np.exp(-_3 * r),
    "matern12": lambda r: np.exp(-r),
}


def read_coordinates(x: Any, name: str = "x") -> Labelled:
    """Return coordinates (n, D), labelled."""
    given = read(x, name, ndim=(1, 2))
    require_finite(given.values, name, "leave those rows out.")
    values = given.values[:, None] if given.values.ndim == 1 else given.values
    return Labelled(values, given.ids, given.names)


def between(kernel: Any, x: FloatArray, other: FloatArray) -> Kernel:
    """
    Return ℓ ↦ K of the rows of x (m, D) with those of other (n, D), Euclidean distances.

    `kernel` is a name, or a class of `pm.gp.cov` that is called with the number of dimensions and ls=ℓ.
    """
    if isinstance(kernel, str):
        return OfDistances(kernel, cdist(x, other))
    if not callable(kernel):
        raise TypeError(
            f"kernel must be one of {', '.join(CORRELATIONS)} or a class of pm.gp.cov with one lengthscale ls, got "
            f"{type(kernel).__name__}; a function that returns K of the lengthscale goes to from_function."
        )
    return _OfClass(kernel, x, other)


@dataclass(frozen=True, slots=True, eq=False)
class OfDistances:
    """ℓ ↦ k(r/ℓ) of distances r, k by its name."""

    name: str
    distances: FloatArray

    def __post_init__(self) -> None:
        """Raise a ValueError if no kernel has this name."""
        if self.name not in CORRELATIONS:
            raise ValueError(
                f"kernel {self.name!r} is not known: it is one of {', '.join(CORRELATIONS)}, or a pm.gp.cov class."
            )

    def __call__(self, lengthscale: float) -> FloatArray:
        """Return K."""
        return CORRELATIONS[self.name](self.distances / lengthscale)


@dataclass(frozen=True, eq=False)
class _OfClass:
    """ℓ ↦ K of a class of `pm.gp.cov`, compiled when it is first called, also in another process."""

    kernel: Any
    x: FloatArray
    other: FloatArray

    def __call__(self, lengthscale: float) -> Any:
        """Return K."""
        return self._compiled(lengthscale)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the parts without what was compiled of them."""
        return type(self), (self.kernel, self.x, self.other)

    @cached_property
    def _compiled(self) -> Kernel:
        import pytensor
        import pytensor.tensor as pt

        symbol = pt.dscalar("lengthscale")
        graph = self.kernel(self.x.shape[1], ls=symbol)(pt.constant(self.x), pt.constant(self.other))
        compiled: Kernel = pytensor.function([symbol], graph)
        return compiled
