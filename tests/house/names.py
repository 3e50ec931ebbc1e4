"""Names of the interface, and how results are read, in one place: where they change, this file alone is adapted."""

import numpy as np
import pandas as pd
import xarray as xr

import pm_fastlmm as flmm

Spectrum = flmm.Spectrum
KernelStatistics, TermStatistics = flmm.KernelStatistics, flmm.TermStatistics
Basis = flmm.FourierBasis
FourierStatistics = flmm.FourierStatistics
LengthscaleSpectrum = flmm.LengthscaleSpectrum
Term = flmm.Term
VariancePrior, DeviationPrior = flmm.priors.VariancePrior, flmm.priors.DeviationPrior

FastLMM = flmm.FastLMM
StructuredLMM = flmm.StructuredLMM
DenseLMM = flmm.DenseLMM
FourierLMM = flmm.FourierLMM

reml, scan, log_likelihood = flmm.reml, flmm.scan, flmm.log_likelihood
exact_posterior, prior_sensitivity = flmm.exact_posterior, flmm.priors.sensitivity
kernel_model, lmm_model = flmm.kernel_model, flmm.lmm_model
compare_fits = flmm.compare_fits


def reml_point(K, y, X):
    """REML of one response with one K, without a spectrum that is kept."""
    return flmm.reml_point(K, y, X)


def reml_blocks(spectrum, Y, **kwargs):
    """REML of many responses, in blocks."""
    return flmm.reml_blocks(spectrum, Y, progressbar=False, **kwargs)


def reml_covariance(V, y, X, **kwargs):
    """REML of a covariance that is a function of its parameters."""
    return flmm.reml_covariance(V, y, X, progressbar=False, **kwargs)


def find_reml(model, **kwargs):
    """REML of the variances of a model."""
    return flmm.find_reml(model, progressbar=False, **kwargs)


def lengthscale_lmm(name, spectrum, **kwargs):
    """A node with one kernel whose lengthscale is a parameter."""
    return flmm.LengthscaleLMM(name, spectrum=spectrum, **kwargs)


def fourier_statistics(basis, x, y, X=None):
    """What a FourierLMM node observes of the rows."""
    return flmm.FourierStatistics.from_arrays(basis, x, y, X)


def sample(model, **kwargs):
    """A few draws by NUTS, with the derived quantities."""
    quiet = {"progressbar": False, "quiet": True, "compute_convergence_checks": False}
    options = {"draws": 20, "tune": 30, "chains": 1, "cores": 1, "random_seed": 11}
    return flmm.sample(model=model, **(options | quiet | kwargs))


def recover_effects(idata, model, **kwargs):
    """Draws of the coefficients and the random effects."""
    return flmm.recover_effects(idata, model=model, random_seed=12, **kwargs)


def predict(idata, model, *args, **kwargs):
    """Draws of observations."""
    return flmm.predict(idata, *args, model=model, random_seed=13, **kwargs)


def pointwise(idata, model, **kwargs):
    """Densities of each observation, or group, given the others."""
    return flmm.pointwise_log_likelihood(idata, model=model, progressbar=False, **kwargs)


def posterior_function(idata, model, **kwargs):
    """The posterior of the function of a FourierLMM node."""
    return flmm.posterior_function(idata, model=model, **kwargs)


def read_kernel_fit(fit):
    """Numbers of the result of `reml`."""
    names = ("sigma2", "delta", "sigma2_g", "sigma2_e", "h2", "pve", "total")
    errors = fit.standard_errors()
    out = {name: getattr(fit, name) for name in (*names, "loglik", "loglik_null", "converged", "message", "n_obs")}
    out |= {f"{name}_se": np.asarray(errors[name]) for name in names}
    out |= {"beta": fit.blue, "beta_se": np.asarray(fit.beta_se), "beta_cov": fit.blue_cov}
    words = {(): None, ("sigma2_g",): "no kernel variance", ("sigma2_e",): "no residual variance"}
    found = fit.boundary
    several = not isinstance(found, tuple)
    return out | {"boundary": np.array([words[each] for each in found], dtype=object) if several else words[found]}


def read_fit(fit):
    """Numbers of the result of `find_reml` and `reml_covariance`."""
    names = ("theta", "loglik", "score", "average_information", "beta", "beta_se", "beta_cov", "boundary", "converged")
    out = {name: getattr(fit, name) for name in (*names, "message", "cov", "point")}
    return out | {"se": fit.standard_errors()[list(fit.theta.index)]}


def kernel_test(fit, **kwargs):
    """The exact test that one kernel has no variance."""
    return variance_test(fit.test_no_variance(**kwargs))


def interval(fit, name):
    """The profile-likelihood interval of a parameter."""
    return fit.interval(name)


def covariance(fit):
    """V at the estimate."""
    return fit.objective.covariance(fit.at())


def covariance_derivatives(fit):
    """∂V/∂θ at the estimate."""
    values = fit.objective.covariance_derivatives(fit.at())
    return xr.DataArray(values, dims=("parameter", "obs", "obs_"), coords={"parameter": list(fit.theta.index)})


def blue(fit):
    """Generalised least squares at the estimate."""
    beta, cov = fit.objective.blue(fit.at())
    return pd.Series(beta, fit.coef), pd.DataFrame(cov, fit.coef, fit.coef)


def variance_test(test):
    """Numbers of a test of a variance."""
    return {"table": test.table(), "p_value": test.p_value, "mass_at_zero": test.mass_at_zero}


def prediction(found):
    """Numbers of a prediction from a fit."""
    return {"mean": found.mean, "variance": found.variance, "residual_variance": found.residual_variance}
