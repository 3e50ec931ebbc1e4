"""Tables of numbers as people read them: all columns, each in digits that suit it; reports made of such tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype

_ROWS, _ENDS = 60, 10  # rows of a table that is shown whole, and of a longer one
_FORMATS = (
    dict.fromkeys(("corr", "reliability", "accuracy"), ".3f")
    | dict.fromkeys(("df", "df_den", "t", "F"), ".4g")
    | {"p_value": ".3g"}
)


class Table(pd.DataFrame):
    """
    A DataFrame that shows all of its columns, however wide the screen.

    The numbers themselves are not rounded. `attrs["blank"]` names the columns in which NaN means that there is nothing
    to say; elsewhere it is shown as "undefined". `attrs["above"]` and `attrs["below"]` are lines of text around it.

    Examples
    --------
    >>> from pm_fastlmm.base.tables import Table
    >>> table = Table(
    ...     {"estimate": [251.405105, 1 / 3], "df": [17.0, 4.5], "p_value": [1.17e-17, 0.0312]},
    ...     ["a", "b"],
    ... )
    >>> table
       estimate   df   p_value
    a   251.405   17  1.17e-17
    b  0.333333  4.5    0.0312
    """

    @property
    def _constructor(self) -> Any:
        return Table

    def _shown(self) -> pd.DataFrame:
        """Return the numbers as text."""
        blank = self.attrs.get("blank", ())

        def text(column: pd.Series) -> pd.Series:
            if not is_float_dtype(column.dtype):
                return column.astype(object).where(column.notna(), "").astype(str)
            digits, nothing = _FORMATS.get(str(column.name), ".6g"), "" if column.name in blank else "undefined"
            return column.map(lambda value: nothing if math.isnan(value) else format(value, digits)).astype(object)

        return pd.DataFrame(self).apply(text)

    def _cut(self) -> dict[str, Any]:
        """Return as text what is seen of the table, the first and the last of many rows, and how it is to be shown."""
        if len(self) <= _ROWS:
            return {"frame": self._shown()}
        return {"frame": pd.concat([self.head(_ENDS), self.tail(_ENDS)])._shown(), "max_rows": _ENDS, "min_rows": _ENDS}

    def __repr__(self) -> str:
        """Show all columns, and of many rows the first and the last."""
        options = self._cut()
        text = str(options.pop("frame").to_string(**options))
        lines = [text] if len(self) <= _ROWS else [text, f"[{len(self)} rows]"]
        return "\n".join([*self.attrs.get("above", ()), *lines, *self.attrs.get("below", ())])

    def _repr_html_(self) -> str:
        options = self._cut()
        page = str(options.pop("frame").to_html(border=0, **options))
        rows = [] if len(self) <= _ROWS else [f"{len(self)} rows"]
        above, below = self.attrs.get("above", ()), [*rows, *self.attrs.get("below", ())]
        return "".join([*map(_line, above), page, *map(_line, below)])

    def to_markdown(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        """Return the table in Markdown, numbers as they are shown; with arguments as pandas, which needs tabulate."""
        if args or kwargs:
            return str(super().to_markdown(*args, **kwargs))
        shown = self._shown()
        names = ["" if name is None else str(name) for name in shown.index.names]
        ruler = ["---"] * len(names) + ["---:"] * shown.shape[1]
        rows = [[*names, *shown.columns], ruler, *shown.reset_index().to_numpy()]
        lines = [f"| {' | '.join(str(cell).replace('|', '\\|') for cell in row)} |" for row in rows]
        above, below = ([line for text in self.attrs.get(key, ()) for line in (text, "")] for key in ("above", "below"))
        return "\n".join([*above, *lines, *["", *below][:-1]])


def _line(text: str) -> str:
    return f"<div>{escape(text)}</div>"


@dataclass(frozen=True, slots=True)
class Report:
    """
    What is read of a result: lines above, tables under their headings, lines below.

    Attributes
    ----------
    title : str
    parts : sequence of (str, DataFrame)
        Headings, empty for none, and tables.
    above, below : sequence of str
    """

    title: str
    parts: Sequence[tuple[str, Table]]
    below: Sequence[str] = ()
    above: Sequence[str] = ()

    def text(self) -> str:
        """Return it as plain text."""
        blocks = ["\n".join([self.title, *self.above])]
        blocks += [f"{heading}\n{frame!r}" if heading else repr(frame) for heading, frame in self.parts]
        spaced = "\n\n" if any(heading for heading, _ in self.parts) else "\n"
        return spaced.join([*blocks, "\n".join(self.below)] if self.below else blocks)

    def html(self) -> str:
        """Return it as HTML."""
        above, below = ("".join(map(_line, lines)) for lines in (self.above, self.below))
        tables = "".join(
            (f"<div><em>{escape(heading)}</em></div>" if heading else "") + frame._repr_html_()
            for heading, frame in self.parts
        )
        return f"<div><strong>{escape(self.title)}</strong>{above}{tables}{below}</div>"

    def markdown(self) -> str:
        """Return it as Markdown."""
        blocks = [f"**{self.title}**", *self.above]
        for heading, frame in self.parts:
            blocks += [f"*{heading}*", frame.to_markdown()] if heading else [frame.to_markdown()]
        return "\n\n".join([*blocks, *self.below]) + "\n"
