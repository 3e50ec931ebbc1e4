"""After the build: every link and image within the site leads to a file and a place that exist."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


class Page(HTMLParser):
    """The places of a page, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        for name, value in attrs:
            if name == "id" and value:
                self.places.add(value)
            if value and (tag, name) in {("a", "href"), ("img", "src")} and ":" not in value.split("/")[0]:
                self.links.add(unquote(value))


def broken(folder: Path) -> list[str]:
    """Return the links that lead nowhere, each after the page that has it."""
    pages = {path.resolve(): Page(path.read_text()) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            name, _, place = link.partition("#")
            target = (path.parent / name.split("?")[0]).resolve() if name else path
            if not target.exists() or (place and target in pages and place not in pages[target].places):
                found.append(f"{path.relative_to(folder.resolve())}: {link}")
    return found


def check(app: Sphinx, exception: Exception | None) -> None:
    """Warn of each."""
    if exception is None and app.builder.name == "html":
        for link in broken(Path(app.outdir)):
            logger.warning("a link that leads nowhere, %s", link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
