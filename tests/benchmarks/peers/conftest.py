"""These modules are run by `make peers`, in an environment that has the packages; pytest does not import them."""

collect_ignore_glob = ["*.py"]
