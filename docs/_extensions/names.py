"""A public name in code within a sentence, `find_reml(model)` or `cov.scalar(v)`, is a link to its page."""

import re
from collections.abc import Container

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

NAME = re.compile(
    r"(?:flmm\.|pm_fastlmm\.)?((?:(?:cov|covariance|datasets|plots|priors|results)\.)?[A-Za-z]\w*)(?:\(.*\))?",
    re.DOTALL,
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
    if name[0].isupper():  # of a class its name is enough, wherever it is
        full += [f"pm_fastlmm.{module}.{name}" for module in ("results", "priors")]
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


def resolve(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.TextElement) -> nodes.reference | None:
    """Lead a reference of a docstring to the public module that has the name, if its own module has none."""
    objects = env.domains["py"].objects
    name = public(node["reftarget"], objects) if node.get("refdomain") == "py" else None
    if name is None:
        return None
    return make_refnode(app.builder, node["refdoc"], objects[name].docname, objects[name].node_id, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect."""
    app.connect("missing-reference", resolve)
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
