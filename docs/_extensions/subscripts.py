"""A subscript of a sentence or a table, σ²_g or y_i, stands low, as it does in the formulas of the page."""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# a Greek or capital letter with any index, a small one with an index of one letter: n_sim is a name
INDEXED = re.compile(
    r"(?:[Α-Ωα-ω]|(?<![\w.])[A-Z]|\])[\u0300-\u036f]?[⁰¹²³⁻ᵀ]*_(?P<of_any>\{[^}]+\}|[−-]?(?:[A-Za-z]+|[α-ω]|\d))"
    r"|(?<![\w.])[a-z][\u0300-\u036f]?[⁰¹²³⁻ᵀ]*_(?P<of_small>[−-]?[A-Za-z0-9])(?![A-Za-z0-9_])"
)
AS_IT_IS = (nodes.FixedTextElement, nodes.Inline, nodes.title, nodes.raw, nodes.comment)


def pieces(text: str) -> Iterator[nodes.Node]:
    """Yield the text with its subscripts as nodes."""
    end = 0
    for match in INDEXED.finditer(text):
        index = match["of_any"] or match["of_small"]
        yield nodes.Text(text[end : match.end() - len(index) - 1])
        yield nodes.subscript("", index.strip("{}"))
        end = match.end()
    yield nodes.Text(text[end:])


class Subscripts(SphinxTransform):
    """Lower them."""

    default_priority = 750

    def apply(self) -> None:
        """Replace the texts of paragraphs that have subscripts; code, formulas and titles stay as they are."""
        for text in list(self.document.findall(nodes.Text)):
            emphasised = isinstance(text.parent, nodes.emphasis | nodes.strong | nodes.reference)
            if INDEXED.search(text) and (emphasised or not isinstance(text.parent, AS_IT_IS)):
                text.parent.replace(text, list(pieces(text)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(Subscripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
