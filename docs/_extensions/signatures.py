"""Signatures of the API pages."""

import inspect
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


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect."""
    app.connect("autodoc-process-signature", hide_of_results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
