"""One kernel: every promise of spectra, fits, posteriors, scans and nodes, for the inputs of `hostile`."""

import math
import warnings

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

import pm_fastlmm as flmm
from fuzz import hostile
from fuzz.guard import Refused, guarded, short
from pm_fastlmm import covariance
from pm_fastlmm.kernel.exact.result import ExactPosterior
from pm_fastlmm.kernel.likelihood.information import score

QUANTITIES = ("h2", "pve", "sigma2", "delta", "sigma2_g", "sigma2_e", "total")

EPS = float(np.finfo(float).eps)
GRID = np.linspace(-40, 40, 81)  # of log δ, around the scale of the spectrum


def check(seed):
    """Return the outcomes of the problem of a seed."""
    return check_problem(hostile.build(hostile.Recipe.draw(seed)))


def check_problem(problem):
    """Return the outcomes of one problem, "engine: outcome"; raise an AssertionError where a promise is broken."""
    r = problem.recipe
    kernel = problem.factor if r.factor and problem.factor is not None else problem.K
    make = flmm.Spectrum.from_covariance if kernel is problem.K else flmm.Spectrum.from_factor
    try:
        spectrum = guarded(make, kernel, problem.X)
    except Refused as error:
        return [f"Spectrum: refused, {short(error)}"]
    check_spectrum(spectrum)
    out = []
    for name, run in (ENGINES | (COMPILED if r.seed % 50 == 0 else {})).items():
        try:
            out.append(f"{name}: {run(problem, spectrum)}")
        except Refused as error:
            out.append(f"{name}: refused, {short(error)}")
    return out


def check_spectrum(s):
    """Eigenvalues positive and ascending, an orthonormal basis that is orthogonal to X, K again from the factors."""
    assert (s.eigvals > 0).all(), "an eigenvalue is not positive"
    assert (np.diff(s.eigvals) >= 0).all(), "eigenvalues are not ascending"
    assert s.df == s.n - s.projection.rank, "df is not n - r"
    assert np.isfinite(s.C).all(), "C is not finite"
    assert np.isfinite(s.corner_root).all(), "the corner is not finite"
    gap = np.abs(s.basis.T @ s.basis - np.eye(s.rank)).max(initial=0.0)
    assert gap < 1e-12 * s.n, f"the basis is not orthonormal: {gap:.1e}"
    assert np.abs(s.basis.T @ s.projection.Q1).max(initial=0.0) < 1e-12 * s.n, "the basis is not orthogonal to X"


def check_reml(problem, spectrum, method="REML"):
    """One response, the same among others, in other units, and after changes that do not change the model."""
    fit = guarded(flmm.reml, spectrum, problem.y, method=method)
    check_fit(fit)
    several = guarded(flmm.reml, spectrum, _unsquare(problem.Y), method=method)
    same_fit(fit, several.response("y0"), name="among others")
    for name in several.names:
        check_fit(several.response(name))
    for name, changed, units in in_other_units(problem, spectrum):
        exact = changed[0] is spectrum
        same_fit(fit, guarded(flmm.reml, *changed, method=method), units=units, name=name, exact=exact)
    if problem.recipe.dtype != "float32":
        for name, changed in transformed(problem, spectrum):
            same_fit(fit, guarded(flmm.reml, *changed, method=method), name=name, exact=False)
    return f"{', '.join(fit.boundary) or 'interior'}" if fit.converged else f"not converged, {short(fit.message)}"


def check_ml(problem, spectrum):
    """The same by maximum likelihood."""
    return check_reml(problem, spectrum, "ML")


