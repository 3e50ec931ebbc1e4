"""
What is different on the site from the files as GitHub shows them.

The guides stand in order: those of the configuration that exist, then every page that no other page lists. A link to an
example leads to its page in the gallery.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

PLACE = "{guides}"


def listed(folder: Path, order: list[str]) -> list[str]:
    """Return the names of the guides; a page that is in a list of another page is none."""
    texts = {page.stem: page.read_text() for page in sorted(folder.glob("*.md"))}
    elsewhere = {line.strip() for text in texts.values() for line in text.splitlines()} | {"index"}
    others = sorted(set(texts) - elsewhere - set(order))
    return [name for name in order if name in texts] + others


def change(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the names of the guides in their place, and pages in the place of scripts."""
    source[0] = re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](gallery/\1.md)", source[0])
    if PLACE in source[0]:
        source[0] = source[0].replace(PLACE, "\n".join(listed(Path(app.srcdir), app.config.guide_order)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the configuration and connect."""
    app.add_config_value("guide_order", [], "env")
    app.connect("source-read", change)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
