"""Fourier features of a stationary kernel: sums of the rows, no rows."""
