"""Formulas as R and Python users write them, written as formulaic reads them."""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from formulaic.errors import FormulaicError
from formulaic.parser.algos.tokenize import tokenize

from pm_fastlmm.models.formulas.expression import as_python
from pm_fastlmm.models.formulas.names import plain

_SIGNS = set("+-*/:^~.|")


def tokens_of(formula: str, whole: str) -> list[Any]:
    """
    Return formulaic's tokens.

    Raises
    ------
    ValueError
        If quotes or parentheses do not close, or a sign of R stands outside of calls.
    """
    try:
        return list(tokenize(formula))
    except FormulaicError as error:
        advice = (
            " Arithmetic such as x %% 2 goes into a call, I(x %% 2)." if "%%" in formula or "%/%" in formula else ""
        )
        raise ValueError(f"formula {whole!r} cannot be read: {plain_error(error)}{advice}") from error


def source(text: str, token: Any) -> str:
    """Return a token as it stood in the formula; formulaic's tokens have lost their quotes."""
    opening = text[token.source_start]
    return str({"`": f"`{token.token}`", "{": f"{{{token.token}}}", "%": f"%{token.token}%"}.get(opening, token.token))


def without_packages(formula: str) -> str:
    """Return a formula with `ns(x)` for `splines::ns(x)`."""
    return re.sub(r"(?<![\w.])[A-Za-z][\w.]*:::?(?=[A-Za-z.][\w.]*\()", "", formula)


@lru_cache(maxsize=64)  # several functions ask for those of one formula
def sides(formula: str) -> tuple[str, str]:
    """Return what stands left and right of the "~" of a formula; the left is empty without one."""
    for token in tokens_of(formula, formula):
        if token.kind.value == "operator" and token.token.startswith("~"):
            return formula[: token.source_start].strip(), formula[token.source_start + 1 :].strip()
    return "", formula


def as_formulaic(formula: str, columns: Collection[str], whole: str) -> str:
    """
    Return a formula without random terms as formulaic reads it; names inside calls are identifiers (`names.plain`).

    Left of the "~" stands a response: a sum, difference or ratio there is arithmetic, and cbind(a, b) are two. To the
    right signs are those of Wilkinson and Rogers, and a %in% b is a:b. Calls are read by `expression.as_python`.

    Parameters
    ----------
    formula : str
    columns : collection of str
        Of the table.
    whole : str
        The formula to show in messages.

    Raises
    ------
    ValueError
        If R and Python read a call differently, or a sign means something inside calls only.
    """
    tokens = tokens_of(formula, whole)
    tilde = next((i for i, token in enumerate(tokens) if token.token.startswith("~")), -1)
    _refuse_arithmetic(tokens[tilde + 1 :], whole)
    left = _response(formula, tokens[:tilde], columns) if tilde > 0 else []
    return " ".join(left + [_written(formula, token, columns, whole) for token in tokens[max(tilde, 0) :]])


def _refuse_arithmetic(tokens: list[Any], whole: str) -> None:
    """Refuse numbers that multiply or divide terms: to R 1/x is an intercept alone, to formulaic x."""
    for k in range(1, len(tokens) - 1):
        before, sign, after = tokens[k - 1 : k + 2]
        power = k > 1 and tokens[k - 2].token in ("^", "**")  # (a + b)^2 / c
        if sign.token in ("*", "/") and (_is_number(after) or (_is_number(before) and not power)):
            text = f"{before.token}{sign.token}{after.token}"
            raise ValueError(
                f"formula {whole!r} has arithmetic among its terms, {text}: write it inside a call, I({text})."
            )


def _is_number(token: Any) -> bool:
    return bool(token.kind.value == "value" and token.token[0].isdigit())


def _response(formula: str, tokens: list[Any], columns: Collection[str]) -> list[str]:
    """Return what stands left of the "~": one response, or several joined by +."""
    text = formula[: tokens[-1].source_end + 1 + (formula[tokens[-1].source_start] in "`{")].strip()
    if bound := _bound(tokens):
        each = [_response(part, tokens_of(part, part), columns) for part in bound]
        return [token for part in each for token in ("+", *part)][1:]
    if _is_arithmetic(tokens):
        return [as_python(f"I({text})", columns)]
    return [_written(formula, token, columns, formula) for token in tokens]


def responses_of(left: str) -> list[str]:
    """
    Return the responses left of a "~", which + joins, or cbind.

    Examples
    --------
    >>> from pm_fastlmm.models.formulas.language import responses_of
    >>> (
    ...     responses_of("cbind(milk, log(fat))"),
    ...     responses_of("milk + fat"),
    ...     responses_of("milk - fat"),
    ... )
    (['milk', 'log(fat)'], ['milk', 'fat'], ['milk - fat'])
    """
    tokens = tokens_of(left, left)
    if bound := _bound(tokens):
        return bound
    if _is_arithmetic(tokens) or any(token.kind.value == "context" for token in tokens):
        return [left]
    return [source(left, token) for token in tokens if token.kind.value != "operator"]


def _bound(tokens: list[Any]) -> list[str]:
    """Return the arguments of cbind(a, b), none of anything else."""
    call = tokens[0].token if len(tokens) == 1 and tokens[0].kind.value == "python" else ""
    parts, depth = [""], 0
    for sign in call.removeprefix("cbind(")[:-1] if call.startswith("cbind(") else "":
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(sign, 0)
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _is_arithmetic(tokens: list[Any]) -> bool:
    """Return whether a response is calculated of columns, other than by a call."""
    signs = {sign for token in tokens if token.kind.value == "operator" for sign in token.token}
    return bool(signs - {"+"}) or any(token.kind.value == "value" for token in tokens)


def _written(formula: str, token: Any, columns: Collection[str], whole: str) -> str:
    text, kind = source(formula, token), token.kind.value
    if text == "%in%":
        return ":"
    if kind == "python":
        braces = text.startswith("{")
        python = as_python(text[1:-1] if braces else text, columns, python_only=braces)
        return f"{{{python}}}" if braces else python
    if kind == "operator" and not set(text) <= _SIGNS:
        hint = (
            "name the column alone, x instead of data$x" if text == "$" else "inside a call it is arithmetic, I(x > 1)"
        )
        if "!" in text:
            hint = "a condition is a term inside a call, I(!b)"
        raise ValueError(f"formula {whole!r} has {text!r} among its terms, which joins no terms: {hint}.")
    return text


def plain_error(error: Exception) -> str:
    """Return the text of an error without the terminal's colours, with names as the user wrote them."""
    return plain(re.sub(r"\x1b\[[0-9;]*m", "", str(error)))
