"""Predictions of several traits after a fit, at any θ."""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.labels import Entries, labelled
from pm_fastlmm.engines.graphs import evaluated
from pm_fastlmm.engines.prediction import NewRows
from pm_fastlmm.engines.structured.effects import TermsAtTheta
from pm_fastlmm.kernel.effects.coefficients import new_given_effects
from pm_fastlmm.kernel.effects.effects import Prediction

_BUDGET = 4_000_000  # numbers of the weights of the effects of the data at a time


class TraitsAtTheta(TermsAtTheta):
    """Several traits of one kernel with V factored at θ."""

    def predict(self, *, population: bool = False, **given: Any) -> Prediction:
        """
        Return predictions of f = XB + U for each trait of new rows, or of all rows of the data if nothing is given.

        These have the entries that were not observed. `data` of a formula has rows of one trait of one record each.

        Raises
        ------
        ValueError
            If something else than X_new, K_new, W_new and K_new_new is given, or it does not fit.
        """
        node, new = self.node, NewRows(**given)
        if new.data is not None and node.design is not None:  # its rows are of one trait each, of records of the fit
            return super().predict(population=population, **given)
        if other := [name for name in new.given if name not in node.takes]:
            raise ValueError(f"{node.name} is a MatrixLMM, which takes {', '.join(node.takes)}, not {other[0]}.")
        rows = node.read(new, "population" if population else "given")
        s, t = node.kernel, len(node.traits)
        if rows is None:
            X, ids, weights, mean = s.X, s.ids, s.weights.values, self._mean_of_all()
            Z, unknown = np.eye(s.n) * (not population), np.zeros(s.n)
        else:
            X, ids, weights, mean = rows.X, rows.ids, 1.0, np.zeros((t, 1))
            node.mean_at(rows, np.asarray(self.mu))
            Z, unknown = self._given(rows)
        m = len(X)
        found = np.empty((2, t, m))
        for part in np.array_split(np.arange(m), max(1, m * s.n * t**2 // _BUDGET)):
            found[:, :, part] = self._traits(X[part], Z[part], unknown[part])
        found[0] += mean
        noise = np.diag(self.state.noise)[:, None] / (weights * np.ones(m))
        labels = tuple(range(m)) if ids is None else ids
        entries = Entries.of(node.traits, labels, np.repeat(range(t), m), [*range(m)] * t)
        mean, variance = (
            labelled(values.ravel(), entries, None, name=name)
            for values, name in zip(found, ("mean", "variance"), strict=True)
        )
        return Prediction(mean, variance, noise.ravel())

    def _traits(self, X: FloatArray, Z: FloatArray, unknown: FloatArray) -> FloatArray:
        """Return mean and variance (2, t, m) of each trait of rows that weigh effects by Z, with a variance besides."""
        state, t = self.state, len(self.node.traits)
        m, n = Z.shape
        incidence = np.zeros((t, m, n, t))
        for a in range(t):
            incidence[a, :, :, a] = Z
        fixed = np.asarray(np.kron(np.eye(t), X), dtype=float)
        parts = [incidence.reshape(t * m, n * t), *([fixed] if self._beta_has_a_block else [])]
        own = np.asarray(np.outer(np.diag(state.sigma[0]), unknown), dtype=float)
        found = state.predict(fixed, parts, own.ravel())
        mean, variance = (values.reshape(t, m) for values in found)
        if self.prior_mean.size:
            mean = mean + (fixed @ self.prior_mean).reshape(t, m)
        return np.array([mean, np.where(np.isnan(mean), np.nan, variance)])

    def _given(self, rows: Any) -> tuple[FloatArray, FloatArray]:
        """Return K*ᵀK⁺ (m, n), and what is left of the prior variance of a row."""
        s, m = self.node.kernel, len(rows.X)
        if rows.kernel is None:
            return np.zeros((m, s.n)), np.zeros(m)
        weights, left = new_given_effects(s, rows.kernel)
        along = weights.a @ s.projection.Q1.T + weights.b @ s.basis.T
        return s.weights.scaled(along), np.maximum(np.diag(left) if left.ndim == 2 else left, 0.0)

    def _mean_of_all(self) -> Any:
        """Return mu of all entries, (t, n)."""
        return 0.0 if self.node.mean is None else evaluated([], [self.node.mean])()[0]
