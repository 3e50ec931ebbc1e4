"""What is shown: short lists of names, objects as small tables in notebooks, progress bars."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

_LISTED = 12


class Described:
    """An object that notebooks show as a small table of what it describes itself by."""

    __slots__ = ()

    @abstractmethod
    def _facts(self) -> Mapping[str, Any]:
        """Return what the table has: short values by what they are."""

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._facts())


def listed(names: Sequence[object], *, none: str = "none") -> str:
    """
    Return names separated by commas; of a long list its beginning, and how many more there are.

    Examples
    --------
    >>> from pm_fastlmm.base.display import listed
    >>> listed(["age", "sex"]), listed([]), listed(range(100))
    ('age, sex', 'none', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 88 more')
    """
    text = ", ".join(str(name) for name in names[:_LISTED]) or none
    return text if len(names) <= _LISTED else f"{text} and {len(names) - _LISTED} more"


def table(title: str, facts: Mapping[str, Any]) -> str:
    """Return a table of two columns as HTML."""
    rows = (
        f'<tr><th style="text-align: left">{escape(str(name))}</th>'
        f'<td style="text-align: left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f"<div><strong>{escape(title)}</strong><table><tbody>{''.join(rows)}</tbody></table></div>"


@contextmanager
def progress(description: str, total: int | None, *, show: bool) -> Iterator[Callable[[int, str], None]]:
    """Show a bar of rich, as PyMC's; the function that it gives takes what was done, and a text."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[note]}"), bars.TimeElapsedColumn(), bars.TimeRemainingColumn(),
    )  # fmt: skip
    with bars.Progress(*columns, disable=not show) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(done: int, note: str) -> None:
            bar.update(task, completed=done, note=note)

        yield advance


@contextmanager
def activity(description: str, *, show: bool, console: Any = None) -> Iterator[Callable[[str], None]]:
    """Show a spinner with what goes on, and nothing afterwards; the function that it gives takes what comes next."""
    if not show:
        yield lambda text: None
        return
    from rich import progress as bars

    columns = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.TimeElapsedColumn())
    with bars.Progress(*columns, console=console, transient=True) as spinner:
        task = spinner.add_task(description)
        yield lambda text: spinner.update(task, description=text)


def tracked(items: Any, description: str, *, show: bool) -> Iterator[Any]:
    """Pass items on, with a progress bar."""
    with progress(description, len(items), show=show) as advance:
        for done, item in enumerate(items, 1):
            yield item
            advance(done, "")
