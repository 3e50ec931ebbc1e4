"""One kernel with a lengthscale: spectra at the nodes of an interpolation."""
