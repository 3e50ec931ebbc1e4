"""Effects of one kernel after a fit of a FastLMM, at any θ: those of `REMLFit`."""

from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.labels import labelled
from pm_fastlmm.base.tables import Table
from pm_fastlmm.engines.at_theta import AtTheta
from pm_fastlmm.kernel.effects.effects import Prediction
from pm_fastlmm.kernel.reml.fit import REMLFit

NAME = "u"  # of the effects, as in draws


class KernelAtTheta(AtTheta):
    """The effects u of one kernel, whose variances are those at θ."""

    @property
    def terms(self) -> Self:
        """The effects."""
        return self

    @cached_property
    def fit(self) -> REMLFit:
        """What `reml` returns, with the variances at θ."""
        fit: REMLFit = self.objective.terms(self.theta)
        return fit

    def blup(self) -> dict[str, Any]:
        """Return û."""
        return {NAME: _series(self.fit.blup(), "blup")}

    def pev(self) -> dict[str, Any]:
        """Return Var(û - u)."""
        return {NAME: _series(self.fit.pev(), "pev")}

    def tables(self, level: float) -> dict[str, Table]:
        """Return blup, se, interval, reliability and accuracy."""
        return {NAME: self.fit.effects(level)}

    def conditional_variance(self) -> dict[str, Any]:
        """Return Var(u | y, β)."""
        return {NAME: _series(self.fit.conditional_variance(), "conditional_variance")}

    def fitted(self, *, conditional: bool) -> Any:
        """Return mu + Xβ̂, or mu + Xβ̂ + û, by id of the row."""
        values = self.fit.predict().mean if conditional else self.node.projection.X @ self.fit.blue
        return labelled(np.asarray(values) + self.known_mean(), self.node.ids, None, name="fitted")

    def predict(self, *, X_new: Any, Z_new: Any, data: Any, population: bool, **kernel: Any) -> Prediction:
        """Return predictions of f = Xβ + u for new rows, or of those of the data where nothing is given."""
        if Z_new is not None or data is not None:
            raise ValueError(
                "one kernel has no terms, and keeps no formula by which new data could be encoded: give X_new, and "
                "K_new or W_new for the effects."
            )
        given = X_new is not None or any(part is not None for part in kernel.values())
        self.node.mean_at(True if given else None, self.mu)
        found = self.fit.predict(X_new, **kernel, effects="population" if population else "given")
        return found if given else replace(found, mean=found.mean + self.known_mean())

    def residual_sd(self) -> Any:
        """Return the standard deviation of e, (n,) with prior weights."""
        return np.sqrt(self.fit.sigma2_e / self.fit.spectrum.weights.values)

    def with_given_effects(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw responses with new residuals around the fitted values, (draws, n)."""
        mean = np.asarray(self.fitted(conditional=True))
        noise = self.fit.spectrum.weights.unscaled(rng.standard_normal((n_draws, len(mean))))
        return np.asarray(mean + np.sqrt(self.fit.sigma2_e) * noise)


def _series(values: Any, name: str) -> pd.Series:
    """Return values by id, or by number of the row where there are no ids."""
    return values if isinstance(values, pd.Series) else pd.Series(values, name=name)
