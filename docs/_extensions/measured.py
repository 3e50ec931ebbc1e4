"""The directive `measured`: rows of the benchmark page, named in its body, so that no figure is copied by hand."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def rows(benchmarks: str, wanted: list[str]) -> list[str]:
    """
    Return the rows of a table whose figure is wanted, in that order, below the head of the table.

    A name that begins with "…" is looked for below the row that was found before it.

    Raises
    ------
    ValueError
        If a figure is not on the page, or in another table than the one before.
    """
    lines = benchmarks.splitlines()
    found: list[str] = []
    place = head = 0
    for name in wanted:
        start = place if name.startswith("…") else 0
        where = [i for i in range(start, len(lines)) if lines[i].startswith(f"| {name} |")]
        if not where:
            raise ValueError(f"the benchmark page has no row {name!r}: run `make benchmark`, or correct the name.")
        place = where[0] + 1
        rule = max(i for i in range(where[0]) if lines[i].startswith("|---"))
        if found and rule != head:
            raise ValueError(f"the row {name!r} is in another table: write a directive for each table.")
        head = rule
        found.append(lines[where[0]])
    return [*lines[head - 1 : head + 1], *found]


class Measured(SphinxDirective):
    """The rows as a table."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        page = Path(self.env.srcdir) / "benchmarks.md"
        self.env.note_dependency(str(page))
        try:
            table = rows(page.read_text(), list(self.content))
        except ValueError as error:
            raise self.error(str(error)) from error
        return self.parse_text_to_nodes("\n".join(table))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