def check_fit(fit):
    """The promises of one REMLFit."""
    values = {name: getattr(fit, name) for name in QUANTITIES}
    errors = {name: fit.standard_errors()[name] for name in QUANTITIES}
    for name in ("sigma2", "sigma2_g", "sigma2_e", "delta", "total"):
        assert not values[name] < 0, f"{name} is negative: {values[name]}"
    for name in ("h2", "pve"):
        assert np.isnan(values[name]) or 0 <= values[name] <= 1, f"{name} is outside of (0, 1): {values[name]}"
    if not fit.converged:
        assert len(fit.message.split()) > 5, "a fit that has not converged does not say why"
        return
    numbers = np.array([*values.values(), fit.loglik, fit.loglik_null, *fit.beta, *fit.beta_se])
    assert not np.isnan(numbers).any(), f"NaN in a converged fit: {values}, beta {fit.beta} ± {fit.beta_se}"
    assert np.isfinite(numbers).all() or "sigma2_g" in fit.boundary, f"inf in a converged fit: {values}"
    assert (fit.beta_se >= 0).all(), f"a standard error is negative: {fit.beta_se}"
    for name, error in errors.items():
        assert not error < 0, f"the standard error of {name} is {error}"
        if np.isnan(error):
            assert "undefined" in fit.message, f"the standard error of {name} is NaN and the message is {fit.message!r}"
    assert fit.loglik >= fit.loglik_null - 1e-9 * (fit.n_obs + abs(fit.loglik)), "the kernel makes the fit worse"
    best = highest(fit)
    assert fit.loglik >= best - 1e-8 * (fit.n_obs + abs(best)), f"{best - fit.loglik:.2e} below a grid of log delta"


def highest(fit):
    """Return the highest log-likelihood on a grid of log δ, the scale maximised at each."""
    s, rotated = fit.spectrum, fit.rotated
    m = s.df if fit.method == "REML" else s.n
    with np.errstate(all="ignore"):
        delta = np.exp(GRID) * s.eigvals.max()
        sigma2 = ((rotated.z**2 / (s.eigvals + delta[:, None])).sum(-1) + rotated.rss / delta) / m
        loglik = flmm.log_likelihood(rotated, sigma2, delta * sigma2, method=fit.method)
    return float(np.max(loglik[np.isfinite(loglik)], initial=-math.inf))


def same_fit(fit, other, *, name, units=(1.0, 1.0), exact=True):
    """
    Two fits of the same data, y in other units[0], K in other units[1], are equally likely and at each other's maximum.

    Where the data leave fewer than three digits of the log-likelihood, or two fits are not of the same rotation
    (exact) and their eigenvalues lose theirs, there is nothing to compare.
    """
    error = max(rounding(fit, exact), rounding(other, exact))
    if not error < 1e-3 or (not exact and not (fit.converged and other.converged)):
        return  # whether something is exactly singular is decided by rounding
    assert fit.converged == other.converged, f"{name}: {fit.message!r} and {other.message!r}"
    if not fit.converged:
        return
    allowed = 1e-9 * (fit.n_obs + abs(fit.loglik) + abs(other.loglik)) + error
    restricted = fit.method == "REML"
    m = fit.spectrum.df if restricted else fit.n_obs
    shift = other.spectrum.projection.logdet_R - fit.spectrum.projection.logdet_R if restricted else 0.0
    gap = abs(fit.loglik - other.loglik - shift - m * math.log(units[0]))
    assert gap <= allowed, f"{name}: log-likelihoods differ by {gap:.2e}, more than {allowed:.1e}"
    theirs = other.sigma2_g / units[0] ** 2 * units[1], other.sigma2_e / units[0] ** 2
    loss = fit.loglik - float(flmm.log_likelihood(fit.rotated, *theirs, method=fit.method))
    assert loss <= allowed, f"{name}: the other estimate is {loss:.2e} less likely, more than {allowed:.1e}"


