"""Small real data sets that ship with the package, with their sources."""

from importlib.resources import files

import numpy as np
import pandas as pd


def galton_families() -> pd.DataFrame:
    """
    Return Galton's family data: the heights of 934 children and their parents in 205 families, 1344 people.

    Returns
    -------
    DataFrame
        One row for each person, indexed by id ("001-father", "001-mother", "001-1" …), with columns family, father and
        mother (ids, None for the parents' own), sex, generation ("parent" or "child") and height in inches.

    Notes
    -----
    Francis Galton collected the heights for his 1886 paper "Regression towards mediocrity in hereditary stature",
    doi:10.2307/2841583; transcribed from his notebooks by J. A. Hanley (2004), "Transmuting" women into men,
    doi:10.1198/0003130042836. Public domain.

    Examples
    --------
    >>> from pm_fastlmm.datasets import galton_families
    >>> people = galton_families()
    >>> people.shape
    (1344, 6)
    >>> people.loc["001-1", ["father", "sex", "generation"]].tolist()
    ['001-father', 'male', 'child']
    """
    with files(__package__).joinpath("galton_families.csv").open() as file:
        raw = pd.read_csv(file, dtype={"family": str})
    family = raw["family"]
    children = pd.DataFrame(
        {
            "id": family + "-" + raw["childNum"].astype(str),
            "family": family,
            "father": family + "-father",
            "mother": family + "-mother",
            "sex": raw["gender"],
            "generation": "child",
            "height": raw["childHeight"],
        }
    )
    first = raw.drop_duplicates("family")
    parents = [
        pd.DataFrame(
            {
                "id": first["family"] + f"-{role}",
                "family": first["family"],
                "father": None,
                "mother": None,
                "sex": sex,
                "generation": "parent",
                "height": first[role].astype(np.float64),
            }
        )
        for role, sex in (("father", "male"), ("mother", "female"))
    ]
    return pd.concat([*parents, children]).set_index("id")
