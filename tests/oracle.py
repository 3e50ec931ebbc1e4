"""Dense linear algebra with explicit inverses, written from the definitions: what the package must equal."""

from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.stats import Covariance, multivariate_normal


class Dense:
    """y ~ N(Xβ, V), V = σ²_g K + σ²_e I, at given variances."""

    def __init__(self, K, X, y, sigma2_g, sigma2_e):
        self.K, self.y, self.g, self.e = K, y, sigma2_g, sigma2_e
        self.n = len(K)
        self.X = np.zeros((self.n, 0)) if X is None else X
        self.r = self.X.shape[1]
        self.V = self.g * K + self.e * np.eye(self.n)

    @cached_property
    def Vinv(self):
        return np.linalg.inv(self.V)

    @cached_property
    def beta_cov(self):
        return np.linalg.inv(self.X.T @ self.Vinv @ self.X)

    @cached_property
    def P(self):
        return self.Vinv - self.Vinv @ self.X @ self.beta_cov @ self.X.T @ self.Vinv

    @cached_property
    def contrasts(self):
        """A basis of the error contrasts that is not the package's: the null space of Xᵀ by SVD."""
        return scipy.linalg.null_space(self.X.T) if self.r else np.eye(self.n)

    @property
    def loglik_contrasts(self):
        N = self.contrasts
        cov = Covariance.from_cholesky(np.linalg.cholesky(N.T @ self.V @ N))
        return multivariate_normal(cov=cov).logpdf(N.T @ self.y)

    @property
    def loglik_reml(self):
        """Patterson–Thompson: log ∫ N(y; Xβ, V) dβ."""
        return self.loglik_contrasts - 0.5 * np.linalg.slogdet(self.X.T @ self.X)[1]

    @property
    def loglik_ml(self):
        return multivariate_normal(self.X @ self.beta, self.V).logpdf(self.y)

    @cached_property
    def beta(self):
        return self.beta_cov @ self.X.T @ self.Vinv @ self.y

    @cached_property
    def Py(self):
        return self.P @ self.y

    @property
    def blup(self):
        return self.g * self.K @ self.Py

    @property
    def pev(self):
        """Var(û - u) = σ²_gK - σ⁴_gKPK."""
        return self.g * self.K - self.g**2 * self.K @ self.P @ self.K

    @property
    def fitted(self):
        return self.X @ self.beta + self.blup

    def predict(self, X_new, K_new, K_new_new):
        """Mean and error covariance of X*β + u*, with the joint covariance of (β̂ - β, û* - u*) written out."""
        cross = self.g * K_new @ self.Vinv
        D = X_new - cross @ self.X
        mean = X_new @ self.beta + cross @ (self.y - self.X @ self.beta)
        return mean, self.g * K_new_new - cross @ (self.g * K_new.T) + D @ self.beta_cov @ D.T

    @property
    def fitted_cov(self):
        return self.predict(self.X, self.K, self.K)[1]

    @property
    def score(self):
        return np.array([0.5 * (self.Py @ D @ self.Py - np.trace(self.P @ D)) for D in (self.K, np.eye(self.n))])

    def _pairs(self, entry):
        parts = (self.K, np.eye(self.n))
        return np.array([[entry(A, B) for B in parts] for A in parts])

    @property
    def average(self):
        return self._pairs(lambda A, B: 0.5 * self.Py @ A @ self.P @ B @ self.Py)

    @property
    def expected(self):
        return self._pairs(lambda A, B: 0.5 * np.trace(self.P @ A @ self.P @ B))

    @property
    def posterior(self):
        """Mean and covariance of (β, u) given y under a flat prior on β: Henderson's joint covariance."""
        C, g, K = self.beta_cov, self.g, self.K
        cross = -g * C @ self.X.T @ self.Vinv @ K
        return np.r_[self.beta, self.blup], np.block([[C, cross], [cross.T, self.pev]])

    def posterior_under(self, b, B):
        """Mean and covariance of (β, u) given y when β ~ N(b, B), as a plain Gaussian conditional."""
        joint = np.block([[B, np.zeros((self.r, self.n))], [np.zeros((self.n, self.r)), self.g * self.K]])
        A = np.hstack([self.X, np.eye(self.n)])
        gain = joint @ A.T @ np.linalg.inv(A @ joint @ A.T + self.e * np.eye(self.n))
        mean = np.r_[b, np.zeros(self.n)]
        return mean + gain @ (self.y - A @ mean), joint - gain @ A @ joint


def gradient(K, X, y, g, e, method):
    """∂ℓ/∂(σ²_g, σ²_e), β profiled out; analytic in g and e, so that a complex step differentiates it exactly."""
    X = np.zeros((len(y), 0)) if X is None else X
    Vinv = np.linalg.inv(g * K + e * np.eye(len(y)))
    P = Vinv - Vinv @ X @ np.linalg.inv(X.T @ Vinv @ X) @ X.T @ Vinv
    Py, inverse = P @ y, P if method == "REML" else Vinv
    return np.array([0.5 * (Py @ D @ Py - np.trace(inverse @ D)) for D in (K, np.eye(len(y)))])


def profile_loglik(K, X, y, delta, method="REML"):
    """max over (β, σ²) of the log-likelihood at each δ > 0 (Patterson–Thompson for REML), by dense eigenvalues."""
    n = len(y)
    X = np.zeros((n, 0)) if X is None else X
    N = scipy.linalg.null_space(X.T) if X.shape[1] else np.eye(n)
    values, U = np.linalg.eigh(N.T @ K @ N)
    z2 = (U.T @ (N.T @ y)) ** 2
    shifted = np.maximum(values, 0) + np.asarray(delta)[:, None]
    p, Q = len(values), (z2 / shifted).sum(-1)
    if method == "REML":
        logdet, m = np.log(shifted).sum(-1) + np.linalg.slogdet(X.T @ X)[1], p
    else:
        logdet, m = np.log(np.maximum(np.linalg.eigvalsh(K), 0) + np.asarray(delta)[:, None]).sum(-1), n
    return -0.5 * (m * np.log(2 * np.pi) + m + logdet + m * np.log(Q / m))


def left_out(V, X, y, rows):
    """Mean and covariance of y_S given the others, β estimated from the others alone by generalised least squares."""
    others = np.setdiff1d(np.arange(len(y)), rows)
    Vo, Xo, yo = V[np.ix_(others, others)], X[others], y[others]
    cross = np.linalg.solve(Vo, V[np.ix_(others, rows)]).T
    cov = V[np.ix_(rows, rows)] - cross @ V[np.ix_(others, rows)]
    if not X.shape[1]:
        return cross @ yo, cov
    C = np.linalg.inv(Xo.T @ np.linalg.solve(Vo, Xo))
    beta = C @ Xo.T @ np.linalg.solve(Vo, yo)
    D = X[rows] - cross @ Xo
    return X[rows] @ beta + cross @ (yo - Xo @ beta), cov + D @ C @ D.T
