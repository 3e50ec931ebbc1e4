"""Predictions of a latent model on the scale of η, of the mean of y, and of a new y."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from scipy.special import ndtri

from pm_fastlmm.base.arrays import FloatArray, require_fraction
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.labels import labelled
from pm_fastlmm.base.tables import Table
from pm_fastlmm.engines.latent.leave_out import moments
from pm_fastlmm.families.cumulative import averaged, mixture_quantile, of_rows, steepness
from pm_fastlmm.families.family import Family
from pm_fastlmm.kernel.effects.effects import Interval, Prediction

type PredictionScale = Literal["link", "mean", "response"]

SCALES = {"link": "η = Xβ + Zu", "mean": "E(y | η), averaged over the error of η", "response": "a new y"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScalePrediction(Prediction):
    """
    A prediction of a response that is not normal.

    Attributes
    ----------
    mean : (m,) array or Series
        η̂ on the scale "link"; on the others E g⁻¹(η) with η ~ N(η̂, its error variance), which of a curved link is
        another number than g⁻¹(η̂).
    variance : (m,) array or Series
        Of η - η̂; on the scale "mean" that of g⁻¹(η), on "response" that of a new y.
    residual_variance : array
        On the scale "mean" E var(y | η), what a new y adds; 0 on "response", where it is counted, NaN on "link".
    scale : "link", "mean" or "response"
    eta, eta_variance : (m,) arrays
        η̂ and its error variance.
    family : Family
        Of these rows.
    psi : array
        Its parameters.
    labels : tuple, optional
        Of the categories of y.
    """

    scale: PredictionScale
    eta: FloatArray
    eta_variance: FloatArray
    family: Family
    psi: FloatArray
    labels: tuple[Any, ...] | None = None

    @classmethod
    def of(
        cls, of_eta: Prediction, scale: PredictionScale, family: Family, psi: FloatArray,
        labels: tuple[Any, ...] | None = None,
    ) -> Self:  # fmt: skip
        """Return the prediction on a scale from that of η."""
        require_choice("scale", scale, SCALES)
        ids = tuple(of_eta.mean.index) if isinstance(of_eta.mean, pd.Series) else None
        eta, variance = np.asarray(of_eta.mean, dtype=float), np.asarray(of_eta.variance, dtype=float)
        if scale == "link":
            return cls(of_eta.mean, of_eta.variance, np.full((), np.nan), scale, eta, variance, family, psi, labels)
        mean, sd, sd_new = moments(family, psi, eta, variance)
        own = sd**2 if scale == "mean" else sd_new**2
        rest = np.maximum(sd_new**2 - sd**2, 0.0) if scale == "mean" else np.zeros(())
        named = labelled(mean, ids, None, name="mean"), labelled(own, ids, None, name="variance")
        return cls(*named, rest, scale, eta, variance, family, psi, labels)

    def interval(self, level: float = 0.95, *, observation: bool | None = None) -> Interval:
        """
        Return an interval of what was predicted, at the estimated parameters.

        On the scale "link" η̂ ∓ z se; on "mean" its ends on the scale of the mean, between which E(y | η) is with this
        probability; of a new y, on "response" or with `observation`, quantiles of the mixture of its distributions
        over the error of η.

        Parameters
        ----------
        level : float
        observation : bool, optional
            Whether it is that of a new y; by default on the scale "response".

        Returns
        -------
        Interval
            `lower` and `upper`, with the labels of the mean.

        Raises
        ------
        ValueError
            If it is that of a new y, which is not on the scale of η, or whose family has no distribution function.
        """
        require_fraction(level, "level")
        if observation if observation is not None else self.scale == "response":
            if self.scale == "link":
                raise ValueError("a new y is not on the scale of η: predict on scale='response'.")
            tails = (1 - level) / 2, (1 + level) / 2
            sd = np.sqrt(self.eta_variance)
            ends = [mixture_quantile(self.family, p, self.psi, self.eta, sd) for p in tails]
        else:
            half = ndtri((1 + level) / 2) * np.sqrt(self.eta_variance)
            ends = [self.eta - half, self.eta + half]
            if self.scale != "link":
                ends = [self.family.mean(end, self.psi) for end in ends]
        low, high = (self._labelled(end, name) for end, name in zip(ends, ("lower", "upper"), strict=True))
        return Interval(low, high)

    @property
    def probabilities(self) -> Any:
        """
        The probability of each category of a bernoulli or ordered response, averaged over the error of η.

        Columns are the categories of the response of a formula, otherwise their numbers from 0 on.

        Raises
        ------
        ValueError
            If the responses are no categories.
        """
        known = np.isfinite(self.eta) & np.isfinite(self.eta_variance)
        eta, sd = np.where(known, self.eta, 0.0), np.sqrt(np.where(known, self.eta_variance, 0.0))
        steep = steepness(self.family, eta, self.psi)
        values = averaged(lambda some, at: of_rows(self.family, some).probabilities(at, self.psi), eta, sd, steep)
        values = np.where(known[:, None], values, np.nan)
        index = self.mean.index if isinstance(self.mean, pd.Series) else pd.RangeIndex(len(values))
        return pd.DataFrame(values, index, pd.Index(self.labels or range(values.shape[1]), name="category"))

    def to_frame(self, level: float = 0.95) -> Table:
        """
        Return the predictions as a table: mean, se, the interval, and on the scale "mean" se_observation.

        On "response" se is the standard deviation of a new y, and the interval is one of it.
        """
        lower, upper = self.interval(level)
        columns = {"mean": self.mean, "se": self.se, "lower": lower, "upper": upper}
        return Table(columns | ({"se_observation": self.se_observation} if self.scale == "mean" else {}))

    def _labelled(self, values: FloatArray, name: str) -> Any:
        return pd.Series(values, self.mean.index, name=name) if isinstance(self.mean, pd.Series) else values
