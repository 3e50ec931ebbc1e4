"""Terms that share a variable of the model: the same fit as that of one term with the columns of both."""

from typing import Any

import numpy as np
import pymc as pm
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.fitting.laplace import LaplaceFit

N = 90


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    herd, pen, x = rng.integers(0, 9, N), rng.integers(0, 5, N), rng.normal(size=N)
    y = rng.poisson(np.exp(0.5 + 0.3 * x + 0.8 * rng.normal(size=9)[herd]))
    return {"herd": herd, "pen": pen, "X": np.c_[np.ones(N), x], "y": y.astype(float)}


def shared(data: dict[str, Any], y: Any = None) -> pm.Model:
    """Return a model of two factors, the variance of the second twice that of the first."""
    with pm.Model() as model:
        s = pm.HalfNormal("s", 1)
        terms = [
            flmm.Term(data["herd"], flmm.covariance.scalar(s**2), name="herd"),
            flmm.Term(data["pen"], flmm.covariance.scalar(2 * s**2), name="pen"),
        ]
        flmm.LatentLMM("y", family="poisson", X=data["X"], terms=terms, observed=data["y"] if y is None else y)
    return model


def one(data: dict[str, Any]) -> pm.Model:
    """Return the same model with a term whose columns are the levels of both factors."""
    Z = np.c_[np.eye(9)[data["herd"]], np.sqrt(2) * np.eye(5)[data["pen"]]]
    with pm.Model() as model:
        s = pm.HalfNormal("s", 1)
        term = flmm.Term(Z, flmm.covariance.scalar(s**2), name="both")
        flmm.LatentLMM("y", family="poisson", X=data["X"], terms=[term], observed=data["y"])
    return model


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_shared_standard_deviation_has_the_fit_of_one_term(data: Any, method: Any) -> None:
    fit = flmm.find_reml(shared(data), method=method, progressbar=False)
    other = flmm.find_reml(one(data), method=method, progressbar=False)
    assert isinstance(fit, LaplaceFit)
    assert fit.loglik == pytest.approx(other.loglik, abs=1e-8)
    assert fit.theta["s"] ** 2 == pytest.approx(other.theta["both"], rel=1e-4)
    np.testing.assert_allclose(fit.blue, other.blue, rtol=1e-4)
    np.testing.assert_allclose(fit.beta_cov, other.beta_cov, rtol=1e-2)
    np.testing.assert_allclose(fit.loo()["log_density"], other.loo()["log_density"], rtol=1e-4)
    assert "Wald z tests" in repr(fit)
    assert "family" in repr(fit)


def test_share_that_is_known_has_no_error(data: Any) -> None:
    table = flmm.find_reml(shared(data), progressbar=False).heritability("pen")
    assert table.loc["latent", "estimate"] == pytest.approx(2 / 3, abs=1e-9)
    assert table.loc["latent", "se"] == pytest.approx(0, abs=1e-6)
    assert table.loc["observed", "se"] > 0.01


def test_zeros_alone_are_a_labelled_fit(data: Any) -> None:
    fit = flmm.find_reml(shared(data, np.zeros(N)), progressbar=False)
    assert not fit.converged
    assert "all 90 responses are 0" in fit.message


def test_container_with_another_response_is_read_when_it_is_fitted(data: Any) -> None:
    with pm.Model() as model:
        response = pm.Data("response", data["y"])
        term = flmm.Term(data["herd"], flmm.covariance.scalar(pm.HalfNormal("s", 1) ** 2), name="herd")
        flmm.LatentLMM("y", family="poisson", X=data["X"], terms=[term], observed=response)
    with model:
        pm.set_data({"response": data["y"] + 0.5})
    with pytest.raises(ValueError, match="must be counts, the integers"):
        flmm.find_reml(model, progressbar=False)


def test_equations_that_memory_does_not_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pm_fastlmm.base.memory.physical_memory", lambda: 100.0)
    label = np.arange(N)
    term = flmm.Term(label, flmm.covariance.scalar(1.0), name="row")
    with pm.Model(), pytest.raises(ValueError, match="the factor of 91 mixed-model equations"):
        flmm.LatentLMM("y", family="poisson", X=np.ones((N, 1)), terms=[term], observed=np.ones(N))
