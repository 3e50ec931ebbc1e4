"""A figure `name.png` with a `name_dark.png` beside it: the page shows the one of its colours."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


def dark_of(file: Path) -> Path:
    """Return where the figure for a dark page lies."""
    return file.with_stem(f"{file.stem}_dark")


def pair(image: nodes.image) -> None:
    """Put a figure for dark pages, with the same caption, behind that for light ones; the theme shows one of them."""
    figure = image.parent
    other = figure.deepcopy()
    for copied in other.findall(nodes.image):
        copied["uri"] = dark_of(Path(image["uri"])).as_posix()
        copied["classes"] = [*copied.get("classes", []), "only-dark"]  # or the theme dims it as it does light ones
    figure["classes"] = [*figure["classes"], "only-light"]
    other["classes"] = [*other["classes"], "only-dark"]
    figure.parent.insert(figure.parent.index(figure) + 1, other)


class Dark(SphinxTransform):
    """Pair the images of figures that are drawn for both kinds of page."""

    default_priority = 210  # after figures are made

    def apply(self) -> None:
        """Pair them."""
        for image in list(self.document.findall(nodes.image)):
            file = Path(self.env.relfn2path(image["uri"])[1])
            if isinstance(image.parent, nodes.figure) and dark_of(file).exists():
                pair(image)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(Dark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
