"""The toy engines register when they are imported, which the tests of this folder do, and no search for doctests."""

collect_ignore = ["contract.py", "toy_gaussian.py", "toy_counts.py"]
