"""Laplace's approximation against its definition with dense matrices, and its gradient against differences."""

from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

import pm_fastlmm as flmm
from pm_fastlmm.engines.latent import products as products_module
from pm_fastlmm.engines.latent.products import LatentProducts
from pm_fastlmm.engines.sparse.equations import SparseBlock
from pm_fastlmm.engines.structured.choice import sparse_block
from pm_fastlmm.families.choice import family_of
from pm_fastlmm.spectrum.projection import Projection
from pm_fastlmm.spectrum.weights import UNWEIGHTED

N = 40
FAMILIES = {
    "bernoulli": family_of("bernoulli"),
    "probit": family_of("bernoulli", "probit"),
    "binomial": family_of("binomial", trials=np.full(N, 7)),
    "poisson": family_of("poisson"),
    "negative_binomial": family_of("negative_binomial"),
    "gamma": family_of("gamma"),
    "ordinal": family_of("ordinal", categories=4),
}
PSI = {"negative_binomial": [0.4], "gamma": [0.3], "ordinal": [-0.8, 0.3, 1.1]}


def pedigree(size: int, rng: np.random.Generator) -> flmm.covariance.Pedigree:
    ids = [f"a{i}" for i in range(size)]
    sire = [None if i < 5 else ids[rng.integers(0, i // 2)] for i in range(size)]
    dam = [None if i < 5 else ids[rng.integers(i // 2, i)] for i in range(size)]
    return flmm.covariance.Pedigree(ids, sire, dam)


@pytest.fixture(scope="module")
def setting() -> dict[str, Any]:
    """A pedigree with correlated intercept and slope, a factor, and three columns of X."""
    rng = np.random.default_rng(8)
    known = pedigree(15, rng)
    x = rng.normal(size=N)
    animal = [f"a{i}" for i in rng.integers(0, 15, N)]
    of_animal = flmm.Term(
        animal, flmm.covariance.unstructured(np.eye(2)), columns=np.c_[np.ones(N), x],
        across=flmm.covariance.known(known), name="animal",
    )  # fmt: skip
    of_pen = flmm.Term(rng.integers(0, 6, N), flmm.covariance.scalar(1.0), name="pen")
    X = np.c_[np.ones(N), rng.normal(size=(N, 2))]
    A = flmm.covariance.known(known).dense()
    eta = 0.3 * rng.normal(size=N) + X @ [0.2, 0.3, -0.2]
    return {"terms": [of_animal, of_pen], "X": X, "A": np.asarray(A), "eta": eta, "rng": rng}


def made(setting: dict[str, Any], family: Any, *, flat: bool = True, prior: bool = False) -> LatentProducts:
    blocks = [sparse_block(term, UNWEIGHTED) for term in setting["terms"]]
    if prior:
        blocks.append(SparseBlock(sp.csr_array(setting["X"]), 1, 3))
    return LatentProducts.of(blocks, Projection.from_design(setting["X"]), family, flat=flat)


SIGMA = [np.array([[0.5, -0.2], [-0.2, 0.4]]), np.array([[0.3]])]


def definition(setting, family, y, psi, sigma, *, X, offset=0.0, B=None):
    """Return log p̃ by the formula, with explicit matrices and a general optimiser."""
    Z = [term.Z.toarray() for term in setting["terms"]]
    precision = [np.kron(np.linalg.inv(setting["A"]), np.linalg.inv(sigma[0])), np.eye(6) / sigma[1][0, 0]]
    if B is not None:
        Z, precision = [*Z, setting["X"]], [*precision, np.linalg.inv(B)]
    r = X.shape[1]
    W = np.hstack([X, *Z])
    P = np.zeros((W.shape[1],) * 2)
    at = r
    for Q in precision:
        P[at : at + len(Q), at : at + len(Q)] = Q
        at += len(Q)

    def minus(w):
        return -(family.log_density(y, offset + W @ w, psi).sum() - 0.5 * w @ P @ w)

    def slope(w):
        return -(W.T @ family.derivatives(y, offset + W @ w, psi).first - P @ w)

    w = np.zeros(W.shape[1])
    w = scipy.optimize.minimize(minus, w, jac=slope, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).x
    for _ in range(3):  # to the rounding
        D = -family.derivatives(y, offset + W @ w, psi).second
        H = W.T @ (D[:, None] * W) + P
        w = w - np.linalg.solve(H, slope(w))
    D = -family.derivatives(y, offset + W @ w, psi).second
    H = W.T @ (D[:, None] * W) + P
    logdet_P = sum(np.linalg.slogdet(Q)[1] for Q in precision)
    value = -minus(w) + 0.5 * logdet_P - 0.5 * np.linalg.slogdet(H)[1] + 0.5 * r * np.log(2 * np.pi)
    return value, w, H, W


@pytest.fixture(params=["arrays", "sparse"])
def equations(request, monkeypatch):
    monkeypatch.setattr(products_module, "_FEW", 10_000 if request.param == "arrays" else 0)
    return request.param


@pytest.mark.parametrize("name", FAMILIES)
def test_value_and_effects_are_those_of_the_definition(setting, name, equations):
    family, psi = FAMILIES[name], np.array(PSI.get(name, []))
    X = setting["X"][:, 1:] if name == "ordinal" else setting["X"]
    own = setting | {"X": X}
    y = family.draw(setting["eta"], psi, np.random.default_rng(1))
    products = made(own, family)
    assert products.dense == (equations == "arrays")
    state = products.laplace(y, 0.0, SIGMA, psi)
    value, w, H, W = definition(own, family, y, psi, SIGMA, X=X)
    r = X.shape[1]
    assert abs(state.loglik + products.constant - value) < 1e-9
    np.testing.assert_allclose(state.beta(), w[:r], atol=1e-7)
    np.testing.assert_allclose(state.blue()[1], np.linalg.inv(H)[:r, :r], rtol=1e-7)
    np.testing.assert_allclose(state.effects()[0].ravel(), w[r : r + 30], atol=1e-7)
    np.testing.assert_allclose(
        state.prediction_error(0).ravel(), np.diag(np.linalg.inv(H))[r : r + 30], rtol=1e-7
    )  # fmt: skip
    np.testing.assert_allclose(state.eta_variances, np.diag(W @ np.linalg.inv(H) @ W.T), rtol=1e-7)
    known, _, H0, _ = definition(own, family, y, psi, SIGMA, X=np.zeros((N, 0)), offset=X @ w[:r])
    errors = state.prediction_error(0, beta_known=True)
    np.testing.assert_allclose(errors.ravel(), np.diag(np.linalg.inv(H0))[:30], rtol=1e-6)
    given = made(own, family, flat=False)
    assert abs(given.laplace(y, X @ w[:r], SIGMA, psi).loglik - known) < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("treatment", ["flat", "given", "prior"])
def test_gradient_is_that_of_differences(setting, name, treatment, equations):
    family, psi = FAMILIES[name], np.array(PSI.get(name, []))
    own = setting | {"X": setting["X"][:, 1:]} if name == "ordinal" and treatment == "flat" else setting
    y = family.draw(setting["eta"], psi, np.random.default_rng(2))
    products = made(own, family, flat=treatment == "flat", prior=treatment == "prior")
    sigma = [*SIGMA, np.diag([2.0, 0.5, 0.3])] if treatment == "prior" else SIGMA
    rng = np.random.default_rng(3)
    direction = [(D + D.T) / 2 for D in (rng.normal(size=S.shape) for S in sigma)]
    d_psi, d_offset = rng.normal(size=len(psi)), rng.normal(size=N)

    def at(t):
        moved = [S + t * D for S, D in zip(sigma, direction, strict=True)]
        return products.laplace(y, t * d_offset, moved, psi + t * d_psi).loglik

    h = 1e-4
    difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    state = products.laplace(y, 0.0, sigma, psi)
    slope = sum(float((G * D).sum()) for G, D in zip(state.gradient.sigma, direction, strict=True))
    slope += float(state.offset_gradient @ d_offset) + float(state.family_gradient @ d_psi)
    assert abs(slope - difference) < 1e-6 * max(1.0, abs(difference))


def test_prior_of_coefficients_is_a_term_of_the_definition(setting, equations):
    family, B = FAMILIES["poisson"], np.diag([2.0, 0.5, 0.3])
    y = family.draw(setting["eta"], np.zeros(0), np.random.default_rng(2))
    state = made(setting, family, flat=False, prior=True).laplace(y, 0.0, [*SIGMA, B], np.zeros(0))
    value, *_ = definition(setting, family, y, np.zeros(0), SIGMA, X=np.zeros((N, 0)), B=B)
    assert abs(state.loglik - value) < 1e-9


@pytest.mark.parametrize("sigma", [np.zeros((2, 2)), np.array([[0.5, 0.5], [0.5, 0.5]])])
def test_singular_covariances_are_limits(setting, sigma, equations):
    family = FAMILIES["poisson"]
    y = family.draw(setting["eta"], np.zeros(0), np.random.default_rng(4))
    products = made(setting, family)
    state = products.laplace(y, 0.0, [sigma, SIGMA[1]], np.zeros(0))
    near = [products.laplace(y, 0.0, [sigma + t * np.eye(2), SIGMA[1]], np.zeros(0)).loglik for t in (1e-6, 2e-6)]
    assert abs(state.loglik - (2 * near[0] - near[1])) < 1e-7
    slope = (4 * near[0] - near[1] - 3 * state.loglik) / 2e-6
    assert np.isclose(np.trace(state.gradient.sigma[0]), slope, rtol=1e-3)


def test_large_and_far_offsets_end_as_no_number(setting):
    family = FAMILIES["poisson"]
    products = made(setting, family)
    y = family.draw(setting["eta"], np.zeros(0), np.random.default_rng(4))
    assert products.laplace(y, np.full(N, np.inf), SIGMA, np.zeros(0)) is None
    far = products.laplace(y, np.full(N, 600.0), SIGMA, np.zeros(0))  # β takes the offset back
    none = products.laplace(y, 0.0, SIGMA, np.zeros(0))
    assert abs(far.loglik - none.loglik) < 1e-6


def test_parameters_outside_their_space_have_no_state(setting):
    family = FAMILIES["negative_binomial"]
    products = made(setting, family)
    y = family.draw(setting["eta"], np.array([0.4]), np.random.default_rng(4))
    assert products.laplace(y, 0.0, SIGMA, np.array([-0.1])) is None
    assert products.laplace(y, 0.0, [np.array([[1.0, 2.0], [2.0, 1.0]]), SIGMA[1]], np.array([0.4])) is None
    poisson = made(setting, FAMILIES["poisson"]).laplace(y, 0.0, SIGMA, np.zeros(0))
    assert abs(products.laplace(y, 0.0, SIGMA, np.zeros(1)).loglik - poisson.loglik) < 1e-9


def test_a_known_matrix_and_its_inverse_are_one_model(setting):
    rng = np.random.default_rng(5)
    family, K = FAMILIES["bernoulli"], setting["A"]
    animal = [f"a{i}" for i in rng.integers(0, 15, N)]
    labels = [f"a{i}" for i in range(15)]
    import pandas as pd

    of_K = flmm.Term(animal, flmm.covariance.known(pd.DataFrame(K, labels, labels)), name="animal")
    of_pedigree = flmm.Term(animal, flmm.covariance.known(pedigree(15, np.random.default_rng(8))), name="animal")
    y = (rng.uniform(size=N) < 0.5).astype(float)
    states = [
        made(setting | {"terms": [term]}, family).laplace(y, 0.0, [np.array([[0.7]])], np.zeros(0))
        for term in (of_K, of_pedigree)
    ]
    assert abs(states[0].loglik - states[1].loglik) < 1e-9
    np.testing.assert_allclose(states[0].gradient.sigma[0], states[1].gradient.sigma[0], rtol=1e-8)
    np.testing.assert_allclose(states[0].eta_variances, states[1].eta_variances, rtol=1e-8)


def test_a_start_far_away_ends_at_the_same_mode():
    y = np.array([3.0, 2, 1, 9, 8, 12, 0, 0, 1, 30, 28, 33])
    term = flmm.Term(np.repeat(list("abcd"), 3), flmm.covariance.scalar(1.0), name="g")
    projection = Projection.from_design(np.ones((12, 1)))
    products = LatentProducts.of([sparse_block(term, UNWEIGHTED)], projection, FAMILIES["poisson"], flat=True)
    far = products.laplace(y, 0.0, [np.array([[1e-3]])], np.zeros(0)).mode.x
    states = [products.laplace(y, 0.0, [np.array([[1e3]])], np.zeros(0), start) for start in (None, far, 100 * far)]
    assert abs(states[1].loglik - states[0].loglik) < 1e-9
    assert abs(states[2].loglik - states[0].loglik) < 1e-9
