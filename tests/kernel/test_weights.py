"""Prior weights of one kernel: all that a weighted `Spectrum` gives is of V = σ²_gK + σ²_e diag(1/w)."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import scipy.linalg
from numpy.testing import assert_allclose
from scipy.stats import invgamma, multivariate_normal

import pm_fastlmm as flmm

N, Q = 30, 9
RNG = np.random.default_rng(8)
A = RNG.normal(size=(N, 50))
K, FACTOR = A @ A.T / 50, A[:, :12] / 3
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
WEIGHTS = RNG.uniform(0.3, 5, N)
Y = X @ [1.0, -1.0, 2.0] + np.linalg.cholesky(K + np.diag(1 / WEIGHTS)) @ RNG.normal(size=N)
WHO = np.append(np.arange(Q - 1), RNG.integers(0, Q - 1, N - Q + 1))  # the last one has no record
K_OF = K[:Q, :Q]
Z = np.equal.outer(WHO, np.arange(Q)).astype(float)
AT = [(0.9, 0.7), (0.01, 3.0), (4.0, 0.2)]
CASES = {
    "covariance": (K, lambda w=WEIGHTS: flmm.Spectrum.from_covariance(K, X, weights=w)),
    "factor": (FACTOR @ FACTOR.T, lambda w=WEIGHTS: flmm.Spectrum.from_factor(FACTOR, X, weights=w)),
    "individuals": (
        Z @ K_OF @ Z.T, lambda w=WEIGHTS: flmm.Spectrum.from_covariance(K_OF, X, individual=WHO, weights=w)
    ),
}  # fmt: skip


class Dense:
    """The model by its V."""

    def __init__(self, K, g, e, X=X, w=WEIGHTS, y=Y):
        self.K, self.g, self.X, self.y = K, g, X, y
        self.V = g * K + e * np.diag(1 / w)
        self.inverse = np.linalg.inv(self.V)
        self.cov = np.linalg.inv(X.T @ self.inverse @ X)
        self.beta = self.cov @ X.T @ self.inverse @ y
        self.P = self.inverse - self.inverse @ X @ self.cov @ X.T @ self.inverse

    def loglik(self, method):
        """The log-likelihood from a density: of y, or of error contrasts in the form of lme4."""
        if method == "ML":
            return multivariate_normal(self.X @ self.beta, self.V).logpdf(self.y)
        C = scipy.linalg.null_space(self.X.T)
        contrasts = multivariate_normal(cov=C.T @ self.V @ C).logpdf(C.T @ self.y)
        return contrasts - 0.5 * np.linalg.slogdet(self.X.T @ self.X)[1]

    def predict(self, X, cross, own):
        """Return f̂ = X*β̂ + û* and the variance of its error, from the covariances of u* with u."""
        gain = self.g * cross @ self.inverse
        rest = X - gain @ self.X
        mean = X @ self.beta + gain @ (self.y - self.X @ self.beta)
        return mean, self.g * own - gain @ (self.g * cross).T + rest @ self.cov @ rest.T


@pytest.fixture(params=CASES)
def case(request):
    kernel, spectrum = CASES[request.param]
    spectrum = spectrum()
    fit = flmm.reml(spectrum, Y)
    return kernel, spectrum, fit, Dense(kernel, fit.sigma2_g, fit.sigma2_e)


# ---------------------------------------------------------------- the density and what is estimated


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_log_likelihoods_are_those_of_V(case, method):
    kernel, spectrum, *_ = case
    rotated = spectrum.rotate(Y)
    for g, e in AT:
        truth = Dense(kernel, g, e).loglik(method)
        assert_allclose(flmm.log_likelihood(rotated, g, e, method=method), truth, atol=1e-9)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_a_fit_has_the_likelihood_coefficients_and_errors_of_its_V(case, method):
    kernel, spectrum, *_ = case
    fit = flmm.reml(spectrum, Y, method=method)
    truth = Dense(kernel, fit.sigma2_g, fit.sigma2_e)
    assert_allclose(fit.loglik, truth.loglik(method), atol=1e-9)
    assert_allclose(fit.blue, truth.beta, rtol=1e-9)
    assert_allclose(fit.blue_cov, truth.cov, rtol=1e-9)
    for factor in (0.98, 1.02):
        for g, e in ((factor, 1.0), (1.0, factor)):
            assert Dense(kernel, g * fit.sigma2_g, e * fit.sigma2_e).loglik(method) < fit.loglik
    none = Dense(kernel, 0.0, 1.0)
    m = N - 3 if method == "REML" else N
    none = Dense(kernel, 0.0, Y @ none.P @ Y / m).loglik(method)
    assert_allclose(fit.loglik_null, none, atol=1e-9)


def test_what_has_rows_is_of_the_data(case):
    kernel, spectrum, *_ = case
    assert_allclose(spectrum.X, X, atol=1e-13)
    assert_allclose(spectrum.diagonal, np.diag(kernel), atol=1e-12)
    w = WEIGHTS
    assert_allclose(spectrum.mean_diagonal / spectrum.mean_weight, (w * np.diag(kernel)).sum() / w.sum())
    rows = np.arange(0, N, 2)
    part, y = spectrum.subset(rows), Y[::2]
    truth = Dense(kernel[::2, ::2], 0.8, 0.6, X[::2], w[::2], y)
    assert_allclose(flmm.log_likelihood(part.rotate(y), 0.8, 0.6), truth.loglik("REML"), atol=1e-9)


# ---------------------------------------------------------------- effects, predictions, leave-one-out


def test_effects_and_their_errors(case):
    kernel, spectrum, fit, truth = case
    own, cross = (kernel, kernel) if spectrum.individuals is None else (K_OF, K_OF @ Z.T)
    mean, error = truth.predict(np.zeros((len(own), 3)), cross, own)
    known = np.diag(fit.sigma2_g * own - fit.sigma2_g**2 * cross @ truth.inverse @ cross.T)
    assert_allclose(fit.blup(), mean, atol=1e-9)
    assert_allclose(fit.pev(), np.diag(error), rtol=1e-8, atol=1e-12)
    assert_allclose(fit.pev(full=True), error, atol=1e-9)
    assert_allclose(fit.conditional_variance(), known, rtol=1e-8, atol=1e-12)
    assert_allclose(fit.effects()["reliability"], 1 - np.diag(error) / (fit.sigma2_g * np.diag(own)), atol=1e-8)


def test_coefficients_of_a_factor():
    fit = flmm.reml(CASES["factor"][1](), Y)
    truth = Dense(FACTOR @ FACTOR.T, fit.sigma2_g, fit.sigma2_e)
    mean, error = truth.predict(np.zeros((12, 3)), FACTOR.T, np.eye(12))
    found = fit.factor_effects()
    assert_allclose(found.mean, mean, atol=1e-9)
    assert_allclose(found.variance, np.diag(error), rtol=1e-8)


def test_fitted_values_and_predictions(case):
    kernel, spectrum, fit, truth = case
    mean, error = truth.predict(X, kernel, kernel)
    found = fit.predict()
    assert_allclose(found.mean, mean, atol=1e-9)
    assert_allclose(found.variance, np.diag(error), rtol=1e-8)
    assert_allclose(found.residual_variance, fit.sigma2_e / WEIGHTS)
    population = fit.predict(effects="population")
    assert_allclose(population.mean, X @ truth.beta, atol=1e-9)
    assert_allclose(population.variance, np.diag(X @ truth.cov @ X.T), rtol=1e-8)
    assert_allclose(population.residual_variance, fit.sigma2_e / WEIGHTS)
    X_new, new = np.array([[1.0, 0.5, -2.0], [1.0, 0.0, 1.0]]), np.array([[1, 4], [0, 2]])
    cross = kernel[new].mean(axis=1)  # new rows whose effect is a mean of two
    own = kernel[new[:, :, None, None], new].mean(axis=(1, 3))
    K_new = cross if spectrum.individuals is None else K_OF[WHO[new]].mean(axis=1)
    found = fit.predict(X_new, K_new, K_new_new=own)
    mean, error = truth.predict(X_new, cross, own)
    assert_allclose(found.mean, mean, atol=1e-9)
    assert_allclose(found.variance, np.diag(error), rtol=1e-7)
    assert_allclose(found.residual_variance, fit.sigma2_e)  # of the weight 1


def test_observations_and_groups_left_out(case):
    _, _, fit, truth = case
    deviation = truth.P @ Y / np.diag(truth.P)
    found = fit.loo(Y)
    assert_allclose(found["mean"], Y - deviation, atol=1e-9)
    assert_allclose(found["sd"], 1 / np.sqrt(np.diag(truth.P)), rtol=1e-9)
    groups = np.arange(N) % 4
    found = fit.loo_groups(groups, Y)
    for j in range(4):
        S = np.flatnonzero(groups == j)
        cov = np.linalg.inv(truth.P[np.ix_(S, S)])
        density = multivariate_normal(cov=cov).logpdf(cov @ (truth.P @ Y)[S])
        assert_allclose(found.loc[j, "log_density"], density, atol=1e-8)


def test_residuals_and_leverages(case):
    _, _, fit, truth = case
    table = fit.diagnostics(Y)
    e = fit.sigma2_e / WEIGHTS
    assert_allclose(table["leverage"], 1 - e * np.diag(truth.P), atol=1e-7)
    assert_allclose(table["residual"], e * (truth.P @ Y), atol=1e-9)
    assert_allclose(table["weight"], WEIGHTS)


def test_several_responses_are_fitted_as_each_alone(case):
    _, spectrum, fit, _ = case
    other = Y[::-1].copy()
    both = flmm.reml(spectrum, np.column_stack([Y, other]))
    alone = flmm.reml(spectrum, other)
    for name in ("loglik", "sigma2_g", "sigma2_e", "total", "h2"):
        assert_allclose(getattr(both, name), [getattr(fit, name), getattr(alone, name)], rtol=1e-7)
    a, b = both.predict(), alone.predict()
    assert_allclose(np.asarray(a.se_observation)[:, 1], b.se_observation, rtol=1e-7)
    assert_allclose(np.asarray(a.mean)[:, 1], b.mean, rtol=1e-6, atol=1e-8)
    assert_allclose(both.loo(np.column_stack([Y, other])).loc["y1", "sd"], alone.loo(other)["sd"], rtol=1e-7)


def test_rows_that_a_response_misses(case):
    kernel, spectrum, *_ = case
    y = Y.copy()
    y[[2, 5, 7]] = np.nan
    seen = np.isfinite(y)
    fit = flmm.reml(spectrum, np.column_stack([Y, y]), missing="by_pattern")
    truth = Dense(kernel[np.ix_(seen, seen)], fit.sigma2_g[1], fit.sigma2_e[1], X[seen], WEIGHTS[seen], y[seen])
    assert_allclose(fit.loglik[1], truth.loglik("REML"), atol=1e-9)
    v = WEIGHTS[seen]
    kbar = (v * np.diag(kernel)[seen]).sum() / v.sum()
    assert_allclose(fit.total[1], kbar * fit.sigma2_g[1] + fit.sigma2_e[1] / v.mean())


def test_replicates_have_the_variances_of_the_weights():
    fit = flmm.reml(CASES["covariance"][1](), Y)
    draws = fit.simulate(20_000, effects="new", random_seed=1).to_numpy()
    V = fit.sigma2_g * K + fit.sigma2_e * np.diag(1 / WEIGHTS)
    assert_allclose(np.cov(draws), V, atol=5 * V.max() / np.sqrt(20_000))
    given = fit.simulate(20_000, effects="given", random_seed=1).to_numpy()
    assert_allclose(given.var(axis=1), fit.sigma2_e / WEIGHTS, rtol=0.06)


# ---------------------------------------------------------------- what weights mean


def test_equal_weights_are_none_at_all(case):
    _, spectrum, *_ = case
    of = next(make for make in CASES.values() if make[1]().mean_diagonal == spectrum.mean_diagonal)[1]
    plain, equal = flmm.reml(of(None), Y), flmm.reml(of(np.full(N, 4.0)), Y)
    assert_allclose(equal.sigma2_e, 4 * plain.sigma2_e, rtol=1e-7)
    for name in ("loglik", "sigma2_g", "h2", "pve", "total", "beta", "beta_se"):
        assert_allclose(getattr(equal, name), getattr(plain, name), rtol=1e-7)
    assert_allclose(equal.pev(), plain.pev(), rtol=1e-7)
    assert_allclose(equal.loo(Y), plain.loo(Y), rtol=1e-7)
    errors = [fit.coefficients("kenward-roger").astype(float) for fit in (equal, plain)]
    assert_allclose(*errors, rtol=1e-6)
    for kind in ("delta", "profile"):
        intervals = [fit.interval("total", kind=kind) for fit in (equal, plain)]
        assert_allclose(*intervals, rtol=1e-6)
        intervals = [np.array(fit.interval("sigma2_e", kind=kind)) for fit in (equal, plain)]
        assert_allclose(intervals[0], 4 * intervals[1], rtol=1e-6)


def test_a_mean_of_several_records_has_the_effects_of_its_records():
    count = RNG.integers(1, 5, N)
    place = np.repeat(np.arange(N), count)
    means = flmm.Spectrum.from_covariance(K_OF, X, individual=WHO, weights=count)
    records = flmm.Spectrum.from_covariance(K_OF, X[place], individual=WHO[place])
    fits = []
    for spectrum, y in ((means, Y), (records, Y[place])):
        with pm.Model() as model:
            g, e = pm.HalfNormal("g", 2), pm.HalfNormal("e", 2)
            flmm.FastLMM("y", spectrum=spectrum, sigma2_g=g, sigma2_e=e, observed=y)
        fits.append(flmm.find_reml(model, progressbar=False))
    at = {"sigma2_g": 0.7, "sigma2_e": 0.4}  # records that equal their mean: the same V̂ would make σ²_e smaller
    for what in (lambda fit: fit.blup(theta=at)["u"], lambda fit: fit.pev(theta=at)["u"]):
        assert_allclose(what(fits[0]), what(fits[1]), rtol=1e-8, atol=1e-10)


def test_a_column_is_tested_by_the_likelihood_with_it(case):
    kernel, spectrum, *_ = case
    candidates = np.random.default_rng(3).normal(size=(N, 4))
    for delta in ("each", "null"):
        found = flmm.scan(spectrum, Y, candidates, delta=delta)
        for j in range(4):
            wide = np.column_stack([X, candidates[:, j]])
            truth = Dense(kernel, 1.0, float(found.delta[j]), wide)
            sigma2 = Y @ truth.P @ Y / (N - 4)
            assert_allclose(found.beta[j], truth.beta[-1], rtol=1e-8)
            assert_allclose(found.se[j], np.sqrt(sigma2 * truth.cov[-1, -1]), rtol=1e-8)
    found = flmm.scan(spectrum, Y, candidates)
    kind = {"K": kernel} if spectrum.individuals is None else {"K": Z @ K_OF @ Z.T}
    own = flmm.reml(flmm.Spectrum.from_covariance(kind["K"], wide, weights=WEIGHTS, rtol=1e-10), Y)
    assert_allclose(found.h2[3], own.h2, atol=1e-6)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("n", [N, 720])
def test_one_fit_without_eigenvectors(n, method):
    rng = np.random.default_rng(2)
    A = rng.normal(size=(n, 2 * n)) / np.sqrt(n)
    kernel, w, M = A @ A.T, rng.uniform(0.5, 3, n), np.column_stack([np.ones(n), rng.normal(size=n)])
    y = A @ rng.normal(size=2 * n) + rng.normal(size=n) / np.sqrt(w)
    found = flmm.reml_point(kernel, y, M, weights=w, method=method)
    fit = flmm.reml(flmm.Spectrum.from_covariance(kernel, M, weights=w), y, method=method)
    for name in ("loglik", "loglik_null", "total", "h2", "pve", "sigma2_e", "beta", "beta_se"):
        assert_allclose(getattr(found, name), getattr(fit, name), rtol=2e-6)
    assert_allclose(found.loglik, fit.loglik, rtol=1e-9)


def test_intervals_by_replicates_are_those_of_the_unit():
    fits = [flmm.reml(CASES["factor"][1](unit * WEIGHTS), Y) for unit in (1.0, 9.0)]
    tables = [fit.intervals("bootstrap", n_sim=200, random_seed=1) for fit in fits]
    for name, unit in {"h2": 1.0, "total": 1.0, "sigma2_e": 9.0}.items():
        assert_allclose(tables[1].loc[name, "lower"], unit * tables[0].loc[name, "lower"], rtol=1e-5)


# ---------------------------------------------------------------- posterior


def test_the_evidence_is_the_integral_of_likelihood_and_prior(case):
    kernel, spectrum, *_ = case
    posterior = flmm.exact_posterior(spectrum, Y)
    w = WEIGHTS
    kbar = (w * np.diag(kernel)).sum() / w.sum()
    residual = np.sqrt(w / w.mean())
    s2 = np.linalg.lstsq(residual[:, None] * X, residual * Y)[1][0] / (N - 3)
    assert_allclose(posterior.prior.total_scale, s2)
    h2, dh2 = np.polynomial.legendre.leggauss(60)
    h2, dh2 = (h2 + 1) / 2, dh2 / 2
    t = np.linspace(-5, 6, 300)
    values = np.empty((60, 300))
    for i, h in enumerate(h2):
        V = h / kbar * kernel + (1 - h) * w.mean() * np.diag(1 / w)
        inverse = np.linalg.inv(V)
        XVX = X.T @ inverse @ X
        r = Y - X @ np.linalg.solve(XVX, X.T @ inverse @ Y)
        logdet = np.linalg.slogdet(V)[1] + np.linalg.slogdet(XVX)[1]
        values[i] = -0.5 * ((N - 3) * (np.log(2 * np.pi) + t) + logdet + r @ inverse @ r * np.exp(-t))
    density = np.exp(values - values.max()) * dh2[:, None] * invgamma(1, scale=s2).pdf(np.exp(t)) * np.exp(t)
    mass = density.sum()
    assert_allclose(posterior.log_evidence, values.max() + np.log(mass * (t[1] - t[0])), atol=1e-8)
    g, e = h2[:, None] / kbar * np.exp(t), (1 - h2[:, None]) * w.mean() * np.exp(t)
    for name, of in {"h2": h2[:, None], "total": np.exp(t), "sigma2_e": e, "sigma2_g": g}.items():
        assert_allclose(posterior.mean(name), (density * of).sum() / mass, rtol=1e-7)
    assert_allclose(
        np.median(posterior.draws(20_000, random_seed=1)["total"]), posterior.quantile("total", 0.5), rtol=0.03
    )
    low, high = posterior.interval("total", 0.8)
    assert_allclose(posterior.probability("total", low, high), 0.8, atol=1e-6)


@pytest.mark.parametrize("prior", [None, flmm.priors.DeviationPrior("half-normal", 1.5, 0.8)])
def test_the_unit_of_weights_is_that_of_the_residual_variance_alone(prior):
    posteriors = [flmm.exact_posterior(CASES["factor"][1](unit * WEIGHTS), Y, prior=prior) for unit in (1.0, 9.0)]
    first, other = posteriors
    assert_allclose(other.log_evidence, first.log_evidence, rtol=1e-9)
    for name in ("h2", "pve", "total", "sigma2_g"):
        assert_allclose(other.mean(name), first.mean(name), rtol=1e-8)
        assert_allclose(other.quantile(name, 0.9), first.quantile(name, 0.9), rtol=1e-6)
    assert_allclose(other.mean("sigma2_e"), 9 * first.mean("sigma2_e"), rtol=1e-8)
    assert_allclose(other.beta()[1], first.beta()[1], rtol=1e-8)


@pytest.mark.parametrize("treatment", [{}, {"beta_mean": np.ones(3), "beta_cov": np.eye(3)}])
def test_the_density_of_a_statistic_is_that_of_y(case, treatment):
    _, spectrum, *_ = case
    found = []
    for observed in (Y, spectrum.rotate(Y)):
        with pm.Model() as model:
            e = pm.HalfNormal("e")
            flmm.FastLMM("y", spectrum=spectrum, sigma2_g=0.7, sigma2_e=e, observed=observed, **treatment)
        found.append(model.compile_logp(sum=False, vars=[model["y"]])({"e_log__": np.log(0.4)})[0])
    assert_allclose(np.sum(found[1]), np.sum(found[0]), rtol=1e-10)


# ---------------------------------------------------------------- what is shown and what is wrong


def test_it_is_shown(case):
    _, spectrum, fit, _ = case
    assert repr(spectrum).endswith("prior weights)")
    assert f"{WEIGHTS.min():.6g} to {WEIGHTS.max():.6g}" in spectrum._repr_html_()
    assert "REML fit of y ~ N(Xβ, σ²(K + δ diag(1/w)))" in str(fit)


def test_weights_are_matched_by_id():
    ids = [f"i{j}" for j in range(N)]
    table, w = pd.DataFrame(K, ids, ids), pd.Series(WEIGHTS, ids)
    found = flmm.Spectrum.from_covariance(table, X, weights=w[::-1])
    assert_allclose(found.weights.values, WEIGHTS)
    with pytest.raises(ValueError, match="weights"):
        flmm.Spectrum.from_covariance(table, X, weights=w[1:])


@pytest.mark.parametrize("make", [CASES["covariance"][1], CASES["factor"][1], CASES["individuals"][1]])
def test_weights_that_are_none(make):
    for value, message in (
        (0.0, "weights are 0 in rows 3: they must be positive numbers"),
        (-1.0, "weights are negative in rows 3"),
        (np.nan, "weights are missing in rows 3: .* leave those rows out, or give them a weight"),
        (np.inf, "weights are infinite in rows 3"),
    ):
        with pytest.raises(ValueError, match=message):
            make(np.where(np.arange(N) == 3, value, 1.0))
    with pytest.raises(ValueError, match=rf"weights has 3 rows but [KW] has {N}"):
        make(np.ones(3))


def test_spectra_of_groups_have_the_same_weights():
    spectra = {"a": CASES["covariance"][1](), "b": CASES["covariance"][1](None)}
    with pytest.raises(ValueError, match="the spectra of the groups have different observations or prior weights"):
        flmm.scan(spectra, Y, np.ones((N, 2)), groups=["a", "b"])


def test_fits_with_other_weights_compare_but_are_not_nested():
    narrow, wide = (CASES["covariance"][1](w) for w in (None, WEIGHTS))
    table = flmm.compare_fits({"plain": flmm.reml(narrow, Y), "weighted": flmm.reml(wide, Y)})
    assert table["reference"].iloc[1] != ""
    assert_allclose(table.loc["weighted", "loglik"], flmm.reml(wide, Y).loglik)
    smaller = flmm.Spectrum.from_covariance(K, X[:, :2], weights=WEIGHTS)
    other = flmm.Spectrum.from_covariance(K, X[:, :2])
    large = flmm.reml(wide, Y, method="ML")
    same = flmm.compare_fits({"a": flmm.reml(smaller, Y, method="ML"), "b": large})
    assert same["reference"].iloc[1] == "χ²₁"
    different = flmm.compare_fits({"a": flmm.reml(other, Y, method="ML"), "b": large})
    assert different["reference"].iloc[1].startswith("not known to be nested")
    of_factor = [flmm.reml(CASES["factor"][1](w), Y) for w in (None, WEIGHTS)]
    with pytest.raises(ValueError, match=r"have other prior weights, .*compare fits by flmm.find_reml"):
        flmm.compare_fits(*of_factor)
