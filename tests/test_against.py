"""The tool that measures an earlier commit beside the working tree: its table, its rows and its turns, untimed."""

import importlib
import inspect
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "tests" / "benchmarks"


@pytest.fixture(scope="module")
def tool():
    """Import run.py, which puts its folder on the path; its modules have common names, and are forgotten afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS / "against"))
    try:
        yield importlib.import_module("run")
    finally:
        sys.path[:] = path
        for name in {"run", "work", "rows", "report", "measure"} - modules:
            sys.modules.pop(name, None)


@pytest.fixture
def row(tool):
    figure, other = tool.Figure("work", "a"), tool.Figure("work", "b")
    turns = {figure: [0.4, 0.2, 0.3], other: [0.1, 0.1, 0.2]}
    return lambda **options: tool.Row("title", figure, **options), turns, other


def test_a_row_sets_a_figure_against_another_of_the_same_turn(row):
    make, turns, other = row
    np.testing.assert_allclose(make(unit="ms").values(turns), [400, 200, 300])
    np.testing.assert_allclose(make(unit="ms", less=other).values(turns), [300, 100, 100])
    np.testing.assert_allclose(make(unit="×", over=other).values(turns), [4, 2, 1.5])


@pytest.mark.parametrize(
    ("goal", "text", "reached"),
    [
        ({"share": 1 / 4}, "≤ 1/4 of it", True), ({"share": 1 / 5}, "≤ 1/5 of it", False),
        ({"limit": 0.5}, "≤ 0.5 s", True), ({"limit": 0.4}, "≤ 0.4 s", False), ({}, "", None),
    ],
)  # fmt: skip
def test_a_goal_is_a_share_of_the_earlier_figure_or_a_limit_of_this_one(goal, text, reached, row, tool):
    make, *_ = row
    record = make(**goal).record(np.array([2.0, 1.9, 9.0]), np.array([0.45, 0.3, 0.7]))
    assert (record["goal"], record["reached"]) == (text, reached)
    assert record["before"] == {"median": 2.0, "low": 1.9, "high": 9.0}
    assert record["ratio"] == 0.225
    said = {True: "yes", False: "no", None: ""}[reached]
    assert tool.cells(record) == ["title", "2 s", "0.45 s", "0.225", text, said]


def test_rows_are_chosen_by_the_beginnings_of_their_names(tool):
    assert list(tool.chosen([])) == list(tool.ROWS)
    assert list(tool.chosen(["many", "first_reml"])) == ["first_reml", "first_reml_point", "many", "many_fitted"]
    with pytest.raises(SystemExit, match="no row begins with nothing: choose from import, "):
        tool.chosen(["many", "nothing"])


def test_every_figure_of_a_row_is_one_of_its_work(tool):
    for name, row in tool.ROWS.items():
        for figure in row.needs:
            work = getattr(tool.work, figure.work)
            assert figure.caches == "warm" or inspect.isgeneratorfunction(work), name
            assert figure.caches in ("warm", "empty"), name
    assert {row.figure.work for row in tool.ROWS.values()} >= {"formula", "by_hand", "draws"}
    assert all(inspect.isgeneratorfunction(getattr(tool.work, name)) for name in tool.OF_PYMC)


def test_stages_count_what_passed_before_them(tool, monkeypatch):
    times = iter([1.0, 3.0, 3.0, 10.0, 11.0, 11.0])  # at the start, and at and after each figure
    monkeypatch.setattr(tool.work, "cpu", lambda: next(times))
    assert tool.work.stages(iter(["a", None, "b"])) == {"a": 2.0, "b": 1.0}


def test_work_that_stays_answers_each_line(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    tool.work.answer({"a": lambda: sum(range(1000)), "b": lambda: 1 / 0}, ["a"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == list(second) == ["a"]
    assert 0 < first["a"] < 1


def test_work_is_measured_once_for_all_rows_and_by_turns(tool, monkeypatch):
    asked = []

    def turns(side, work, caches, names):
        for i in range(9):
            asked.append((side, work))
            if work == "draws":
                raise tool.Failed("no sampler")
            yield dict.fromkeys(names, float(i + (1 if side == "now" else 2)))

    monkeypatch.setattr(tool, "turns", turns)
    wanted = tool.chosen(["import", "by_hand", "second_sample_nutpie"])
    found = dict(tool.rows_of(wanted, {"before": "before", "now": "now"}, {"warm": 3, "empty": 1}))
    assert list(found) == list(wanted)
    assert asked.count(("now", "import_ours")) == 3
    assert ("before", "import_pymc") not in asked
    assert [side for side, work in asked if work == "by_hand"] == ["before", "now", "now", "before", "before", "now"]
    assert found["import"]["before"]["median"] == 1.5  # 2/1, 3/2, 4/3: PyMC alone is that of this checkout
    assert found["by_hand_again"]["before"] == {"median": 3000.0, "low": 2000.0, "high": 4000.0}
    assert str(found["second_sample_nutpie"]) == "no sampler"


def test_rows_measured_again_replace_their_own_and_those_of_another_commit_are_dropped(tool):
    kept = {"rev": "a", "rows": {"many": {"ratio": 1}, "import": {"ratio": 2}, "gone": {"ratio": 3}}}
    again = tool.merged(kept, {"rev": "a"}, {"many": {"ratio": 4}})
    assert again["rows"] == {"import": {"ratio": 2}, "many": {"ratio": 4}}
    assert list(again["rows"]) == ["import", "many"]
    assert tool.merged(kept, {"rev": "b"}, {"many": {"ratio": 4}})["rows"] == {"many": {"ratio": 4}}


@pytest.mark.parametrize(("name", "message"), [("import_ours", "is not that of"), ("nothing", "KeyError: 'nothing'")])
def test_work_that_fails_says_why(name, message, tool, tmp_path):
    (tmp_path / "pm_fastlmm.py").touch()
    side = tool.Side(tmp_path, tmp_path)
    with tool.Process(side, tmp_path, "import_ours", []) as process:
        assert set(process.turn()) == {"import"}
    elsewhere = tool.Side(tmp_path / "elsewhere", tmp_path)
    with tool.Process(elsewhere, tmp_path, name, []) as process, pytest.raises(tool.Failed, match=message):
        process.turn()


def test_no_number_of_the_section_is_typed_by_hand(tool):
    report = sys.modules["report"]
    section = report.beside_an_earlier_commit(json.loads(report.AGAINST.read_text()))
    assert f"## From import to an answer\n\n{section}\n" in report.PAGE.read_text()
