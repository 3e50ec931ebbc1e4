"""Prints the packages of the dependency group "peers", one a line, to be installed one by one."""

import tomllib
from pathlib import Path

with (Path(__file__).parents[3] / "pyproject.toml").open("rb") as file:
    print("\n".join(tomllib.load(file)["dependency-groups"]["peers"]))
