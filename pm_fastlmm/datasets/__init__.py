"""Small real data sets that ship with the package, with their sources."""

from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "anoles",
    "arabidopsis_lines",
    "cattle_herds",
    "dyestuff",
    "galton_families",
    "john_alpha",
    "penicillin",
    "sleepstudy",
]


def __dir__() -> list[str]:
    """Return the names of the data sets."""
    return [*__all__, "__doc__"]


def _table(name: str, **kwargs: Any) -> pd.DataFrame:
    with files(__package__).joinpath(f"{name}.csv").open() as file:
        table: pd.DataFrame = pd.read_csv(file, **kwargs)
    return table


def anoles() -> pd.DataFrame:
    """
    Return the body and thigh lengths of 100 species of Caribbean anoles (lizards), with their phylogeny.

    Returns
    -------
    DataFrame
        One row for each species, with columns log_length (natural log of the length from snout to vent, mm) and
        log_femur (of the femur). `attrs["newick"]` is the tree, of height 1, for `covariance.phylogeny`.

    Notes
    -----
    D. L. Mahler, L. J. Revell, R. E. Glor and J. B. Losos (2010), Ecological opportunity and the rate of morphological
    evolution in the diversification of Greater Antillean anoles, Evolution 64, doi:10.1111/j.1558-5646.2010.01026.x;
    the averages of species and the tree that phytools uses in its examples.

    Examples
    --------
    >>> from pm_fastlmm.covariance import phylogeny
    >>> from pm_fastlmm.datasets import anoles
    >>> species = anoles()
    >>> species.shape, phylogeny(species.attrs["newick"]).shape
    ((100, 2), (100, 100))
    """
    table = _table("anoles", index_col="species")
    table.attrs["newick"] = files(__package__).joinpath("anoles.nwk").read_text().strip()
    return table


def arabidopsis_lines() -> pd.DataFrame:
    """
    Return five metabolites and 117 markers of 162 inbred lines of Arabidopsis, from a cross of Ler with Cvi.

    Returns
    -------
    DataFrame
        One row for each line, indexed by "line1" …: C3 to C7, the peaks of the methylsulfinylalkyl glucosinolates with
        so many carbons (areas, none for four lines), then the markers by chromosome, "1:PVV4" …, copies of an allele of
        one parent, 0 or 2, NaN where they were not scored.

    Notes
    -----
    J. J. B. Keurentjes et al. (2006), The genetics of plant metabolism, Nature Genetics 38, doi:10.1038/ng1815; lines
    of C. Alonso-Blanco et al. (1998), The Plant Journal 14, 259-271; multitrait of the R package qtl, whose
    markers have errors that were put in.

    Examples
    --------
    >>> from pm_fastlmm.datasets import arabidopsis_lines
    >>> lines = arabidopsis_lines()
    >>> lines.shape, lines.filter(like=":").shape, lines["C4"].count().item()
    ((162, 122), (162, 117), 158)
    """
    return _table("arabidopsis_lines", index_col="line")


def cattle_herds() -> pd.DataFrame:
    """
    Return new cases of contagious pleuropneumonia in 15 herds of zebu cattle, by period.

    Returns
    -------
    DataFrame
        56 rows: herd ("1" to "15"), period ("1" to "4"), incidence (new cases) and size (of the herd at the beginning).

    Notes
    -----
    M. Lesnoff, G. Laval, P. Bonnet et al. (2004), Within-herd spread of contagious bovine pleuropneumonia in Ethiopian
    highlands, Preventive Veterinary Medicine 64, doi:10.1016/j.prevetmed.2004.03.005; cbpp of the R package lme4,
    `cbind(incidence, size - incidence) ~ period + (1 | herd)`.

    Examples
    --------
    >>> from pm_fastlmm.datasets import cattle_herds
    >>> cattle_herds().groupby("period")[["incidence", "size"]].sum().to_numpy().tolist()
    [[61, 278], [17, 212], [14, 197], [7, 155]]
    """
    return _table("cattle_herds", dtype={"herd": str, "period": str})


