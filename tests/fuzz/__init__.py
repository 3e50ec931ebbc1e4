"""Hostile inputs of several kinds, and the promises that each result must keep; see `__main__`."""
