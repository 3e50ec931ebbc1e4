"""Known covariance matrices for the rows of the data, from what is known about how they are related."""

from pm_fastlmm.covariance.relationship import grouping, markers, pedigree, phylogeny

__all__ = ["grouping", "markers", "pedigree", "phylogeny"]
