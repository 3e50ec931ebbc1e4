"""A public name in code within a sentence, `find_reml(model)` or `cov.scalar(v)`, is a link to its page."""

import re
from collections.abc import Container

from docutils import nodes
from sphinx.application import Sphinx

NAME = re.compile(
    r"(?:flmm\.|pm_fastlmm\.)?((?:cov\.|covariance\.|datasets\.|plots\.)?[A-Za-z]\w*)(?:\(.*\))?", re.DOTALL
)


def public(text: str, known: Container[str]) -> str | None:
    """Return the full name of the object that the code names, if it is public."""
    match = NAME.fullmatch(text)
    if match is None:
        return None
    name = match[1].replace("cov.", "covariance.", 1) if match[1].startswith("cov.") else match[1]
    head, _, last = name.rpartition(".")
    spellings = (last, last.capitalize(), "".join(part.capitalize() for part in last.split("_")), last.upper())
    full = [f"pm_fastlmm.{head}{'.' * bool(head)}{spelling}" for spelling in spellings[: 4 if head else 1]]
    return next((candidate for candidate in full if candidate in known), None)


def link(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put a reference around the code, but on the API pages, where roles do that, and within links and titles."""
    if app.builder.format != "html" or page.startswith("api/"):
        return
    objects = app.env.domains["py"].objects
    for code in list(doctree.findall(nodes.literal)):
        inside = code.parent
        if isinstance(inside, nodes.reference | nodes.title):
            continue
        name = public(code.astext(), objects)
        if name is not None:
            uri = f"{app.builder.get_relative_uri(page, objects[name].docname)}#{objects[name].node_id}"
            code.replace_self(nodes.reference("", "", code.deepcopy(), internal=True, refuri=uri))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect."""
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
