"""A point estimate for a dense K without its eigenvectors."""

from dataclasses import replace
from typing import Any

import numpy as np

from pm_fastlmm.base.arrays import read_covariance
from pm_fastlmm.base.choices import Method, require_choice
from pm_fastlmm.kernel.reml.fit import REMLFit
from pm_fastlmm.kernel.reml.reml import fit_rotated
from pm_fastlmm.spectrum.projection import kernel_design
from pm_fastlmm.spectrum.responses import read_response
from pm_fastlmm.spectrum.spectrum import Rotated, spectrum_of_eigenvalues
from pm_fastlmm.spectrum.tridiagonal import coordinates


def reml_point(K: Any, y: Any, X: Any = None, *, method: Method = "REML", rtol: float | None = None) -> REMLFit:
    """
    Fit y ~ N(Xβ, σ²(K + δI)) once, without the eigenvectors of K: the estimates of `reml` in less than half the time.

    Estimates, standard errors, β, log-likelihood, boundaries and messages are those of
    `reml(Spectrum.from_covariance(K, X), y)`. Random effects, predictions, NUTS and further responses need the
    eigenvectors: use that for them, and this where one number is wanted from each of many different K.

    Parameters
    ----------
    K : (n, n) array or DataFrame
        Symmetric positive semi-definite; it is not scaled.
    y : array, Series, DataFrame or DataArray
        One response (n,), or a few (n, T).
    X : (n, d) array or DataFrame, optional
        Fixed-effects design; None for no fixed effects (an intercept is not added).
    method : {"REML", "ML"}
    rtol : float, optional
        Eigenvalues within ±rtol of the largest one count as zero, as in `Spectrum.from_covariance`.

    Returns
    -------
    REMLFit
        Its `rotated` is None.

    Raises
    ------
    ValueError
        If K, y and X do not fit each other, or K is no covariance.

    Notes
    -----
    Householder reflectors reduce K, orthogonal to X, to tridiagonal form. The rotations of the QL algorithm then turn
    the few vectors that the likelihood needs, y and QᵀKQ₁, into their coordinates in the eigenvectors, which are never
    formed (Golub & Welsch 1969). From there on it is the code of `reml`.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_fastlmm as flmm
    >>> rng = np.random.default_rng(1)
    >>> W = rng.normal(size=(50, 80)) / 9
    >>> y = W @ rng.normal(size=80) + rng.normal(size=50)
    >>> fit = flmm.reml_point(W @ W.T, y, np.ones((50, 1)))
    >>> bool(np.isclose(fit.h2, flmm.reml(flmm.Spectrum.from_covariance(W @ W.T, np.ones((50, 1))), y).h2))
    True
    """
    require_choice("method", method, Method)
    covariance = read_covariance(K)
    n = covariance.values.shape[0]
    ids, projection = kernel_design(covariance, X, "K")
    K11, K21, K22 = projection.two_sided(covariance.values)
    values, names = read_response(y, n, ids)
    columns = values if values.ndim == 2 else values[:, None]
    y1, y2 = projection.split(columns)
    T = columns.shape[1]
    eigvals, rows = coordinates(K22, np.hstack([y2, K21]))
    trace = float(np.trace(covariance.values))
    spectrum = spectrum_of_eigenvalues(projection, eigvals, K11, rows[:, T:], rtol, K, ids, trace)
    spectrum, first = replace(spectrum, rotation=np.zeros((n, 0))), spectrum.nullity  # y is rotated here
    rotated = Rotated.from_coordinates(spectrum, values, names, z=rows[first:, :T], null=rows[:first, :T], y1=y1, y2=y2)
    return replace(fit_rotated(rotated, method), rotated=None)
