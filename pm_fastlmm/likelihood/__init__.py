"""Likelihoods: one definition each, for NumPy and for PyTensor."""
