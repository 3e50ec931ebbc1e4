"""The posterior of the variances of a fit, by quadrature on an interpolated likelihood."""
