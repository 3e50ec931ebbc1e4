"""What a fit says of a quantity, by one name."""

import numpy as np


def quantity(fit, name):
    """Return the numbers of an attribute, or of a standard error "…_se", without labels."""
    if name == "beta_cov":
        return fit.blue_cov
    error = name.endswith("_se") and name != "beta_se"
    found = fit.standard_errors()[name.removesuffix("_se")] if error else getattr(fit, name)
    return found if np.ndim(found) == 0 else np.asarray(found)
