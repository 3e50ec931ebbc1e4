"""
The ids of people in files: FID and IID, of which the IID alone is an id wherever it says who somebody is.

Ids are text: 0001 and 1 are two people, who are told apart, and are refused where one file may have turned the one
into the other.
"""

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from pm_fastlmm.base.arrays import repeated, shown
from pm_fastlmm.base.choices import require_choice

type PeopleIds = Literal["iid", "fid:iid"]

SEPARATOR = ":"


def people_index(fid: Sequence[str] | None, iid: Sequence[str], ids: PeopleIds, what: str) -> pd.Index:
    """
    Return the ids of people: their IID, or FID:IID.

    Raises
    ------
    ValueError
        If an id is empty or occurs twice.
    """
    require_choice("ids", ids, PeopleIds)
    own = [str(name) for name in iid]
    if ids == "fid:iid":
        if fid is None:
            raise ValueError(f"{what} has no FID: ids='iid' are the ids that it has.")
        own = [f"{family}{SEPARATOR}{name}" for family, name in zip(fid, own, strict=True)]
    if empty := [k + 1 for k, name in enumerate(own) if not name]:
        raise ValueError(f"{what} has no id in row {shown(empty)}: each person needs one.")
    if twice := repeated(own):
        within = fid is not None and ids == "iid" and len(set(zip(fid, iid, strict=True))) == len(own)
        remedy = (
            "they are ids within families: ids='fid:iid' joins both, here and where the other files are read."
            if within
            else "each person needs an id of their own."
        )
        raise ValueError(f"{what} repeats the ids {shown(twice)}: {remedy}")
    return pd.Index(own, name="id", dtype=object)
