"""P and Py of Fourier features at posterior draws, for rows that are given again."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, Labelled, require_length
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.features import FourierProducts
from pm_fastlmm.engines.fourier.likelihood import FourierFactor
from pm_fastlmm.engines.fourier.precision import FeatureRows, FourierPrecision
from pm_fastlmm.engines.fourier.statistics import read_rows
from pm_fastlmm.engines.precisions import Part, require_definite
from pm_fastlmm.spectrum.streams.row_blocks import CheckedRows

_SAME = 1e-8  # of the squares of y, within which rows that were given are those that were accumulated


def given_rows(basis: FourierBasis, rows: Any) -> CheckedRows:
    """Read the rows (x, y) or (x, y, X)."""
    x, y, *X = rows
    return read_rows(basis, x, y, X[0] if X else None, "raise")


def feature_rows(name: str, basis: FourierBasis, p: FourierProducts, rows: Any) -> tuple[FeatureRows, FloatArray]:
    """Return the rows of the features and y; they must be those that the statistics were made of."""
    if rows is None:
        raise ValueError(f"{name} keeps no rows: give them, rows=(x, y), or rows=(x, y, X) where it has fixed effects.")
    given = given_rows(basis, rows)
    X, x, y = given.values
    require_length(len(y), p.n, "y", f"the statistics of {name}")
    names = p.projection.columns.names
    if X.shape[1] != len(names):
        raise ValueError(
            f"the X of rows= has {X.shape[1]} columns, but the model has {len(names)} "
            f"({', '.join(names) or 'none'}), those included that were dropped."
        )
    design = p.projection.new_rows(Labelled(X, None, given.columns.coef), p.n, warn=False)
    features = FeatureRows.of(p, basis.features(x), y[:, 0], np.nan_to_num(design))
    if np.isnan(design).any() or not features.belong_to(p, _SAME):
        raise ValueError(
            f"the rows are not those of {name}: their squares and products do not add up to its statistics. Give "
            "the x, y and X that these were made of, row by row."
        )
    return features, y[:, 0]


def parts(
    name: str, p: FourierProducts, statistic: FloatArray, features: FeatureRows, y: FloatArray, log_prior: FloatArray,
    sigma2_e: FloatArray,
) -> Iterator[Part]:  # fmt: skip
    """Return the draws of the log-variances of the weights and of σ²_e."""
    for i, (log_s, e) in enumerate(zip(log_prior.reshape(sigma2_e.size, -1), sigma2_e.ravel(), strict=True)):
        factor = FourierFactor.of(log_s, float(e), statistic[:-1], float(statistic[-1]), p.gram, p.df)
        require_definite(factor, name)
        assert factor is not None
        yield Part(i, FourierPrecision(features, factor), y)
