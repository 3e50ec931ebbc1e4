"""Tests and intervals: exact null distributions, likelihood regions, bootstrap, degrees of freedom."""