def rounding(fit, exact):
    """Return what rounding can change of a log-likelihood: z by n ε‖y‖, λ by n ε λmax, beside what they add to."""
    s, rotated = fit.spectrum, fit.rotated
    if not fit.converged:
        left = float(rotated.norm2) if not s.nullity else float(rotated.rss)
        return 0.0 if left > 1e-8 * (float(rotated.norm2) + float((rotated.y1**2).sum())) else math.inf
    g, e = fit.sigma2_g, fit.sigma2_e
    size = math.sqrt(float(rotated.norm2) + float((rotated.y1**2).sum()))
    smallest = (0.0 if s.nullity else g * s.eigvals[0]) + e
    out = 8 * s.n * EPS * size * math.sqrt(s.n / smallest)
    if not exact:
        R = s.projection.R / np.linalg.norm(s.projection.R, axis=0) if s.projection.rank else np.eye(1)
        condition = np.linalg.cond(R)
        out += 100 * s.n**2 * EPS * (1 + max(s.eigvals[-1], s.mean_diagonal) * g / smallest) * condition**2
        out += out * condition
        if fit.method == "ML":
            S = g * s.schur + e * np.eye(s.projection.rank)
            left = float(np.linalg.eigvalsh(S).min(initial=math.inf))
            out += 100 * s.n * EPS * g * s.mean_diagonal / left if left > 0 else math.inf
    return out


def in_other_units(problem, spectrum):
    """Yield (name, (spectrum, y), units) after powers of two in y, K and X."""
    y = np.asarray(problem.y, dtype=float)
    if np.abs(y).max() > 1e-40:
        yield "y → 8y", (spectrum, 8 * y), (8.0, 1.0)
    kernel, make = _kernel(problem)
    if kernel.dtype == np.float64:
        by = 16.0 if make == flmm.Spectrum.from_covariance else 4.0
        yield "K → 16K", (guarded(make, kernel * by, problem.X), y), (1.0, 16.0)
    if problem.X is not None and problem.X.shape[1]:
        columns = 2.0 ** (np.arange(problem.X.shape[1]) % 3)
        yield "X → XD", (guarded(make, kernel, problem.X * columns), y), (1.0, 1.0)


def transformed(problem, spectrum):
    """Yield (name, (spectrum, y)): rows permuted, y + Xb, XA."""
    kernel, make = _kernel(problem)
    y, X = np.asarray(problem.y, dtype=float), problem.X
    rng = np.random.default_rng([problem.recipe.seed, 2])
    order = rng.permutation(len(y))
    moved = kernel[order][:, order] if make == flmm.Spectrum.from_covariance else kernel[order]
    yield "permuted rows", (guarded(make, moved, None if X is None else X[order]), y[order])
    if spectrum.projection.rank:
        own = spectrum.X / np.linalg.norm(spectrum.X, axis=0)
        yield "y → y + Xb", (spectrum, y + own @ rng.normal(size=own.shape[1]) * np.linalg.norm(y))


def check_posterior(problem, spectrum):
    """One response, and the same among others: probabilities, moments, intervals, draws."""
    posterior = guarded(flmm.exact_posterior, spectrum, problem.y)
    check_posterior_of(posterior)
    several = guarded(flmm.exact_posterior, spectrum, _unsquare(problem.Y))
    if not several.message[0] and rounding(guarded(flmm.reml, spectrum, posterior.rotated), exact=True) < 1e-6:
        sd = posterior.sd("h2")
        gap = abs(several.mean("h2")[0] - posterior.mean("h2"))
        assert gap < 1e-4 * sd + 1e-12, f"among others the mean of h2 differs by {gap / sd:.1e} sd"
        gap = abs(several.log_bayes_factor[0] - posterior.log_bayes_factor)
        assert gap < 1e-5 * (1 + abs(posterior.log_bayes_factor)), f"among others the Bayes factor differs by {gap:.1e}"
    for quantity in ("h2", "pve", "total", "sigma2_g", "sigma2_e"):
        means, low, high = several.mean(quantity), *several.interval(quantity)
        fine = several.message == ""
        assert not np.isnan(np.stack([means, low, high])[:, fine]).any(), f"NaN in {quantity} of several"
    return "posterior"


