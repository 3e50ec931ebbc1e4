"""
P and Py of a Gaussian process on Fourier features at one set of parameters, from its rows, given again.

With the symbols of `likelihood.fourier`, Z̃ = MZ and ỹ = My,

    P = (M - Z̃a^½A⁻¹a^½Z̃ᵀ)/σ²_e,   Py = (ỹ - Z̃a^½u)/σ²_e
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy.linalg import solve_triangular

from pm_fastlmm.base.arrays import FloatArray, Labelled, require_length
from pm_fastlmm.engines.fourier.basis import FourierBasis
from pm_fastlmm.engines.fourier.likelihood import FourierFactor
from pm_fastlmm.engines.fourier.products import FourierProducts
from pm_fastlmm.engines.fourier.statistics import read_rows
from pm_fastlmm.kernel.likelihood.leave_out import Rows
from pm_fastlmm.spectrum.streams.row_blocks import CheckedRows
from pm_fastlmm.spectrum.weights import PriorWeights

_SAME = 1e-8  # of the squares of y, within which rows that were given are those that were accumulated


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """The rows of Q, Z̃ and ỹ, (n, r), (n, M) and (n,)."""

    Q: FloatArray
    Z: FloatArray
    y: FloatArray

    @classmethod
    def of(cls, products: FourierProducts, features: FloatArray, y: FloatArray, X: FloatArray) -> Self:
        """Project X out of the features (n, M) and y, by the products that were accumulated."""
        R = products.projection.R
        Q = solve_triangular(R, X.T, trans="T").T if R.size else X
        return cls(Q, features - Q @ products.fixed.T, y - Q @ products.along)

    def belong_to(self, products: FourierProducts, rtol: float) -> bool:
        """Return whether the rows add up to the products: the squares of Z̃ and ỹ, what Q, Z̃ and ỹ have in common."""
        p = products
        length = np.sqrt(max(float(self.y @ self.y), p.square))
        wholes = np.sqrt(np.diag(p.gram) + (p.fixed**2).sum(1))  # of Z, before X was projected out
        return bool(
            abs(float(self.y @ self.y) - p.square) <= rtol * p.square
            and (np.abs((self.Z**2).sum(0) - np.diag(p.gram)) <= rtol * wholes**2).all()
            and (np.abs(self.Z.T @ self.y - p.cross) <= rtol * wholes * length).all()
            and (np.abs(self.Q.T @ self.Z) <= rtol * wholes).all()
            and (np.abs(self.Q.T @ self.Q - np.eye(self.Q.shape[1])) <= rtol).all()
            and (np.abs(self.Q.T @ self.y) <= rtol * (length + np.linalg.norm(p.along))).all()
        )


@dataclass(frozen=True, eq=False)
class FourierPrecision:
    """P and Py where the features are factored."""

    rows: FeatureRows
    factor: FourierFactor

    @cached_property
    def _white(self) -> FloatArray:
        """L⁻¹a^½Z̃ᵀ, (k, n)."""
        f = self.factor
        return np.asarray(
            solve_triangular(f.L, (self.rows.Z[:, f.active] * f.root).T, lower=True, check_finite=False)
        )  # fmt: skip

    @property
    def weighted(self) -> FloatArray:
        """Py, (n,)."""
        f = self.factor
        return np.asarray((self.rows.y - self.rows.Z[:, f.active] @ (f.root * f.u)) / f.sigma2_e)

    @property
    def diagonal(self) -> FloatArray:
        """Diagonal of P, (n,)."""
        explained = (self.rows.Q**2).sum(-1) + (self._white**2).sum(0)
        return np.asarray((1 - explained) / self.factor.sigma2_e)

    def block(self, rows: Rows) -> FloatArray:
        """Return P_SS (s, s)."""
        part = replace(self, rows=FeatureRows(self.rows.Q[rows], self.rows.Z[rows], self.rows.y[rows]))
        Q, white = part.rows.Q, part._white
        return np.asarray((np.eye(len(rows)) - Q @ Q.T - white.T @ white) / self.factor.sigma2_e)


def given_rows(basis: FourierBasis, rows: Any) -> CheckedRows:
    """Read the rows (x, y), (x, y, X) or (x, y, X, weights)."""
    x, y, *more = rows
    X, weights = [*more, None, None][:2]
    return read_rows(basis, x, y, X, "raise", weights)


def feature_rows(
    name: str, basis: FourierBasis, p: FourierProducts, rows: Any
) -> tuple[FeatureRows, FloatArray, FloatArray | None]:
    """Return the rows of the features times √w, y and √w; they must be those that the statistics were made of."""
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
    w = PriorWeights(None if given.weights is None else y[:, 1])
    y = y[:, 0]
    features = FeatureRows.of(p, w.rows(basis.features(x)), w.scaled(y), w.rows(np.nan_to_num(design)))
    if np.isnan(design).any() or not features.belong_to(p, _SAME):
        raise ValueError(
            f"the rows are not those of {name}: their squares and products do not add up to its statistics. Give "
            "the x, y, X and weights that these were made of, row by row: rows=(x, y, X, weights)."
        )
    return features, y, w.root
