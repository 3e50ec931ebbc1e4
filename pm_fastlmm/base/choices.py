"""Arguments that are one of a few words: their vocabularies, and the error for any other word."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAliasType, get_args

type Method = Literal["REML", "ML"]
type Negative = Literal["error", "zero"]  # what becomes of negative eigenvalues of a known covariance
type Missing = Literal["raise", "drop", "mean", "by_pattern", "no level"]  # each function says which of them it takes

OF_NEW_ROWS = {"given": "û", "population": "Xβ alone"}
OF_REPLICATES = {"new": "other u with the same covariance", "given": "û"}


def require_choice(name: str, value: Any, choices: TypeAliasType | Sequence[str] | Mapping[str, str]) -> None:
    """
    Raise a ValueError if an argument is none of the words that it may be.

    The choices are a literal type, the words, or a mapping from the words to what they mean.

    Examples
    --------
    >>> from pm_fastlmm.base.choices import require_choice
    >>> require_choice("effects", "old", {"given": "û", "population": "Xβ alone"})
    Traceback (most recent call last):
    ValueError: effects must be 'given' (û) or 'population' (Xβ alone), got 'old'.
    """
    words = get_args(choices.__value__) if isinstance(choices, TypeAliasType) else tuple(choices)
    if value in words:
        return
    *others, last = (f"{word!r} ({choices[word]})" if isinstance(choices, Mapping) else repr(word) for word in words)
    raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}.")