def check_posterior_of(posterior: ExactPosterior):
    """The promises of one ExactPosterior."""
    assert abs(posterior.weights.sum() - 1) < 1e-9, f"weights sum to {posterior.weights.sum()}"
    assert math.isfinite(posterior.log_evidence), "the evidence is not finite"
    assert math.isfinite(posterior.log_bayes_factor), "the Bayes factor is not finite"
    assert 0 <= posterior.mean("h2") <= 1, f"the mean of h2 is {posterior.mean('h2')}"
    for quantity in ("h2", "sigma2_g", "sigma2_e"):
        ends = [posterior.quantile(quantity, p) for p in (0.001, 0.1, 0.5, 0.9, 0.999)]
        assert np.isfinite(ends).all(), f"quantiles of {quantity} are not finite: {ends}"
        assert (np.diff(ends) >= -1e-12 * np.abs(ends[1:])).all(), f"quantiles of {quantity} fall: {ends}"
        low, high = posterior.interval(quantity, 0.9, kind="hdi")
        assert low <= high, f"the shortest interval of {quantity} is {low, high}"
        assert high - low <= (ends[3] - posterior.quantile(quantity, 0.05)) or high - low <= 1e-15 + 1.001 * (
            posterior.quantile(quantity, 0.95) - posterior.quantile(quantity, 0.05)
        ), f"the shortest interval of {quantity} is longer than the equal-tailed one"
    draws = posterior.draws(50, random_seed=0)
    for quantity, values in draws.items():
        assert np.isfinite(values).all() or quantity == "delta", f"draws of {quantity} are not finite"
        assert (values >= 0).all(), f"draws of {quantity} are negative"
    density = posterior.h2_density(np.array([0.0, 0.1, 0.5, 0.9, 1.0]))
    assert not np.isnan(density).any(), "the density of h2 is NaN"
    assert (density >= 0).all(), "the density of h2 is negative"
    if posterior.shape > 1:
        mean, cov = posterior.beta()
        assert np.isfinite(mean).all(), f"the mean of beta is {mean}"
        assert (np.diagonal(cov) >= 0).all(), f"the variance of beta is {np.diagonal(cov)}"


def check_scan(problem, spectrum):
    """Each candidate has a test or a reason; the first one agrees with a fit that has it as a column of X."""
    for test in ("wald", "lrt"):
        result = guarded(
            flmm.scan, spectrum, problem.y, np.asarray(problem.candidates, dtype=float), test=test, progressbar=False
        )
        tested = (result.reason == "").to_numpy()
        for name in ("beta", "se", "statistic", "p_value", "sigma2", "h2"):
            values = result[name].to_numpy()
            assert np.isnan(values[~tested]).all(), f"{test}: an untested candidate has a {name}"
            assert not np.isnan(values[tested]).any(), f"{test}: {name} is NaN: {values}"
        assert ((result.p_value >= 0) & (result.p_value <= 1)).to_numpy()[tested].all(), f"{test}: p {result.p_value}"
        assert (result.se >= 0).to_numpy()[tested].all(), f"{test}: se {result.se}"
        assert (result.sigma2 >= 0).to_numpy()[tested].all(), f"{test}: sigma2 {result.sigma2}"
    return f"{int(tested.sum())} of 3 tested"


