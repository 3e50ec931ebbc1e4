"""
Positive semi-definite matrices: which eigenvalues count as zero, which matrices are refused, and roots.

A symmetric matrix that is stored in floats is known to n · eps of its largest eigenvalue, and LAPACK's eigenvalues are
as exact. Eigenvalues within ±n · eps · max|λ| of 0 may therefore be zeros, and a matrix is refused if one is below. The
tolerance is relative: it does not depend on units, and an absolute one would call a small K zero.
"""

import numpy as np

from pm_fastlmm.base.arrays import EPS, FloatArray

_OF_PAIRS = 0.2  # share of the eigenvalues that is negative, above which no relationship matrix is that came to be so
_ROUNDED = 1e-4  # relative size of a negative eigenvalue that a file with few digits may still explain


def zero_tolerance(eigvals: FloatArray) -> float:
    """Return n · eps · max|λ|, within which an eigenvalue of a matrix in double precision may be a zero."""
    return len(eigvals) * EPS * float(np.abs(eigvals).max(initial=0.0))


def require_semidefinite(eigvals: FloatArray, name: str) -> None:
    """Raise a ValueError if one of the ascending eigenvalues of a matrix is below zero."""
    if eigvals[0] < -zero_tolerance(eigvals):
        raise indefinite(name, float(eigvals[0]), float(eigvals[-1]))


def indefinite(name: str, smallest: float, largest: float, *, rtol: bool = False) -> ValueError:
    """Return the error of a matrix that is no covariance; `rtol` if the caller takes a tolerance by that name."""
    if -smallest >= _ROUNDED * abs(largest):
        remedy = "A similarity or distance matrix that is no covariance needs to be turned into one first."
    elif rtol:
        power = 10 ** np.ceil(np.log10(-smallest / largest))
        remedy = f"If {name} was rounded when it was stored, say so with rtol={power:.0e}."
    else:
        remedy = f"If {name} was rounded when it was stored, give it with all its digits."
    return ValueError(
        f"{name} is not positive semi-definite: its smallest eigenvalue is {smallest:.3g}, the largest {largest:.3g}. "
        f"A covariance has none below zero. {remedy}"
    )


class IndefiniteKernel(ValueError):
    """The error of a known covariance that has negative eigenvalues."""


def indefinite_kernel(eigvals: FloatArray, largest: float, *, rtol: bool = False) -> IndefiniteKernel:
    """Return the error of a K with negative eigenvalues, of all of them in ascending order, that may be set to 0."""
    negative, total = float(-eigvals[eigvals < 0].sum()), float(np.abs(eigvals).sum())
    error = indefinite("K", float(eigvals[0]), largest, rtol=rtol)
    if negative > _OF_PAIRS * total:
        return IndefiniteKernel(str(error))
    return IndefiniteKernel(
        f"{error} A relationship matrix of which each pair was divided by its own number of markers (plink2 and GCTA "
        "do so where genotypes are missing) is no covariance: make it with missing genotypes imputed by their mean "
        "(plink2 --make-rel meanimpute, flmm.covariance.markers), or give negative='zero', which cuts "
        f"{int((eigvals < 0).sum())} negative eigenvalues, {100 * negative / total:.2g} % of all."
    )


def semidefinite_root(A: FloatArray) -> FloatArray:
    """Return R (…, n, n) with RRᵀ = A, for A that are positive semi-definite but for rounding."""
    return eigen_root(*np.linalg.eigh(A))


def lower_root(A: FloatArray) -> FloatArray:
    """Return a lower-triangular L with LLᵀ = A and no negative number on its diagonal."""
    R = np.linalg.qr(semidefinite_root(A).T, mode="r")
    return np.asarray((R * np.where(np.diag(R) < 0, -1.0, 1.0)[:, None]).T)


def eigen_root(eigvals: FloatArray, vectors: FloatArray, zero: float = 0.0) -> FloatArray:
    """Return R = UΛ^½ (…, n, n) from eigenvalues and eigenvectors; eigenvalues up to `zero` are rounding, and are 0."""
    return np.asarray(vectors * np.sqrt(np.where(eigvals <= zero, 0.0, eigvals))[..., None, :])
