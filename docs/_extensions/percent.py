"""Scripts in percent format: their cells, and what each prints when the script runs."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

HEADER = re.compile(r"^( *)# %%( \[markdown\])?$", flags=re.MULTILINE)
GUARD = re.compile(r'^if __name__ == "__main__":.*\n', flags=re.MULTILINE)
MARK = "\x1e"  # the record separator of ASCII, printed where a cell of code begins


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its text, and whether it is Markdown rather than code."""

    text: str
    markdown: bool


def cells(source: str) -> list[Cell]:
    """
    Return the cells of a script, in order.

    The guard `if __name__ == "__main__":`, which scripts need whose chains run in processes, is left out, and what it
    guards stands at the margin.
    """
    found = list(HEADER.finditer(source))
    ends = [match.start() for match in found[1:]] + [len(source)]
    result = []
    for match, end in zip(found, ends, strict=True):
        text = source[match.end() : end]
        markdown = match[2] is not None
        if markdown:
            text = re.sub(r"^ *# ?", "", text, flags=re.MULTILINE)
        elif match[1]:
            text = dedent(text)
        elif guard := GUARD.search(text):
            text = text[: guard.start()] + dedent(text[guard.end() :])
        result.append(Cell(text.strip("\n"), markdown))
    return result


def marked(source: str) -> str:
    """Return the script with the mark printed at the beginning of each cell of code, on unchanged line numbers."""
    statement = f"__name__ == '__main__' and print({MARK!r}, flush=True)"
    return HEADER.sub(lambda match: match[0] if match[2] else match[1] + statement, source)


def run(script: Path, figures: Path) -> None:
    """
    Run a script, showing what it prints; write that, cell by cell, and the seconds to `figures / "<name>.json"`.

    Raises
    ------
    SystemExit
        With the script's own exit status, if that is not 0. A UserWarning is an error.
    """
    figures.mkdir(exist_ok=True)
    outputs: list[list[str]] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / script.name
        copy.write_text(marked(script.read_text()))
        command = [sys.executable, "-W", "error::UserWarning", str(copy), str(figures)]
        search = os.pathsep.join([os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": search}
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line == MARK + "\n":
                    outputs.append([])
                else:
                    print(line, end="", flush=True)
                    outputs[-1].append(line)
    if process.returncode:
        raise SystemExit(process.returncode)
    record = {"seconds": time.perf_counter() - start, "outputs": ["".join(lines) for lines in outputs]}
    (figures / f"{script.stem}.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
