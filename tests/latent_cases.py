"""Small sets of responses that are not normal, and their likelihoods by quadrature."""

import numpy as np
import pymc as pm
from scipy.special import logsumexp

import pm_fastlmm as flmm
from pm_fastlmm.engines.latent.latentlmm import LatentLMM

GRID = np.linspace(-10, 10, 1201)  # standard deviations, of the trapezoid rule
_WEIGHT = -(GRID**2) / 2 - np.log(2 * np.pi) / 2 + np.log(GRID[1] - GRID[0])


def grouped(rng, family="bernoulli", groups=6, each=4, *, sd=1.0, covariate=False, **given):
    """Return groups, X and a response with a normal effect of each group."""
    label = np.repeat(np.arange(groups), each)
    X = np.ones((groups * each, 1))
    if covariate:
        X = np.column_stack([X, rng.normal(size=len(X))])
    eta = X @ np.array([0.3, 0.5])[: X.shape[1]] + np.repeat(rng.normal(0, sd, groups), each)
    if family == "bernoulli":
        y = rng.binomial(1, 1 / (1 + np.exp(-eta)))
    elif family == "binomial":
        y = rng.binomial(given["trials"], 1 / (1 + np.exp(-eta)))
    elif family == "poisson":
        y = rng.poisson(np.exp(eta))
    elif family == "negative_binomial":
        y = rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.5, len(eta)))
    elif family == "gamma":
        y = np.exp(eta) * rng.gamma(3.0, 1 / 3, len(eta))
    else:
        y = np.digitize(eta + rng.logistic(size=len(eta)), [-0.5, 1.0])
    return label, X, np.asarray(y, dtype=float)


def model_of(label, X, y, family="bernoulli", *, slope=False, **given):
    """Return a model with intercepts of groups, or with slopes of the second column of X too."""
    with pm.Model() as model:
        if slope:
            sd = pm.HalfNormal("sd_g", 1, shape=2)
            r = pm.Uniform("r", -1, 1)
            Sigma = pm.math.stack([pm.math.stack([sd[0] ** 2, r * sd[0] * sd[1]]),
                                   pm.math.stack([r * sd[0] * sd[1], sd[1] ** 2])])  # fmt: skip
            terms = [flmm.Term(label, flmm.covariance.unstructured(Sigma), columns=X, name="g")]
        else:
            sigma = pm.HalfNormal("sigma_g", 1)
            terms = [flmm.Term(label, flmm.covariance.scalar(sigma**2), name="g")]
        if family in ("negative_binomial", "gamma"):
            given["alpha"] = pm.Gamma("alpha", 2, 0.5)
        if family == "ordinal":
            X = X[:, 1:] if X.shape[1] > 1 else None
            given["cutpoints"] = pm.Normal("cutpoints", 0, 3, shape=int(y.max()), default_transform=None,
                                           initval=np.arange(int(y.max())) - 0.5)  # fmt: skip
        LatentLMM("y", family=family, X=X, terms=terms, observed=y, **given)
    return model


def log_likelihood(family, psi, label, y, variance, eta):
    """Return log p(y | β), the effects of groups integrated out by quadrature, of many η (…, n)."""
    u = np.sqrt(variance) * GRID
    density = family.log_density(y, eta[..., None, :] + u[:, None], psi)
    total = 0.0
    for g in np.unique(label):
        total = total + logsumexp(density[..., label == g].sum(axis=-1) + _WEIGHT, axis=-1)
    return total
