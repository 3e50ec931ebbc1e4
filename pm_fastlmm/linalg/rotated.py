"""Rotated: what depends on y as well as on K and X, the sufficient statistic."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pm_fastlmm._arrays import EPS, FloatArray, frozen
from pm_fastlmm._copies import ReadOnlyArrays
from pm_fastlmm._display import Described, listed

if TYPE_CHECKING:
    from pm_fastlmm.linalg.spectrum import Spectrum


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rotated(ReadOnlyArrays, Described):
    """
    Rotated responses: the sufficient statistic of the model. Batch axes lead, the core axis is last.

    Attributes
    ----------
    spectrum : Spectrum
        What y was rotated by.
    z : (…, k) array
        (Q₂U)ᵀy ~ N(0, σ²(λ + δ)).
    rss : (…,) array
        Squared norm of y in the `nullity` directions with λ = 0: σ²δ times a χ² with `nullity` degrees of freedom.
        Exactly 0 when there are none, or when nothing but rounding is left.
    y1 : (…, r) array
        Q₁ᵀy, the part of y along X.
    norm2 : (…,) array
        ‖y‖² orthogonal to X, Σz² + rss; exactly 0 when X explains y to rounding.
    names : tuple of str or None
        Names of several responses; None for one.
    null_first : (…,) array or None
        Inner products with the first response in the directions with λ = 0. Only of cross-products, which have no rows
        of which they could be formed when a scan needs them.
    """

    spectrum: "Spectrum"
    z: FloatArray
    rss: FloatArray
    y1: FloatArray
    norm2: FloatArray
    names: tuple[str, ...] | None
    null_first: FloatArray | None = None

    @classmethod
    def from_values(cls, spectrum: "Spectrum", values: FloatArray, names: tuple[str, ...] | None) -> Self:
        """Rotate validated values (n,) or (n, T)."""
        projection = spectrum.projection
        y1 = projection.Q1.T @ values
        y2 = values - projection.Q1 @ y1
        z = y2.T @ spectrum.basis  # one row for each response, contiguous
        null = y2 - spectrum.basis @ z.T if spectrum.nullity else None
        return cls.from_coordinates(spectrum, values, names, z=z.T, null=null, y1=y1, y2=y2)

    @classmethod
    def from_coordinates(
        cls,
        spectrum: "Spectrum",
        values: FloatArray,
        names: tuple[str, ...] | None,
        *,
        z: FloatArray,
        null: FloatArray | None,
        y1: FloatArray,
        y2: FloatArray,
    ) -> Self:
        """
        Return what was rotated elsewhere: (k, T) coordinates z, `null` in the null directions, y1 along X, y2 the rest.

        For one response the columns may be left out or be a single one. What is rounding becomes an exact 0.
        """
        size = np.einsum("i...,i...->...", values, values)
        rounding = (spectrum.n * EPS) ** 2 * size
        z, y1, y2 = (part.reshape(-1, *values.shape[1:]) for part in (z, y1, y2))
        norm2 = np.einsum("i...,i...->...", y2, y2)
        explained = norm2 <= rounding
        rss = np.zeros_like(norm2)
        if spectrum.nullity and null is not None:
            null = null.reshape(-1, *values.shape[1:])
            rss = np.einsum("i...,i...->...", null, null)
            rss = np.where(rss <= rounding, 0.0, rss)
        z = np.ascontiguousarray(z.T)
        return cls(
            spectrum=spectrum,
            z=frozen(np.where(explained[..., None], 0.0, z) if explained.any() else z),
            rss=frozen(np.where(explained, 0.0, rss)),
            y1=frozen(np.ascontiguousarray(y1.T)),
            norm2=frozen(np.where(explained, 0.0, norm2)),
            names=names,
        )

    def first(self) -> Self:
        """Return the first of several responses as one."""
        return replace(
            self, z=self.z[0], rss=self.rss[0], y1=self.y1[0], norm2=self.norm2[0], names=None, null_first=None
        )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """() for one response, (T,) for several."""
        return self.z.shape[:-1]

    def __repr__(self) -> str:
        """Show what was rotated."""
        responses = "1 response" if self.names is None else f"{len(self.names)} responses"
        return f"Rotated({responses}, rank={self.spectrum.rank}, nullity={self.spectrum.nullity})"

    def _facts(self) -> dict[str, Any]:
        s = self.spectrum
        return {
            "responses": 1 if self.names is None else f"{len(self.names)}: {listed(self.names)}",
            "observations": s.n,
            "positive eigenvalues": s.rank,
            "directions with λ = 0": s.nullity,
            "fixed effects": listed(s.coef),
        }
