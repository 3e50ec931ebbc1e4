"""Signatures and members of the API pages."""

from typing import Any

from sphinx.application import Sphinx


def hide_of_results(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Leave out the signature of a class that is returned and never called: its docstring has attributes alone."""
    text = getattr(obj, "__doc__", None) or ""
    if what == "class" and "Attributes\n" in text and "Parameters\n" not in text:
        return "", None
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect."""
    app.connect("autodoc-process-signature", hide_of_results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
