"""The root is the package `sparse_circuits`, and every folder with an __init__.py a part of it; pyproject.toml has the rest."""

from setuptools import find_packages, setup

setup(packages=["sparse_circuits", *(f"sparse_circuits.{name}" for name in find_packages(exclude=["build*", "tests*"]))])
