"""Offsets of a formula: terms offset(x), a part of the mean without a coefficient."""

from collections.abc import Collection
from typing import Any

from pm_fastlmm.models.formulas.bars import cut
from pm_fastlmm.models.formulas.language import as_formulaic, source, tokens_of, without_packages


def split_offsets(formula: Any, columns: Collection[str]) -> tuple[Any, dict[str, str]]:
    """
    Return a formula without its terms offset(x), and of each, by its text x, the formula that formulaic reads.

    Raises
    ------
    ValueError
        If an offset is joined by another sign than +, or its inside cannot be read.
    """
    if not isinstance(formula, str) or "offset(" not in formula:
        return formula, {}
    plain = without_packages(formula)
    tokens = tokens_of(plain, formula)
    kept: list[Any] = []
    found: dict[str, str] = {}
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.kind.value != "python" or not token.token.startswith("offset("):
            kept.append(token)
            place += 1
            continue
        inside = token.token.removeprefix("offset(").removesuffix(")").strip()
        if not inside:
            raise ValueError(f"formula {formula!r} has an offset of nothing: offset(x) is a column or a call.")
        found[inside] = as_formulaic(f"0 + I({inside})", columns, formula)
        after = tokens[place + 1] if place + 1 < len(tokens) else None
        place += 1 + cut(formula, kept, kept[-1] if kept else None, after, "an offset")
    return " ".join(part if isinstance(part, str) else source(plain, part) for part in kept), found
