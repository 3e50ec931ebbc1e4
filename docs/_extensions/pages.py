"""The guides, in order: those of the configuration that exist, then every page that no other page lists."""

from pathlib import Path

from sphinx.application import Sphinx

PLACE = "{guides}"


def listed(folder: Path, order: list[str]) -> list[str]:
    """Return the names of the guides; a page that is in a list of another page is none."""
    texts = {page.stem: page.read_text() for page in sorted(folder.glob("*.md"))}
    elsewhere = {line.strip() for text in texts.values() for line in text.splitlines()} | {"index"}
    others = sorted(set(texts) - elsewhere - set(order))
    return [name for name in order if name in texts] + others


def fill(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the names in the place that is kept for them."""
    if PLACE in source[0]:
        source[0] = source[0].replace(PLACE, "\n".join(listed(Path(app.srcdir), app.config.guide_order)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the configuration and the step."""
    app.add_config_value("guide_order", [], "env")
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
