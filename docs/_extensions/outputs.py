"""
What the code of a page prints stands below it, in a block of text: written by a command, checked by a test.

`python docs/_extensions/outputs.py docs/users/lme4.md …` runs the Python blocks of each page in their order and writes
what they print. `tests/test_site.py` runs them again and compares: words exactly, numbers to three digits, so that
another machine's rounding is no failure, and numbers that were sampled to their Monte Carlo error.
"""

import contextlib
import io
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", flags=re.DOTALL)
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code that was run: what the page says that it prints, and what it prints."""

    code: str
    expected: str
    got: str

    def differences(self) -> list[str]:
        """
        Return the words and numbers that differ.

        Numbers may differ by 0.2 %; those of a block that reads draws (`idata`) by 10 % and a unit of the last digit.
        """
        words = [NUMBER.sub("#", text).split() for text in (self.expected, self.got)]
        if words[0] != words[1]:
            return [f"expected {self.expected!r}, got {self.got!r}"]
        numbers = zip(NUMBER.findall(self.expected), NUMBER.findall(self.got), strict=True)
        return [f"{a} became {b}" for a, b in numbers if abs(float(a) - float(b)) > self._allowed(a)]

    def _allowed(self, number: str) -> float:
        if "idata" not in self.code:
            return 2e-3 * abs(float(number))
        return 0.1 * abs(float(number)) + 10.0 ** -len(number.partition(".")[2])


def run(page: Path) -> tuple[list[Block], dict[str, Any]]:
    """Run the blocks of a page in their order and return them, and the names that they leave."""
    names: dict[str, Any] = {"__name__": page.stem}
    blocks, text = [], page.read_text()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where a page may write its files
        for match in BLOCK.finditer(text):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(match["code"], page.name, "exec"), names)
            lines = [line.rstrip() for line in printed.getvalue().strip("\n").splitlines()]
            blocks.append(Block(match["code"], match["output"] or "", "".join(f"{line}\n" for line in lines)))
    return blocks, names


def write(page: Path) -> None:
    """Put what each block prints below it."""
    printed = iter([block.got for block in run(page)[0]])

    def with_output(match: re.Match[str]) -> str:
        got = next(printed)
        return f"```python\n{match['code']}```\n" + (f"\n```text\n{got}```\n" if got else "")

    page.write_text(BLOCK.sub(with_output, page.read_text()))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(Path(argument))
