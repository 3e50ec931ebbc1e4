"""
What is said of files that are read and of people who are brought together: a line each, on the standard error.

The lines are messages of the logger "pm_fastlmm" at the level INFO, as PyMC's are of its own:
`logging.getLogger("pm_fastlmm").setLevel("WARNING")` keeps them back. A program that has set up logging has them where
its handlers write.
"""

import logging
import sys
from collections.abc import Mapping

_log = logging.getLogger("pm_fastlmm")


class _Printer(logging.Handler):
    """Write where nobody has set up logging, to what the standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.root.handlers:
            sys.stderr.write(f"{self.format(record)}\n")


if not _log.handlers:
    _log.addHandler(_Printer())
if _log.level == logging.NOTSET:
    _log.setLevel(logging.INFO)


def say(message: str) -> None:
    """Print a line of what was read, matched or left out."""
    _log.info(message)


def say_matched(what: str, matched: int, total: int, name: str) -> None:
    """Print how many of the labels of a known covariance occur in the data, unless it is all of them."""
    if matched < total:
        say(f"{what}: {matched} have records, {name} has {total}")


def counted(counts: Mapping[str, int]) -> str:
    """
    Return counts in words, those that are not 0.

    Examples
    --------
    >>> from pm_fastlmm.base.messages import counted
    >>> counted({"without genotypes": 3, "with missing values": 0, "left out": 1})
    'without genotypes 3, left out 1'
    """
    return ", ".join(f"{what} {count}" for what, count in counts.items() if count)
