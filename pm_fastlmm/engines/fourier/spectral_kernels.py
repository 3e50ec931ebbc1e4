"""Stationary kernels of unit variance and one lengthscale: correlation, and logarithm of the spectral density."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from scipy.optimize import brentq

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.covariance.lengthscale_kernels import CORRELATIONS
from pm_fastlmm.engines.graphs import INTERPRETED

_SMALLEST = 1e-280  # of a density whose logarithm is taken: what underflows has a gradient of 0, and no NaN
_FARTHEST = 1e3  # lengthscales
_MATERN = {"matern32": 1.5, "matern52": 2.5}
_PYMC_NAMES = {"ExpQuad": "se", "Matern32": "matern32", "Matern52": "matern52"}


@dataclass(frozen=True, slots=True, eq=False)
class SpectralKernel:
    """
    A correlation function k(|x - x'|/ℓ) with its spectral density S_ℓ(ω), ω in radians per unit of x.

    k(x) = (2π)^{-D} ∫ S_ℓ(ω) exp(iωᵀx) dω.

    Attributes
    ----------
    name : str
    dimensions : int
        D, of x.
    make : callable or None
        A PyMC covariance `make(D, ls=ℓ)` for kernels that are not known by name.
    """

    name: str
    dimensions: int
    make: Callable[..., Any] | None = None

    @classmethod
    def of(cls, kernel: Any, dimensions: int) -> "SpectralKernel":
        """
        Read a kernel: a name, or a class of `pymc.gp.cov`, or a function of (D, ls=) that returns such an object.

        Raises
        ------
        ValueError
            If the name is unknown, the object has no spectral density or not the variance 1.
        """
        name = kernel if isinstance(kernel, str) else _PYMC_NAMES.get(getattr(kernel, "__name__", ""))
        if name in ("se", *_MATERN):
            return cls(str(name), dimensions)
        if not callable(kernel) or hasattr(kernel, "input_dim"):
            raise ValueError(
                f"kernel must be 'se', 'matern32', 'matern52', or a class of pymc.gp.cov with one lengthscale, "
                f"got {kernel!r}: sums and anisotropic kernels are given to FourierLMM(kernel=), on a basis for the "
                "roughest of them."
            )
        out = cls(getattr(kernel, "__name__", type(kernel).__name__), dimensions, kernel)
        try:
            at_zero = float(out.correlation(np.zeros(1))[0])
            out.log_density(np.zeros((1, dimensions)), 1.0)
        except (NotImplementedError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{out.name} has no spectral density of one lengthscale ({type(error).__name__}: {error}): use a "
                "kernel of pymc.gp.cov with `power_spectral_density`, or functools.partial of one."
            ) from error
        if abs(at_zero - 1) > 1e-8:
            raise ValueError(
                f"{out.name} has the variance {at_zero:.4g}: the kernel of a basis has 1, sigma2 scales it."
            )
        return out

    def correlation(self, r: FloatArray) -> FloatArray:
        """Return k at distances r, in lengthscales."""
        if self.make is not None:
            x = np.zeros((r.size, self.dimensions))
            x[:, 0] = r
            graph = self.make(self.dimensions, ls=1.0)(x, np.zeros((1, self.dimensions)))
            return np.asarray(graph.eval(mode=INTERPRETED), dtype=float)[:, 0]
        return CORRELATIONS[self.name](np.abs(r))

    def radius(self, level: float) -> float:
        """Return the distance, in lengthscales, at which the correlation has fallen to `level`."""

        def gap(r: float) -> float:
            return float(np.log(np.maximum(self.correlation(np.array([r]))[0], 1e-300))) - math.log(level)

        if gap(_FARTHEST) > 0:
            raise ValueError(
                f"the correlation of {self.name} is above {level} at {_FARTHEST:.0f} lengthscales: a periodic "
                "representation needs a kernel that decays."
            )
        return float(brentq(gap, 1e-9, _FARTHEST))

    def log_density(self, omega: FloatArray, lengthscale: float) -> FloatArray:
        """Return log S_ℓ at frequencies (P, D)."""
        if self.make is None:
            return np.asarray(self._log_density((omega**2).sum(-1), lengthscale, np))
        graph = self.log_density_graph(omega, pt.constant(lengthscale, dtype="float64"))
        return np.asarray(graph.eval(mode=INTERPRETED), dtype=float)

    def log_density_graph(self, omega: FloatArray, lengthscale: Any) -> Any:
        """Return log S_ℓ at frequencies (P, D) as a graph of ℓ."""
        if self.make is None:
            return self._log_density(pt.constant((omega**2).sum(-1)), lengthscale, pt)
        return log_spectral_density(self.make(self.dimensions, ls=lengthscale), omega)

    def _log_density(self, omega2: Any, lengthscale: Any, xp: Any) -> Any:
        """Return log S of the kernels that have a name (Rasmussen & Williams 2006, eqs. 4.11 and 4.15)."""
        D = self.dimensions
        scaled = lengthscale**2 * omega2
        if self.name == "se":
            return D / 2 * math.log(2 * math.pi) + D * xp.log(lengthscale) - 0.5 * scaled
        nu = _MATERN[self.name]
        constant = (
            D * math.log(2) + D / 2 * math.log(math.pi) + math.lgamma(nu + D / 2) - math.lgamma(nu)
            + nu * math.log(2 * nu)
        )  # fmt: skip
        return constant + D * xp.log(lengthscale) - (nu + D / 2) * xp.log(2 * nu + scaled)


def log_spectral_density(covariance: Any, omega: FloatArray) -> Any:
    """
    Return log S of any `pymc.gp.cov` object at frequencies (P, D), as a graph of its parameters.

    Raises
    ------
    ValueError
        If it has none: products, periodic and non-stationary kernels.
    """
    try:
        density = covariance.power_spectral_density(pt.constant(omega))
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{type(covariance).__name__} has no spectral density ({error}): sums and multiples of ExpQuad, Matern32, "
            "Matern52 and RatQuad of pymc.gp.cov have one."
        ) from error
    return pt.log(pt.maximum(density, _SMALLEST))
