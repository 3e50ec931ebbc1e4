"""
What the code of a page prints stands below it, in a block of text: written by a command, checked by a test.

`python docs/_extensions/outputs.py docs/users/lme4.md …` runs the Python blocks of each page in their order and writes
what they print. `tests/test_site.py` runs them again and compares: words exactly, numbers to three digits, so that
another machine's rounding is no failure.
"""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", flags=re.DOTALL)
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


def run(page: Path) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Return for each block of code what the page says that it prints and what it prints, and the names it leaves."""
    names: dict[str, Any] = {"__name__": page.stem}
    pairs = []
    for match in BLOCK.finditer(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(match["code"], page.name, "exec"), names)
        lines = [line.rstrip() for line in printed.getvalue().strip("\n").splitlines()]
        pairs.append((match["output"] or "", "".join(f"{line}\n" for line in lines)))
    return pairs, names


def differences(expected: str, got: str, digits: float = 2e-3) -> list[str]:
    """Return the words and numbers that differ, numbers by more than a relative `digits`."""
    words = [NUMBER.sub("#", text).split() for text in (expected, got)]
    if words[0] != words[1]:
        return [f"expected {expected!r}, got {got!r}"]
    numbers = zip(NUMBER.findall(expected), NUMBER.findall(got), strict=True)
    return [f"{a} became {b}" for a, b in numbers if abs(float(a) - float(b)) > digits * abs(float(a))]


def write(page: Path) -> None:
    """Put what each block prints below it."""
    printed = iter([got for _, got in run(page)[0]])

    def with_output(match: re.Match[str]) -> str:
        got = next(printed)
        return f"```python\n{match['code']}```\n" + (f"\n```text\n{got}```\n" if got else "")

    page.write_text(BLOCK.sub(with_output, page.read_text()))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(Path(argument))
