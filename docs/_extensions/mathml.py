"""Formulas as MathML, which browsers draw themselves: no JavaScript, no fonts from elsewhere, no LaTeX."""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _mathml(text: str, node: nodes.math | nodes.math_block) -> str:
    """Return the formula; one that cannot be drawn is a warning, and its source."""
    try:
        return str(tex2mathml(text, as_block=isinstance(node, nodes.math_block)))
    except MathError as error:
        logger.warning("the formula %r cannot be drawn: %s", text, error, location=node)
        return f"<code>{text}</code>"


def parts(text: str) -> list[str]:
    """Return the formulas that stand beside each other, which a narrow page shows one below the other."""
    found = text.split(r"\qquad")
    whole = all(part.count("{") == part.count("}") and r"\begin" not in part for part in found)
    return found if whole else [text]


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), node))
    raise nodes.SkipNode


def _display(translator: Any, node: nodes.math_block) -> None:
    formulas = "".join(_mathml(part, node) for part in parts(node.astext()))
    translator.body.append(f'<div class="math">{formulas}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
