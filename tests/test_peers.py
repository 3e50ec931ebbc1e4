"""The page of comparisons says what was measured, and the yardstick by which they are judged is right."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pm_fastlmm import Spectrum, reml

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "tests" / "benchmarks" / "peers"


def load(name):
    spec = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def harness():
    path = list(sys.path)
    try:
        yield load("harness")
    finally:
        sys.path[:] = path


def test_no_number_of_the_page_is_typed_by_hand():
    groups = json.loads((ROOT / "docs" / "peers.json").read_text())["groups"]
    assert (ROOT / "docs" / "peers.md").read_text() == load("report").page(groups)


def test_what_is_called_an_error_is_one():
    page = (ROOT / "docs" / "peers.md").read_text()
    for rows in page.split("| error of the log-density |\n|---|---|---|---|---|---|\n")[1:]:
        errors = [float(row.split("|")[-2]) for row in rows.split("\n\n")[0].splitlines()]
        assert max(errors) < 0.01


def test_a_package_looks_the_same_in_every_panel_and_like_no_other():
    report = load("report")
    assert len(set(report.STYLES.values())) == len({c for c, _ in report.STYLES.values()} - {report.OURS})
    assert report.style("tinygp", first=True) == report.style("tinygp", first=False)
    assert report.style("pm_fastlmm reml", first=True) != report.style("pm_fastlmm reml_point", first=False)


def test_the_page_says_why_a_package_is_absent():
    groups = json.loads((ROOT / "docs" / "peers.json").read_text())["groups"]
    page = (ROOT / "docs" / "peers.md").read_text()
    reasons = {reason for g in groups.values() for c in g["comparisons"] for reason in c["absent"].values()}
    assert len(reasons) > 3
    assert [reason for reason in reasons if f": {reason}.\n" not in page] == []
    assert not any("fails" in reason for reason in reasons)


def test_the_yardstick_is_the_dense_likelihood(build_problem):
    dense = load("dense")
    problem = build_problem("full-K")
    V = 0.7 * problem.K + 1.3 * np.eye(23)
    assert dense.logpdf(problem.y, V) == pytest.approx(multivariate_normal(cov=V).logpdf(problem.y), rel=1e-12)
    fit = reml(Spectrum.from_covariance(problem.K, problem.X), problem.y)
    V = fit.sigma2_g * problem.K + fit.sigma2_e * np.eye(23)
    assert dense.loglik(problem.y, problem.X, V) == pytest.approx(fit.loglik, rel=1e-12)
    fit = reml(problem.spectrum, problem.y, method="ML")
    V = fit.sigma2_g * problem.K + fit.sigma2_e * np.eye(23)
    assert dense.loglik(problem.y, problem.X, V, restricted=False) == pytest.approx(fit.loglik, rel=1e-12)


def test_ratios_are_taken_round_by_round(harness):
    comparison = harness.Comparison("task", "title", {"n": 1}, "ms", {})
    seconds = {"ours": np.array([1.0, 2.0, 4.0]), "theirs": np.array([3.0, 6.0, 12.0])}
    found = harness.entry(comparison, seconds, dict.fromkeys(seconds, (0.5, None)), {name: {} for name in seconds}, {})
    assert found["rows"][1]["ratio"] == {"median": 3.0, "q1": 3.0, "q3": 3.0}
    assert found["rows"][0]["seconds"] == {"median": 2.0, "q1": 1.5, "q3": 3.0}


def test_who_cannot_take_part_is_absent_with_the_reason(harness):
    def missing():
        raise ImportError("No module named 'lme5'")

    def unable():
        raise harness.Absent("has no REML")

    contestants = {
        "ours": lambda: harness.Contestant(lambda: 2.0, lambda result: {"value": result}),
        "missing": missing,
        "unable": unable,
    }
    comparison = harness.Comparison("task", "title", {"n": 1}, "ms", contestants, rounds=2, shortest=1e-4)
    found = comparison.measure()
    assert [row["name"] for row in found["rows"]] == ["ours"]
    assert found["rows"][0]["result"] == {"value": 2.0}
    assert found["absent"] == {"missing": "not installed: No module named 'lme5'", "unable": "has no REML"}
