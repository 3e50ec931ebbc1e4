"""The yardstick: the log-likelihood of y ~ N(Xβ, V) from the dense V, by NumPy and SciPy alone."""

import math
from typing import Any

import numpy as np
import scipy.linalg


def loglik(y: Any, X: Any, V: Any, *, restricted: bool = True) -> float:
    """Return the restricted (Patterson–Thompson) or the full log-likelihood, maximised over β."""
    n, r = X.shape
    L = scipy.linalg.cholesky(V, lower=True)
    white = scipy.linalg.solve_triangular(L, np.column_stack([X, y]), lower=True)
    Q, R = np.linalg.qr(white[:, :r])
    left = white[:, r] - Q @ (Q.T @ white[:, r])
    value = -0.5 * (n * math.log(2 * math.pi) + left @ left) - np.log(np.diag(L)).sum()
    if restricted:
        value += 0.5 * r * math.log(2 * math.pi) - np.log(np.abs(np.diag(R))).sum()
    return float(value)


def logpdf(y: Any, V: Any) -> float:
    """Return the log-density of y ~ N(0, V)."""
    return loglik(y, np.zeros((len(y), 0)), V)
