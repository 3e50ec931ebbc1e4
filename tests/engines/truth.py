"""Gaussian models by dense algebra from the definitions: what engines are compared with."""

import numpy as np
import scipy.linalg
from scipy.stats import multivariate_normal


class Dense:
    """y ~ N(m + Xβ, V), β flat or N(b, B), from the definitions: the prior of β becomes a part of V."""

    def __init__(self, V, X, y, *, mu=0.0, b=None, B=None):
        self.flat, self.n = b is None, len(y)
        self.b, self.B = (np.zeros(X.shape[1]), np.zeros((X.shape[1],) * 2)) if b is None else (b, B)
        self.design = X
        self.V = V + X @ self.B @ X.T
        self.X = X if self.flat else np.zeros((self.n, 0))
        self.r = y - mu - X @ self.b
        self.inverse = np.linalg.inv(self.V)
        self.beta_cov = np.linalg.inv(self.X.T @ self.inverse @ self.X)
        self.P = self.inverse - self.inverse @ self.X @ self.beta_cov @ self.X.T @ self.inverse
        self.beta = self.beta_cov @ self.X.T @ self.inverse @ self.r
        self.Py = self.P @ self.r

    @property
    def loglik(self):
        """The density of y, restricted if β is flat: that of the error contrasts, with -½log|XᵀX|."""
        N = scipy.linalg.null_space(self.X.T) if self.flat else np.eye(self.n)
        contrasts = multivariate_normal(cov=N.T @ self.V @ N).logpdf(N.T @ self.r)
        return contrasts - 0.5 * np.linalg.slogdet(self.X.T @ self.X)[1]

    def given(self, X, cross, own):
        """
        Return mean and covariance, given y, of Xβ + t; t has mean 0, and covariances `cross` with y - Xβ and `own`.

        Universal kriging under a flat β, a plain Gaussian conditional otherwise.
        """
        mean, cross, own = X @ self.b, cross + X @ self.B @ self.design.T, own + X @ self.B @ X.T
        gain = cross @ self.inverse
        rest = (X if self.flat else np.zeros((len(X), 0))) - gain @ self.X
        return mean + gain @ self.r + rest @ self.beta, own - gain @ cross.T + rest @ self.beta_cov @ rest.T


class DenseTraits(Dense):
    """
    Y (t, n) = XB + U + E, vec(U) ~ N(0, Σ_g ⊗ K), vec(E) ~ N(0, Σ_e ⊗ W⁻¹), where it was `seen`.

    Entries are those of one trait after those of another, and so are levels and coefficients.
    """

    def __init__(self, K, X, seen, sigma_g, sigma_e, Y, *, weights=None, **known):
        t, n = seen.shape
        self.K, self.seen, self.S = K, seen, seen.ravel()
        self.root = np.sqrt(np.ones(n) if weights is None else weights)
        self.scale = np.tile(self.root, t)[self.S]
        self.own = np.kron(sigma_g, K)
        self.noise = self.of_residuals(sigma_e)
        super().__init__(self.own[np.ix_(self.S, self.S)] + self.noise, np.kron(np.eye(t), X)[self.S], Y[seen], **known)

    def of_kernel(self, direction):
        """Return the covariance that a Σ_g gives the entries."""
        return np.kron(direction, self.K)[np.ix_(self.S, self.S)]

    def of_residuals(self, direction):
        """Return the covariance that a Σ_e gives the entries."""
        return np.kron(direction, np.diag(self.root**-2))[np.ix_(self.S, self.S)]

    def of_coefficients(self, direction):
        """Return the covariance that one of β gives the entries."""
        return self.design @ direction @ self.design.T

    @property
    def cross(self):
        """Covariances of vec(U), of all rows, with what was observed."""
        return self.own[:, self.S]

    def effects(self):
        """Return mean and covariance of vec(U) given y."""
        return self.given(np.zeros((len(self.own), self.design.shape[1])), self.cross, self.own)

    def jointly(self):
        """Return mean and covariance of β and vec(U) given y."""
        r = self.design.shape[1]
        design = np.vstack([np.eye(r), np.zeros((len(self.own), r))])
        cross = np.vstack([np.zeros((r, self.n)), self.cross])
        return self.given(design, cross, scipy.linalg.block_diag(np.zeros((r, r)), self.own))
