"""No type tests on engines outside them, no circles of imports; and that what counts them counts."""

import pytest

from house import counts


def test_no_file_outside_an_engine_asks_which_engine_it_has():
    assert [f"{t.file}:{t.line}: {t.text}" for t in counts.type_tests()] == []


def test_no_circle_of_imports():
    assert counts.circles() == []


def test_no_contract_of_layers_has_more_than_twelve_lines():
    assert {name: lines for name, lines in counts.layers().items() if lines > 12} == {}


@pytest.fixture
def checkout(tmp_path):
    """A small package with an engine, and what may be written beside it."""

    def write(text, file="verb.py"):
        package = tmp_path / "pm_fastlmm"
        (package / "engines" / "spectral").mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "protocol.py").write_text("class LMMNode:\n    observed: int\n    def n(self): ...\n")
        engine = (
            "class SpectralNode(protocol.LMMNode):\n    given: int\n\nclass SpectralRV(SymbolicRandomVariable): ...\n"
        )
        (package / "engines" / "spectral" / "node.py").write_text(engine + "isinstance(node, SpectralNode)\n")
        (package / file).write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("isinstance(a.node, SpectralNode)", "isinstance"),
        ("isinstance(x, (int, spectral.SpectralNode))", "isinstance"),
        ("issubclass(kind, int | SpectralRV)", "isinstance"),
        ("KINDS = (int, SpectralNode)\nisinstance(x, KINDS)", "isinstance"),
        ("from a import SpectralNode as S\nisinstance(x, S)", "isinstance"),
        ("type(x) is SpectralNode", "isinstance"),
        ("type(fit.node) == kind", "isinstance"),
        ("match x:\n    case SpectralNode(given=g):\n        pass", "isinstance"),
        ("getattr(fit.objective, 'inner', None)", "getattr"),
        ("hasattr(self.op, 'spectrum')", "getattr"),
        ("x = 1 if node.given is not None else 2", "is None"),
    ],
)
def test_type_tests_are_found(checkout, text, kind):
    assert [test.kind for test in counts.type_tests(checkout(text))] == [kind]


@pytest.mark.parametrize(
    "text", ["isinstance(x, int)", "node.observed is None", "getattr(x, 'node')", "type(x) is int", "node.given = None"]
)
def test_what_is_no_type_test_is_not_found(checkout, text):
    assert counts.type_tests(checkout(text)) == []


def test_the_registry_may_name_the_engines(checkout):
    assert counts.type_tests(checkout("isinstance(op, SpectralRV)", counts.REGISTRY)) == []


def test_lines_are_those_with_code(checkout):
    text = '"""A module\n\nof two."""\n\n# why\nx = (\n    1,  # one\n)\n\n\n'
    text += 'def f():\n    """Do."""\n    return """a\nb"""\n'
    assert counts.lines_of_code(checkout(text))["pm_fastlmm"] == 3 + 3 + 1 + 2


def test_circles_are_of_imports_that_run(checkout):
    root = checkout("from pm_fastlmm import protocol\n")
    other = root / "pm_fastlmm" / "protocol.py"
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pm_fastlmm.verb\n"
    other.write_text(hidden + "def f():\n    from pm_fastlmm.verb import x\n")
    assert counts.circles(root) == []
    other.write_text("from pm_fastlmm.verb import x\n")
    assert counts.circles(root) == [["pm_fastlmm.protocol", "pm_fastlmm.verb"]]
