"""Relationship matrices as labelled data frames that say how they were scaled."""

from typing import Any, Literal

import numpy as np
import pandas as pd

from pm_fastlmm.base.arrays import FloatArray
from pm_fastlmm.base.choices import require_choice
from pm_fastlmm.base.memory import require_memory

type Scale = Literal["none", "mean_diagonal"]


def require_dense(size: int) -> None:
    """Refuse a relationship matrix that does not fit in memory."""
    what = f"A relationship matrix of {size} individuals"
    require_memory(8.0 * size**2, what, "give ids, or Pedigree and Tree to known=, whose matrix is not formed.")


def scaled(matrix: FloatArray, ids: pd.Index, scale: Scale, **account: Any) -> pd.DataFrame:
    """Scale and label a relationship matrix, and give an account of it in ``attrs``."""
    require_choice("scale", scale, Scale)
    mean_diagonal = float(np.trace(matrix)) / len(matrix)
    if mean_diagonal == 0:
        raise ValueError("The relationship matrix is zero, got no variance in any row: check the input.")
    factor = 1.0 if scale == "none" else 1 / mean_diagonal
    K = pd.DataFrame(matrix if scale == "none" else factor * matrix, index=ids, columns=ids, copy=False)
    K.attrs.update(account, scale_factor=factor, mean_diagonal=factor * mean_diagonal)
    return K
