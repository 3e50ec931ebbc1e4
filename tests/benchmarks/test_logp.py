"""Microseconds per log-density and gradient: full rank, low rank, treatments of β, and PyMC's own distributions."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy.special import gammaln

import pm_fastlmm as flmm

pytestmark = pytest.mark.benchmark

US = 1e6
RANK = 50


def dense_problem(n, seed=30):
    rng = np.random.default_rng([seed, n])
    markers = rng.normal(size=(n, 2 * n)) / np.sqrt(2 * n)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y = X @ [1.0, -0.5, 0.3] + markers @ rng.normal(size=2 * n) + rng.normal(size=n)
    return markers @ markers.T, X, y


def through_pymc(model):
    """Value and gradient as PyMC compiles them for its NUTS, and a point: one repetition is one call from Python."""
    function = model.logp_dlogp_function(ravel_inputs=True)
    function.set_extra_values({})
    return function, np.concatenate([np.ravel(v) for v in model.initial_point().values()]) + 0.1


def loops(measure, model):
    """The evaluation through PyMC and through nutpie, which must agree, as loops to be timed."""
    function, x = through_pymc(model)
    return {"PyMC": measure.loop(lambda: function(x)), "nutpie": measure.through_nutpie(model, x, function(x))}


def numpy_logp(spectrum, y, prior):
    """
    The log-posterior of `kernel_model` in (logit h², log total) and its gradient as one would write them in NumPy.

    h² is uniform and total ~ InverseGamma(a, b); the Jacobians h²(1 - h²) and total are part of the density.
    """
    rotated = spectrum.rotate(y)
    z2, share = rotated.z**2, spectrum.eigvals / spectrum.mean_diagonal
    a, b = prior.total_shape, prior.total_scale
    constant = a * np.log(b) - gammaln(a) - 0.5 * spectrum.df * np.log(2 * np.pi) - spectrum.projection.logdet_R

    def evaluate(x):
        h, total = 1 / (1 + np.exp(-x[0])), np.exp(x[1])
        e = h * share + (1 - h)
        ratio = z2 / (total * e)
        quadratic = ratio.sum()
        likelihood = -0.5 * (np.log(e).sum() + share.size * x[1] + quadratic)
        value = constant + likelihood + np.log(h * (1 - h)) - a * x[1] - b / total
        slope = 0.5 * ((ratio - 1) * (share - 1) / e).sum()
        return value, np.array([slope * h * (1 - h) + 1 - 2 * h, 0.5 * (quadratic - share.size) - a + b / total])

    return evaluate


def test_full_rank_beside_numpy(measure, report):
    n = 1000
    K, X, y = dense_problem(n)
    spectrum = flmm.Spectrum.from_covariance(K, X)
    prior = flmm.priors.VariancePrior.scaled_to(spectrum.rotate(y))
    model = flmm.kernel_model(y, spectrum=spectrum, prior=prior)
    bare = numpy_logp(spectrum, y, prior)
    function, x = through_pymc(model)
    value, gradient = function(x)
    np.testing.assert_allclose(bare(x)[0], value, rtol=1e-10)
    np.testing.assert_allclose(bare(x)[1], gradient, rtol=1e-8)
    seconds = measure.take_turns(loops(measure, model) | {"NumPy": measure.loop(lambda: bare(x))})
    report(f"value and gradient, NumPy expression, n = {n}", US * seconds["NumPy"], "µs")
    for name in ("PyMC", "nutpie"):
        figure = f"value and gradient through {name}, n = {n}"
        report(figure, US * seconds[name], "µs")
        report(figure, seconds[name] / seconds["NumPy"], "×", part="/ NumPy expression")


def test_low_rank_at_ten_thousand_and_a_million(measure, report):
    both = {}
    for n in (10_000, 1_000_000):
        rng = np.random.default_rng([31, n])
        W = rng.normal(size=(n, RANK)) / np.sqrt(RANK)
        X = np.column_stack([np.ones(n), rng.normal(size=n)])
        y = X @ [1.0, -0.5] + W @ rng.normal(size=RANK) + rng.normal(size=n)
        spectrum = flmm.Spectrum.from_factor(W, X)
        model = flmm.kernel_model(y, spectrum=spectrum)
        both |= {(name, n): run for name, run in loops(measure, model).items()}
    seconds = measure.take_turns(both)
    for name in ("PyMC", "nutpie"):
        small, large = seconds[name, 10_000], seconds[name, 1_000_000]
        figure = f"value and gradient through {name}, rank {RANK}, n = 10⁶"
        report(figure, US * large, "µs")
        report(figure, US * small, "µs", part="n = 10⁴")
        report(figure, large / small, "×", part="/ n = 10⁴")


class Known(pm.gp.cov.Covariance):
    """The covariance function of `pm.gp.Marginal` for observations 0 … n-1 whose covariance is a given matrix."""

    def __init__(self, K):
        super().__init__(1)
        self.K = pt.constant(K)

    def full(self, X, Xs=None):
        return self.K

    def diag(self, X):
        return pt.diagonal(self.K)


def test_beside_mvnormal_and_gp_marginal(measure, report):
    """The same density in three ways: no fixed effects, since neither of the others integrates them out."""
    n = 300
    K, _, y = dense_problem(n)

    def with_variances(add):
        with pm.Model() as model:
            sigma2, delta = pm.HalfNormal("sigma2", 2.0), pm.HalfNormal("delta", 2.0)
            add(sigma2, delta)
        return model

    def marginal(sigma2, delta):
        gp = pm.gp.Marginal(cov_func=sigma2 * Known(K))
        noise = pt.sqrt(sigma2 * delta)
        gp.marginal_likelihood("y", X=np.arange(n)[:, None], y=y, sigma=noise, jitter=0.0)

    spectrum = flmm.Spectrum.from_covariance(K)
    models = {
        "FastLMM": with_variances(
            lambda sigma2, delta: flmm.FastLMM("y", sigma2=sigma2, delta=delta, spectrum=spectrum, observed=y)
        ),
        "pm.MvNormal": with_variances(
            lambda sigma2, delta: pm.MvNormal(
                "y", mu=np.zeros(n), cov=sigma2 * (pt.constant(K) + delta * pt.eye(n)), observed=y
            )
        ),
        "pm.gp.Marginal": with_variances(marginal),
    }
    values, both = {}, {}
    for name, model in models.items():
        function, x = through_pymc(model)
        values[name] = function(x)
        np.testing.assert_allclose(values[name][0], values["FastLMM"][0], rtol=1e-9)
        np.testing.assert_allclose(values[name][1], values["FastLMM"][1], rtol=1e-6)
        both[name, "PyMC"] = measure.loop(lambda function=function, x=x: function(x))
        both[name, "nutpie"] = measure.through_nutpie(model, x, values[name])
    seconds = measure.take_turns(both)
    for way in ("PyMC", "nutpie"):
        report(f"value and gradient of FastLMM through {way}, n = {n}", US * seconds["FastLMM", way], "µs")
        for name in ("pm.MvNormal", "pm.gp.Marginal"):
            figure = f"value and gradient of {name} through {way}, n = {n}"
            report(figure, US * seconds[name, way], "µs")
            report(figure, seconds[name, way] / seconds["FastLMM", way], "×", part="/ FastLMM")


def test_explicit_and_gaussian_beta(measure, report):
    n = 1000
    K, X, y = dense_problem(n)
    spectrum = flmm.Spectrum.from_covariance(K, X)
    r = X.shape[1]

    def treated(treatment):
        with pm.Model() as model:
            h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", 3.0)
            beta = (
                {"beta": pm.Normal("beta", 0, 5, shape=r)} if treatment == "explicit" else {"beta_cov": 25 * np.eye(r)}
            )
            flmm.FastLMM("y", h2=h2, total=total, spectrum=spectrum, observed=y, **beta)
        return model

    both = {
        (treatment, way): run
        for treatment in ("explicit", "Gaussian")
        for way, run in loops(measure, treated(treatment)).items()
    }
    seconds = measure.take_turns(both)
    for (treatment, way), values in seconds.items():
        report(f"value and gradient, {treatment} β (r = {r}), through {way}, n = {n}", US * values, "µs")
