"""
The gallery: a page for each example, of its cells and of what they printed.

A figure that a cell draws stands in a cell of Markdown below it, with its caption.
"""

import json
import re
import shutil
from pathlib import Path

from dark import dark_of
from percent import Cell, cells
from sphinx.application import Sphinx
from sphinx.util import logging

INDEX = """# Gallery

Each page is a script of `examples/`, run as a whole: `make examples` runs them all and keeps what they print and draw,
`make docs` puts it here.

::::{{grid}} 1 2 2 3
:gutter: 3

{cards}
::::

```{{toctree}}
:hidden:

{names}
```
"""
CARD = """:::{{grid-item-card}} {title}
:link: {name}
:link-type: doc
:img-top: {figure}
:img-alt: {alt}

{lead}
:::
"""
IMAGE = re.compile(r"!\[([^]]*)\]\(([\w.]+)")
logger = logging.getLogger(__name__)


def has_run(script: Path, results: Path) -> bool:
    """Return whether there are results of the script, with as many cells of code as it has."""
    record = results / f"{script.stem}.json"
    code = [cell for cell in cells(script.read_text()) if not cell.markdown]
    return record.exists() and len(json.loads(record.read_text())["outputs"]) == len(code)


def page(script: Path, results: Path, target: Path) -> dict[str, str]:
    """Write the page of one example and return its title, first sentence and first figure."""
    found = cells(script.read_text())
    record = json.loads((results / f"{script.stem}.json").read_text())
    outputs = iter(record["outputs"])
    parts, figures = [], []
    for cell in found:
        if cell.markdown:
            parts.append(cell.text)
            continue
        code = [f"```python\n{cell.text}\n```"] if cell.text.strip() else []
        parts += [*code, *_printed(next(outputs))]
        figures += re.findall(r'figures / "([\w.]+\.png)"', cell.text)
    shown = {file: " ".join(alt.split()) for alt, file in IMAGE.findall("\n".join(parts))}
    for figure in figures:
        if figure not in shown:
            logger.warning("%s draws %s and does not show it: ![what is seen](%s", script.name, figure, figure)
        for file in filter(Path.exists, (results / figure, dark_of(results / figure))):
            shutil.copy(file, target / file.name)
    parts.append(
        f"{{download}}`{script.name} <../../examples/{script.name}>` ran in {record['seconds']:.0f} seconds where this "
        "page was made."
    )
    (target / f"{script.stem}.md").write_text("\n\n".join(parts) + "\n")
    title, lead = _opening(found[0])
    first = figures[0] if figures else ""
    return {"name": script.stem, "title": title, "lead": lead, "figure": first, "alt": shown.get(first, "")}


def _printed(output: str) -> list[str]:
    """Return the block below a cell; that a figure was written is not news where it is shown."""
    lines = [line for line in output.splitlines() if not line.startswith("figure")]
    text = "\n".join(lines).strip("\n")
    return [f"```{{code-block}} text\n:class: output\n\n{text}\n```"] if text else []


def _opening(cell: Cell) -> tuple[str, str]:
    """Return the title, and the first sentence below it."""
    title, _, rest = cell.text.partition("\n")
    prose = [part for part in rest.strip().split("\n\n") if not part.startswith("$")]
    sentences = re.split(r"(?<=\w[.?]) |: |(?<=\)\.) ", prose[0].replace("\n", " "))
    return title.removeprefix("# "), sentences[0].rstrip(".:,") + "." * (not sentences[0].endswith("?"))


def write(app: Sphinx) -> None:
    """Write all pages, in the order of the configuration; examples that it does not name come last."""
    examples, results = Path(app.config.gallery_examples), Path(app.config.gallery_results)
    target = Path(app.srcdir) / "gallery"
    target.mkdir(exist_ok=True)
    order = list(app.config.gallery_order)
    scripts = sorted(
        examples.glob("*.py"),
        key=lambda script: (order.index(script.stem) if script.stem in order else len(order), script.stem),
    )
    entries = []
    for script in scripts:
        if not has_run(script, results):
            logger.warning("%s has not been run as it stands: `make examples`", script.name)
            continue
        entries.append(page(script, results, target))
    cards = "\n".join(_card(entry) for entry in entries)
    names = "\n".join(entry["name"] for entry in entries)
    (target / "index.md").write_text(INDEX.format(cards=cards, names=names))


def _card(entry: dict[str, str]) -> str:
    text = CARD.format(**entry)
    return text if entry["figure"] else text.replace(":img-top: \n:img-alt: \n", "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the configuration and write the pages before Sphinx looks for them."""
    app.add_config_value("gallery_examples", "", "env")
    app.add_config_value("gallery_results", "", "env")
    app.add_config_value("gallery_order", [], "env")
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
