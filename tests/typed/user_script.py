"""A user's script that `mypy --strict` passes: what the package takes and returns has types."""

from collections.abc import Hashable
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import pandas as pd

import pm_fastlmm as flmm
from pm_fastlmm import covariance as cov


def heritability(W: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    spectrum = assert_type(flmm.Spectrum.from_factor(W, np.ones((len(y), 1))), flmm.Spectrum)
    rotated = assert_type(spectrum.rotate(y), flmm.results.Rotated)
    fit = assert_type(flmm.reml(spectrum, rotated), flmm.results.REMLFit)
    posterior = flmm.exact_posterior(spectrum, rotated, prior=flmm.priors.VariancePrior(1, 1, 1, 2.5))
    assert_type(posterior, flmm.results.ExactPosterior)
    assert_type(fit.summary(), pd.DataFrame)
    assert_type(spectrum.eigvals, npt.NDArray[np.float64])
    return float(fit.h2)


def variances() -> "pd.Series[Any]":
    model = flmm.lmm_model("Reaction ~ Days + (Days | Subject)", flmm.datasets.sleepstudy())
    fit = assert_type(flmm.find_reml(model), flmm.results.VarianceFit)
    assert_type(fit.converged, bool)
    assert_type(cov.ar1(1.0, 0.5) * cov.scalar(2.0), cov.Hadamard)
    assert_type(flmm.Term(["a", "b"], cov.scalar(1.0)).levels, tuple[Hashable, ...])
    assert_type(flmm.lmm_nodes(model), list[flmm.results.LMMNode])
    return fit.theta
