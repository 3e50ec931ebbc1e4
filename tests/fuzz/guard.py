"""What the package may answer to any input: a result, or a ValueError or TypeError of its own with the reason."""

import re
import traceback
import warnings
from pathlib import Path

import pm_fastlmm as flmm

PACKAGE = str(Path(flmm.__file__).parent)


class Refused(Exception):
    """The package refused the input, with its reason."""


def guarded(function, *args, **kwargs):
    """
    Call a function of the package.

    A ValueError or TypeError that the package itself raises is `Refused`; one that comes from a library, any other
    exception and any warning but the package's own are violations.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(*args, **kwargs)
        except (ValueError, TypeError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            if not place.filename.startswith(PACKAGE):
                raise AssertionError(f"{type(error).__name__} of a library: {error}") from error
            if len(str(error).split()) < 6:
                raise AssertionError(f"a message without its reason: {error}") from error
            raise Refused(str(error)) from None
    for warning in caught:
        assert warning.category is UserWarning, f"{warning.category.__name__}: {warning.message} ({warning.filename})"
    return value


def short(error):
    """Return the kind of an error: the start of its text without the numbers."""
    return re.sub(r"[\d.]+(e[+-]\d+)?", "#", str(error).split(":")[0].split("(")[0])[:70]
