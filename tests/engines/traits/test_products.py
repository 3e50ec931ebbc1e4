"""All that TraitProducts and TraitState say of several traits, against dense algebra in all entries."""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pytest
from engines.truth import DenseTraits

import pm_fastlmm as flmm
from pm_fastlmm.covariance.theta import NOISE
from pm_fastlmm.engines.matrix.effects import draw_traits
from pm_fastlmm.engines.traits.products import TraitProducts

N, R, NEW = 26, 3, 5
NAMES = ("milk", "fat", "protein")


@dataclass(frozen=True)
class Case:
    """One combination of what a model of several traits can be."""

    t: int = 2
    low_rank: bool = False
    seen: str = "complete"
    beta: str = "flat"
    weighted: bool = False
    sigma_g: str = "positive"

    def __str__(self):
        parts = (f"t={self.t}", self.low_rank * "low rank", self.seen, self.beta, self.weighted * "weighted")
        return ", ".join(part for part in (*parts, self.sigma_g.replace("positive", "")) if part)


def grid():
    """All combinations for two traits, half of them for one and three, and singular Σ_g."""
    for t, low, seen, beta, weighted in product(
        (1, 2, 3), (False, True), ("complete", "missing", "empty row"), ("flat", "explicit", "Gaussian"), (False, True)
    ):
        if t == 2 or low == weighted:
            yield Case(t, low, seen, beta, weighted)
    for kind, seen, low in product(("singular", "zero"), ("complete", "missing"), (False, True)):
        yield Case(2, low, seen, "flat", True, kind)


@cache
def problem(case):
    """Return the products, the state and the dense truth of a case, with a generator."""
    rng = np.random.default_rng([case.t, case.low_rank, len(case.seen), len(case.beta), case.weighted])
    t, n = case.t, N
    time = np.linspace(0, 1, n) ** 2
    X = np.column_stack([np.ones(n), 3 * time + rng.normal(size=n), rng.exponential(size=n)])
    weights = rng.uniform(0.4, 3, size=n) if case.weighted else None
    W = (rng.normal(size=(n, 6 if case.low_rank else 60)) + 0.4 + time[:, None]) / 3
    K = W @ W.T
    if case.low_rank:
        spectrum = flmm.Spectrum.from_factor(W, X, weights=weights)
    else:
        spectrum = flmm.Spectrum.from_covariance(K, X, weights=weights)
    G, E = rng.normal(size=(2, t, t))
    if case.sigma_g == "singular":
        G[:, 1:] = 0.0
    sigma_g, sigma_e = G @ G.T * (case.sigma_g != "zero"), E @ E.T + 0.2 * np.eye(t)
    seen = np.ones((t, n), dtype=bool)
    if case.seen != "complete":
        seen[rng.integers(0, t, size=4), rng.choice(n, size=4, replace=False)] = False
    if case.seen == "empty row":
        seen[:, 7] = False
    half = rng.normal(size=(t * R, t * R))
    b, B = rng.normal(size=t * R), half @ half.T
    known = {"flat": {}, "explicit": {"b": b, "B": 0 * B}, "Gaussian": {"b": b, "B": B}}[case.beta]
    Y = rng.normal(size=(t, n)) + 2 * time
    truth = DenseTraits(K, X, seen, sigma_g, sigma_e, Y, weights=weights, **known)
    flat, prior = case.beta == "flat", case.beta == "Gaussian"
    products = TraitProducts.of(spectrum, NAMES[:t], seen, flat=flat, prior=prior)
    sigma = [sigma_g, B] if prior else [sigma_g]
    y = products.weights.scaled(truth.r)
    state = products.at(products.response_to_known(y), sigma, sigma_e)
    return products, state, truth, y, np.random.default_rng(5)


def by_trait(values):
    """Return values (n, t) in the order of the truth."""
    return np.ravel(np.asarray(values).T)


@pytest.fixture(params=list(grid()), ids=str)
def given(request):
    return problem(request.param)


def assert_close(found, truth, tolerance=1e-9):
    """Compare arrays, relative to the largest of the truth."""
    truth = np.asarray(truth)
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance * max(1.0, np.abs(truth).max(initial=0)))


def directions(products, truth, rng):
    """Return (block, Σ̇) of each element, in the order of the engine, and the derivatives of V."""
    t = truth.seen.shape[0]
    out = []
    for k, derivative in ((0, truth.of_kernel), (NOISE, truth.of_residuals)):
        if k == NOISE and products.prior:
            E = rng.normal(size=truth.B.shape)
            out.append((1, E + E.T, truth.of_coefficients(E + E.T)))
        for i, j in zip(*np.tril_indices(t), strict=True):
            E = np.zeros((t, t))
            E[i, j] = E[j, i] = 1.0
            out.append((k, E, derivative(E)))
    return [(k, E) for k, E, _ in out], [dV for *_, dV in out]


# ---------------------------------------------------------------- the likelihood


def test_log_likelihood(given):
    products, state, truth, _, _ = given
    np.testing.assert_allclose(state.loglik + products.constant, truth.loglik, rtol=1e-10)
    np.testing.assert_allclose(state.yPy, truth.r @ truth.P @ truth.r, rtol=1e-10)


