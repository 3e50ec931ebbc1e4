"""The node of a MatrixLMM."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pymc as pm
import xarray as xr

from pm_fastlmm.base.arrays import FloatArray, Ids
from pm_fastlmm.base.semidefinite import semidefinite_root
from pm_fastlmm.covariance.matrices import Unstructured
from pm_fastlmm.covariance.structures import Diagonal
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.engines.draws import Draws
from pm_fastlmm.engines.labels import labelled, over_coef
from pm_fastlmm.engines.matrix.at_theta import TraitsAtTheta
from pm_fastlmm.engines.matrix.effects import TraitDraws, draw_traits
from pm_fastlmm.engines.matrix.matrixlmm import carried_by, read_traits
from pm_fastlmm.engines.matrix.variables import MatrixLMMRV, entries
from pm_fastlmm.engines.prediction import Design, Effects, NewRows, Predictive
from pm_fastlmm.engines.protocol import answers_for, observed_data
from pm_fastlmm.engines.structured.new_rows import NewTermRows
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.kernel.effects.effects import new_rows
from pm_fastlmm.kernel.effects.left_out import Groups
from pm_fastlmm.spectrum.spectrum import Spectrum


class NewTraitRows(NamedTuple):
    """X (m, r) of new rows, their covariances with those of the data, none for the population, and their ids."""

    X: FloatArray
    kernel: Any
    ids: Ids | None
    offset: None = None


@answers_for(MatrixLMMRV)
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MatrixNode(StructuredNode):
    """
    A MatrixLMM node: that of one term in rows of one trait each, of which a matrix is made for the user.

    Attributes
    ----------
    mean : TensorVariable
        mu of all entries, (t, n).
    """

    called: ClassVar[str] = "MatrixLMM"
    law: ClassVar[str] = "N(XB, Σ_g ⊗ K + Σ_e ⊗ I)"
    at_theta: ClassVar[type[AtTheta]] = TraitsAtTheta
    takes: ClassVar[tuple[str, ...]] = ("X_new", "K_new", "W_new", "K_new_new", "data")
    takes_of_population: ClassVar[tuple[str, ...]] = ("X_new", "data")

    mean: Any = None

    @property
    def last_length(self) -> int:
        """How many entries were observed."""
        return self.products.n

    @property
    def kernel(self) -> Spectrum:
        """The spectrum of K and X."""
        spectrum: Spectrum = self.products.spectrum  # type: ignore[attr-defined]
        return spectrum

    @property
    def traits(self) -> tuple[str, ...]:
        """Names of the traits."""
        return self.terms[0].columns

    @property
    def partly_observed(self) -> FloatArray | None:
        """Y, NaN where an entry was not observed."""
        some = self.observed is not None and not self.products.seen.all()  # type: ignore[attr-defined]
        return self.placed(self.observed) if some else None

    def placed(self, values: FloatArray) -> FloatArray:
        """Return values (…, N) of what was observed as (…, t, n), NaN elsewhere."""
        seen = self.products.seen  # type: ignore[attr-defined]
        out = np.full((*values.shape[:-1], *seen.shape), np.nan)
        out[..., seen] = values
        return out

    def observing(self, y: Any) -> Self:
        """
        Return the node with another Y: a table of traits, an array (n, t) or (t, n), or the entries (N,) observed.

        Raises
        ------
        ValueError
            If it does not fit the rows or the traits, or was observed in other entries.
        """
        seen = self.products.seen  # type: ignore[attr-defined]
        if np.ndim(y) == 2:
            t, plain = len(self.traits), not (hasattr(y, "columns") or hasattr(y, "dims"))
            y = np.asarray(y).T if plain and np.shape(y) == (self.kernel.n, t) and t != self.kernel.n else y
            Y, _ = read_traits(y, self.kernel, t, self.traits)
            assert Y is not None  # it was given
            if not np.array_equal(~np.isnan(Y), seen):
                raise ValueError(
                    f"y was observed in other entries than {self.name}: a refit is of the same; fit it anew."
                )
            y = Y[seen]
        return super(MatrixNode, self).observing(y)

    def read_groups(self, groups: Any) -> Groups:
        """Read a label for each row of the kernel; a group has what was observed of all traits of its rows."""
        s, rows = self.kernel, self.products.records.record
        found = Groups.read(groups, s.ids, s.n)
        own = [np.flatnonzero(np.isin(rows, members)) for members in found.members]
        kept = [(label, entries) for label, entries in zip(found.labels, own, strict=True) if len(entries)]
        return Groups(tuple(label for label, _ in kept), [entries for _, entries in kept])

    def recover(self, draws: Draws, which: Sequence[str] | None, rng: np.random.Generator) -> dict[str, xr.DataArray]:
        """Draw B, and U of all rows."""
        drawn, _, _ = self._drawn(draws, rng)
        beta = drawn.coefficients
        own = {f"{self.name}_effects": self.traits, self.terms[0].name: self.terms[0].levels}
        return {
            "beta": over_coef(draws.model, self, beta.reshape(*draws.shape, -1)),
            self.terms[0].name: labelled(draws.model, self, drawn.effects(rng), own),
        }

    def _drawn(self, draws: Draws, rng: np.random.Generator) -> tuple[TraitDraws, FloatArray, FloatArray]:
        """Return draws of B and U, of Σ_e, and mu of all entries."""
        theta, mu, b, mean = draws.evaluate([self.theta, self.mu, self.beta_mean, self.mean])
        matrices = [self.layout.numbers(values) for values in theta.reshape(-1, theta.shape[-1])]
        shape, t = draws.shape, len(self.traits)
        sigma, noise = (
            np.broadcast_to(np.reshape(own, (*theta.shape[:-1], t, t)), (*shape, t, t))
            for own in ([sigma[0] for sigma, _ in matrices], [noise for _, noise in matrices])
        )
        moves = bool(np.ptp(mu, axis=(0, 1)).any())
        y = self._scaled(self.observed - (np.broadcast_to(mu, (*shape, self.n)) if moves else mu[0, 0]))
        products: Any = self.products
        if products.prior:  # which relates the traits: B is drawn first, and is known to what follows
            beta, products = self._draw(draws, rng).beta, products.treated(1, flat=False)
        else:
            beta = np.broadcast_to(b, (*shape, b.shape[-1])) if self.treatment == "proper" else np.zeros(0)
        return draw_traits(products, sigma, noise, y, beta, rng), noise, mean

    def read(self, new: NewRows, effects: Effects) -> Any:
        """Read X, and covariances with the rows of the data or rows of the factor."""
        if new.in_sample:
            return None
        if new.data is not None:  # rows of one trait of one record each, as the formula has them
            return super(MatrixNode, self).read(new, effects)
        s = self.kernel
        if effects == "population":
            design = Design.read(s.design, new.X_new)
            return NewTraitRows(design.X, None, design.ids)
        kernel = new_rows(s, new.X_new, new.K_new, W_new=new.W_new, K_new_new=new.K_new_new)
        return NewTraitRows(kernel.a @ s.projection.R, kernel, kernel.ids)

    def predict(self, draws: Draws, rows: Any, effects: Effects, rng: np.random.Generator) -> Predictive:
        """
        Draw f = XB + U of all entries or of new rows, and Y = f + E, (chain, draw, t, rows).

        Rows of a table have one trait each, and no dimension of traits.
        """
        if isinstance(rows, NewTermRows):
            return super(MatrixNode, self).predict(draws, rows, effects, rng)
        drawn, noise, mean = self._drawn(draws, rng)
        s, new = self.kernel, rows is not None
        f = drawn.coefficients @ (rows.X if new else s.X).T
        if effects != "population":
            f = f + (drawn.new_effects(rows.kernel, rng) if new else drawn.effects(rng, anew=effects == "new"))
        f = f + self.mean_at(rows, mean)
        e = semidefinite_root(noise) @ rng.standard_normal(f.shape)
        return Predictive(f, f + (e if new else s.weights.unscaled(e)), rows.ids if new else None)

    def derived(self, *values: FloatArray) -> dict[str, FloatArray]:
        """Return the variances that K and the residuals give an entry of each trait on average, and h²."""
        (theta,) = values
        s, t = self.kernel, len(self.traits)
        own = np.empty((2, *theta.shape[:2], t))
        for at in np.ndindex(*theta.shape[:2]):
            sigma, noise = self.layout.numbers(theta[at])
            own[0][at], own[1][at] = s.mean_diagonal * np.diag(sigma[0]), np.diag(noise)
        own /= s.mean_weight
        return {"variance_K": own[0], "variance_e": own[1], "h2": own[0] / own.sum(axis=0)}

    def components(self) -> dict[str, list[str]]:
        """Return the traits."""
        return {f"{self.name}_trait": list(self.traits)}

    @classmethod
    def from_spectrum(
        cls, name: str, spectrum: Spectrum, Y: FloatArray, traits: tuple[str, ...], design: Any = None
    ) -> Self:
        """
        Return the node of any Σ_g and Σ_e, which are to be fitted: of no variable and no model.

        Y is (t, n), NaN where it was not observed. One trait without gaps is fitted as `reml` does.
        """
        seen, t = ~np.isnan(Y), len(traits)
        unit = Diagonal(np.ones(1)) if t == 1 else Unstructured(np.eye(t))
        op = SimpleNamespace(**carried_by(spectrum, traits, seen, (unit, unit), flat=True, design=design))
        common = (name, None, op.treatment, None, None, Y[seen], op.projection, op.ids)
        alone = spectrum if t == 1 and seen.all() else None
        return cls(*common, op.terms, op.theta, None, op.products, None, op.design, alone, op.residual)

    @classmethod
    def of(cls, op: Any, model: pm.Model, rv: Any) -> Self:
        """Read the node."""
        _, _, mu, b, B, theta = rv.owner.inputs
        p, data = op.products, observed_data(model, rv)
        seen = op.products.seen
        observed = None if data is None else data[seen] if data.shape == seen.shape else data.ravel()  # to be refused
        common = (rv.name, rv, op.treatment, entries(p, mu), b, observed, op.projection, op.ids)
        return cls(*common, op.terms, op.theta, theta, p, B, op.design, None, op.residual, mu)
