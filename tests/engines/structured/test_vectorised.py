"""The likelihood by NumPy, which small models are fitted with, is that of the compiled loops."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from structures import Structured

import pm_fastlmm as flmm
from pm_fastlmm.base.arrays import read_only
from pm_fastlmm.engines.structured import loops, vectorised

KINDS = [["factor"], ["slopes", "crossed"], ["three slopes"], ["known", "ar1"], ["dense", "factor"], ["dense"]]


@pytest.mark.parametrize("size", ["definite", "singular", "zero"])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_factorisation_and_score_are_the_same(kinds, flat, size, oracle):
    case = Structured(kinds, sizes=[size] * len(kinds), flat=flat, oracle=oracle)
    p, phi, e = case.products, case.products.packed(case.sigma), case.sigma2_e
    given = *read_only(*p.response(case.y)[:2]), p.response(case.y)[2]  # compiled once, for one type of arguments
    python = vectorised.factorise(p, phi, e, *given)
    compiled = loops.factorise(phi, np.zeros(0), e, *given, *p.constants)
    assert np.isfinite(compiled[0])
    _assert_equal(python, compiled)
    score = vectorised.gradient(p, phi, e, given[1], *python[1:])
    _assert_equal(score, loops.gradient(phi, e, given[1], *p.constants[:-1], *compiled[1:]))


def _assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-11 * max(1.0, np.abs(other).max(initial=0.0)))


def test_outside_the_parameter_space_nothing_is_factored(oracle):
    case = Structured(["slopes", "crossed"], oracle=oracle)
    p, phi, response = case.products, case.products.packed(case.sigma), case.products.response(case.y)
    given = *read_only(*response[:2]), response[2]
    for changed, e in [(phi, 0.0), (phi, -1.0), (phi, np.inf), (-phi, 1.0), (np.where(phi > 0, np.nan, phi), 1.0)]:
        assert vectorised.factorise(p, changed, e, *given)[0] == -np.inf
        assert loops.factorise(changed, np.zeros(0), e, *given, *p.constants)[0] == -np.inf


def test_a_large_model_is_left_to_the_compiled_loops():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2000, size=6000), rng.integers(0, 900, size=6000)
    terms = [flmm.Term(code, flmm.covariance.scalar(1.0), name=name) for name, code in {"a": a, "b": b}.items()]
    with flmm.lmm_model("Yield ~ 1 + (1 | Batch)", flmm.datasets.dyestuff()):
        node = flmm.StructuredLMM("large", terms=terms, sigma2_e=1.0, observed=rng.normal(size=6000))
    assert not node.owner.op.products.small