def test_score_and_average_information(given):
    products, state, truth, _, rng = given
    along, slopes = directions(products, truth, rng)
    parts = {NOISE: state.gradient.noise} | dict(enumerate(state.gradient.sigma))
    score = [0.5 * (truth.Py @ dV @ truth.Py - np.trace(truth.P @ dV)) for dV in slopes]
    assert_close([(parts[k] * E).sum() for k, E in along], score)
    q = np.array([dV @ truth.Py for dV in slopes])
    assert_close(state.average_information(along), 0.5 * q @ truth.P @ q.T)


def test_outside_of_the_parameter_space_there_is_no_state():
    products, state, *_ = problem(Case())
    response = state.response
    for sigma_g, sigma_e in ((np.eye(2), np.ones((2, 2))), (np.array([[1.0, 2.0], [2.0, 1.0]]), np.eye(2)),
                             (np.full((2, 2), np.nan), np.eye(2)), (np.eye(2), np.diag([1.0, -1.0]))):  # fmt: skip
        assert products.at(response, [sigma_g], sigma_e) is None


def test_covariances_of_the_blocks(given):
    products, state, truth, _, _ = given
    scale = np.outer(truth.scale, truth.scale)
    sigma_g = state.sigma[0]
    assert_close(products.propagated(0, sigma_g), truth.of_kernel(sigma_g) * scale)
    Z = products.dense_incidence(0)
    assert_close(np.einsum("nla,ab,mlb->nm", Z, sigma_g, Z), truth.of_kernel(sigma_g) * scale)
    if products.prior:
        B = state.sigma[1]
        assert_close(products.propagated(1, B), truth.of_coefficients(B) * scale)
        Z = products.dense_incidence(1)
        assert_close(np.einsum("nla,ab,mlb->nm", Z, B, Z), truth.of_coefficients(B) * scale)


# ---------------------------------------------------------------- coefficients, effects and predictions


def test_coefficients(given):
    products, state, truth, _, _ = given
    beta, cov = state.blue()
    if products.flat:
        assert_close(beta, truth.beta)
        assert_close(state.beta(), truth.beta)
        assert_close(cov, truth.beta_cov)
    else:
        assert beta.size == cov.size == state.beta().size == 0


def test_effects_and_their_prediction_errors(given):
    products, state, truth, _, _ = given
    mean, cov = truth.effects()
    assert_close(by_trait(state.effects()[0]), mean)
    assert_close(by_trait(state.prediction_error(0)), np.diag(cov))
    if products.flat:
        known = truth.own - truth.cross @ truth.inverse @ truth.cross.T
        assert_close(by_trait(state.prediction_error(0, beta_known=True)), np.diag(known))
    if products.prior:
        mean, cov = truth.jointly()
        r = len(truth.b)
        assert_close(state.effects()[1].ravel(), mean[:r] - truth.b)
        assert_close(state.prediction_error(1).ravel(), np.diag(cov)[:r])


def test_predictions_of_new_rows(given):
    """Rows that are any combinations of coefficients and effects, and have effects of their own."""
    products, state, truth, _, rng = given
    t = truth.seen.shape[0]
    Z, X, unknown = rng.normal(size=(NEW, N, t)), rng.normal(size=(NEW, t * R)), rng.uniform(size=NEW)
    blocks = [Z.reshape(NEW, -1), X] if products.prior else [Z.reshape(NEW, -1)]
    mean, variance = state.predict(X, blocks, unknown)
    along = Z.transpose(0, 2, 1).reshape(NEW, -1)
    expected, cov = truth.given(X, along @ truth.cross, along @ truth.own @ along.T)
    assert_close(mean, expected - X @ truth.b)
    assert_close(variance, np.diag(cov) + unknown)


# ---------------------------------------------------------------- P


def test_P_and_Py_and_leverage(given):
    """Those of rows times √w."""
    products, state, truth, y, rng = given
    P, Py = truth.P / np.outer(truth.scale, truth.scale), truth.Py / truth.scale
    precision = state.precision(y)
    assert_close(precision.weighted, Py)
    assert_close(precision.diagonal, np.diag(P))
    rows = rng.choice(products.n, size=9, replace=False)
    assert_close(precision.block(rows), P[np.ix_(rows, rows)])
    leverage = 1 - np.diag(truth.noise @ truth.P)
    found = state.leverage()
    if truth.seen.shape[0] > 1:
        assert_close(found, leverage)


# ---------------------------------------------------------------- draws


DRAWN = [
    Case(),
    Case(3, low_rank=True, seen="empty row", weighted=True),
    Case(seen="missing", beta="explicit"),
    Case(low_rank=True, beta="explicit", weighted=True),
    Case(low_rank=True, seen="missing", sigma_g="singular"),
]
GAUSSIAN = [Case(seen="missing", beta="Gaussian", weighted=True), Case(3, low_rank=True, beta="Gaussian")]


