"""How much memory there is, before it is taken: an error instead of a killed process."""

import os

import numpy as np


def require_memory(needed: float, what: str, remedy: str) -> None:
    """
    Refuse work that this machine has not enough memory for.

    Raises
    ------
    ValueError
        If more bytes are needed than the machine has.
    """
    if needed > (there := physical_memory()):
        raise ValueError(f"{what} needs {needed / 1e9:.1f} GB, and this machine has {there / 1e9:.1f}: {remedy}")


def physical_memory() -> float:
    """Return the bytes of this machine's memory, infinity where it does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return float(np.inf)
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