def check_kernel_statistics(problem, spectrum):
    """Rows added up give what the factor gives, where a Gram matrix has the digits."""
    if problem.factor is None or problem.factor.shape[1] > 30:
        return "not tried"
    c = guarded(flmm.KernelStatistics.from_arrays, problem.X, problem.factor, problem.y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        streamed, rotated = c.factor()
    if any("lost digits" in str(warning.message) for warning in caught):
        return "lost digits, and says so"
    fit = guarded(flmm.reml, streamed, rotated.first() if rotated.names else rotated)
    for name in QUANTITIES:
        assert not getattr(fit, name) < 0, f"{name} is negative: {getattr(fit, name)}"
    assert fit.converged or len(fit.message.split()) > 5, "a fit that has not converged does not say why"
    expected = guarded(flmm.reml, guarded(flmm.Spectrum.from_factor, problem.factor, problem.X), problem.y)
    if fit.converged and expected.converged and rounding(expected, exact=False) < 1e-8 and "precise" not in fit.message:
        gap = abs(fit.loglik - expected.loglik)
        assert gap < 1e-5 * (fit.n_obs + abs(fit.loglik)), f"log-likelihoods differ by {gap:.1e}"
    return "converged" if fit.converged else "not converged"


def check_node(problem, spectrum):
    """The PyMC node has the likelihood of `log_likelihood`, and the gradient of its score."""
    g, e = pt.dscalars("g", "e")
    node = guarded(flmm.FastLMM.dist, spectrum=spectrum, sigma2_g=g, sigma2_e=e)
    rotated = guarded(spectrum.rotate, problem.y)
    logp = pm.logp(node, np.asarray(problem.y, dtype=float))
    evaluate = pytensor.function([g, e], [logp, *pytensor.grad(logp, [g, e])], mode="FAST_COMPILE")
    unit = float(rotated.norm2) / spectrum.df or 1.0
    for share in (0.01, 0.5, 0.99):
        at = share * unit / spectrum.mean_diagonal if spectrum.mean_diagonal else unit, (1 - share) * unit
        value, *gradient = guarded(evaluate, *at)
        expected = float(flmm.log_likelihood(rotated, *at))
        lost = 1e-9 * (spectrum.n + abs(expected)) + 1e3 * EPS * float((rotated.y1**2).sum()) / at[1]
        assert np.isfinite([value, *gradient]).all() or lost > 1, f"logp {value}, gradient {gradient}"
        assert abs(value - expected) < lost, f"logp is {value}, the log-likelihood {expected}"
        slopes = score(rotated, *np.array(at))
        close = np.abs(gradient - slopes) * at < 1e-7 * (spectrum.n + np.abs(slopes * at)) + lost
        assert close.all(), f"the gradient is {gradient}, the score {slopes}"
    return "finite"


def check_structured(problem, spectrum):
    """One random-effects term has the fit of `reml`; two have an estimate or a reason."""
    if problem.factor is None:
        return "not tried"
    pairs = np.arange(problem.recipe.n) // 2
    fits = []
    for terms in ({"W": problem.factor}, {"W": problem.factor, "pairs": pairs}):
        with pm.Model() as model:
            made = [
                guarded(flmm.Term, incidence, covariance.scalar(pm.HalfFlat(f"v_{name}", initval=1.0)), name=name)
                for name, incidence in terms.items()
            ]
            v_e = pm.HalfFlat("v_e", initval=1.0)
            y = np.asarray(problem.y, dtype=float)
            guarded(flmm.StructuredLMM, "y", X=problem.X, terms=made, sigma2_e=v_e, observed=y)
        fits.append(guarded(flmm.find_reml, model, progressbar=False))
    for fit in fits:
        assert fit.converged or len(fit.message.split()) > 5, "a fit that has not converged does not say why"
        assert not fit.converged or np.isfinite(fit.loglik), f"the log-likelihood is {fit.loglik}"
        assert not (fit.theta.to_numpy() < 0).any(), f"negative variances: {fit.theta}"
    one, two = fits  # two are a local maximum, which need not be above the global one of one
    expected = guarded(flmm.reml, guarded(flmm.Spectrum.from_factor, problem.factor, problem.X), problem.y)
    if one.converged and expected.converged and rounding(expected, exact=False) < 1e-7:
        assert abs(one.loglik - expected.loglik) < 1e-6 * (expected.n_obs + abs(one.loglik)), "not the fit of reml"
    return "converged" if one.converged and two.converged else "not converged"


ENGINES = {
    "reml": check_reml,
    "reml ML": check_ml,
    "exact_posterior": check_posterior,
    "scan": check_scan,
    "KernelStatistics": check_kernel_statistics,
}
COMPILED = {"FastLMM": check_node, "StructuredLMM": check_structured}  # for one input of fifty: each compiles a graph


def _kernel(problem):
    factor = problem.recipe.factor and problem.factor is not None
    kernel = problem.factor if factor else problem.K
    return kernel, flmm.Spectrum.from_factor if factor else flmm.Spectrum.from_covariance


def _unsquare(Y):
    """Return Y, one column less where it is square: an unlabelled square array is refused by design."""
    return Y[:, :2] if Y.shape[0] == Y.shape[1] else Y
