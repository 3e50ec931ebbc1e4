"""The rows of a FourierLMM, given again."""

from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import FloatArray, Labelled, require_length
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.features import FourierProducts
from pm_fastlmm.engines.fourier.precision import FeatureRows
from pm_fastlmm.engines.fourier.statistics import read_rows
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
