"""A small kernel over a range of lengthscales, with fixed effects, and a model of it."""

import numpy as np
import pymc as pm

import pm_fastlmm as flmm

RANGE = (0.08, 1.5)


def matern52(x, lengthscale):
    a = np.sqrt(5) * np.abs(x[:, None] - x) / lengthscale
    return (1 + a + a**2 / 3) * np.exp(-a)


class Example:
    """y ~ N(Xβ, 1.5 K(0.3) + 0.2 I) at n irregular points."""

    def __init__(self, n=60, seed=5, noise=0.2):
        rng = np.random.default_rng(seed)
        self.n, self.x = n, np.sort(rng.uniform(size=n))
        self.X = np.column_stack([np.ones(n), rng.normal(size=n)])
        V = 1.5 * self.K(0.3) + noise * np.eye(n)
        self.y = self.X @ [3.0, -1.0] + np.linalg.cholesky(V) @ rng.normal(size=n)
        self.spectrum = flmm.LengthscaleSpectrum.from_coordinates(
            self.x, lengthscale=RANGE, X=self.X, delta=(1e-3, 1e2), tolerance=1e-5, progressbar=False
        )

    def K(self, lengthscale):
        return matern52(self.x, lengthscale)

    def model(self):
        with pm.Model() as model:
            ell = pm.Truncated("ell", pm.LogNormal.dist(-1, 0.7), lower=RANGE[0], upper=RANGE[1])
            g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 1)
            flmm.LengthscaleLMM("y", spectrum=self.spectrum, lengthscale=ell, sigma2_g=g, sigma2_e=e, observed=self.y)
        return model
