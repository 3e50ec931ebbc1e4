"""
Names inside calls, written as Python identifiers: columns and functions have two kinds, and neither hides the other.

formulaic evaluates calls as Python, in one namespace for columns, the caller's variables and functions. R has two: a
name before "(" is a function, whatever else is called that. Column names that Python cannot read, "yield" or "t/ha",
are identifiers, too, once they are escaped.
"""

import ast
import keyword
import re
from functools import lru_cache
from typing import Any

_COLUMN, _FUNCTION = "flmm_", "flmmcall_"
_ESCAPED = re.compile(r"\b(flmm_|flmmcall_)((?:[A-Za-z0-9]|__|_[0-9a-f]+_)+)")
NUMBER, LOGICAL = "+", "!"  # functions that make an operand a number, or a condition
_CONVERSION = re.compile(r"\bflmmcall_(?:_2b_|_21_)(?=\()")
_CHARACTER = re.compile(r"__|_([0-9a-f]+)_")


def column_identifier(name: str) -> str:
    """Return the identifier of a column."""
    return _COLUMN + _escape(name)


def function_identifier(name: str) -> str:
    """Return the identifier of a function."""
    return _FUNCTION + _escape(name)


def plain(text: str) -> str:
    """
    Return a text with names as the user wrote them; those that R would quote are in backticks.

    Of the conversions that `expression` puts around operands nothing is left but the parentheses that they need.
    """
    while marker := _CONVERSION.search(text):
        end = closing(text, marker.end())
        inner = text[marker.end() + 1 : end - 1]
        kept = f"({inner})" if _is_operation(inner) else inner
        text = text[: marker.start()] + kept + text[end:]
    return _ESCAPED.sub(lambda match: _readable(match[2]), text)


@lru_cache(maxsize=1000)  # thousands of columns of a factor have one name in them
def _readable(escaped: str) -> str:
    return plain_name(_unescape(escaped))


def plain_name(name: str) -> str:
    """Return a column as a formula names it, in backticks where it must be."""
    parts = name.lstrip(".").split(".")
    readable = all(part.isidentifier() or part.isdigit() for part in parts) and not parts[0].isdigit()
    return name if readable or keyword.iskeyword(name) else f"`{name}`"


def columns_in(identifiers: set[str]) -> set[str]:
    """Return the columns among identifiers, and names that were left as they were."""
    return {_unescape(name.removeprefix(_COLUMN)) if name.startswith(_COLUMN) else name for name in identifiers}


def names_of(terms: Any) -> set[str]:
    """Return what the terms of a formula of formulaic look up, columns inside calls by their identifiers."""
    return {name for term in terms for factor in term.factors for name in names_of_factor(factor)}


def names_of_factor(factor: Any) -> set[str]:
    """Return what a factor of a term looks up."""
    if factor.eval_method.value == "lookup":
        return {factor.expr}
    called = factor.eval_method.value == "python"
    return {kind + name for kind, name in _ESCAPED.findall(factor.expr) if called and kind == _COLUMN}


def calls_in(text: str) -> list[tuple[str, str]]:
    """Return the names of the functions that a text calls, and each call as the user wrote it."""
    found = [match for match in _ESCAPED.finditer(text) if match[1] == _FUNCTION]
    return [(_unescape(match[2]), plain(text[match.start() : closing(text, match.end())])) for match in found]


def closing(text: str, opening: int) -> int:
    """Return where the parenthesis that opens at a place has been closed; brackets in quotes are text."""
    depth = 0
    for match in re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`|[()]""").finditer(text, opening):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    return len(text)


def _escape(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", lambda match: "__" if match[0] == "_" else f"_{ord(match[0]):x}_", name)


def _unescape(text: str) -> str:
    return _CHARACTER.sub(lambda match: chr(int(match[1], 16)) if match[1] else "_", text)


def _is_operation(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return True
    return isinstance(tree, ast.BinOp | ast.Compare | ast.UnaryOp | ast.BoolOp | ast.IfExp | ast.Lambda)
