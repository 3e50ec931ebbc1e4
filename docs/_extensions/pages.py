"""
What is different on the site from the files as GitHub shows them.

Pages stand in the order of the configuration, as far as they exist; a page that no other page lists is a guide. A link
to an example leads to its page in the gallery, and one to a page that a long run has yet to write leads nowhere.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

PLACE = re.compile(r"^\{pages: (\w+)\}$", flags=re.MULTILINE)


def listed(folder: Path, lists: dict[str, list[str]], name: str) -> list[str]:
    """Return the pages of a list that exist; a page that is in no list and on no page is in that of the guides."""
    texts = {page.stem: page.read_text() for page in sorted(folder.glob("*.md"))}
    elsewhere = {line.strip() for text in texts.values() for line in text.splitlines()}.union(
        {"index"}, *lists.values()
    )
    others = sorted(set(texts) - elsewhere) if name == "guides" else []
    return [page for page in lists[name] if page in texts] + others


def change(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the names of pages in their place, and pages in the place of scripts."""
    folder, lists = Path(app.srcdir), app.config.page_lists
    text = PLACE.sub(lambda match: "\n".join(listed(folder, lists, match[1])), source[0])
    text = re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](gallery/\1.md)", text)
    for page in app.config.pages_of_long_runs:
        if not (folder / f"{page}.md").exists():
            text = re.sub(rf"\[([^]]+)\]\({page}\.md\)", r"\1", text)
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the configuration and connect."""
    app.add_config_value("page_lists", {}, "env")
    app.add_config_value("pages_of_long_runs", [], "env")
    app.connect("source-read", change)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
