"""P and Py at each posterior draw, whichever engine evaluates the node; in parts under a memory budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pm_fastlmm._arrays import FloatArray, Labelled, require_length
from pm_fastlmm.aireml.matrices import compile_matrices
from pm_fastlmm.covariance.fourier.statistics import FourierRows, read_rows
from pm_fastlmm.engines.dense.node import DenseNode
from pm_fastlmm.engines.draws import DrawFunction, evaluate_draws, over_batch
from pm_fastlmm.engines.fourier.node import FourierNode
from pm_fastlmm.engines.lengthscale.node import FamilyNode
from pm_fastlmm.engines.protocol import LMMNode
from pm_fastlmm.engines.spectral.node import SpectralNode
from pm_fastlmm.engines.structured.node import StructuredNode
from pm_fastlmm.equivalent import require_rows
from pm_fastlmm.likelihood.dense import DenseFactor
from pm_fastlmm.likelihood.fourier import FourierFactor
from pm_fastlmm.likelihood.fourier_precision import FeatureRows, FourierPrecision
from pm_fastlmm.likelihood.leave_out import MatrixPrecision, Precision
from pm_fastlmm.likelihood.mixed import MixedState
from pm_fastlmm.likelihood.mixed_precision import MixedPrecision, PrecisionRows
from pm_fastlmm.likelihood.spectral_precision import Coefficients, SpectralRows
from pm_fastlmm.linalg.spectrum import Spectrum

_ARRAYS = 4  # of the size of the largest that are alive at a time
_SAME = 1e-8  # of the squares of y, within which rows that were given are those that were accumulated


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """
    Some of the draws.

    Attributes
    ----------
    index : int or slice
        Where they are among all, chain by chain, the responses of a draw one after the other.
    precision : Precision
    y : (n,) or (D, n) array
        The data, where D may be 1.
    """

    index: Any
    precision: Precision
    y: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Precisions:
    """
    All draws.

    Attributes
    ----------
    shape : tuple
        (chain, draw) and that of the responses.
    n : int
    Q1 : (n, r) array
        Basis of the fixed effects under a flat prior, of no columns when β is explicit or has a proper prior.
    parts : iterator of Part
    """

    shape: tuple[int, ...]
    n: int
    Q1: FloatArray
    parts: Iterator[Part]


def precisions(
    idata: xr.DataTree, model: pm.Model, node: LMMNode, *, largest: int = 1, memory_budget: float, rows: Any = None
) -> Precisions:
    """
    Return P and Py of a node at the draws of the variables that it depends on.

    Parameters
    ----------
    largest : int
        Size of the largest group that will be left out.
    memory_budget : float
        Bytes.
    rows : tuple (x, y) or (x, y, X)
        For a FourierLMM node, which keeps none.

    Raises
    ------
    ValueError
        If the node has no data or no rows, or V is not positive definite at a draw.
    """
    if node.observed is None:
        raise ValueError(f"{node.name} has no observed data: there is nothing to leave out.")
    if rows is not None and not isinstance(node, FourierNode):
        raise ValueError(f"{node.name} keeps its rows: rows= is for a FourierLMM.")
    posterior, numbers = idata.posterior.to_dataset(), int(memory_budget / (8 * _ARRAYS))
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    if isinstance(node, FourierNode):
        features, y = _feature_rows(node, rows)
        return Precisions(shape, node.n, features.Q, _fourier(node, posterior, model, features, y))
    if isinstance(node, StructuredNode):
        require_rows(node.products)
    Q1 = node.projection.Q1  # raises where the rows were not kept
    Q1 = Q1 if node.treatment == "flat" else Q1[:, :0]
    if isinstance(node, SpectralNode):
        kernel = _spectral(node, posterior, model)
        return Precisions(kernel.shape, node.n, Q1, kernel.parts(largest, numbers))
    if isinstance(node, StructuredNode):
        if node.spectrum is not None:
            kernel = _structured_kernel(node, node.spectrum, posterior, model)
            return Precisions(kernel.shape, node.n, Q1, kernel.parts(largest, numbers))
        return Precisions(shape, node.n, Q1, _structured(node, posterior, model, numbers))
    if isinstance(node, FamilyNode):
        return Precisions(shape, node.n, Q1, _family(node, posterior, model))
    assert isinstance(node, DenseNode)
    return Precisions(shape, node.n, Q1, _dense(node, posterior, model, numbers))


@dataclass(frozen=True, slots=True, eq=False)
class _Kernel:
    """
    Draws of σ²(K + δI) for one response or several; arrays that are the same in all draws are broadcast views.

    Attributes
    ----------
    shape : tuple
        (chain, draw) and that of the responses.
    y : (…, n) array or None
        None for a statistic, which has its own coordinates `fixed`.
    fixed : (…, k) and (…, r) arrays, or None
        z and y₁.
    mu, g, e : (chain, draw, …, n), (chain, draw, …), (chain, draw, …) arrays
    b, B : (chain, draw, …, r), (chain, draw, …, r, r) arrays, or None
        Mean and covariance of a proper β.
    """

    spectrum: Spectrum
    shape: tuple[int, ...]
    y: FloatArray | None
    fixed: tuple[FloatArray, FloatArray] | None
    mu: FloatArray
    g: FloatArray
    e: FloatArray
    b: FloatArray | None
    B: FloatArray | None

    def parts(self, largest: int, numbers: int) -> Iterator[Part]:
        """Return P and Py of as many draws at a time as fit."""
        s, total = self.spectrum, int(np.prod(self.shape))
        rows, r = SpectralRows.of(s), s.projection.rank if self.b is not None else 0
        each = (1 + r) * (s.n + s.rank) + (largest * (s.rank + largest) if largest > 1 else 0)
        size = max(1, numbers // each)
        once = None
        if self.y is not None and not np.ptp(self.mu, axis=(0, 1)).any():
            once = self._rotate(np.broadcast_to(self.y - self.mu[0, 0], (*self.shape[2:], s.n)))
        for start in range(0, total, size):
            index = slice(start, min(start + size, total))
            places = np.unravel_index(np.arange(total)[index], self.shape)
            y, (z, rest, y1) = self._response(places, once)
            beta = None
            if self.b is not None and self.B is not None:
                RB = s.projection.R @ np.broadcast_to(self.B, (*self.shape, *self.B.shape[-2:]))[places]
                b = np.broadcast_to(self.b, (*self.shape, self.b.shape[-1]))[places]
                beta = Coefficients(y1 - b @ s.projection.R.T, RB @ s.projection.R.T)
            g, e = (np.broadcast_to(v, self.shape)[places] for v in (self.g, self.e))
            yield Part(index, rows.at(z, rest, g, e, beta), y)

    def _rotate(self, values: FloatArray) -> tuple[FloatArray, FloatArray | None, FloatArray]:
        """Return z, the rest in the directions with λ = 0, and y₁ of values (…, n)."""
        s = self.spectrum
        y1 = values @ s.projection.Q1
        y2 = values - y1 @ s.projection.Q1.T
        z = y2 @ s.basis
        return z, y2 - z @ s.basis.T if s.nullity else None, y1

    def _response(self, places: Any, once: Any) -> tuple[FloatArray, tuple[FloatArray, FloatArray | None, FloatArray]]:
        """Return y and its coordinates at some draws, with an axis of length 1 where they are the same in all."""
        s = self.spectrum
        if self.fixed is not None:
            z, y1 = (_taken(part, places) for part in self.fixed)
            return y1 @ s.projection.Q1.T + z @ s.basis.T, (z, None, y1)
        assert self.y is not None
        if once is not None:
            z, rest, y1 = once
            taken = _taken(z, places), None if rest is None else _taken(rest, places), _taken(y1, places)
            return _taken(np.broadcast_to(self.y, (*self.shape[2:], s.n)), places), taken
        y, mu = (np.broadcast_to(v, (*self.shape, s.n))[places] for v in (self.y, self.mu))
        return y, self._rotate(y - mu)


def _taken(values: FloatArray, places: Any) -> FloatArray:
    """Return values (…, m) of the responses that the draws are of."""
    return values[places[2:]] if values.ndim > 1 else values[None]


def _spectral(node: SpectralNode, posterior: xr.Dataset, model: pm.Model) -> _Kernel:
    s = node.spectrum
    outputs = [node.sigma2_g, node.sigma2_e]
    outputs += [v for v in (node.mu, node.beta_mean, node.beta_root) if v is not None]
    g, e, *rest = evaluate_draws(model, posterior, outputs)
    mu = rest.pop(0) if node.mu is not None else np.zeros((1, 1, 1))
    batch = node.observed.shape[:-1]
    shape = (posterior.sizes["chain"], posterior.sizes["draw"], *batch)
    over = len(shape)
    b = B = None
    if node.treatment == "proper":
        b, L = over_batch(rest[0], over + 1), over_batch(rest[1], over + 2)
        B = L @ np.swapaxes(L, -1, -2)
    fixed = None
    if node.given is not None:
        rotated = node.rotated()
        if s.nullity:
            raise ValueError(
                f"{node.name} observes z and rss, and where K has {s.nullity} directions without variance the rows of "
                "y are not known from them: build the model with spectrum= and observed=y."
            )
        fixed = rotated.z, rotated.y1
    return _Kernel(
        s, shape, None if fixed is not None else node.observed, fixed,
        over_batch(mu, over + 1), over_batch(g, over), over_batch(e, over), b, B,
    )  # fmt: skip


def _structured_kernel(node: StructuredNode, s: Spectrum, posterior: xr.Dataset, model: pm.Model) -> _Kernel:
    theta, mu, b, B = evaluate_draws(model, posterior, [node.theta, node.mu, node.beta_mean, node.beta_cov])
    if node.treatment == "flat":
        b = B = None
    elif not B.size:  # β is explicit
        B = np.zeros((1, 1, b.shape[-1], b.shape[-1]))
    return _Kernel(s, theta.shape[:2], node.observed, None, mu, theta[..., 0], theta[..., 1], b, B)


def _structured(node: StructuredNode, posterior: xr.Dataset, model: pm.Model, numbers: int) -> Iterator[Part]:
    theta, mu, b, B = DrawFunction(model, posterior, [node.theta, node.mu, node.beta_mean, node.beta_cov])()
    p, matrices, rows = node.products, compile_matrices(node.layout), PrecisionRows.of(node.products)
    X = p.projection.Q1 @ p.projection.R
    mean, response = None, None
    for i, values in enumerate(theta):
        own = mu[i] if p.flat else mu[i] + X @ b[i]
        if mean is None or not np.array_equal(own, mean):
            mean, residual = own, node.observed - own
            response = p.response(residual)
            response = response if p.flat else p.shifted(response, response.y1)
        sigma = [np.atleast_2d(m) for m in matrices(values)[0]]
        assert response is not None
        state = MixedState.at(p, response, [*sigma, B[i]] if B[i].size else sigma, float(values[-1]))
        _require_definite(state, node)
        assert state is not None
        yield Part(i, MixedPrecision.of(state, residual, rows, budget=numbers), node.observed)


def _require_definite(factored: Any, node: LMMNode) -> None:
    if factored is None:
        raise ValueError(
            f"a posterior draw of {node.name} has a covariance that is not positive definite: one of its variances is "
            "0 there. A prior without mass at 0 avoids that."
        )


def _family(node: FamilyNode, posterior: xr.Dataset, model: pm.Model) -> Iterator[Part]:
    graphs = [node.lengthscale, node.sigma2_g, node.sigma2_e]
    draws = np.column_stack([v.ravel() for v in evaluate_draws(model, posterior, graphs)])
    for i, (ell, g, e) in enumerate(draws):
        V = g * node.family.covariance(float(ell)) + e * np.eye(node.n)
        yield Part(i, _matrix(node, V, node.observed, node.projection.Q1), node.observed)


def _dense(node: DenseNode, posterior: xr.Dataset, model: pm.Model, numbers: int) -> Iterator[Part]:
    function = DrawFunction(model, posterior, [node.V, node.mu, node.beta_mean, node.beta_cov])
    n, Q1 = node.n, node.projection.Q1
    X, flat = Q1 @ node.projection.R, node.treatment == "flat"
    size = max(1, numbers // n**2)
    for start in range(0, function.size, size):
        for j, (V, mu, b, B) in enumerate(zip(*function(slice(start, start + size)), strict=True)):
            residual = node.observed - mu - (0.0 if flat else X @ b)
            V = V + X @ B @ X.T if B.size else V
            yield Part(start + j, _matrix(node, V, residual, Q1 if flat else Q1[:, :0]), node.observed)


def _matrix(node: LMMNode, V: FloatArray, y: FloatArray, Q1: FloatArray) -> MatrixPrecision:
    factor = DenseFactor.of(V, y, Q1)
    _require_definite(factor, node)
    assert factor is not None
    return MatrixPrecision(factor.P(), factor.Py)


def observed_rows(node: LMMNode, rows: Any) -> FloatArray | None:
    """Return y (…, n) of a node that observes a statistic, where it is given or follows from that; else None."""
    if isinstance(node, FourierNode):
        return None if rows is None else _given(node, rows).y
    if not isinstance(node, SpectralNode) or node.given is None or node.spectrum.nullity:
        return None
    rotated, s = node.rotated(), node.spectrum
    return rotated.y1 @ s.projection.Q1.T + rotated.z @ s.basis.T


def _given(node: FourierNode, rows: Any) -> FourierRows:
    x, y, *X = rows
    return read_rows(node.basis, x, y, X[0] if X else None, "raise")


def _feature_rows(node: FourierNode, rows: Any) -> tuple[FeatureRows, FloatArray]:
    """Return the rows of the features and y; they must be those that the statistics were made of."""
    if rows is None:
        raise ValueError(
            f"{node.name} keeps no rows: give them, rows=(x, y), or rows=(x, y, X) where it has fixed effects."
        )
    given = _given(node, rows)
    require_length(len(given.y), node.n, "y", f"the statistics of {node.name}")
    p, names = node.products, node.products.projection.columns.names
    if given.design.shape[1] != len(names):
        raise ValueError(
            f"the X of rows= has {given.design.shape[1]} columns, but the model has {len(names)} "
            f"({', '.join(names) or 'none'}), those included that were dropped."
        )
    design = p.projection.new_rows(Labelled(given.design, None, given.coef), node.n, warn=False)
    features = FeatureRows.of(p, node.basis.features(given.points), given.y, np.nan_to_num(design))
    if np.isnan(design).any() or not features.belong_to(p, _SAME):
        raise ValueError(
            f"the rows are not those of {node.name}: their squares and products do not add up to its statistics. Give "
            "the x, y and X that these were made of, row by row."
        )
    return features, given.y


def _fourier(
    node: FourierNode, posterior: xr.Dataset, model: pm.Model, features: FeatureRows, y: FloatArray
) -> Iterator[Part]:
    log_prior, e = evaluate_draws(model, posterior, [node.log_weights + pt.log(node.sigma2_g), node.sigma2_e])
    p, cross, square = node.products, node.observed[:-1], float(node.observed[-1])
    for i, (log_s, sigma2_e) in enumerate(zip(log_prior.reshape(e.size, -1), e.ravel(), strict=True)):
        factor = FourierFactor.of(log_s, float(sigma2_e), cross, square, p.gram, p.df)
        _require_definite(factor, node)
        assert factor is not None
        yield Part(i, FourierPrecision(features, factor), y)