def dyestuff() -> pd.DataFrame:
    """
    Return the yield of dyestuff from six batches of an intermediate product, five samples of each.

    Returns
    -------
    DataFrame
        30 rows: Batch ("A" to "F") and Yield (grams of standard colour).

    Notes
    -----
    O. L. Davies and P. L. Goldsmith (1972), Statistical Methods in Research and Production, 4th edition, Oliver and
    Boyd, table 6.1. The smallest of lme4's data sets, `Yield ~ 1 + (1 | Batch)`.

    Examples
    --------
    >>> from pm_fastlmm.datasets import dyestuff
    >>> dyestuff().groupby("Batch")["Yield"].mean().tolist()
    [1505.0, 1528.0, 1564.0, 1498.0, 1600.0, 1470.0]
    """
    return _table("dyestuff")


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
    raw = _table("galton_families", dtype={"family": str})
    family = raw["family"]
    children = raw.assign(
        id=family + "-" + raw["childNum"].astype(str), father=family + "-father", mother=family + "-mother",
        sex=raw["gender"], generation="child", height=raw["childHeight"],
    )  # fmt: skip
    first = raw.drop_duplicates("family")
    parents = [
        first.assign(
            id=first["family"] + f"-{role}", father=None, mother=None, sex=sex, generation="parent",
            height=first[role].astype(np.float64),
        )
        for role, sex in (("father", "male"), ("mother", "female"))
    ]  # fmt: skip
    people = pd.concat([*parents, children]).set_index("id")
    return people[["family", "father", "mother", "sex", "generation", "height"]]


def john_alpha() -> pd.DataFrame:
    """
    Return an oats trial in an alpha design: 24 varieties, 3 replicates of 6 incomplete blocks of 4 plots.

    Returns
    -------
    DataFrame
        72 rows, indexed by plot: rep ("R1" …), block ("B1" … within its replicate), gen ("G01" …) and yield (tonnes per
        hectare).

    Notes
    -----
    J. A. John and E. R. Williams (1995), Cyclic and Computer Generated Designs, 2nd edition, Chapman and Hall, p. 146;
    john.alpha of the R package agridat. `yield ~ rep + (1 | gen) + (1 | rep:block)`.

    Examples
    --------
    >>> from pm_fastlmm.datasets import john_alpha
    >>> john_alpha().groupby("rep")["yield"].mean().round(2).tolist()
    [4.52, 4.82, 4.1]
    """
    return _table("john_alpha", index_col="plot")


def penicillin() -> pd.DataFrame:
    """
    Return the potency of six samples of penicillin on each of 24 plates: two crossed factors.

    Returns
    -------
    DataFrame
        144 rows: diameter (mm, of the zone without growth), plate ("a" to "x") and sample ("A" to "F").

    Notes
    -----
    O. L. Davies and P. L. Goldsmith (1972), Statistical Methods in Research and Production, 4th edition, Oliver and
    Boyd, table 6.6. `diameter ~ 1 + (1 | plate) + (1 | sample)`.

    Examples
    --------
    >>> from pm_fastlmm.datasets import penicillin
    >>> penicillin().nunique().tolist()
    [10, 24, 6]
    """
    return _table("penicillin")


def sleepstudy() -> pd.DataFrame:
    """
    Return reaction times of 18 people on ten days, with three hours of sleep a night from the third day on.

    Returns
    -------
    DataFrame
        180 rows: Reaction (milliseconds, the day's mean), Days (0 to 9) and Subject (text, "308" …).

    Notes
    -----
    G. Belenky and others (2003), Patterns of performance degradation and restoration during sleep restriction and
    subsequent recovery, doi:10.1046/j.1365-2869.2003.00337.x; a data set of lme4, `Reaction ~ Days + (Days | Subject)`.

    Examples
    --------
    >>> from pm_fastlmm.datasets import sleepstudy
    >>> sleepstudy().groupby("Days")["Reaction"].mean().round(1).tolist()
    [256.7, 264.5, 265.4, 283.0, 288.6, 308.5, 312.2, 318.8, 336.6, 350.9]
    """
    return _table("sleepstudy", dtype={"Subject": str})
