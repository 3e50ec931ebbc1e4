"""Models kept between calls: the draws are those of a first call, whatever of the model has changed."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytensor
import pytest
from pymc.model.transform.optimization import freeze_dims_and_data

import pm_fastlmm as flmm
from pm_fastlmm.engines.graphs import AS_WRITTEN
from pm_fastlmm.engines.nodes import find_node
from pm_fastlmm.posterior import kept

QUIET = {"progressbar": False, "quiet": True, "cores": 1, "chains": 2, "random_seed": 4}
N = 40


@pytest.fixture(autouse=True)
def none_kept(monkeypatch):
    monkeypatch.setattr(kept, "_KEPT", type(kept._KEPT)())


def spectrum(seed=0, n=N):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n, 6))
    return flmm.Spectrum.from_factor(W, np.column_stack([np.ones(n), rng.normal(size=n)]))


def response(seed=1, n=N):
    return np.random.default_rng(seed).normal(size=n) * (1 + seed)


SPECTRUM = spectrum()


def model(y=None, *, on=SPECTRUM, scale=1.3, coords=("a", "b"), factor=1.1, counts=(3, 5)):
    """A node, with constants in a prior, a potential and a second likelihood."""
    with pm.Model(coords={"side": coords}) as built:
        h2, total = pm.Beta("h2", 1, 1), pm.HalfNormal("total", scale)
        flmm.FastLMM("y", h2=h2, total=total, spectrum=on, observed=pm.Data("data", response() if y is None else y))
        rate = pm.Gamma("rate", 2, 1, dims="side")
        pm.Poisson("counts", rate, observed=np.array(counts), dims="side")
        pm.Potential("penalty", -factor * rate.sum())
    return built


def draw(built, sampler="nutpie"):
    return flmm.sample(30, tune=30, model=built, nuts_sampler=sampler, **QUIET)


def lent(built):
    frozen = freeze_dims_and_data(built)
    return kept.lent(frozen, find_node(frozen, "y"))


def posterior(tree):
    return {name: tree.posterior[name].to_numpy() for name in ("h2", "total", "rate", "y_sigma2")}


def assert_same(one, other):
    for name, values in posterior(one).items():
        np.testing.assert_array_equal(values, posterior(other)[name], err_msg=name)


@pytest.fixture(scope="module")
def first_call():
    """The draws of `model()` in a first call of a sampler, and what that call kept, made once."""

    @cache
    def call(sampler):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept, "_KEPT", type(kept._KEPT)())
            return draw(model(), sampler), dict(kept._KEPT)

    return call


@pytest.fixture
def first(first_call, none_kept):
    def draws(sampler="nutpie"):
        tree, left = first_call(sampler)
        kept._KEPT.update(left)
        return tree

    return draws


CHANGES = {
    "y": {"y": response(2)},
    "the constant of a prior": {"scale": 0.4},
    "the constant of a potential": {"factor": 3.3},
    "K and X": {"on": spectrum(7)},
}


@pytest.mark.parametrize("sampler", ["pymc", "nutpie"])
def test_other_numbers_are_sampled_as_in_a_first_call(sampler, first):
    changed = {name: value for change in CHANGES.values() for name, value in change.items()}
    before = first(sampler)
    later = draw(model(**changed), sampler)
    assert_same(before, draw(model(), sampler))
    assert len(kept._KEPT) == 1
    kept._KEPT.clear()
    assert_same(later, draw(model(**changed), sampler))
    np.testing.assert_array_equal(later.observed_data["y"], changed["y"])


def test_every_other_number_gives_other_draws(first):
    before = posterior(first())
    for what, change in CHANGES.items():
        later = draw(model(**change))
        for name, values in before.items():
            assert not np.any(values == later.posterior[name].to_numpy()), (what, name)
    assert len(kept._KEPT) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"coords": ("a", "c")},
        {"counts": (3, 6)},
        {"scale": 2.0},
        {"on": spectrum(0, 30), "y": response(1, 30)},
    ],
    ids=["coordinates", "counts", "a number that simplifies the formula", "fewer rows"],
)
def test_another_structure_is_another_model(change):
    with lent(model()) as first:
        pass
    with lent(model(**change)) as second:
        assert second is not first
        assert second.model.coords["side"] == change.get("coords", ("a", "b"))
    assert len(kept._KEPT) == 2


def test_data_that_were_set_are_those_sampled(first):
    built = model()
    assert_same(first(), draw(built))
    with built:
        pm.set_data({"data": response(2)})
    assert_same(draw(built), draw(model(response(2))))
    assert len(kept._KEPT) == 1


def test_a_shared_variable_is_read_when_it_is_sampled():
    scale = pytensor.shared(1.3)
    with pm.Model() as built:
        flmm.FastLMM(
            "y", h2=pm.Beta("h2", 1, 1), total=pm.HalfNormal("total", scale), spectrum=SPECTRUM, observed=response()
        )
        before = draw(built, "pymc").posterior["total"]
        scale.set_value(0.4)
        after = draw(built, "pymc").posterior["total"]
    assert len(kept._KEPT) == 1
    assert after.mean() < 0.8 * before.mean()


def test_initial_values_are_numbers_too():
    def started(at):
        with pm.Model() as built:
            h2, other = pm.Beta("h2", 1, 1, initval=at), pm.Normal("other", initval=3 * at)
            flmm.FastLMM("y", h2=h2, total=1.0, spectrum=SPECTRUM, observed=response())
            pm.Potential("p", -(other**2))
        return built

    for at in (0.3, 0.6):
        with lent(started(at)) as found:
            point = found.model.initial_point()
            np.testing.assert_allclose(point["h2_logodds__"], np.log(at / (1 - at)))
            np.testing.assert_allclose(point["other"], 3 * at)
    assert len(kept._KEPT) == 1


def test_two_at_a_time_do_not_share_a_model():
    with lent(model()) as one, lent(model()) as other:
        assert one is not other
    with lent(model()) as again:
        assert again is one


def test_those_used_longest_ago_are_dropped(monkeypatch):
    monkeypatch.setattr(kept, "_MOST", 2)
    built = [model(coords=(name, "z")) for name in "abc"]
    for each in (built[0], built[1], built[0], built[2]):
        with lent(each) as last:
            pass
    assert len(kept._KEPT) == 2
    with lent(built[2]) as again:
        assert again is last
    with lent(built[0]):
        assert len(kept._KEPT) == 1  # it was there


def test_a_failure_does_not_spoil_the_model(first):
    before = first()
    with pytest.raises(ZeroDivisionError), lent(model(response(2))):
        raise ZeroDivisionError
    assert len(kept._KEPT) == 1
    assert_same(before, draw(model()))


@pytest.mark.parametrize("reason", ["a drawn initial value", "a node without data"])
def test_what_cannot_be_cut_is_sampled_as_it_is(reason):
    with pm.Model() as built:
        h2 = pm.Beta("h2", 1, 1, initval="prior" if reason == "a drawn initial value" else None)
        total = pm.HalfNormal("total", 1.3)
        if reason == "a node without data":
            flmm.FastLMM("latent", h2=h2, total=total, spectrum=SPECTRUM, beta=np.zeros(2))
        flmm.FastLMM("y", h2=h2, total=total, spectrum=SPECTRUM, observed=response())
    with lent(built) as found:
        assert found.numbers == []
        assert set(found.model.named_vars) == set(built.named_vars)
    assert not kept._KEPT


def crossed(seed, levels=4, mean=False):
    """Two crossed factors, whose cross-products no tensor holds; with a mean, the response meets them in the graph."""
    b = np.random.default_rng(seed).permutation(np.arange(N) % levels)
    with pm.Model() as built:
        variances = [pm.HalfNormal(name) for name in ("a", "b", "residual")]
        groups = zip((np.repeat(np.arange(10), 4), b), variances, strict=False)
        terms = [flmm.Term(group, flmm.covariance.scalar(v), name=v.name) for group, v in groups]
        mu = pm.Normal("mu") * np.ones(N) if mean else None
        flmm.StructuredLMM("y", X=np.ones((N, 1)), terms=terms, sigma2_e=variances[2], mu=mu, observed=response(seed))
    return built


@pytest.mark.parametrize("mean", [False, True])
def test_operations_hold_the_data_of_the_model_that_is_sampled(mean):
    def density(found):
        inputs = [found.model[name] for name in ("a", "b", "residual")]
        return found.model.compile_logp(mode=AS_WRITTEN), found.model.compile_dlogp(inputs, mode=AS_WRITTEN)

    compiled = []
    for seed in (1, 2, 1):
        built = crossed(seed, mean=mean)
        point = built.initial_point()
        with lent(built) as found:
            compiled.append(found.once(density))
            own = density(SimpleNamespace(model=built))
            for function, expected in zip(compiled[-1], own, strict=True):
                np.testing.assert_allclose(function(point), expected(point), rtol=1e-10)
    assert compiled[0] is compiled[1] is compiled[2]
    with lent(crossed(1, levels=5, mean=mean)) as other:
        assert other.once(density) is not compiled[0]
    assert len(kept._KEPT) == 2
