"""Formulas that lme4, glmmTMB and ordinal were given: maximum likelihood estimates are theirs."""

import numpy as np
import pytest

import pm_fastlmm as flmm
from tests.engines.latent.reference import CASES, table_of, theta_of

# where R's formula is not ours: numbers that are factors there, and successes and failures
FORMULAS = {
    "cbpp_logit": "incidence ~ factor(period) + (1 | herd)",
    "cbpp_probit": "incidence ~ factor(period) + (1 | herd)",
    "grouseticks": "TICKS ~ factor(YEAR) + scale(HEIGHT) + (1 | INDEX) + (1 | BROOD) + (1 | LOCATION)",
}
FAMILIES = {"cbpp": "binomial", "contraception": "bernoulli", "salamanders_nbinom2": "nbinom2"}
TRIALS = {"cbpp_logit": "size", "cbpp_probit": "size"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "tree" not in case])
def test_a_formula_of_a_peer_has_its_estimates(name):
    case, table = CASES[name], table_of(name)
    family = next((own for start, own in FAMILIES.items() if name.startswith(start)), case["family"])
    formula = FORMULAS.get(name, case["formula"])
    given = {"family": family, "link": case["link"], "trials": TRIALS.get(name)}
    fit = flmm.find_reml(formula, table, method="ML", progressbar=False, **given)
    peer = case.get("glmmTMB") or case["clmm"]
    assert fit.converged
    assert abs(fit.loglik - peer["loglik"]) < 1e-5
    np.testing.assert_allclose(fit.blue, peer["beta"], rtol=2e-3, atol=2e-5)
    covariances = peer.get("covariances") or [[[peer["sd"] ** 2]]]
    np.testing.assert_allclose(fit.theta, theta_of(peer | {"covariances": covariances}), rtol=5e-3)
