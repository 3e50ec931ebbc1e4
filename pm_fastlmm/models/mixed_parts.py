"""Parts of a random term: columns whose effects have one distribution, and the names of their variables."""

from typing import Any, NamedTuple

import numpy as np
import pymc as pm

from pm_fastlmm.models.correlated_terms import CorrelatedTerms
from pm_fastlmm.models.random_terms import RandomTerm


class Part(NamedTuple):
    """Columns whose effects have one distribution: correlated, or independent, as a vector if there are several."""

    suffix: str
    columns: tuple[int, ...]
    correlated: bool

    @property
    def priors(self) -> list[str]:
        """The names under which its priors may be given."""
        return [f"sigma_{self.suffix}"] + ([f"eta_{self.suffix}"] if self.correlated else [])

    @property
    def pairs(self) -> tuple[Any, Any]:
        """The columns of each pair of effects."""
        return np.triu_indices(len(self.columns), 1)

    def add_coords(self, random: RandomTerm | CorrelatedTerms) -> None:
        """Add the names of its columns to the model of the context, and of their pairs where these are correlated."""
        model, names = pm.modelcontext(None), [random.columns[j] for j in self.columns]
        model.add_coord(f"{self.suffix}_effects", names)
        if self.correlated:
            pairs = [f"{names[i]}, {names[j]}" for i, j in zip(*self.pairs, strict=True)]
            model.add_coord(f"{self.suffix}_pairs", pairs)


def parts_of(random: RandomTerm | CorrelatedTerms) -> list[Part]:
    """Return the parts of a term; several of which some are correlated are numbered."""
    ends = np.cumsum([len(part) for part in random.parts])
    columns = [tuple(range(end - len(part), end)) for part, end in zip(random.parts, ends.tolist(), strict=True)]
    if not random.correlated:
        return [Part(random.group, tuple(range(len(random.columns))), False)]
    if len(columns) == 1:
        return [Part(random.group, columns[0], True)]
    return [Part(f"{random.group}_{k}", part, len(part) > 1) for k, part in enumerate(columns, start=1)]
