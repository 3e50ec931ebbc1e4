"""Laplace's approximation by its definition: a dense Hessian at a mode that SciPy finds; and integrals on grids."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from scipy.stats import binom, norm, poisson


def poisson_counts(y, eta, rows=slice(None)):
    """log p, and its first two derivatives in η."""
    return poisson(np.exp(eta)).logpmf(y), y - np.exp(eta), -np.exp(eta)


def successes(trials):
    """The same of binomial counts with a logit link."""

    def density(y, eta, rows=slice(None)):
        p, m = expit(eta), trials[rows]
        return binom(m, p).logpmf(y), y - m * p, -m * p * (1 - p)

    return density


@dataclass(frozen=True)
class Laplace:
    """η = mu + Xβ + Zu, u ~ N(0, G), with the unknowns w = (β, u) of a flat β, one that is b, or N(b, B)."""

    y: Any
    X: Any
    Z: Any
    G: Any
    density: Any
    mu: Any = 0.0
    b: Any = None
    B: Any = None

    @property
    def coefficients(self):
        """How many unknowns are coefficients."""
        return self.X.shape[1] if self.b is None or np.any(self.B) else 0

    @property
    def prior(self):
        """Precision of the unknowns."""
        r = self.coefficients
        own = np.zeros((r, r)) if self.b is None or not r else np.linalg.inv(self.B)
        return scipy.linalg.block_diag(own, np.linalg.inv(self.G))

    @property
    def W(self):
        return np.hstack([self.X[:, : self.coefficients], self.Z])

    @property
    def offset(self):
        return np.zeros(len(self.y)) + self.mu + (0.0 if self.b is None else self.X @ self.b)

    @cached_property
    def mode(self):
        W, P = self.W, self.prior

        def minus(w):
            value, slope, _ = self.density(self.y, self.offset + W @ w)
            return -value.sum() + 0.5 * w @ P @ w, -(W.T @ slope) + P @ w

        w = minimize(minus, np.zeros(W.shape[1]), jac=True, method="BFGS").x
        for _ in range(5):
            _, slope, second = self.density(self.y, self.offset + W @ w)
            w = w + np.linalg.solve(P - W.T @ (second[:, None] * W), W.T @ slope - P @ w)
        return w

    @property
    def eta(self):
        return self.offset + self.W @ self.mode

    @cached_property
    def H(self):
        return self.prior - self.W.T @ (self.density(self.y, self.eta)[2][:, None] * self.W)

    @property
    def loglik(self):
        """The approximation, of a flat β with r/2 log 2π."""
        P, w, r = self.prior, self.mode, self.X.shape[1] if self.b is None else 0
        logdet = np.linalg.slogdet(P[r:, r:])[1] - np.linalg.slogdet(self.H)[1]
        return self.density(self.y, self.eta)[0].sum() - 0.5 * w @ P @ w + 0.5 * logdet + 0.5 * r * np.log(2 * np.pi)

    @property
    def moments(self):
        """Mean of w to the first order, mode + ½H⁻¹Σ_i w_i (w_iᵀH⁻¹w_i) ∂³log p_i, and the inverse curvature."""
        cov, h = np.linalg.inv(self.H), 1e-5
        third = (self.density(self.y, self.eta + h)[2] - self.density(self.y, self.eta - h)[2]) / (2 * h)
        return self.mode + 0.5 * cov @ self.W.T @ (np.einsum("ij,jk,ik->i", self.W, cov, self.W) * third), cov

    def left_out(self, i):
        """Return log p(y_i | others), and the grid of η_i with its probabilities, the site of y_i taken out."""
        w, (_, first, second) = self.W[i], (part[i] for part in self.density(self.y, self.eta))
        cov = np.linalg.inv(self.H + second * np.outer(w, w))
        linear = self.H @ self.mode - (first - second * (w @ self.mode)) * w
        mean, sd = self.offset[i] + w @ cov @ linear, np.sqrt(w @ cov @ w)
        eta = mean + sd * np.linspace(-12, 12, 20001)
        log = norm(mean, sd).logpdf(eta) + np.log(eta[1] - eta[0])
        return logsumexp(self.density(self.y[i], eta, i)[0] + log), eta, np.exp(log)


def exact_by_group(y, eta, groups, sigma, density):
    """log p(y) with an effect of each group and the rest of η given, by a fine grid for each."""
    u = np.linspace(-10, 10, 8001) * sigma
    total = 0.0
    for j in np.unique(groups):
        rows = np.flatnonzero(groups == j)
        log = norm(0, sigma).logpdf(u) + sum(density(y[k], eta[k] + u, k)[0] for k in rows)
        total += logsumexp(log) + np.log(u[1] - u[0])
    return total
