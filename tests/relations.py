"""Relations of each kind, with their dense covariance."""

import numpy as np
import pandas as pd

from pm_fastlmm import covariance as cov

LEVELS = ["a", "b", "c", "d"]


def _covariance():
    rng = np.random.default_rng(4)
    root = rng.normal(size=(4, 6))
    return pd.DataFrame(root @ root.T, LEVELS, LEVELS)


def pedigree():
    """With a selfed animal, an unknown parent, an inbred one, and a son before his mother."""
    return cov.Pedigree(["son", "dam", "selfed", "sib", "inbred"], ["bull", "bull", "dam", "bull", "bull"],
                        ["dam", "cow", "dam", None, "dam"])  # fmt: skip


def tree():
    return cov.Tree("(((e:0.5,f:0.2):1,(b:1,c:2):0.3):1,d:1.7,g:2);", root="base")


def precision():
    return cov.Precision(pd.DataFrame(np.linalg.inv(_covariance()), LEVELS, LEVELS))


def factor():
    return pd.DataFrame(np.random.default_rng(5).normal(size=(4, 2)), LEVELS)


def singular():
    W = factor()
    return W @ W.T


def dense(relation):
    """A of a relation, in the order of its labels."""
    return relation.dense(relation.labels).to_numpy() if isinstance(relation, cov.Precision) else relation.to_numpy()


GROUPS = ["y", "x", "y", "z"]
W = factor()
# name: (relation, W, A)
RELATIONS = {
    "pedigree": (pedigree(), None, dense(pedigree())),
    "tree": (tree(), None, dense(tree())),
    "precision": (precision(), None, _covariance().to_numpy()),
    "covariance": (_covariance(), None, _covariance().to_numpy()),
    "array": (_covariance().to_numpy(), None, _covariance().to_numpy()),
    "singular covariance": (singular(), None, dense(singular())),
    "factor": (None, W, W.to_numpy() @ W.to_numpy().T),
    "groups": (GROUPS, None, np.eye(3)),
}
REGULAR = [name for name in RELATIONS if name not in ("singular covariance", "factor")]