def test_effects_a_priori_have_the_covariance_of_the_model(given):
    """White noise goes through a linear map; its square is the covariance."""
    products, state, truth, _, _ = given
    white = np.eye(sum(block.Z.shape[1] for block in products.blocks))
    images = products.random_effects(products.packed(state.sigma), white)
    assert_close(images.T @ images, (truth.V - truth.noise) * np.outer(truth.scale, truth.scale))


@pytest.mark.parametrize("low_rank", [False, True])
def test_effects_drawn_anew(low_rank, assert_moments):
    products, state, truth, _, rng = problem(Case(low_rank=low_rank, beta="Gaussian"))
    for k, own in enumerate((truth.own, truth.B)):
        sigma = np.broadcast_to(state.sigma[k], (3000, *state.sigma[k].shape))
        draws = products.draw_prior(k, sigma, rng)
        if not k:
            draws = np.swapaxes(draws.reshape(3000, N, 2), 1, 2).reshape(3000, -1)
        assert_moments(draws, np.zeros(len(own)), own)


@pytest.mark.parametrize("case", [*DRAWN, *GAUSSIAN], ids=str)
def test_posterior_draws(case, assert_moments):
    products, state, truth, y, rng = problem(case)
    draws = [products.draw(y, state.sigma, state.noise, rng) for _ in range(1500)]
    drawn = []
    for u, beta in draws:
        coefficients = u[1] + truth.b if products.prior else beta
        drawn.append(np.append(coefficients, by_trait(u[0].reshape(N, -1))))
    mean, cov = truth.jointly()
    start = len(truth.b) if case.beta == "explicit" else 0
    assert_moments(np.array(drawn), mean[start:], cov[start:, start:])


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_draws_in_the_rotation_of_the_traits(case, assert_moments):
    products, state, truth, _, rng = problem(case)
    t, count = case.t, 3000
    sigma, noise = (np.broadcast_to(own, (count, t, t)) for own in (state.sigma[0], state.noise))
    b = np.zeros(0) if products.flat else np.broadcast_to(truth.b, (count, t * R))
    y = products.weights.scaled(truth.r + truth.design @ truth.b)
    drawn = draw_traits(products, sigma, noise, y, b, rng)
    both = [drawn.coefficients.reshape(count, -1), drawn.effects(rng).reshape(count, -1)]
    assert_moments(np.hstack(both), *truth.jointly())
    anew = drawn.effects(rng, anew=True).reshape(count, -1)
    assert_moments(anew, np.zeros(len(truth.own)), truth.own)


# ---------------------------------------------------------------- what an iteration starts from


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("stride", [1, 3])
def test_moments_of_minque(low_rank, stride):
    """tr(MV_iMV_j) and yᵀMV_iMy of one variance for all traits, or of one each, and those of the residuals."""
    products, _, truth, y, _ = problem(Case(3, low_rank, weighted=not low_rank, beta="flat"))
    scale = np.outer(truth.scale, truth.scale)
    M = np.eye(products.n) - (Q := np.linalg.qr(truth.design * truth.scale[:, None])[0]) @ Q.T
    own = [np.eye(3)] if stride == 1 else [np.diag(row) for row in np.eye(3)]
    V = [truth.of_kernel(D) * scale for D in own] + [np.kron(np.diag(row), np.eye(N)) for row in np.eye(3)]
    found = products.moments((stride,), y)
    np.testing.assert_allclose(found.gram, [[np.trace(M @ A @ M @ B) for B in V] for A in V], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.squares, [y @ M @ A @ M @ y for A in V], rtol=1e-9)


def test_starts_share_the_covariance_of_what_the_fixed_effects_leave():
    products, state, truth, y, _ = problem(Case(low_rank=True))
    Q = np.linalg.qr(truth.design[:N, :R])[0]
    left = (rows := y.reshape(2, N).T) - Q @ (Q.T @ rows)
    kernel = products.spectrum.mean_eigval
    for sigma_g, sigma_e in products.starts(state.response):
        np.testing.assert_allclose(kernel * sigma_g + sigma_e, left.T @ left / (N - R))


# ---------------------------------------------------------------- what is refused


def test_a_trait_whose_rows_do_not_determine_its_coefficients():
    n = 12
    sex = np.repeat([0.0, 1.0], n // 2)
    X = np.column_stack([np.ones(n), sex])
    spectrum = flmm.Spectrum.from_covariance(np.eye(n), X)
    seen = np.ones((2, n), dtype=bool)
    seen[1, sex == 1] = False
    with pytest.raises(ValueError, match=r"the 6 rows of 'fat' do not determine its coefficient of 'x1': leave that"):
        TraitProducts.of(spectrum, ("milk", "fat"), seen, flat=False)
    seen[1] = False
    with pytest.raises(ValueError, match=r"the 0 rows of 'fat' do not determine its coefficient of 'x0', 'x1'"):
        TraitProducts.of(spectrum, ("milk", "fat"), seen, flat=True)


def test_products_show_their_sizes():
    assert repr(problem(Case(3))[0]) == "TraitProducts(3 traits of 26 rows, 78 entries observed)"
