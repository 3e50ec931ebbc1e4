"""Rows shared among threads, and blocks of any size, give what one pass gives."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose
from quantities import quantity

from pm_fastlmm import exact_posterior, reml, scan
from pm_fastlmm.base.threads import in_threads, processors


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 129, 1000])
@pytest.mark.parametrize("threads", ["1", "3", ""])
def test_every_row_is_visited_once(monkeypatch, rows, threads):
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    visits, lock = np.zeros(rows, dtype=int), threading.Lock()

    def run(part):
        with lock:
            visits[part] += 1

    in_threads(run, rows)
    assert (visits == 1).all()


def test_the_number_of_threads_is_that_of_the_environment_at_most(monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    available = processors()
    assert available >= 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert processors() == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1000")
    assert processors() == available


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr("pm_fastlmm.base.threads.processors", lambda: 4)

    def run(part):
        if part.start <= 150 < part.stop:
            raise RuntimeError("row 150")

    with pytest.raises(RuntimeError, match="row 150"):
        in_threads(run, 300)


@pytest.mark.parametrize("kind", ["full-K", "low-W"])
def test_the_size_of_blocks_changes_nothing(build_problem, monkeypatch, kind):
    problem = build_problem(kind, n=40)
    rng = np.random.default_rng(3)
    Y = problem.y[:, None] + rng.normal(size=(40, 200))
    G = rng.normal(size=(40, 150))
    whole = (
        reml(problem.spectrum, Y, method="ML"),
        exact_posterior(problem.spectrum, Y),
        scan(problem.spectrum, problem.y, G),
    )
    for name in ("likelihood.profile", "effects.effects", "exact.quadrature", "exact.result", "reml.candidates"):
        monkeypatch.setattr(f"pm_fastlmm.kernel.{name}._BLOCK", 1500)
    fits, posterior = reml(problem.spectrum, Y, method="ML"), exact_posterior(problem.spectrum, Y)
    for name in ("h2", "loglik", "h2_se", "beta", "beta_cov"):
        assert_allclose(quantity(fits, name), quantity(whole[0], name), rtol=1e-9, err_msg=name)
    for name in ("h2", "sigma2_e"):
        assert_allclose(posterior.mean(name), whole[1].mean(name), rtol=1e-10)
        assert_allclose(posterior.quantile(name, 0.1), whole[1].quantile(name, 0.1), rtol=1e-8)
    result = scan(problem.spectrum, problem.y, G, progressbar=False)
    assert_allclose(result.p_value, whole[2].p_value, rtol=1e-8)
    assert list(result.candidate.values) == list(whole[2].candidate.values)
