"""Signatures and docstrings of the API pages."""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx


def hide_of_results(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """
    Leave out the signature of a class that is returned and never called.

    Its docstring has attributes and no parameters, and not all of its fields have a default.
    """
    text = getattr(obj, "__doc__", None) or ""
    if what != "class" or "Attributes\n" not in text or "Parameters\n" in text:
        return None
    fields = inspect.signature(obj).parameters.values()
    return ("", None) if any(field.default is field.empty for field in fields) else None


def keep_formulas(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """
    Escape what has another meaning in a formula, not in examples and literals.

    That is the underscore of y_-i, which would begin a reference, and the bars of (1 |id| animal), a substitution.
    """
    example, literal = False, None  # literal: the indentation of the line that ends in ::
    for i, line in enumerate(lines):
        if not line.strip():
            example = False
            continue
        indent = len(line) - len(line.lstrip())
        example = example or line.lstrip().startswith(">>>")
        literal = None if literal is not None and indent <= literal else literal
        if not example and literal is None:
            line = re.sub(r"(?<=[^\W_])_(?=[^\w`]|$)", r"\\_", line)
            lines[i] = re.sub(r"(``.*?``)|(?<=\s)\|(?=\w+\|)", lambda found: found[1] or r"\|", line)
        if line.rstrip().endswith("::"):
            literal = indent


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect."""
    app.connect("autodoc-process-signature", hide_of_results)
    app.connect("autodoc-process-docstring", keep_formulas, priority=900)  # after numpydoc
    return {"parallel_read_safe": True, "parallel_write_safe": True}
