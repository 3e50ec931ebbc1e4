"""What a fit says of a quantity, by one name."""

import numpy as np


def quantity(fit, name):
    """Return the numbers of an attribute, or of a standard error "…_se"."""
    if name.endswith("_se") and name != "beta_se":
        return fit.standard_errors()[name.removesuffix("_se")]
    found = getattr(fit, name)
    if name == "beta_cov":
        return fit.blue_cov
    return found if np.ndim(found) == 0 else np.asarray(found)
