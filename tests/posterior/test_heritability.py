"""Heritability of posterior draws is that of `data_scale` at each of them."""

import arviz_base as az
import numpy as np
import pymc as pm
import pytest
from latent_cases import grouped, model_of

import pm_fastlmm as flmm
from pm_fastlmm.families.scales import data_scale
from pm_fastlmm.posterior.heritability import heritability


def posterior_of(**draws):
    return az.from_dict({"posterior": {name: np.asarray(values) for name, values in draws.items()}})


def test_each_draw_has_the_shares_of_its_parameters():
    rng = np.random.default_rng(1)
    label, X, y = grouped(rng, "negative_binomial", 8, 4, covariate=True)
    model = model_of(label, X, y, "negative_binomial")
    sigma, alpha, beta = rng.uniform(0.3, 1, (2, 5)), rng.uniform(1, 4, (2, 5)), rng.normal(size=(2, 5, 2))
    idata = posterior_of(sigma_g=sigma, alpha=alpha, y_beta=beta)
    found = heritability(idata, "g", model=model)
    repeated = heritability(idata, ("g",), "repeatability", model=model)
    family = model_family(model)
    for at in np.ndindex(2, 5):
        scale = data_scale(family, [1 / alpha[at]], X @ beta[at], sigma[at] ** 2)
        own = scale.heritability(sigma[at] ** 2)
        for name in ("latent", "expected", "observed"):
            assert found[name].values[at] == pytest.approx(getattr(own, name), rel=1e-9)
            again = getattr(scale.repeatability(sigma[at] ** 2), name)
            assert repeated[name].values[at] == pytest.approx(again, rel=1e-9)
    assert "liability" not in found


def model_family(model):
    return flmm.find_reml(model, fixed={"g": 1.0, "dispersion": 1.0}, progressbar=False)._node_at(None).family


def test_coefficients_are_drawn_where_the_posterior_has_none():
    rng = np.random.default_rng(2)
    label, X, y = grouped(rng, "ordinal", 8, 4, covariate=True)
    model = model_of(label, X, y, "ordinal")
    idata = posterior_of(sigma_g=rng.uniform(0.3, 1, (2, 5)), cutpoints=np.broadcast_to([-0.5, 1.0], (2, 5, 2)))
    found = heritability(idata, "g", model=model, random_seed=1)
    assert found["observed"].dims == ("chain", "draw", "category")
    assert found["observed"].shape == (2, 5, 3)
    assert ((found["expected"] > 0) & (found["expected"] <= 1)).all()
    assert found["liability"].dims == ("chain", "draw")


def test_what_is_asked_for_must_be_there():
    rng = np.random.default_rng(2)
    label, X, y = grouped(rng, "poisson", 8, 4)
    model = model_of(label, X, y, "poisson")
    idata = posterior_of(sigma_g=np.ones((1, 3)))
    with pytest.raises(ValueError, match="there is no term 'animal': the model has g"):
        heritability(idata, "animal", model=model)
    with pm.Model() as normal:
        terms = [flmm.Term(label, flmm.covariance.scalar(pm.HalfNormal("sigma_g", 1) ** 2), name="g")]
        flmm.StructuredLMM("y", X=X, terms=terms, sigma2_e=1.0, observed=y)
    with pytest.raises(ValueError, match="y is a StructuredLMM, a normal response, whose shares are functions"):
        heritability(idata, "g", model=normal)
