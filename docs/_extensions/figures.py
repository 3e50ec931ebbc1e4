"""
An image alone in its paragraph, `![what is seen](file "caption")`, is a figure with a caption below it.

The words in brackets are read aloud to those who do not see it. An image without them, or outside a card without a
caption, is a warning.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)


def on_one_line(text: str) -> str:
    """Return Markdown with the words of each image on one line: of a line break MyST makes nothing, no space."""
    return re.sub(r"!\[[^\]]*\]", lambda words: " ".join(words[0].split()), text)


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Join the words of the images of a page before it is read."""
    source[0] = on_one_line(source[0])


def lacks(image: nodes.image) -> str | None:
    """Return what the image lacks: words that say what is seen, or a caption."""
    file, alt = image["uri"].rsplit("/", 1)[-1], image.get("alt", "")
    if len(alt.split()) < 4 or alt.replace(" ", "_") == file.rsplit(".", 1)[0]:
        return "words for those who do not see it: ![what is seen](…)"
    in_card = "sd-card-img-top" in image.get("classes", [])
    return None if in_card or isinstance(image.parent, nodes.figure) else 'a caption: ![…](… "caption")'


def frame(document: nodes.document) -> None:
    """Make figures of the images of a document that have a title and a paragraph of their own."""
    for image in list(document.findall(nodes.image)):
        caption, paragraph = image.attributes.pop("title", None), image.parent
        image["alt"] = " ".join(image.get("alt", "").split())
        if caption and isinstance(paragraph, nodes.paragraph) and len(paragraph) == 1:
            paragraph.replace_self(nodes.figure("", image, nodes.caption("", " ".join(caption.split()))))


class Figures(SphinxTransform):
    """Figures of a page, and warnings of what they lack."""

    default_priority = 200

    def apply(self) -> None:
        """Make them."""
        frame(self.document)
        for image in self.document.findall(nodes.image):
            if lack := lacks(image):
                logger.warning("%s has no %s", image["uri"], lack, location=image)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(Figures)
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
