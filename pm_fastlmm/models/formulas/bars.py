"""Random terms in lme4's notation: `(x | g)` taken out of a formula, `/` and `||` expanded."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd
from formulaic import Formula
from formulaic.errors import FormulaicError

from pm_fastlmm.models.formulas.language import as_formulaic, plain_error, source, tokens_of, without_packages
from pm_fastlmm.models.formulas.refused import GROUPINGS, why_refused

_FACTOR = re.compile(r"(?:as\.)?factor\(\s*`?([^`()]+?)`?\s*\)")  # right of a bar: every column is a factor there


@dataclass(frozen=True, slots=True)
class RandomPart:
    """
    One random term (left | a:b), or several independent ones of the same factors for (left || a:b).

    Attributes
    ----------
    slopes : tuple of str
        Formulas of columns whose effects are correlated within each formula and independent between them.
    factors : tuple of str
        Columns of the table whose interaction groups the rows.
    shared : str or None
        The id g of (left |g| a): effects of terms that share it are correlated.
    """

    slopes: tuple[str, ...]
    factors: tuple[str, ...]
    shared: str | None = None

    @property
    def group(self) -> str:
        """The name of the grouping factor, "a:b"."""
        return ":".join(self.factors)


def split_formula(formula: Any, columns: Collection[str] | None = None) -> tuple[str, tuple[RandomPart, ...]]:
    """
    Return the formula without its random terms, and these with `/` and `||` expanded as lme4 does.

    (x | a/b) is (x | a) + (x | a:b), and (x + z || g) is (1 | g) + (0 + x | g) + (0 + z | g); the id of (x |g| a), as
    brms has it, stays with its term. With the columns of the table all parts come back as formulaic reads them
    (`language.as_formulaic`).

    Raises
    ------
    TypeError
        If it is a table.
    ValueError
        If the formula has no response, a random term is malformed, or a column whose name has blanks is not in quotes.
    """
    if isinstance(formula, pd.DataFrame):
        raise TypeError("the first argument is the formula, 'y ~ x1 + x2', the second the table.")
    if not isinstance(formula, str) or "~" not in formula or not formula.split("~")[0].strip():
        raise ValueError(f"formula must have a response and predictors, 'y ~ x1 + x2', got {formula!r}.")
    formula = without_packages(formula)
    _require_quoted(formula, () if columns is None else columns)
    tokens = tokens_of(formula, formula)
    kept: list[Any] = []
    random: list[RandomPart] = []
    position = 0
    while position < len(tokens):
        end = _closing(tokens, position) if tokens[position].token == "(" else position
        inside = tokens[position + 1 : end]
        if any(_is_bar(token) for token in inside):
            random += _read_random(formula, tokens[position], inside, tokens[end], columns)
            before = kept[-1] if kept else None
            after = tokens[end + 1] if end + 1 < len(tokens) else None
            position = end + 1 + cut(formula, kept, before, after, "a random term")
            continue
        if _is_bar(tokens[position]):
            raise ValueError(
                f"formula {formula!r} has a bar outside parentheses: write random terms as (x | group)"
                + ("; trials are given beside the formula, trials='n'." if "trials(" in formula else ".")
            )
        kept += tokens[position : end + 1]
        position = end + 1
    fixed = " ".join(token if isinstance(token, str) else source(formula, token) for token in kept)
    return fixed if columns is None else as_formulaic(fixed, columns, formula), tuple(random)


def read_bar(text: str, columns: Collection[str]) -> tuple[RandomPart, bool]:
    """
    Return a single bar "(x | g)" or "(x || g)", and whether its columns are correlated.

    Raises
    ------
    ValueError
        If it is not one bar in parentheses, or of one grouping factor.
    """
    tokens = tokens_of(text, text)
    bars = [token.token for token in tokens if _is_bar(token)]
    if not bars or tokens[0].token != "(" or _closing(tokens, 0) != len(tokens) - 1:
        raise ValueError(f"{text!r} is not one bar in parentheses: write it as (0 + trait | record).")
    parts = _read_random(text, tokens[0], tokens[1:-1], tokens[-1], columns)
    if parts[0].shared:
        raise ValueError(f"{text!r} has an id between two bars, which residuals have not: write one bar.")
    if len(parts) > 1:
        raise ValueError(f"{text!r} has several grouping factors, of a/b: name one, such as a:b.")
    return parts[0], bars == ["|"]


def _require_quoted(formula: str, columns: Collection[str]) -> None:
    """Refuse the name of a column that has blanks in it and no quotes around it: it would be two names."""
    for name in columns:
        blanks = isinstance(name, str) and re.fullmatch(r"\w+( +\w+)+", name)
        if blanks and re.search(rf"(?<![`\w]){re.escape(name)}(?![`\w])", formula):
            raise ValueError(f"formula {formula!r} has the column {name!r} without quotes: write `{name}`.")


def _is_bar(token: Any) -> bool:
    return token.kind.value == "operator" and token.token in ("|", "||")


def _closing(tokens: list[Any], start: int) -> int:
    """Return the place of the parenthesis that closes the one at `start`; the end if there is none."""
    depth = 0
    for place in range(start, len(tokens)):
        if tokens[place].kind.value == "context":
            depth += {"(": 1, ")": -1}.get(tokens[place].token, 0)
        if not depth:
            return place
    return len(tokens) - 1


def cut(formula: str, kept: list[Any], before: Any, after: Any, what: str) -> int:
    """Take the sign that joined a term out of what is kept; return how many tokens after it go, too."""
    first = before is None or isinstance(before, str) or before.token in ("~", "(")
    if not (first or before.token == "+") or (after is not None and after.token not in ("+", "-", ")")):
        raise ValueError(f"formula {formula!r} joins {what} by another sign than +: they can only be added.")
    if not first:
        kept.pop()
    elif after is None or after.token == ")":
        kept.append("1")
    elif after.token == "+":
        return 1
    return 0


def _read_random(
    formula: str, opening: Any, inside: list[Any], closing: Any, columns: Collection[str] | None
) -> list[RandomPart]:
    """Read one random term from its tokens."""
    bars = [i for i, token in enumerate(inside) if _is_bar(token)]
    text = formula[opening.source_start : closing.source_end + 1]
    between = inside[bars[0] + 1 : bars[-1]]
    shared: str | None = None
    if [inside[i].token for i in bars] == ["|", "|"] and [token.kind.value for token in between] == ["name"]:
        shared = between[0].token  # brms' (x |g| a)
    elif len(bars) > 1 or closing.token != ")":
        raise ValueError(f"formula {formula!r}: {text!r} is not a random term, which is (columns | grouping factor).")
    if any(token.token == "(" for token in inside[: bars[0]]) and _closing(inside, 0) > bars[0]:
        raise ValueError(f"formula {formula!r} has a random term inside other parentheses, {text!r}: write it apart.")
    bar = inside[bars[0]]
    left = formula[opening.source_end + 1 : bar.source_start].strip()
    if not left:
        raise ValueError(f"formula {formula!r}: {text!r} has nothing left of its bar: an intercept is (1 | group).")
    nested = _factors(formula, text, left, inside[bars[-1] + 1 :])
    if shared and len(nested) > 1:
        raise ValueError(
            f"formula {formula!r}: {text!r} has the id {shared!r}, and effects of a are not correlated with those of "
            "a:b in a/b: name one grouping factor in each term of an id."
        )
    if columns is not None:
        left = as_formulaic(left, columns, formula)
    if bar.token == "||":
        try:
            terms = [str(term) for term in Formula(left)]
        except (FormulaicError, TypeError) as error:
            raise ValueError(f"formula {formula!r} cannot be read: {plain_error(error)}") from error
        parts = tuple("1" if term == "1" else f"0 + {term}" for term in terms)
    else:
        parts = (left,)
    return [RandomPart(parts, factors, shared) for factors in nested]


def _factors(formula: str, text: str, left: str, tokens: list[Any]) -> list[tuple[str, ...]]:
    """Return the grouping factors right of the bar: ("a",), ("a", "b") for a/b, ("a", "b") for a:b."""
    nested: list[list[str]] = [[]]
    expect_name = True
    for token in tokens:
        factor = _FACTOR.fullmatch(token.token) if token.kind.value == "python" else None
        is_name = factor is not None or token.kind.value == "name"
        if is_name != expect_name or not (is_name or token.token in (":", "/")):
            break
        if is_name:
            nested[-1].append(token.token if factor is None else factor[1])
        elif token.token == "/":
            nested.append([])
        expect_name = not expect_name
    else:
        if not expect_name:
            return [tuple(name for part in nested[: k + 1] for name in part) for k in range(len(nested))]
    call = tokens[0].token if len(tokens) == 1 and tokens[0].kind.value == "python" else ""
    if call.split("(")[0] in GROUPINGS and (why := why_refused(call, left=left)):
        raise ValueError(f"formula {formula!r}: the grouping factor of {text!r} is {call}: {why}.")
    raise ValueError(
        f"formula {formula!r}: the grouping factor of {text!r} must be a column of the table, or columns joined by : "
        "and /; make any other one a column first."
    )
